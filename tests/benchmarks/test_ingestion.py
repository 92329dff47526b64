"""The ingestion benchmark's process, and the memory that it finds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


def measured(*arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.adding", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_a_buffer_takes_two_accumulators_while_a_step_reads_one() -> None:
    found = measured("memory", "64", "1")
    assert 1.9 * found["update"] < found["grown"] < 2 * found["update"] + 24 * MIB


def test_every_way_of_adding_is_set_beside_memcpy() -> None:
    found = measured("numpy", "1", "1")
    assert set(found) == {"adding", "stepping"}
    for table in found.values():
        assert all(figures["ratio"] > 0 and figures["memcpy"] > 0 for figures in table.values())
