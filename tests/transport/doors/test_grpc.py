"""The gRPC door, on both loops; the scenarios are those of `programs/grpc_door.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest

from tests.docs.pages import ROOT

from .programs.grpc_door import SCENARIOS

PROGRAM = "tests.transport.doors.programs.grpc_door"


@cache
def outcomes(loop: str) -> dict[str, str]:
    """What went wrong, by scenario, all run in one process."""
    command = [sys.executable, "-W", "error", "-m", PROGRAM, loop]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.stderr == ""
    assert done.returncode == 0
    found: dict[str, str] = dict(json.loads(line) for line in done.stdout.splitlines())
    return found


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str, loop: str) -> None:
    assert outcomes(loop)[name] == ""


def test_nobody_loads_grpc_who_does_not_use_the_door() -> None:
    code = (
        "import sys, covey.transport.doors.grpc, covey.transport.dialer, covey.transport.listener;"
        "sys.exit('grpc' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
