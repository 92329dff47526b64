"""Federated evaluation: a given model is measured everywhere and trained nowhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from covey.client import FLModel
from covey.recipes import ConfigError, FedEvalRecipe, JobFailed, RunStatus, TrainContext
from tests.recipes import digits
from tests.recipes.digits import SITES

if TYPE_CHECKING:
    from tests.recipes.conftest import Lab

SCRIPT = """
import covey.client as flare
import digits

flare.init()
while flare.is_running():
    model = flare.receive()
    assert flare.is_evaluate()
    site = flare.get_site_name()
    metrics = {"accuracy": digits.accuracy(model.params, site)}
    samples = len(digits.of_site(site)[0])
    flare.send(flare.FLModel(metrics=metrics, meta={"NUM_STEPS_CURRENT_ROUND": samples}))
"""


def evaluate(params: Any, ctx: TrainContext) -> FLModel:
    """Measure; a site weighs what it has samples."""
    samples = len(digits.of_site(ctx.site)[0])
    return FLModel(
        metrics={"accuracy": digits.accuracy(params, ctx.site)},
        meta={"NUM_STEPS_CURRENT_ROUND": samples},
    )


def model() -> digits.Model:
    """A model that has learned something."""
    params = digits.initial()
    images, labels = digits.data()
    for _ in range(20):
        gradient = digits.gradient(params, images, labels)
        params = {name: params[name] - gradient[name] for name in params}
    return params


@pytest.mark.parametrize("by", ["function", "script"])
def test_every_site_measures_the_model_and_the_mean_is_weighted(lab: Lab, by: str) -> None:
    given = model()
    if by == "script":
        shutil.copy(Path(digits.__file__), lab.folder / "digits.py")
        recipe = FedEvalRecipe(model=given, evaluate_script=lab.client(text=SCRIPT))
    else:
        recipe = FedEvalRecipe(initial_model=given, evaluate=evaluate)
    run = recipe.execute(lab.env(SITES))
    expected = {site: digits.accuracy(given, site) for site in digits.names()}
    samples = [len(digits.of_site(site)[0]) for site in digits.names()]
    mean = float(np.average(list(expected.values()), weights=samples))
    rows = run.metrics
    assert {row["task"] for row in rows} == {"evaluate"}
    told = {row["site"]: row["metrics"]["accuracy"] for row in rows}
    assert told == pytest.approx(expected | {"global": mean})
    assert run.get_status() is RunStatus.COMPLETED
    digits.assert_close(run.model(), given, relative=0)
    summary = json.loads((run.get_result() / "summary.json").read_text())
    assert (summary["best_round"], summary["rounds"]) == (0, 0)
    assert summary["best_value"] == pytest.approx(mean)


def failing(*sites: str) -> Any:
    def evaluate_or_fail(params: Any, ctx: TrainContext) -> FLModel:
        if ctx.site in sites:
            raise ValueError(f"no data at {ctx.site}")
        return evaluate(params, ctx)

    return evaluate_or_fail


def test_a_site_that_cannot_measure_is_named_and_left_out(lab: Lab) -> None:
    run = FedEvalRecipe(model=model(), evaluate=failing("site-2")).execute(lab.env(3))
    assert [row["site"] for row in run.metrics] == ["site-1", "site-3", "global"]
    summary = json.loads((run.get_result() / "summary.json").read_text())
    assert [failure["site"] for failure in summary["failures"]] == ["site-2"]


def test_the_run_fails_if_nobody_answers_and_names_the_user_s_line(lab: Lab) -> None:
    recipe = FedEvalRecipe(model=model(), evaluate=failing("site-1", "site-2"))
    with pytest.raises(JobFailed, match="no data at site-1") as caught:
        recipe.execute(lab.env(2))
    assert caught.value.run.get_status() is RunStatus.FAILED
    assert "raise ValueError" in str(caught.value)


def test_min_clients_none_needs_every_answer(lab: Lab) -> None:
    recipe = FedEvalRecipe(model=model(), evaluate=failing("site-3"), min_clients=None)
    with pytest.raises(JobFailed, match="no data at site-3"):
        recipe.execute(lab.env(3))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "evaluate: give either"),
        ({"evaluate": evaluate, "evaluate_script": "x.py"}, "evaluate: give either"),
        ({"evaluate": evaluate, "key_metric_mode": "most"}, "key_metric_mode"),
        ({"evaluate": evaluate, "initial_model": model()}, "another name"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        FedEvalRecipe(model=model(), **settings)


def test_its_lines_and_report_say_what_was_done(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = FedEvalRecipe(model=model(), evaluate=evaluate)
    run = recipe.execute(lab.env(2, progress=True))
    first, second, *rest = capsys.readouterr().out.splitlines()
    assert first == "fedeval: 2 sites, evaluation alone, seed 5"
    assert second.startswith("evaluation  2 ok  accuracy ")
    assert rest[0].startswith("status: completed, 2 sites measured the model in ")
    assert "round" not in second
    assert not any("best model" in line for line in rest)
    page = (run.get_result() / "report.html").read_text()
    assert "<dt>Measured</dt>" in page
    assert "<dt>Rounds</dt>" not in page
