"""Running whole commands: wall and CPU seconds, in alternation.

Here: one command from start to exit, with the CPU seconds of every process it leaves behind, and
pairs taking turns. Not here: memory (`memory.py`), which is measured in runs of its own because
looking at it costs time.
"""

from __future__ import annotations

import ctypes
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36

#: A command that takes longer hangs: the slowest takes 20 s.
_LIMIT_S = 180.0

#: What outlives its command for longer is a fault of its own, which tests hold.
_ORPHANS_S = 10.0


@dataclass(frozen=True, slots=True)
class Timing:
    """One run of a command.

    Attributes:
        wall_s: From start to exit.
        cpu_s: User and system time of all its processes.
        workspace: The folder that its run folders are in.
    """

    wall_s: float
    cpu_s: float
    workspace: Path


@dataclass(slots=True)
class Timings:
    """All runs of one command."""

    runs: list[Timing] = field(default_factory=list[Timing])

    @property
    def wall_s(self) -> float:
        """The median."""
        return statistics.median(run.wall_s for run in self.runs)

    @property
    def cpu_s(self) -> float:
        """The median."""
        return statistics.median(run.cpu_s for run in self.runs)


class CommandFailed(Exception):
    """A benchmark's command did not end well; carries what it printed."""

    def __init__(self, command: Sequence[str], code: int, output: str) -> None:
        """`command` ended with exit code `code` after printing `output`."""
        super().__init__(f"{' '.join(command)} ended with {code}:\n{output[-2000:]}")
        self.code = code


def time_command(command: Sequence[str], workspace: Path) -> Timing:
    """Run a command to its end.

    Raises:
        CommandFailed: Unless it exits with 0.
    """
    before = cpu_of_children()
    with tempfile.TemporaryFile() as output, adopting_orphans():
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(workspace),
        )
        try:
            code = process.wait(_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        wall_s = time.perf_counter() - began
        reap_orphans()
        if code != 0:
            output.seek(0)
            raise CommandFailed(command, code, output.read().decode(errors="replace"))
    return Timing(wall_s, cpu_of_children() - before, workspace)


def environment(workspace: Path) -> dict[str, str]:
    """The environment of a benchmark's command: our own, a new workspace, never a resumed run."""
    return {**os.environ, "COVEY_WORKSPACE": str(workspace), "COVEY_FRESH": "1", "NO_COLOR": "1"}


def take_turns(
    commands: Mapping[str, Sequence[str]], repeats: int, folder: Path
) -> dict[str, Timings]:
    """Run every command once, then every command again, ...: a noisy minute hits them all."""
    timings = {name: Timings() for name in commands}
    for turn in range(repeats):
        for name, command in commands.items():
            workspace = folder / f"{name.replace(' ', '-')}-{turn}"
            timings[name].runs.append(time_command(command, workspace))
    return timings


@contextmanager
def adopting_orphans() -> Generator[None]:
    """Be the parent of what a command leaves behind, so that its CPU time is counted."""
    libc = ctypes.CDLL(None, use_errno=True)
    known = hasattr(libc, "prctl")
    if known:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        if known:
            libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def reap_orphans() -> None:
    """Wait a while for processes that outlived their command."""
    deadline = time.monotonic() + _ORPHANS_S
    with suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.01)


def cpu_of_children() -> float:
    """User and system time of all processes that were waited for so far, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
