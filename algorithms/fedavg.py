"""Federated averaging. Not here: the seam (`aggregation.py`), the driver (`fold.py`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .aggregation import WeightedAggregation
from .tensors.dtypes import F64


class FedAvg(WeightedAggregation):
    """FedAvg: the weighted mean of the sites' models.

    McMahan, Moore, Ramage, Hampson, Agüera y Arcas: "Communication-Efficient Learning of Deep
    Networks from Decentralized Data", AISTATS 2017, algorithm 1. In round t:

    1. The server picks sites S_t and sends them the model w_t.
    2. Each site k trains on its own n_k samples, starting from w_t, and gets w_k.
    3. The server sets w_{t+1} = sum over k in S_t of (n_k / n) w_k, n = sum over k in S_t of n_k.

    This class is step 3, with n_k the weight that a site reports, times `aggregation_weights[k]`.
    A site may as well send w_k - w_t: the result is the same.

    Args:
        exclude_vars: Variables that are not aggregated and keep their old values.
        aggregation_weights: Factor per site, 1 for a site that is not named.

    Raises:
        BadSetting: A factor is negative, infinite or not a number.
    """

    uses_old = False

    def accumulator(self, elements: int, updates: int) -> WeightedMean:
        """A running weighted sum; memory does not depend on the number of updates."""
        return WeightedMean(elements)


class WeightedMean:
    """Running sum of weight x values, and of weights.

    Args:
        elements: Most numbers in a chunk.
    """

    __slots__ = ("_empty", "_room", "_sum", "total")

    def __init__(self, elements: int) -> None:
        self._room: F64 = np.empty(elements, np.float64)
        self._sum = self._room
        self._empty = True
        self.total = 0.0

    def reset(self, elements: int) -> None:
        """Begin a chunk."""
        self._sum = self._room[:elements]
        self._empty = True
        self.total = 0.0

    def fold(self, values: F64, weight: float) -> None:
        """Add weight x values."""
        self.total += weight
        if self._empty:
            np.multiply(values, weight, out=self._sum)
            self._empty = False
        else:
            np.multiply(values, weight, out=values)
            np.add(self._sum, values, out=self._sum)

    def step(self, old: F64, out: F64, state: Mapping[str, F64], number: int) -> None:
        """The mean. Dividing once, by the sum of weights, keeps ties of integers exact."""
        np.divide(self._sum, self.total, out=out)
