"""Fifty rounds: whether resident memory grows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from .commands import environment
from .results import Row

_JOB = Path(__file__).parent / "jobs" / "rounds" / "job.py"
_KIB = 1024
_SITE_COUNT = 8


def run(folder: Path, quick: bool) -> list[Row]:
    """The slope over rounds 10 to 49, of the command and of its clients."""
    del quick
    rows: list[Row] = []
    for way in ("script", "function"):
        done = subprocess.run(
            (sys.executable, str(_JOB), way, str(_SITE_COUNT)),
            env=environment(folder),
            capture_output=True,
            text=True,
            check=True,
        )
        for who, sizes in json.loads(done.stdout.splitlines()[-1]).items():
            slope, noise = slope_of(sizes[10:])
            note = f"+- {noise / _KIB:.1f} (two standard errors); {sizes[-1] >> 20} MiB at the end"
            rows.append(
                Row(
                    f"{way}: {who}", f"{slope / _KIB:+.1f} KiB/round", note, "0 within noise", slope
                )
            )
            rows[-1].data["resident_bytes"] = sizes
    return rows


def slope_of(sizes: list[int]) -> tuple[float, float]:
    """The least-squares slope of a series, and twice its standard error."""
    count = len(sizes)
    mean_x, mean_y = (count - 1) / 2, sum(sizes) / count
    spread = sum((x - mean_x) ** 2 for x in range(count))
    slope = sum((x - mean_x) * (y - mean_y) for x, y in enumerate(sizes)) / spread
    left = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in enumerate(sizes))
    return slope, 2 * (left / (count - 2) / spread) ** 0.5
