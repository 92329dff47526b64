"""Big model files are mapped in parts, which end one by one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covey.algorithms import BadHeader
from covey.algorithms.tensors import Layout, Packer, unpack_private
from covey.algorithms.tensors.heap import trim_heap

MIB = 1 << 20


def write(path: Path, state: dict[str, Any]) -> Packer:
    packer = Packer(Layout.of(state))
    with path.open("wb") as file:
        packer.write(state, file.fileno())
    return packer


def state_of(*sizes: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {f"t{i}": rng.random(size, np.float32) for i, size in enumerate(sizes)}


@pytest.mark.parametrize(
    "sizes",
    [(3, 5), (3 * MIB, 1, 7, 2 * MIB, 0, 3 * MIB + 1), (5 * MIB,), (1, *[MIB + 3] * 9, 1)],
    ids=["small", "uneven", "one", "many"],
)
def test_tensors_are_those_of_the_file(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    state = state_of(*sizes)
    packer = write(tmp_path / "model", state)
    with (tmp_path / "model").open("rb") as file:
        views = unpack_private(file.fileno(), packer)
    assert list(views) == [spec.name for spec in packer.layout.specs]
    for name, value in state.items():
        assert np.array_equal(views[name], value)


def test_writing_to_a_view_leaves_the_file_alone(tmp_path: Path) -> None:
    packer = write(tmp_path / "model", state_of(3 * MIB, 3 * MIB))
    before = (tmp_path / "model").read_bytes()
    with (tmp_path / "model").open("rb") as file:
        for value in unpack_private(file.fileno(), packer).values():
            value += 1
    assert (tmp_path / "model").read_bytes() == before


@pytest.mark.parametrize("sizes", [(3, 4), (3 * MIB, 3 * MIB)], ids=["small", "big"])
def test_a_file_of_another_layout_is_refused(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    write(tmp_path / "model", state_of(*sizes))
    other = Packer(Layout.of(state_of(*sizes[::-1], 1)))
    with (tmp_path / "model").open("rb") as file, pytest.raises(BadHeader):
        unpack_private(file.fileno(), other)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_tensors_that_were_written_to_ends_with_them(tmp_path: Path) -> None:
    packer = write(tmp_path / "model", state_of(*[2 * MIB] * 8))
    with (tmp_path / "model").open("rb") as file:
        views = unpack_private(file.fileno(), packer)
    for name in views:
        views[name] += 1
    before = _private_bytes()
    while len(views) > 2:
        views.popitem()
    assert before - _private_bytes() >= 6 * 8 * MIB - MIB


@pytest.mark.skipif(sys.platform != "linux", reason="memory files")
def test_written_tensors_that_are_released_leave_the_heap() -> None:
    # 16 MiB each, which glibc takes from its heap once one of them has been freed.
    ones = np.ones(4 * MIB, np.float32)
    state = {f"t{i}": ones * i for i in range(8)}
    packer = Packer(Layout.of(state))
    before = _private_bytes()
    fd = os.memfd_create("test")
    try:
        packer.write(state, fd, release=True)
    finally:
        os.close(fd)
    assert state == {}
    assert before - _private_bytes() >= 7 * 16 * MIB


def test_trimming_is_harmless() -> None:
    trim_heap()


def _private_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")
