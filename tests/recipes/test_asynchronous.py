"""Asynchronous runs as their users see them: who measures the last model, what a run is told as.

Not here: what becomes of updates (`test_fedbuff.py`), runs that are killed (`test_resumed.py`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from covey.recipes import (
    FedAsyncRecipe,
    FedBuffRecipe,
    JobFailed,
    Run,
    RunStatus,
    SimEnv,
    TrainContext,
)

Model = dict[str, npt.NDArray[np.float32]]
MODEL: Model = {"w": np.zeros(4, np.float32)}
#: Versions; far more than any run here comes to.
MANY = 100_000


def duration(site: str, rng: np.random.Generator) -> float:
    """One site is so slow that it never answers."""
    return 1e6 if site == "site-1" else float(rng.uniform(1, 2))


def environment(folder: Path) -> SimEnv:
    return SimEnv(4, seed=5, workspace=folder, progress=False, durations=duration)


def train(params: Model, ctx: TrainContext) -> Model:
    return {"w": params["w"] + 1}


def evaluate(params: Model, ctx: TrainContext) -> dict[str, float]:
    return {"size": float(params["w"][0])}


def evaluators_of(run: Run) -> set[str]:
    rows = [row for row in run.metrics if row["task"] == "evaluate"]
    return {row["site"] for row in rows} - {"global"}


def trained_by(run: Run) -> set[str]:
    rows = [row for row in run.metrics if row["task"] == "train"]
    return {row["site"] for row in rows} - {"global"}


class Cut:
    """Trains, and has the run cancelled once; after that each model is good enough."""

    def __init__(self) -> None:
        self.calls = 0
        self.cancel: Callable[[], object] | None = None

    def train(self, params: Model, ctx: TrainContext) -> Any:
        """See `train`."""
        self.calls += 1
        if self.calls == 20 and self.cancel is not None:
            self.cancel()
        return train(params, ctx), {"size": float(self.cancel is None)}

    async def run(self, recipe: FedBuffRecipe, env: SimEnv) -> None:
        """Run until it is cancelled."""
        task = asyncio.ensure_future(recipe.run(env))
        loop = asyncio.get_running_loop()
        self.cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        self.cancel = None


@pytest.mark.parametrize("recipe", [FedBuffRecipe, FedAsyncRecipe])
def test_a_site_that_was_too_slow_to_answer_measures_the_last_model(
    tmp_path: Path, recipe: Any
) -> None:
    made = recipe(initial_model=MODEL, train=train, evaluate=evaluate, num_rounds=5)
    run = made.execute(environment(tmp_path))
    assert "site-1" not in trained_by(run)
    assert evaluators_of(run) == {"site-1", "site-2", "site-3", "site-4"}


def test_a_site_that_can_train_no_more_is_not_asked_to_measure(tmp_path: Path) -> None:
    def fails(params: Model, ctx: TrainContext) -> Model:
        if ctx.site == "site-2":
            raise ValueError("no data")
        return train(params, ctx)

    recipe = FedBuffRecipe(
        initial_model=MODEL, train=fails, evaluate=evaluate, num_rounds=40, buffer_size=2
    )
    assert evaluators_of(recipe.execute(environment(tmp_path))) == {"site-1", "site-3", "site-4"}


def test_without_a_function_for_it_nobody_measures_the_last_model(tmp_path: Path) -> None:
    recipe = FedBuffRecipe(initial_model=MODEL, train=train, num_rounds=5, buffer_size=2)
    assert not evaluators_of(recipe.execute(environment(tmp_path)))


def test_in_a_run_that_goes_on_all_sites_measure_the_last_model(tmp_path: Path) -> None:
    cut = Cut()
    recipe = FedBuffRecipe(
        initial_model=MODEL,
        train=cut.train,
        evaluate=evaluate,
        num_rounds=MANY,
        buffer_size=3,
        key_metric="size",
        stop_cond="size >= 1",
    )
    asyncio.run(cut.run(recipe, environment(tmp_path)))
    run = recipe.execute(environment(tmp_path))
    assert run.get_status() is RunStatus.COMPLETED
    assert len(list(tmp_path.glob("*/*/config.json"))) == 1, "it is the same run"
    assert "site-1" not in trained_by(run)
    assert evaluators_of(run) == {"site-1", "site-2", "site-3", "site-4"}


def test_what_is_counted_is_versions_wherever_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def same(params: Model, ctx: TrainContext) -> Any:
        return params, {"accuracy": 0.5}

    recipe = FedBuffRecipe(
        initial_model=MODEL, train=same, evaluate=evaluate, num_rounds=50, buffer_size=2, patience=3
    )
    assert repr(recipe) == "<FedBuffRecipe 'fedbuff': 50 versions>"
    run = recipe.execute(SimEnv(4, seed=5, workspace=tmp_path, durations=duration))
    told = capsys.readouterr().out
    assert "stopped by patience: no better accuracy for 3 versions, in" in told
    page = (run.get_result() / "report.html").read_text()
    page = re.sub(r"<(style|script)\b.*?</\1>", "", page, flags=re.DOTALL)
    for text in (told, page):
        assert "version" in text
        assert not re.search(r"\brounds?\b", text), text


def test_a_run_with_too_few_sites_names_the_version_that_needs_them(tmp_path: Path) -> None:
    def fails(params: Model, ctx: TrainContext) -> Model:
        if ctx.site == "site-2" and ctx.round > 0:
            raise ValueError("no data")
        return train(params, ctx)

    recipe = FedBuffRecipe(
        initial_model=MODEL, train=fails, num_rounds=50, buffer_size=2, min_clients=4
    )
    with pytest.raises(JobFailed, match=r"version \d+ needs 4 sites and 3 are left"):
        recipe.execute(environment(tmp_path))
