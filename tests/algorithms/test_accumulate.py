"""Adding by torch and by NumPy, and judging what may be added."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from covey.algorithms import accumulate
from covey.algorithms.accumulate import LARGEST_NUMBER, Adder, judge
from covey.algorithms.tensors import DTYPES, widen

F32 = DTYPES["F32"]
LENGTHS = [1, 65_536, 65_537, 300_000]


def without_torch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(accumulate, "sys", SimpleNamespace(modules={}))


def summed(
    values: list[npt.NDArray[Any]], total: type[np.floating[Any]], dtype: str = "F32"
) -> npt.NDArray[Any]:
    sums: npt.NDArray[Any] = np.full(len(values[0]), np.nan, np.dtype(total))
    adder = Adder()
    for number, lanes in enumerate(values):
        adder.add_all(DTYPES[dtype], [(lanes, 0.7 + number)], sums, number == 0)
    return sums


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["F32", "F64", "C64"])
def test_torch_and_numpy_add_alike(
    length: int, threads: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random, storage = np.random.default_rng(length), DTYPES[name].storage
    values = [random.standard_normal(length).astype(storage) for _ in range(3)]
    total = np.float64 if name == "F64" else np.float32
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    by_torch = summed(values, total, name)
    without_torch(monkeypatch)
    by_numpy = summed(values, total, name)
    each = [(0.7 + i) * x.astype(np.float64) for i, x in enumerate(values)]
    expected: npt.NDArray[np.float64] = np.sum(each, axis=0)
    within = 1e-14 if name == "F64" else 1e-6
    np.testing.assert_allclose(by_torch, expected, rtol=within, atol=within)
    np.testing.assert_allclose(by_numpy, expected, rtol=within, atol=within)


@pytest.mark.parametrize("name", ["F32", "F64"])
def test_short_arrays_come_to_the_same_bits_with_and_without_torch(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random, storage = np.random.default_rng(1), DTYPES[name].storage
    values = [random.standard_normal(65_536).astype(storage) for _ in range(3)]
    total = np.float64 if name == "F64" else np.float32
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    by_torch = summed(values, total, name)
    without_torch(monkeypatch)
    np.testing.assert_array_equal(by_torch, summed(values, total, name))


@pytest.mark.parametrize(("threads", "called"), [(1, True), (2, False)])
def test_a_torch_that_would_use_other_cores_is_let_be(
    threads: int, called: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors: list[Any] = []
    make: Any = vars(torch)["from_numpy"]

    def spy(array: npt.NDArray[Any]) -> Any:
        tensors.append(make(array))
        return tensors[-1]

    monkeypatch.setattr(torch, "from_numpy", spy)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    values = np.ones(70_000, np.float32)
    summed([values, values], np.float32)
    assert bool(tensors) == called


@pytest.mark.parametrize("type_", [np.float32, np.float64])
def test_torch_adds_what_may_only_be_read_and_does_not_warn(
    type_: type[np.floating[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    numbers = np.arange(70_000).astype(type_)
    values = np.frombuffer(numbers.tobytes(), type_)
    name = "F32" if type_ is np.float32 else "F64"
    sums = summed([values] * 3, type_, name)
    np.testing.assert_allclose(sums, (0.7 + 1.7 + 2.7) * numbers, rtol=1e-6)
    np.testing.assert_array_equal(values, numbers)


def test_numbers_that_lie_askew_are_added() -> None:
    raw = bytearray(4 * 100_000 + 1)
    values = np.frombuffer(memoryview(raw)[1:], np.float32)
    values[:] = np.arange(100_000)
    assert not values.flags.aligned
    np.testing.assert_allclose(summed([values] * 2, np.float32), 2.4 * values, rtol=1e-6)


def test_a_weight_of_one_needs_no_second_pass() -> None:
    values, sums = np.arange(5.0, dtype=np.float32), np.ones(5, np.float32)
    Adder().add_all(F32, [(values, 1.0)], sums, False)
    np.testing.assert_array_equal(sums, np.arange(5) + 1)
    np.testing.assert_array_equal(values, np.arange(5))


FLOATS = [name for name, dtype in DTYPES.items() if dtype.kind == "float"]


@given(data=st.data(), name=st.sampled_from(FLOATS), weight=st.floats(0.0, 1e6))
@settings(max_examples=300, deadline=None)
def test_what_is_judged_fine_is_finite_and_within_the_sums_range(
    data: st.DataObject, name: str, weight: float
) -> None:
    dtype = DTYPES[name]
    bits = np.dtype(f"u{dtype.storage.itemsize}")
    lanes = data.draw(hnp.arrays(bits, st.integers(0, 12))).view(dtype.storage)
    numbers = np.empty(len(lanes), np.float64)
    with np.errstate(invalid="ignore"):
        widen(dtype, lanes, numbers)
    total = np.float64 if name == "F64" else np.float32
    limit = float(np.finfo(total).max) / 2**20
    why = judge(dtype, lanes, weight, total)
    if not np.isfinite(numbers).all():
        assert why == "NaN or infinity"
    elif np.abs(numbers).max(initial=0.0) * weight > limit:
        assert why == "numbers too large to be summed"
    else:
        assert why == ""


def test_the_largest_number_is_fine_and_a_larger_one_is_not() -> None:
    lanes = np.array([LARGEST_NUMBER], np.float32)
    assert judge(F32, lanes, 1.0, np.float32) == ""
    lanes = np.nextafter(lanes, np.float32(np.inf))
    assert judge(F32, lanes, 1.0, np.float32) == "numbers too large to be summed"


@pytest.mark.parametrize("place", [0, 8_191, 8_192, 65_536, 65_599])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_bad_number_is_found_wherever_it_lies(place: int, value: float) -> None:
    lanes = np.ones(65_600, np.float32)
    assert judge(F32, lanes, 1.0, np.float32) == ""
    lanes[place] = value
    assert judge(F32, lanes, 1.0, np.float32) == "NaN or infinity"
