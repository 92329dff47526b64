"""Curves come back out of MLflow's own reader with the right values, steps and runs."""

from __future__ import annotations

import asyncio
import math
import os
from pathlib import Path

import pytest

from covey.actors.observe.events import EventKind, RunEvent
from covey.actors.observe.mlflow import _name, mlflow_tracker
from covey.actors.observe.recorder import Recorder
from covey.actors.observe.tracking import Experiment

from .readers import Kept, mlflow_runs

pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")

EXPERIMENT = Experiment("digits", "job-1", 5, {"rule": {"lr": 0.1}, "num_rounds": 4})


def story(track: Recorder, rounds: range) -> None:
    """Two sites that stream, and answer in each round."""
    for round_ in rounds:
        for site in ("site-1", "site-2"):
            for batch in range(2):
                step = round_ * 20 + batch * 10
                data = {"key": "loss", "value": 1 / (step + 1), "step": step, "type": "scalar"}
                track(RunEvent(EventKind.METRIC, round_, site, data))
            metrics = {"accuracy": round_ / 4, "loss": 0.5}
            track(RunEvent(EventKind.SITE_FINISHED, round_, site, {"metrics": metrics}))
        data = {"metrics": {"accuracy": round_ / 8, "worst": math.nan, "acc@../5": 1.0}}
        track(RunEvent(EventKind.ROUND_FINISHED, round_, None, data))


async def in_two_parts(folder: Path) -> None:
    """A run that is interrupted after two rounds, and goes on to fail after four."""
    track = mlflow_tracker(folder, EXPERIMENT)
    story(track, range(2))
    track(RunEvent(EventKind.RUN_FINISHED, data={"status": "aborted"}))
    await track.end()
    track = mlflow_tracker(folder, EXPERIMENT)
    for kind, key, value in (("text", "note", "grüße"), ("parameter", "lr", "0.1")):
        data = {"key": key, "value": value, "step": 7, "type": kind}
        track(RunEvent(EventKind.METRIC, 2, "site-1", data))
    story(track, range(2, 4))
    track(RunEvent(EventKind.RUN_FINISHED, data={"status": "failed"}))
    await track.end()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A name that means something in a URL.
    folder = tmp_path_factory.mktemp("run") / "what? 100%#1" / "mlflow"
    before = dict(os.environ)
    asyncio.run(in_two_parts(folder))
    assert dict(os.environ) == before, "the environment is as it was"
    return folder


@pytest.fixture(scope="module")
def kept(folder: Path) -> dict[str, Kept]:
    return mlflow_runs(folder)


def test_every_site_and_the_global_model_has_one_run_with_its_curves(kept: dict[str, Kept]) -> None:
    assert sorted(kept) == ["global", "site-1", "site-2"]
    for site in ("site-1", "site-2"):
        steps = [round_ * 20 + batch * 10 for round_ in range(4) for batch in range(2)]
        assert kept[site].curves["loss"] == {step: 1 / (step + 1) for step in steps}
        assert kept[site].curves["round/loss"] == dict.fromkeys(range(4), 0.5)
        assert kept[site].curves["accuracy"] == {0: 0.0, 1: 0.25, 2: 0.5, 3: 0.75}
    curves = kept["global"].curves
    assert curves["accuracy"] == {0: 0.0, 1: 0.125, 2: 0.25, 3: 0.375}
    assert all(math.isnan(value) for value in curves["worst"].values())
    assert curves["acc_../5"] == dict.fromkeys(range(4), 1.0)


def test_runs_of_sites_are_nested_in_the_global_one(kept: dict[str, Kept]) -> None:
    whole = kept["global"].about
    assert whole["experiment"] == "digits"
    assert whole["name"] == "job-1"
    assert whole["params"] == {"rule.lr": "0.1", "num_rounds": "4"}
    for site in ("site-1", "site-2"):
        about = kept[site].about
        assert about["name"] == site
        assert about["tags"]["mlflow.parentRunId"] == whole["id"]
    for site, run in kept.items():
        assert run.about["status"] == "FAILED"
        tags = run.about["tags"]
        assert (tags["covey.job"], tags["covey.seed"], tags["covey.site"]) == ("job-1", "5", site)


def test_texts_are_artifacts_and_a_scripts_parameters_tags(
    folder: Path, kept: dict[str, Kept]
) -> None:
    about = kept["site-1"].about
    assert about["tags"]["lr"] == "0.1"
    assert about["artifacts"] == ["note.txt"]
    (file,) = (folder / "artifacts").rglob("note.txt")
    assert file.read_text() == "7\tgrüße\n"


def test_everything_stays_in_the_folder(folder: Path) -> None:
    assert sorted(os.listdir(folder)) == ["artifacts", "mlflow.db", "recorder.log"]
    assert (folder / "recorder.log").read_text() == ""


def test_names_that_mlflow_refuses_are_changed() -> None:
    assert _name("train/loss:a b.c-d_é") == "train/loss:a b.c-d_é"
    assert _name("a@b(c)") == "a_b_c_"
    assert _name("/../x/./y//z/") == "_/_/x/_/y/_/z/_"
    assert _name("") == "_"
    assert len(_name("x" * 300)) == 250
