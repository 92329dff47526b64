"""Making blobs of float32 vectors and reading them back, for tests of rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from covey.algorithms import Aggregation, Contribution, fold
from covey.algorithms.tensors import DTYPES, Layout, Packer, ParamsType, narrow, widen

F64 = npt.NDArray[np.float64]
FULL, DIFF = ParamsType.FULL, ParamsType.DIFF


def flat(length: int, dtype: str = "F32") -> Layout:
    """The layout of a model of one vector, x."""
    return Layout.canonical([("x", DTYPES[dtype], (length,))], "torch")


def blob_of(layout: Layout, values: Mapping[str, Any]) -> bytearray:
    """A blob with these numbers, each rounded to its tensor's type."""
    blob = bytearray(layout.size)
    blob[: layout.data_start] = layout.header
    for spec in layout.specs:
        given = np.array(values[spec.name], np.float64).reshape(-1)
        narrow(spec.type, given, lanes_of(blob, layout, spec.name))
    return blob


def lanes_of(blob: Any, layout: Layout, name: str) -> npt.NDArray[Any]:
    """A tensor's numbers, as they are stored."""
    spec = layout.by_name[name]
    return np.frombuffer(blob, spec.type.storage, spec.elements * spec.type.lanes, spec.start)


def numbers(blob: Any, layout: Layout, name: str = "x") -> F64:
    """A tensor's numbers as float64."""
    lanes = lanes_of(blob, layout, name)
    out: F64 = np.empty(len(lanes), np.float64)
    widen(layout.by_name[name].type, lanes, out)
    return out


def folded(
    old: Any,
    layout: Layout,
    updates: list[Contribution],
    rule: Aggregation,
    state: Mapping[str, F64] | None = None,
    number: int = 1,
) -> bytearray:
    """The model that `fold` makes."""
    out = bytearray()
    fold(old, layout, updates, rule, out.extend, state=state, number=number)
    return out


def packer_of(state: Mapping[str, Any]) -> Packer:
    """The packer of a state dict's layout."""
    return Packer(Layout.of(state))
