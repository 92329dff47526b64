"""The aggregation seam: what a rule for combining updates must say, and nothing else.

Here: `Aggregation`, `Accumulator`, and `WeightedAggregation`, the settings that nearly all rules
share. Not here: any rule (`fedavg.py`, ...), how bytes are walked through (`fold.py`), who waits
for whom (actors).

Two drivers stand on the seam:

* *Synchronous*: all updates of a round are there. The driver takes one chunk of the model at a
  time: it resets one accumulator, folds that chunk of every update in a fixed order, and steps.
  Memory is that of one chunk, whatever the number of sites (`fold.fold`). It serves every rule.
* *Buffered asynchronous*: updates come one by one. The driver adds each, weighted, to one sum as
  large as the model, and steps once enough have come (`buffer.Buffer`, `apply.apply`). It serves
  the rules that need no more than that sum (`linear.LinearAggregation`).

A rule is therefore two objects: the `Aggregation` holds settings and weighs an update by what is
known before its first byte; its `Accumulator` does the arithmetic of one chunk. An accumulator may
be a running sum (FedAvg, FedBuff, server optimizers) or keep one row per update (coordinate
median): the driver does not care. Numbers are float64 on both sides; element types, FULL and DIFF,
rounding and finiteness are the driver's business, so every rule gets them right.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from .errors import BadSetting, BadUpdate
from .tensors.dtypes import F64
from .tensors.layout import Layout


@dataclass(frozen=True, slots=True)
class UpdateInfo:
    """What is known of an update before its first byte is folded.

    Attributes:
        site: Who sent it.
        weight: What the sender says it is worth, usually its number of training samples or steps.
        staleness: Versions that the global model has advanced since the sender received it; 0 in
            synchronous training.
    """

    site: str
    weight: float = 1.0
    staleness: int = 0


class Accumulator(Protocol):
    """The arithmetic of one chunk. Not thread-safe; reused for many chunks."""

    def reset(self, elements: int) -> None:
        """Forget everything and expect chunks of this many elements (never more than at making)."""
        ...

    def fold(self, values: F64, weight: float) -> None:
        """Take one update's chunk.

        Args:
            values: The site's own model (for a DIFF update the driver has added the difference to
                the current global model). May be destroyed, may not be kept.
            weight: What `Aggregation.weigh` gave for this update.
        """
        ...

    def step(self, old: F64, out: F64, state: Mapping[str, F64], number: int) -> None:
        """Compute the chunk's new values from what was folded.

        Args:
            old: The current global model; read-only. Undefined if the rule has `uses_old` False.
            out: Where the new values go.
            state: This chunk of each of the rule's `state_names`, all zero before the first step;
                to be updated in place.
            number: Which step of the training this is, the first being 1; of all chunks the same.
        """
        ...


class Aggregation(ABC):
    """A rule for making the next global model from updates.

    Attributes:
        excluded: Variables that are left out of updates and keep their old values.
        uses_old: Whether `step` reads the old model; if not, it need not be decoded.
        state_names: Float64 arrays, one number per number of the model, that the rule keeps from
            one step to the next, such as the moments of a server optimizer. The driver keeps them.
        whole_tensors: Whether a chunk is always one whole tensor, and the arrays that `step` is
            given have its shape, with 2 behind it where the numbers are complex. If not, a chunk
            is cut anywhere, so that the rule must work element by element, and is flat. Integers
            are always flat.
    """

    excluded: frozenset[str] = frozenset()
    uses_old: bool = True
    state_names: tuple[str, ...] = ()
    whole_tensors: bool = False

    def sends(self, layout: Layout) -> Layout:
        """Which variables travel to the sites: all of the model, unless a rule says otherwise."""
        return layout

    def answers(self, layout: Layout) -> Layout:
        """The layout in which sites answer: the model without the excluded variables.

        Raises:
            BadUpdate: An excluded variable does not exist, or none remains.
        """
        return layout.without(self.excluded)

    def weigh(self, info: UpdateInfo) -> float:
        """How much an update counts: what its sender says.

        Raises:
            BadUpdate: The weight is negative, infinite or not a number.
        """
        if not (math.isfinite(info.weight) and info.weight >= 0):
            raise BadUpdate("", f"{info.site} sent a weight of {info.weight}")
        return float(info.weight)

    def begin(self, sites: int) -> None:
        """Learn how many sites take part in the run; called before the first step."""
        del sites

    def part_of(self, name: str) -> str:
        """Which part of what travels a variable is in: "", the model, unless a rule has more.

        Variables of different parts are in no chunk together.
        """
        return ""

    @abstractmethod
    def accumulator(self, elements: int, updates: int) -> Accumulator:
        """Make the accumulator of one chunk.

        Args:
            elements: Most numbers in a chunk.
            updates: Most updates that will be folded before a step.
        """

    def integer_accumulator(self, elements: int, updates: int) -> Accumulator:
        """Make the accumulator of a chunk of integers, such as BatchNorm's counters.

        As for floats, unless a rule says otherwise: a step of a server optimizer would leave
        counters anywhere.
        """
        return self.accumulator(elements, updates)

    def part_accumulator(self, part: str, elements: int, updates: int) -> Accumulator:
        """Make the accumulator of a chunk of another part than the model."""
        return self.accumulator(elements, updates)


class WeightedAggregation(Aggregation):
    """A rule that leaves out variables and weighs updates by site.

    Args:
        exclude_vars: Variables that are not aggregated and keep their old values.
        aggregation_weights: Factor per site, 1 for a site that is not named.

    Raises:
        BadSetting: A factor is negative, infinite or not a number.
    """

    def __init__(
        self,
        *,
        exclude_vars: Collection[str] = (),
        aggregation_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.excluded = frozenset(exclude_vars)
        self.aggregation_weights = dict(aggregation_weights or {})
        for site, factor in self.aggregation_weights.items():
            if not (math.isfinite(factor) and factor >= 0):
                raise BadSetting("aggregation_weights", f"{site} has {factor}; must be >= 0")

    def weigh(self, info: UpdateInfo) -> float:
        """The reported weight times the site's factor.

        Raises:
            BadUpdate: The reported weight is negative, infinite or not a number, or too large
                for the factor.
        """
        factor = self.aggregation_weights.get(info.site, 1.0)
        weight = super().weigh(info) * factor
        if not math.isfinite(weight):
            why = f"{info.site} sent a weight of {info.weight}, which times {factor} is infinite"
            raise BadUpdate("", why)
        return weight
