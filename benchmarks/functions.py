"""Clients by function: 100, 1,000 and 10,000 of them in one process, five rounds each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from .commands import environment
from .results import Row, mebibytes

_FOLDER = Path(__file__).parent / "jobs" / "function"
_JOB, _LOOP = _FOLDER / "job.py", _FOLDER / "loop.py"
_ROUNDS = 5
_LOOP_NOTE = "tasks/s: the same tensors, draws, training and mean in one process without covey"
_LIMIT_S = 300.0
_MODES = {"plain": "", "codec": ", through the codec", "batched": ", batched"}
_LIMITS = {
    (1000, "torch", "plain"): ">= 10,000",
    (1000, "torch", "batched"): ">= 10,000",
    (1000, "torch", "codec"): ">= 5,000",
    (10000, "torch", "plain"): "linear",
}


def run(folder: Path, quick: bool) -> list[Row]:
    """Tasks per second as a whole and in later rounds, memory, and what `statistics()` says."""
    loops = sorted(_loop(folder) for _ in range(1 if quick else 3))
    loop = loops[len(loops) // 2]
    rows = [Row("1,000 in a plain loop, torch", f"{loop:,.0f}", _LOOP_NOTE, "", loop)]
    cases = [
        (clients, "torch", mode)
        for clients in (100, 1000, *(() if quick else (10000,)))
        for mode in ("plain", "batched", "codec")
    ]
    for clients, kind, mode in [*cases, (1000, "numpy", "plain")]:
        outcomes = [
            _once(folder, clients, kind, mode) for _ in range(1 if quick or clients > 1000 else 3)
        ]
        outcomes.sort(key=lambda outcome: float(outcome["cpu_s"]))
        rows += _rows(clients, kind, mode, outcomes[len(outcomes) // 2], loop)
    rows.append(_counts(_once(folder, 1000, "torch", "count")))
    return rows


def _loop(folder: Path) -> float:
    """Tasks a second of the plain loop, in its later rounds."""
    command = (sys.executable, str(_LOOP), "1000", str(_ROUNDS))
    done = subprocess.run(
        command, env=environment(folder), capture_output=True, timeout=_LIMIT_S, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    later: list[float] = json.loads(done.stdout)["rounds_s"][1:]
    return 1000 * len(later) / sum(later)


def _once(folder: Path, clients: int, kind: str, mode: str) -> dict[str, Any]:
    command = (sys.executable, "-W", "ignore", str(_JOB), str(clients), str(_ROUNDS), kind, mode)
    done = subprocess.run(
        command, env=environment(folder), capture_output=True, timeout=_LIMIT_S, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def _rows(clients: int, kind: str, mode: str, outcome: dict[str, Any], loop: float) -> list[Row]:
    """Two rows: how fast, and how much memory above the import of torch."""
    tasks = clients * _ROUNDS
    later = outcome["rounds_s"][1:]
    in_rounds = clients * len(later) / sum(later)
    whole = tasks / outcome["execute_s"]
    name = f"{clients:,} by function, {kind}{_MODES[mode]}"
    note = f"tasks/s in rounds 1-4; {whole:,.0f} with start and end; CPU {outcome['cpu_s']:.2f} s"
    if kind == "torch":
        note = f"{in_rounds / loop:.2f} x the plain loop; {note}"
    rows = [Row(name, f"{in_rounds:,.0f}", note, _LIMITS.get((clients, kind, mode), ""), in_rounds)]
    rows[0].data.update(outcome)
    if mode != "codec":
        limit = "< 100 MB" if clients == 1000 and kind == "torch" else ""
        peak = outcome["peak_bytes"]
        rows.append(
            Row(f"{name}: memory", mebibytes(peak), "above the import of torch", limit, peak)
        )
    return rows


def _counts(outcome: dict[str, Any]) -> Row:
    handled = outcome["handled"]
    note = ", ".join(f"{kind} {count:,}" for kind, count in handled.items())
    note += f"; {outcome['envelopes']:,} envelopes over links"
    expected = 1000 * _ROUNDS
    return Row(
        "1,000 by function: messages",
        f"{handled['Trainer']:,}",
        f"handled by trainers when the last round is over ({note})",
        f"{expected:,} tasks",
        handled["Trainer"],
        outcome,
    )
