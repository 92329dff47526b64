"""Adding an update to a sum at the speed of memory, and judging it before that.

Here: `Adder`, which adds weight x numbers of any element type to a running sum, and `judge`, which
finds what would spoil the sum. Not here: which numbers lie where in an update (`buffer.py`).

torch adds large float arrays if the process has it already, because it multiplies and adds in one
pass over memory; NumPy takes a second one through a scratch array. Adding stays on the core that
calls: a torch that has several threads would divide large arrays among them, and take the cores
and caches of those who train there, so it is used only where it has been given one.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .tensors.dtypes import F64, DType, Lanes, Scratch, all_finite, widen

_BLOCK_LANES: Final = 1 << 16
"""Numbers per block where a block passes through scratch. Measured for bfloat16: 0.9, 1.2, 1.4 and
1.5 G numbers/s with 2**13 to 2**16."""
_FLOAT_BLOCK_LANES: Final = 1 << 18  # the same for NumPy and float32, where 2**16 loses a tenth
_TOGETHER_LANES: Final = 1 << 17  # of several updates: half a mebibyte of sums stays in a cache
_MAGNITUDE_16: Final = np.uint16(0x7FFF)  # all bits but the sign
_ROW_LANES: Final = 1 << 13  # OpenBLAS divides dot products of more than 10,000 numbers
_SUM_TYPES: Final[tuple[type[np.floating[Any]], ...]] = (np.float32, np.float64)
#: Magnitudes of which a million are still within a sum's range.
_LIMITS: Final[dict[type[np.generic], float]] = {
    type_: float(np.finfo(type_).max) / 2**20 for type_ in _SUM_TYPES
}

LARGEST_NUMBER: Final = _LIMITS[np.float32]  # times its weight; fits every sum
LARGEST_WEIGHT: Final = _LIMITS[np.float32]  # a larger one would be infinite beside float32


class Adder:
    """Adds numbers to sums. Not thread-safe: its scratch is reused."""

    __slots__ = ("_float32", "_float64", "_scratch")

    def __init__(self) -> None:
        self._float32: npt.NDArray[np.float32] | None = None
        self._float64: F64 | None = None
        self._scratch: Scratch | None = None

    def add_all(
        self, dtype: DType, weighted: Sequence[tuple[Lanes, float]], total: Lanes, fresh: bool
    ) -> None:
        """Add weight x lanes to the total, of several arrays one after the other.

        Block by block: while a part of the total is in a cache, all are added to it. The bits are
        those of calls for one array each.

        Args:
            dtype: Type of the elements; not bool.
            weighted: One-dimensional arrays of `dtype.storage`, only read, with their factors; at
                least one.
            total: float32 or float64, of the same length. float32 does for floats of 32 bits and
                less.
            fresh: Whether the total holds nothing yet and is overwritten by the first.
        """
        # By the whole length, not the block's: torch rounds once where NumPy does twice.
        torch = _single_threaded_torch() if len(total) > _BLOCK_LANES else None
        step = max(1, len(total) if len(weighted) == 1 else _TOGETHER_LANES)
        for start in range(0, len(total), step):
            part, first = total[start : start + step], fresh
            for lanes, weight in weighted:
                self._add(dtype, lanes[start : start + step], weight, part, first, torch)
                first = False

    def _add(
        self, dtype: DType, lanes: Lanes, weight: float, total: Lanes, fresh: bool, torch: Any
    ) -> None:
        if dtype.kind == "float" and dtype.short is None:
            self._add_native(lanes, weight, total, fresh, torch)
            return
        for start in range(0, len(lanes), _BLOCK_LANES):
            end = min(start + _BLOCK_LANES, len(lanes))
            wide = self._widened(dtype, lanes[start:end])
            _add_block(wide, wide, weight, total[start:end], fresh)

    def _add_native(
        self, lanes: Lanes, weight: float, total: Lanes, fresh: bool, torch: Any
    ) -> None:
        if fresh or weight == 1.0:  # NumPy needs no scratch
            _add_block(lanes, lanes, weight, total, fresh)
            return
        if torch is not None and lanes.flags.aligned:
            torch.from_numpy(total).add_(torch.from_numpy(_unlocked(lanes)), alpha=weight)
            return
        scratch = self._room32() if total.dtype == np.float32 else self._room64()
        for start in range(0, len(lanes), len(scratch)):
            values = lanes[start : start + len(scratch)]
            room = scratch[: len(values)]
            _add_block(values, room, weight, total[start : start + len(values)], fresh)

    def _widened(self, dtype: DType, lanes: Lanes) -> Lanes:
        """The numbers in scratch: float32 of 16-bit floats, float64 of what else there is."""
        if dtype.name == "BF16":
            bits = self._room32()[: len(lanes)].view(np.uint32)
            np.copyto(bits, lanes)
            return np.left_shift(bits, 16, out=bits).view(np.float32)
        if dtype.name == "F16":
            room = self._room32()[: len(lanes)]
            np.copyto(room, lanes.view(np.float16))
            return room
        wide = self._room64()[: len(lanes)]
        if dtype.short is not None and self._scratch is None:
            self._scratch = Scratch(_BLOCK_LANES)
        widen(dtype, lanes, wide, self._scratch)
        return wide

    def _room32(self) -> npt.NDArray[np.float32]:
        if self._float32 is None:
            self._float32 = np.empty(_FLOAT_BLOCK_LANES, np.float32)
        return self._float32

    def _room64(self) -> F64:
        if self._float64 is None:
            self._float64 = np.empty(_BLOCK_LANES, np.float64)
        return self._float64


def judge(dtype: DType, lanes: Lanes, weight: float, total: type[np.generic]) -> str:
    """What is wrong with numbers that shall be added, times a weight, to a sum of a type.

    Reads the numbers once, at about the speed at which memory can be read, unless something is
    wrong.

    Args:
        dtype: Type of the elements.
        lanes: One-dimensional array of `dtype.storage`.
        weight: The factor.
        total: The sum's type, float32 or float64.

    Returns:
        The reason not to add them, or "" if every number is finite and so small that the sum of a
        million of the kind is, too.
    """
    if dtype.kind != "float" or not len(lanes):
        return ""
    limit = _LIMITS[total]
    if dtype.short is None and _bound(lanes) * weight <= limit:
        return ""
    for start in range(0, len(lanes), _BLOCK_LANES):
        largest = _largest(dtype, lanes[start : start + _BLOCK_LANES])
        if not math.isfinite(largest):
            return "NaN or infinity"
        if largest * weight > limit:
            return "numbers too large to be summed"
    return ""


def _bound(lanes: Lanes) -> float:
    """At least the largest magnitude; NaN or infinity if a number, or a square, is not finite.

    The norm of every row: a BLAS dot product reads faster than any reduction of NumPy's.
    """
    with np.errstate(all="ignore"):
        if len(lanes) <= _ROW_LANES:
            return math.sqrt(np.dot(lanes, lanes))
        whole = len(lanes) - len(lanes) % _ROW_LANES
        rows, rest = lanes[:whole].reshape(-1, _ROW_LANES), lanes[whole:]
        squares = np.matmul(rows[:, None, :], rows[:, :, None])
        return math.sqrt(np.maximum.reduce(squares, None)) + math.sqrt(np.dot(rest, rest))


def _largest(dtype: DType, lanes: Lanes) -> float:
    """The largest magnitude; NaN or infinity if a number is not finite."""
    if dtype.short is None:
        return max(float(np.maximum.reduce(lanes)), -float(np.minimum.reduce(lanes)))
    if dtype.itemsize == 1:  # whatever it is, it is far from any limit
        return dtype.short.magnitude(dtype.short.largest) if all_finite(dtype, lanes) else math.inf
    bits = int(np.maximum.reduce(lanes & _MAGNITUDE_16))
    return dtype.short.magnitude(bits) if bits < dtype.finite_mask else math.inf


def _add_block(values: Lanes, room: Lanes, weight: float, total: Lanes, fresh: bool) -> None:
    """Add by NumPy; `room` may be `values` if these may be destroyed."""
    if fresh:
        np.multiply(values, weight, out=total, casting="same_kind")
        return
    if weight != 1.0:
        values = np.multiply(values, weight, out=room)
    np.add(total, values, out=total, casting="same_kind")


def _single_threaded_torch() -> Any:
    """torch, if it is there and would stay on this core."""
    torch: Any = sys.modules.get("torch")
    alone = hasattr(torch, "get_num_threads") and torch.get_num_threads() == 1
    return torch if alone else None


def _unlocked(lanes: Lanes) -> Lanes:
    """The same memory as an array that torch takes without warning that it is read-only.

    It is only read.
    """
    if lanes.flags.writeable:
        return lanes
    return np.asarray(_Memory(lanes))


class _Memory:
    """Says where an array lies, and keeps it there."""

    __slots__ = ("__array_interface__", "_owner")

    def __init__(self, lanes: Lanes) -> None:
        self._owner = lanes
        told = dict(lanes.__array_interface__)
        self.__array_interface__ = told | {"data": (told["data"][0], False)}
