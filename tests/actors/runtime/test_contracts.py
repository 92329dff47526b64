"""The ten contracts of docs/semantics.md, one test or two each, all in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

import pytest

from covey.actors.runtime import (
    Actor,
    AskTimeout,
    Down,
    Mailbox,
    MailboxFull,
    Message,
    Overflow,
    Pull,
    Reason,
    Rejected,
    RemoteError,
    Restart,
    Stopped,
    System,
    Unreachable,
    handles,
)
from covey.actors.runtime.testing import simulate


@dataclass(frozen=True, slots=True)
class Note(Message["Recorder", None]):
    text: str
    takes_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Work(Message["Recorder", str]):
    text: str
    takes_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Begin(Message["Recorder", None]):
    takes_s: float


@dataclass(frozen=True, slots=True)
class Fail(Message["Recorder", None]):
    text: str = "broken"


@dataclass(frozen=True, slots=True)
class Refuse(Message["Recorder", None]):
    pass


@dataclass(frozen=True, slots=True)
class Remember(Message["Recorder", int]):
    pass


@dataclass(frozen=True, slots=True)
class Remind(Message["Recorder", None]):
    after_s: float


@dataclass(frozen=True, slots=True)
class Count(Pull["Recorder", int]):
    upto: int


class Recorder(Actor):
    """Writes down all that happens to it; the list outlives a restart, its state does not."""

    def __init__(self, seen: list[str]) -> None:
        self.seen = seen
        self.calls = 0

    @handles
    async def note(self, message: Note) -> None:
        self.seen.append(f"+{message.text}")
        if message.takes_s:
            await asyncio.sleep(message.takes_s)
        self.seen.append(f"-{message.text}")

    @handles
    async def work(self, message: Work) -> str:
        self.calls += 1
        await self.note(Note(message.text, message.takes_s))
        return message.text

    @handles
    def begin(self, message: Begin) -> None:
        self.ctx.run(asyncio.sleep(message.takes_s, "done"), lambda result: Note(str(result)))

    @handles
    async def fail(self, message: Fail) -> None:
        raise RuntimeError(message.text)

    @handles
    def refuse(self, message: Refuse) -> None:
        raise Rejected("not-now", "ask again")

    @handles
    def remember(self, message: Remember) -> int:
        return self.calls

    @handles
    def remind(self, message: Remind) -> None:
        self.ctx.after(message.after_s, Note("timer"))

    @handles
    async def count(self, message: Count) -> AsyncIterator[int]:
        try:
            for number in range(message.upto):
                self.seen.append(f"send {number}")
                yield number
        finally:
            self.seen.append("closed")


@dataclass(frozen=True, slots=True)
class Watch(Message["Watcher", None]):
    address: str


class Watcher(Actor):
    def __init__(self, downs: list[Down]) -> None:
        self.downs = downs

    @handles
    def down(self, message: Down) -> None:
        self.downs.append(message)

    @handles
    def watch(self, message: Watch) -> None:
        self.ctx.watch(self.ctx.system.lookup(message.address, Actor))


# Contract 1 --------------------------------------------------------------------


def test_an_actor_handles_one_message_at_a_time() -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        async with System("s") as system:
            ref = await system.spawn(partial(Recorder, seen), name="a")
            await asyncio.gather(*(ref.ask(Work(name, takes_s=1.0)) for name in "abc"))
        return seen

    for seed in range(5):
        assert simulate(main, seed=seed) == ["+a", "-a", "+b", "-b", "+c", "-c"]


def test_a_child_task_runs_beside_the_handlers_and_its_result_comes_as_a_message() -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        async with System("s") as system:
            ref = await system.spawn(partial(Recorder, seen), name="a")
            await ref.tell(Begin(5.0))
            await ref.ask(Work("meanwhile"))
            await asyncio.sleep(6)
        return seen

    assert simulate(main) == ["+meanwhile", "-meanwhile", "+done", "-done"]


# Contract 2 --------------------------------------------------------------------


def test_messages_of_one_sender_arrive_in_order() -> None:
    async def main() -> None:
        seen: list[str] = []
        async with System("s") as system:
            ref = await system.spawn(partial(Recorder, seen), name="a", mailbox=Mailbox(4))

            async def sender(name: str) -> None:
                for number in range(20):
                    if number % 3:
                        await ref.tell(Note(f"{name}{number}", takes_s=0.01))
                    else:
                        await ref.ask(Work(f"{name}{number}", takes_s=0.01))

            await asyncio.gather(*(sender(name) for name in "abc"))
        begun = [entry[1:] for entry in seen if entry[0] == "+"]
        assert len(begun) == 60
        for name in "abc":
            numbers = [int(entry[1:]) for entry in begun if entry[0] == name]
            assert numbers == list(range(20))

    for seed in range(10):
        simulate(main, seed=seed)


def test_signals_of_the_runtime_overtake_messages() -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        async with System("s") as system:
            ref = await system.spawn(partial(Recorder, seen), name="a")
            await ref.tell(Remind(1.0))
            await ref.tell(Note("first", takes_s=2.0))
            await ref.tell(Note("second"))
            await asyncio.sleep(3)
        return seen

    assert simulate(main) == ["+first", "-first", "+timer", "-timer", "+second", "-second"]


# Contract 3 --------------------------------------------------------------------


def test_tell_waits_while_the_mailbox_is_full_and_loses_nothing() -> None:
    async def main() -> None:
        seen: list[str] = []
        loop = asyncio.get_running_loop()
        async with System("s") as system:
            ref = await system.spawn(partial(Recorder, seen), name="a", mailbox=Mailbox(2))
            for number in range(10):
                await ref.tell(Note(str(number), takes_s=1.0))
                assert system.statistics().actors[0].queued <= 2
            assert loop.time() >= 6.0  # the last of ten waited for room in a mailbox of two
        assert [entry for entry in seen if entry[0] == "-"] == [f"-{n}" for n in range(10)]

    simulate(main)


# Contract 4 --------------------------------------------------------------------


def test_an_ask_ends_in_exactly_one_way() -> None:
    async def main() -> None:
        seen: list[str] = []
        async with System("s") as system:
            ref = await system.spawn(partial(Recorder, seen), name="a", mailbox=Mailbox(1))
            assert await ref.ask(Work("fine")) == "fine"
            with pytest.raises(RemoteError, match="RuntimeError: broken") as failed:
                await ref.ask(Fail())
            assert isinstance(failed.value.__cause__, RuntimeError)
            with pytest.raises(Rejected, match="not-now"):
                await ref.ask(Refuse())
            with pytest.raises(AskTimeout):
                await ref.ask(Work("slow", takes_s=60), timeout=5)
            with pytest.raises(Unreachable):
                await system.lookup("elsewhere/a", Recorder).ask(Remember())
            await system.stop(ref)
            with pytest.raises(Stopped):
                await ref.ask(Remember())

    simulate(main)


def test_a_full_mailbox_that_rejects_refuses_an_ask() -> None:
    async def main() -> None:
        seen: list[str] = []
        mailbox = Mailbox(1, Overflow.REJECT)
        async with System("s") as system:
            ref = await system.spawn(partial(Recorder, seen), name="a", mailbox=mailbox)
            slow = ref.ask(Work("slow", takes_s=1))
            await asyncio.sleep(0.1)
            await ref.tell(Note("queued"))
            with pytest.raises(MailboxFull):
                await ref.ask(Remember())
            assert await slow == "slow"

    simulate(main)


def test_after_a_timeout_the_effect_is_unknown() -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        async with System("s") as system:
            ref = await system.spawn(partial(Recorder, seen), name="a")
            with pytest.raises(AskTimeout):
                await ref.ask(Work("half", takes_s=10), timeout=1)
        return seen

    assert simulate(main) == ["+half"]  # begun, and cancelled on the way


# Contract 5 --------------------------------------------------------------------


def test_a_message_past_its_deadline_is_not_handled() -> None:
    async def main() -> None:
        seen: list[str] = []
        async with System("s") as system:
            ref = await system.spawn(partial(Recorder, seen), name="a")
            slow = ref.ask(Work("slow", takes_s=10))
            with pytest.raises(AskTimeout):
                await ref.ask(Work("late"), timeout=5)
            await slow
            assert system.dead_letters.counts["asker gone"] == 1
        assert seen == ["+slow", "-slow"]

    simulate(main)


def test_a_message_whose_asker_has_gone_is_not_handled() -> None:
    async def main() -> None:
        seen: list[str] = []
        async with System("s") as system:
            ref = await system.spawn(partial(Recorder, seen), name="a")
            slow = ref.ask(Work("slow", takes_s=10))
            left = ref.ask(Work("left"))
            left.cancel()
            await slow
        assert seen == ["+slow", "-slow"]

    simulate(main)


# Contract 6 --------------------------------------------------------------------


def test_a_failed_handler_answers_its_asker_and_counts_against_the_budget() -> None:
    async def main() -> None:
        seen: list[str] = []
        async with System("s") as system:
            ref = await system.spawn(partial(Recorder, seen), name="a")
            for _ in range(2):
                with pytest.raises(RemoteError):
                    await ref.ask(Fail())
            assert await ref.ask(Remember()) == 0
            assert system.statistics().actors[0].failures == 2

    simulate(main)


def test_a_declared_rejection_does_not_count() -> None:
    async def main() -> None:
        seen: list[str] = []
        async with System("s") as system:
            ref = await system.spawn(partial(Recorder, seen), name="a", restart=Restart.never())
            await ref.ask(Work("one"))
            for _ in range(5):
                with pytest.raises(Rejected):
                    await ref.ask(Refuse())
            assert await ref.ask(Remember()) == 1  # its state is still there
            assert system.statistics().actors[0].failures == 0

    simulate(main)


# Contract 7 --------------------------------------------------------------------


def test_a_restart_keeps_address_mailbox_and_watchers_and_loses_state_and_timers() -> None:
    async def main() -> None:
        seen: list[str] = []
        downs: list[Down] = []
        async with System("s", seed=1) as system:
            ref = await system.spawn(partial(Recorder, seen), name="a")
            watcher = await system.spawn(partial(Watcher, downs), name="w")
            await watcher.ask(Watch("s/a"))
            await ref.ask(Work("before"))
            await ref.tell(Remind(3.0))
            await ref.tell(Fail())
            await ref.tell(Note("kept in the mailbox"))
            assert await ref.ask(Remember()) == 0
            await asyncio.sleep(10)
            assert "+timer" not in seen
            assert "+kept in the mailbox" in seen
            await system.stop(ref)
            await asyncio.sleep(0)
            assert [down.address for down in downs] == ["s/a"]

    simulate(main)


def test_the_backoff_doubles_with_jitter() -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        pauses: list[float] = []
        restart = Restart(limit=5, within=1e6, backoff=1.0, longest=8.0)
        async with System("s", seed=3) as system:
            ref = await system.spawn(partial(Recorder, []), name="a", restart=restart)
            for _ in range(5):
                with pytest.raises(RemoteError):
                    await ref.ask(Fail())
                began = loop.time()
                await ref.ask(Remember())
                pauses.append(loop.time() - began)
        return pauses

    pauses = simulate(main)
    for pause, longest in zip(pauses, (1, 2, 4, 8, 8), strict=True):
        assert longest / 2 <= pause <= longest + 1e-3
    assert len({round(pause % 0.5, 6) for pause in pauses}) > 1


# Contract 8 --------------------------------------------------------------------


def test_down_arrives_exactly_once_per_watch_also_if_the_target_is_gone() -> None:
    async def main() -> None:
        downs: list[Down] = []
        async with System("s") as system:
            watcher = await system.spawn(partial(Watcher, downs), name="w")
            ref = await system.spawn(partial(Recorder, []), name="a")
            await watcher.ask(Watch("s/a"))
            await watcher.ask(Watch("s/a"))  # watching twice is watching once
            await system.stop(ref)
            await asyncio.sleep(1)
            assert downs == [Down("s/a", Reason.STOPPED)]
            await watcher.ask(Watch("s/a"))
            await watcher.ask(Watch("s/never-was"))
            await asyncio.sleep(1)
            assert [down.address for down in downs] == ["s/a", "s/a", "s/never-was"]

    simulate(main)


# Contract 9 --------------------------------------------------------------------


def test_leaving_the_block_handles_what_was_accepted() -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        async with System("s") as system:
            ref = await system.spawn(partial(Recorder, seen), name="a")
            for number in range(3):
                await ref.tell(Note(str(number), takes_s=0.5))
        return seen

    assert simulate(main) == ["+0", "-0", "+1", "-1", "+2", "-2"]


def test_past_its_grace_a_system_cancels_and_reports_losses_and_leaves_no_task() -> None:
    async def main() -> None:
        seen: list[str] = []
        system = System("s", grace=2.0)
        async with system:
            ref = await system.spawn(partial(Recorder, seen), name="a")
            await ref.tell(Note("endless", takes_s=1e6))
            await ref.tell(Note("lost"))
            asked = ref.ask(Work("lost as well"))
        with pytest.raises(Stopped):
            await asked
        assert seen == ["+endless"]
        assert system.dead_letters.counts["actor stopped"] == 2
        assert asyncio.get_running_loop().time() < 10
        assert asyncio.all_tasks() == {asyncio.current_task()}

    simulate(main)


# Contract 10 -------------------------------------------------------------------


def test_a_producer_never_has_more_than_the_credit_unconsumed() -> None:
    async def main() -> None:
        seen: list[str] = []
        async with System("s") as system:
            ref = await system.spawn(partial(Recorder, seen), name="a")
            async with ref.stream(Count(50), credit=4) as parts:
                taken = 0
                async for part in parts:
                    assert part == taken
                    taken += 1
                    await asyncio.sleep(1)
                    # One more may be made and wait in the producer's hand.
                    assert len(seen) - taken <= 4 + 1
            assert taken == 50

    for seed in range(5):
        simulate(main, seed=seed)


def test_leaving_a_stream_cancels_its_producer() -> None:
    async def main() -> None:
        seen: list[str] = []
        async with System("s") as system:
            ref = await system.spawn(partial(Recorder, seen), name="a")
            async with ref.stream(Count(1000), credit=2) as parts:
                async for part in parts:
                    if part == 3:
                        break
            await asyncio.sleep(1)
            assert seen[-1] == "closed"
            assert system.statistics().actors[0].tasks == 0

    simulate(main)
