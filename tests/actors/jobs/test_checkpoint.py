"""What is on disk after a kill between any two steps of a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from covey.actors.jobs.checkpoint import BEST, MODEL, STATE, Checkpoint, link, write_atomically


def write(checkpoint: Checkpoint, version: int) -> None:
    with checkpoint.writing(version) as fd:
        os.write(fd, f"model {version}".encode())


def begun(folder: Path, best: int | None = None) -> Checkpoint:
    """A checkpoint at version 1."""
    checkpoint = Checkpoint(folder)
    write(checkpoint, 0)
    checkpoint.commit(0, {"best_version": None})
    if best == 0:
        checkpoint.mark_best(0)
    write(checkpoint, 1)
    checkpoint.commit(1, {"best_version": best})
    return checkpoint


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoint").iterdir()}


def test_nothing_was_committed_in_a_new_folder(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.load() is None
    write(checkpoint, 0)
    assert checkpoint.load() is None


def test_a_commit_is_what_load_gives(tmp_path: Path) -> None:
    begun(tmp_path)
    assert Checkpoint(tmp_path).load() == {"version": 1, "best_version": None}
    assert (tmp_path / MODEL).read_text() == "model 1"
    assert names(tmp_path) == {STATE, "model-1.safetensors"}


def test_the_version_that_counts_is_the_one_that_was_committed_last(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.version == 0
    checkpoint = begun(tmp_path)
    write(checkpoint, 2)
    assert checkpoint.version == 1
    again = Checkpoint(tmp_path)
    again.load()
    assert again.version == 1


def test_the_best_version_stays(tmp_path: Path) -> None:
    begun(tmp_path, best=0)
    assert names(tmp_path) == {STATE, "model-0.safetensors", "model-1.safetensors"}
    assert (tmp_path / BEST).read_text() == "model 0"


def test_a_version_that_was_not_committed_is_swept_away(tmp_path: Path) -> None:
    write(begun(tmp_path), 2)
    (tmp_path / "checkpoint" / "model-3.partial").write_text("half")
    assert Checkpoint(tmp_path).load() == {"version": 1, "best_version": None}
    assert names(tmp_path) == {STATE, "model-1.safetensors"}


def test_a_kill_between_commit_and_the_models_name_is_put_right(tmp_path: Path) -> None:
    checkpoint = begun(tmp_path)
    link(checkpoint.path(1), tmp_path / "old")
    write(checkpoint, 2)
    checkpoint.commit(2, {"best_version": None})
    link(tmp_path / "old", tmp_path / MODEL)  # as if it had not come so far
    Checkpoint(tmp_path).load()
    assert (tmp_path / MODEL).read_text() == "model 2"


@pytest.mark.parametrize("best", [None, 0])
def test_a_best_model_marked_before_the_kill_is_taken_back(
    tmp_path: Path, best: int | None
) -> None:
    # Marked in round 1, whose commit never came: the round is run again.
    begun(tmp_path, best).mark_best(1)
    assert (tmp_path / BEST).read_text() == "model 1"
    Checkpoint(tmp_path).load()
    if best is None:
        assert not (tmp_path / BEST).exists()
    else:
        assert (tmp_path / BEST).read_text() == "model 0"


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"version": "1"}', '{"version": 7}', "\xff"])
def test_a_state_that_is_none_counts_as_none(tmp_path: Path, text: str) -> None:
    begun(tmp_path)
    (tmp_path / "checkpoint" / STATE).write_text(text, encoding="latin-1")
    assert Checkpoint(tmp_path).load() is None


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    checkpoint = begun(tmp_path)

    def fail() -> None:
        with checkpoint.writing(2) as fd:
            os.write(fd, b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert names(tmp_path) == {STATE, "model-1.safetensors"}


def test_the_models_outlive_their_checkpoint(tmp_path: Path) -> None:
    begun(tmp_path, best=0).discard()
    assert (tmp_path / MODEL).read_text() == "model 1"
    assert (tmp_path / BEST).read_text() == "model 0"
    assert not (tmp_path / "checkpoint").exists()


def test_models_are_further_names_and_not_copies(tmp_path: Path) -> None:
    checkpoint = begun(tmp_path)
    assert (tmp_path / MODEL).samefile(checkpoint.path(1))


def test_a_file_system_without_hard_links_gets_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, name: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    checkpoint = begun(tmp_path)
    assert (tmp_path / MODEL).read_text() == "model 1"
    assert not (tmp_path / MODEL).samefile(checkpoint.path(1))


def test_linking_a_file_to_its_own_name_leaves_no_other(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    link(tmp_path / "a", tmp_path / "b")
    link(tmp_path / "a", tmp_path / "b")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_a_write_that_fails_names_its_file_and_keeps_the_old_text(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomically(path, "old")
    (tmp_path / "state.partial").mkdir()
    with pytest.raises(OSError, match="state") as caught:
        write_atomically(path, "new")
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"


def test_where_users_see_something_else_than_a_version_the_names_are_of_that(
    tmp_path: Path,
) -> None:
    def show(version: int, shown: int) -> None:
        os.write(shown, os.pread(version, 100, 0).upper())

    checkpoint = Checkpoint(tmp_path, show)
    for number in range(3):
        with checkpoint.writing(number) as fd:
            os.write(fd, b"model %d" % number)
        if number == 1:
            checkpoint.mark_best(1)
        checkpoint.commit(number, {"best_version": 1 if number else None})
    assert checkpoint.path(2).read_bytes() == b"model 2"
    assert (tmp_path / "model.safetensors").read_bytes() == b"MODEL 2"
    assert (tmp_path / "best_model.safetensors").read_bytes() == b"MODEL 1"
    kept = {path.name for path in (tmp_path / "checkpoint").iterdir()}
    assert kept == {
        "state.json",
        *(f"{kind}-{n}.safetensors" for kind in ("model", "shown") for n in (1, 2)),
    }
    again = Checkpoint(tmp_path, show)
    again.load()
    assert (tmp_path / "model.safetensors").read_bytes() == b"MODEL 2"


def test_what_sites_keep_is_theirs_until_the_run_is_over(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    (checkpoint.sites / "site-1").mkdir(parents=True)
    (checkpoint.sites / "site-1" / "own").write_text("kept")
    with checkpoint.writing(0) as fd:
        os.write(fd, b"model")
    checkpoint.commit(0, {"best_version": None})
    Checkpoint(tmp_path).load()
    assert (checkpoint.sites / "site-1" / "own").read_text() == "kept"
    checkpoint.discard()
    assert not checkpoint.sites.exists()
