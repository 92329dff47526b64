"""SCAFFOLD on the server. Not here: its clients (`covey.client`), names (`tensors/control.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

from .aggregation import Accumulator, WeightedAggregation
from .errors import BadSetting
from .fedavg import WeightedMean
from .tensors.control import is_control
from .tensors.dtypes import F64


class ScaffoldAverage(WeightedAggregation):
    """SCAFFOLD: what clients drift apart by is estimated, and taken from their gradients.

    Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: "SCAFFOLD: Stochastic Controlled Averaging for
    Federated Learning", ICML 2020, algorithm 1 with option II. N sites; c, c_i begin at 0. In
    round t:

    1. The server picks sites S and sends them the model x and the control variate c.
    2. Each site i begins with y = x, and makes K steps y <- y - lr (g(y) - c_i + c).
    3. It sets c_i+ = c_i - c + (x - y) / (K lr), and sends y and c + (c_i+ - c_i).
    4. The server sets x <- x + server_lr mean over S of (y_i - x).
    5. The server sets c <- c + (|S| / N) mean over S of (c_i+ - c_i).

    This class is steps 4 and 5. What a site sends in step 3 is (x - y) / (K lr): its c_i stays its
    own. The paper's means are plain ones; where sites report weights both are weighted by them,
    times `aggregation_weights[i]`, so that c goes on being an estimate of the gradient that the
    mean of the models follows.

    Args:
        server_lr: The server's learning rate, for floats; other variables become their mean.
        exclude_vars: Variables that are not aggregated and keep their old values.
        aggregation_weights: Factor per site, 1 for a site that is not named.

    Raises:
        BadSetting: A factor is negative, infinite or not a number; the rate is not above 0.
    """

    def __init__(
        self,
        *,
        server_lr: float = 1.0,
        exclude_vars: Collection[str] = (),
        aggregation_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(exclude_vars=exclude_vars, aggregation_weights=aggregation_weights)
        if not 0 < server_lr < math.inf:
            raise BadSetting("server_lr", f"{server_lr}; must be a number above 0")
        self.server_lr = server_lr
        self._sites = 0

    def begin(self, sites: int) -> None:
        """Learn N."""
        self._sites = sites

    def part_of(self, name: str) -> str:
        """Control variates are a part of their own."""
        return "control" if is_control(name) else ""

    def accumulator(self, elements: int, updates: int) -> Accumulator:
        """Step 4."""
        return _Towards(elements, lambda _: self.server_lr)

    def integer_accumulator(self, elements: int, updates: int) -> Accumulator:
        """The mean."""
        return WeightedMean(elements)

    def part_accumulator(self, part: str, elements: int, updates: int) -> Accumulator:
        """Step 5."""
        return _Towards(elements, lambda count: min(1.0, count / max(1, self._sites)))


class _Towards(WeightedMean):
    """From the old values some way towards the mean.

    Args:
        elements: Most numbers in a chunk.
        share: How far, by the number of updates that count.
    """

    __slots__ = ("_count", "_share")

    def __init__(self, elements: int, share: Callable[[int], float]) -> None:
        super().__init__(elements)
        self._share = share
        self._count = 0

    def reset(self, elements: int) -> None:
        super().reset(elements)
        self._count = 0

    def fold(self, values: F64, weight: float) -> None:
        self._count += weight > 0
        super().fold(values, weight)

    def step(self, old: F64, out: F64, state: Mapping[str, F64], number: int) -> None:
        super().step(old, out, state, number)
        share = self._share(self._count)
        if share != 1:  # the mean itself would be rounded once more
            out -= old
            out *= share
            out += old
