"""Time to a target accuracy on real images, the start of everything included.

`COVEY_BENCH_MNIST` names a NumPy archive of MNIST, as for `python -m benchmarks`; without it there
is scikit-learn's digits alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.results import mebibytes, ratio, seconds

from .bounded import Outcome
from .page import Table
from .series import Series, Trial, Trials, ratio_of_pairs
from .systems import FUNCTION, SCRIPT
from .whole import note, told
from .work.settings import Work

SITES: Final = 4
COLUMNS = (
    "system", "to target", "models", "whole command", "CPU", "peak memory",
    "to target / script", "to target / function", "note",
)  # fmt: skip
_VARIABLE: Final = "COVEY_BENCH_MNIST"
_NOTE: Final = (
    "FedAvg with {sites} sites of {rounds} rounds, one pass a round over the same images in the "
    "same order by the same network from the same weights, so all go through the same models. "
    "To target: from the start of the command until a model with {share:.0%} on the test images "
    "is measured, by the server (flwr, pfl) or by the first site at its next task (covey, "
    "nvflare). Models: how many rounds that took."
)


@dataclass(frozen=True, slots=True)
class Goal:
    """What accuracy to reach.

    Attributes:
        name: Of the images.
        target: Share of test images that a model shall get right.
        rounds: Enough of them, and one more for those who measure a model in the next round.
        data: The archive, if they are in one.
    """

    name: str
    target: float
    rounds: int
    data: str = ""


def goals(variables: Mapping[str, str]) -> list[Goal]:
    """Digits, and MNIST if its archive is named."""
    found = [Goal("digits", 0.85, 10)]
    if given := variables.get(_VARIABLE):
        found.append(Goal("MNIST", 0.94, 6, given))
    return found


def run(series: Series, repeats: int | None) -> list[Table]:
    """A table for each kind of images."""
    return [_table(series, goal, repeats or 1) for goal in goals(os.environ)]


def _table(series: Series, goal: Goal, repeats: int) -> Table:
    def read(work: Work, outcome: Outcome) -> dict[str, Any]:
        lines = map(json.loads, work.curve.read_text().splitlines())
        return reached(goal.target, list(lines), outcome.began)

    work = Work("accuracy", SITES, goal.rounds, "", goal.data)
    trials = series.take_turns(work, repeats, read)
    about = _NOTE.format(sites=SITES, rounds=goal.rounds, share=goal.target)
    rows = [row(system, trials) for system in trials]
    name = f"Time to {goal.target:.0%} on {goal.name}"
    return Table(name, about, COLUMNS, rows, {system: told(trials[system]) for system in trials})


def reached(target: float, curve: list[dict[str, Any]], began: float) -> dict[str, Any]:
    """When the first model of a curve is good enough, if one is; and the best of them."""
    best = max(point["accuracy"] for point in curve)
    first = next((point for point in curve if point["accuracy"] >= target), None)
    if first is None:
        return {"best": best}
    return {"best": best, "models": first["models"], "target_s": first["time"] - began}


def row(system: str, trials: Mapping[str, Trials]) -> list[str]:
    """A system's row."""
    mine = trials[system]
    if not mine.runs or mine.fault:
        return [system, *["-"] * (len(COLUMNS) - 2), note(mine)]
    one = next(iter(mine.counted.values()))
    cells = [seconds(to_target(one)) if "models" in one.found else "never"]
    cells += [str(one.found.get("models", "-")), seconds(mine.wall_s), seconds(mine.cpu_s)]
    cells += [mebibytes(mine.memory), _times(mine, trials, SCRIPT), _times(mine, trials, FUNCTION)]
    return [system, *cells, f"best {one.found['best']:.1%}; {note(mine)}"]


def to_target(trial: Trial) -> float:
    """Seconds until the target; endless if it was not reached."""
    return float(trial.found.get("target_s", "inf"))


def _times(mine: Trials, trials: Mapping[str, Trials], base: str) -> str:
    other = trials.get(base)
    if other is None or other.fault:
        return "-"
    found = ratio_of_pairs(mine, other, to_target)
    return "-" if found is None else ratio(found, 1)
