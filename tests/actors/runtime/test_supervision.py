"""Restarts, budgets, escalation, death watch in one system, and the ends of children."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest

from covey.actors.runtime import (
    Actor,
    ActorFailed,
    Down,
    Message,
    Reason,
    RemoteError,
    Restart,
    Stopped,
    System,
    handles,
)
from covey.actors.runtime.supervision import Budget
from covey.actors.runtime.testing import simulate


@dataclass(frozen=True, slots=True)
class Crash(Message["Child", None]):
    pass


@dataclass(frozen=True, slots=True)
class Ping(Message["Child", int]):
    pass


@dataclass(frozen=True, slots=True)
class SpawnChild(Message["Parent", None]):
    name: str
    limit: int = 0
    watched: bool = False


@dataclass(frozen=True, slots=True)
class CrashTask(Message["Parent", None]):
    pass


@dataclass(frozen=True, slots=True)
class Sleep(Message["Parent", None]):
    seconds: float


class Child(Actor):
    """Says which life it is in."""

    def __init__(self, log: list[str], fail_starts: list[int] | None = None) -> None:
        self.log = log
        self.fail_starts = fail_starts if fail_starts is not None else []

    async def started(self) -> None:
        self.log.append(f"start {self.ctx.address.name}")
        if self.fail_starts and self.fail_starts.pop(0):
            raise OSError("cannot start")

    async def stopping(self, reason: str) -> None:
        self.log.append(f"stop {self.ctx.address.name}: {reason}")

    @handles
    def crash(self, message: Crash) -> None:
        raise RuntimeError("crashed")

    @handles
    async def ping(self, message: Ping) -> int:
        await asyncio.sleep(0)
        return len(self.log)


class Parent(Actor):
    def __init__(self, log: list[str], downs: list[Down]) -> None:
        self.log = log
        self.downs = downs

    async def stopping(self, reason: str) -> None:
        self.log.append(f"stop {self.ctx.address.name}: {reason}")

    @handles
    async def spawn_child(self, message: SpawnChild) -> None:
        restart = Restart(limit=message.limit)
        child = await self.ctx.spawn(partial(Child, self.log), name=message.name, restart=restart)
        if message.watched:
            self.ctx.watch(child)

    @handles
    def crash_task(self, message: CrashTask) -> None:
        async def work() -> None:
            raise RuntimeError("a task failed")

        def then(result: object) -> None:
            raise TypeError("and nobody could tell")

        self.ctx.run(work(), then)

    @handles
    async def sleep(self, message: Sleep) -> None:
        await asyncio.sleep(message.seconds)

    @handles
    def down(self, message: Down) -> None:
        self.downs.append(message)


def test_a_budget_counts_failures_within_its_window() -> None:
    budget = Budget(Restart(limit=2, within=10, backoff=1.0))
    rng = random.Random(1)
    assert budget.failed(0, rng) is not None
    assert budget.failed(1, rng) is not None
    assert budget.failed(2, rng) is None
    fresh = Budget(Restart(limit=2, within=10, backoff=1.0))
    assert all(fresh.failed(5.0 * number, rng) is not None for number in range(50))
    assert fresh.failures == 50


class Longest(random.Random):
    """Draws the end of each range."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_the_default_budget_is_three_restarts_a_minute() -> None:
    budget = Budget(Restart())
    pauses = [budget.failed(now, Longest()) for now in (0.0, 20.0, 40.0)]
    assert pauses == [0.1, 0.2, 0.4]
    assert budget.failed(59.9, Longest()) is None
    budget = Budget(Restart())
    assert all(budget.failed(20.0 * number, Longest()) is not None for number in range(20))


def test_no_pause_is_longer_than_half_a_minute_unless_it_is_said() -> None:
    budget = Budget(Restart(limit=100))
    assert max(budget.failed(0.0, Longest()) or 0.0 for _ in range(100)) == 30.0


def test_a_budget_of_a_million_restarts_does_not_overflow() -> None:
    budget = Budget(Restart(limit=10**6, within=1e9, longest=30))
    rng = random.Random(1)
    pauses = [budget.failed(0, rng) for _ in range(2000)]
    assert max(pause for pause in pauses if pause is not None) <= 30


def test_past_its_budget_an_unwatched_actor_makes_the_block_raise() -> None:
    async def main() -> None:
        async with System("s") as system:
            restart = Restart(limit=2, backoff=0.01)
            ref = await system.spawn(partial(Child, []), name="a", restart=restart)
            for _ in range(3):
                with pytest.raises(RemoteError):
                    await ref.ask(Crash())
            with pytest.raises(Stopped, match="failed"):
                await asyncio.wait_for(ref.ask(Ping()), 10)

    with pytest.raises(ActorFailed, match="failed 3 times") as failed:
        simulate(main)
    assert isinstance(failed.value.__cause__, RuntimeError)


def test_a_watched_failure_is_told_and_not_raised() -> None:
    async def main() -> None:
        downs: list[Down] = []
        async with System("s") as system:
            parent = await system.spawn(partial(Parent, [], downs), name="p")
            await parent.ask(SpawnChild("kid", watched=True))
            await system.lookup("s/p.kid", Child).tell(Crash())
            await asyncio.sleep(1)
            assert [(down.address, down.reason) for down in downs] == [("s/p.kid", Reason.FAILED)]
            assert "crashed" in downs[0].detail
            assert system.statistics().actors[0].failures == 0

    simulate(main)


def test_an_unwatched_child_past_its_budget_fails_its_parent() -> None:
    async def main() -> None:
        log: list[str] = []
        async with System("s") as system:
            parent = await system.spawn(partial(Parent, log, []), name="p")
            await parent.ask(SpawnChild("one"))
            await parent.ask(SpawnChild("two"))
            await system.lookup("s/p.one", Child).tell(Crash())
            await asyncio.sleep(5)
            actors = {actor.address: actor for actor in system.statistics().actors}
            assert list(actors) == ["s/p"]  # a new life begins without children
            assert actors["s/p"].failures == actors["s/p"].restarts == 1
            assert log[-3:] == ["stop p.one: failed", "stop p.two: failed", "stop p: failed"]

    simulate(main)


def test_a_failure_escalates_over_several_generations() -> None:
    async def main() -> None:
        async with System("s") as system:
            restart = Restart.never()
            parent = await system.spawn(partial(Parent, [], []), name="p", restart=restart)
            await parent.ask(SpawnChild("kid"))
            await system.lookup("s/p.kid", Child).tell(Crash())
            await asyncio.sleep(1)
            assert system.statistics().actors == ()

    with pytest.raises(ActorFailed, match="s/p failed 1 times"):
        simulate(main)


def test_a_child_task_whose_result_cannot_be_told_fails_the_actor() -> None:
    async def main() -> None:
        async with System("s") as system:
            parent = await system.spawn(partial(Parent, [], []), name="p")
            await parent.ask(CrashTask())
            await asyncio.sleep(1)
            assert system.statistics().actors[0].restarts == 1

    simulate(main)


def test_a_first_start_that_fails_is_told_to_the_caller_alone() -> None:
    async def main() -> None:
        async with System("s") as system:
            with pytest.raises(OSError, match="cannot start"):
                await system.spawn(partial(Child, [], [1]), name="a")
            assert system.statistics().actors == ()
            ref = await system.spawn(partial(Child, []), name="a")  # the name is free again
            assert await ref.ask(Ping()) == 1

    simulate(main)


def test_a_factory_that_fails_leaves_nothing_behind() -> None:
    def factory() -> Child:
        raise ValueError("no child")

    async def main() -> None:
        async with System("s") as system:
            with pytest.raises(ValueError, match="no child"):
                await system.spawn(factory, name="a")
            assert system.statistics().actors == ()

    simulate(main)


def test_a_restart_that_cannot_start_spends_the_budget() -> None:
    async def main() -> None:
        log: list[str] = []
        fails = [0, 1, 1, 0]
        async with System("s") as system:
            ref = await system.spawn(partial(Child, log, fails), name="a")
            with pytest.raises(RemoteError):
                await ref.ask(Crash())
            assert await ref.ask(Ping()) == 7  # four starts, and the stop of three lives
            assert system.statistics().actors[0].failures == 3

    simulate(main)


def test_messages_wait_while_an_actor_restarts() -> None:
    async def main() -> None:
        async with System("s") as system:
            restart = Restart(limit=1, backoff=10)
            ref = await system.spawn(partial(Child, []), name="a", restart=restart)
            await ref.tell(Crash())
            asks = [ref.ask(Ping()) for _ in range(5)]
            await asyncio.sleep(1)
            asks.append(ref.ask(Ping()))  # it pauses now
            assert not any(ask.done() for ask in asks)
            assert await asyncio.gather(*asks) == [3] * 6

    simulate(main)


def test_a_stop_ends_the_pause_before_a_restart() -> None:
    async def main() -> None:
        async with System("s", grace=1000) as system:
            restart = Restart(limit=1, backoff=500, longest=500)
            ref = await system.spawn(partial(Child, []), name="a", restart=restart)
            await ref.tell(Crash())
            await asyncio.sleep(1)
            await system.stop(ref)
            assert asyncio.get_running_loop().time() < 2

    simulate(main)


def test_a_drain_ends_the_pause_of_an_actor_with_nothing_to_do() -> None:
    async def main() -> float:
        async with System("s", grace=1000) as system:
            restart = Restart(limit=1, backoff=500, longest=500)
            ref = await system.spawn(partial(Child, []), name="a", restart=restart)
            await ref.tell(Crash())
            await asyncio.sleep(1)
        return asyncio.get_running_loop().time()

    assert simulate(main) < 2


def test_stopping_an_actor_stops_its_children_in_reverse_order() -> None:
    async def main() -> list[str]:
        log: list[str] = []
        async with System("s") as system:
            parent = await system.spawn(partial(Parent, log, []), name="p")
            for name in ("one", "two", "three"):
                await parent.ask(SpawnChild(name))
            log.clear()
            await system.stop(parent)
            assert system.statistics().actors == ()
        return log

    stops = ["stop p.three: stopped", "stop p.two: stopped", "stop p.one: stopped"]
    assert simulate(main) == [*stops, "stop p: stopped"]


def test_a_stop_waits_for_the_present_message_and_at_most_its_grace() -> None:
    async def stop_during(seconds: float) -> float:
        async with System("s", grace=5) as system:
            parent = await system.spawn(partial(Parent, [], []), name="p")
            await parent.tell(Sleep(seconds))
            await asyncio.sleep(0.1)
            await system.stop(parent)
            return asyncio.get_running_loop().time()

    assert simulate(lambda: stop_during(3)) == pytest.approx(3)
    assert simulate(lambda: stop_during(1000)) == pytest.approx(5.1)


def test_watching_without_a_handler_for_down_is_an_error_at_once() -> None:
    class Blind(Actor):
        async def started(self) -> None:
            self.ctx.watch(self.ctx.system.lookup("s/x", Actor))

    async def main() -> None:
        async with System("s") as system:
            with pytest.raises(TypeError, match="no handler for Down"):
                await system.spawn(Blind, name="b")

    simulate(main)


def test_a_watch_survives_the_watchers_restart_and_ends_with_the_watcher() -> None:
    async def main() -> None:
        downs: list[Down] = []
        async with System("s") as system:
            parent = await system.spawn(partial(Parent, [], downs), name="p")
            target = await system.spawn(partial(Child, []), name="target")
            cell = system.cells["p"]
            system.watch(cell, target)
            await parent.ask(CrashTask())
            await asyncio.sleep(1)
            assert system.cells["p"].generation == 2
            await system.stop(target)
            await asyncio.sleep(1)
            assert [down.address for down in downs] == ["s/target"]
            other = await system.spawn(partial(Child, []), name="other")
            system.watch(cell, other)
            await system.stop(parent)
            assert not system.cells["other"].watchers  # nothing kept for the dead

    simulate(main)


def test_unwatch_takes_a_watch_back() -> None:
    async def main() -> None:
        downs: list[Down] = []
        async with System("s") as system:
            await system.spawn(partial(Parent, [], downs), name="p")
            target = await system.spawn(partial(Child, []), name="target")
            cell = system.cells["p"]
            assert cell.context is not None
            cell.context.watch(target)
            cell.context.unwatch(target)
            await system.stop(target)
            await asyncio.sleep(1)
            assert downs == []

    simulate(main)


@pytest.mark.parametrize("make", [lambda: Child([])])
def test_spawn_takes_a_factory_not_an_instance(make: Callable[[], Child]) -> None:
    async def main() -> None:
        async with System("s") as system:
            child = make()
            with pytest.raises(TypeError, match="use Child"):
                await system.spawn(child, name="a")  # type: ignore[arg-type]  # pyright: ignore
            await system.spawn(make, name="a")
            with pytest.raises(ValueError, match="exists already"):
                await system.spawn(make, name="a")
            with pytest.raises(ValueError, match="no valid name"):
                await system.spawn(make, name="a/b")

    simulate(main)
