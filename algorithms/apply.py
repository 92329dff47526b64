"""The step of buffered training: from the old model and a sum of updates to the new model.

Here: element types, rounding once, naming the tensor that leaves its range. Not here: the rule
(`fedbuff.py`, ...), how updates are summed (`buffer.py`), how the model is cut into blocks
(`walk.py`), threads (the caller runs this in one).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .buffer import Sums
from .errors import BadSetting, NonFiniteModel
from .fold import check_state
from .linear import LinearAggregation
from .tensors.dtypes import F64, Lanes, all_finite, narrow, widen
from .tensors.layout import Buffer, Layout
from .walk import Segment, Walk, first_bad


def apply(
    old: Buffer,
    layout: Layout,
    sums: Sums,
    rule: LinearAggregation,
    write: Callable[[memoryview], object],
    *,
    state: Mapping[str, F64] | None = None,
    number: int = 1,
    checkpoint: Callable[[], object] | None = None,
) -> None:
    """Make a step: write the new model's blob, header first, in order.

    Synchronous and CPU-bound; reads the sums and changes nothing in them, so that a step that
    failed can be made again. Integers are rounded half to even and saturate; bool tensors are
    those of the newest update; excluded variables are copied from the old model. Memory is a few
    MiB, whatever the size of the model; for a rule with `whole_tensors`, some 60 bytes for each
    number of the largest tensor.

    Args:
        old: The current model's blob.
        layout: Its layout.
        sums: What `Buffer.swap` handed out.
        rule: The rule, for whose `answers(layout)` the sums were made.
        write: Takes the next bytes; they are valid during the call only. At most 1 MiB at a time.
        state: The rule's arrays by `state_names`, as `new_state` makes them; updated in place, so
            that after an error they are as worthless as what was written: hand in copies.
        number: Which step of the training this is, the first being 1.
        checkpoint: Called before every chunk; may raise to cancel, which ends the step at once.

    Raises:
        NonFiniteModel: Names the tensor whose numbers would become infinite or NaN.
        BadSetting: There are no updates in the sums; they were made for another layout or from
            the other kind of update; an array of state is missing or of another size.
    """
    if not sums.tally.count:
        raise BadSetting("sums", "none to step with")
    if rule.answers(layout) != sums.layout:
        raise BadSetting("sums", "made for another layout than the model's")
    if rule.params_type != sums.params_type:
        raise BadSetting(
            "sums", f"of {sums.params_type} updates; the rule needs {rule.params_type}"
        )
    check_state(state, layout, rule)
    _Step(old, layout, sums, rule, write, state or {}, number, checkpoint).run()


class _Step(Walk):
    """One call of `apply`."""

    def __init__(
        self,
        old: Buffer,
        layout: Layout,
        sums: Sums,
        rule: LinearAggregation,
        write: Callable[[memoryview], object],
        state: Mapping[str, F64],
        number: int,
        checkpoint: Callable[[], object] | None,
    ) -> None:
        whole = rule.whole_tensors
        super().__init__(old, layout, [sums.layout], write, state, checkpoint, whole=whole)
        self._sums = sums
        self._tally = sums.tally
        self._rule = rule
        self._number = number
        self._total: F64 = np.empty(self._lanes, np.float64)

    def _booleans(self, segment: Segment) -> memoryview:
        return self._sums.numbers(segment.starts[0], segment.end - segment.start).data

    def _block(self, segment: Segment, position: int, count: int, out: Lanes) -> None:
        dtype, rule, sums = segment.type, self._rule, self._sums
        total, old, new = self._total[:count], self._old_values[:count], self._values[:count]
        start = segment.start + position
        widen(dtype, np.frombuffer(self._old, dtype.storage, count, start), old, self._scratch)
        np.copyto(total, sums.numbers(segment.starts[0] + position, count))
        shape = self._shape(segment, count)
        state = self._state_block(count, shape)
        if dtype.kind == "int":
            rule.combine_integers(total, self._tally, old, new)
        else:
            shaped = (total.reshape(shape), self._tally, old.reshape(shape), new.reshape(shape))
            rule.combine(*shaped, state, self._number)
        narrow(dtype, new, out, self._scratch)
        if not all_finite(dtype, out):
            raise NonFiniteModel(segment.tensor_at(position + first_bad(dtype, out)))
