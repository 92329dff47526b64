"""Doors against bare TCP: requests and replies of 1 KB over one connection, without TLS.

Client and server are processes of their own (`jobs/wire/nodes.py`). All contenders take turns in
one run; a figure is the median of three. `raw-msgpack` is length-prefixed TCP with bare msgpack,
which checks nothing; `raw-codec` carries the very frames and records of covey's without a session,
so that what is left between it and a door is what the door and the session cost.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .results import Row

_PROGRAM = Path(__file__).parent / "jobs" / "wire" / "nodes.py"
_CONTENDERS = ("raw-msgpack", "raw-codec", "fast", "upgrade", "websocket", "grpc")
_SECONDS = 2.0
_RUN_S = 60.0

#: What each door shall reach: times bare TCP's rate with 64 in flight, times its time with 1.
_RATES = {"fast": ">= 0.85 x", "websocket": ">= 0.85 x", "grpc": ">= 0.55 x"}
_TIMES = {"fast": "<= 1.3 x", "websocket": "<= 3 x"}

Figures = dict[str, list[dict[str, float]]]


def run(folder: Path, quick: bool) -> list[Row]:
    """Rates and times of each door."""
    del folder
    rows: list[Row] = []
    for in_flight in (64, 1):
        figures: Figures = {name: [] for name in _CONTENDERS}
        for _ in range(1 if quick else 3):
            for name in _CONTENDERS:
                figures[name].append(_measure(name, in_flight, 0.5 if quick else _SECONDS))
        rows += _rows(figures, in_flight)
    return rows


def _rows(figures: Figures, in_flight: int) -> Generator[Row]:
    bare, same = figures["raw-msgpack"], figures["raw-codec"]
    for name, runs in figures.items():
        rate = _median(runs, "per_s")
        p50, p99 = _median(runs, "p50_us"), _median(runs, "p99_us")
        if in_flight == 1:
            value, base, frames = p50, _median(bare, "p50_us"), _median(same, "p50_us")
            limit = _TIMES.get(name, "")
        else:
            value, base, frames = rate, _median(bare, "per_s"), _median(same, "per_s")
            limit = _RATES.get(name, "")
        note = (
            f"{value / frames:.2f} x raw-codec; {rate:,.0f}/s, p50 {p50:,.0f} us, "
            f"p99 {p99:,.0f} us, client CPU {_median(runs, 'cpu_us'):.0f} us a request"
        )
        label = f"{name}, {in_flight} in flight" + (": p50" if in_flight == 1 else "")
        yield Row(label, f"{value / base:.2f} x", note, limit, value / base)


def _median(runs: Sequence[dict[str, float]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def _measure(name: str, in_flight: int, seconds: float) -> dict[str, float]:
    with _server(name) as port:
        command = [sys.executable, str(_PROGRAM), "client", name, str(port)]
        command += [str(in_flight), str(seconds)]
        done = subprocess.run(command, capture_output=True, timeout=_RUN_S, check=True, text=True)
    outcome: dict[str, float] = json.loads(done.stdout)
    return outcome


@contextmanager
def _server(name: str) -> Generator[int]:
    """A server of a door; its port."""
    command = [sys.executable, str(_PROGRAM), "server", name]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()  # it ends with its input
            process.wait(_RUN_S)
