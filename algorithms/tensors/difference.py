"""Differences: an update as what it changes of the model that it began from.

Here: a model minus another, blob by blob, or many minus one, for senders whose receiver no longer
has the model they began from. Not here: which updates are to be differences (the rules above).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from ..errors import BadUpdate
from .dtypes import F64, Lanes, narrow, widen
from .layout import Buffer, Layout, TensorSpec

_BLOCK_LANES: Final = 1 << 16  # as in `fold`: what is at work stays in a cache
_NORM_LANES: Final = 1 << 13  # OpenBLAS divides dot products of more than 10,000 numbers


def difference(
    layout: Layout, new: Buffer, old_layout: Layout, old: Buffer
) -> tuple[bytearray, float]:
    """A blob of `layout` with `new` minus the tensors of the same names in `old`.

    Beside it a bound: no float in it has a larger magnitude. It is not finite where a number is
    not, or where the layout has floats of 16 bits or less, at which nobody has looked. Found
    while the numbers are in a cache, it spares whoever adds them up another look.

    Of float32 and float64 numbers it is rounded once, as the type does; others are subtracted
    in float64 and rounded once. Integers saturate. Bool tensors are those of `new`, as
    `ParamsType.DIFF` says.

    Args:
        layout: Layout of `new`, and of the result.
        new: The trained model's blob.
        old_layout: Layout of the model it began from; may have more tensors.
        old: That model's blob.

    Raises:
        BadUpdate: A tensor is not in the old model, or is another there.
    """
    out = bytearray(layout.size)
    out[: layout.data_start] = layout.header
    bound = 0.0
    with np.errstate(all="ignore"):  # what is not finite is found where it is added up
        for first, last, start in _runs(layout, old_layout):
            found = _subtract(first, last.end, memoryview(new), memoryview(old), start, out)
            bound = max(bound, found if found == found else math.inf)  # of NaN
    return out, bound


def subtract_rows(
    layout: Layout, rows: npt.NDArray[np.uint8], old_layout: Layout, old: Buffer
) -> list[float]:
    """As `difference` for many models at once, in place: each row of `rows` is a model's blob.

    Returns:
        The bound of each row.

    Raises:
        BadUpdate: As `difference`.
    """
    bounds: F64 = np.zeros(len(rows), np.float64)
    with np.errstate(all="ignore"):
        for first, last, start in _runs(layout, old_layout):
            dtype, end = first.type, last.end
            if dtype.kind == "float" and dtype.short is None:
                count = (end - first.start) // dtype.storage.itemsize
                ours = rows[:, first.start : end].view(dtype.storage)
                np.subtract(ours, np.frombuffer(old, dtype.storage, count, start), out=ours)
                np.maximum(bounds, np.sqrt(np.einsum("ij,ij->i", ours, ours)), out=bounds)
            elif dtype.kind != "bool":
                for i, row in enumerate(rows):
                    found = _subtract(first, end, row.data, memoryview(old), start, row.data)
                    bounds[i] = max(bounds[i], found)
    bounds[np.isnan(bounds)] = math.inf
    return [float(bound) for bound in bounds]


@lru_cache(maxsize=16)
def _runs(layout: Layout, old: Layout) -> list[tuple[TensorSpec, TensorSpec, int]]:
    """Neighbours of one type in both blobs: the first, the last, where they begin in the old."""
    runs: list[tuple[TensorSpec, TensorSpec, int]] = []
    for spec in layout.specs:
        found = old.by_name.get(spec.name)
        if found is None or (found.type, found.shape) != (spec.type, spec.shape):
            raise BadUpdate(spec.name, "is not in the model it is to be the difference to")
        if runs:
            first, _, start = runs[-1]
            if first.type is spec.type and found.start - start == spec.start - first.start:
                runs[-1] = (first, spec, start)
                continue
        runs.append((spec, spec, found.start))
    return runs


def _subtract(
    first: TensorSpec, end: int, new: memoryview, old: memoryview, old_start: int, out: Buffer
) -> float:
    """Subtract one run; returns the bound of what came out."""
    dtype, storage = first.type, first.type.storage
    count = (end - first.start) // storage.itemsize
    if dtype.kind == "bool":
        memoryview(out)[first.start : end] = new[first.start : end]
        return 0.0
    ours = np.frombuffer(new, storage, count, first.start)
    theirs = np.frombuffer(old, storage, count, old_start)
    result = np.frombuffer(out, storage, count, first.start)
    if dtype.kind == "float" and dtype.short is None:
        return _subtract_native(ours, theirs, result)
    lanes = min(count, _BLOCK_LANES)
    a: F64 = np.empty(lanes, np.float64)
    b: F64 = np.empty(lanes, np.float64)
    for position in range(0, count, _BLOCK_LANES):
        stop = min(position + _BLOCK_LANES, count)
        widen(dtype, ours[position:stop], a[: stop - position])
        widen(dtype, theirs[position:stop], b[: stop - position])
        np.subtract(a[: stop - position], b[: stop - position], out=a[: stop - position])
        narrow(dtype, a[: stop - position], result[position:stop])
    return math.inf if dtype.kind == "float" else 0.0


def _subtract_native(ours: Lanes, theirs: Lanes, out: Lanes) -> float:
    """Subtract numbers that NumPy knows."""
    bound = 0.0
    for position in range(0, len(out), _NORM_LANES):
        block = out[position : position + _NORM_LANES]
        np.subtract(
            ours[position : position + _NORM_LANES],
            theirs[position : position + _NORM_LANES],
            out=block,
        )
        # The norm: a BLAS dot product reads faster than any reduction of NumPy's.
        found = math.sqrt(np.dot(block, block))
        bound = max(bound, found if found == found else math.inf)
    return bound
