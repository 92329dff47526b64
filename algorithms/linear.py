"""Rules that need of their updates no more than a weighted sum.

Here: `LinearAggregation`, from which FedOpt, FedBuff and FedAsync are made, and its accumulator.
Not here: those rules; the sum as large as a model, to which updates are added one by one
(`buffer.py`), and its step (`apply.py`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .aggregation import WeightedAggregation
from .fedavg import WeightedMean
from .tensors.dtypes import F64
from .tensors.state import ParamsType


@dataclass(frozen=True, slots=True)
class Tally:
    """What is known of a sum of updates beside the sum.

    Attributes:
        count: How many updates were added.
        weight: Sum of their weights, staleness included.
        max_staleness: That of the stalest.
    """

    count: int
    weight: float
    max_staleness: int = 0


class LinearAggregation(WeightedAggregation):
    """A rule that makes the new model from the weighted sum of updates.

    It serves both drivers: `fold.fold` for synchronous rounds, `buffer.Buffer` for updates that
    come one by one. A rule says how an update weighs (`weigh`) and what becomes of the sum
    (`combine`).

    Attributes:
        params_type: What is summed: differences, or whole models.
    """

    params_type: ParamsType = ParamsType.DIFF

    @abstractmethod
    def combine(
        self,
        total: F64,
        tally: Tally,
        old: F64,
        out: F64,
        state: Mapping[str, F64],
        number: int,
    ) -> None:
        """Compute new values, element by element, or tensor by tensor with `whole_tensors`.

        Args:
            total: Sum of weight x update; may be destroyed.
            tally: How many updates there are in it. A sum of weights of 0 is a sum of nothing.
            old: The current model; read-only.
            out: Where the new values go; none of the other arrays.
            state: This part of each of the rule's `state_names`, all zero before the first step;
                to be updated in place.
            number: Which step of the training this is, the first being 1.
        """

    def combine_integers(self, total: F64, tally: Tally, old: F64, out: F64) -> None:
        """Compute new values of integers, before rounding: their mean, as in FedAvg."""
        if not tally.weight:
            np.copyto(out, old)
            return
        np.divide(total, tally.weight, out=out)
        if self.params_type == ParamsType.DIFF:
            out += old

    def accumulator(self, elements: int, updates: int) -> WeightedMean:
        """A running weighted sum; memory does not depend on the number of updates."""
        return _Sum(elements, self)

    def integer_accumulator(self, elements: int, updates: int) -> WeightedMean:
        """That of FedAvg."""
        return WeightedMean(elements)


class _Sum(WeightedMean):
    """Running sum of one chunk of a synchronous round, for a linear rule."""

    __slots__ = ("_count", "_rule")

    def __init__(self, elements: int, rule: LinearAggregation) -> None:
        super().__init__(elements)
        self._rule = rule
        self._count = 0

    def reset(self, elements: int) -> None:
        super().reset(elements)
        self._count = 0

    def fold(self, values: F64, weight: float) -> None:
        super().fold(values, weight)
        self._count += 1

    def step(self, old: F64, out: F64, state: Mapping[str, F64], number: int) -> None:
        total = self._sum.reshape(old.shape)
        if self._rule.params_type == ParamsType.DIFF:  # what was folded are models
            np.multiply(old, self.total, out=out)
            total -= out
        self._rule.combine(total, Tally(self._count, self.total), old, out, state, number)
