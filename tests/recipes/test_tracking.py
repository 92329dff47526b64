"""What trackers keep of a run is what its own files say, value by value."""

from __future__ import annotations

import json
import os
import threading
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from covey.actors.observe import wandb
from covey.recipes import (
    ConfigError,
    FedBuffRecipe,
    LogNormal,
    Run,
    SimEnv,
    TrainContext,
    add_experiment_tracking,
)
from tests.actors.observe.readers import Curve, mlflow_runs, wandb_runs

if TYPE_CHECKING:
    from tests.recipes.conftest import Lab

needs_all = pytest.mark.skipif(
    not (find_spec("mlflow") and find_spec("wandb") and find_spec("tensorboard")),
    reason="the extras `tracking`, `mlflow` and `wandb` are not all installed",
)

#: Site -> curve -> step -> value.
Found = dict[str, dict[str, Curve]]

STREAMS = """
from covey.client.tracking import SummaryWriter
writer = SummaryWriter()
for batch in range(3):
    writer.add_scalar("loss", 1 / (1 + round * 3 + batch), round * 3 + batch)
metrics["score"] = round / 3 + len(site)
"""


def told(run: Run) -> Found:
    """The same from the run's own files: `metrics.jsonl`, and what scripts streamed."""
    found: Found = defaultdict(lambda: defaultdict(dict))
    for row in run.metrics:
        for name, value in row["metrics"].items():
            found[row["site"]][name][row["round"]] = value
    for line in (run.get_result() / "logs" / "server.jsonl").read_text().splitlines():
        kind, _, site, _, data = json.loads(line)
        if kind == "metric":
            found[site][data["key"]][data["step"]] = data["value"]
    return found


def tensorboard_curves(folder: Path) -> Found:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: Found = {}
    for site in folder.iterdir():
        reader: Any = EventAccumulator(str(site))
        reader.Reload()
        tags = reader.Tags()["scalars"]
        found[site.name] = {tag: {e.step: e.value for e in reader.Scalars(tag)} for tag in tags}
    return found


@needs_all
def test_every_tracker_has_the_values_of_metrics_jsonl_and_of_the_scripts(lab: Lab) -> None:
    lab.client(STREAMS)
    recipe = lab.recipe(num_rounds=2, key_metric="score")
    for kind in ("tensorboard", "mlflow", "wandb"):
        add_experiment_tracking(recipe, kind)
    before = dict(os.environ)
    run = recipe.execute(lab.env(2))
    assert dict(os.environ) == before
    assert not [thread for thread in threading.enumerate() if "tracking" in thread.name]

    expected = told(run)
    assert set(expected) == {"site-1", "site-2", "global"}
    assert set(expected["site-1"]) == {"loss", "accuracy", "score"}
    assert len(expected["site-1"]["loss"]) == 6
    tracking = run.get_result() / "tracking"
    by_mlflow, by_wandb = mlflow_runs(tracking / "mlflow"), wandb_runs(tracking / "wandb")
    assert {site: kept.curves for site, kept in by_mlflow.items()} == expected
    assert {site: kept.curves for site, kept in by_wandb.items()} == expected
    # TensorBoard's own records have floats of 32 bits.
    assert tensorboard_curves(tracking / "tensorboard") == {
        site: {name: pytest.approx(curve, rel=1e-6) for name, curve in curves.items()}
        for site, curves in expected.items()
    }
    about = by_mlflow["global"].about
    assert (about["status"], about["name"]) == ("FINISHED", run.get_job_id())
    assert about["params"]["num_rounds"] == "2"
    assert by_wandb["global"].about["parts"][0]["end"] == 0
    notices = [event for event in run._journal.events if event.kind == "notice"]
    assert notices == []


def fails(tracker: str, folder: Path) -> tuple[str, ...]:
    del tracker, folder
    return ("/bin/false",)


@pytest.mark.skipif(not find_spec("wandb"), reason="the extra `wandb` is not installed")
def test_a_tracker_that_fails_harms_no_run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.client(STREAMS)
    recipe = lab.recipe(num_rounds=2)
    monkeypatch.setattr(wandb, "command", fails)
    add_experiment_tracking(recipe, "wandb")
    run = recipe.execute(lab.env(2))
    assert run.get_status() == "completed"
    (notice,) = (event.data["text"] for event in run._journal.events if event.kind == "notice")
    assert "TrackingFailed: its process ended with 1; see " in notice
    assert "recorder.log" in notice


def test_a_package_that_is_missing_is_told_before_anything_starts(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.client()

    def missing(name: str) -> None:
        del name

    monkeypatch.setattr("covey.actors.observe.tracking.find_spec", missing)
    recipe = lab.recipe()
    for kind in ("mlflow", "wandb"):
        with pytest.raises(ConfigError, match=rf"pip install 'covey\[{kind}\]'") as caught:
            add_experiment_tracking(recipe, kind)
        assert caught.value.setting == "tracking_type"
    with pytest.raises(ConfigError, match="did you mean 'mlflow'"):
        add_experiment_tracking(recipe, "mlfow")
    assert recipe.tracking == ()


def test_steps_of_asynchronous_training_only_grow(tmp_path: Path) -> None:
    accumulator: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def train(params: dict[str, Any], ctx: TrainContext) -> object:
        return params, {"accuracy": float(ctx.rng.random())}

    recipe = FedBuffRecipe(
        initial_model={"w": np.zeros(2)}, train=train, num_rounds=60, buffer_size=2
    )
    add_experiment_tracking(recipe, tracking_type="tensorboard")
    durations = LogNormal(0.0, 1.0)
    env = SimEnv(8, seed=2, workspace=tmp_path, progress=False, durations=durations)
    run = recipe.execute(env)
    judged = [row["round"] for row in run.metrics if row["site"] == "global" and row["metrics"]]
    assert judged != sorted(judged), "versions are judged in another order"
    folder = run.get_result() / "tracking" / "tensorboard"
    for site in ("global", *env.sites):
        reader = accumulator.EventAccumulator(str(folder / site))
        reader.Reload()
        drawn = [(event.step, event.value) for event in reader.Scalars("accuracy")]
        steps = [step for step, _ in drawn]
        assert steps == sorted(set(steps))
        rows = [row for row in run.metrics if row["site"] == site and row["metrics"]]
        measured = {row["round"]: row["metrics"]["accuracy"] for row in reversed(rows)}
        assert dict(drawn) == pytest.approx(measured)
