"""Whole commands, a table of them: wall, CPU seconds, memory, processes, and ratios to covey's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from benchmarks.results import mebibytes, ratio, seconds

from .bounded import Outcome
from .page import Table, last_words
from .series import Trials, ratio_of_pairs, wall
from .systems import FUNCTION, SCRIPT

COLUMNS = (
    "system", "wall", "CPU", "peak memory", "processes",
    "wall / script", "wall / function", "memory / script", "shall be", "note",
)  # fmt: skip


def table(name: str, about: str, trials: Mapping[str, Trials], limits: Mapping[str, str]) -> Table:
    """One row for each system."""
    rows = [_row(system, trials, limits.get(system, "")) for system in trials]
    return Table(name, about, COLUMNS, rows, {system: told(trials[system]) for system in trials})


def _row(system: str, trials: Mapping[str, Trials], limit: str) -> list[str]:
    mine = trials[system]
    if not mine.runs:
        return [system, *["-"] * (len(COLUMNS) - 3), limit, note(mine)]
    script, function = trials.get(SCRIPT), trials.get(FUNCTION)
    stopped = mine.fault.startswith("stopped")
    if mine.fault and not stopped:
        figures = ["failed", seconds(mine.cpu_s), mebibytes(mine.memory), str(mine.processes)]
        return [system, *figures, "-", "-", "-", limit, note(mine)]
    figures = [seconds(mine.wall_s), seconds(mine.cpu_s), mebibytes(mine.memory)]
    ratios = [_walls(mine, script), _walls(mine, function), _memories(mine, script)]
    if stopped:  # it would have taken more
        figures, ratios = [[_more(cell) for cell in cells] for cells in (figures, ratios)]
    return [system, *figures, str(mine.processes), *ratios, limit, note(mine)]


def _more(cell: str) -> str:
    return cell if cell == "-" else f"> {cell}"


def _walls(mine: Trials, base: Trials | None) -> str:
    if base is None or base.fault:
        return "-"
    found = ratio_of_pairs(mine, base, wall)
    return "-" if found is None else ratio(found, 1)


def _memories(mine: Trials, base: Trials | None) -> str:
    if base is None or base.fault:
        return "-"
    return ratio(mine.memory, base.memory)


def note(trials: Trials) -> str:
    """The time of each run, and what went wrong with those that failed."""
    if trials.missing:
        return last_words(trials.missing)
    walls = [t.outcome.wall_s for t in trials.runs.values() if not t.outcome.fault]
    parts = [", ".join(f"{wall_s:.2f}" for wall_s in walls) + " s"] if len(walls) > 1 else []
    parts += ["one run"] if len(walls) == 1 else []
    return "; ".join([*parts, *map(_what_went_wrong, trials.faults)])


def _what_went_wrong(outcome: Outcome) -> str:
    """A fault, with the last that the run printed unless it was stopped in the middle."""
    said = "" if outcome.fault.startswith("stopped") else last_words(outcome.said)
    return f"{outcome.fault}: {said}" if said else outcome.fault


def told(trials: Trials) -> dict[str, Any]:
    """The figures of all runs, for the JSON."""
    runs = [
        {
            "turn": turn,
            "wall_s": round(trial.outcome.wall_s, 3),
            "cpu_s": round(trial.outcome.cpu_s, 2),
            **asdict(trial.outcome.peaks),
            "fault": trial.outcome.fault,
            **trial.found,
        }
        for turn, trial in trials.runs.items()
    ]
    close = asdict(trials.close) if trials.close is not None else None
    return {"runs": runs, "close_look": close, "missing": trials.missing}
