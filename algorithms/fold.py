"""The chunk driver: from the old model and all updates to the new model, a chunk at a time.

Here: walking bytes, FULL and DIFF, element types, rounding once, naming whose numbers are not
finite. Not here: the rule (`fedavg.py`, ...), where bytes come from and go to (the caller hands in
buffers and a `write`), threads (the caller runs this in one).

The model is cut into segments of neighbouring tensors of one element type, which are plain arrays
of numbers; each is walked in blocks that stay in the processor's cache. A block of every update is
widened to float64, folded in the order given, stepped, and rounded to the element type: once. The
order is fixed and nothing else is random, so the result is the same to the last bit every time.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .aggregation import Aggregation
from .errors import BadSetting, BadUpdate, NonFiniteUpdate
from .tensors.dtypes import F64, DType, Lanes, Scratch, all_finite, narrow, widen
from .tensors.layout import Buffer, Layout, TensorSpec
from .tensors.state import ParamsType

CHUNK_BYTES: Final = 1 << 20  # what `write` gets at a time: a system call costs nothing beside it
BLOCK_LANES: Final = 1 << 16
"""Numbers per block: 512 KiB as float64, so that values, sum and scratch stay in a cache. Measured
for two float32 updates: 0.19, 0.26 and 0.33 of memcpy's speed for 2**13, 2**14 and 2**16."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """One site's update, ready to be folded.

    Attributes:
        site: Who sent it; named in errors.
        weight: What `Aggregation.weigh` gave for it; >= 0.
        params_type: Whether it holds a model or a difference to the old one.
        buffer: Its blob, in the layout that `Aggregation.answers` gives, or in `layout`.
        layout: The blob's own layout if its tensors are ordered otherwise.
    """

    site: str
    weight: float
    params_type: ParamsType
    buffer: Buffer
    layout: Layout | None = None


@dataclass(slots=True)
class _Segment:
    """Neighbouring tensors of one type: in the old model, and in every update if not excluded."""

    type: DType
    specs: list[TensorSpec]
    starts: tuple[int, ...]  # of each distinct update layout; empty if excluded
    start: int
    end: int


def fold(
    old: Buffer,
    layout: Layout,
    updates: Sequence[Contribution],
    aggregation: Aggregation,
    write: Callable[[memoryview], object],
    *,
    state: Mapping[str, F64] | None = None,
    checkpoint: Callable[[], object] | None = None,
) -> None:
    """Aggregate a round: write the new model's blob, header first, in order.

    Synchronous and CPU-bound. Integers are rounded half to even and saturate; bool tensors are
    taken from the first update; excluded variables are copied from the old model. Memory is a few
    MiB, whatever the size of the model and the number of updates.

    Args:
        old: The current model's blob.
        layout: Its layout.
        updates: The updates, in the order that shall be kept from run to run.
        aggregation: The rule.
        write: Takes the next bytes; they are valid during the call only. At most 1 MiB at a time,
            except that excluded variables come as they lie in the old blob.
        state: The rule's arrays by `state_names`, each of `state_lanes(...)` numbers; updated in
            place.
        checkpoint: Called before every chunk; may raise to cancel, which ends the fold at once.

    Raises:
        NonFiniteUpdate: Names the site and tensor that make the result infinite or NaN. What was
            written is worthless; fold again without that site.
        ManifestMismatch: An update with a layout of its own that is not the model's.
        BadUpdate: An update of the wrong size.
        BadSetting: No updates, or no weight among them.
    """
    _Fold(old, layout, updates, aggregation, write, state or {}, checkpoint).run()


def state_lanes(layout: Layout, aggregation: Aggregation) -> int:
    """How many numbers each of a rule's state arrays has for a model."""
    answers = aggregation.answers(layout)
    return sum(
        spec.elements * spec.type.lanes for spec in answers.specs if spec.type.kind != "bool"
    )


class _Fold:
    """One call of `fold`: its inputs, and scratch that every block reuses."""

    def __init__(
        self,
        old: Buffer,
        layout: Layout,
        updates: Sequence[Contribution],
        aggregation: Aggregation,
        write: Callable[[memoryview], object],
        state: Mapping[str, F64],
        checkpoint: Callable[[], object] | None,
    ) -> None:
        _check_weights(updates)
        self._old = memoryview(old).cast("B")
        self._layout = layout
        self._updates = updates
        self._write = write
        self._state = state
        self._state_position = 0
        self._checkpoint = checkpoint
        answers = aggregation.answers(layout)
        layouts, self._layout_of = _distinct_layouts(updates, answers)
        self._segments = _segments(layout, layouts)
        lanes = min(BLOCK_LANES, max(1, layout.data_size))
        self._accumulator = aggregation.accumulator(lanes, len(updates))
        self._uses_old = aggregation.uses_old or any(
            update.params_type == ParamsType.DIFF for update in updates
        )
        self._scratch = Scratch(lanes)
        self._old_values: F64 = np.empty(lanes, np.float64)
        self._values: F64 = np.empty(lanes, np.float64)
        self._out = np.empty(min(CHUNK_BYTES, max(1, layout.data_size)), np.uint8)

    def run(self) -> None:
        self._write(memoryview(self._layout.header))
        with np.errstate(all="ignore"):  # what is not finite is found in the result
            for segment in self._segments:
                if not segment.starts:
                    self._copy(self._old[segment.start : segment.end])
                elif segment.type.kind == "bool":
                    self._copy_first(segment)
                else:
                    self._fold_segment(segment)

    def _copy(self, source: memoryview) -> None:
        for start in range(0, len(source), CHUNK_BYTES):
            self._before_chunk()
            self._write(source[start : start + CHUNK_BYTES])

    def _copy_first(self, segment: _Segment) -> None:
        start = segment.starts[self._layout_of[0]]
        first = memoryview(self._updates[0].buffer).cast("B")
        self._copy(first[start : start + segment.end - segment.start])

    def _fold_segment(self, segment: _Segment) -> None:
        size = segment.end - segment.start
        for start in range(0, size, CHUNK_BYTES):
            self._before_chunk()
            end = min(start + CHUNK_BYTES, size)
            self._fold_chunk(segment, start, end)
            self._write(self._out.data[: end - start])

    def _fold_chunk(self, segment: _Segment, start: int, end: int) -> None:
        width = segment.type.storage.itemsize
        step = len(self._values) * width
        for position in range(start, end, step):
            count = min(step, end - position) // width
            offset = position - start
            out = self._out[offset : offset + count * width].view(segment.type.storage)
            self._fold_block(segment, position, count, out)

    def _fold_block(self, segment: _Segment, position: int, count: int, out: Lanes) -> None:
        """Fold `count` numbers that begin `position` bytes into the segment."""
        dtype, storage, scratch = segment.type, segment.type.storage, self._scratch
        accumulator, values, old = self._accumulator, self._values[:count], self._old_values[:count]
        if self._uses_old:
            source = np.frombuffer(self._old, storage, count, segment.start + position)
            widen(dtype, source, old, scratch)
        accumulator.reset(count)
        for update, which in zip(self._updates, self._layout_of, strict=True):
            start = segment.starts[which] + position
            widen(dtype, np.frombuffer(update.buffer, storage, count, start), values, scratch)
            if update.params_type == ParamsType.DIFF:
                np.add(values, old, out=values)
            accumulator.fold(values, update.weight)
        accumulator.step(old, values, self._state_chunk(count))
        narrow(dtype, values, out, scratch)
        if not all_finite(dtype, out):
            raise self._blame(segment, position, out)

    def _state_chunk(self, count: int) -> Mapping[str, F64]:
        if not self._state:
            return self._state
        start = self._state_position
        self._state_position += count
        return {name: array[start : start + count] for name, array in self._state.items()}

    def _before_chunk(self) -> None:
        if self._checkpoint is not None:
            self._checkpoint()

    def _blame(self, segment: _Segment, position: int, out: Lanes) -> NonFiniteUpdate:
        """Find the site whose number at the first bad place is not finite, or else the largest."""
        dtype = segment.type
        result: F64 = np.empty(len(out), np.float64)
        widen(dtype, out, result)
        bad = int(np.flatnonzero(~np.isfinite(result))[0])
        place = position + bad * dtype.storage.itemsize
        ends = [spec.end - segment.start for spec in segment.specs]
        tensor = segment.specs[bisect.bisect_right(ends, place)].name
        site, largest = self._updates[0].site, -1.0
        number: F64 = np.empty(1, np.float64)
        for update, which in zip(self._updates, self._layout_of, strict=True):
            start = segment.starts[which] + place
            widen(dtype, np.frombuffer(update.buffer, dtype.storage, 1, start), number)
            value = float(number[0])
            if not math.isfinite(value):
                return NonFiniteUpdate(update.site, tensor, "NaN or infinity")
            if update.weight and abs(value) > largest:
                site, largest = update.site, abs(value)
        return NonFiniteUpdate(site, tensor, f"a number that takes {dtype.name} out of its range")


def _check_weights(updates: Sequence[Contribution]) -> None:
    if not updates:
        raise BadSetting("updates", "none to aggregate")
    for update in updates:
        if not (math.isfinite(update.weight) and update.weight >= 0):
            raise BadUpdate("", f"{update.site} has a weight of {update.weight}")
    total = sum(update.weight for update in updates)
    if not total > 0:
        raise BadSetting("updates", "all weights are zero; sites report NUM_STEPS_CURRENT_ROUND")
    if not math.isfinite(total):
        raise BadSetting("updates", "the sum of their weights is infinite; send smaller weights")


def _distinct_layouts(
    updates: Sequence[Contribution], answers: Layout
) -> tuple[list[Layout], list[int]]:
    """The layouts that occur among updates, and which of them each update has."""
    layouts, numbers = [answers], {answers: 0}
    which: list[int] = []
    for update in updates:
        own = update.layout or answers
        number = 0 if own is answers else numbers.setdefault(own, len(layouts))
        if number == len(layouts):
            own.check(answers)
            layouts.append(own)
        if memoryview(update.buffer).nbytes != own.size:
            got = memoryview(update.buffer).nbytes
            raise BadUpdate("", f"{update.site} sent {got} bytes, expected {own.size}")
        which.append(number)
    return layouts, which


def _segments(layout: Layout, layouts: list[Layout]) -> list[_Segment]:
    """Cut the old model where the type changes or an update's tensors are not neighbours."""
    segments: list[_Segment] = []
    for spec in layout.specs:
        own = [answer.by_name.get(spec.name) for answer in layouts]
        starts = tuple(found.start for found in own if found is not None)
        last = segments[-1] if segments else None
        if last is not None and _continues(last, spec, starts):
            last.specs.append(spec)
            last.end = spec.end
        else:
            segments.append(_Segment(spec.type, [spec], starts, spec.start, spec.end))
    return segments


def _continues(last: _Segment, spec: TensorSpec, starts: tuple[int, ...]) -> bool:
    size = last.end - last.start
    return (
        last.type is spec.type
        and len(last.starts) == len(starts)
        and all(begin + size == start for begin, start in zip(last.starts, starts, strict=True))
    )
