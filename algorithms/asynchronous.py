"""What asynchronous rules share: staleness, its limit, and when to step.

Here: `AsynchronousAggregation`. Not here: the rules on it (`fedbuff.py`, `fedasync.py`), the
staleness functions (`staleness.py`), the sum (`buffer.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .aggregation import UpdateInfo
from .errors import BadSetting, TooStale
from .linear import LinearAggregation
from .staleness import Staleness, staleness_of, weight_at


class AsynchronousAggregation(LinearAggregation):
    """A linear rule for updates that start from different versions and come at any time.

    The driver asks `weigh` about each update, which counts less the staler it is, adds it to a
    `Buffer`, and steps when there are `buffer_size` of them.

    Args:
        buffer_size: How many updates make a step.
        staleness: The staleness function: a name such as "polynomial", or any callable.
        max_staleness: Updates staler than this are refused; None for no limit.
        exclude_vars: Variables that are not aggregated and keep their old values.
        aggregation_weights: Factor per site, 1 for a site that is not named.

    Raises:
        BadSetting: A setting is unknown or out of its range.
    """

    #: Whether a step may have no more than one update: a sum of several is something else.
    one_by_one: bool = False

    def __init__(
        self,
        *,
        buffer_size: int,
        staleness: str | Staleness = "polynomial",
        max_staleness: int | None = None,
        exclude_vars: Collection[str] = (),
        aggregation_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(exclude_vars=exclude_vars, aggregation_weights=aggregation_weights)
        if buffer_size < 1:
            raise BadSetting("buffer_size", f"{buffer_size}; must be at least 1")
        if max_staleness is not None and max_staleness < 0:
            raise BadSetting("max_staleness", f"{max_staleness}; must be >= 0, or None")
        self.buffer_size = buffer_size
        self.staleness = staleness_of(staleness)
        self.max_staleness = max_staleness

    def weigh(self, info: UpdateInfo) -> float:
        """The staleness function's weight, times the reported one and the site's factor.

        Raises:
            TooStale: The update is staler than `max_staleness`.
            BadUpdate: The reported weight is negative, infinite or not a number.
            BadSetting: The staleness function gives no weight at this staleness.
        """
        return self._freshness(info) * super().weigh(info)

    def discount(self, info: UpdateInfo) -> float:
        """The staleness function's weight times the site's factor, whatever is reported.

        Raises:
            TooStale: The update is staler than `max_staleness`.
            BadUpdate: The reported weight, by which metrics are weighed, is negative, infinite or
                not a number.
            BadSetting: The staleness function gives no weight at this staleness.
        """
        freshness = self._freshness(info)
        super().weigh(info)
        return freshness * self.aggregation_weights.get(info.site, 1.0)

    def _freshness(self, info: UpdateInfo) -> float:
        if self.max_staleness is not None and info.staleness > self.max_staleness:
            raise TooStale(info.site, info.staleness, self.max_staleness)
        return weight_at(self.staleness, info.staleness)
