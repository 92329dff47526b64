"""Asynchronous training in virtual time: how soon it is good, and how many updates a second.

Writes the curves to `plots/asynchronous.svg` beside the results.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from .commands import environment
from .plots import lines
from .results import Row, mebibytes, ratio

_FOLDER = Path(__file__).parent / "jobs" / "asynchronous"
_PLOT = Path(__file__).parent / "plots" / "asynchronous.svg"
_LIMIT_S = 600.0
_TARGET = 0.9
#: Versions whose mean accuracy must be there: of a single one it goes up and down.
_STEADY = 5
_UPDATES = {"fedavg": 20, "fedbuff": 5, "fedasync": 1}
_NAMES = {
    "fedavg": "FedAvg, cohorts of 20",
    "fedbuff": "FedBuff, K=5, M=20",
    "fedasync": "FedAsync, alpha 0.6, M=20",
}


def run(folder: Path, quick: bool) -> list[Row]:
    """Time to a target of three methods, and the speed of one."""
    outcomes = {method: _job(folder, "digits.py", method) for method in _UPDATES}
    again = _job(folder, "digits.py", "fedbuff")
    rows = _targets(outcomes)
    same = again["model"] == outcomes["fedbuff"]["model"]
    rows.append(Row("FedBuff, the same twice", "yes" if same else "no", "the model's bytes", "yes"))
    if not quick:
        _PLOT.parent.mkdir(exist_ok=True)
        _PLOT.write_text(lines({name: _points(outcomes[key]) for key, name in _NAMES.items()}, "s"))
    rows += _speeds(folder, quick)
    return rows


def _job(folder: Path, name: str, *arguments: str) -> dict[str, Any]:
    command = (sys.executable, "-W", "ignore", str(_FOLDER / name), *arguments)
    env = dict(environment(folder)) | {"OPENBLAS_NUM_THREADS": "1", "COVEY_FRESH": "1"}
    done = subprocess.run(command, env=env, capture_output=True, timeout=_LIMIT_S, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def _points(outcome: dict[str, Any]) -> list[tuple[float, float]]:
    """Virtual time and accuracy, of some 300 versions."""
    curve = outcome["curve"]
    return [(at, accuracy) for at, _, accuracy in curve[:: max(1, len(curve) // 300)]]


def _reach(curve: list[tuple[float, int, float]]) -> tuple[float, int]:
    """When, and at which version, the mean of the last few accuracies was on target."""
    for i in range(_STEADY, len(curve) + 1):
        if statistics.fmean(point[2] for point in curve[i - _STEADY : i]) >= _TARGET:
            return curve[i - 1][0], curve[i - 1][1]
    return float("inf"), 0


def _targets(outcomes: dict[str, dict[str, Any]]) -> list[Row]:
    base, _ = _reach(outcomes["fedavg"]["curve"])
    rows: list[Row] = []
    for method, outcome in outcomes.items():
        at, version = _reach(outcome["curve"])
        updates = version * _UPDATES[method]
        final = statistics.fmean(point[2] for point in outcome["curve"][-10:])
        note = (
            f"to {_TARGET:.0%}: {at:.1f} virtual seconds, {updates:,} updates; {final:.1%} after "
            f"{outcome['updates']:,}; CPU {outcome['cpu_s']:.1f} s"
        )
        limit = "<= 0.35 x" if method == "fedbuff" else ""
        rows.append(Row(_NAMES[method], ratio(at, base), note, limit, at / base))
    return rows


def _speeds(folder: Path, quick: bool) -> list[Row]:
    versions = ["100"] if quick else ["100", "1000"]
    rows: list[Row] = []
    for count in versions:
        for way in ((), ("batched",)):
            rows += _speed(_job(folder, "speed.py", "10000", "1000", "100", count, *way), way)
    return rows


def _speed(outcome: dict[str, Any], way: tuple[str, ...]) -> list[Row]:
    speed, peak = outcome["updates"] / outcome["seconds"], outcome["peak_bytes"]
    what = "batched" if way else "one in a call"
    name = f"FedBuff, 10,000 sites by function, {what}, {outcome['updates']:,} updates"
    note = f"updates/s with start and end; CPU {outcome['cpu_s']:.1f} s"
    limit = "< 400 MB" if outcome["updates"] == 100_000 else ""
    above = "above the import of torch"
    return [
        Row(name, f"{speed:,.0f}", note, ">= 5,000" if way else "", speed),
        Row(f"{name}: memory", mebibytes(peak), above, limit, peak),
    ]
