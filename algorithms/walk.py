"""Walking through a model's bytes: from the old blob to the new one, a block at a time.

Here: cutting the model into segments and blocks, what is copied as it is, writing in order. Not
here: what a block's new numbers are (`fold.py`, `apply.py`).

The model is cut into segments of neighbouring tensors of one element type, which are plain arrays
of numbers; each is walked in blocks that stay in the processor's cache. For rules that look at
tensors as a whole, a segment is one tensor, and so is a block.
"""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from .tensors.dtypes import F64, DType, Lanes, Scratch, widen
from .tensors.layout import Buffer, Layout, TensorSpec

CHUNK_BYTES: Final = 1 << 20  # what `write` gets at a time: a system call costs nothing beside it
BLOCK_LANES: Final = 1 << 16
"""Numbers per block: 512 KiB as float64, so that values, sum and scratch stay in a cache. Measured
for two float32 updates: 0.19, 0.26 and 0.33 of memcpy's speed for 2**13, 2**14 and 2**16."""


@dataclass(slots=True)
class Segment:
    """Neighbouring tensors of one type: in the old model, and in every update if not excluded.

    Attributes:
        type: Element type.
        specs: The tensors, in the old model.
        starts: Where the segment begins in each of the updates' layouts; empty if excluded.
        start: Where it begins in the old model's blob.
        end: Where it ends there.
        part: Which part of what travels it is in; see `Aggregation.part_of`.
    """

    type: DType
    specs: list[TensorSpec]
    starts: tuple[int, ...]
    start: int
    end: int
    part: str = ""

    def tensor_at(self, place: int) -> str:
        """Name of the tensor that a byte of the segment belongs to."""
        ends = [spec.end - self.start for spec in self.specs]
        return self.specs[bisect.bisect_right(ends, place)].name

    @property
    def numbers(self) -> int:
        """How many there are."""
        return (self.end - self.start) // self.type.storage.itemsize


class Walk(ABC):
    """One walk: the old model, and scratch that every block reuses.

    Args:
        old: The current model's blob.
        layout: Its layout.
        layouts: Those of the updates.
        write: Takes the next bytes.
        state: Arrays of the rule, walked along.
        checkpoint: Called before every chunk.
        part_of: Which part of what travels a variable is in.
        whole: Whether a block is one whole tensor, and arrays of floats have its shape.
    """

    def __init__(
        self,
        old: Buffer,
        layout: Layout,
        layouts: list[Layout],
        write: Callable[[memoryview], object],
        state: Mapping[str, F64],
        checkpoint: Callable[[], object] | None,
        part_of: Callable[[str], str] | None = None,
        whole: bool = False,
    ) -> None:
        self._old = memoryview(old).cast("B")
        self._layout = layout
        self._segments = segments_of(layout, layouts, part_of or _one_part, whole)
        self._write = write
        self._state = state
        self._state_position = 0
        self._checkpoint = checkpoint
        self._whole = whole
        self._lanes = lanes = self._block_lanes(layout)
        self._scratch = Scratch(lanes)
        self._old_values: F64 = np.empty(lanes, np.float64)
        self._values: F64 = np.empty(lanes, np.float64)
        self._out = np.empty(self._chunk_bytes(layout), np.uint8)

    def _block_lanes(self, layout: Layout) -> int:
        """Most numbers in a block."""
        if self._whole:
            return max((segment.numbers for segment in self._segments), default=1)
        return min(BLOCK_LANES, max(1, layout.data_size))

    def _chunk_bytes(self, layout: Layout) -> int:
        """Most bytes that are made before they are written."""
        if self._whole:
            return max((segment.end - segment.start for segment in self._segments), default=1)
        return min(CHUNK_BYTES, max(1, layout.data_size))

    def run(self) -> None:
        """Write the new model: header, then the segments in their order."""
        self._write(memoryview(self._layout.header))
        with np.errstate(all="ignore"):  # what is not finite is found in the result
            for segment in self._segments:
                if not segment.starts:
                    self._copy(self._old[segment.start : segment.end])
                elif segment.type.kind == "bool":
                    self._copy(self._booleans(segment))
                else:
                    self._walk_segment(segment)

    @abstractmethod
    def _booleans(self, segment: Segment) -> memoryview:
        """The new bytes of a segment of bool tensors."""

    @abstractmethod
    def _block(self, segment: Segment, position: int, count: int, out: Lanes) -> None:
        """Make `count` new numbers, those that begin `position` bytes into the segment."""

    def _copy(self, source: memoryview) -> None:
        for start in range(0, len(source), CHUNK_BYTES):
            self._before_chunk()
            self._write(source[start : start + CHUNK_BYTES])

    def _walk_segment(self, segment: Segment) -> None:
        size = segment.end - segment.start
        for start in range(0, size, max(1, len(self._out))):
            self._before_chunk()
            end = min(start + len(self._out), size)
            self._walk_chunk(segment, start, end)
            for done in range(0, end - start, CHUNK_BYTES):
                self._write(self._out.data[done : min(done + CHUNK_BYTES, end - start)])

    def _walk_chunk(self, segment: Segment, start: int, end: int) -> None:
        width = segment.type.storage.itemsize
        step = self._lanes * width
        for position in range(start, end, step):
            count = min(step, end - position) // width
            offset = position - start
            out = self._out[offset : offset + count * width].view(segment.type.storage)
            self._block(segment, position, count, out)

    def _shape(self, segment: Segment, count: int) -> tuple[int, ...]:
        """Of what shape a rule gets a block of so many numbers."""
        if not self._whole or segment.type.kind == "int" or segment.part:
            return (count,)
        (spec,) = segment.specs
        return spec.numbers_shape

    def _state_block(self, count: int, shape: tuple[int, ...]) -> Mapping[str, F64]:
        """The next numbers of the rule's arrays."""
        if not self._state:
            return self._state
        start = self._state_position
        self._state_position += count
        return {
            name: array[start : start + count].reshape(shape) for name, array in self._state.items()
        }

    def _before_chunk(self) -> None:
        if self._checkpoint is not None:
            self._checkpoint()


def first_bad(dtype: DType, lanes: Lanes) -> int:
    """How many bytes into an array the first number lies that is not finite."""
    numbers: F64 = np.empty(len(lanes), np.float64)
    widen(dtype, lanes, numbers)
    return int(np.flatnonzero(~np.isfinite(numbers))[0]) * dtype.storage.itemsize


def _one_part(name: str) -> str:
    del name
    return ""


def segments_of(
    layout: Layout,
    layouts: list[Layout],
    part_of: Callable[[str], str] = _one_part,
    whole: bool = False,
) -> list[Segment]:
    """Cut the old model where type or part change or an update's tensors are not neighbours.

    With `whole`, after every tensor.
    """
    segments: list[Segment] = []
    for spec in layout.specs:
        own = [answer.by_name.get(spec.name) for answer in layouts]
        starts = tuple(found.start for found in own if found is not None)
        part = part_of(spec.name)
        last = segments[-1] if segments else None
        if whole or last is None or last.part != part or not _continues(last, spec, starts):
            segments.append(Segment(spec.type, [spec], starts, spec.start, spec.end, part))
        else:
            last.specs.append(spec)
            last.end = spec.end
    return segments


def _continues(last: Segment, spec: TensorSpec, starts: tuple[int, ...]) -> bool:
    size = last.end - last.start
    return (
        last.type is spec.type
        and len(last.starts) == len(starts)
        and all(begin + size == start for begin, start in zip(last.starts, starts, strict=True))
    )
