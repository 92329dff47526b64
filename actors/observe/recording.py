"""The recorder's side: `python -m covey.actors.observe.recording TRACKER FOLDER`.

Here: reading a run's events from standard input and having a package write their curves, from
the first to the last. Not here: the run's side (`recorder.py`, which says what the lines are), what
a package does with a curve (`mlflow.py`, `wandb.py`).
"""

from __future__ import annotations

import importlib
import json
import os
import select
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, Protocol

from .events import EventKind, RunEvent
from .tracking import Curves, Experiment, Point

#: Writers by their tracker's name: module and class. A closed table: no name comes from outside.
_WRITERS: Final = {
    "mlflow": (".mlflow", "MlflowWriter"),
    "wandb": (".wandb", "WandbWriter"),
}

#: What is written together. With MLflow a site's values cost a transaction, some 15 ms, however
#: many they are: so a run with many sites is written as it comes, and a slow one within a second.
_TOGETHER_BYTES: Final = 4 << 20
_TOGETHER_S: Final = 1.0
_PAUSE_S: Final = 0.1

#: How a run ended whose end was not told: its process was killed or interrupted.
_CUT_OFF: Final = "aborted"


class Writer(Protocol):
    """Writes curves with one package, in a folder of its own."""

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        """Begin, or go on with what the folder has of the same job."""
        ...

    def write(self, points: Sequence[Point]) -> None:
        """Write points, in order."""
        ...

    def end(self, status: str) -> None:
        """Say how the run ended, and let go of everything."""
        ...


def record(make: type[Writer], folder: Path, lines: Iterator[Sequence[bytes]]) -> None:
    """Write a run's curves from lines that come together, until they end."""
    told = next(lines, None)
    if told is None:
        return  # the run's process died before its first word
    first, *early = told
    writer = make(folder, Experiment(**json.loads(first)))
    curves, status = Curves(), _CUT_OFF
    for crowd in chain([early], lines):
        events = [_event(json.loads(line)) for line in crowd]
        writer.write([point for event in events for point in curves.points(event)])
        for event in events:
            if event.kind is EventKind.RUN_FINISHED:
                status = str(event.data["status"])
    writer.end(status)


def _event(row: Any) -> RunEvent:
    kind, round, site, time, data = row
    return RunEvent(EventKind(kind), round, site, data, time)


def crowds(fd: int) -> Iterator[Sequence[bytes]]:
    """The lines of a pipe, as many as are there; until `null` or the pipe's end."""
    rest = b""
    while data := _all_there(fd):
        *lines, rest = (rest + data).split(b"\n")
        ended = bool(lines) and lines[-1] == b"null"
        if crowd := lines[:-1] if ended else lines:
            yield crowd
        if ended:
            return


def _all_there(fd: int) -> bytes:
    """Wait for data; give it with what follows closely. Empty at the end."""
    data = bytearray(os.read(fd, _TOGETHER_BYTES))
    deadline = time.monotonic() + _TOGETHER_S
    while data and len(data) < _TOGETHER_BYTES and time.monotonic() < deadline:
        ready, _, _ = select.select([fd], [], [], _PAUSE_S)
        more = os.read(fd, _TOGETHER_BYTES) if ready else b""
        if not more:
            break
        data += more
    return bytes(data)


def main(tracker: str, folder: Path) -> int:
    """Record what comes on standard input; say on standard output why that failed.

    Returns:
        0, or 1 if it failed.
    """
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # packages print to the log
    try:
        # Packages name their files in URLs, where a folder's name could have a meaning.
        sys.path[:] = [os.path.abspath(entry) for entry in sys.path]
        os.chdir(folder)
        module, writer = _WRITERS[tracker]
        make = getattr(importlib.import_module(module, __package__), writer)
        record(make, folder, crowds(sys.stdin.fileno()))
    except Exception as error:
        traceback.print_exc()
        os.write(answer, _reason(error).encode())
        return 1
    return 0


def _reason(error: Exception) -> str:
    """An error in one short line: packages explain theirs in pages."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"[:500]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
