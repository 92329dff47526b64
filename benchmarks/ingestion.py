"""Ingestion: adding updates to the buffer of asynchronous training, beside memcpy.

Every figure is the median over turns in which memcpy, the C library's, copied the same bytes into
warm memory on the same core. Beyond the caches it writes past them and moves two bytes for every
byte of an update, where an addition moves three: no addition is faster than 0.67 x there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from .results import Row

ROOT = Path(__file__).resolve().parent.parent
_LIMIT_S = 300.0
_WAYS = {"torch": "torch on one thread", "numpy": "NumPy alone"}


def run(folder: Path, quick: bool) -> list[Row]:
    """Speeds of adding by torch and by NumPy, of steps, and the memory of both."""
    del folder
    sizes, turns = ((16,), 5) if quick else ((16, 256), 11)
    rows: list[Row] = []
    for size in sizes:
        for way, name in _WAYS.items():
            found = _measure(way, size, turns)
            for what, figures in found["adding"].items():
                rows.append(_speed(f"{what}, {size} MiB, {name}", figures, what))
            for what, figures in found["stepping"].items():
                rows.append(_passes(f"a step by {what}, {size} MiB", figures))
    rows.append(_memory(_measure("memory", sizes[-1], turns)))
    return rows


def _measure(way: str, size: int, turns: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.adding", way, str(size), str(turns)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=_LIMIT_S, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _speed(name: str, figures: dict[str, float], what: str) -> Row:
    limit = ">= 0.7 x memcpy" if what == "add" else ""
    note = f"{figures['ratio']:.2f} x memcpy ({figures['memcpy'] / 1e9:.1f} GB/s)"
    return Row(name, f"{figures['speed'] / 1e9:.1f} GB/s", note, limit, figures["ratio"], figures)


def _passes(name: str, figures: dict[str, float]) -> Row:
    passes = 1.0 / figures["ratio"]
    note = f"{figures['speed'] / 4e9:.2f} G parameters/s, float64 inside"
    return Row(name, f"{passes:.1f} x memcpy's time", note, "", passes, figures)


def _memory(found: dict[str, int]) -> Row:
    sizes = found["grown"] / found["update"]
    note = "while a step reads one accumulator and the other is filled; the model apart"
    return Row(
        "memory of a buffer", f"{sizes:.2f} x an update", note, "<= 2 and a few MiB",
        found["grown"], found,
    )  # fmt: skip
