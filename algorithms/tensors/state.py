"""State dicts to blobs and back.

Here: `Packer`, which writes a state dict of torch tensors or NumPy arrays in a given layout and
reads one as views onto a buffer, with every check that an update needs. Not here: the layout
itself (`layout.py`), model files (`files.py`), arithmetic on blobs (the room above).

torch is touched only once a torch tensor is seen or a torch model is unpacked.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Collection, Iterator, MutableMapping
from enum import StrEnum
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from ..errors import BadHeader, BadUpdate
from .dtypes import BY_NUMPY, BY_TORCH, DType, Lanes, all_finite, narrow
from .layout import Buffer, Kind, Layout, StateDict, TensorSpec

_PIECE_BYTES: Final = 4 << 20  # large enough that a system call costs nothing, small in memory

# Any at this border: torch may be absent from the process, and its stubs are partial.


class ParamsType(StrEnum):
    """What the numbers of an update are."""

    FULL = "FULL"
    """The site's own model."""
    DIFF = "DIFF"
    """The site's model minus the model it received; of bool tensors, the site's own values."""


def kind_of(state: StateDict) -> Kind:
    """Tell whether a state dict holds torch tensors (one is enough) or only NumPy arrays.

    Never imports torch.
    """
    return "torch" if any(_is_torch(value) for value in state.values()) else "numpy"


class Packer:
    """Writes state dicts in one layout, and reads them.

    One packer serves any number of calls; it holds no tensor.

    Args:
        layout: The blob's layout; a state dict must have exactly its names and shapes.
        kind: Kind of the state dicts that `unpack` gives; the layout's own when absent. `pack`
            and `write` take either kind.
        ignore: Names that a state dict may hold beyond the layout and that are left out, such as
            the variables excluded from aggregation.
        finite: Whether NaN and infinity are refused.
    """

    def __init__(
        self,
        layout: Layout,
        kind: Kind | None = None,
        *,
        ignore: Collection[str] = (),
        finite: bool = True,
    ) -> None:
        self.layout = layout
        self.kind: Kind = kind or layout.kind
        self._names = layout.by_name.keys()
        self._ignore = frozenset(ignore)
        self._finite = finite
        self._runs = _runs_of(layout)

    def pack(self, state: StateDict) -> bytearray:
        """Write a state dict as one blob.

        Floats of another width are cast (rounded once); no other cast is made.

        Raises:
            BadUpdate: Names the tensor that is missing, unexpected, of another shape or element
                type, or not finite.
        """
        self.check(state)
        layout = self.layout
        blob = bytearray(layout.size)
        blob[: layout.data_start] = layout.header
        if kind_of(state) == "torch" and self._pack_torch(state, blob):
            return blob
        for spec in layout.specs:
            position = spec.start
            for piece in self._pieces(spec, state[spec.name]):
                blob[position : position + len(piece)] = piece
                position += len(piece)
        return blob

    def write(self, state: StateDict, fd: int, *, release: bool = False) -> None:
        """Write a state dict as one blob to a file, tensor by tensor and in pieces.

        Never holds a second copy of the model: at most of one tensor, if that tensor is not
        contiguous. Every name, shape and type is checked before the first byte; whether numbers
        are finite, as they are written. Blocks while the file does.

        Args:
            state: The tensors.
            fd: A file descriptor at the position where the blob shall begin.
            release: Remove each tensor from `state`, if that is mutable, once it is written, so
                that its memory is freed as the file grows.

        Raises:
            BadUpdate: As for `pack`.
            OSError: The file refused, for instance because the disk is full.
        """
        self.check(state)
        write_all(fd, memoryview(self.layout.header))
        emptied: MutableMapping[str, Any] | None = None
        if release and isinstance(state, MutableMapping):
            emptied = cast("MutableMapping[str, Any]", state)
        for spec in self.layout.specs:
            for piece in self._pieces(spec, state[spec.name]):
                write_all(fd, piece)
            if emptied is not None:
                del emptied[spec.name]

    def unpack(self, buffer: Buffer) -> dict[str, Any]:
        """Give the tensors of a blob as writable views onto it: nothing is copied.

        The views keep the buffer alive. Values are torch tensors or NumPy arrays, by `kind`.

        Raises:
            BadHeader: The buffer's layout is not this one.
            BadUpdate: NumPy arrays were asked for of an element type that NumPy has not.
            ValueError: The buffer is read-only.
        """
        layout = self.layout
        with memoryview(buffer) as view:
            if view.readonly:
                raise ValueError("the buffer is read-only; tensors onto it could not be written")
            if view.nbytes != layout.size or bytes(view[: layout.data_start]) != layout.header:
                raise BadHeader("the blob has another layout than the one to unpack")
        if self.kind == "torch":
            torch = _import_torch()
            return {spec.name: _torch_view(torch, spec, buffer) for spec in layout.specs}
        return {spec.name: _numpy_view(spec, buffer) for spec in layout.specs}

    def check(self, state: StateDict) -> None:
        """Compare names, shapes and element types with the layout; reads no number.

        Raises:
            BadUpdate: As for `pack`, but for finiteness.
        """
        if state.keys() != self._names:
            self._check_names(state)
        for spec in self.layout.specs:
            value: Any = state[spec.name]
            if value.shape != spec.shape:
                raise BadUpdate(
                    spec.name, f"has shape {list(value.shape)}, expected {list(spec.shape)}"
                )
            if not _can_cast(value, spec.type):
                raise BadUpdate(spec.name, f"has element type {value.dtype}, expected {spec.dtype}")

    def _check_names(self, state: StateDict) -> None:
        names = state.keys()
        for name in self.layout.by_name:
            if name not in names:
                raise BadUpdate(name, "is missing from the update" + _suggest(name, names))
        for name in names:
            if name not in self._names and name not in self._ignore:
                raise BadUpdate(name, "is not in the model" + _suggest(name, self._names))

    def _pack_torch(self, state: StateDict, blob: bytearray) -> bool:
        """Copy all tensors of one type in one call; False if some need care of their own."""
        torch = _import_torch()
        with torch.no_grad():
            for run in self._runs:
                flat = run.torch_view(torch, blob)
                tensors: list[Any] = []
                for name in run.names:
                    tensor: Any = state[name]
                    if not (_is_torch(tensor) and tensor.dtype == flat.dtype and tensor.is_cpu):
                        return False
                    tensors.append(tensor.reshape(-1))
                if run.lanes:
                    torch.cat(tensors, out=flat)
                if self._finite and not all_finite(run.type, run.numpy_view(blob)):
                    self._name_the_infinite(run, blob)
        return True

    def _name_the_infinite(self, run: _Run, blob: bytearray) -> None:
        for name in run.names:
            spec = self.layout.by_name[name]
            lanes: Lanes = np.frombuffer(
                blob, spec.type.storage, spec.elements * spec.type.lanes, spec.start
            )
            if not all_finite(spec.type, lanes):
                raise BadUpdate(name, "contains NaN or infinity")

    def _pieces(self, spec: TensorSpec, value: Any) -> Iterator[memoryview]:
        """The tensor's bytes in the layout's element type, checked, a few MiB at a time."""
        pieces = _torch_pieces if _is_torch(value) else _numpy_pieces
        for lanes in pieces(spec.type, value):
            if self._finite and not all_finite(spec.type, lanes):
                raise BadUpdate(spec.name, "contains NaN or infinity")
            yield lanes.data.cast("B")


def write_all(fd: int, data: memoryview) -> None:
    """Write everything, as `os.write` may take less than it is given."""
    while data.nbytes:
        data = data[os.write(fd, data) :]


class _Run:
    """Neighbouring tensors of one element type: one flat array."""

    __slots__ = ("lanes", "names", "start", "type")

    def __init__(self, first: TensorSpec) -> None:
        self.type = first.type
        self.start = first.start
        self.lanes = 0
        self.names: list[str] = []

    def torch_view(self, torch: Any, blob: bytearray) -> Any:
        dtype = getattr(torch, self.type.torch)
        if not self.lanes:
            return torch.empty(0, dtype=dtype)
        count = self.lanes // self.type.lanes
        return torch.frombuffer(blob, dtype=dtype, count=count, offset=self.start)

    def numpy_view(self, blob: bytearray) -> Lanes:
        return np.frombuffer(blob, self.type.storage, self.lanes, self.start)


def _runs_of(layout: Layout) -> list[_Run]:
    runs: list[_Run] = []
    for spec in layout.specs:
        if not runs or runs[-1].type is not spec.type:
            runs.append(_Run(spec))
        runs[-1].names.append(spec.name)
        runs[-1].lanes += spec.elements * spec.type.lanes
    return runs


def _is_torch(value: object) -> bool:
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _import_torch() -> Any:
    import torch

    return torch


def _can_cast(value: Any, dtype: DType) -> bool:
    """Whether a value's type is the given one, or both are real floats."""
    if _is_torch(value):
        own = BY_TORCH.get(str(value.dtype))
    else:
        own = BY_NUMPY.get(value.dtype)
        if own is None:
            return value.dtype.kind == "f" and dtype.kind == "float" and dtype.lanes == 1
    if own is dtype:
        return True
    return own is not None and own.kind == dtype.kind == "float" and own.lanes == dtype.lanes


def _suggest(name: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(name, list(names)[:1000], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _torch_view(torch: Any, spec: TensorSpec, buffer: Buffer) -> Any:
    dtype = getattr(torch, spec.type.torch)
    if not spec.elements:
        return torch.empty(spec.shape, dtype=dtype)
    flat = torch.frombuffer(buffer, dtype=dtype, count=spec.elements, offset=spec.start)
    return flat.view(spec.shape)


def _numpy_view(spec: TensorSpec, buffer: Buffer) -> npt.NDArray[Any]:
    if spec.type.numpy is None:
        raise BadUpdate(spec.name, f"NumPy has no element type {spec.dtype}; unpack as torch")
    return np.frombuffer(buffer, spec.type.numpy, spec.elements, spec.start).reshape(spec.shape)


def _torch_pieces(dtype: DType, value: Any) -> Iterator[Lanes]:
    torch = _import_torch()
    if value.layout != torch.strided:
        value = value.to_dense()
    flat = value.detach().resolve_conj().resolve_neg().reshape(-1)
    target = getattr(torch, dtype.torch)
    bits = target if dtype.mini is None else (torch.int16 if dtype.itemsize == 2 else torch.uint8)
    step = _PIECE_BYTES // dtype.itemsize
    for start in range(0, len(flat), step):
        piece = flat[start : start + step].to(target).cpu()
        yield piece.view(bits).numpy().view(dtype.storage)


def _numpy_pieces(dtype: DType, value: Any) -> Iterator[Lanes]:
    flat = np.asarray(value).reshape(-1)
    step = _PIECE_BYTES // dtype.itemsize
    for start in range(0, len(flat), step):
        piece = flat[start : start + step]
        if dtype.mini is not None:
            lanes: Lanes = np.empty(len(piece), dtype.storage)
            narrow(dtype, piece.astype(np.float64), lanes)
            yield lanes
            continue
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            same = piece.astype(cast("np.dtype[Any]", dtype.numpy), copy=False)
        yield same.view(dtype.storage)
