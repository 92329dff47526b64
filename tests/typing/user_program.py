"""A user's program as type checkers see it: all of this is right."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import assert_type

import numpy as np
import numpy.typing as npt

from covey.actors.runtime import Actor, ActorError, Message, Pull, Ref, System, broadcast, handles
from covey.client import FLModel
from covey.recipes import (
    CyclicRecipe,
    FedAvgRecipe,
    FedProxRecipe,
    Run,
    RunEvent,
    RunStatus,
    ScaffoldRecipe,
    SimEnv,
    TrainContext,
    add_cross_site_evaluation,
)


@dataclass(frozen=True, slots=True)
class Count(Message["Counter", int]):
    """Add to the counter; answered with its value."""

    by: int


@dataclass(frozen=True, slots=True)
class Values(Pull["Counter", float]):
    """Stream some values."""

    how_many: int


@dataclass(frozen=True, slots=True)
class Shout(Message["Speaker", None]):
    """Say something."""

    text: str


class Counter(Actor):
    """Counts."""

    total = 0

    @handles
    def count(self, msg: Count) -> int:
        """Add."""
        self.total += msg.by
        return self.total

    @handles
    async def values(self, msg: Values) -> AsyncIterator[float]:
        """Stream."""
        for i in range(msg.how_many):
            yield float(i)


class Speaker(Actor):
    """Speaks."""

    @handles
    async def shout(self, msg: Shout) -> None:
        """Speak."""
        del msg


class PreciseCounter(Counter):
    """A counter may be any kind of counter."""


async def actors() -> None:
    """Speak with actors."""
    async with System("node") as system:
        counter = await system.spawn(Counter, name="counter")
        precise = await system.spawn(PreciseCounter, name="precise")
        assert_type(counter, Ref[Counter])
        assert_type(await counter.ask(Count(1)), int)
        counters: list[Ref[Counter]] = [counter, precise]
        answers = await broadcast(counters, Count(2))
        assert_type(answers, dict[Ref[Counter], int | ActorError])
        async with counter.stream(Values(3)) as values:
            async for value in values:
                assert_type(value, float)


Params = dict[str, npt.NDArray[np.float64]]


def train(params: Params, ctx: TrainContext) -> Params:
    """Train by function."""
    return {name: value + ctx.rng.random() for name, value in params.items()}


def corrected(params: Params, ctx: TrainContext) -> FLModel:
    """Train with control variates."""
    scaffold = ctx.scaffold(params)
    gradients = {name: value - 1.0 for name, value in params.items()}
    scaffold.correct_gradients(gradients)
    moved = {name: value - 0.1 * gradients[name] for name, value in params.items()}
    return scaffold.update(moved, lr=0.1)


async def recipes() -> None:
    """Run a recipe."""
    recipe = FedAvgRecipe(name="typed", initial_model={"w": np.zeros(3)}, train=train)
    run = await recipe.run(SimEnv(num_clients=2, seed=1))
    assert_type(run, Run)
    assert_type(run.get_status(), RunStatus)
    assert_type(run.get_result(), Path)
    async for event in run.events():
        assert_type(event, RunEvent)
    for other in (
        FedProxRecipe(mu=0.1, model={"w": np.zeros(3)}, train=train),
        ScaffoldRecipe(server_lr=0.5, initial_model={"w": np.zeros(3)}, train=corrected),
        CyclicRecipe(order="random", initial_model={"w": np.zeros(3)}, train=train, num_rounds=3),
    ):
        add_cross_site_evaluation(other)
        assert_type(run.cross_site(), dict[str, dict[str, dict[str, float | None]]])
