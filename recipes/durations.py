"""Durations: how long simulated clients take for a task, in virtual seconds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from covey.algorithms import derive, generator
from covey.algorithms.seeds import Generator

from .errors import ConfigError
from .usercode import place_of

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

    def __post_init__(self) -> None:
        """Check the settings; raise `ConfigError`."""
        if not (math.isfinite(self.mu) and math.isfinite(self.sigma) and self.sigma >= 0):
            raise ConfigError("durations", f"{self}: sigma must be >= 0, and both finite")

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

    def __post_init__(self) -> None:
        """Check the setting; raise `ConfigError`."""
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ConfigError("durations", f"{self}: must be a number above 0")

    def __call__(self, site: str, rng: Generator) -> float:
        """That many seconds."""
        del site, rng
        return self.seconds


def check_durations(durations: object, site: str) -> None:
    """Draw once, for what cannot be drawn from is told at once; raise `ConfigError`."""
    if isinstance(durations, type):
        raise ConfigError("durations", f"is a class; make one: {durations.__name__}(...)")
    if isinstance(durations, int | float):
        raise ConfigError("durations", f"give a distribution: Fixed({durations})")
    if not callable(durations):
        raise ConfigError("durations", f"{durations!r} cannot be drawn from")
    try:
        seconds: object = durations(site, generator(0, site))
    except Exception as error:
        why, place = f"{type(error).__name__}: {error}", place_of(error, durations)
        if isinstance(error, TypeError):
            why = f"is called as duration(site, rng), with NumPy's generator: {error}"
        raise ConfigError("durations", why + place) from None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ConfigError("durations", f"gives {seconds!r}; must give seconds")


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
        """Seconds that a site takes for its next task; raises `ValueError`, or as a user's does."""
        if site in self._drawn:
            return self._drawn[site]
        rng = self._generators.get(site)
        if rng is None:
            rng = self._generators[site] = generator(self._seed, site, 0)
        seconds = float(self._duration(site, rng))
        if not (seconds > 0 and math.isfinite(seconds)):
            raise ValueError(f"it is {seconds}; must be a number of seconds above 0")
        if self._once:
            self._drawn[site] = seconds
        return seconds
