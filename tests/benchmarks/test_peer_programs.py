"""The programs that have covey do the work reach their end and write what tables read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.peers import systems
from benchmarks.peers.bounded import Bounds, run
from benchmarks.peers.systems import BATCHED, FUNCTION, SCRIPT
from benchmarks.peers.work.settings import Work

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def do(system: str, work: Work) -> None:
    outcome = run(systems.call(system, systems.own_python(), work), Bounds(100, 0))
    assert outcome.fault == "", outcome.said


def test_the_seconds_of_each_round_are_written(tmp_path: Path) -> None:
    work = Work("tasks", 3, 2, str(tmp_path))
    do(BATCHED, work)
    assert len(json.loads(work.times.read_text())) == 2


def test_scripts_and_functions_go_through_the_same_models(tmp_path: Path) -> None:
    curves: list[list[float]] = []
    for system in (SCRIPT, FUNCTION):
        folder = tmp_path / str(len(curves))
        folder.mkdir()
        work = Work("accuracy", 2, 3, str(folder))
        do(system, work)
        lines = [json.loads(line) for line in work.curve.read_text().splitlines()]
        assert [line["models"] for line in lines] == [0, 1, 2]
        curves.append([line["accuracy"] for line in lines])
    assert curves[0] == curves[1]
