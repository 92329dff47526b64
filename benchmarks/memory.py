"""Peak memory of a command: all its processes, and shared memory that nobody maps.

Here: the sampler. A process belongs to the command if its first environment has the marker, so
that a process of another group or session, or with another parent, is found too. Not here: time.

What is counted, in bytes: the proportional set size (PSS) of every process, and the pages of
memory files and of tmpfs that are open or mapped but in nobody's page tables. Pages of the disk's
cache that no process maps are the system's to take back and are not counted; those that a process
maps are in its PSS, and are given apart as well (`files`), since they are no less evictable.
"""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from .commands import CommandFailed, environment

MARKER: Final = "COVEY_BENCHMARK_ID"

#: Between two looks; a look takes from 1 ms (one process) to 100 ms (forty).
_PAUSE_S: Final = 0.02

_LIMIT_S: Final = 180.0
_BLOCK_BYTES: Final = 512  # what st_blocks counts, whatever the file system
_SHARED: Final = ("/memfd:", "/dev/shm/", "/run/shm/")
_KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a command at one moment, in bytes.

    Attributes:
        pss: Proportional set sizes of its processes together.
        unmapped: Shared memory that is in no process' page tables.
        files: The part of `pss` that is pages of files on disk.
        anonymous: The part of `pss` that is private memory.
        processes: Number of processes.
    """

    pss: int = 0
    unmapped: int = 0
    files: int = 0
    anonymous: int = 0
    processes: int = 0

    @property
    def total(self) -> int:
        """Everything."""
        return self.pss + self.unmapped

    @property
    def without_files(self) -> int:
        """Everything but pages of files on disk."""
        return self.total - self.files


@dataclass(frozen=True, slots=True)
class Peaks:
    """The largest values met during a command, each at its own moment.

    Attributes:
        total: The moment with the largest total.
        without_files: The moment with the largest total without files on disk.
        processes: Most processes at once.
        looks: How many moments were looked at.
    """

    total: Memory = Memory()
    without_files: Memory = Memory()
    processes: int = 0
    looks: int = 0

    def with_look(self, now: Memory) -> Peaks:
        """The peaks after one more look."""
        return Peaks(
            max(self.total, now, key=lambda memory: memory.total),
            max(self.without_files, now, key=lambda memory: memory.without_files),
            max(self.processes, now.processes),
            self.looks + 1,
        )


def peak_memory(command: Sequence[str], workspace: Path) -> Peaks:
    """Run a command and watch its memory.

    Raises:
        CommandFailed: Unless it exits with 0 in three minutes.
    """
    token = uuid.uuid4().hex
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**environment(workspace), MARKER: token},
    )
    sampler = Sampler(token)
    peaks, began = Peaks(), time.monotonic()
    try:
        while process.poll() is None and time.monotonic() - began < _LIMIT_S:
            peaks = peaks.with_look(sampler.look())
            time.sleep(_PAUSE_S)
    finally:
        process.kill()
    code = process.wait()
    if code != 0:
        raise CommandFailed(command, code, "")
    return peaks


class Sampler:
    """Looks at the memory of all processes that carry a marker.

    Args:
        token: The value of `MARKER` in their environment.
    """

    def __init__(self, token: str) -> None:
        """See the class."""
        self._needle = f"{MARKER}={token}".encode()
        self._foreign: set[tuple[str, str]] = set()

    def look(self) -> Memory:
        """The memory at this moment; a process that ends meanwhile is left out."""
        sum_, shared, mapped = Memory(), dict[tuple[int, int], int](), 0
        for pid in self.processes():
            with suppress(OSError, ValueError):
                rollup = _rollup(pid)
                if not rollup:
                    continue
                _find_shared(pid, shared)
                mapped += rollup.get("Pss_Shmem", 0)
                sum_ = replace(
                    sum_,
                    pss=sum_.pss + rollup["Pss"],
                    files=sum_.files + rollup.get("Pss_File", 0),
                    anonymous=sum_.anonymous + rollup.get("Pss_Anon", 0),
                    processes=sum_.processes + 1,
                )
        return replace(sum_, unmapped=max(0, sum(shared.values()) - mapped))

    def processes(self) -> Iterator[str]:
        """The numbers of the processes that carry the marker and live at this moment."""
        for pid in os.listdir("/proc"):
            if not pid.isdigit():
                continue
            with suppress(OSError, ValueError):
                key = (pid, _start_time(pid))
                if key in self._foreign:
                    continue
                content = Path("/proc", pid, "environ").read_bytes()
                if self._needle in content.split(b"\0"):
                    yield pid
                elif content:  # empty between fork and exec
                    self._foreign.add(key)


def _start_time(pid: str) -> str:
    """When a process began: with its number, what tells it from a later one."""
    stat = Path("/proc", pid, "stat").read_text()
    return stat[stat.rindex(")") + 2 :].split()[19]


def _rollup(pid: str) -> dict[str, int]:
    """The sums over all mappings of a process, in bytes."""
    lines = Path("/proc", pid, "smaps_rollup").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return {words[0].rstrip(":"): int(words[1]) * _KIB for words in fields}


def _find_shared(pid: str, found: dict[tuple[int, int], int]) -> None:
    """Note the memory files and tmpfs files that a process has open or mapped, by device and inode.

    Of one that is only mapped, the size is the mapping's: a sealed file is all there.
    """
    folder = f"/proc/{pid}/fd"
    for fd in os.listdir(folder):
        with suppress(OSError):
            if os.readlink(f"{folder}/{fd}").startswith(_SHARED):
                status = os.stat(f"{folder}/{fd}")
                key = (status.st_dev, status.st_ino)
                found[key] = max(found.get(key, 0), status.st_blocks * _BLOCK_BYTES)
    for line in Path("/proc", pid, "maps").read_text().splitlines():
        if "/memfd:" in line or "/dev/shm/" in line:
            span, _, _, device, inode, *_ = line.split(maxsplit=5)
            start, end = (int(number, 16) for number in span.split("-"))
            major, minor = (int(number, 16) for number in device.split(":"))
            key = (os.makedev(major, minor), int(inode))
            found.setdefault(key, end - start)
