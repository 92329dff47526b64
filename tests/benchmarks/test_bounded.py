"""Runs end at their bounds, with all that they started, and what was measured is kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from benchmarks.peers.bounded import OFTEN, Bounds, Call, available_bytes, passed, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

GIB = 1 << 30
NO_BOUNDS = Bounds(60, 0)
#: A process of its own session that nobody waits for, and whose number is told.
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    open(sys.argv[1], "w").write(str(os.getpid()))
    time.sleep(600)
while not os.path.exists(sys.argv[1]) or not open(sys.argv[1]).read():
    time.sleep(0.01)
"""


def call(code: str, folder: Path) -> Call:
    command = [sys.executable, "-S", "-c", code, str(folder / "pid")]
    return Call(command, folder, dict(os.environ))


def lives(folder: Path) -> bool:
    return Path("/proc", (folder / "pid").read_text()).exists()


def test_what_a_run_leaves_behind_is_ended(tmp_path: Path) -> None:
    outcome = run(call(DAEMON, tmp_path), NO_BOUNDS)
    assert outcome.fault == ""
    assert not lives(tmp_path)


def test_a_run_over_its_time_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    code = DAEMON + "print('told', flush=True)\ntime.sleep(600)"
    outcome = run(call(code, tmp_path), Bounds(1, 0), OFTEN)
    assert outcome.fault.startswith("stopped after")
    assert outcome.said == "told\n"
    assert outcome.peaks.processes == 2
    assert outcome.peaks.pss > 0
    assert not lives(tmp_path)


def test_a_run_is_ended_when_the_machine_comes_short_of_memory(tmp_path: Path) -> None:
    outcome = run(call("import time; time.sleep(600)", tmp_path), Bounds(60, 1 << 60))
    assert "less than" in outcome.fault


def test_a_run_that_fails_is_told_with_its_code_and_words(tmp_path: Path) -> None:
    outcome = run(call("print('last words'); raise SystemExit(3)", tmp_path), NO_BOUNDS)
    assert (outcome.fault, outcome.said) == ("ended with 3", "last words\n")


def test_bounds_are_passed_by_time_or_by_memory() -> None:
    bounds = Bounds(10, 4 * GIB)
    assert passed(bounds, 9.0, 5 * GIB) == ""
    assert passed(bounds, 11.0, 5 * GIB) == "stopped after 11 s"
    assert passed(bounds, 9.0, 3 * GIB) == (
        "stopped after 9 s: the machine had less than 4 GiB left"
    )
    assert available_bytes() > 0
