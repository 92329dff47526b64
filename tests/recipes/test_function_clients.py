"""Clients by function use the same actors and messages as any other run."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covey.actors.runtime import SystemStatistics
from covey.recipes import EventKind, FedAvgRecipe, SimEnv, TrainContext

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
