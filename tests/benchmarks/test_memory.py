"""The memory sampler sees what it claims to see, in processes of a known size."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from benchmarks.memory import MARKER, Memory, Peaks, Sampler

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MIB = 1 << 20
#: What a Python process is without its ballast, with room to spare.
PYTHON_BYTES = 24 * MIB


@contextmanager
def program(code: str, **extra: str) -> Generator[tuple[Sampler, subprocess.Popen[str]]]:
    """A process that runs `code` and then waits, once it has said that it is ready."""
    token = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", f"{code}\nprint('ready', flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **extra, MARKER: token},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield Sampler(token), process
    finally:
        process.stdin.close()
        process.stdout.close()
        assert process.wait() in (0, 1)


CHILD = """
import os
if os.fork() == 0:
    os.setsid()
    os.environ.clear()
    ballast = bytearray(64 << 20)
    ballast[::4096] = b"x" * (len(ballast) // 4096)
"""
MEMFD = """
import os
fd = os.memfd_create("ballast")
for _ in range(64):
    os.write(fd, b"x" * (1 << 20))
"""
MAPPED = (
    MEMFD
    + """
import mmap
region = mmap.mmap(fd, 64 << 20)
"""
)
TOUCHED = (
    MAPPED
    + """
sum(region[::4096])
"""
)


def test_memory_of_a_child_in_a_session_of_its_own_is_seen() -> None:
    with program(CHILD) as (sampler, process):
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"  # the other process
        memory = sampler.look()
    assert memory.processes == 2
    assert 64 * MIB <= memory.anonymous <= 64 * MIB + PYTHON_BYTES


def test_a_memory_file_that_nobody_maps_is_seen() -> None:
    with program(MEMFD) as (sampler, _):
        memory = sampler.look()
    assert memory.unmapped >= 64 * MIB
    assert memory.pss <= PYTHON_BYTES
    assert memory.total >= 64 * MIB


@pytest.mark.parametrize("code", [MAPPED, TOUCHED], ids=["not yet touched", "touched"])
def test_a_mapped_memory_file_is_counted_once(code: str) -> None:
    with program(code) as (sampler, _):
        memory = sampler.look()
    assert 64 * MIB <= memory.total <= 64 * MIB + PYTHON_BYTES


def test_a_memory_file_whose_descriptor_is_closed_is_seen_by_its_mapping() -> None:
    with program(MAPPED + "os.close(fd)\n") as (sampler, _):
        memory = sampler.look()
    assert 64 * MIB <= memory.total <= 64 * MIB + PYTHON_BYTES


def test_processes_without_the_marker_are_not_counted() -> None:
    assert Sampler(uuid.uuid4().hex).look() == Memory()


def test_peaks_are_kept_apart() -> None:
    files, anonymous = Memory(pss=10, files=9), Memory(pss=8, anonymous=8)
    peaks = Peaks().with_look(files).with_look(anonymous).with_look(Memory())
    assert peaks.total is files
    assert peaks.without_files is anonymous
    assert peaks.looks == 3
