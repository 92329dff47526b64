"""Element types: widening is exact, narrowing rounds once, half to even."""

# The stubs of torch and safetensors are partial.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.algorithms.tensors import DTYPES, DType, Scratch, all_finite, narrow, widen

FLOATS = [name for name, dtype in DTYPES.items() if dtype.kind == "float"]
SHORT = [name for name, dtype in DTYPES.items() if dtype.short is not None]
INTEGERS = [name for name, dtype in DTYPES.items() if dtype.kind == "int"]


def bits_of(tensor: torch.Tensor, dtype: DType) -> npt.NDArray[Any]:
    view = torch.int16 if dtype.itemsize == 2 else torch.uint8
    return tensor.view(view).numpy().view(dtype.storage)


def tensor_of(codes: npt.NDArray[Any], dtype: DType) -> torch.Tensor:
    plain = torch.from_numpy(codes.view("i2" if dtype.itemsize == 2 else "u1").copy())
    return plain.view(getattr(torch, dtype.torch))


def rounded(dtype: DType, values: list[float]) -> npt.NDArray[Any]:
    out = np.empty(len(values), dtype.storage)
    narrow(dtype, np.array(values, np.float64), out)
    return out


@functools.cache
def finite_grid(name: str) -> list[tuple[Fraction, int]]:
    """The non-negative finite numbers of a short float by torch's own decoding, in order."""
    dtype = DTYPES[name]
    codes = np.arange(1 << (dtype.itemsize * 8 - 1)).astype(dtype.storage)
    numbers: list[float] = tensor_of(codes, dtype).to(torch.float64).tolist()
    return [(Fraction(x), code) for code, x in enumerate(numbers) if np.isfinite(x)]


def nearest_even(name: str, value: float) -> int | None:
    """Code of the nearest number, ties to even, by exact arithmetic; None if it overflows."""
    grid = finite_grid(name)
    magnitude = Fraction(abs(value))
    step = grid[-1][0] - grid[-2][0]
    if magnitude >= grid[-1][0] + step / 2:
        return None
    low, high = 0, len(grid) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if grid[middle][0] <= magnitude else (low, middle)
    candidates = sorted(
        (abs(grid[i][0] - magnitude), grid[i][1] & 1, grid[i][1]) for i in (low, high)
    )
    return candidates[0][2]


def test_every_type_is_one_that_safetensors_and_torch_know() -> None:
    for name, dtype in DTYPES.items():
        assert torch.empty(1, dtype=getattr(torch, dtype.torch)).element_size() == dtype.itemsize
        assert name == dtype.name
        assert dtype.itemsize % dtype.storage.itemsize == 0


@pytest.mark.parametrize("name", SHORT)
def test_every_code_is_widened_as_torch_does(name: str) -> None:
    dtype = DTYPES[name]
    codes = np.arange(1 << (dtype.itemsize * 8)).astype(dtype.storage)
    out = np.empty(len(codes), np.float64)
    with np.errstate(invalid="ignore"):
        widen(dtype, codes, out)
    np.testing.assert_array_equal(out, tensor_of(codes, dtype).to(torch.float64).numpy())


@pytest.mark.parametrize("name", SHORT)
def test_every_finite_code_comes_back_from_float64(name: str) -> None:
    dtype = DTYPES[name]
    codes = np.arange(1 << (dtype.itemsize * 8)).astype(dtype.storage)
    wide = np.empty(len(codes), np.float64)
    with np.errstate(invalid="ignore"):
        widen(dtype, codes, wide)
    finite = np.isfinite(wide)
    out = np.empty(len(codes), dtype.storage)
    narrow(dtype, wide.copy(), out)
    np.testing.assert_array_equal(out[finite], codes[finite])
    for code, number in zip(codes, wide, strict=True):
        assert all_finite(dtype, np.array([code])) == np.isfinite(number)


@pytest.mark.parametrize("name", SHORT)
@given(seed=st.integers(0, 2**32), exponent=st.integers(-40, 18))
@settings(max_examples=20, deadline=None)
def test_float32_numbers_are_rounded_as_torch_does(name: str, seed: int, exponent: int) -> None:
    dtype = DTYPES[name]
    random = np.random.default_rng(seed)
    numbers = (random.standard_normal(500) * 2.0**exponent).astype(np.float32)
    largest = float(finite_grid(name)[-1][0])
    numbers = numbers[np.abs(numbers) < largest]  # beyond, torch saturates some types
    expected = bits_of(torch.from_numpy(numbers).to(getattr(torch, dtype.torch)), dtype)
    np.testing.assert_array_equal(rounded(dtype, numbers.tolist()), expected)


@pytest.mark.parametrize("name", SHORT)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_float64_numbers_are_rounded_once(name: str, data: st.DataObject) -> None:
    # Numbers a hair beside a tie are those that rounding twice gets wrong.
    grid = finite_grid(name)
    index = data.draw(st.integers(0, len(grid) - 2))
    tie = float((grid[index][0] + grid[index + 1][0]) / 2)
    away = data.draw(st.sampled_from([0, 1, -1, 2**20, -(2**20), 2**30, -(2**30)]))
    value = float((np.array([tie]).view(np.int64) + away).view(np.float64)[0])
    code = nearest_even(name, value)
    sign = 1 << (DTYPES[name].itemsize * 8 - 1)
    assert code is not None
    got = rounded(DTYPES[name], [value, -value]).tolist()
    negative = 0 if code == 0 and "FNUZ" in name else code | sign
    assert got == [code, negative]


@pytest.mark.parametrize("name", SHORT)
@given(value=st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=100, deadline=None)
def test_any_float64_is_rounded_to_the_nearest_or_is_not_finite(name: str, value: float) -> None:
    dtype = DTYPES[name]
    got = rounded(dtype, [value])
    code = nearest_even(name, value)
    if code is None and not (name == "F8_E4M3" and abs(value) == 464.0):
        assert not all_finite(dtype, got)
    elif code is not None:
        assert int(got[0]) & (2 ** (dtype.itemsize * 8 - 1) - 1) == code


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [1, 70_000])
def test_what_is_not_finite_stays_so(name: str, value: float, size: int) -> None:
    dtype = DTYPES[name]
    numbers = [0.0] * (size - 1) + [value]
    assert not all_finite(dtype, rounded(dtype, numbers))
    assert all_finite(dtype, rounded(dtype, numbers[:-1]))


def test_a_nan_with_every_bit_set_does_not_become_a_number() -> None:
    every_bit = np.full(1, -1, np.int64).view(np.float64)
    for name in SHORT:
        out = np.zeros(1, DTYPES[name].storage)
        narrow(DTYPES[name], every_bit.copy(), out)
        assert not all_finite(DTYPES[name], out)


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_round_half_to_even_and_saturate(name: str) -> None:
    info = np.iinfo(DTYPES[name].storage)
    ties = [0.5, 1.5, 2.5, 3.4999]
    assert rounded(DTYPES[name], ties).tolist() == [0, 2, 2, 3]
    ends = rounded(DTYPES[name], [1e300, -1e300, np.inf, -np.inf, float(info.max), np.nan])
    assert ends.tolist() == [info.max, info.min, info.max, info.min, info.max, 0]


def test_bool_is_whatever_is_not_zero() -> None:
    assert rounded(DTYPES["BOOL"], [0.0, 0.25, -3.0]).tolist() == [0, 1, 1]


@pytest.mark.parametrize("name", DTYPES)
def test_reused_scratch_changes_nothing(name: str) -> None:
    dtype = DTYPES[name]
    scratch = Scratch(1000)
    random = np.random.default_rng(3)
    for count in (1000, 1, 0, 500):
        numbers = random.standard_normal(count) * 3
        expected = np.empty(count, dtype.storage)
        narrow(dtype, numbers.copy(), expected)
        got = np.empty(count, dtype.storage)
        narrow(dtype, numbers.copy(), got, scratch)
        np.testing.assert_array_equal(got, expected)
        wide, again = np.empty(count, np.float64), np.empty(count, np.float64)
        widen(dtype, got, wide)
        widen(dtype, got, again, scratch)
        np.testing.assert_array_equal(wide, again)
