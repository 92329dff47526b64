"""What a job keeps on disk so that it can go on after any kill.

Each version of the global model is a file of its own, written aside and renamed
when complete; `state.json` names the version that counts, and replacing it is
the commit. Whatever a kill leaves half done is not named by it and is swept
away at the next start. `model.safetensors` and `best_model.safetensors` are
further names (hard links) of the versions they stand for: no byte is copied.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, cast

STATE: Final = "state.json"
MODEL: Final = "model.safetensors"
BEST: Final = "best_model.safetensors"


class Checkpoint:
    """The checkpoint of one run folder. Methods block for as long as the disk does."""

    def __init__(self, folder: Path) -> None:
        """Use (and make) `folder/checkpoint`."""
        self.folder = folder
        self._own = folder / "checkpoint"
        self._own.mkdir(parents=True, exist_ok=True)

    def path(self, version: int) -> Path:
        """Where a version of the model lies."""
        return self._own / f"model-{version}.safetensors"

    @contextmanager
    def writing(self, version: int) -> Iterator[int]:
        """Give a file descriptor to write a version to; it becomes the version's file at the end.

        An error inside leaves nothing behind. Raises `OSError` as the disk does.
        """
        path = self.path(version)
        partial = path.with_suffix(".partial")
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            try:
                yield fd
            finally:
                os.close(fd)
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise

    def commit(self, version: int, state: Mapping[str, Any]) -> None:
        """Make `version` the one that counts, with the state that belongs to it."""
        write_atomically(self._own / STATE, json.dumps({"version": version, **state}))
        link(self.path(version), self.folder / MODEL)
        for stray in self._own.glob("model-*"):
            if stray != self.path(version):
                stray.unlink()

    def mark_best(self, version: int) -> None:
        """Let `best_model.safetensors` name a version that is still on disk."""
        link(self.path(version), self.folder / BEST)

    def load(self) -> dict[str, Any] | None:
        """The committed state with its `version`, None where nothing was committed.

        Sweeps away what a kill left half done.
        """
        try:
            state: Any = json.loads((self._own / STATE).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        version = state.get("version") if isinstance(state, dict) else None
        if not isinstance(version, int) or not self.path(version).is_file():
            return None
        for stray in self._own.glob("*.partial"):
            stray.unlink()
        return cast("dict[str, Any]", state)

    def discard(self) -> None:
        """Remove the checkpoint of a run that needs it no more; the models' names stay."""
        shutil.rmtree(self._own, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Replace a small file as one step: readers see the old or the new text, never a part."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def link(source: Path, name: Path) -> None:
    """Let `name` be another name of `source`, taking the place of what it named before.

    Where the file system has no hard links the file is copied.
    """
    partial = name.with_name(f".{name.name}.partial")
    with suppress(FileNotFoundError):
        partial.unlink()
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    partial.replace(name)
