"""The chunk driver: from the old model and all updates to the new model, a chunk at a time.

Here: FULL and DIFF, element types, rounding once, naming whose numbers are not finite. Not here:
the rule (`fedavg.py`, ...), how the model is cut into blocks (`walk.py`), where bytes come from and
go to (the caller hands in buffers and a `write`), threads (the caller runs this in one).

A block of every update is widened to float64, folded in the order given, stepped, and rounded to
the element type: once. The order is fixed and nothing else is random, so the result is the same to
the last bit every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .aggregation import Accumulator, Aggregation
from .errors import BadSetting, BadUpdate, NonFiniteUpdate
from .tensors.dtypes import F64, Lanes, all_finite, narrow, widen
from .tensors.layout import Buffer, Layout
from .tensors.state import ParamsType
from .walk import Segment, Walk, first_bad


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


def fold(
    old: Buffer,
    layout: Layout,
    updates: Sequence[Contribution],
    aggregation: Aggregation,
    write: Callable[[memoryview], object],
    *,
    state: Mapping[str, F64] | None = None,
    number: int = 1,
    checkpoint: Callable[[], object] | None = None,
) -> None:
    """Aggregate a round: write the new model's blob, header first, in order.

    Synchronous and CPU-bound. Integers are rounded half to even and saturate; bool tensors are
    taken from the first update; excluded variables are copied from the old model. Memory is a few
    MiB, whatever the size of the model and the number of updates; for a rule with `whole_tensors`,
    some 60 bytes for each number of the largest tensor.

    Args:
        old: The current model's blob.
        layout: Its layout.
        updates: The updates, in the order that shall be kept from run to run.
        aggregation: The rule.
        write: Takes the next bytes; they are valid during the call only. At most 1 MiB at a time,
            except that excluded variables come as they lie in the old blob.
        state: The rule's arrays by `state_names`, as `new_state` makes them; updated in place, so
            that after an error they are as worthless as what was written: hand in copies.
        number: Which step of the training this is, the first being 1.
        checkpoint: Called before every chunk; may raise to cancel, which ends the fold at once.

    Raises:
        NonFiniteUpdate: Names the site and tensor that make the result infinite or NaN. What was
            written is worthless; fold again without that site.
        ManifestMismatch: An update with a layout of its own that is not the model's.
        BadUpdate: An update of the wrong size.
        BadSetting: No updates, or no weight among them; an array of state is missing or of
            another size.
    """
    check_state(state, layout, aggregation)
    _Fold(old, layout, updates, aggregation, write, state or {}, number, checkpoint).run()


def state_lanes(layout: Layout, aggregation: Aggregation) -> int:
    """How many numbers each of a rule's state arrays has for a model."""
    answers = aggregation.answers(layout)
    return sum(
        spec.elements * spec.type.lanes for spec in answers.specs if spec.type.kind != "bool"
    )


def new_state(layout: Layout, aggregation: Aggregation) -> dict[str, F64]:
    """The arrays that a rule keeps for a model, as they are before the first step: zero."""
    lanes = state_lanes(layout, aggregation) if aggregation.state_names else 0
    return {name: np.zeros(lanes, np.float64) for name in aggregation.state_names}


def check_state(state: Mapping[str, F64] | None, layout: Layout, aggregation: Aggregation) -> None:
    """Compare the arrays that a rule is handed with those that it keeps; raises `BadSetting`."""
    if not aggregation.state_names:
        return
    lanes, given = state_lanes(layout, aggregation), state or {}
    for name in aggregation.state_names:
        if name not in given:
            raise BadSetting("state", f"{name!r} is missing, which the rule keeps; see new_state")
        if given[name].shape != (lanes,):
            raise BadSetting("state", f"{name!r} has shape {given[name].shape}, not ({lanes},)")


class _Fold(Walk):
    """One call of `fold`."""

    def __init__(
        self,
        old: Buffer,
        layout: Layout,
        updates: Sequence[Contribution],
        aggregation: Aggregation,
        write: Callable[[memoryview], object],
        state: Mapping[str, F64],
        number: int,
        checkpoint: Callable[[], object] | None,
    ) -> None:
        _check_weights(updates)
        self._updates = updates
        self._aggregation = aggregation
        self._number = number
        layouts, self._layout_of = _distinct_layouts(updates, aggregation.answers(layout))
        super().__init__(
            old,
            layout,
            layouts,
            write,
            state,
            checkpoint,
            aggregation.part_of,
            aggregation.whole_tensors,
        )
        self._uses_old = aggregation.uses_old or any(
            update.params_type == ParamsType.DIFF for update in updates
        )
        self._accumulator: Accumulator
        self._made_for = ("", "")  # the accumulator: kind of numbers, and part

    def _booleans(self, segment: Segment) -> memoryview:
        """Those of the first update."""
        start = segment.starts[self._layout_of[0]]
        first = memoryview(self._updates[0].buffer).cast("B")
        return first[start : start + segment.end - segment.start]

    def _accumulator_for(self, segment: Segment) -> Accumulator:
        """One at a time: some are as large as all updates' blocks together."""
        kind, part = segment.type.kind, segment.part
        if (kind, part) != self._made_for:
            rule, lanes, updates = self._aggregation, self._lanes, len(self._updates)
            if part:
                self._accumulator = rule.part_accumulator(part, lanes, updates)
            elif kind == "int":
                self._accumulator = rule.integer_accumulator(lanes, updates)
            else:
                self._accumulator = rule.accumulator(lanes, updates)
            self._made_for = (kind, part)
        return self._accumulator

    def _block(self, segment: Segment, position: int, count: int, out: Lanes) -> None:
        dtype, storage, scratch = segment.type, segment.type.storage, self._scratch
        accumulator = self._accumulator_for(segment)
        values, old = self._values[:count], self._old_values[:count]
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
        shape = self._shape(segment, count)
        state = self._state_block(count, shape)
        accumulator.step(old.reshape(shape), values.reshape(shape), state, self._number)
        narrow(dtype, values, out, scratch)
        if not all_finite(dtype, out):
            raise self._blame(segment, position, out)

    def _blame(self, segment: Segment, position: int, out: Lanes) -> NonFiniteUpdate:
        """Find the site whose number at the first bad place is not finite, or else the largest."""
        dtype = segment.type
        place = position + first_bad(dtype, out)
        tensor = segment.tensor_at(place)
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
