"""Run folders: their locks, and which of them is an unfinished run."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from covey.actors.jobs.manifest import JobManifest
from covey.recipes import ConfigError
from covey.recipes.folder import RunFolder, folders, is_running, workspace_of
from covey.recipes.leftover import leftover


def manifest(name: str = "job", model: str = "m") -> JobManifest:
    return JobManifest("FedAvgRecipe", name, ("site-1",), {"num_rounds": 3}, model, {"a.py": "1"})


def create(workspace: Path, seed: int = 1, model: str = "m") -> RunFolder:
    return RunFolder.create(workspace, manifest(model=model), seed, {})


def find(workspace: Path, seed: int | None = None, model: str = "m") -> Path | None:
    found = RunFolder.find_unfinished(workspace, manifest(model=model), seed)
    if found is None:
        return None
    found.close()
    return found.path


def test_a_run_cut_off_is_found_by_its_manifest_and_seed(tmp_path: Path) -> None:
    folder = create(tmp_path, seed=4)
    folder.close()
    assert find(tmp_path) == folder.path
    assert find(tmp_path, seed=4) == folder.path
    assert find(tmp_path, seed=5) is None
    assert find(tmp_path, model="other") is None


def test_a_live_run_is_not_found(tmp_path: Path) -> None:
    folder = create(tmp_path)
    assert is_running(folder.path)
    assert find(tmp_path) is None
    folder.close()
    folder.close()
    assert not is_running(folder.path)
    assert find(tmp_path) == folder.path


def test_a_finished_run_is_not_found(tmp_path: Path) -> None:
    folder = create(tmp_path)
    folder.summarise({"status": "failed"})
    folder.close()
    assert find(tmp_path) is None


def begun(workspace: Path, name: str, seed: int) -> Path:
    """A run of a second in which others began too, cut off."""
    folder = create(workspace, seed=seed)
    folder.close()
    path = folder.path.rename(folder.path.with_name(f"20200101T000000Z-{name}"))
    os.utime(path / "config.json", ns=(seed, seed))
    return path


def test_a_run_cut_off_does_not_come_back_after_a_later_one(tmp_path: Path) -> None:
    older, later = begun(tmp_path, "ffffff", 4), begun(tmp_path, "000000", 5)
    assert find(tmp_path) == later
    (later / "summary.json").write_text("{}")
    assert find(tmp_path) is None
    assert find(tmp_path, seed=4) == older  # another seed's run says nothing about it


def test_an_unfinished_run_of_another_configuration_is_told(tmp_path: Path) -> None:
    left = create(tmp_path)
    assert not leftover(tmp_path, manifest(model="other"), None), "it is running"
    left.close()
    assert not leftover(tmp_path, manifest(), None), "it is the one that is resumed"
    assert leftover(tmp_path, manifest(), 2).endswith("(seed 1 there, 2 here)")
    told = leftover(tmp_path, manifest(model="other"), 1)
    assert told == (
        f"starting anew: the unfinished run in {left.path} is of another configuration "
        "(initial_model has changed)"
    )
    settings = {"num_rounds": 5, "train_args": ["--lr", "0.1"] * 9}
    other = JobManifest("FedProxRecipe", "job", ("a", "b"), settings, "m", {"b.py": "1"})
    assert leftover(tmp_path, other, None).endswith(
        "(recipe FedAvgRecipe there, FedProxRecipe here, num_rounds 3 there, 5 here, "
        "train_args differs and 3 more)"
    )
    left.summarise({})
    assert not leftover(tmp_path, other, None), "it is over"


def test_a_run_that_finishes_while_it_is_looked_at_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = create(tmp_path)
    from covey.recipes import folder as module

    lock = module._lock

    def finish_first(path: Path) -> int | None:
        folder.summarise({"status": "completed"})
        folder.close()
        return lock(path)

    monkeypatch.setattr(module, "_lock", finish_first)
    assert find(tmp_path) is None
    monkeypatch.undo()
    assert not is_running(folder.path)


def looking(path: Path) -> int:
    """A process that looks whether a run lives, in the moment in which it does."""
    fd = os.open(path / ".lock", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return fd


def test_who_looks_whether_a_run_lives_keeps_nobody_from_resuming_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = create(tmp_path)
    folder.close()
    fds = [looking(folder.path), looking(folder.path)]

    def one_goes(seconds: float) -> None:
        del seconds
        assert not is_running(folder.path)
        os.close(fds.pop())

    monkeypatch.setattr("covey.recipes.folder.time.sleep", one_goes)
    assert find(tmp_path) == folder.path
    assert fds == []


def test_a_lock_that_is_shared_for_ever_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = create(tmp_path)
    folder.close()
    fd = looking(folder.path)
    waited: list[float] = []
    monkeypatch.setattr("covey.recipes.folder.time.sleep", waited.append)
    assert find(tmp_path) is None
    assert sum(waited) < 1
    os.close(fd)
    assert find(tmp_path) == folder.path


def test_a_folder_without_configuration_is_none(tmp_path: Path) -> None:
    (tmp_path / "job" / "20200101T000000Z-aaaaaa").mkdir(parents=True)
    (tmp_path / "job" / "note.txt").write_text("mine")
    broken = tmp_path / "job" / "20200102T000000Z-aaaaaa"
    broken.mkdir()
    (broken / "config.json").write_text('{"digest": ')
    assert list(folders(tmp_path / "job")) == []
    assert find(tmp_path) is None


def test_a_folder_says_what_it_was_made_of(tmp_path: Path) -> None:
    folder = create(tmp_path, seed=9)
    config = json.loads((folder.path / "config.json").read_text())
    assert config["manifest"]["sites"] == ["site-1"]
    assert (config["seed"], config["digest"]) == (9, manifest().digest)
    assert config["versions"]["covey"]
    assert folder.seed == 9
    folder.close()


def test_a_workspace_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "job").write_text("")
    with pytest.raises(ConfigError, match=r"workspace: .*job/.*Not a directory") as caught:
        create(tmp_path)
    assert caught.value.__suppress_context__, "the text has all of it"


def test_the_workspace_is_the_argument_then_the_variable_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COVEY_WORKSPACE", raising=False)
    assert workspace_of(None) == tmp_path / "covey_runs"
    monkeypatch.setenv("COVEY_WORKSPACE", "elsewhere")
    assert workspace_of(None) == tmp_path / "elsewhere"
    assert workspace_of("mine") == tmp_path / "mine"
