"""The table of runs shows each run's true status, and never cuts it."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from covey.actors.jobs.checkpoint import Checkpoint
from covey.cli.errors import CommandError
from covey.cli.runs import list_runs


def make_run(workspace: Path, name: str, id: str, **summary: Any) -> Path:
    folder = workspace / name / id
    folder.mkdir(parents=True)
    created = f"2025-01-0{id[0]}T10:00:00+00:00"
    (folder / "config.json").write_text(json.dumps({"id": id, "created": created}))
    if summary:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    done = {"rounds": 5, "seconds": 3.25, "error": ""}
    best = {"key_metric": "accuracy", "best_round": 5, "best_value": 0.97654}
    make_run(tmp_path, "digits", "1-aa", status="completed", **done, **best)
    make_run(tmp_path, "a-very-long-name-of-a-recipe-" + 30 * "x", "2-bb", status="failed", **done)
    make_run(tmp_path, "digits", "3-cc")
    make_run(tmp_path, "digits", "4-dd", status="aborted", **done)
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_runs_are_listed_latest_first_with_their_whole_status(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("COLUMNS", "40")
    list_runs(workspace, 20, as_json=False)
    table = shown(capsys)
    assert table[0].split() == ["STATUS", "NAME", "ROUNDS", "BEST", "SECONDS", "STARTED", "FOLDER"]
    statuses = [line.split()[0] for line in table[1:]]
    assert statuses == ["aborted", "unfinished", "failed", "completed"]
    assert "accuracy 0.9765" in table[4]
    assert table[4].endswith("digits/1-aa")


def test_a_run_that_is_not_over_has_the_rounds_that_are_done(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    list_runs(workspace, 20, as_json=True)
    assert json.loads(capsys.readouterr().out)[1]["rounds"] is None, "nothing was committed"
    checkpoint = Checkpoint(workspace / "digits" / "3-cc")
    with checkpoint.writing(7) as fd:
        os.write(fd, b"model")
    checkpoint.commit(7, {})
    list_runs(workspace, 20, as_json=True)
    assert json.loads(capsys.readouterr().out)[1]["rounds"] == 7
    list_runs(workspace, 20, as_json=False)
    assert shown(capsys)[2].split()[:3] == ["unfinished", "digits", "7"]


def test_the_heading_says_what_is_counted(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(workspace, "buffered", "5-ee", status="completed", rounds=400)
    config = json.loads((folder / "config.json").read_text())
    config["manifest"] = {"settings": {"num_rounds": 400, "concurrency": None}}
    (folder / "config.json").write_text(json.dumps(config))
    list_runs(workspace, 1, as_json=False)
    assert shown(capsys)[0].split()[2] == "VERSIONS"
    list_runs(workspace, 2, as_json=False)
    assert shown(capsys)[0].split()[2] == "ROUNDS/VERSIONS"
    list_runs(workspace, 2, as_json=True)
    assert [run["unit"] for run in json.loads(capsys.readouterr().out)] == ["version", "round"]


def test_why_a_run_failed_stands_below_it(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = "all 4 sites failed alike: SystemExit: sys.exit(2)\n  usage: client.py"
    make_run(workspace, "digits", "5-ee", status="failed", rounds=0, seconds=1.0, error=error)
    list_runs(workspace, 2, as_json=False)
    table = shown(capsys)
    assert table[1].startswith("failed ")
    assert table[2] == "  all 4 sites failed alike: SystemExit: sys.exit(2)"
    assert table[3].startswith("aborted ")


def test_a_run_whose_lock_is_held_is_running(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = os.open(workspace / "digits" / "3-cc" / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    list_runs(workspace, 20, as_json=False)
    os.close(lock)
    assert shown(capsys)[2].startswith("running ")


def test_json_has_every_field(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_runs(workspace, 20, as_json=True)
    runs: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert [run["id"] for run in runs] == ["4-dd", "3-cc", "2-bb", "1-aa"]
    assert runs[3] == {
        "status": "completed",
        "id": "1-aa",
        "name": "digits",
        "rounds": 5,
        "unit": "round",
        "key_metric": "accuracy",
        "best_round": 5,
        "best_value": 0.97654,
        "seconds": 3.25,
        "started": "2025-01-01T10:00:00+00:00",
        "error": None,
        "folder": str(workspace / "digits" / "1-aa"),
    }


def test_what_is_left_out_is_said(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_runs(workspace, 1, as_json=False)
    table = shown(capsys)
    assert len(table) == 3
    assert table[2] == "3 older ones: covey runs --last 4"


def test_foreign_files_and_broken_folders_are_no_runs(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "notes.txt").touch()
    (workspace / "digits" / "5-broken").mkdir()
    (workspace / "digits" / "5-broken" / "config.json").write_text("{")
    list_runs(workspace, 20, as_json=True)
    assert len(json.loads(capsys.readouterr().out)) == 4


def test_a_workspace_is_found_in_the_environment_and_may_be_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COVEY_WORKSPACE", str(tmp_path / "none"))
    list_runs(None, 20, as_json=False)
    assert shown(capsys) == [f"no runs in {tmp_path / 'none'}"]
    with pytest.raises(CommandError, match="no folder"):
        list_runs(tmp_path / "none", 20, as_json=False)
