"""A workflow of the user's own: what it can do, and what its mistakes look like."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from covey.actors.jobs.workflow import Rounds, Workflow
from covey.actors.roles.messages import Submit, Update
from covey.actors.roles.synchronous import SynchronousTraining
from covey.recipes import EventKind, FedAvgRecipe, JobFailed, Run, TrainContext

if TYPE_CHECKING:
    from tests.recipes.conftest import Lab


def train(params: Any, ctx: TrainContext) -> Any:
    """Add the site's number."""
    return {"w": params["w"] + int(ctx.site[-1])}, {"round": float(ctx.round)}


def evaluate(params: Any, ctx: TrainContext) -> dict[str, float]:
    """The model's number, and the site's."""
    return {"value": float(params["w"][0]), "site": float(ctx.site[-1])}


def recipe(workflow: Workflow, **settings: Any) -> FedAvgRecipe:
    """A recipe with a workflow."""
    given: dict[str, Any] = {"initial_model": {"w": np.zeros(1)}, "train": train, "num_rounds": 2}
    given["evaluate"] = evaluate
    made = FedAvgRecipe(**(given | settings))
    made.workflow = workflow
    return made


def value(run: Run) -> float:
    """The final model's number."""
    return float(run.model()["w"][0])


def test_it_says_who_trains(lab: Lab) -> None:
    async def in_turn(rounds: Rounds) -> None:
        for round in range(rounds.first, rounds.total):
            assert list(rounds.sites) == ["site-1", "site-2", "site-3"]
            metrics = await rounds.train(round, rounds.sites[round : round + 2])
            assert metrics == {"round": float(round)}
            await rounds.step(round)

    assert value(recipe(in_turn).execute(lab.env(3))) == 1.5 + 2.5


def test_it_measures_models_and_tells_what_it_likes(lab: Lab) -> None:
    async def measuring(rounds: Rounds) -> None:
        assert list(rounds.models) == ["global"]
        before = await rounds.measure("global", ["site-2"])
        assert before == {"site-2": {"value": 0.0, "site": 2.0}}
        assert await rounds.measure("global") == before  # nobody else has shown that it can
        await rounds.train(0)
        await rounds.step(0)
        after = await rounds.measure("global")
        assert {site: found["value"] for site, found in after.items()} == {
            "site-1": 1.5,
            "site-2": 1.5,
        }
        assert (await rounds.evaluate(1))["value"] == 1.5
        rounds.notice(f"seed {rounds.seed}")
        rounds.save("own.json", {"before": before, "nothing": float("inf"), "list": [(1, 2)]})

    async def main() -> tuple[Run, list[str]]:
        run = await recipe(measuring).run(lab.env(2))
        return run, [e.data["text"] async for e in run.events() if e.kind is EventKind.NOTICE]

    run, notices = asyncio.run(main())
    assert "seed 5" in notices
    own = json.loads((run.get_result() / "own.json").read_text())
    assert own["nothing"] is None
    assert own["list"] == [[1, 2]]
    assert len([row for row in run.metrics if row["task"] == "evaluate"]) == 3


def test_sites_that_it_asks_must_answer(lab: Lab) -> None:
    async def asking(rounds: Rounds) -> None:
        await rounds.train(0, ["site-1", "site-9"])

    with pytest.raises(JobFailed, match="round 0 needs 2 sites and 1 is left"):
        recipe(asking).execute(lab.env(2))


def test_a_model_that_is_not_there_cannot_be_measured(lab: Lab) -> None:
    async def measuring(rounds: Rounds) -> None:
        await rounds.measure("site-1", ["site-1"])

    with pytest.raises(JobFailed, match=r"no such model.*'site-1'.*global"):
        recipe(measuring).execute(lab.env(2))


def test_its_mistake_is_told_with_the_user_s_own_line(lab: Lab) -> None:
    async def mistaken(rounds: Rounds) -> None:
        await rounds.train(0)
        await rounds.step(0)
        await asyncio.sleep(-1, int("seven"))

    with pytest.raises(JobFailed, match="the workflow failed: ValueError") as caught:
        recipe(mistaken).execute(lab.env(2))
    last = str(caught.value).splitlines()[-2:]
    assert f'File "{__file__}"' in last[0]
    assert last[1].strip() == 'await asyncio.sleep(-1, int("seven"))'
    assert value(caught.value.run) == 1.5  # what was committed stays


def test_a_round_is_open_to_who_was_asked_and_to_answers_made_for_it(lab: Lab) -> None:
    asked: list[str] = []
    second, go_on = asyncio.Event(), asyncio.Event()

    async def gated(params: Any, ctx: TrainContext) -> dict[str, float]:
        asked.append(ctx.site)
        if len(asked) > 1:
            second.set()
            await go_on.wait()
        return evaluate(params, ctx)

    async def asking_twice(rounds: Rounds) -> None:
        assert isinstance(rounds, SynchronousTraining)
        await rounds.measure("global", ["site-1"])
        measuring = asyncio.ensure_future(rounds.measure("global", ["site-1"]))
        await second.wait()
        rounds.welcome("site-2")  # it has a trainer again, but nobody wants it to work
        first = Submit("site-1", "evaluate", 0, 1, Update(None, metrics={"value": 9.0}))
        assert (await rounds.take(first)).verdict == "late"
        go_on.set()
        assert await measuring == {"site-1": {"value": 0.0, "site": 1.0}}

    recipe(asking_twice, evaluate=gated).execute(lab.env(2))
    assert asked == ["site-1", "site-1"]
