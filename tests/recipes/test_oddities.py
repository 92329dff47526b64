"""Metrics that are no numbers are told, once, and never pick a model."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import pytest

from covey.recipes import EventKind, FedBuffRecipe, Run, TrainContext
from tests.recipes.conftest import summary_of

if TYPE_CHECKING:
    from tests.recipes.conftest import Lab


def notices(run: Run) -> list[str]:
    """The texts of what was noticed at a site."""

    async def collect() -> list[str]:
        return [e.data["text"] async for e in run.events() if e.kind is EventKind.NOTICE and e.site]

    return asyncio.run(collect())


def diverges(params: dict[str, Any], ctx: TrainContext) -> object:
    """From round 1 on one site's loss is NaN, and in round 2 the other one's infinite."""
    value = ctx.round / 10
    if ctx.site == "site-1" and ctx.round >= 1:
        value = math.nan
    if ctx.site == "site-2" and ctx.round >= 2:
        value = math.inf
    return params, {"accuracy": value, "loss": 1.0}


def test_a_metric_that_is_no_number_is_told_once_for_each_site(lab: Lab) -> None:
    recipe = lab.recipe(train=diverges, num_rounds=5)
    run = recipe.execute(lab.env(2))
    assert notices(run) == [
        "site-1 reports accuracy nan on model 1; no model with it can be the best",
        "site-2 reports accuracy inf on model 2; no model with it can be the best",
    ]
    log = (run.get_result() / "logs" / "server.jsonl").read_text()
    assert log.count("no model with it can be the best") == 2


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_key_metric_that_is_no_number_is_never_the_best(lab: Lab, mode: str) -> None:
    recipe = lab.recipe(train=diverges, num_rounds=5, key_metric_mode=mode)
    summary = summary_of(recipe.execute(lab.env(2)).get_result())
    assert (summary["best_round"], summary["best_value"]) == (0, 0.0)


def test_versions_without_a_number_are_told_and_never_the_best(lab: Lab) -> None:
    def train(params: dict[str, Any], ctx: TrainContext) -> object:
        return params, {"accuracy": math.nan}

    recipe = FedBuffRecipe(
        name="job", initial_model={"w": [0.0]}, train=train, num_rounds=6, buffer_size=2
    )
    run = recipe.execute(lab.env(2))
    assert sorted(text.partition(" on")[0] for text in notices(run)) == [
        "site-1 reports accuracy nan",
        "site-2 reports accuracy nan",
    ]
    assert summary_of(run.get_result())["best_round"] is None


def test_of_many_sites_without_a_number_a_few_are_named(lab: Lab) -> None:
    def train(params: dict[str, Any], ctx: TrainContext) -> object:
        return params, {"loss": math.nan}

    told = notices(lab.recipe(train=train, num_rounds=2, key_metric="loss").execute(lab.env(40)))
    assert len(told) == 6
    assert told[-1] == "loss is not finite at other sites too, which are not named one by one"


def test_a_streamed_value_that_is_no_number_is_told(lab: Lab) -> None:
    def train(params: dict[str, Any], ctx: TrainContext) -> object:
        for step in range(3):
            ctx.log("batch_loss", math.nan, step)
        return params, {"accuracy": 1.0}

    told = notices(lab.recipe(train=train, num_rounds=2).execute(lab.env(1)))
    assert told == ["site-1 reports batch_loss nan on model 0"]
