"""A trainer answers every task, whatever happens to its script, and leaves none behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from covey.actors.downloads.blobs import Blob, BlobRef, Blobs
from covey.actors.jobs.launchers.errors import Fault, LauncherError, ScriptDied, ScriptFailed
from covey.actors.jobs.launchers.script import Outcome
from covey.actors.roles.messages import Assign, Counted, Failure, Streamed, Submit, Update
from covey.actors.roles.trainer import Trainer, TrainerSettings
from covey.actors.runtime import Actor, Ref, System, handles
from covey.actors.runtime.actor import Handler
from covey.client.messages import Answer, Metric, Task

FAULT = Fault("ValueError", "no", "client.py", 3, "raise ValueError", "Traceback")


class Script:
    """A script that does what the test says."""

    site = "site-1"
    pid = None

    def __init__(self, work: Callable[[Task], Awaitable[Outcome]]) -> None:
        self._work = work
        self.killed = self.stopped = 0

    async def run(self, task: Task) -> Outcome:
        return await self._work(task)

    async def wait(self) -> None:
        return None

    async def stop(self, grace_s: float) -> None:
        self.stopped += 1

    def kill(self) -> None:
        self.killed += 1


class Desk(Actor):
    """Stands where the job is: takes results."""

    def __init__(self, results: asyncio.Queue[Submit], streamed: list[Streamed]) -> None:
        self._results = results
        self._streamed = streamed

    @handles
    async def submit(self, msg: Submit) -> Counted:
        await self._results.put(msg)
        return Counted("accepted")

    @handles
    def stream(self, msg: Streamed) -> None:
        self._streamed.append(msg)


class Bench:
    """A trainer with scripts made by the test."""

    def __init__(self, system: System, ref: Ref[Trainer], results: asyncio.Queue[Submit]) -> None:
        self.system = system
        self.trainer = ref
        self._results = results

    async def give(self, round: int, attempt: int = 1, deadline_s: float | None = None) -> None:
        await self.trainer.ask(
            Assign("job", "train", round, attempt, 3, deadline_s=deadline_s), timeout=10
        )

    async def result(self) -> Update | Failure:
        return (await asyncio.wait_for(self._results.get(), 10)).outcome

    async def failure(self) -> Failure:
        outcome = await self.result()
        assert isinstance(outcome, Failure)
        return outcome


def trial(
    test: Callable[[Bench], Awaitable[None]],
    start: Callable[[Callable[[Metric], None]], Awaitable[Any]],
    streamed: list[Streamed] | None = None,
    **settings: Any,
) -> Blobs:
    """Run a test on a trainer; gives the table its updates were left in."""
    blobs = Blobs()

    async def main() -> None:
        async with asyncio.timeout(30), System("site-1") as system:
            results: asyncio.Queue[Submit] = asyncio.Queue()
            desk = await system.spawn(
                lambda: Desk(results, [] if streamed is None else streamed), name="desk"
            )
            made = TrainerSettings("site-1", start, blobs, **settings)
            job = cast("Any", desk)
            ref = await system.spawn(lambda: Trainer(made, job, "job"), name="trainer")
            await test(Bench(system, ref, results))

    asyncio.run(main())
    return blobs


def answering(data: bytes = b"x" * 8) -> Callable[[Task], Awaitable[Outcome]]:
    async def work(task: Task) -> Outcome:
        answer = Answer(task.name, task.round, "FULL", True, len(data), {"loss": 1.0})
        return Outcome(answer, Blob.of_bytes(data))

    return work


def raising(error: Exception) -> Callable[[Task], Awaitable[Outcome]]:
    async def work(task: Task) -> Outcome:
        raise error

    return work


def of(*scripts: Script) -> Callable[[Callable[[Metric], None]], Awaitable[Script]]:
    """Start these scripts, one after the other."""
    left = list(scripts)

    async def start(on_metric: Callable[[Metric], None]) -> Script:
        del on_metric
        return left.pop(0)

    return start


def test_an_update_is_held_until_the_next_task_comes() -> None:
    script = Script(answering())
    held: list[int] = []

    async def test(bench: Bench) -> None:
        for round in range(3):
            await bench.give(round)
            update = await bench.result()
            assert isinstance(update, Update)
            assert isinstance(update.tensors, BlobRef)
            held.append(update.tensors.size)

    blobs = trial(test, of(script))
    assert held == [8, 8, 8]
    statistics = blobs.statistics()
    assert (statistics.held, statistics.registered) == (0, 3)
    assert (script.stopped, script.killed) == (1, 0)


def test_a_task_pushed_twice_is_done_once() -> None:
    done: list[int] = []

    async def work(task: Task) -> Outcome:
        done.append(task.round)
        return await answering()(task)

    async def test(bench: Bench) -> None:
        await bench.give(0)
        await bench.give(0)
        await bench.result()
        await bench.give(0)
        await bench.give(1)
        await bench.result()

    trial(test, of(Script(work)))
    assert done == [0, 1]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ScriptFailed("site-1", "log", FAULT), "ValueError"),
        (ScriptDied("site-1", "log", None, 9), "ScriptDied"),
        (OSError(24, "Too many open files"), "OSError"),
        (AssertionError("a fault of ours"), "AssertionError"),
    ],
)
def test_whatever_a_script_raises_is_answered(error: Exception, kind: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.give(0)
        failure = await bench.failure()
        assert (failure.kind, failure.fatal) == (kind, True)

    trial(test, of(Script(raising(error))))


@pytest.mark.parametrize("warm", [True, False])
def test_a_script_that_cannot_start_is_answered(warm: bool) -> None:
    async def start(on_metric: Callable[[Metric], None]) -> Script:
        raise LauncherError("the template", "gone")

    async def test(bench: Bench) -> None:
        await bench.give(0)
        failure = await bench.failure()
        assert (failure.kind, failure.text) == ("LauncherError", "the template: gone")

    trial(test, start, warm=warm)


def test_a_deadline_kills_the_script() -> None:
    async def never(task: Task) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError

    script = Script(never)

    async def test(bench: Bench) -> None:
        await bench.give(0, deadline_s=0.01)
        failure = await bench.failure()
        assert (failure.kind, failure.fatal) == ("DeadlinePassed", True)
        assert script.killed == 1

    trial(test, of(script))


def test_a_script_at_work_is_killed_when_its_trainer_stops() -> None:
    at_work = asyncio.Event()

    async def work(task: Task) -> Outcome:
        at_work.set()
        await asyncio.Event().wait()
        raise AssertionError

    script = Script(work)

    async def test(bench: Bench) -> None:
        await bench.give(0)
        await at_work.wait()
        await bench.system.stop(bench.trainer, "over")

    trial(test, of(script))
    assert (script.killed, script.stopped) == (1, 1)


@pytest.mark.parametrize("error", [ScriptFailed("site-1", "log", FAULT), OSError(5, "no")])
def test_restarting_leaves_nothing_of_a_script_that_failed(error: Exception) -> None:
    first, second = Script(raising(error)), Script(answering())

    async def test(bench: Bench) -> None:
        await bench.give(0)
        assert not (await bench.failure()).fatal
        await bench.give(1)
        assert isinstance(await bench.result(), Update)

    trial(test, of(first, second), warm=False, restart=True, slots=asyncio.Semaphore(1))
    assert first.killed == 1
    assert second.stopped == 1


def test_restarting_starts_within_its_slot() -> None:
    slots = asyncio.Semaphore(1)
    free: list[bool] = []

    async def start(on_metric: Callable[[Metric], None]) -> Script:
        free.append(not slots.locked())
        return Script(answering())

    async def test(bench: Bench) -> None:
        await bench.give(0)
        await bench.result()

    trial(test, start, warm=False, restart=True, slots=slots)
    assert free == [False]


def test_streamed_values_come_before_the_result_and_in_order() -> None:
    streamed: list[Streamed] = []
    seen: list[list[object]] = []

    async def start(on_metric: Callable[[Metric], None]) -> Script:
        async def work(task: Task) -> Outcome:
            for step in range(100):
                on_metric(Metric("loss", 0.5, step))
            return await answering()(task)

        return Script(work)

    async def test(bench: Bench) -> None:
        await bench.give(0)
        await bench.result()
        seen.append([value.step for msg in streamed for value in msg.values])

    trial(test, start, streamed)
    assert seen == [list(range(100))]


def test_a_task_that_comes_while_the_last_values_are_sent_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taking, release = asyncio.Event(), asyncio.Event()

    async def slow(self: Desk, msg: Streamed) -> None:
        taking.set()
        await release.wait()
        self._streamed.append(msg)

    row = Handler(slow, "stream", awaited=True, stream=False)
    monkeypatch.setitem(Desk.handlers, Streamed, row)
    monkeypatch.setitem(Desk.functions, Streamed, row)

    async def start(on_metric: Callable[[Metric], None]) -> Script:
        async def work(task: Task) -> Outcome:
            if task.round == 0:
                on_metric(Metric("loss", 1.0))
            return await answering()(task)

        return Script(work)

    async def test(bench: Bench) -> None:
        await bench.give(0)
        await taking.wait()
        await bench.give(1)
        release.set()
        submit = await asyncio.wait_for(bench._results.get(), 10)
        assert (submit.round, type(submit.outcome)) == (1, Update)

    trial(test, start)
