"""When to stop early.

Here: a condition on a metric, and patience. Not here: what stopping means for a job.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from .errors import BadSetting
from .selection import is_better, mode_of

_OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}
_CONDITION: Final = re.compile(r"\s*([A-Za-z_][\w./\- ]*?)\s*(>=|<=|==|>|<)\s*(\S+)\s*")


@dataclass(frozen=True, slots=True)
class StopCondition:
    """A comparison of a metric with a number, such as "accuracy >= 0.9".

    Attributes:
        metric: Name of the metric.
        comparison: One of >=, <=, >, < and ==.
        threshold: The number.
    """

    metric: str
    comparison: str
    threshold: float

    @classmethod
    def parse(cls, text: str) -> StopCondition:
        """Read a condition; nothing of it is evaluated.

        Raises:
            BadSetting: Not of the form METRIC COMPARISON NUMBER.
        """
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise BadSetting("stop_cond", f"{text!r} is not like 'accuracy >= 0.9'")
        metric, comparison, number = match.groups()
        try:
            threshold = float(number)
        except ValueError:
            threshold = math.nan
        if math.isnan(threshold):
            raise BadSetting("stop_cond", f"{number!r} in {text!r} is not a number")
        return cls(metric, comparison, threshold)

    def met(self, metrics: Mapping[str, float]) -> bool:
        """Whether the metric is there and compares; NaN never does."""
        value = metrics.get(self.metric, math.nan)
        return _OPERATORS[self.comparison](value, self.threshold)

    def __str__(self) -> str:
        return f"{self.metric} {self.comparison} {self.threshold:g}"


@dataclass(slots=True)
class Patience:
    """Stop when the key metric has not improved for a number of versions.

    A resumed run is put back by giving `best` and `waited`.

    Attributes:
        rounds: Versions without improvement that are one too many; at least 1.
        key_metric: Name of the metric.
        mode: "min", "max", or "auto" to tell by the name.
        min_delta: What counts as improvement must exceed this.
        best: Best value so far.
        waited: Versions since.

    Raises:
        BadSetting: `rounds` below 1, `min_delta` below 0 or not finite, an unknown mode.
    """

    rounds: int
    key_metric: str
    mode: str = "auto"
    min_delta: float = 0.0
    best: float | None = field(default=None)
    waited: int = field(default=0)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise BadSetting("patience", f"{self.rounds}; must be at least 1")
        if not (math.isfinite(self.min_delta) and self.min_delta >= 0):
            raise BadSetting("min_delta", f"{self.min_delta}; must be >= 0")
        self.mode = mode_of(self.key_metric, self.mode)

    def observe(self, metrics: Mapping[str, float]) -> bool:
        """Take the metrics of the next version; True if it is time to stop.

        A metric that is missing or NaN is no improvement; while it has never been reported,
        nothing is waited for.
        """
        if self.best is None and self.key_metric not in metrics:
            return False
        value = metrics.get(self.key_metric, math.nan)
        if is_better(value, self.best, mode_of(self.key_metric, self.mode), self.min_delta):
            self.best, self.waited = float(value), 0
        else:
            self.waited += 1
        return self.waited >= self.rounds
