"""Metrics that are no numbers: told once for each site and metric, and a few sites of each.

A loss that has become NaN stays NaN: what is said of it once need not be said in every round,
nor for each of a thousand sites.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

#: Sites that are named for one metric; `metrics.jsonl` has null for all of them.
NAMED_SITES: Final = 5


class Oddities:
    """Knows which metrics of which sites have been told of.

    Args:
        key_metric: The metric that picks the best model.
    """

    def __init__(self, key_metric: str) -> None:
        self._key_metric = key_metric
        self._told: dict[str, set[str]] = {}

    def texts(self, site: str, round: int, metrics: Mapping[str, float]) -> list[str]:
        """What to tell of a site's metrics; nothing of those that are finite or have been told."""
        return [
            text
            for name, value in metrics.items()
            if not math.isfinite(value)
            for text in self._text(site, round, name, value)
        ]

    def _text(self, site: str, round: int, name: str, value: float) -> list[str]:
        sites = self._told.setdefault(name, set())
        if site in sites or len(sites) > NAMED_SITES:
            return []
        sites.add(site)
        if len(sites) > NAMED_SITES:
            return [f"{name} is not finite at other sites too, which are not named one by one"]
        best = "; no model with it can be the best" if name == self._key_metric else ""
        return [f"{site} reports {name} {value} on model {round}{best}"]
