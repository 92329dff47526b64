"""Durations: how long simulated clients take for a task, in virtual seconds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from covey.algorithms import derive, generator
from covey.algorithms.seeds import Generator

from .errors import ConfigError

#: Draws how many seconds a client takes for a task.
Duration: TypeAlias = Callable[[str, Generator], float]


@dataclass(frozen=True, slots=True)
class LogNormal:
    """exp(N(mu, sigma)) seconds; the median is exp(mu).

    Attributes:
        mu: Mean of the logarithm.
        sigma: Its standard deviation; >= 0.
        of_client: Whether a client is drawn once, and is always as fast, or each task is.
    """

    mu: float = 0.0
    sigma: float = 0.5
    of_client: bool = False

    def __call__(self, site: str, rng: Generator) -> float:
        """Draw."""
        del site
        return float(rng.lognormal(self.mu, self.sigma))


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same for every task.

    Attributes:
        seconds: How long; above 0.
    """

    seconds: float = 1.0

    def __call__(self, site: str, rng: Generator) -> float:
        """That many seconds."""
        del site, rng
        return self.seconds


class Drawn:
    """A distribution with a run's seed: what a site draws depends on no other site."""

    def __init__(self, duration: Duration, seed: int) -> None:
        """Draw from `duration`."""
        self._duration = duration
        self._seed = derive(seed, "durations")
        self._once = bool(getattr(duration, "of_client", False))
        self._generators: dict[str, Generator] = {}
        self._drawn: dict[str, float] = {}

    def __call__(self, site: str) -> float:
        """Seconds that a site takes for its next task; raises `ConfigError`."""
        if site in self._drawn:
            return self._drawn[site]
        rng = self._generators.get(site)
        if rng is None:
            rng = self._generators[site] = generator(self._seed, site, 0)
        seconds = float(self._duration(site, rng))
        if not (seconds > 0 and math.isfinite(seconds)):
            raise ConfigError("durations", f"{seconds} for {site}; must be a number above 0")
        if self._once:
            self._drawn[site] = seconds
        return seconds
