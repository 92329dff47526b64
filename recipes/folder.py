"""Run folders: where a run leaves everything, and how an interrupted run is found again.

`<workspace>/<name>/<UTC time>-<id>/`, the same in every environment; the layout
is promised in docs/stability.md. A run holds a lock on its folder while it
lives, so that a folder without lock and without `summary.json` is that of a run
that was cut off.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Self, cast

from covey.actors.jobs.checkpoint import write_atomically
from covey.actors.jobs.manifest import JobManifest

from .errors import ConfigError

CONFIG: Final = "config.json"
SUMMARY: Final = "summary.json"
#: What starts a program over instead of resuming its run.
FRESH: Final = "COVEY_FRESH=1"
_LOCK: Final = ".lock"
# Who looks whether a run lives holds its lock for some microseconds; a tenth of a second is ample.
_LOOK_S: Final = 0.001
_LOOKS: Final = 100
_GIT_S: Final = 2.0  # git on a cold network home; the run does not depend on it
_PACKAGES: Final = ("covey", "torch", "numpy", "safetensors")


def workspace_of(given: str | Path | None) -> Path:
    """The workspace: the argument, else `COVEY_WORKSPACE`, else `./covey_runs`."""
    return Path(given or os.environ.get("COVEY_WORKSPACE") or "covey_runs").absolute()


def short(path: Path) -> str:
    """A path as the user would type it: relative if it lies below the current folder."""
    with suppress(ValueError, OSError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)


class RunFolder:
    """One run's folder, locked by this process until `close`."""

    def __init__(self, path: Path, lock: int, config: Mapping[str, Any]) -> None:
        """Made by `create` and `find_unfinished`."""
        self.path = path
        self.config = dict(config)
        self._lock = lock

    def __repr__(self) -> str:
        return f"<run folder {self.path}>"

    @property
    def id(self) -> str:
        """The job's id."""
        return str(self.config["id"])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config["seed"])

    @classmethod
    def create(
        cls, workspace: Path, manifest: JobManifest, seed: int, env: Mapping[str, Any]
    ) -> Self:
        """Make a new run's folder with its `config.json`.

        Raises `ConfigError` where the workspace cannot be written to.
        """
        now = datetime.now(UTC)
        name = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        path = workspace / manifest.name / name
        config = {
            "id": name,
            "digest": manifest.digest,
            "seed": seed,
            "created": now.isoformat(timespec="seconds"),
            "manifest": manifest.as_dict(),
            "environment": dict(env),
            "versions": _versions(),
            "git": _git_state(Path.cwd()),
        }
        try:
            (path / "logs").mkdir(parents=True)
            # Locked before it can be recognised, so that nobody takes it for one cut off.
            lock = _lock(path)
        except OSError as error:
            raise ConfigError("workspace", f"{path}: {error.strerror}") from None
        assert lock is not None
        try:
            write_atomically(path / CONFIG, json.dumps(config, indent=2, default=str) + "\n")
        except OSError as error:
            os.close(lock)
            raise ConfigError("workspace", f"{path}: {error.strerror}") from None
        return cls(path, lock, config)

    @classmethod
    def find_unfinished(
        cls, workspace: Path, manifest: JobManifest, seed: int | None
    ) -> Self | None:
        """The latest run of this manifest and seed, locked, if it was cut off; else None.

        A later run that is over, or is running, has made an earlier one that was cut off obsolete.
        """
        for path, config in folders(workspace / manifest.name):
            if config.get("digest") != manifest.digest:
                continue
            if seed is not None and config.get("seed") != seed:
                continue
            return cls._unfinished(path, config)
        return None

    @classmethod
    def _unfinished(cls, path: Path, config: Mapping[str, Any]) -> Self | None:
        if (path / SUMMARY).exists():
            return None
        lock = _lock(path)
        if lock is None:
            return None
        # Once more: it may have finished before the lock was ours.
        if not (path / SUMMARY).exists():
            return cls(path, lock, config)
        os.close(lock)
        return None

    def summarise(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, which makes the run a finished one."""
        write_atomically(self.path / SUMMARY, json.dumps(summary, indent=2, default=str) + "\n")

    def close(self) -> None:
        """Give the lock back; idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def folders(parent: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """All run folders below `parent` with their configuration, latest first."""
    if not parent.is_dir():
        return
    for path in sorted(parent.iterdir(), key=_begun, reverse=True):
        with suppress(OSError, ValueError):
            config: Any = json.loads((path / CONFIG).read_text())
            if isinstance(config, dict):
                yield path, cast("dict[str, Any]", config)


def _begun(path: Path) -> tuple[str, int]:
    """When a run began: the second in its folder's name, and within it by its first file."""
    try:
        return path.name.partition("-")[0], (path / CONFIG).stat().st_mtime_ns
    except OSError:
        return path.name, 0


def is_running(path: Path) -> bool:
    """Whether a process holds the folder's lock, as far as can be told; makes nothing.

    It is a shared lock that is tried, for a moment, so that two that look do not see each other.
    """
    try:
        fd = os.open(path / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False  # nobody has begun there, or it is none of ours
    try:
        return not _flock(fd, fcntl.LOCK_SH)
    except OSError:
        return False
    finally:
        os.close(fd)


def _lock(path: Path) -> int | None:
    """Lock a run folder; None if another process has it. The kernel unlocks when we die."""
    fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        for _ in range(_LOOKS):
            if _flock(fd, fcntl.LOCK_EX):
                return fd
            if not _flock(fd, fcntl.LOCK_SH):
                break
            # Only those that look had it, and nobody who holds it: they are gone in a moment.
            fcntl.flock(fd, fcntl.LOCK_UN)
            time.sleep(_LOOK_S)
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _flock(fd: int, kind: int) -> bool:
    """Lock now, or not at all."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _versions() -> dict[str, str]:
    # Not `platform.platform()`, which starts a process to name the processor.
    system = f"{platform.system()}-{platform.release()}-{platform.machine()}"
    versions = {"python": sys.version.split()[0], "platform": system}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and cleanliness of the checkout the run was started in, None outside of one."""
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None else {"commit": commit, "clean": status == ""}


def _git(folder: Path, *args: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *args], cwd=folder, capture_output=True, text=True, timeout=_GIT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
