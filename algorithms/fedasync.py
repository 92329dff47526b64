"""FedAsync: every update mixed into the model as it comes.

Not here: the buffer (`buffer.py`) and its step (`apply.py`), which it shares with FedBuff.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from .aggregation import UpdateInfo
from .asynchronous import AsynchronousAggregation
from .errors import BadSetting
from .fedavg import WeightedMean
from .linear import Tally
from .staleness import Staleness
from .tensors.dtypes import F64
from .tensors.state import ParamsType


class FedAsync(AsynchronousAggregation):
    """FedAsync: the model moves a little towards each site's model, whenever that comes.

    Xie, Koyejo, Gupta: "Asynchronous Federated Optimization", 2019, algorithm 1:

    1. A site that is free gets the newest model and its version tau.
    2. It trains and sends its whole model, x_new, with tau.
    3. The server takes it in as version t: a_t = alpha s(t - tau), and
       x_t = (1 - a_t) x_{t-1} + a_t x_new.

    `weigh` gives a_t, `combine` is the mixing. The staleness s is given counts from 0: an update
    that started from the current model is fresh. Integers are mixed alike, then rounded; bool
    tensors are the newest site's. If several updates were summed before a step, a_t is the sum of
    theirs, and they are mixed in at once.

    Args:
        alpha: The mixing rate; above 0, at most 1.
        staleness: s: a name such as "polynomial", or any callable; see `staleness.py`.
        max_staleness: Updates staler than this are refused; None for no limit.
        exclude_vars: Variables that are not aggregated and keep their old values.
        aggregation_weights: Factor on alpha per site, 1 for a site that is not named.

    Raises:
        BadSetting: A setting is unknown or out of its range.
    """

    params_type = ParamsType.FULL
    one_by_one = True

    def __init__(
        self,
        *,
        alpha: float = 0.6,
        staleness: str | Staleness = "polynomial",
        max_staleness: int | None = None,
        exclude_vars: Collection[str] = (),
        aggregation_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(
            buffer_size=1,
            staleness=staleness,
            max_staleness=max_staleness,
            exclude_vars=exclude_vars,
            aggregation_weights=aggregation_weights,
        )
        if not 0.0 < alpha <= 1.0:
            raise BadSetting("alpha", f"{alpha}; must be above 0 and at most 1")
        self.alpha = alpha

    def weigh(self, info: UpdateInfo) -> float:
        """How far the model moves towards an update: alpha s(tau).

        Raises:
            TooStale: It is staler than `max_staleness`.
            BadUpdate: The reported weight is negative, infinite or not a number.
            BadSetting: The staleness function gives no weight at this staleness.
        """
        return self.alpha * self.discount(info)

    def combine(
        self,
        total: F64,
        tally: Tally,
        old: F64,
        out: F64,
        state: Mapping[str, F64],
        number: int,
    ) -> None:
        """Step 3."""
        self.combine_integers(total, tally, old, out)

    def integer_accumulator(self, elements: int, updates: int) -> WeightedMean:
        """As for floats: integers are mixed alike."""
        return self.accumulator(elements, updates)

    def combine_integers(self, total: F64, tally: Tally, old: F64, out: F64) -> None:
        """Step 3, before rounding."""
        np.multiply(old, 1.0 - tally.weight, out=out)
        out += total
