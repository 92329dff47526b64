"""Clients by function: what a function is given, what it may return, how its faults are told."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from covey.actors.jobs import function as function_module
from covey.actors.jobs.function import FunctionClients, FunctionFailed, TrainContext
from covey.actors.jobs.launchers.script import Outcome
from covey.actors.jobs.threads import Slots
from covey.client import FLModel, ParamsType
from covey.client.messages import Metric

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
        with closing(clients):
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
        with closing(FunctionClients(train, None, job_id="job-1", seed=7)) as clients:
            for number in range(3):
                script = await clients.start(f"site-{number}", bench.metrics.append)
                await script.run(bench.task(1))

    asyncio.run(main())
    assert before == [0.0, 0.0, 0.0]


def test_excluded_variables_are_not_sent(bench: Bench) -> None:
    outcome = run(bench, ones, exclude=("b",))
    assert outcome.blob is not None
    assert outcome.blob.size == bench.layout.without(("b",)).size


# Where a call is made ------------------------------------------------------------


def holding(*seconds: float) -> tuple[Callable[..., Any], list[bool]]:
    """A function whose calls take that long, and which of them were made on the loop."""
    here: list[bool] = []
    loop = threading.get_ident()

    def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
        del ctx
        here.append(threading.get_ident() == loop)
        busy = time.perf_counter() + seconds[len(here) - 1]
        while time.perf_counter() < busy:
            pass
        return params

    return train, here


def test_a_call_is_made_on_the_loop_only_after_a_quick_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(function_module, "QUICK_S", 0.5)
    train, here = holding(0, 0, 0.6, 0.6, 0, 0)

    async def main() -> None:
        with closing(FunctionClients(train, None, job_id="job-1", seed=7)) as clients:
            script = await clients.start("site-1", bench.metrics.append)
            for _ in range(6):
                await script.run(bench.task(1))

    asyncio.run(main())
    assert here == [False, True, True, False, False, True]


def test_a_slow_site_stays_in_a_thread_beside_quick_ones(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(function_module, "QUICK_S", 0.5)
    train, here = holding(0.6, 0, 0, 0)

    async def main() -> None:
        with closing(FunctionClients(train, None, job_id="job-1", seed=7)) as clients:
            slow = await clients.start("site-1", bench.metrics.append)
            quick = await clients.start("site-2", bench.metrics.append)
            for script in (slow, quick, quick, slow):
                await script.run(bench.task(1))

    asyncio.run(main())
    assert here == [False, False, True, False]


def test_no_more_calls_than_slots_are_at_work(bench: Bench) -> None:
    now, most = 0, 0
    lock = threading.Lock()

    def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
        nonlocal now, most
        del ctx
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        return params

    async def main() -> None:
        clients = FunctionClients(train, None, job_id="job-1", seed=7, slots=Slots(2))
        with closing(clients):
            scripts = [await clients.start(f"site-{i}", bench.metrics.append) for i in range(8)]
            await asyncio.gather(*(script.run(bench.task(1)) for script in scripts))

    asyncio.run(main())
    assert most == 2


def test_values_logged_in_a_thread_arrive_on_the_loop_before_the_result(bench: Bench) -> None:
    seen: list[bool] = []

    def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
        ctx.log("thread", threading.get_ident())
        return params

    async def main() -> None:
        home = threading.get_ident()
        with closing(FunctionClients(train, None, job_id="job-1", seed=7)) as clients:

            def on_metric(metric: Metric) -> None:
                assert metric.value != home
                seen.append(threading.get_ident() == home)

            await (await clients.start("site-1", on_metric)).run(bench.task(1))
            assert seen == [True]

    asyncio.run(main())


def test_a_call_given_up_holds_its_slot_until_it_returns(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(function_module, "HUNG_FACTOR", 1e6)
    end = threading.Event()
    calls: list[str] = []

    def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
        calls.append(ctx.site)
        if ctx.site == "site-1":
            ctx.log("begun", 1.0)
            assert end.wait(10)
            ctx.log("late", 1.0)
        return params

    async def main() -> None:
        with closing(FunctionClients(train, None, job_id="job-1", seed=7)) as clients:
            begun: asyncio.Queue[Metric] = asyncio.Queue()
            first = await clients.start("site-1", begun.put_nowait)
            second = await clients.start("site-2", bench.metrics.append)
            task = asyncio.create_task(first.run(bench.task(1)))
            assert (await begun.get()).key == "begun"
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            other = asyncio.create_task(second.run(bench.task(1)))
            await asyncio.wait([other], timeout=0.05)
            assert calls == ["site-1"]
            end.set()
            await other
            assert begun.empty()  # what it logs later belongs to no round

    asyncio.run(main())
    assert calls == ["site-1", "site-2"]


def test_a_hung_call_gives_its_slot_to_others_and_no_end_waits_for_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(function_module, "HUNG_FACTOR", 2)
    end = threading.Event()

    def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
        if ctx.site == "site-1":
            end.wait()
        return params

    async def main() -> Outcome:
        with closing(FunctionClients(train, None, job_id="job-1", seed=7)) as clients:
            hung = await clients.start("site-1", bench.metrics.append)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(hung.run(bench.task(1)), 0.05)
            script = await clients.start("site-2", bench.metrics.append)
            return await asyncio.wait_for(script.run(bench.task(1)), 10)

    assert asyncio.run(main()).blob is not None  # and here it is over, with a thread at work
    end.set()


@pytest.mark.parametrize("quick_s", [0.005, 10.0])
def test_a_plain_function_past_its_deadline_fails_wherever_it_runs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, quick_s: float
) -> None:
    train, here = holding(0, 0.1)
    monkeypatch.setattr(function_module, "QUICK_S", quick_s)

    async def main() -> None:
        with closing(FunctionClients(train, None, job_id="job-1", seed=7)) as clients:
            first = await clients.start("site-1", bench.metrics.append)
            await first.run(bench.task(1))
            monkeypatch.setattr(function_module, "QUICK_S", 0.005)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await first.run(bench.task(1))

    asyncio.run(main())
    assert here[0] is False


# Ends that are no exceptions ---------------------------------------------------------


async def cancels_itself(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
    inner = asyncio.create_task(later(params, ctx))
    inner.cancel()
    return await inner


def cancelled(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
    raise asyncio.CancelledError


@pytest.mark.parametrize("train", [cancels_itself, cancelled])
def test_a_cancellation_of_the_functions_own_making_is_its_failure(
    bench: Bench, train: Callable[..., Any]
) -> None:
    with pytest.raises(FunctionFailed) as caught:
        run(bench, train)
    fault = caught.value.fault
    assert (fault.kind, fault.file) == ("CancelledError", __file__)
    assert "was cancelled" in fault.text


def leaves(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
    sys.exit(0)


async def leaves_later(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
    sys.exit(0)


@pytest.mark.parametrize("train", [leaves, leaves_later])
def test_leaving_by_exit_is_a_failure(bench: Bench, train: Callable[..., Any]) -> None:
    with pytest.raises(FunctionFailed) as caught:
        run(bench, train)
    fault = caught.value.fault
    assert (fault.kind, fault.file, fault.source_line) == ("SystemExit", __file__, "sys.exit(0)")


def test_leaving_by_exit_on_the_loop_is_a_failure_too(bench: Bench) -> None:
    def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
        return leaves(params, ctx) if ctx.site == "site-2" else params

    async def main() -> None:
        with closing(FunctionClients(train, None, job_id="job-1", seed=7)) as clients:
            await (await clients.start("site-1", bench.metrics.append)).run(bench.task(1))
            await (await clients.start("site-2", bench.metrics.append)).run(bench.task(1))

    with pytest.raises(FunctionFailed, match="SystemExit"):
        asyncio.run(main())
