"""Running a command within bounds of time and memory, with all that it starts.

A run that goes over its time, or with which the machine comes short of memory, is ended with all
its processes, found by the marker in their environment; so is what a run leaves behind. What was
measured until then is kept. A look at memory costs time, so a watcher looks rarely enough to take
at most a twentieth of one processor, or, where time is not what is measured, a half.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from benchmarks.commands import adopting_orphans, cpu_of_children, reap_orphans
from benchmarks.memory import MARKER, Memory, Sampler

_GIB: Final = 1 << 30
#: Between two glances at the clock and at what memory is left.
_GLANCE_S = 0.1
#: Of what a run printed, the end is enough to see why it failed.
_SAID_BYTES = 4000
#: What is ended is gone at once; until then it may start more.
_KILLS = 50

#: How much longer to rest than a look took.
RARELY: Final = 19.0
OFTEN: Final = 1.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What ends a run.

    Attributes:
        seconds: The longest that it may take.
        spare_bytes: The least memory that the machine shall have left.
    """

    seconds: float
    spare_bytes: int = 4 * _GIB


@dataclass(frozen=True, slots=True)
class Call:
    """A command with where and with what it runs.

    Attributes:
        command: Its words.
        cwd: The folder to run in.
        variables: Its environment.
    """

    command: Sequence[str]
    cwd: Path
    variables: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Peaks:
    """The largest values that were met, each at its own moment.

    Attributes:
        pss: Proportional set sizes of all processes together, in bytes.
        processes: Processes at once.
        looks: How many moments were looked at.
    """

    pss: int = 0
    processes: int = 0
    looks: int = 0

    def with_look(self, now: Memory) -> Peaks:
        """The peaks after one more look."""
        return Peaks(
            max(self.pss, now.pss),
            max(self.processes, now.processes),
            self.looks + 1,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        began: When it began, on the monotonic clock of the machine.
        wall_s: From start to exit, or until it was ended.
        cpu_s: User and system time of all its processes.
        peaks: Its memory and processes.
        fault: Why it did not end well; empty if it did.
        said: The last that it printed.
    """

    began: float
    wall_s: float
    cpu_s: float
    peaks: Peaks
    fault: str
    said: str


def run(call: Call, bounds: Bounds, rest: float = RARELY) -> Outcome:
    """Run a command to its end or to its bounds, and end whatever it leaves behind."""
    token, before = uuid.uuid4().hex, cpu_of_children()
    with tempfile.TemporaryFile() as output, adopting_orphans():
        began = time.monotonic()
        process = subprocess.Popen(
            call.command,
            cwd=call.cwd,
            env={**call.variables, MARKER: token},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        watcher = _Watcher(token, began, bounds, rest)
        watcher.start()
        try:
            code = process.wait()
            wall_s = time.monotonic() - began
        finally:
            watcher.over.set()
            watcher.join()
            end_processes(token)
            process.wait()
            reap_orphans()
        said = _end_of(output)
    fault = watcher.fault or (f"ended with {code}" if code else "")
    return Outcome(began, wall_s, cpu_of_children() - before, watcher.peaks, fault, said)


class _Watcher(threading.Thread):
    """Looks at a run's memory, and ends the run when it passes its bounds."""

    def __init__(self, token: str, began: float, bounds: Bounds, rest: float) -> None:
        super().__init__(name="watcher")
        self.over = threading.Event()
        self.fault = ""
        self.peaks = Peaks()
        self._token, self._began, self._bounds, self._rest = token, began, bounds, rest

    def run(self) -> None:
        sampler, due = Sampler(self._token), 0.0
        pause_s = _GLANCE_S if self._rest >= RARELY else _GLANCE_S / 5
        while not self.over.wait(pause_s):
            now = time.monotonic()
            if now >= due:
                self.peaks = self.peaks.with_look(sampler.look())
                took_s = time.monotonic() - now
                due = now + took_s * (1 + self._rest)
            fault = passed(self._bounds, now - self._began, available_bytes())
            if fault and not self.fault:
                self.peaks = self.peaks.with_look(sampler.look())
                self.fault = fault
                end_processes(self._token)


def passed(bounds: Bounds, seconds: float, available: int) -> str:
    """What bound is passed after so long with so much memory left; empty if none is."""
    if available < bounds.spare_bytes:
        spare = bounds.spare_bytes / _GIB
        return f"stopped after {seconds:.0f} s: the machine had less than {spare:.0f} GiB left"
    if seconds > bounds.seconds:
        return f"stopped after {seconds:.0f} s"
    return ""


def available_bytes() -> int:
    """Memory that the machine can still give."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def end_processes(token: str) -> None:
    """Kill every process with this marker, and those that they start meanwhile."""
    sampler = Sampler(token)
    for _ in range(_KILLS):
        alive = [pid for pid in sampler.processes() if _lives(pid)]
        if not alive:
            return
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(_GLANCE_S)


def _lives(pid: str) -> bool:
    """Whether a process is more than an entry that its parent has not read."""
    with suppress(OSError):
        stat = Path("/proc", pid, "stat").read_text()
        return stat[stat.rindex(")") + 2] not in "ZX"
    return False


def _end_of(output: IO[bytes]) -> str:
    output.seek(max(0, output.seek(0, os.SEEK_END) - _SAID_BYTES))
    return output.read().decode(errors="replace")
