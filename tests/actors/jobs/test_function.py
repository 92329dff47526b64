"""Clients by function: what a function is given, what it may return, how its faults are told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from covey.actors.jobs.function import FunctionClients, FunctionFailed, TrainContext
from covey.actors.jobs.launchers.script import Outcome
from covey.client import FLModel, ParamsType

if TYPE_CHECKING:
    from tests.actors.jobs.conftest import Bench


def run(
    bench: Bench,
    train: Callable[..., Any],
    *,
    evaluate: Callable[..., Any] | None = None,
    task: str = "train",
    site: str = "site-1",
    exclude: tuple[str, ...] = (),
) -> Outcome:
    """One task for one client."""

    async def main() -> Outcome:
        clients = FunctionClients(train, evaluate, job_id="job-1", seed=7, exclude=exclude)
        script = await clients.start(site, bench.metrics.append)
        return await script.run(bench.task(1, "evaluate" if task == "evaluate" else "train"))

    return asyncio.run(main())


def ones(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
    del ctx
    return {name: value + 1 for name, value in params.items()}


async def later(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
    await asyncio.sleep(0)
    return ones(params, ctx)


def in_place(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
    del ctx
    for value in params.values():
        value += 1
    return params


def with_metrics(params: dict[str, Any], ctx: TrainContext) -> tuple[dict[str, Any], Any]:
    return ones(params, ctx), {"loss": np.float32(0.5)}


def as_model(params: dict[str, Any], ctx: TrainContext) -> FLModel:
    return FLModel(params=ones(params, ctx), metrics={"loss": 0.5})


def an_awaitable(params: dict[str, Any], ctx: TrainContext) -> Awaitable[dict[str, Any]]:
    return later(params, ctx)


@pytest.mark.parametrize("train", [ones, later, in_place, with_metrics, as_model, an_awaitable])
def test_what_a_function_may_be_and_return(bench: Bench, train: Callable[..., Any]) -> None:
    outcome = run(bench, train)
    assert all((value == 1).all() for value in bench.arrays(outcome).values())
    assert outcome.answer.metrics in ({}, {"loss": 0.5})
    assert outcome.answer.params_type == "FULL"
    assert not outcome.answer.evaluates


def test_a_difference_is_told_as_such(bench: Bench) -> None:
    def train(params: dict[str, Any], ctx: TrainContext) -> FLModel:
        return FLModel(
            params=ones(params, ctx),
            params_type=ParamsType.DIFF,
            meta={"NUM_STEPS_CURRENT_ROUND": 4},
        )

    answer = run(bench, train).answer
    assert answer.params_type == "DIFF"
    assert answer.meta == {"NUM_STEPS_CURRENT_ROUND": 4}


def test_evaluating_sends_metrics_alone(bench: Bench) -> None:
    def evaluate(params: dict[str, Any], ctx: TrainContext) -> dict[str, float]:
        return {"accuracy": float(params["w"].sum()) + ctx.round}

    outcome = run(bench, ones, evaluate=evaluate, task="evaluate")
    assert outcome.blob is None
    assert outcome.answer.metrics == {"accuracy": 1.0}
    assert outcome.answer.evaluates


def test_a_context_says_who_where_and_when(bench: Bench) -> None:
    seen: list[TrainContext] = []

    def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
        seen.append(ctx)
        ctx.log("loss", 0.25, step=3)
        return params

    run(bench, train)
    (ctx,) = seen
    assert (ctx.site, ctx.round, ctx.total_rounds, ctx.job_id) == ("site-1", 1, 3, "job-1")
    (metric,) = bench.metrics
    assert (metric.key, metric.value, metric.step) == ("loss", 0.25, 3)


def test_draws_differ_by_site_and_round_and_repeat(bench: Bench) -> None:
    def draw(site: str, round: int) -> float:
        return float(TrainContext(site, round, 3, "j", 7, bench.metrics.append).rng.random())

    draws = [draw(site, round) for site in ("site-1", "site-2") for round in (0, 1)]
    assert len(set(draws)) == 4
    assert draws[0] == draw("site-1", 0)


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (None, "returned NoneType; return the parameters"),
        (FLModel(metrics={"a": 1.0}), "no parameters"),
        ({"w": np.zeros((2, 3), np.float32)}, "'b'"),
        ({"w": np.zeros((3, 2), np.float32), "b": np.zeros(2, np.float32)}, "'w'"),
        ({"w": np.full((2, 3), np.nan, np.float32), "b": np.zeros(2, np.float32)}, "'w'"),
    ],
)
def test_what_does_not_fit_is_told(bench: Bench, returned: object, text: str) -> None:
    def train(params: dict[str, Any], ctx: TrainContext) -> object:
        del params, ctx
        return returned

    with pytest.raises(FunctionFailed) as caught:
        run(bench, train)
    assert text in caught.value.fault.text
    assert caught.value.fault.file == __file__


def test_a_fault_names_the_deepest_line_of_the_users_own(bench: Bench) -> None:
    def inner() -> None:
        np.zeros(2).reshape(3)

    def train(params: dict[str, Any], ctx: TrainContext) -> Mapping[str, Any]:
        del params, ctx
        inner()
        return {}

    with pytest.raises(FunctionFailed) as caught:
        run(bench, train)
    fault = caught.value.fault
    assert (fault.kind, fault.file) == ("ValueError", __file__)
    assert fault.source_line == "np.zeros(2).reshape(3)"
    assert "Traceback" in fault.traceback


def test_clients_do_not_see_each_others_changes(bench: Bench) -> None:
    before: list[float] = []

    def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
        before.append(float(params["w"].sum()))
        return in_place(params, ctx)

    async def main() -> None:
        clients = FunctionClients(train, None, job_id="job-1", seed=7)
        for number in range(3):
            script = await clients.start(f"site-{number}", bench.metrics.append)
            await script.run(bench.task(1))

    asyncio.run(main())
    assert before == [0.0, 0.0, 0.0]


def test_excluded_variables_are_not_sent(bench: Bench) -> None:
    outcome = run(bench, ones, exclude=("b",))
    assert outcome.blob is not None
    assert outcome.blob.size == bench.layout.without(("b",)).size


def test_slow_functions_leave_the_loop(bench: Bench) -> None:
    threads: list[int] = []

    def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
        threads.append(threading.get_ident())
        busy = time.perf_counter() + 0.02
        while time.perf_counter() < busy:
            pass
        return params

    async def main() -> None:
        clients = FunctionClients(train, None, job_id="job-1", seed=7)
        script = await clients.start("site-1", bench.metrics.append)
        for _ in range(4):
            await script.run(bench.task(1))

    asyncio.run(main())
    assert threads[0] == threading.get_ident() != threads[-1]
