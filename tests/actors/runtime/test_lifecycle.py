"""Timers, drain, cancellation of a system, and what a crash leaves behind."""

# ruff: noqa: PT012  # a block is what raises

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

import pytest

from covey.actors.runtime import Actor, Message, Restart, Stopped, System, handles
from covey.actors.runtime.testing import simulate


@dataclass(frozen=True, slots=True)
class Tick(Message["Clock", None]):
    name: str = "tick"
    takes_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Every(Message["Clock", None]):
    period_s: float
    takes_s: float = 0.0


@dataclass(frozen=True, slots=True)
class After(Message["Clock", None]):
    delay_s: float
    name: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Cancel(Message["Clock", None]):
    key: str


@dataclass(frozen=True, slots=True)
class Fail(Message["Clock", None]):
    pass


@dataclass(frozen=True, slots=True)
class Tell(Message["Clock", None]):
    to: str


@dataclass(frozen=True, slots=True)
class Quit(Message["Clock", None]):
    pass


@dataclass(frozen=True, slots=True)
class Stubborn(Message["Clock", None]):
    pass


@dataclass(frozen=True, slots=True)
class RunForever(Message["Clock", None]):
    pass


class Clock(Actor):
    def __init__(self, seen: list[tuple[str, float]]) -> None:
        self.seen = seen

    @handles
    async def tick(self, message: Tick) -> None:
        self.seen.append((message.name, round(self.ctx.now, 3)))
        if message.takes_s:
            await asyncio.sleep(message.takes_s)

    @handles
    def every(self, message: Every) -> None:
        self.ctx.every(message.period_s, Tick("every", message.takes_s))

    @handles
    def after(self, message: After) -> None:
        self.ctx.after(message.delay_s, Tick(message.name), key=message.key)

    @handles
    def cancel(self, message: Cancel) -> None:
        self.ctx.cancel_timer(message.key)

    @handles
    def fail(self, message: Fail) -> None:
        raise RuntimeError

    @handles
    async def tell(self, message: Tell) -> None:
        await self.ctx.system.lookup(message.to, Clock).tell(Tick("told"))

    @handles
    def quit(self, message: Quit) -> None:
        self.ctx.stop()

    @handles
    async def stubborn(self, message: Stubborn) -> None:
        try:
            await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            self.seen.append(("ignored", 0.0))

    @handles
    def run_forever(self, message: RunForever) -> None:
        self.ctx.run(asyncio.sleep(1e9), lambda result: Tick("finished"))

    async def stopping(self, reason: str) -> None:
        self.seen.append((f"stopping: {reason}", round(self.ctx.now, 3)))


Seen = list[tuple[str, float]]


def test_a_periodic_timer_does_not_drift() -> None:
    async def main() -> Seen:
        seen: Seen = []
        async with System("s") as system:
            ref = await system.spawn(partial(Clock, seen), name="c")
            await ref.tell(Every(1.0))
            await asyncio.sleep(4.5)
        return [entry for entry in seen if entry[0] == "every"]

    assert simulate(main) == [("every", float(second)) for second in (1, 2, 3, 4)]


def test_a_loop_that_was_held_up_makes_up_with_one_message() -> None:
    async def main() -> None:
        seen: Seen = []
        async with System("s") as system:
            ref = await system.spawn(partial(Clock, seen), name="c")
            await ref.tell(Every(1.0))
            await asyncio.sleep(1.5)
            loop = asyncio.get_running_loop()
            loop._now += 10.0  # type: ignore[attr-defined]  # pyright: ignore
            await asyncio.sleep(1.0)
        assert [when for name, when in seen if name == "every"] == [1.0, 11.5, 12.0]

    simulate(main)


def test_a_timer_of_the_same_key_is_replaced_and_can_be_cancelled() -> None:
    async def main() -> Seen:
        seen: Seen = []
        async with System("s") as system:
            ref = await system.spawn(partial(Clock, seen), name="c")
            await ref.tell(After(1, "replaced"))
            await ref.tell(After(2, "kept"))
            await ref.tell(After(2, "other", key="other"))
            await ref.tell(After(1, "cancelled", key="gone"))
            await ref.tell(Cancel("gone"))
            await ref.tell(Cancel("never was"))
            await asyncio.sleep(3)
        return sorted(entry for entry in seen if not entry[0].startswith("stopping"))

    assert simulate(main) == [("kept", 2.0), ("other", 2.0)]


def test_timers_and_child_tasks_end_with_a_life() -> None:
    async def main() -> None:
        seen: Seen = []
        async with System("s") as system:
            ref = await system.spawn(partial(Clock, seen), name="c")
            await ref.tell(After(5, "lost"))
            await ref.tell(RunForever())
            await ref.tell(Fail())
            await asyncio.sleep(10)
            assert system.statistics().actors[0].tasks == 0
        assert [name for name, _ in seen] == ["stopping: failed", "stopping: stopped"]

    simulate(main)


def test_a_period_is_positive() -> None:
    class Wrong(Actor):
        async def started(self) -> None:
            self.ctx.every(0, Tick())

    async def main() -> None:
        async with System("s") as system:
            with pytest.raises(ValueError, match="period"):
                await system.spawn(Wrong, name="w")

    simulate(main)


def test_an_actor_may_stop_itself() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(partial(Clock, []), name="c")
            await ref.tell(Quit())
            await ref.tell(Tick())
            await asyncio.sleep(1)
            assert system.statistics().actors == ()
            assert system.dead_letters.counts == {"actor stopped": 1}
            with pytest.raises(Stopped):
                await ref.tell(Tick())

    simulate(main)


def test_drain_goes_from_the_last_started_to_the_first() -> None:
    async def main() -> None:
        seen: Seen = []
        async with System("s") as system:
            first = await system.spawn(partial(Clock, seen), name="first")
            second = await system.spawn(partial(Clock, seen), name="second")
            await first.tell(Tick("first", takes_s=1))
            await second.tell(Tick("second", takes_s=1))
            await second.tell(Tell("s/first"))  # the first still takes messages then
        names = [name for name, _ in seen]
        assert names.count("told") == 1

    for seed in range(5):
        simulate(main, seed=seed)


def test_a_draining_system_takes_nothing_new() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(partial(Clock, []), name="c")
            await ref.tell(Tick(takes_s=3))
            closing = asyncio.ensure_future(system.drain())
            await asyncio.sleep(1)
            with pytest.raises(Stopped):
                await ref.tell(Tick())
            with pytest.raises(Stopped):
                await ref.ask(Tick())
            with pytest.raises(Stopped):
                await system.spawn(partial(Clock, []), name="d")
            await closing
            assert asyncio.get_running_loop().time() == pytest.approx(3)

    simulate(main)


def test_a_handler_that_swallows_one_cancellation_still_ends() -> None:
    async def main() -> float:
        seen: Seen = []
        async with System("s", grace=1) as system:
            ref = await system.spawn(partial(Clock, seen), name="c")
            await ref.tell(Stubborn())
        assert ("ignored", 0.0) in seen
        return asyncio.get_running_loop().time()

    assert simulate(main) < 5


def test_a_cancelled_drain_cancels_everything_before_it_goes_on() -> None:
    async def main() -> None:
        system = System("s", grace=1000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5), system:
                for name in ("a", "b"):
                    ref = await system.spawn(partial(Clock, []), name=name)
                    await ref.tell(Tick(takes_s=1e6))
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert system.statistics().actors == ()
        assert asyncio.get_running_loop().time() < 10

    simulate(main)


def test_an_error_in_the_block_is_the_one_that_is_raised() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(partial(Clock, []), name="c", restart=Restart.never())
            await ref.tell(Fail())
            await asyncio.sleep(1)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        simulate(main)


def test_a_crash_runs_no_hook_and_leaves_no_task() -> None:
    async def main() -> None:
        seen: Seen = []
        async with System("s") as system:
            ref = await system.spawn(partial(Clock, seen), name="c")
            await system.spawn(partial(Clock, seen), name="unstarted")
            await ref.tell(Tick("begun", takes_s=100))
            asked = ref.ask(Tick("queued"))
            await asyncio.sleep(1)
            await system.spawn(partial(Clock, seen), name="late")
            await system.abort()
            with pytest.raises(Stopped):
                await asked
            assert asyncio.all_tasks() == {asyncio.current_task()}
        assert [name for name, _ in seen] == ["begun"]

    simulate(main)


def test_a_spawn_that_is_cancelled_ends_the_actor() -> None:
    class Slow(Actor):
        async def started(self) -> None:
            await asyncio.sleep(1000)

    async def main() -> None:
        async with System("s") as system:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(system.spawn(Slow, name="slow"), 1)
            await asyncio.sleep(1)
            assert system.statistics().actors == ()

    simulate(main)


class Hopeful(Actor):
    """Awaits what somebody else cancels."""

    def __init__(self, results: asyncio.Queue[object]) -> None:
        self._results = results

    async def started(self) -> None:
        awaited = asyncio.get_running_loop().create_future()
        self.ctx.run(awaited, self._results.put_nowait)
        self.ctx.system.loop.call_soon(awaited.cancel)


def test_work_that_is_cancelled_from_inside_is_told_of() -> None:
    async def main() -> None:
        async with System("s") as system:
            results: asyncio.Queue[object] = asyncio.Queue()
            await system.spawn(lambda: Hopeful(results), name="hopeful")
            result = await asyncio.wait_for(results.get(), 10)
            assert isinstance(result, RuntimeError)
            assert "cancelled from inside" in str(result)

    simulate(main)
