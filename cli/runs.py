"""`covey runs`: the runs of a workspace.

Here: reading run folders and laying them out as a table. Not here: the layout of a run folder
(`covey.recipes.folder`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from .errors import CommandError

#: The third one says what the numbers below it count.
_HEADINGS: Final = ("STATUS", "NAME", "{}", "BEST", "SECONDS", "STARTED", "FOLDER")

#: A setting that only recipes have whose training is counted in versions.
_ASYNCHRONOUS: Final = "concurrency"


@dataclass(frozen=True, slots=True)
class Listed:
    """One run, as far as its folder tells.

    Attributes:
        status: "completed", "failed", "aborted", "running", or "unfinished" for one that was
            cut off and that the same command resumes.
        id: Its id.
        name: The recipe's name.
        rounds: Rounds that were done, so far where the run is not over; None if not known.
        unit: What these are: "round", or "version" in asynchronous training.
        key_metric: Metric that picks the best model.
        best_round: Round of the best model.
        best_value: Its key metric.
        seconds: How long it took.
        started: When it began: UTC, ISO 8601.
        error: What went wrong, in one line.
        folder: Its folder.
    """

    status: str
    id: str
    name: str
    rounds: int | None
    unit: str
    key_metric: str | None
    best_round: int | None
    best_value: float | None
    seconds: float | None
    started: str
    error: str | None
    folder: str


def list_runs(workspace: Path | None, last: int, as_json: bool) -> None:
    """Print the latest runs of a workspace, latest first.

    Raises:
        CommandError: If there is no such workspace.
    """
    from covey.recipes.folder import workspace_of

    where = workspace_of(workspace)
    if workspace is not None and not where.is_dir():
        raise CommandError(f"there is no folder {workspace}")
    runs = sorted(_runs_of(where), key=lambda run: (run.started, run.id), reverse=True)
    shown = runs[:last]
    if as_json:
        sys.stdout.write(json.dumps([asdict(run) for run in shown], indent=2) + "\n")
    elif not runs:
        sys.stdout.write(f"no runs in {where}\n")
    else:
        table = _table(_headings(shown), [_cells(run) for run in shown])
        for line, run in zip(table, [None, *shown], strict=True):
            sys.stdout.write(line + _why(run))
        if len(runs) > last:
            sys.stdout.write(f"{len(runs) - last} older ones: covey runs --last {len(runs)}\n")


def _runs_of(workspace: Path) -> Iterable[Listed]:
    from covey.recipes.folder import folders

    names = sorted(workspace.iterdir()) if workspace.is_dir() else []
    for name in names:
        for path, config in folders(name):
            yield _listed(path, config)


def _listed(path: Path, config: Mapping[str, Any]) -> Listed:
    from covey.actors.jobs.checkpoint import version_in
    from covey.recipes.folder import SUMMARY, is_running

    summary = _read(path / SUMMARY)
    status = summary.get("status")
    if status is None:
        status = "running" if is_running(path) else "unfinished"
    return Listed(
        status=str(status),
        id=str(config.get("id", path.name)),
        name=path.parent.name,
        rounds=summary.get("rounds", version_in(path)),
        unit=_unit(config),
        key_metric=summary.get("key_metric"),
        best_round=summary.get("best_round"),
        best_value=summary.get("best_value"),
        seconds=summary.get("seconds"),
        started=str(config.get("created", "")),
        error=summary.get("error") or None,
        folder=str(path),
    )


def _unit(config: Mapping[str, Any]) -> str:
    settings: Mapping[str, Any] = config.get("manifest", {}).get("settings", {})
    return "version" if _ASYNCHRONOUS in settings else "round"


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _cells(run: Listed) -> tuple[str, ...]:
    from covey.recipes.folder import short

    best = "" if run.best_value is None else f"{run.key_metric} {run.best_value:.4g}"
    return (
        run.status,
        run.name,
        "" if run.rounds is None else str(run.rounds),
        best,
        "" if run.seconds is None else f"{run.seconds:.1f}",
        run.started.partition("+")[0].replace("T", " "),
        short(Path(run.folder)),
    )


def _why(run: Listed | None) -> str:
    """What went wrong, as a line below the run's own; its folder has all of it."""
    if run is None or not run.error:
        return ""
    return f"  {run.error.partition(chr(10))[0]}\n"


def _headings(runs: Iterable[Listed]) -> tuple[str, ...]:
    """What stands above the columns."""
    units = sorted({run.unit for run in runs})
    return tuple(head.format("/".join(f"{unit}s".upper() for unit in units)) for head in _HEADINGS)


def _table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of columns as wide as they need to be: a line may wrap, but nothing is cut."""
    table = [headings, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(headings))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in table
    ]
