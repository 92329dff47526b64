"""Asynchronous training: nobody waits, every update counts once, and virtual time is exact."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from covey.actors.downloads.blobs import Blob, Blobs, Rid
from covey.actors.roles import buffering
from covey.actors.roles.buffering import BufferedAggregator
from covey.actors.roles.filling import Done, Filling
from covey.actors.roles.messages import Fill, Filled
from covey.algorithms import SGD, Adam, Exponential, Hinge, Polynomial, Staleness, Threshold
from covey.client import FLModel
from covey.recipes import (
    ConfigError,
    EventKind,
    FedAsyncRecipe,
    FedAvgRecipe,
    FedBuffRecipe,
    Fixed,
    JobFailed,
    LogNormal,
    Run,
    RunEvent,
    RunStatus,
    SimEnv,
    TrainContext,
)


@pytest.fixture(params=["inline", "in threads"], autouse=True)
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates are added, and versions made, as for a small model and as for a large one."""
    if request.param == "in threads":
        monkeypatch.setattr(buffering, "INLINE_BYTES", 0)


Model = dict[str, npt.NDArray[np.float32]]
MODEL: Model = {"w": np.zeros((7, 3), np.float32), "b": np.ones(5, np.float32)}


def number_of(site: str) -> int:
    return int(site.rpartition("-")[2])


def train(params: Model, ctx: TrainContext) -> Any:
    """Go a tenth of the way to the site's own optimum, with noise of its own."""
    goal = number_of(ctx.site)
    noise = ctx.rng.normal(size=7 * 3 + 5).astype(np.float32)
    update = {
        "w": params["w"] + (goal - params["w"]) / 10 + noise[:21].reshape(7, 3),
        "b": params["b"] + (goal - params["b"]) / 10 + noise[21:],
    }
    return update, {"distance": float(np.abs(params["w"] - goal).mean())}


def environment(folder: Path, clients: int, durations: Any = None, **settings: Any) -> SimEnv:
    return SimEnv(
        clients, seed=5, workspace=folder, progress=False, durations=durations, **settings
    )


def updates_of(run: Run) -> list[RunEvent]:
    events = list(run._journal.events)
    return [event for event in events if event.kind is EventKind.SITE_FINISHED]


def versions_of(run: Run) -> list[RunEvent]:
    events = list(run._journal.events)
    return [event for event in events if event.kind is EventKind.ROUND_FINISHED]


def texts_of(run: Run) -> list[str]:
    return [str(e.data["text"]) for e in run._journal.events if e.kind is EventKind.NOTICE]


def assert_close(got: Any, expected: Any) -> None:
    for name, value in expected.items():
        scale = float(np.abs(value).max())
        np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-6 * scale)


def test_with_a_buffer_for_all_and_equal_durations_it_is_fedavg(tmp_path: Path) -> None:
    env = environment(tmp_path, 6, Fixed(2.0))
    common: Any = {
        "initial_model": MODEL,
        "train": train,
        "num_rounds": 5,
        "key_metric": "distance",
    }
    expected = FedAvgRecipe(**common).execute(env)
    got = FedBuffRecipe(buffer_size=6, **common).execute(env)
    assert_close(got.model(), expected.model())
    assert {event.data["staleness"] for event in updates_of(got)} == {0}
    # Version v was made when v rounds of two seconds each were over.
    assert [event.data["virtual_s"] for event in versions_of(got)] == [0.0, 2.0, 4.0, 6.0, 8.0]
    measured = [event.data["metrics"]["distance"] for event in versions_of(expected)]
    assert [e.data["metrics"]["distance"] for e in versions_of(got)] == pytest.approx(measured)


def replay(run: Run, size: int, staleness: Staleness, by: str, lr: float) -> Model:
    """The paper's loop over the updates in the order in which they counted, in float64."""
    versions: list[dict[str, npt.NDArray[np.float64]]] = [
        {name: value.astype(np.float64) for name, value in MODEL.items()}
    ]
    total = {name: np.zeros(value.shape) for name, value in MODEL.items()}
    count, weight = 0, 0.0
    given: Counter[tuple[str, int]] = Counter()
    for event in updates_of(run):
        assert event.round is not None
        assert event.site is not None
        start = {name: v.astype(np.float32) for name, v in versions[event.round].items()}
        repeat = given[event.site, event.round]  # all tasks succeed, each site's in their order
        given[event.site, event.round] += 1
        ctx = TrainContext(event.site, event.round, 0, "", run.seed, lambda _: None, repeat=repeat)
        update, _ = train(start, ctx)
        tau = len(versions) - 1 - event.round
        assert event.data["staleness"] == tau
        factor = staleness(tau)
        for name in total:
            total[name] += factor * (update[name].astype(np.float64) - start[name])
        count, weight = count + 1, weight + factor
        if count == size:
            divisor = count if by == "count" else weight
            newest = versions[-1]
            versions.append({name: newest[name] + lr * total[name] / divisor for name in total})
            total = {name: np.zeros(value.shape) for name, value in total.items()}
            count, weight = 0, 0.0
    return {name: value.astype(np.float32) for name, value in versions[-1].items()}


@pytest.mark.parametrize("divide_by", ["count", "weight"])
@pytest.mark.parametrize(
    "staleness", [Polynomial(0.5), Threshold(1, 0.25), Exponential(0.8), Hinge(2.0, 1.0)]
)
def test_every_step_is_that_of_the_paper(
    tmp_path: Path, staleness: Staleness, divide_by: Any
) -> None:
    recipe = FedBuffRecipe(
        initial_model=MODEL,
        train=train,
        num_rounds=12,
        buffer_size=3,
        concurrency=8,
        staleness=staleness,
        divide_by=divide_by,
        optimizer=SGD(0.7),
        key_metric="distance",
    )
    run = recipe.execute(environment(tmp_path, 10, LogNormal(0.0, 0.7)))
    assert max(event.data["staleness"] for event in updates_of(run)) > 1
    assert_close(run.model(), replay(run, 3, staleness, divide_by, 0.7))


def test_a_buffer_of_one_and_one_client_at_a_time_is_fedasync(tmp_path: Path) -> None:
    env = environment(tmp_path, 4, LogNormal())
    common: Any = {"initial_model": MODEL, "train": train, "num_rounds": 9, "concurrency": 1}
    slow = FedBuffRecipe(buffer_size=1, optimizer=SGD(0.4), **common).execute(env)
    mixed = FedAsyncRecipe(alpha=0.4, **common).execute(env)
    assert_close(slow.model(), mixed.model())


def test_with_staleness_it_is_not_fedasync(tmp_path: Path) -> None:
    env = environment(tmp_path, 4, LogNormal())
    common: Any = {"initial_model": MODEL, "train": train, "num_rounds": 9, "concurrency": 4}
    buffered = FedBuffRecipe(buffer_size=1, optimizer=SGD(0.4), **common).execute(env)
    mixed = FedAsyncRecipe(alpha=0.4, **common).execute(env)
    sites = [[event.site for event in updates_of(run)] for run in (buffered, mixed)]
    assert sites[0] == sites[1]
    assert np.abs(buffered.model()["w"] - mixed.model()["w"]).max() > 0.01


@pytest.mark.parametrize("recipe", [FedBuffRecipe, FedAsyncRecipe])
def test_virtual_time_is_the_same_twice(tmp_path: Path, recipe: Any) -> None:
    made = recipe(initial_model=MODEL, train=train, num_rounds=15, key_metric="distance")
    first, second = (
        made.execute(environment(tmp_path / name, 5, LogNormal())) for name in ("a", "b")
    )
    contents = [(run.get_result() / "model.safetensors").read_bytes() for run in (first, second)]
    assert contents[0] == contents[1]
    told = [
        [(e.site, e.round, e.data["staleness"]) for e in updates_of(r)] for r in (first, second)
    ]
    assert told[0] == told[1]


def test_the_best_model_is_the_version_with_the_best_metric(tmp_path: Path) -> None:
    recipe = FedBuffRecipe(
        initial_model=MODEL,
        train=train,
        num_rounds=20,
        buffer_size=2,
        key_metric="distance",
        key_metric_mode="min",
    )
    run = recipe.execute(environment(tmp_path, 5, LogNormal()))
    rows = [row for row in run.metrics if row["site"] == "global" and row["task"] == "train"]
    assert {row["round"] for row in rows} <= set(range(20))
    best = min(rows, key=lambda row: (row["metrics"]["distance"], row["round"]))
    final = run._journal.events[-1]
    assert final.data["best_value"] == best["metrics"]["distance"]
    assert final.data["best_round"] == best["round"]


def test_a_client_slower_than_its_lease_is_not_waited_for(tmp_path: Path) -> None:
    def duration(site: str, rng: np.random.Generator) -> float:
        return 100.0 if site == "site-1" else float(rng.uniform(1, 2))

    recipe = FedBuffRecipe(
        initial_model=MODEL, train=train, num_rounds=30, buffer_size=2, lease=5.0, most_failures=2
    )
    run = recipe.execute(environment(tmp_path, 3, duration))
    failed = [e for e in run._journal.events if e.kind is EventKind.SITE_FAILED]
    assert {(e.site, e.data["kind"]) for e in failed} == {("site-1", "LeaseOver")}
    assert [e.data["fatal"] for e in failed] == [False, True]
    assert {event.site for event in updates_of(run)} == {"site-2", "site-3"}


def test_an_answer_after_its_lease_is_told_and_tallied_as_stale(tmp_path: Path) -> None:
    late, back = threading.Event(), threading.Event()

    def slow(params: Model, ctx: TrainContext) -> Any:
        if ctx.site == "site-1":
            back.set() if late.is_set() else late.wait(60)
        time.sleep(0.01)
        return params, {"back": float(back.is_set())}

    recipe = FedBuffRecipe(
        initial_model=MODEL,
        train=slow,
        num_rounds=100_000,
        buffer_size=1,
        lease=1.5,  # more than the second between two looks at leases
        key_metric="back",
        stop_cond="back >= 1",
    )
    run = recipe.submit(SimEnv(3, seed=1, num_threads=3, workspace=tmp_path, progress=False))

    async def wait_for_the_lease() -> None:
        async for event in run.events():
            if event.kind is EventKind.SITE_FAILED and event.site == "site-1":
                late.set()

    asyncio.run(wait_for_the_lease())
    assert run.join() is RunStatus.COMPLETED
    assert "site-1 answered after its lease; the update was not counted" in texts_of(run)
    assert json.loads((run.get_result() / "summary.json").read_text())["stale"] == 1


@pytest.mark.parametrize(
    ("recipe", "settings", "virtual", "most"),
    [
        (FedBuffRecipe, {"buffer_size": 7}, True, 7),
        (FedBuffRecipe, {"buffer_size": 100}, True, 32),
        (FedBuffRecipe, {"buffer_size": 7, "stop_cond": "quality >= 9"}, True, 1),
        (FedBuffRecipe, {"buffer_size": 7, "patience": 99}, True, 1),
        (FedBuffRecipe, {"buffer_size": 7}, False, 7),
        (FedAsyncRecipe, {}, True, 1),
        (FedAsyncRecipe, {}, False, 1),
    ],
)
def test_no_update_waits_in_a_message_for_a_version_that_another_one_in_it_makes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: Any,
    settings: dict[str, Any],
    virtual: bool,
    most: int,
) -> None:
    sizes: list[int] = []
    room = 1
    fill = Filling.fill

    async def watched(self: Filling, updates: Sequence[Done]) -> Filled:
        nonlocal room
        assert len(updates) <= room
        sizes.append(len(updates))
        filled = await fill(self, updates)
        room = filled.room
        return filled

    def reporting(params: Model, ctx: TrainContext) -> Any:
        return params, {"quality": 1.0}

    monkeypatch.setattr(Filling, "fill", watched)
    job = recipe(
        initial_model=MODEL,
        train=reporting,
        num_rounds=5,
        concurrency=60,
        key_metric="quality",
        **settings,
    )
    durations = LogNormal(0.0, 0.5) if virtual else None
    job.execute(SimEnv(600, workspace=tmp_path, seed=2, progress=False, durations=durations))
    assert max(sizes) <= most
    if virtual:
        assert max(sizes) == most


def test_a_client_that_is_too_slow_in_virtual_time_is_tallied_as_stale(tmp_path: Path) -> None:
    def duration(site: str, rng: np.random.Generator) -> float:
        return 100.0 if site == "site-1" else float(rng.uniform(1, 2))

    recipe = FedBuffRecipe(
        initial_model=MODEL, train=train, num_rounds=30, buffer_size=2, lease=5.0, most_failures=2
    )
    run = recipe.execute(environment(tmp_path, 3, duration))
    assert json.loads((run.get_result() / "summary.json").read_text())["stale"] == 2


def test_updates_that_are_too_stale_do_not_count(tmp_path: Path) -> None:
    recipe = FedBuffRecipe(
        initial_model=MODEL, train=train, num_rounds=20, buffer_size=1, max_staleness=2
    )
    run = recipe.execute(environment(tmp_path, 6, LogNormal(0.0, 1.0)))
    assert max(event.data["staleness"] for event in updates_of(run)) == 2
    failed = [e.data["kind"] for e in run._journal.events if e.kind is EventKind.SITE_FAILED]
    assert set(failed) == {"Stale"}
    summary = json.loads((run.get_result() / "summary.json").read_text())
    assert summary["stale"] == len(failed)
    assert summary["updates"] == len(updates_of(run)) == 20
    assert summary["dropped"] == 0


@pytest.mark.parametrize("flush", [False, True])
def test_what_is_left_at_the_end_is_told(tmp_path: Path, flush: bool) -> None:
    recipe = FedBuffRecipe(
        initial_model=MODEL,
        train=train,
        num_rounds=50,
        buffer_size=4,
        flush=flush,
        stop_cond="distance >= 0",  # of the first version that is judged
        key_metric="distance",
    )
    run = recipe.execute(environment(tmp_path, 5, LogNormal(0.0, 1.0)))
    left = len(updates_of(run)) % 4
    what = "made a last version" if flush else "were dropped"
    assert (f"{left} updates left at the end {what}" in texts_of(run)) == (left > 0)
    summary = json.loads((run.get_result() / "summary.json").read_text())
    assert summary["dropped"] == (0 if flush else left)
    assert summary["updates"] + summary["dropped"] == len(updates_of(run))


def test_versions_by_the_clock_come_at_their_time(tmp_path: Path) -> None:
    recipe = FedBuffRecipe(
        initial_model=MODEL, train=train, num_rounds=6, buffer_size=1000, step_every=3.0
    )
    run = recipe.execute(environment(tmp_path, 5, LogNormal()))
    made = sorted((e.round, e.data["virtual_s"]) for e in versions_of(run))
    assert [time for _, time in made] == [3.0 * number for number in range(len(made))]


def test_a_client_that_always_fails_is_given_up_and_the_others_go_on(tmp_path: Path) -> None:
    def fails(params: Model, ctx: TrainContext) -> Any:
        if ctx.site == "site-2":
            raise ValueError("no data")
        return train(params, ctx)

    recipe = FedBuffRecipe(initial_model=MODEL, train=fails, num_rounds=10, buffer_size=2)
    run = recipe.execute(environment(tmp_path, 3, LogNormal()))
    failed = [e for e in run._journal.events if e.kind is EventKind.SITE_FAILED]
    assert [(e.site, e.data["fatal"]) for e in failed] == [
        ("site-2", False),
        ("site-2", False),
        ("site-2", True),
    ]
    assert "3 times in a row" in failed[-1].data["text"]


@pytest.mark.parametrize("durations", [None, LogNormal()])
def test_without_enough_clients_it_fails_with_the_users_own_line(
    tmp_path: Path, durations: Any
) -> None:
    def fails(params: Model, ctx: TrainContext) -> Any:
        raise ValueError("no data")

    recipe = FedBuffRecipe(initial_model=MODEL, train=fails, num_rounds=10)
    with pytest.raises(JobFailed, match="no data") as caught:
        recipe.execute(environment(tmp_path, 3, durations))
    assert caught.value.site in {"site-1", "site-2", "site-3"}


def test_a_diverging_model_fails_the_run_and_names_the_tensor(tmp_path: Path) -> None:
    def explode(params: Model, ctx: TrainContext) -> Any:
        return {name: np.full_like(value, 3e38) for name, value in params.items()}

    recipe = FedBuffRecipe(
        initial_model=MODEL, train=explode, num_rounds=10, buffer_size=1, optimizer=SGD(5.0)
    )
    with pytest.raises(JobFailed, match=r"'w'|'b'"):
        recipe.execute(environment(tmp_path, 2))


def test_settings_that_cannot_work_are_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="buffer_size"):
        FedBuffRecipe(initial_model=MODEL, train=train, buffer_size=0)
    with pytest.raises(ConfigError, match="polynomial"):
        FedBuffRecipe(initial_model=MODEL, train=train, staleness="polinomial")
    with pytest.raises(ConfigError, match="did you mean 'buffer_size'"):
        FedBuffRecipe(initial_model=MODEL, train=train, bufer_size=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with pytest.raises(ConfigError, match="lease"):
        FedBuffRecipe(initial_model=MODEL, train=train, lease=-1.0)
    with pytest.raises(ConfigError, match="concurrency"):
        FedBuffRecipe(initial_model=MODEL, train=train, concurrency=9).execute(
            environment(tmp_path, 3)
        )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"optimizer": "adam"}, r"'adam' is none; .*Adam\(lr=0.01\)"),
        ({"optimizer": Adam}, r"is a class; make one: Adam\(lr=...\)"),
        ({"max_staleness": "3"}, "max_staleness"),
        ({"delay_threshold": 1.5}, "delay_threshold"),
        ({"flush": "no"}, "flush"),
    ],
)
def test_a_rule_that_is_none_is_told(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        FedBuffRecipe(initial_model=MODEL, train=train, **settings)


def only_the_site(site: str) -> float:
    del site
    return 1.0


def a_text(site: str, rng: Any) -> str:
    del site, rng
    return "long"


NO_DURATIONS: list[tuple[Any, str]] = [
    (1.0, r"Fixed\(1.0\)"),
    (LogNormal, "is a class"),
    (only_the_site, r"duration\(site, rng\)"),
    (a_text, "'long'"),
]


@pytest.mark.parametrize(("durations", "text"), NO_DURATIONS)
def test_durations_that_cannot_be_drawn_are_told(durations: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        SimEnv(3, durations=durations)
    with pytest.raises(ConfigError, match="sigma"):
        LogNormal(0.0, -1.0)


def that_raises(site: str, rng: Any) -> float:
    del rng
    return float(site)


def of_a_wrong_type(site: str, rng: Any) -> float:
    del site
    return len(rng)


@pytest.mark.parametrize(
    ("durations", "text", "line"),
    [
        (that_raises, "ValueError: could not convert", "return float(site)"),
        (partial(of_a_wrong_type), "has no len()", "return len(rng)"),
        (only_the_site, "takes 1 positional argument", "def only_the_site("),
    ],
)
def test_durations_that_raise_are_told_with_their_own_line_last(
    durations: Any, text: str, line: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        SimEnv(3, durations=durations)
    assert text in str(caught.value)
    assert f'\n  File "{__file__}", line ' in str(caught.value)
    assert str(caught.value).splitlines()[-1].strip().startswith(line)
    assert caught.value.__suppress_context__, "the text has all of it"


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_a_weight_that_is_none_is_its_sites_failure(tmp_path: Path, weight: float) -> None:
    def weighed(params: Model, ctx: TrainContext) -> FLModel:
        update, metrics = train(params, ctx)
        meta = {"NUM_STEPS_CURRENT_ROUND": weight if ctx.site == "site-2" else 1.0}
        return FLModel(params=update, metrics=metrics, meta=meta)

    recipe = FedBuffRecipe(initial_model=MODEL, train=weighed, num_rounds=10, buffer_size=2)
    run = recipe.execute(environment(tmp_path, 3, LogNormal()))
    failed = [e for e in run._journal.events if e.kind is EventKind.SITE_FAILED]
    assert {(e.site, e.data["kind"]) for e in failed} == {("site-2", "BadUpdate")}


def test_a_faulty_staleness_function_fails_the_run_and_no_site(tmp_path: Path) -> None:
    recipe = FedBuffRecipe(
        initial_model=MODEL,
        train=train,
        num_rounds=30,
        buffer_size=1,
        staleness=lambda tau: 1.0 - 2.0 * tau,
    )
    with pytest.raises(JobFailed, match="staleness"):
        recipe.execute(environment(tmp_path, 4, LogNormal()))


@pytest.mark.parametrize("durations", [None, LogNormal()])
def test_updates_are_let_go_when_they_are_in_the_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durations: Any
) -> None:
    held: list[int] = []
    register = Blobs.register

    def counting(self: Blobs, blob: Blob) -> Rid:
        rid = register(self, blob)
        held.append(self.statistics().held)
        return rid

    monkeypatch.setattr(Blobs, "register", counting)
    recipe = FedBuffRecipe(
        initial_model=MODEL, train=train, num_rounds=3, buffer_size=40, key_metric="distance"
    )
    recipe.execute(environment(tmp_path, 4, durations))
    assert max(held) < 20  # of 120 updates: those under way, and the versions that somebody has


def test_a_site_that_has_a_version_again_draws_other_numbers(tmp_path: Path) -> None:
    drawn: list[float] = []

    def draw(params: Model, ctx: TrainContext) -> Model:
        drawn.append(float(ctx.rng.random()))
        return params

    recipe = FedBuffRecipe(initial_model=MODEL, train=draw, num_rounds=2, buffer_size=30)
    recipe.execute(environment(tmp_path, 3, LogNormal()))
    assert len(set(drawn)) == len(drawn) > 50


SCRIPT = """
import os, signal, sys, time
import numpy as np
import covey.client as flare

flare.init()
site = flare.get_site_name()
number = int(site.rpartition("-")[2])
tasks = 0
while flare.is_running():
    model = flare.receive()
    tasks += 1
    if site == "site-4" and tasks == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.4 if site == "site-1" else 0.04)
    params = {name: value + number for name, value in model.params.items()}
    flare.send(flare.FLModel(params=params))
"""


def test_scripts_that_are_slow_or_killed_and_a_crashed_aggregator_lose_and_double_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill: Any = vars(BufferedAggregator)["fill"]
    calls: Counter[str] = Counter()

    async def crashing(self: BufferedAggregator, msg: Fill) -> Filled:
        filled: Filled = await fill(self, msg)
        before = calls["accepted"]
        calls.update(entered.verdict for entered in filled.entered)
        # One of three that make a version; the answer is lost.
        if any(before < number <= calls["accepted"] for number in (2, 7)):
            calls["crashes"] += 1
            if calls["crashes"] <= 2:
                calls["untold"] += len(msg.updates)
                raise RuntimeError("injected")
        return filled

    crashing.__annotations__ = fill.__annotations__
    monkeypatch.setattr(BufferedAggregator, "fill", crashing)
    monkeypatch.setitem(BufferedAggregator.handlers, Fill, _row(crashing, fill))
    monkeypatch.setitem(BufferedAggregator.functions, Fill, _row(crashing, fill))
    script = tmp_path / "client.py"
    script.write_text(SCRIPT)
    recipe = FedBuffRecipe(
        initial_model={"w": np.zeros(4, np.float64)},
        train_script=script,
        num_rounds=10,
        buffer_size=3,
        staleness="constant",
    )
    run = recipe.execute(environment(tmp_path, 4, num_threads=4))
    assert calls["crashes"] >= 2
    assert calls["duplicate"] == calls["untold"] >= 2
    updates = updates_of(run)
    # Each version moves by the mean of the numbers of those that are in it.
    numbers = [number_of(str(event.site)) for event in updates]
    expected = sum(sum(numbers[i : i + 3]) / 3 for i in range(0, 30, 3))
    assert run.model()["w"] == pytest.approx(expected)
    counts = Counter(event.site for event in updates)
    assert counts["site-4"] == 1
    assert counts["site-2"] > counts["site-1"]
    slow = [event for event in updates if event.site == "site-1"]
    assert slow
    assert all(event.data["staleness"] >= 1 for event in slow)
    failed = [e for e in run._journal.events if e.kind is EventKind.SITE_FAILED]
    assert [(e.site, e.data["fatal"]) for e in failed] == [("site-4", True)]
    assert signal.Signals.SIGKILL.name in failed[0].data["text"]


def _row(method: Any, of: Any) -> Any:
    from covey.actors.runtime.actor import Handler

    return Handler(method, of.__name__, awaited=True, stream=False)
