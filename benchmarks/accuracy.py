"""Sites with different data: how good models get by the same budget of local steps.

`COVEY_BENCH_MNIST` names a NumPy archive of MNIST (`images`, `labels`); without it scikit-learn's
digits are used, and the rows say so. Writes the curves to `plots/accuracy.svg` beside the results.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from .commands import environment
from .plots import lines
from .results import Row

_JOB = Path(__file__).parent / "jobs" / "accuracy" / "job.py"
_PLOT = Path(__file__).parent / "plots" / "accuracy.svg"
_DATA = "COVEY_BENCH_MNIST"
_LIMIT_S = 300.0
#: Rounds whose mean accuracy counts: that of a single one goes up and down.
_LAST = 5
#: Names as shown, and what their figures shall be.
_METHODS = {
    "fedavg": ("FedAvg", ""),
    "fedprox": ("FedProx, mu 0.01", "within 0.5 points of FedAvg"),
    "scaffold": ("SCAFFOLD", ">= FedAvg"),
    "fedadam": ("FedAdam, server rate 0.01", ">= FedAvg"),
}


def run(folder: Path, quick: bool) -> list[Row]:
    """The accuracy of four methods, each with some seeds for data, model and batches."""
    seeds = range(1 if quick else 3)
    outcomes = {method: [_once(folder, method, seed) for seed in seeds] for method in _METHODS}
    if not quick:
        _PLOT.parent.mkdir(exist_ok=True)
        curves = {_METHODS[method][0]: _curve(runs) for method, runs in outcomes.items()}
        _PLOT.write_text(lines(curves, "rounds", floor=0.5))
    base = _accuracy(outcomes["fedavg"])
    return [_row(method, runs, base) for method, runs in outcomes.items()]


def _once(folder: Path, method: str, seed: int) -> dict[str, Any]:
    given = os.environ.get(_DATA)
    command = [sys.executable, "-W", "ignore", str(_JOB), method, str(seed)]
    command += [given] if given else []
    env = environment(folder) | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, timeout=_LIMIT_S, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def _curve(runs: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """The mean accuracy by round."""
    curves: list[list[float]] = [outcome["curve"] for outcome in runs]
    together = zip(*curves, strict=True)
    return [(float(number), statistics.fmean(values)) for number, values in enumerate(together)]


def _accuracy(runs: list[dict[str, Any]]) -> float:
    return statistics.fmean(share for _, share in _curve(runs)[-_LAST:])


def _row(method: str, runs: list[dict[str, Any]], base: float) -> Row:
    name, limit = _METHODS[method]
    accuracy, one = _accuracy(runs), runs[0]
    singles = ", ".join(f"{_accuracy([outcome]):.1%}" for outcome in runs)
    note = (
        f"{100 * (accuracy - base):+.1f} points; {one['data']}, {one['samples']:,} samples, "
        f"20 sites, {one['steps']:,} local steps; by seed {singles}; "
        f"{statistics.fmean(outcome['seconds'] for outcome in runs):.1f} s"
    )
    return Row(name, f"{accuracy:.1%}", note, limit, accuracy, {"runs": runs})
