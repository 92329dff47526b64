"""Functions that train many sites in one call, and what becomes of each site's part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covey.recipes import (
    ConfigError,
    FedAvgRecipe,
    FedBuffRecipe,
    FedEvalRecipe,
    JobFailed,
    LogNormal,
    Recipe,
    Run,
    ScaffoldRecipe,
    SimEnv,
    TrainContext,
    batched,
)

SITES = 40
Params = dict[str, Any]
WEIGHT = "NUM_STEPS_CURRENT_ROUND"


def one(params: Params, ctx: TrainContext) -> Any:
    """Half-way to a target of the site's own."""
    target = float(ctx.site.removeprefix("site-")) + ctx.rng.random()
    params["w"] += 0.5 * (target - params["w"])
    return params, {"distance": float(abs(params["w"] - target).sum())}


@batched
def many(params: Params, contexts: list[TrainContext]) -> Any:
    """The same, of all sites at once."""
    numbers = [float(ctx.site.removeprefix("site-")) + ctx.rng.random() for ctx in contexts]
    targets: Any = np.array(numbers, np.float32)[:, None]
    if not isinstance(params["w"], np.ndarray):
        import torch

        targets = torch.tensor(numbers, dtype=torch.float32)[:, None]
    params["w"] += 0.5 * (targets - params["w"])
    return params, {"distance": abs(params["w"] - targets).sum(1)}


def zeros(kind: str) -> Params:
    """A model of torch or NumPy."""
    if kind == "numpy":
        return {"w": np.zeros(3, np.float32)}
    import torch

    return {"w": torch.zeros(3)}


def fedavg(train: Any, kind: str) -> Recipe:
    """Three rounds."""
    return FedAvgRecipe(initial_model=zeros(kind), num_rounds=3, train=train)


def fedbuff(train: Any, kind: str) -> Recipe:
    """Versions of seven updates, with seventeen sites at work."""
    return FedBuffRecipe(
        initial_model=zeros(kind), num_rounds=20, train=train, buffer_size=7, concurrency=17
    )


def run(recipe: Recipe, workspace: Path, **settings: Any) -> Run:
    """Run to the end."""
    env = SimEnv(SITES, workspace=workspace, seed=5, progress=False, **settings)
    return recipe.execute(env)


def rows(run: Run) -> list[Any]:
    """What each site reported, whatever a task took and in whichever order it came."""
    lines = (run.get_result() / "metrics.jsonl").read_text().splitlines()
    keep = ("round", "site", "metrics", "weight", "staleness", "virtual_seconds")
    found = [{key: row.get(key) for key in keep} for row in map(json.loads, lines)]
    sites = [row for row in found if str(row["site"]).startswith("site-")]
    return sorted(sites, key=lambda row: (row["round"], row["site"]))


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("recipe", [fedavg, fedbuff])
def test_a_run_is_the_same_to_the_last_bit_whether_one_site_or_many_are_in_a_call(
    tmp_path: Path, recipe: Callable[[Any, str], Recipe], kind: str
) -> None:
    durations = LogNormal(0.0, 0.5)
    single = run(recipe(one, kind), tmp_path / "one", durations=durations)
    together = run(recipe(many, kind), tmp_path / "many", durations=durations)
    assert np.array_equal(single.model()["w"], together.model()["w"])
    assert float(abs(single.model()["w"]).max()) > 1
    for a, b in zip(rows(single), rows(together), strict=True):
        assert a | {"metrics": None} == b | {"metrics": None}
        assert a["metrics"]["distance"] == pytest.approx(b["metrics"]["distance"], rel=1e-5)


@pytest.mark.parametrize(
    ("recipe", "calls_at_most"), [(fedavg, 3), (fedbuff, 60)], ids=["fedavg", "fedbuff"]
)
def test_sites_whose_tasks_come_together_are_in_one_call(
    tmp_path: Path, recipe: Callable[[Any, str], Recipe], calls_at_most: int
) -> None:
    sizes: list[int] = []

    @batched
    def train(params: Params, contexts: list[TrainContext]) -> Any:
        sizes.append(len(contexts))
        return params

    done = run(recipe(train, "numpy"), tmp_path, durations=LogNormal(0.0, 0.5))
    assert sum(sizes) >= len(rows(done)) >= 120
    assert len(sizes) <= calls_at_most


def test_weights_may_be_one_for_each_site(tmp_path: Path) -> None:
    from covey.client import FLModel

    @batched
    def train(params: Params, contexts: list[TrainContext]) -> FLModel:
        numbers = np.array([float(ctx.site.removeprefix("site-")) for ctx in contexts])
        params["w"] += numbers[:, None].astype(np.float32)
        return FLModel(params=params, meta={WEIGHT: numbers}, metrics={"same": [2] * len(contexts)})

    done = run(FedAvgRecipe(initial_model=zeros("numpy"), num_rounds=1, train=train), tmp_path)
    numbers = np.arange(1, SITES + 1)
    assert done.model()["w"][0] == pytest.approx(np.average(numbers, weights=numbers))
    assert {row["metrics"]["same"] for row in rows(done)} == {2.0}


def test_evaluation_may_be_batched_by_itself(tmp_path: Path) -> None:
    @batched
    def evaluate(params: Params, contexts: list[TrainContext]) -> dict[str, Any]:
        return {"accuracy": [float(ctx.site.removeprefix("site-")) for ctx in contexts]}

    done = run(FedEvalRecipe(initial_model=zeros("numpy"), evaluate=evaluate), tmp_path)
    assert sorted(row["metrics"]["accuracy"] for row in rows(done)) == list(range(1, SITES + 1))


def test_a_function_that_raises_fails_every_site_of_the_call_with_its_own_line(
    tmp_path: Path,
) -> None:
    @batched
    def train(params: Params, contexts: list[TrainContext]) -> Any:
        raise RuntimeError("no such cohort")

    with pytest.raises(JobFailed) as caught:
        run(fedavg(train, "numpy"), tmp_path)
    assert "no such cohort" in str(caught.value)
    assert Path(__file__).name in str(caught.value)


def test_one_site_whose_numbers_are_not_finite_does_not_cost_the_others_their_work(
    tmp_path: Path,
) -> None:
    @batched
    def train(params: Params, contexts: list[TrainContext]) -> Any:
        params["w"] += 1
        for i, ctx in enumerate(contexts):
            if ctx.site == "site-7":
                params["w"][i] = np.nan
        return params

    recipe = FedAvgRecipe(initial_model=zeros("numpy"), num_rounds=2, train=train, min_clients=30)
    done = run(recipe, tmp_path)
    assert list(done.model()["w"]) == [2, 2, 2]
    assert len({row["site"] for row in rows(done)}) == SITES - 1


def of_one_site(params: Params, count: int) -> Any:
    """Parameters of one site alone."""
    return {"w": params["w"][0]}


def with_a_wrong_shape(params: Params, count: int) -> Any:
    """A number less than the model has, for each site."""
    return {"w": params["w"][:, :2]}


def of_a_wrong_type(params: Params, count: int) -> Any:
    """Whole numbers, in the right shape."""
    return {"w": params["w"].astype(np.int64)}


def too_few(params: Params, count: int) -> Any:
    """A number less than there are sites."""
    return params, {"loss": [0.0] * (count - 1)}


def mean_of_all(params: Params, count: int) -> Any:
    """One number, where one is wanted for each site."""
    return params, {"loss": np.float32(0.5)}


def nothing(params: Params, count: int) -> Any:
    """Nothing at all."""


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (
            of_one_site,
            r"has shape \[3\], expected \[40, 3\]; the first axis is that of the 40 sites",
        ),
        (with_a_wrong_shape, r"has shape \[40, 2\], expected \[40, 3\]; the first axis is that of"),
        (of_a_wrong_type, "has element type int64, expected F32\n"),
        (too_few, "loss has 39 numbers; give one for each of the 40 sites"),
        (mean_of_all, "loss has 1 number; give one for each of the 40 sites"),
        (nothing, "returned NoneType"),
    ],
)
def test_what_lacks_its_axis_of_sites_is_refused_with_the_sizes(
    tmp_path: Path, returned: Callable[[Params, int], Any], said: str
) -> None:
    @batched
    def train(params: Params, contexts: list[TrainContext]) -> Any:
        return returned(params, len(contexts))

    with pytest.raises(JobFailed, match=said):
        run(fedavg(train, "numpy"), tmp_path)


def test_curves_are_streamed_by_each_site_of_a_call(tmp_path: Path) -> None:
    @batched
    def train(params: Params, contexts: list[TrainContext]) -> Any:
        for ctx in contexts:
            ctx.log("step_loss", float(ctx.site.removeprefix("site-")), step=0)
        return params

    done = run(FedAvgRecipe(initial_model=zeros("numpy"), num_rounds=1, train=train), tmp_path)
    log = (done.get_result() / "logs" / "server.jsonl").read_text()
    assert log.count("step_loss") == SITES


def test_a_call_has_as_long_as_its_tasks_together_and_is_not_waited_for_any_longer(
    tmp_path: Path,
) -> None:
    import threading

    release = threading.Event()

    @batched
    def train(params: Params, contexts: list[TrainContext]) -> Any:
        release.wait(60)
        return params

    recipe = FedAvgRecipe(
        initial_model=zeros("numpy"), num_rounds=1, train=train, task_timeout=0.01
    )
    try:
        with pytest.raises(JobFailed, match=r"no answer within 0\.01 s, .* times the sites"):
            run(recipe, tmp_path)
    finally:
        release.set()


def test_scaffold_and_async_functions_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SCAFFOLD"):
        ScaffoldRecipe(initial_model=zeros("numpy"), train=many)

    async def late(params: Params, contexts: list[TrainContext]) -> Any:
        return params

    with pytest.raises(TypeError, match="late is async"):
        batched(late)
