"""Clients by function use the same actors and messages as any other run."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covey.actors.runtime import SystemStatistics
from covey.recipes import EventKind, FedAvgRecipe, Run, SimEnv, TrainContext

CLIENTS, ROUNDS = 30, 4


def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
    """Add one."""
    ctx.rng.random()
    return {name: value + 1 for name, value in params.items()}


@pytest.mark.parametrize("check_codec", [False, True])
def test_every_task_is_a_message_that_a_trainer_handles(tmp_path: Path, check_codec: bool) -> None:
    async def main() -> tuple[SystemStatistics, ...]:
        recipe = FedAvgRecipe(
            name="count", initial_model={"w": np.zeros(3)}, num_rounds=ROUNDS, train=train
        )
        env = SimEnv(CLIENTS, workspace=tmp_path, progress=False, check_codec=check_codec)
        run = await recipe.start(env)
        seen: tuple[SystemStatistics, ...] = ()
        async for event in run.events():
            if event.kind is EventKind.ROUND_FINISHED and event.round == ROUNDS - 1:
                seen = run.statistics()
        await run.wait()
        assert run.statistics() == ()
        assert float(run.model()["w"][0]) == ROUNDS
        return seen

    handled: Counter[str] = Counter()
    for system in asyncio.run(main()):
        for actor in system.actors:
            handled[actor.kind] += actor.handled
    assert handled["Trainer"] == CLIENTS * ROUNDS
    # Each round begins the aggregator's, takes an update of each site, and steps once; the last
    # step may still be to come.
    assert ROUNDS * (CLIENTS + 2) - handled["Aggregator"] in (0, 1)
    assert handled["Job"] >= CLIENTS * ROUNDS  # and perhaps a look at the time


def reporting(**metrics: float) -> Any:
    """A train function that reports these metrics."""

    def train(params: dict[str, Any], ctx: TrainContext) -> Any:
        return params, {name: value * (ctx.round + 1) for name, value in metrics.items()}

    return train


def notices(run: Run) -> list[str]:
    """The notices of a run."""

    async def main() -> list[str]:
        return [
            event.data["text"] async for event in run.events() if event.kind is EventKind.NOTICE
        ]

    return asyncio.run(main())


def test_a_key_metric_that_nobody_reports_is_told_once_and_ends_nothing(tmp_path: Path) -> None:
    recipe = FedAvgRecipe(
        initial_model={"w": np.zeros(3)},
        num_rounds=5,
        train=reporting(acuracy=0.1, loss=1.0),
        patience=1,
        stop_cond="lost <= 0",
    )
    run = recipe.execute(SimEnv(2, workspace=tmp_path, progress=False))
    key, stop = notices(run)
    assert "'accuracy' was not reported" in key
    assert "did you mean 'acuracy'?" in key
    assert "stop_cond waits for 'lost'" in stop
    assert json.loads((run.get_result() / "summary.json").read_text())["rounds"] == 5


@pytest.mark.parametrize(
    ("settings", "rounds", "why"),
    [
        ({"stop_cond": "loss >= 2.5"}, 3, "stop_cond: loss 3"),
        ({"patience": 2, "key_metric": "loss"}, 3, "patience: no better loss for 2 rounds"),
    ],
)
def test_an_early_end_says_why(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    rounds: int,
    why: str,
) -> None:
    recipe = FedAvgRecipe(
        initial_model={"w": np.zeros(3)},
        num_rounds=9,
        train=reporting(loss=1.0),
        key_metric=settings.pop("key_metric", "loss"),
        **settings,
    )
    run = recipe.execute(SimEnv(2, workspace=tmp_path))
    summary = json.loads((run.get_result() / "summary.json").read_text())
    assert (summary["rounds"], summary["stopped_by"]) == (rounds, why)
    assert f"{rounds} rounds of 9, stopped by {why}, in" in capsys.readouterr().out
    assert notices(run) == []


def test_more_sites_than_a_message_holds_names_run_through_the_codec(tmp_path: Path) -> None:
    recipe = FedAvgRecipe(initial_model={"w": np.zeros(1)}, num_rounds=1, train=train)
    run = recipe.execute(SimEnv(4200, workspace=tmp_path, progress=False, check_codec=True))
    assert float(run.model()["w"][0]) == 1.0
