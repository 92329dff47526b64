"""Control variates: tensors that travel with a model and are none of it.

Here: their names, the layout of a model with them, taking the two apart and putting them together,
as tensors and as files. Not here: what they are for (`scaffold.py` in the room above, and
`covey.client`).

A model with control variates is one blob, in one layout: the model's variables, and for each float
variable that sites answer with another one of the same shape whose name begins with `PREFIX`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from .dtypes import DTYPES, DType
from .files import InitialModel, read_layout
from .layout import Layout
from .state import write_all

#: How names of control variates begin; no variable of a user's model may.
PREFIX: Final = "covey.control."

_PIECE_BYTES: Final = 4 << 20  # what is copied at a time


def is_control(name: str) -> bool:
    """Whether a variable is a control variate."""
    return name.startswith(PREFIX)


def has_control(layout: Layout) -> bool:
    """Whether a layout is that of a model with control variates."""
    return any(is_control(spec.name) for spec in layout.specs)


def with_control(initial: InitialModel, excluded: Collection[str] = ()) -> InitialModel:
    """A model with a control variate of zeros for each float variable that is not excluded.

    Control variates of floats of less than 32 bits have 32: they are sums of small numbers.

    Raises:
        BadUpdate: A name has no room for the prefix.
    """
    own = [(spec.name, spec.type, spec.shape) for spec in initial.layout.specs]
    more = [
        (PREFIX + spec.name, _type_of(spec.type), spec.shape)
        for spec in initial.layout.specs
        if spec.type.kind == "float" and spec.name not in excluded
    ]
    layout = Layout.canonical([*own, *more], initial.layout.kind)
    if initial.state is None:
        return replace(initial, layout=layout)
    zeros = {
        spec.name: np.broadcast_to(np.zeros((), spec.type.numpy), spec.shape)
        for spec in layout.specs
        if is_control(spec.name)
    }
    return replace(initial, layout=layout, state={**initial.state, **zeros})


def _type_of(dtype: DType) -> DType:
    return DTYPES["F32"] if dtype.itemsize < DTYPES["F32"].itemsize else dtype


def split(tensors: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model's variables, and the control variates by the names of the variables they are of."""
    params = {name: value for name, value in tensors.items() if not is_control(name)}
    control = {
        name.removeprefix(PREFIX): value for name, value in tensors.items() if is_control(name)
    }
    return params, control


def join(params: Mapping[str, Any], control: Mapping[str, Any]) -> dict[str, Any]:
    """The opposite of `split`."""
    return {**params, **{PREFIX + name: value for name, value in control.items()}}


def write_alone(source: int, target: int) -> None:
    """Copy a model from one file to another without its control variates.

    Args:
        source: Descriptor of the file with them; its position is left alone.
        target: Descriptor of the other, at the position where the blob shall begin.

    Raises:
        OSError: The disk refused.
        BadHeader: The source is no blob.
    """
    layout = read_layout(source)
    alone = layout.without([spec.name for spec in layout.specs if is_control(spec.name)])
    write_all(target, memoryview(alone.header))
    for spec in alone.specs:
        position, end = layout.by_name[spec.name].start, layout.by_name[spec.name].end
        while position < end:
            piece = os.pread(source, min(_PIECE_BYTES, end - position), position)
            write_all(target, memoryview(piece))
            position += len(piece)
