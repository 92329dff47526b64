"""From what a script sends to what crosses to its trainer.

Here: tensors into a sealed memory file, metrics and free data into plain values, each refused
with the user's own name for it. Not here: when something may be sent (`running.py`).
"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any, Final

import numpy as np

from covey.algorithms.errors import BadUpdate
from covey.algorithms.tensors import Packer
from covey.transport import Scalar

from .errors import BadMetric, BadModel
from .messages import Answer, Task
from .model import FLModel, ParamsType

#: Blobs up to this size are packed in memory in one go, which is faster for many small tensors;
#: larger ones are written tensor by tensor, so that memory can be given back on the way.
_PACK_BYTES: Final = 4 << 20

#: Linux' F_ADD_SEALS, and F_SEAL_SEAL | SHRINK | GROW | WRITE.
_F_ADD_SEALS: Final = 1033
_ALL_SEALS: Final = 0x1 | 0x2 | 0x4 | 0x8


def write_update(packer: Packer, model: FLModel, *, release: bool) -> int:
    """Write a model's parameters as a blob into a sealed memory file.

    Args:
        packer: Of the layout the update must have.
        model: The model; its `params` are not None.
        release: Free tensors on the way. This takes entries out of `model.params`, which is
            done only if nothing but the model refers to that dict: a dict that the script also
            holds is its own, and stays whole.

    Returns:
        A descriptor that the caller closes.

    Raises:
        BadModel: If the tensors are not those of the model received, or not finite.
        OSError: If there is no memory for the file.
    """
    release = release and sys.getrefcount(model.params) <= _ALONE
    assert model.params is not None
    if any(not hasattr(value, "dtype") for value in model.params.values()):
        model.params = {name: _as_array(value) for name, value in model.params.items()}
    fd = _memory_file()
    try:
        if packer.layout.size <= _PACK_BYTES:
            _write_all(fd, packer.pack(model.params))
        else:
            packer.write(model.params, fd, release=release)
        _seal(fd)
    except BadUpdate as error:
        os.close(fd)
        raise BadModel(f"params[{error.tensor!r}]", error.why) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def answer(task: Task, model: FLModel, size: int, evaluates: bool) -> Answer:
    """The answer to a task, with metrics and free data as plain values.

    Args:
        task: The task.
        model: What the script sends.
        size: Bytes of its tensors' blob, 0 without tensors.
        evaluates: Whether the script tells evaluation from training.

    Raises:
        BadModel: If a metric is no number, or free data is neither number nor text.
    """
    return Answer(
        task=task.name,
        round=task.round,
        params_type=(model.params_type or ParamsType.FULL).value,
        has_tensors=size > 0,
        size=size,
        metrics={
            str(name): number(value, f"metrics[{name!r}]")
            for name, value in (model.metrics or {}).items()
        },
        meta={str(name): scalar(value, f"meta[{name!r}]") for name, value in model.meta.items()},
        evaluates=evaluates,
    )


def metric_value(key: str, value: object, kind: str) -> Scalar:
    """The value of a streamed metric.

    Raises:
        BadMetric: If it does not fit the kind.
    """
    try:
        if kind == "scalar":
            return number(value, key)
        return scalar(value, key) if kind == "parameter" else str(value)
    except BadModel as error:
        raise BadMetric(key, error.why) from None


def step_of(key: str, step: object) -> int | None:
    """A step as an int; raises `BadMetric`."""
    plain = _plain(step)
    if plain is None or isinstance(plain, int):
        return plain
    raise BadMetric(key, f"its step is a {_describe(step)}; expected an int")


def number(value: object, name: str) -> float:
    """A number, or an array or tensor of one element, as a float; raises `BadModel`."""
    plain = _plain(value)
    if isinstance(plain, bool | int | float):
        return float(plain)
    raise BadModel(name, f"is a {_describe(value)}; expected a number")


def scalar(value: object, name: str) -> Scalar:
    """A number, text, boolean or None as it can be sent; raises `BadModel`."""
    plain = _plain(value)
    if plain is None or isinstance(plain, bool | int | float | str):
        return plain
    raise BadModel(name, f"is a {_describe(value)}; expected a number, text or boolean")


def _plain(value: object) -> object:
    """A value without the array or tensor around it, where that is possible."""
    if isinstance(value, bool | int | float | str) or value is None:
        # A subclass (numpy.float64 is one of float) would not be taken by the wire.
        for exact in (bool, int, float, str):
            if isinstance(value, exact):
                return exact(value)
        return None
    item = getattr(value, "item", None)
    try:
        return item() if callable(item) else value
    except (ValueError, RuntimeError):  # more than one element: NumPy's and torch's own errors
        return value


def _describe(value: object) -> str:
    shape = getattr(value, "shape", None)
    name = type(value).__name__
    return f"{name} of shape {list(shape)}" if shape is not None else name


def _as_array(value: Any) -> Any:
    return value if hasattr(value, "dtype") else np.asarray(value)


def _memory_file() -> int:
    if sys.platform == "linux":
        return os.memfd_create("covey-update", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile(buffering=0) as file:  # without a name from the start
        return os.dup(file.fileno())


def _seal(fd: int) -> None:
    if sys.platform == "linux":
        import fcntl

        fcntl.fcntl(fd, _F_ADD_SEALS, _ALL_SEALS)


def _write_all(fd: int, data: bytearray) -> None:
    view = memoryview(data)
    while view.nbytes:
        view = view[os.write(fd, view) :]


def _references_of_unshared_params() -> int:
    """What `sys.getrefcount(model.params)` says if only the model holds the dict.

    Measured, because interpreters differ in what a call itself holds.
    """
    model = FLModel(params=dict[str, Any]())
    return sys.getrefcount(model.params)


_ALONE: Final = _references_of_unshared_params()
