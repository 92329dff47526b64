from __future__ import annotations

import fcntl
import gc
import os
import sys
import weakref
from typing import Any

import numpy as np
import pytest

from covey.algorithms.tensors import Layout, Packer
from covey.client import BadModel, FLModel
from covey.client.updates import number, scalar, write_update

ELEMENTS = 1 << 20  # two tensors of 4 MiB: more than is packed in one go


@pytest.mark.skipif(sys.platform != "linux", reason="sealed memory files are Linux'")
@pytest.mark.parametrize("elements", [3, ELEMENTS])
def test_an_update_is_a_sealed_memory_file(elements: int) -> None:
    state = {"a": np.arange(elements, dtype=np.float32), "b": np.ones(elements, np.float32)}
    packer = Packer(Layout.of(state))
    fd = write_update(packer, FLModel(params=state), release=False)
    try:
        assert fcntl.fcntl(fd, 1034) == 0xF
        assert os.pread(fd, packer.layout.size + 1, 0) == bytes(packer.pack(state))
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def test_tensors_are_released_only_if_nothing_else_holds_their_dict() -> None:
    def make() -> dict[str, Any]:
        return {name: np.ones(ELEMENTS, np.float32) for name in ("a", "b")}

    held = make()
    packer = Packer(Layout.of(held))
    os.close(write_update(packer, FLModel(params=held), release=True))
    assert list(held) == ["a", "b"]
    model = FLModel(params=make())
    assert model.params is not None
    kept = weakref.ref(model.params["a"])
    os.close(write_update(packer, model, release=True))
    gc.collect()
    assert model.params == {}
    assert kept() is None


def test_a_refused_update_leaves_no_descriptor_open() -> None:
    state = {"a": np.ones(3, np.float32)}
    packer = Packer(Layout.of(state))
    before = os.listdir("/dev/fd")
    for wrong in ({"a": np.ones(4)}, {"b": np.ones(3)}, {"a": np.array([1, np.inf, 2])}):
        with pytest.raises(BadModel, match="params"):
            write_update(packer, FLModel(params=wrong), release=True)
    assert os.listdir("/dev/fd") == before


def test_numbers_and_scalars_become_plain() -> None:
    assert type(number(np.float64(1.5), "x")) is float
    assert number(np.array([[2]]), "x") == 2.0
    assert number(True, "x") == 1.0
    assert type(scalar(np.str_("a"), "x")) is str
    assert scalar(np.bool_(True), "x") is True
    assert scalar(None, "x") is None
    for wrong in ("a", None, [1], np.zeros(2)):
        with pytest.raises(BadModel, match="expected a number"):
            number(wrong, "x")
    with pytest.raises(BadModel, match="x: is a dict"):
        scalar({}, "x")
