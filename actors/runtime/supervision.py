"""Restart budgets: how often an actor may fail before its failure is passed on.

Pure decisions on a clock that is handed in, after Erlang/OTP's restart
intensity, with a backoff that doubles and is jittered so that a thousand
actors that failed together do not come back together.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Restart:
    """A restart budget: at most `limit` restarts within `within` seconds.

    The first restart waits `backoff` seconds, each further one twice as long, at
    most `longest`; each wait is drawn from 50-100 % of that. `Restart.never()`
    lets the first failure end the actor.
    """

    limit: int = 3
    within: float = 60.0
    backoff: float = 0.1
    longest: float = 30.0

    @classmethod
    def never(cls) -> Restart:
        """A budget of no restart at all."""
        return cls(limit=0)


class Budget:
    """What is left of one actor's restart budget."""

    __slots__ = ("_failures", "_restart", "failures")

    def __init__(self, restart: Restart) -> None:
        """Begin with the whole budget."""
        self._restart = restart
        self._failures: list[float] = []
        self.failures = 0

    def failed(self, now: float, rng: random.Random) -> float | None:
        """Count a failure at `now`; return the pause before the restart, None past the budget."""
        restart = self._restart
        self.failures += 1
        recent = self._failures
        while recent and recent[0] <= now - restart.within:
            recent.pop(0)
        recent.append(now)
        if len(recent) > restart.limit:
            return None
        # 2.0 ** n overflows from n = 1024 on; the cap is reached long before.
        pause = min(restart.longest, restart.backoff * 2.0 ** min(len(recent) - 1, 64))
        return pause * rng.uniform(0.5, 1.0)
