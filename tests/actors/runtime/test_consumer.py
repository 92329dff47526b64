"""A message taken from a mailbox: in turn, in time, and accounted for however it ends."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise

import pytest

from covey.actors.runtime import (
    Actor,
    AskTimeout,
    Event,
    Message,
    Pull,
    Ref,
    Rejected,
    RemoteError,
    Stopped,
    System,
    handles,
    runtime_messages,
)
from covey.actors.runtime.testing import EventHash, simulate
from covey.transport import Registry


@dataclass(frozen=True, slots=True)
class Note(Message["Worker", int]):
    number: int


@dataclass(frozen=True, slots=True)
class Hold(Message["Worker", None]):
    """Work for some seconds; `cancelled` says what is done about a cancellation."""

    seconds: float
    cancelled: str = "let out"


@dataclass(frozen=True, slots=True, weakref_slot=True)
class InSteps(Message["Worker", None]):
    """Wait so many times for so many seconds, and note each."""

    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Again(Message["Worker", None]):
    left: int


@dataclass(frozen=True, slots=True)
class Later(Message["Worker", None]):
    """Say `message` to yourself in a second."""

    message: Message[Worker, object]


@dataclass(frozen=True, slots=True)
class RunFor(Message["Worker", None]):
    seconds: float
    says: Note | None = None


@dataclass(frozen=True, slots=True)
class Quit(Message["Worker", None]):
    pass


@dataclass(frozen=True, slots=True)
class Numbers(Pull["Worker", int]):
    pass


@dataclass(frozen=True, slots=True)
class Age(Message["Worker", float]):
    pass


@dataclass(frozen=True, slots=True)
class Refuse(Message["Worker", None]):
    pass


@dataclass(frozen=True, slots=True)
class AskYourself(Message["Worker", None]):
    pass


@dataclass(frozen=True, slots=True)
class AwaitCancelled(Message["Worker", None]):
    pass


@dataclass(frozen=True, slots=True)
class Unregistered(Message["Worker", None], id=1299):
    pass


class Worker(Actor):
    def __init__(self) -> None:
        self.seen: list[int] = []
        self.asked: asyncio.Future[int] | None = None

    @handles
    def note(self, message: Note) -> int:
        self.seen.append(message.number)
        return message.number

    @handles
    async def hold(self, message: Hold) -> None:
        try:
            await asyncio.sleep(message.seconds)
        except asyncio.CancelledError:
            if message.cancelled == "let out":
                raise
            if message.cancelled == "failed at":
                raise ValueError("cannot clean up") from None

    @handles
    async def in_steps(self, message: InSteps) -> None:
        for number in range(message.steps):
            self.seen.append(number)
            await asyncio.sleep(message.seconds)

    @handles
    def again(self, message: Again) -> None:
        self.seen.append(message.left)
        if message.left:
            self.ctx.ref.tell(Again(message.left - 1))

    @handles
    def later(self, message: Later) -> None:
        self.ctx.after(1.0, message.message)

    @handles
    def run_for(self, message: RunFor) -> None:
        self.ctx.run(asyncio.sleep(message.seconds), lambda _: message.says)

    @handles
    def quit(self, message: Quit) -> None:
        self.ctx.stop()

    @handles
    async def numbers(self, message: Numbers) -> AsyncIterator[int]:
        yield 1

    @handles
    def age(self, message: Age) -> float:
        return self.ctx.system.statistics().actors[0].current_age_s

    @handles
    def refuse(self, message: Refuse) -> None:
        raise Rejected("not-now", "ask again")

    @handles
    def ask_yourself(self, message: AskYourself) -> None:
        self.asked = self.ctx.ref.ask(Note(1))

    @handles
    async def await_cancelled(self, message: AwaitCancelled) -> None:
        task = asyncio.ensure_future(asyncio.sleep(10))
        task.cancel()
        await task

    @handles
    def unregistered(self, message: Unregistered) -> None:
        self.seen.append(0)


def plain() -> System:
    return System("s")


def observed() -> System:
    return System("s", observer=EventHash())


def checked() -> System:
    return System("s", registry=Registry(*runtime_messages()), check_codec=True)


@dataclass
class Bench:
    """A system with one worker."""

    system: System
    worker: Worker
    ref: Ref[Worker]


@asynccontextmanager
async def at_work(make: Callable[[], System]) -> AsyncGenerator[Bench]:
    """A new system whose worker has nothing to do yet."""
    worker = Worker()
    async with make() as system:
        lives = iter([worker])  # another life begins anew
        ref = await system.spawn(lambda: next(lives, None) or Worker(), name="w")
        yield Bench(system, worker, ref)


every_system = pytest.mark.parametrize("make", [plain, observed, checked])


def test_an_actor_that_never_waits_lets_others_run_after_512_messages() -> None:
    async def main() -> None:
        worker, turns = Worker(), [0]
        async with System("s") as system:
            ref = await system.spawn(lambda: worker, name="w")
            ref.tell(Again(3000))
            while len(worker.seen) < 3000:
                await asyncio.sleep(0)
                turns.append(len(worker.seen))
            assert max(after - before for before, after in pairwise(turns)) <= 512

    asyncio.run(main())  # whose turns are in order


@pytest.mark.parametrize("make", [plain, checked])
def test_an_idle_actor_answers_before_its_asker_goes_on(make: Callable[[], System]) -> None:
    async def main() -> None:
        async with at_work(make) as bench:
            await bench.ref.ask(Note(1))
            await asyncio.sleep(0.1)
            assert bench.ref.ask(Note(2)).done()

    simulate(main)


@every_system
def test_an_ask_does_not_push_an_actor_at_work(make: Callable[[], System]) -> None:
    async def main() -> None:
        async with at_work(make) as bench:
            await bench.ref.ask(Note(1))
            bench.ref.tell(InSteps(100, 0.0))
            for _ in range(20):
                await asyncio.sleep(0)
            assert 1 < len(bench.worker.seen) < 100
            before = list(bench.worker.seen)
            answer = bench.ref.ask(Note(2))
            assert bench.worker.seen == before
            assert await answer == 2

    simulate(main)


@every_system
def test_an_idle_actor_keeps_no_message(make: Callable[[], System]) -> None:
    async def main() -> None:
        async with at_work(make) as bench:
            for seconds in (0.0, 1.0):
                message = InSteps(1, seconds)
                kept = weakref.ref(message)
                await bench.ref.ask(message)
                del message
                await asyncio.sleep(1)
                gc.collect()
                assert kept() is None

    simulate(main)


@every_system
def test_an_actor_that_is_draining_and_has_nothing_to_do_takes_nothing(
    make: Callable[[], System],
) -> None:
    async def main() -> None:
        async with at_work(make) as bench:
            await bench.ref.ask(RunFor(5.0, Note(0)))
            bench.system.cells["w"].drain()
            await asyncio.sleep(1)
            with pytest.raises(Stopped):
                await bench.ref.ask(Note(1))
        assert bench.worker.seen == [0]  # what its task had to say

    simulate(main)


@every_system
def test_a_drain_ends_with_the_last_child_task_though_it_has_nothing_to_say(
    make: Callable[[], System],
) -> None:
    async def main() -> float:
        async with at_work(make) as bench:
            await bench.ref.ask(RunFor(2.0))
        return asyncio.get_running_loop().time()

    assert simulate(main) == 2.0


@every_system
def test_a_stream_whose_actor_ends_before_its_first_part_ends_too(
    make: Callable[[], System],
) -> None:
    async def main() -> None:
        async def read(ref: Ref[Worker]) -> None:
            async with ref.stream(Numbers()) as numbers:
                async for _ in numbers:
                    pass

        async with at_work(make) as bench:
            bench.ref.tell(Hold(1.0))
            await asyncio.sleep(0.1)
            reading = asyncio.ensure_future(read(bench.ref))
            await asyncio.sleep(0.1)
            bench.ref.tell(Quit())
            with pytest.raises(Stopped):
                await reading

    simulate(main)


@every_system
def test_a_message_whose_deadline_is_now_is_not_handled(make: Callable[[], System]) -> None:
    async def main() -> None:
        worker = Worker()
        async with make() as system:
            other = await system.spawn(Worker, name="other")
            ref = await system.spawn(lambda: worker, name="w")
            ref.tell(Hold(2.0))
            # Deadlines are looked at just before, and then not for 0.02 seconds.
            early, late = other.ask(Hold(9.0), timeout=1.99), ref.ask(Note(1), timeout=2.0)
            for ask in (early, late):
                with pytest.raises(AskTimeout):
                    await ask
            assert worker.seen == []
            assert system.dead_letters.counts["deadline passed"] == 1

    simulate(main)


@every_system
def test_an_ask_without_any_time_is_not_handled_after_another_message(
    make: Callable[[], System],
) -> None:
    async def main() -> None:
        async with at_work(make) as bench:
            await bench.ref.ask(Hold(1.0))
            await asyncio.sleep(5)
            bench.ref.tell(Note(1))
            with pytest.raises(AskTimeout):
                await bench.ref.ask(Note(2), timeout=0.0)
            assert bench.worker.seen == [1]

    simulate(main)


@every_system
@pytest.mark.parametrize("cancelled", ["let out", "swallowed", "failed at"])
def test_after_a_withdrawn_request_other_cancellations_are_failures_as_before(
    make: Callable[[], System], cancelled: str
) -> None:
    async def main() -> None:
        async with at_work(make) as bench:
            asked = bench.ref.ask(Hold(100.0, cancelled))
            await asyncio.sleep(1)
            asked.cancel()
            await asyncio.sleep(1)
            before = bench.system.statistics().actors[0].restarts
            assert before == (cancelled == "failed at")
            with pytest.raises(RemoteError, match="Interrupted"):
                await bench.ref.ask(AwaitCancelled())
            assert await bench.ref.ask(Note(1)) == 1
            assert bench.system.statistics().actors[0].restarts == before + 1

    simulate(main)


def test_the_cancellation_that_a_handler_let_out_is_told_as_the_cause() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(Worker, name="w")
            with pytest.raises(RemoteError) as failed:
                await ref.ask(AwaitCancelled())
            interrupted = failed.value.__cause__
            assert interrupted is not None
            assert isinstance(interrupted.__cause__, asyncio.CancelledError)

    simulate(main)


@every_system
def test_a_rejection_that_nobody_waits_for_is_a_dead_letter(make: Callable[[], System]) -> None:
    async def main() -> None:
        async with at_work(make) as bench:
            with pytest.raises(Rejected):
                await bench.ref.ask(Refuse())
            assert bench.system.dead_letters.counts == {}
            await bench.ref.tell(Refuse())
            await asyncio.sleep(1)
            assert bench.system.dead_letters.counts == {"rejected: not-now": 1}

    simulate(main)


@every_system
def test_messages_told_and_asked_are_counted(make: Callable[[], System]) -> None:
    async def main() -> None:
        async with at_work(make) as bench:
            for number in range(3):
                bench.ref.tell(Note(number))
            await bench.ref.ask(Note(3))
            assert bench.system.statistics().actors[0].handled == 4

    simulate(main)


@every_system
def test_a_handler_that_cannot_wait_may_ask_its_own_actor(make: Callable[[], System]) -> None:
    async def main() -> None:
        async with at_work(make) as bench:
            await bench.ref.ask(AskYourself())
            assert bench.worker.asked is not None
            assert await bench.worker.asked == 1

    simulate(main)


@every_system
def test_a_message_that_has_not_waited_has_no_age(make: Callable[[], System]) -> None:
    async def main() -> None:
        async with make() as system:
            await asyncio.sleep(100)
            ref = await system.spawn(Worker, name="w")
            for _ in range(2):  # the actor's first message, and one on its asker's stack
                assert await ref.ask(Age()) == 0.0
                await asyncio.sleep(100)

    simulate(main)


@every_system
def test_the_age_of_a_message_counts_from_its_first_wait(make: Callable[[], System]) -> None:
    async def main() -> None:
        async with at_work(make) as bench:
            bench.ref.tell(InSteps(3, 1.0))
            await asyncio.sleep(2.5)
            assert bench.system.statistics().actors[0].current_age_s == 2.5

    simulate(main)


@every_system
def test_what_a_timer_has_brought_is_seen_at_work(make: Callable[[], System]) -> None:
    async def main() -> None:
        async with at_work(make) as bench:
            await bench.ref.ask(Later(Hold(10.0)))
            await asyncio.sleep(4)
            actor = bench.system.statistics().actors[0]
            assert (actor.current, actor.current_age_s) == ("Hold", 3.0)
            await asyncio.sleep(10)
            actor = bench.system.statistics().actors[0]
            assert (actor.current, actor.current_age_s) == (None, 0.0)

    simulate(main)


def test_what_a_timer_has_brought_is_observed_from_its_coming_to_its_end() -> None:
    async def main() -> list[Event]:
        events: list[Event] = []
        async with System("s", observer=events.append) as system:
            ref = await system.spawn(Worker, name="w")
            await ref.ask(Later(Note(1)))
            await asyncio.sleep(2)
        return [event for event in events if event.message == "Note"]

    events = simulate(main)
    assert [(event.stage, event.time) for event in events] == [
        ("enqueue", 1.0),
        ("start", 1.0),
        ("end", 1.0),
    ]


def test_what_an_actor_says_to_itself_by_a_timer_need_not_be_registered() -> None:
    async def main() -> None:
        worker = Worker()
        registry = Registry(*runtime_messages())
        system = System("s", registry=registry, check_codec=True, observer=EventHash())
        async with system:
            ref = await system.spawn(lambda: worker, name="w")
            await ref.ask(Later(Unregistered()))
            await asyncio.sleep(2)
        assert worker.seen == [0]

    simulate(main)
