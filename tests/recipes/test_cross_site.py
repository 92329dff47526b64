"""Cross-site evaluation: every model is measured everywhere, and the matrix is kept."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from covey.client import FLModel
from covey.recipes import (
    ConfigError,
    CyclicRecipe,
    EventKind,
    FedAvgRecipe,
    FedBuffRecipe,
    FedEvalRecipe,
    Run,
    RunStatus,
    ScaffoldRecipe,
    TrainContext,
    add_cross_site_evaluation,
)
from tests.recipes import digits
from tests.recipes.digits import LR, SITES

if TYPE_CHECKING:
    from tests.recipes.conftest import Lab

SCRIPT = """
import os
import signal
from pathlib import Path

import numpy as np
import covey.client as flare

FOLDER, asked = Path(__file__).parent, 0


def reach(name):
    if (FOLDER / name).exists():
        (FOLDER / name).write_text(f"{os.getpid()}\\n")
        while True:
            signal.pause()


flare.init()
site = flare.get_site_name()
while flare.is_running():
    model = flare.receive()
    if flare.is_evaluate():
        asked += 1
        reach(f"{site}-asked-{asked}")
        flare.send(flare.FLModel(metrics={"accuracy": float(model.params["w"].sum())}))
        continue
    step = {"w": np.full(2, float(site[-1])), "kept": np.zeros(1)}
    flare.send(flare.FLModel(params=step, params_type="DIFF"))
"""

JOB = """
import numpy as np
from covey.recipes import FedAvgRecipe, SimEnv, add_cross_site_evaluation

recipe = FedAvgRecipe(initial_model={"w": np.zeros(2), "kept": np.ones(1)}, num_rounds=2,
    train_script="client.py", exclude_vars=["kept"])
add_cross_site_evaluation(recipe)
run = recipe.execute(SimEnv(num_clients=3, seed=5))
"""


class Clients:
    """Functions on the digits that remember what each site made last."""

    def __init__(self) -> None:
        self.own: dict[str, digits.Model] = {}

    def train(self, params: Any, ctx: TrainContext) -> Any:
        """Local steps."""
        accuracy = digits.accuracy(params, ctx.site)
        for images, labels in digits.batches(ctx.site):
            gradient = digits.gradient(params, images, labels)
            params = {name: params[name] - LR * gradient[name] for name in params}
        self.own[ctx.site] = params
        return params, {"accuracy": accuracy}

    def evaluate(self, params: Any, ctx: TrainContext) -> dict[str, float]:
        """Measure."""
        return {"accuracy": digits.accuracy(params, ctx.site)}

    def settings(self, **more: Any) -> dict[str, Any]:
        """Of a recipe."""
        own = {"initial_model": digits.initial(), "train": self.train, "evaluate": self.evaluate}
        return own | {"num_rounds": 3} | more

    def expected(self, run: Run, sites: list[str]) -> dict[str, dict[str, dict[str, float]]]:
        """The matrix, from models that are known without it."""
        models: dict[str, Any] = {"global": run.model(), "best": run.best_model(), **self.own}
        return {
            name: {site: {"accuracy": digits.accuracy(models[name], site)} for site in sites}
            for name in ("global", "best", *sorted(self.own))
        }


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (FedAvgRecipe, {}),
        (FedAvgRecipe, {"clients_per_round": 2}),
        (FedAvgRecipe, {"stop_cond": "accuracy >= 0.05", "num_rounds": 9}),
        (CyclicRecipe, {}),
    ],
)
def test_every_model_is_measured_at_every_site(lab: Lab, kind: Any, settings: Any) -> None:
    clients = Clients()
    recipe = kind(**clients.settings(**settings))
    add_cross_site_evaluation(recipe)
    run = recipe.execute(lab.env(SITES))
    assert run.cross_site() == clients.expected(run, digits.names())
    assert json.loads((run.get_result() / "cross_site.json").read_text()) == run.cross_site()
    assert {row["task"] for row in run.metrics} == {"train", "evaluate"}
    evaluated = [row["site"] for row in run.metrics if row["task"] == "evaluate"]
    assert len(evaluated) == len(set(evaluated))  # the last model alone
    assert not (run.get_result() / "checkpoint").exists()


def test_local_models_of_scaffold_are_measured_without_control_variates(lab: Lab) -> None:
    own: dict[str, Any] = {}

    def train(params: Any, ctx: TrainContext) -> FLModel:
        scaffold = ctx.scaffold(params)
        gradient = digits.gradient(params, *digits.of_site(ctx.site))
        scaffold.correct_gradients(gradient)
        own[ctx.site] = params = {name: params[name] - LR * gradient[name] for name in params}
        return scaffold.update(params, lr=LR)

    clients = Clients()
    clients.own = own
    recipe = ScaffoldRecipe(**clients.settings(train=train))
    add_cross_site_evaluation(recipe)
    run = recipe.execute(lab.env(SITES))
    expected = clients.expected(run, digits.names())
    assert run.cross_site() == expected


def by_hand() -> Any:
    """The matrix of the script's run: two rounds, each of which adds the mean of 1, 2 and 3."""
    sites = ("site-1", "site-2", "site-3")
    models = {"global": 8.0, "best": 8.0} | {f"site-{n}": 4.0 + 2 * n for n in (1, 2, 3)}
    return {model: {site: {"accuracy": value} for site in sites} for model, value in models.items()}


@pytest.mark.parametrize("asked", [2, 4])
def test_a_run_that_was_cut_off_in_the_evaluation_makes_it_again(lab: Lab, asked: int) -> None:
    lab.client(text=SCRIPT)
    (lab.folder / "job.py").write_text(JOB)
    lab.kill_at(f"site-2-asked-{asked}")
    assert not (lab.folder_of() / "cross_site.json").exists()
    resumed = lab.run()
    assert resumed.returncode == 0, resumed.stderr
    matrix = json.loads((lab.folder_of() / "cross_site.json").read_text())
    assert matrix == by_hand()


def test_a_site_that_cannot_measure_a_model_is_missing_and_told(lab: Lab) -> None:
    clients = Clients()

    def evaluate(params: Any, ctx: TrainContext) -> dict[str, float]:
        if ctx.site == "site-2":
            raise ValueError("no data")
        value = float("nan") if ctx.site == "site-1" else 1.0
        return {"accuracy": value}

    recipe = FedAvgRecipe(**clients.settings(evaluate=evaluate))
    add_cross_site_evaluation(recipe)
    run = recipe.execute(lab.env(3))
    assert run.get_status() is RunStatus.COMPLETED
    own = {"site-1": {"accuracy": None}, "site-3": {"accuracy": 1.0}}
    assert run.cross_site() == dict.fromkeys(("global", "best", "site-1", "site-2", "site-3"), own)
    summary = json.loads((run.get_result() / "summary.json").read_text())
    assert {failure["site"] for failure in summary["failures"]} == {"site-2"}


def test_scripts_that_cannot_evaluate_leave_an_empty_matrix_and_a_notice(lab: Lab) -> None:
    async def main() -> tuple[Run, list[str]]:
        lab.client()
        recipe = lab.recipe(num_rounds=1)
        add_cross_site_evaluation(recipe)
        run = await recipe.run(lab.env(2))
        return run, [e.data["text"] async for e in run.events() if e.kind is EventKind.NOTICE]

    run, notices = asyncio.run(main())
    assert run.cross_site() == {name: {} for name in ("global", "best", "site-1", "site-2")}
    assert any("is_evaluate()" in text for text in notices)


def test_recipes_that_have_nothing_to_evaluate_with_are_refused() -> None:
    clients = Clients()
    for recipe in (
        FedAvgRecipe(**clients.settings(evaluate=None)),
        FedBuffRecipe(buffer_size=2, **clients.settings()),
        FedEvalRecipe(model={"w": np.zeros(2)}, evaluate=clients.evaluate),
    ):
        with pytest.raises(ConfigError):
            add_cross_site_evaluation(recipe)


def test_a_run_without_it_has_no_matrix(lab: Lab) -> None:
    run = FedAvgRecipe(**Clients().settings(num_rounds=1)).execute(lab.env(2))
    with pytest.raises(FileNotFoundError):
        run.cross_site()
