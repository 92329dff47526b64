"""Packing state dicts: exact round trips, casts, checks before bytes, memory released."""

from __future__ import annotations

import os
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.algorithms.errors import BadHeader, BadUpdate
from covey.algorithms.tensors import DTYPES, Layout, Packer, kind_of
from covey.algorithms.tensors import state as state_module

SHAPES: list[tuple[int, ...]] = [(), (1,), (0,), (3, 0), (7,), (2, 3), (2, 1, 5)]
TORCH = st.sampled_from([dtype.torch for dtype in DTYPES.values()])
MODEL: dict[str, Any] = {"w": torch.ones(2, 3), "b": torch.zeros(3), "n": torch.tensor(4)}


def random_tensor(torch_dtype: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(0, 4, shape, generator=generator)
    return numbers.to(getattr(torch, torch_dtype))


def written(packer: Packer, state: Any, path: Path, *, release: bool = False) -> bytes:
    with path.open("wb") as file:
        packer.write(state, file.fileno(), release=release)
    return path.read_bytes()


@given(tensors=st.lists(st.tuples(TORCH, st.sampled_from(SHAPES), st.integers(0, 9)), min_size=1))
@settings(max_examples=100, deadline=None)
def test_torch_tensors_come_back_bit_for_bit(
    tensors: list[tuple[str, tuple[int, ...], int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = {f"t{i}": random_tensor(*given) for i, given in enumerate(tensors)}
    packer = Packer(Layout.of(state))
    blob = packer.pack(state)
    assert written(packer, state, tmp_path_factory.mktemp("blob") / "x") == blob
    again = packer.unpack(blob)
    assert again.keys() == state.keys()
    for name, tensor in state.items():
        assert again[name].dtype == tensor.dtype
        assert again[name].shape == tensor.shape
    assert packer.pack(again) == blob


@given(
    tensors=st.lists(
        st.tuples(
            st.sampled_from(["?", "u1", "i2", "i4", "u8", "f2", "f4", "f8", "c8"]),
            st.sampled_from(SHAPES),
        ),
        min_size=1,
    )
)
@settings(max_examples=50, deadline=None)
def test_arrays_come_back_bit_for_bit_and_are_views(
    tensors: list[tuple[str, tuple[int, ...]]],
) -> None:
    state = {f"t{i}": np.full(shape, 1, code) for i, (code, shape) in enumerate(tensors)}
    packer = Packer(Layout.of(state))
    assert packer.kind == kind_of(state) == "numpy"
    blob = packer.pack(state)
    again = packer.unpack(blob)
    for name, array in state.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)
        again[name][...] = 0
    assert not any(blob[packer.layout.data_start :])


def test_unpacked_tensors_are_views_that_keep_the_buffer_alive() -> None:
    packer = Packer(Layout.of(MODEL))
    blob = packer.pack(MODEL)
    views = packer.unpack(blob)
    views["w"][0, 0] = 5.0
    assert packer.unpack(blob)["w"][0, 0] == 5.0
    del blob
    assert views["w"][0].tolist() == [5.0, 1.0, 1.0]


def test_either_kind_may_be_packed_for_a_model_of_the_other(tmp_path: Path) -> None:
    arrays = {name: np.asarray(tensor.numpy()) for name, tensor in MODEL.items()}
    for_torch, for_numpy = Packer(Layout.of(MODEL)), Packer(Layout.of(arrays))
    assert for_torch.pack(arrays) == for_torch.pack(MODEL)
    assert for_numpy.pack(MODEL) == for_numpy.pack(arrays)
    assert written(for_torch, arrays, tmp_path / "x") == for_torch.pack(MODEL)
    mixed = {**arrays, "w": MODEL["w"]}
    assert for_torch.pack(mixed) == for_torch.pack(MODEL)
    assert isinstance(for_torch.unpack(for_torch.pack(arrays))["w"], torch.Tensor)
    assert isinstance(
        Packer(for_torch.layout, "numpy").unpack(for_torch.pack(MODEL))["w"], np.ndarray
    )


def test_array_scalars_and_tensors_that_are_not_plain_memory_are_packed(tmp_path: Path) -> None:
    base = torch.arange(12).to(torch.complex64).reshape(3, 4)
    odd: dict[str, Any] = {
        "transposed": torch.arange(6.0).reshape(2, 3).t(),
        "strided": torch.arange(10.0)[::3],
        "expanded": torch.ones(1).expand(4),
        "conjugate": (base * 1j).conj(),
        "imaginary": (base * 1j).conj().imag,
        "sparse": torch.eye(3).to_sparse(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "differentiable": torch.ones(2, requires_grad=True) * 3,
    }
    plain = {
        name: t.detach()
        .to_dense()
        .resolve_conj()
        .resolve_neg()
        .clone(memory_format=torch.contiguous_format)
        for name, t in odd.items()
    }
    packer = Packer(Layout.of(odd))
    assert packer.pack(odd) == Packer(Layout.of(plain)).pack(plain)
    arrays: dict[str, Any] = {
        "s": np.float32(3),
        "t": np.arange(6).reshape(2, 3).T,
        "u": np.arange(9.0)[::2],
    }
    again = Packer(Layout.of(arrays)).unpack(Packer(Layout.of(arrays)).pack(arrays))
    assert again["s"] == 3
    np.testing.assert_array_equal(again["t"], arrays["t"])
    np.testing.assert_array_equal(again["u"], arrays["u"])
    assert written(packer, odd, tmp_path / "x") == packer.pack(odd)
    assert written(Packer(Layout.of(arrays)), arrays, tmp_path / "y") == Packer(
        Layout.of(arrays)
    ).pack(arrays)


@pytest.mark.parametrize(
    "name", [n for n, d in DTYPES.items() if d.kind == "float" and d.lanes == 1]
)
def test_floats_are_cast_to_the_type_of_the_model(name: str, tmp_path: Path) -> None:
    dtype = getattr(torch, DTYPES[name].torch)
    numbers = torch.linspace(-2, 2, 41)
    packer = Packer(Layout.of({"x": numbers.to(dtype)}))
    expected = packer.pack({"x": numbers.to(dtype)})
    for floats in (numbers, numbers.numpy(), numbers.numpy().astype(">f4")):
        assert packer.pack({"x": floats}) == expected
        assert written(packer, {"x": floats}, tmp_path / "x") == expected


@pytest.mark.parametrize(
    ("change", "tensor", "message"),
    [
        ({"w": None}, "w", "missing"),
        ({"w": None, "w.": torch.ones(2, 3)}, "w", r"missing.*did you mean 'w.'"),
        ({"w": [[1.0, 2.0, 3.0]]}, "w", "is a list, neither a tensor nor an array"),
        ({"extra": torch.ones(1)}, "extra", "not in the model"),
        ({"ww": torch.ones(1)}, "ww", r"not in the model \(did you mean 'w'\?\)"),
        ({"w": torch.ones(3, 2)}, "w", r"shape \[3, 2\], expected \[2, 3\]"),
        ({"w": np.ones((2, 3, 1))}, "w", r"shape \[2, 3, 1\]"),
        ({"w": torch.ones(2, 3, dtype=torch.int32)}, "w", "torch.int32, expected F32"),
        ({"w": torch.ones(2, 3, dtype=torch.complex64)}, "w", "complex64, expected F32"),
        ({"w": np.ones((2, 3), np.longdouble).astype("U1")}, "w", "expected F32"),
        ({"n": torch.tensor(4.0)}, "n", "torch.float32, expected I64"),
        ({"n": np.int32(4)}, "n", "int32, expected I64"),
        ({"w": torch.tensor([[1, 2, 3], [4, float("nan"), 6]])}, "w", "NaN or infinity"),
        ({"b": np.array([0, np.inf, 0], np.float32)}, "b", "NaN or infinity"),
        ({"b": np.array([0, 1e300, 0])}, "b", "NaN or infinity"),
    ],
)  # fmt: skip
def test_a_wrong_update_is_refused_by_tensor(
    change: dict[str, Any], tensor: str, message: str, tmp_path: Path
) -> None:
    state = {name: value for name, value in {**MODEL, **change}.items() if value is not None}
    packer = Packer(Layout.of(MODEL))
    with pytest.raises(BadUpdate, match=message) as caught:
        packer.pack(state)
    assert caught.value.tensor == tensor
    with pytest.raises(BadUpdate, match=message):
        written(packer, state, tmp_path / "x")
    if "NaN" not in message:
        assert (tmp_path / "x").read_bytes() == b""  # refused before the first byte


@pytest.mark.parametrize("name", [n for n, d in DTYPES.items() if d.kind == "float"])
def test_nan_is_found_in_every_float_type(name: str) -> None:
    state = {
        "a": torch.zeros(3),
        "x": torch.tensor([1.0, float("nan")]).to(getattr(torch, DTYPES[name].torch)),
    }
    with pytest.raises(BadUpdate, match="'x'"):
        Packer(Layout.of(state)).pack(state)
    assert Packer(Layout.of(state), finite=False).pack(state)


def test_ignored_names_may_be_there_and_are_left_out() -> None:
    layout = Layout.of(MODEL).without({"b"})
    packer = Packer(layout, ignore={"b"})
    assert packer.unpack(packer.pack(MODEL)).keys() == {"w", "n"}
    with pytest.raises(BadUpdate, match="'c'"):
        packer.pack({**MODEL, "c": torch.ones(1)})


def test_writing_releases_tensor_by_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = OrderedDict((f"t{i}", torch.full((1000,), float(i))) for i in range(4))
    packer = Packer(Layout.of(state))
    expected = packer.pack(state)
    alive = [weakref.ref(tensor) for tensor in state.values()]
    counts: list[int] = []
    original = os.write

    def counting(fd: int, data: Any) -> int:
        counts.append(sum(reference() is not None for reference in alive))
        return original(fd, data)

    monkeypatch.setattr(os, "write", counting)
    assert written(packer, state, tmp_path / "x", release=True) == expected
    assert counts == [4, 4, 3, 2, 1]  # header, then each tensor
    assert not state


def test_without_release_nothing_is_removed(tmp_path: Path) -> None:
    state = dict(MODEL)
    written(Packer(Layout.of(state)), state, tmp_path / "x")
    assert state.keys() == MODEL.keys()


def test_large_tensors_are_written_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "_PIECE_BYTES", 64)
    state = {"x": torch.arange(1000.0), "y": torch.arange(999.0).bfloat16()}
    packer = Packer(Layout.of(state))
    assert written(packer, state, tmp_path / "x") == packer.pack(state)


def test_a_write_that_takes_less_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.write

    def short(fd: int, data: memoryview) -> int:
        return original(fd, data[:7])

    monkeypatch.setattr(os, "write", short)
    packer = Packer(Layout.of(MODEL))
    assert written(packer, MODEL, tmp_path / "x") == packer.pack(MODEL)


def test_a_buffer_of_another_layout_is_refused() -> None:
    packer = Packer(Layout.of(MODEL))
    blob = packer.pack(MODEL)
    with pytest.raises(BadHeader, match="another layout"):
        packer.unpack(blob + b"x")
    other = Packer(Layout.of({"w": torch.ones(2)}))
    with pytest.raises(BadHeader, match="another layout"):
        packer.unpack(other.pack({"w": torch.ones(2)}))
    with pytest.raises(ValueError, match="read-only"):
        packer.unpack(bytes(blob))


def test_numpy_has_no_bfloat16() -> None:
    state = {"x": torch.ones(2, dtype=torch.bfloat16)}
    packer = Packer(Layout.of(state), "numpy")
    with pytest.raises(BadUpdate, match="NumPy has no element type BF16"):
        packer.unpack(packer.pack(state))
