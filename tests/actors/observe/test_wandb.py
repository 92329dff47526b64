"""Curves come back out of wandb's own reader with the right values, steps and runs."""

from __future__ import annotations

import asyncio
import math
import os
from contextlib import suppress
from pathlib import Path

import pytest

from covey.actors.observe.errors import TrackingFailed
from covey.actors.observe.events import EventKind, RunEvent
from covey.actors.observe.recorder import Recorder
from covey.actors.observe.tracking import Experiment
from covey.actors.observe.wandb import wandb_tracker

from .readers import Kept, wandb_runs

pytest.importorskip("wandb", reason="the extra `wandb` is not installed")

EXPERIMENT = Experiment("digits: first", "job-1", 5, {"rule": {"lr": 0.1}, "num_rounds": 4})


def story(track: Recorder, rounds: range) -> None:
    """A site that streams, and answers in each round."""
    for round_ in rounds:
        for batch in range(2):
            step = round_ * 20 + batch * 10
            data = {"key": "loss", "value": 1 / (step + 1), "step": step, "type": "scalar"}
            track(RunEvent(EventKind.METRIC, round_, "site-1", data))
        metrics = {"accuracy": round_ / 4, "loss": 0.5, "step": 3.0, "_secret*": 1.0}
        track(RunEvent(EventKind.SITE_FINISHED, round_, "site-1", {"metrics": metrics}))
        data = {"metrics": {"accuracy": round_ / 8, "worst": math.nan}}
        track(RunEvent(EventKind.ROUND_FINISHED, round_, None, data))


async def in_two_parts(folder: Path) -> None:
    """A run that is interrupted after two rounds, and goes on to complete after four."""
    track = wandb_tracker(folder, EXPERIMENT)
    story(track, range(2))
    track(RunEvent(EventKind.RUN_FINISHED, data={"status": "aborted"}))
    await track.end()
    track = wandb_tracker(folder, EXPERIMENT)
    for kind, key, value in (("text", "note", "grüße"), ("parameter", "lr", "0.1")):
        data = {"key": key, "value": value, "step": 7, "type": kind}
        track(RunEvent(EventKind.METRIC, 2, "site-1", data))
    story(track, range(2, 4))
    track(RunEvent(EventKind.RUN_FINISHED, data={"status": "completed"}))
    await track.end()


def processes_told_of(folder: Path) -> list[bytes]:
    """Command lines of processes whose environment names the folder, as a recorder's does."""
    found: list[bytes] = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder).encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes())
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "wandb"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "online")
        patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        before = dict(os.environ)
        asyncio.run(in_two_parts(folder))
        assert dict(os.environ) == before, "the environment is as it was"
    return folder


@pytest.fixture(scope="module")
def kept(folder: Path) -> dict[str, Kept]:
    return wandb_runs(folder)


def test_every_site_and_the_global_model_has_its_curves(kept: dict[str, Kept]) -> None:
    assert sorted(kept) == ["global", "site-1"]
    curves = kept["site-1"].curves
    steps = [round_ * 20 + batch * 10 for round_ in range(4) for batch in range(2)]
    assert curves["loss"] == {step: 1 / (step + 1) for step in steps}
    assert curves["round/loss"] == dict.fromkeys(range(4), 0.5)
    assert curves["accuracy"] == {0: 0.0, 1: 0.25, 2: 0.5, 3: 0.75}
    assert curves["metric/step"] == dict.fromkeys(range(4), 3.0)
    assert curves["metric/_secret*"] == dict.fromkeys(range(4), 1.0)
    assert curves["note"] == {7: "grüße"}
    assert kept["global"].curves["accuracy"] == {0: 0.0, 1: 0.125, 2: 0.25, 3: 0.375}
    assert set(kept["global"].curves["worst"].values()) == {"NaN"}


def test_runs_are_one_group_and_say_what_they_are_of(kept: dict[str, Kept]) -> None:
    for site, kind, name in (("site-1", "site", "site-1"), ("global", "global", "job-1")):
        for part in kept[site].about["parts"]:
            run = part["run"]
            assert (run["project"], run["run_group"]) == ("digits__first", "job-1")
            assert (run["display_name"], run["job_type"]) == (name, kind)
            assert run["tags"] == ["job:job-1", "seed:5"]
            config = part["config"]
            assert (config["job"], config["seed"], config["site"]) == ("job-1", 5, site)
            assert (config["rule"], config["num_rounds"]) == ({"lr": 0.1}, 4)
    assert kept["site-1"].about["parts"][1]["config"]["lr"] == "0.1"


def test_a_resumed_run_goes_on_under_the_same_id(kept: dict[str, Kept]) -> None:
    for site in kept.values():
        first, second = site.about["parts"]
        assert first["run"]["run_id"] == second["run"]["run_id"]
        assert (first["end"], second["end"]) == (1, 0)
        rows = site.about["rows"]
        assert rows == sorted(set(rows)), "wandb's own numbers of rows go on as well"


def test_nothing_else_is_left(folder: Path) -> None:
    names = sorted(os.listdir(folder))
    assert [name for name in names if not name.startswith("offline-run-")] == [
        ".private",
        "recorder.log",
    ]
    assert (folder / "recorder.log").read_text() == ""
    assert not processes_told_of(folder)


def test_a_folder_that_cannot_be_written_is_told_with_its_reason(tmp_path: Path) -> None:
    async def main() -> None:
        folder = tmp_path / "wandb"
        track = wandb_tracker(folder, EXPERIMENT)
        (folder / ".private").write_text("a file where a folder must be")
        track(RunEvent(EventKind.RUN_FINISHED, data={"status": "completed"}))
        with pytest.raises(TrackingFailed, match="FileExistsError"):
            await track.end()

    asyncio.run(main())
