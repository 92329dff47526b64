"""State dicts to blobs and back.

Here: `Packer`, which writes a state dict of torch tensors or NumPy arrays in a given layout and
reads one as views onto a buffer, with every check that an update needs. Not here: the layout
itself (`layout.py`), model files (`files.py`), arithmetic on blobs (the room above).

torch is touched only once a torch tensor is seen or a torch model is unpacked.
"""

from __future__ import annotations

import ctypes
import difflib
import itertools
import os
import sys
from collections.abc import Collection, Iterator, MutableMapping
from enum import StrEnum
from operator import attrgetter
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from ..errors import BadHeader, BadUpdate
from .dtypes import DType, Lanes, all_finite, dtype_of, narrow
from .heap import trim_heap
from .layout import Buffer, Kind, Layout, StateDict, TensorSpec

_PIECE_BYTES: Final = 4 << 20  # large enough that a system call costs nothing, small in memory
_TRIM_BYTES: Final = 32 << 20  # between two trims of the heap, each of which takes some 10 us
_TOGETHER_BYTES: Final = 256 << 10  # beyond it copying dominates, and the scratch would be felt

# What a plain tensor looks like, as `Packer._looks` has it.
_LOOKS: Final = attrgetter("dtype", "shape", "is_cpu", "layout")
_REQUIRES_GRAD: Final = attrgetter("requires_grad")

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
        self._slots = [_Slot(spec) for spec in layout.specs]
        self._runs = _runs_of(self._slots)
        self._scratch: tuple[bytearray, list[Any]] | None = None
        self._plain: frozenset[type] = frozenset()
        self._looks: list[tuple[Any, ...]] = []

    def pack(self, state: StateDict) -> bytearray:
        """Write a state dict as one blob.

        Floats of another width are cast (rounded once); no other cast is made.

        Raises:
            BadUpdate: Names the tensor that is missing, unexpected, of another shape or element
                type, or not finite.
        """
        if state.keys() != self._names:
            self._check_names(state)
        blob = self._pack_together(state)
        if blob is None:
            blob = self._pack_singly(state)
        if self._finite:
            self.check_finite(blob)
        return blob

    def _pack_together(self, state: StateDict) -> bytearray | None:
        """Copy a small model of plain torch tensors in one call; None where that does not fit.

        For many small tensors this takes half the time of copying them one by one.
        """
        torch: Any = sys.modules.get("torch")
        if torch is None or self.layout.size > _TOGETHER_BYTES:
            return None
        plain = self._plain_types(torch)
        # Mapped, not looped over: looking at eight tensors would cost more than copying them.
        tensors: list[Any] = list(map(state.__getitem__, self._names))
        if not plain.issuperset(map(type, tensors)) or list(map(_LOOKS, tensors)) != self._looks:
            return None
        # Taken out while it is in use, so that two threads never write to one.
        scratch, self._scratch = self._scratch, None
        if scratch is None:
            scratch = self._make_scratch(torch)
        memory, views = scratch
        if True in map(_REQUIRES_GRAD, tensors):
            with torch.no_grad():
                torch._foreach_copy_(views, tensors)
        else:
            torch._foreach_copy_(views, tensors)
        blob = bytearray(memory)
        self._scratch = scratch
        return blob

    def _make_scratch(self, torch: Any) -> tuple[bytearray, list[Any]]:
        memory = bytearray(self.layout.size)
        memory[: self.layout.data_start] = self.layout.header
        return memory, [_torch_view(torch, slot, memory) for slot in self._slots]

    def _pack_singly(self, state: StateDict) -> bytearray:
        blob = bytearray(self.layout.size)
        blob[: self.layout.data_start] = self.layout.header
        base = ctypes.addressof(ctypes.c_char.from_buffer(blob))
        torch: Any = sys.modules.get("torch")
        plain = self._plain if torch is None else self._plain_types(torch)
        for slot in self._slots:
            value: Any = state[slot.name]
            if getattr(value, "shape", None) != slot.shape:
                raise slot.wrong_shape(value)
            address = slot.address_of(value) if type(value) in plain else 0
            if address:
                # Not a slice assignment: wrapping a small tensor in a view costs more than
                # copying it. The size is that of shape and type, which are as expected.
                ctypes.memmove(base + slot.start, address, slot.size)
            elif type(value) is np.ndarray and value.dtype == slot.type.numpy:
                np.ndarray(slot.shape, value.dtype, blob, slot.start)[...] = value
            else:
                slot.check_type(value)
                self._pack_converted(slot, value, blob)
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
        released = 0
        for slot in self._slots:
            for piece in self._pieces(slot, state[slot.name]):
                write_all(fd, piece)
            if emptied is not None:
                del emptied[slot.name]
                released += slot.size
                if released >= _TRIM_BYTES:
                    trim_heap()
                    released = 0

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
            self.check_header(bytes(view[: layout.data_start]), view.nbytes)
        return self.unpack_part(buffer, 0, 0, len(self._slots))

    def unpack_part(self, buffer: Buffer, base: int, first: int, last: int) -> dict[str, Any]:
        """Give some neighbouring tensors as views onto a part of a blob.

        Args:
            buffer: The part, writable.
            base: Position of its first byte in the blob.
            first: Number of the first tensor in the layout.
            last: Number of the one after the last.
        """
        slots = self._slots[first:last]
        if self.kind == "torch":
            torch = _import_torch()
            return {slot.name: _torch_view(torch, slot, buffer, base) for slot in slots}
        return {slot.name: _numpy_view(slot, buffer, base) for slot in slots}

    def check_header(self, header: bytes, size: int) -> None:
        """Compare a blob's header and its size with the layout; raises `BadHeader`."""
        if size != self.layout.size or header != self.layout.header:
            raise BadHeader("the blob has another layout than the one to unpack")

    def check(self, state: StateDict) -> None:
        """Compare names, shapes and element types with the layout; reads no number.

        Raises:
            BadUpdate: As for `pack`, but for finiteness.
        """
        if state.keys() != self._names:
            self._check_names(state)
        for slot in self._slots:
            value: Any = state[slot.name]
            if getattr(value, "shape", None) != slot.shape:
                raise slot.wrong_shape(value)
            slot.check_type(value)

    def _check_names(self, state: StateDict) -> None:
        names = state.keys()
        for name in self.layout.by_name:
            if name not in names:
                raise BadUpdate(name, "is missing from the update" + _suggest(name, names))
        for name in names:
            if name not in self._names and name not in self._ignore:
                raise BadUpdate(name, "is not in the model" + _suggest(name, self._names))

    def _plain_types(self, torch: Any) -> frozenset[type]:
        """The types whose bytes may be copied; on first use, each slot learns torch's names."""
        if not self._plain:
            for slot in self._slots:
                slot.prepare(torch)
            self._looks = [(s.torch_dtype, s.shape, True, s.strided) for s in self._slots]
            self._plain = frozenset((torch.Tensor, torch.nn.Parameter))  # last: all are ready
        return self._plain

    def _pack_converted(self, slot: _Slot, value: Any, blob: bytearray) -> None:
        position = slot.start
        for piece in self._pieces(slot, value):
            blob[position : position + piece.nbytes] = piece
            position += piece.nbytes

    def finite(self, blob: bytearray) -> bool:
        """Whether every number of a blob of this layout is finite."""
        return all(
            _finite_at(blob, run[0].type, run[0].start, run[-1].start + run[-1].size)
            for run in self._runs
        )

    def check_finite(self, blob: Buffer) -> None:
        """Look for NaN and infinity in a blob of this layout; raises `BadUpdate`."""
        # At whole runs of one type, and only at single tensors to name the bad one.
        for run in self._runs:
            if not _finite_at(blob, run[0].type, run[0].start, run[-1].start + run[-1].size):
                for slot in run:
                    if not _finite_at(blob, slot.type, slot.start, slot.start + slot.size):
                        raise BadUpdate(slot.name, "contains NaN or infinity")

    def _pieces(self, slot: _Slot, value: Any) -> Iterator[memoryview]:
        """The tensor's bytes in the layout's element type, checked, a few MiB at a time."""
        pieces = _torch_pieces if _is_torch(value) else _numpy_pieces
        for lanes in pieces(slot.type, value):
            if self._finite and not all_finite(slot.type, lanes):
                raise BadUpdate(slot.name, "contains NaN or infinity")
            yield lanes.data.cast("B")


def write_all(fd: int, data: memoryview) -> None:
    """Write everything, as `os.write` may take less than it is given."""
    while data.nbytes:
        data = data[os.write(fd, data) :]


class _Slot:
    """A tensor's place, with everything looked up once that every call needs."""

    __slots__ = (
        "complex",
        "elements",
        "name",
        "shape",
        "size",
        "start",
        "strided",
        "torch_dtype",
        "type",
    )

    def __init__(self, spec: TensorSpec) -> None:
        self.name = spec.name
        self.type = spec.type
        self.shape = spec.shape
        self.start = spec.start
        self.size = spec.size
        self.elements = spec.elements
        self.complex = spec.type.lanes == 2
        self.torch_dtype: Any = None
        self.strided: Any = None

    def wrong_shape(self, value: Any) -> BadUpdate:
        if not hasattr(value, "shape"):
            what = type(value).__name__
            return BadUpdate(self.name, f"is a {what}, neither a tensor nor an array")
        shape, expected = list(value.shape), list(self.shape)
        return BadUpdate(self.name, f"has shape {shape}, expected {expected}")

    def check_type(self, value: Any) -> None:
        native = getattr(value, "dtype", None)
        if dtype_of(native) is not self.type and not _can_cast(native, self.type):
            expected = self.type.name
            raise BadUpdate(self.name, f"has element type {native}, expected {expected}")

    def address_of(self, tensor: Any) -> int:
        """Where a plain tensor's bytes lie if they can be copied as they are, else 0.

        Subclasses may keep their data elsewhere; lazily negated or conjugated numbers are not
        their bytes; a sparse tensor has no one place.
        """
        if (
            tensor.dtype is self.torch_dtype
            and tensor.is_cpu
            and tensor.layout is self.strided
            and tensor.is_contiguous()
            and not tensor.is_neg()
            and not (self.complex and tensor.is_conj())
        ):
            return cast("int", tensor.data_ptr())
        return 0

    def prepare(self, torch: Any) -> None:
        """Look up what torch calls this type."""
        self.torch_dtype = getattr(torch, self.type.torch)
        self.strided = torch.strided


def _runs_of(slots: list[_Slot]) -> list[list[_Slot]]:
    """Group neighbouring tensors of one element type: each group is one flat array."""
    return [list(run) for _, run in itertools.groupby(slots, lambda slot: slot.type)]


def _finite_at(blob: Buffer, dtype: DType, start: int, end: int) -> bool:
    width = dtype.storage.itemsize
    return all_finite(dtype, np.frombuffer(blob, dtype.storage, (end - start) // width, start))


def _is_torch(value: object) -> bool:
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _import_torch() -> Any:
    import torch

    return torch


def _can_cast(native: Any, dtype: DType) -> bool:
    """Whether a value's type and the given one are both real floats (or both complex)."""
    own = dtype_of(native)
    if own is not None:
        return own.kind == dtype.kind == "float" and own.lanes == dtype.lanes
    # A float of NumPy's that cannot be stored itself: big-endian or long.
    real = getattr(native, "kind", "") == "f"
    return real and dtype.kind == "float" and dtype.lanes == 1


def _suggest(name: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(name, list(names)[:1000], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _torch_view(torch: Any, slot: _Slot, buffer: Buffer, base: int = 0) -> Any:
    start = slot.start - base
    if slot.type.numpy is not None:  # by way of NumPy: one call less than frombuffer and view
        return torch.from_numpy(np.ndarray(slot.shape, slot.type.numpy, buffer, start))
    dtype = getattr(torch, slot.type.torch)
    if not slot.elements:
        return torch.empty(slot.shape, dtype=dtype)
    flat = torch.frombuffer(buffer, dtype=dtype, count=slot.elements, offset=start)
    return flat.view(slot.shape)


def _numpy_view(slot: _Slot, buffer: Buffer, base: int) -> npt.NDArray[Any]:
    if slot.type.numpy is None:
        raise BadUpdate(slot.name, f"NumPy has no element type {slot.type.name}; unpack as torch")
    return np.ndarray(slot.shape, slot.type.numpy, buffer, slot.start - base)


def _torch_pieces(dtype: DType, value: Any) -> Iterator[Lanes]:
    torch = _import_torch()
    if value.layout != torch.strided:
        value = value.to_dense()
    flat = value.detach().resolve_conj().resolve_neg().reshape(-1)
    target = getattr(torch, dtype.torch)
    bits = target if dtype.short is None else (torch.int16 if dtype.itemsize == 2 else torch.uint8)
    step = _PIECE_BYTES // dtype.itemsize
    for start in range(0, len(flat), step):
        piece = flat[start : start + step].to(target).cpu().contiguous()
        yield piece.view(bits).numpy().view(dtype.storage)


def _numpy_pieces(dtype: DType, value: Any) -> Iterator[Lanes]:
    flat = np.asarray(value).reshape(-1)
    step = _PIECE_BYTES // dtype.itemsize
    for start in range(0, len(flat), step):
        piece = np.ascontiguousarray(flat[start : start + step])
        if dtype.numpy is None:
            lanes: Lanes = np.empty(len(piece), dtype.storage)
            narrow(dtype, piece.astype(np.float64), lanes)
            yield lanes
            continue
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            same = piece.astype(dtype.numpy, copy=False)
        yield same.view(dtype.storage)
