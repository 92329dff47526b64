"""Runs as values: awaited, cancelled, followed, submitted; best models and stopping early."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from covey.recipes import EventKind, JobFailed, Run, RunEvent, RunStatus, TrainContext
from tests.recipes.conftest import GUARD_S, digest_of, summary_of

if TYPE_CHECKING:
    from tests.recipes.conftest import Lab

ACCURACY = (0.3, 0.6, 0.5, 0.9, 0.7, 0.8)

MEASURED = """
    metrics["accuracy"] = ACCURACY[round]
    params = {name: value + 1 for name, value in model.params.items()}
"""

EVALUATED = """
    if flare.is_evaluate():
        flare.send(flare.FLModel(metrics={"accuracy": ACCURACY[round]}))
        continue
"""


def measured(accuracy: tuple[float, ...] = ACCURACY, evaluates: bool = False) -> str:
    """Lines of a script whose model of each round is this good, and one larger."""
    body = EVALUATED + MEASURED if evaluates else MEASURED
    return body.replace("ACCURACY", str(accuracy))


def train(params: dict[str, Any], ctx: TrainContext) -> tuple[dict[str, Any], dict[str, float]]:
    del ctx
    return {name: value + 1 for name, value in params.items()}, {"accuracy": 0.5}


async def collect(run: Run) -> list[RunEvent]:
    return [event async for event in run.events()]


def within(work: Awaitable[None]) -> None:
    """Run a test's coroutine, guarded against hanging."""

    async def main() -> None:
        async with asyncio.timeout(GUARD_S):
            await work

    asyncio.run(main())


# In one loop ---------------------------------------------------------------------


def test_a_cancelled_run_leaves_its_neighbour_alone(lab: Lab) -> None:
    lab.client("if 'stay' in sys.argv: reach('here')")

    async def main() -> None:
        fd = lab.fifo("here")
        doomed = asyncio.create_task(lab.recipe(train_args="stay").run(lab.env()))
        neighbour = asyncio.create_task(lab.recipe().run(lab.env()))
        await asyncio.to_thread(lab.reached, fd, "here")
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
        run = await neighbour
        assert run.get_status() is RunStatus.COMPLETED
        alone = await lab.recipe().run(lab.env())
        assert digest_of(run) == digest_of(alone)

    within(main())
    lab.check_no_process_left()


def test_an_aborted_run_leaves_its_neighbour_alone(lab: Lab) -> None:
    lab.client("if 'stay' in sys.argv: reach('here')")

    async def main() -> None:
        fd = lab.fifo("here")
        doomed = await lab.recipe(train_args="stay").start(lab.env())
        neighbour = await lab.recipe().start(lab.env())
        await asyncio.to_thread(lab.reached, fd, "here")
        doomed.abort()
        assert await doomed.wait() is RunStatus.ABORTED
        assert await neighbour.wait() is RunStatus.COMPLETED

    within(main())
    lab.check_no_process_left()


def test_cancelling_a_wait_leaves_the_run_alone(lab: Lab) -> None:
    lab.client("if round == 0: reach('here')")

    async def main() -> None:
        fd = lab.fifo("here")
        run = await lab.recipe().start(lab.env())
        waiter = asyncio.create_task(run.wait())
        await asyncio.to_thread(lab.reached, fd, "here")
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert run.get_status() is RunStatus.RUNNING
        run.abort()
        assert await run.wait() is RunStatus.ABORTED

    within(main())


def test_a_loop_that_ends_ends_the_run_that_was_started_in_it(lab: Lab) -> None:
    lab.client("reach('here')")
    lab.fifo("here")
    runs: list[Run] = []

    async def main() -> None:
        runs.append(await lab.recipe().start(lab.env()))

    within(main())
    assert runs[0].join() is RunStatus.ABORTED
    lab.check_no_process_left()


def test_execute_works_inside_a_running_loop(lab: Lab) -> None:
    lab.client()

    async def notebook() -> None:
        run = lab.recipe().execute(lab.env())
        assert run.get_status() is RunStatus.COMPLETED
        lab.client("if site == 'site-1': raise OSError(5, 'no disk')")
        with pytest.raises(JobFailed, match="2 are left"):
            lab.recipe().execute(lab.env())

    within(notebook())
    lab.check_no_process_left()


def test_a_submitted_run_can_be_followed_from_any_loop(lab: Lab) -> None:
    run = lab.recipe(train=train).submit(lab.env())
    events: list[RunEvent] = []

    async def main() -> None:
        events.extend(await collect(run))
        assert await run.wait() is RunStatus.COMPLETED

    within(main())
    assert events[-1].kind is EventKind.RUN_FINISHED
    assert summary_of(run.get_result())["id"] == run.get_job_id()


def test_events_are_complete_and_in_order(lab: Lab) -> None:
    lab.client("    flare.log('loss', 1.0 / (1 + round), step=round)" + measured(evaluates=True))

    async def main() -> None:
        run = await lab.recipe().start(lab.env())
        followers = await asyncio.gather(collect(run), collect(run))
        assert followers[0] == followers[1] == await collect(run)
        check_order([(event.kind, event.round, event.site) for event in followers[0]])

    within(main())


def check_order(events: list[tuple[EventKind, int | None, str | None]]) -> None:
    sites = {"site-1", "site-2", "site-3"}
    assert events[0][0] is EventKind.RUN_STARTED
    assert events[-1][0] is EventKind.RUN_FINISHED
    for round in range(4):  # the last one is the evaluation of the final model
        begin = events.index((EventKind.ROUND_STARTED, round, None))
        end = events.index((EventKind.ROUND_FINISHED, round, None))
        inside = events[begin + 1 : end]
        assert {event[1] for event in inside} == {round}
        done = [event[2] for event in inside if event[0] is EventKind.SITE_FINISHED]
        assert len(done) == 3
        assert set(done) == sites
        if round < 3:
            for site in sites:
                curve = inside.index((EventKind.METRIC, round, site))
                assert curve < inside.index((EventKind.SITE_FINISHED, round, site))
    assert len([event for event in events if event[0] is EventKind.ROUND_FINISHED]) == 4


# Which model ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evaluates", "accuracy", "best"),
    [
        (False, ACCURACY, 3),
        (True, ACCURACY, 3),
        (True, (*ACCURACY[:5], 0.99), 5),  # the last aggregate, which only they measure
        (False, (0.9, 0.9, 0.9, 0.9, 0.9, 0.9), 0),  # of equals the first
        (False, (float("nan"), 0.1, float("inf"), 0.2, 0.1, 0.1), 3),
    ],
)
def test_the_best_model_is_the_arg_best_of_the_metrics(
    lab: Lab, evaluates: bool, accuracy: tuple[float, ...], best: int
) -> None:
    text = measured(accuracy, evaluates)
    lab.client(text.replace("nan", "float('nan')").replace("inf", "float('inf')"))
    run = lab.recipe(num_rounds=5).execute(lab.env())
    rows = [row for row in run.metrics if row["site"] == "global"]
    values = {row["round"]: row["metrics"]["accuracy"] for row in rows}
    assert max((v, -r) for r, v in values.items() if v is not None)[1] == -best
    assert [row["round"] for row in rows if row["best"]][-1] == best
    summary = summary_of(run.get_result())
    assert (summary["best_round"], summary["best_value"]) == (best, values[best])
    np.testing.assert_array_equal(run.best_model()["w"], np.arange(6, dtype=np.float32) + best)
    np.testing.assert_array_equal(run.model()["w"], np.arange(6, dtype=np.float32) + 5)


def test_less_is_better_for_a_loss(lab: Lab) -> None:
    lab.client("metrics = {'val_loss': [3.0, 1.0, 2.0][round]}")
    run = lab.recipe(key_metric="val_loss").execute(lab.env())
    assert summary_of(run.get_result())["best_round"] == 1


def test_a_run_without_its_key_metric_has_no_best_model(lab: Lab) -> None:
    lab.client("metrics = {}")
    run = lab.recipe().execute(lab.env())
    assert summary_of(run.get_result())["best_model"] is None
    with pytest.raises(FileNotFoundError):
        run.best_model()


def test_a_stop_condition_stops_at_that_round(lab: Lab) -> None:
    lab.client(measured())
    run = lab.recipe(num_rounds=6, stop_cond="accuracy >= 0.9").execute(lab.env())
    assert {row["round"] for row in run.metrics} == {0, 1, 2, 3}
    summary = summary_of(run.get_result())
    assert (summary["rounds"], summary["best_round"]) == (4, 3)
    assert run.get_status() is RunStatus.COMPLETED


def test_patience_counts_rounds_without_a_better_one(lab: Lab) -> None:
    lab.client(measured((0.5, 0.6, 0.6, 0.4, 0.9, 0.9)))
    run = lab.recipe(num_rounds=6, patience=2).execute(lab.env())
    assert max(row["round"] for row in run.metrics) == 3
    assert summary_of(run.get_result())["best_round"] == 1


# What it says of itself ------------------------------------------------------------


def test_a_run_leaves_its_configuration_logs_and_summary(lab: Lab) -> None:
    lab.client("print('hello from', site)")
    run = lab.recipe().execute(lab.env())
    folder = run.get_result()
    assert folder == lab.folder_of()
    assert folder.parent == lab.folder / "runs" / "job"
    summary = summary_of(folder)
    assert summary["id"] == run.get_job_id() == folder.name
    assert summary["seed"] == run.seed == 5
    assert (folder / "logs" / "site-2.log").read_text() == "hello from site-2\n" * 3
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        "best_model.safetensors",
        "config.json",
        "logs",
        "metrics.jsonl",
        "model.safetensors",
        "report.html",
        "summary.json",
    }


def test_one_garbage_collector_is_left_as_it_was(lab: Lab) -> None:
    import gc

    before = gc.get_threshold()

    async def main() -> None:
        first = asyncio.create_task(lab.recipe(train=train, num_rounds=2).run(lab.env(2)))
        await lab.recipe(train=train, num_rounds=20).run(lab.env(2))
        await first

    within(main())
    assert gc.get_threshold() == before
