"""The buffer of asynchronous training: updates are added whole, as they come, to one sum.

Here: the sums, which number of an update goes where in them, and handing them out. Not here: how
an update weighs and what becomes of a sum (`fedbuff.py`, ...), the step (`apply.py`), adding
itself (`accumulate.py`), when to step and who waits (actors).

A buffer has at most two accumulators, each as large as an update: while a step reads one, the
other is filled. `swap` exchanges them and touches no number: the first update that is added to an
accumulator overwrites it. The sums lie flat, element types side by side, so that a small tensor
costs no more than its bytes. Floats of up to 32 bits are summed in float32, which is what memory
is fast enough for; 64-bit floats and integers in float64; of bool tensors, the newest update's
are kept.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from .accumulate import LARGEST_NUMBER, LARGEST_WEIGHT, Adder, judge
from .errors import BadUpdate, NonFiniteUpdate, SumsOutstanding
from .linear import Tally
from .tensors.dtypes import DType, Lanes
from .tensors.layout import Buffer as Blob
from .tensors.layout import Layout, TensorSpec
from .tensors.state import ParamsType

_WIDE_BYTES: Final = 8


class _Run:
    """Neighbouring tensors of one element type in an update: a plain array of numbers."""

    __slots__ = ("dtype", "lanes", "specs", "start", "sum_type")

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self.specs = specs
        self.dtype: DType = specs[0].type
        self.start = specs[0].start
        self.lanes = (specs[-1].end - self.start) // self.dtype.storage.itemsize
        self.sum_type = _sum_type(self.dtype)

    def of(self, update: Blob) -> Lanes:
        """The run's numbers in an update."""
        return np.frombuffer(update, self.dtype.storage, self.lanes, self.start)


def _sum_type(dtype: DType) -> type[np.float32] | type[np.float64] | type[np.uint8]:
    if dtype.kind == "bool":
        return np.uint8
    wide = dtype.kind == "int" or dtype.storage.itemsize == _WIDE_BYTES
    return np.float64 if wide else np.float32


class Sums:
    """What was summed: handed out by `Buffer.swap`, read by `apply`, given back.

    Attributes:
        layout: That of the updates.
        params_type: What was summed: differences, or whole models.
        stalenesses: Of each update, in the order in which they came.
    """

    __slots__ = ("_arrays", "_runs", "_starts", "layout", "params_type", "stalenesses", "weight")

    def __init__(self, layout: Layout, params_type: ParamsType, runs: tuple[_Run, ...]) -> None:
        """Make empty sums; a `Buffer` does it."""
        self.layout = layout
        self.params_type = params_type
        self.stalenesses: list[int] = []
        self.weight = 0.0
        self._runs = runs
        self._starts = [run.start for run in runs]
        self._arrays: list[Lanes] = [np.empty(run.lanes, run.sum_type) for run in runs]

    @property
    def tally(self) -> Tally:
        """Count, sum of weights and largest staleness."""
        return Tally(len(self.stalenesses), self.weight, max(self.stalenesses, default=0))

    def numbers(self, position: int, count: int) -> Lanes:
        """Some sums that lie side by side.

        Args:
            position: Where the first one's number lies in an update's blob.
            count: How many, within neighbouring tensors of one element type.
        """
        which = bisect.bisect_right(self._starts, position) - 1
        run = self._runs[which]
        first = (position - run.start) // run.dtype.storage.itemsize
        return self._arrays[which][first : first + count]

    def add(self, addends: Sequence[Addend], adder: Adder) -> None:
        """Add updates that have been checked, as one after the other."""
        fresh = not self.stalenesses
        with np.errstate(all="ignore"):  # a sum that leaves its range is found by the step
            for run, total in zip(self._runs, self._arrays, strict=True):
                if run.dtype.kind == "bool":
                    np.copyto(total, run.of(addends[-1].update))
                else:
                    weighted = [(run.of(each.update), each.weight) for each in addends]
                    adder.add_all(run.dtype, weighted, total, fresh)
        for each in addends:
            self.stalenesses.append(each.staleness)
            self.weight += each.weight

    def clear(self) -> None:
        """Forget what was summed; the next update overwrites it."""
        self.stalenesses.clear()
        self.weight = 0.0

    def __repr__(self) -> str:
        return f"<Sums of {len(self.stalenesses)} updates, weight {self.weight:g}>"


class Addend(NamedTuple):
    """An update that shall be added.

    Attributes:
        update: Its blob, in the buffer's layout: the header is not read.
        weight: What the rule's `weigh` gave for it.
        staleness: Versions that the model has advanced since it started.
    """

    update: Blob
    weight: float
    staleness: int = 0


class Buffer:
    """Sums updates until a step takes the sums away.

    Synchronous and CPU-bound; to be used by one thread at a time. Meanwhile others may `check`
    updates, step, and give sums back. An update with an error leaves everything as it was.

    Args:
        layout: That of the updates: `rule.answers(...)` of the model's.
        params_type: What is summed: `rule.params_type`.
    """

    def __init__(self, layout: Layout, params_type: ParamsType = ParamsType.DIFF) -> None:
        self.layout = layout
        self.params_type = params_type
        self._runs = _runs_of(layout)
        self._adder = Adder()
        self._filling = self._make()
        self._spare: Sums | None = None
        self._outstanding: Sums | None = None

    @property
    def tally(self) -> Tally:
        """What has been added since the last swap."""
        return self._filling.tally

    def __len__(self) -> int:
        """How many updates have been added since the last swap."""
        return len(self._filling.stalenesses)

    def add(
        self,
        update: Blob,
        weight: float,
        params_type: ParamsType,
        *,
        site: str = "",
        staleness: int = 0,
        bound: float | None = None,
    ) -> None:
        """Add weight x update, whole; then the update may go.

        Takes one pass over the update and the sums, and one more over the update before it unless
        its bound is known.

        Args:
            update: Its blob, in this buffer's layout: the header is not read.
            weight: What the rule's `weigh` gave for it.
            params_type: What the update holds.
            site: Who sent it; named in errors.
            staleness: Versions that the model has advanced since it started.
            bound: As for `check`.

        Raises:
            NonFiniteUpdate: As `check`.
            BadUpdate: As `check`.
        """
        self.check(update, weight, params_type, site=site, bound=bound)
        self.add_all((Addend(update, weight, staleness),))

    def add_all(self, addends: Sequence[Addend]) -> None:
        """Add updates that have passed `check`, with these weights; then they may go.

        The sums come to the same bits as one by one, but pass through memory once for all of
        them.
        """
        if addends:
            self._filling.add(addends, self._adder)

    def check(
        self,
        update: Blob,
        weight: float,
        params_type: ParamsType,
        *,
        site: str = "",
        bound: float | None = None,
    ) -> None:
        """Look for what would spoil the sums; changes nothing, so any thread may do it.

        Args:
            update: Its blob.
            weight: What the rule's `weigh` gave for it.
            params_type: What the update holds.
            site: Who sent it; named in errors.
            bound: No float in it has a larger magnitude; None if that is to be looked at.

        Raises:
            NonFiniteUpdate: Names the site and the tensor with NaN, infinity or numbers that are
                too large to be summed.
            BadUpdate: The update has another size, or the weight is negative, too large or NaN;
                or it is a model where differences are summed, or the reverse.
        """
        if params_type != self.params_type:
            kinds = f"{params_type} update; this rule needs {self.params_type}"
            raise BadUpdate("", f"{site} sent a {kinds}")
        if not 0.0 <= weight <= LARGEST_WEIGHT:
            why = f"{site} has a weight of {weight}; must be >= 0 and <= {LARGEST_WEIGHT:.0e}"
            raise BadUpdate("", why)
        size = memoryview(update).nbytes
        if size != self.layout.size:
            raise BadUpdate("", f"{site} sent {size} bytes, expected {self.layout.size}")
        if bound is not None and bound * weight <= LARGEST_NUMBER:
            return
        for run in self._runs:
            if judge(run.dtype, run.of(update), weight, run.sum_type):
                raise _blame(run, update, weight, site)

    def swap(self) -> Sums:
        """Hand out what has been added, and go on with nothing; takes no time.

        Raises:
            SumsOutstanding: The sums of the last swap have not been given back.
        """
        if self._outstanding is not None:
            raise SumsOutstanding(f"{self._outstanding!r} were not given back")
        self._outstanding = self._filling
        self._filling = self._spare or self._make()
        self._spare = None
        return self._outstanding

    def give_back(self, sums: Sums) -> None:
        """Take back what `swap` handed out, once the step is over; its memory is used again.

        Raises:
            SumsOutstanding: These are not the sums that were handed out last.
        """
        if sums is not self._outstanding:
            raise SumsOutstanding(f"{sums!r} are not those that were handed out")
        sums.clear()
        self._spare, self._outstanding = sums, None

    def clear(self) -> None:
        """Drop what has been added since the last swap."""
        self._filling.clear()

    def _make(self) -> Sums:
        return Sums(self.layout, self.params_type, self._runs)

    def __repr__(self) -> str:
        return f"<Buffer {len(self)} updates, weight {self._filling.weight:g}>"


def _runs_of(layout: Layout) -> tuple[_Run, ...]:
    groups = itertools.groupby(layout.specs, lambda spec: spec.type)
    return tuple(_Run(tuple(specs)) for _, specs in groups)


def _blame(run: _Run, update: Blob, weight: float, site: str) -> NonFiniteUpdate:
    """Find the tensor of a run that was judged bad."""
    spec, why = run.specs[0], ""
    for spec in run.specs:
        why = judge(run.dtype, _Run((spec,)).of(update), weight, run.sum_type)
        if why:
            break
    return NonFiniteUpdate(site, spec.name, why)
