"""Curves for Weights & Biases: a run for the global model and one for each site, in one group.

Here: what of an experiment becomes what in wandb's files, and what the recorder needs. Not here:
the recorder (`recorder.py`, `recording.py`), which value has which name and step (`tracking.py`).

wandb works offline: it writes `offline-run-<time>-<id>` folders, which `wandb sync` can send to a
server later, and `wandb leet` shows. A row of wandb's history has the values of one step; its
column `step` or `round` says which, and is the x axis of their charts.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from .recorder import Recorder, command, environment
from .tracking import GLOBAL, PARAMETER, TAG, Experiment, Point, require_modules

#: Environment of the recorder, in place of every `WANDB_...` of the user: no server, no login, no
#: reports to wandb's makers, nothing on the terminal.
_ENVIRONMENT: Final = {
    "WANDB_MODE": "offline",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",
    "DO_NOT_TRACK": "true",
}

#: Settings of each run: only what it is told, nothing of the machine and the user's checkout.
_SETTINGS: Final = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "save_code": False,
    "silent": True,
    "symlink": False,
    "use_dot_wandb": False,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}

#: Folder for what wandb would put into the user's home, and for what a resumed run must know.
_PRIVATE: Final = ".private"

#: Columns of our own. A metric of such a name, or of one that wandb keeps for itself, is
#: `metric/<name>`.
_STEP: Final = "step"
_ROUND: Final = "round"

#: wandb's own limit of an id, and what it refuses in one.
_ID_CHARACTERS: Final = 128
_FORBIDDEN: Final = re.compile(r"[^\w.\-]")


def require() -> None:
    """Check that wandb is installed, without importing it.

    Raises:
        TrackingUnavailable: If not; the message says what to install.
    """
    require_modules("wandb", "wandb", "wandb")


def wandb_tracker(folder: Path, experiment: Experiment) -> Recorder:
    """A tracker that writes a run's curves with wandb, offline.

    Args:
        folder: Where the folders of wandb's runs are made; its name is `wandb`, as wandb would
            have it; usually `<run>/tracking/wandb`.
        experiment: The run.

    Raises:
        TrackingUnavailable: If wandb is not installed.
        OSError: If the folder cannot be made.
    """
    require()
    place = str(folder.absolute() / _PRIVATE)
    private = {f"WANDB_{kind}_DIR": place for kind in ("CACHE", "CONFIG", "DATA")}
    variables = environment(_ENVIRONMENT | private, "WANDB_")
    line = command("wandb", folder)
    return Recorder("wandb", line, folder, experiment, environment=variables)


class WandbWriter:
    """Writes wandb's files into the recorder's folder. Any: see `_load`."""

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        """Begin the global run; the files of an earlier part of the same job are kept."""
        self._wandb = _load("wandb")
        self._folder = folder
        self._about = experiment
        self._runs: dict[str, _Run] = {}
        self._began = _began(folder / _PRIVATE)
        self._run(GLOBAL)

    def write(self, points: Sequence[Point]) -> None:
        """Write the values of one step as one row."""
        for (site, by_round, step), row in groupby(points, _place):
            self._run(site).write(list(row), _ROUND if by_round else _STEP, step)

    def end(self, status: str) -> None:
        """Say how every run ended, the global one last, and have wandb's service end."""
        for run in reversed(self._runs.values()):
            run.end(status)
        self._wandb.teardown()

    def _run(self, site: str) -> _Run:
        run = self._runs.get(site)
        if run is None:
            run = self._runs[site] = _Run(self._new_run(site), self._began)
        return run

    def _new_run(self, site: str) -> Any:
        about = self._about
        own = {"job": about.job, "seed": about.seed, "site": site}
        return self._wandb.init(
            project=_FORBIDDEN.sub("_", about.name)[:_ID_CHARACTERS],
            group=about.job[:_ID_CHARACTERS],
            job_type="global" if site == GLOBAL else "site",
            name=about.job if site == GLOBAL else site,
            id=_FORBIDDEN.sub("_", f"{about.job}-{site}")[:_ID_CHARACTERS],
            config=dict(about.settings) | own,
            tags=[f"job:{about.job}"[:64], f"seed:{about.seed}"],
            dir=str(self._folder.parent),
            mode="offline",
            reinit="create_new",
            settings=self._wandb.Settings(**_SETTINGS),
        )


class _Run:
    """One of wandb's runs."""

    def __init__(self, run: Any, began: float) -> None:
        self._run = run
        self._began = began
        self._axes: set[tuple[str, str]] = set()
        self._row = -1

    def write(self, points: Sequence[Point], axis: str, step: int) -> None:
        row: dict[str, Any] = {}
        for point in points:
            if point.kind in (PARAMETER, TAG):
                self._run.config.update({point.name: point.value}, allow_val_change=True)
                continue
            name = _name(point.name)
            if name in row:  # the same curve twice in one step: two rows
                self._log(row, points[0])
                row = {}
            self._draw_over(name, axis)
            row[name] = point.value
            row[axis] = step
        if row:
            self._log(row, points[0])

    def end(self, status: str) -> None:
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status == "completed" else 1)

    def _draw_over(self, name: str, axis: str) -> None:
        # wandb takes a name with a star for a pattern of names.
        if (name, axis) not in self._axes and "*" not in name:
            self._axes.add((name, axis))
            self._run.define_metric(name, step_metric=axis)

    def _log(self, row: dict[str, Any], first: Point) -> None:
        # wandb numbers rows upwards, over all parts of a run that was resumed: by milliseconds.
        self._row = max(self._row + 1, int((first.time - self._began) * 1000))
        self._run.log(row | {"_timestamp": first.time}, step=self._row, commit=True)


def _began(folder: Path) -> float:
    """Unix time at which the job's first recorder began, kept in a file."""
    file = folder / "began"
    if not file.exists():
        folder.mkdir(exist_ok=True)
        file.write_text(f"{time.time()}\n")
    return float(file.read_text())


def _name(name: str) -> str:
    reserved = name in ("", _STEP, _ROUND) or name.startswith("_")
    return f"metric/{name}" if reserved else name


def _place(point: Point) -> tuple[str, bool, int]:
    return point.site, point.by_round, point.step


def _load(module: str) -> Any:
    """A module of wandb. Any: a typed import would have type checkers ask for wandb."""
    return importlib.import_module(module)
