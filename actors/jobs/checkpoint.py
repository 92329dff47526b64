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
import re
import shutil
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, cast

from covey.algorithms.tensors.dtypes import F64

CHECKPOINT: Final = "checkpoint"
STATE: Final = "state.json"
MODEL: Final = "model.safetensors"
BEST: Final = "best_model.safetensors"
_NUMBERED: Final = re.compile(r"[a-z]+-(\d+)\.[a-z]+")


class Checkpoint:
    """The checkpoint of one run folder. Methods block for as long as the disk does."""

    def __init__(self, folder: Path, show: Callable[[int, int], object] | None = None) -> None:
        """Use (and make) `folder/checkpoint`.

        Where versions are not what users shall see, `show` writes that: from a version's
        descriptor to another one.
        """
        self.folder = folder
        self._show = show
        self._own = folder / CHECKPOINT
        self._own.mkdir(parents=True, exist_ok=True)
        self._version = 0

    @property
    def version(self) -> int:
        """The version that counts, as `commit` or `load` left it; 0 before either."""
        return self._version

    def path(self, version: int) -> Path:
        """Where a version of the model lies."""
        return self._own / f"model-{version}.safetensors"

    def _shown(self, version: int) -> Path:
        """The file of a version as users see it."""
        if self._show is None:
            return self.path(version)
        return self._own / f"shown-{version}.safetensors"

    @property
    def sites(self) -> Path:
        """Where sites keep what they need in the next round, each in a folder that it makes."""
        return self._own / "sites"

    def local(self, site: str) -> Path:
        """Where a site's own last model lies, if it is kept."""
        return self._own / "local" / f"{site}.safetensors"

    @contextmanager
    def writing_local(self, site: str) -> Generator[int]:
        """As `writing`, for a site's own model."""
        path = self.local(site)
        path.parent.mkdir(exist_ok=True)
        with _written_aside(path) as fd:
            yield fd

    @contextmanager
    def writing(self, version: int) -> Generator[int]:
        """Give a file descriptor to write a version to; it becomes the version's file at the end.

        An error inside leaves nothing behind. Raises `OSError` as the disk does.
        """
        path = self.path(version)
        shown = self._shown(version)
        with _written_aside(path) as fd:
            yield fd
            if self._show is not None:
                with _written_aside(shown) as aside:
                    self._show(fd, aside)

    def commit(self, version: int, state: Mapping[str, Any], keep: Collection[int] = ()) -> None:
        """Make `version` the one that counts, with the state that belongs to it.

        The version that `state["best_version"]` names stays on disk as well, and so do those
        to `keep`.
        """
        state = {"version": version, **state}
        write_atomically(self._own / STATE, json.dumps(state))
        self._version = version
        link(self._shown(version), self.folder / MODEL)
        self._sweep(state, keep, version)

    def mark_best(self, version: int) -> None:
        """Let `best_model.safetensors` name a version that is still on disk."""
        link(self._shown(version), self.folder / BEST)

    def load(self) -> dict[str, Any] | None:
        """The committed state with its `version`, None where nothing was committed.

        Puts right what a kill left half done: the models' names are those of the
        committed state again, and everything else is swept away.
        """
        try:
            read: object = json.loads((self._own / STATE).read_text())
        except (FileNotFoundError, ValueError):
            return None
        state = cast("dict[str, Any]", read) if isinstance(read, dict) else {}
        version = state.get("version")
        if not isinstance(version, int) or not self.path(version).is_file():
            return None
        self._version = version
        link(self._shown(version), self.folder / MODEL)
        self._restore_best(state.get("best_version"))
        self._sweep(state)
        return state

    def _restore_best(self, version: int | None) -> None:
        """Take back a best model that was marked and not committed."""
        if version is None:
            (self.folder / BEST).unlink(missing_ok=True)
        elif self.path(version).is_file():
            link(self._shown(version), self.folder / BEST)

    def _sweep(
        self, state: Mapping[str, Any], keep: Collection[int] = (), before: int | None = None
    ) -> None:
        """Remove what the committed state does not name, of versions `before` one if that is given.

        Newer ones are being written, or have been and are not yet known of.
        """
        versions = [
            v for v in (state["version"], state.get("best_version"), *keep) if v is not None
        ]
        files = (self.path, self._shown, self._arrays_path)
        kept = {self._own / STATE, *(file(v) for file in files for v in versions)}
        for stray in self._own.iterdir():
            old = before is None or 0 <= _version_of(stray) < before
            if old and stray not in kept and not stray.is_dir():
                stray.unlink()

    # What an optimizer keeps ------------------------------------------------

    def _arrays_path(self, version: int) -> Path:
        return self._own / f"arrays-{version}.bin"

    def save_arrays(self, version: int, arrays: Mapping[str, F64]) -> None:
        """Keep what an optimizer must know after a version; before the version is committed.

        Raises `OSError` as the disk does.
        """
        if arrays:
            with self._arrays_path(version).open("wb") as file:
                for name in sorted(arrays):
                    file.write(arrays[name].data.cast("B"))

    def load_arrays(self, version: int, arrays: Mapping[str, F64]) -> bool:
        """Fill arrays with what was kept after a version; False, and untouched, if nothing was."""
        path = self._arrays_path(version)
        size = sum(array.nbytes for array in arrays.values())
        if not arrays or not path.is_file() or path.stat().st_size != size:
            return False
        with path.open("rb") as file:
            for name in sorted(arrays):
                file.readinto(arrays[name].data.cast("B"))
        return True

    def discard(self) -> None:
        """Remove the checkpoint of a run that needs it no more; the models' names stay."""
        shutil.rmtree(self._own, ignore_errors=True)


def version_in(folder: Path) -> int | None:
    """The version that counts in a run's folder, which may be at work; None if there is none."""
    try:
        state: Any = json.loads((folder / CHECKPOINT / STATE).read_text())
        version: object = state["version"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return version if isinstance(version, int) else None


@contextmanager
def _written_aside(path: Path) -> Generator[int]:
    """Give a descriptor to write (and read) a file by, which gets its name when it is whole."""
    partial = path.with_suffix(".partial")
    fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
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


def _version_of(path: Path) -> int:
    """Of which version a file is, -1 of none."""
    found = _NUMBERED.fullmatch(path.name)
    return -1 if found is None else int(found[1])


def write_atomically(path: Path, text: str) -> None:
    """Replace a small file as one step: readers see the old or the new text, never a part.

    Safe against the end of any process, not against loss of power: nothing is synced to the
    disk, since the model beside it is not either, and one sync costs more than a whole round.

    Raises `OSError` with the file's name; nothing is left behind then.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
        partial.replace(path)
    except OSError as error:
        error.filename = str(path)  # a full disk is told by write(), which knows no name
        with suppress(OSError):
            partial.unlink()
        raise


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
    # Renaming one name of a file to another of the same file does nothing, says POSIX.
    with suppress(FileNotFoundError):
        partial.unlink()
