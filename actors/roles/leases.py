"""Leases: who has been given a task, on which version of the model, and until when.

Pure decisions, no clock and no waiting. A result is accepted once for its lease, and
only while the lease runs: a silent site frees its place when its time is up, and what
it sends afterwards is stale.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

#: What becomes of a result: it is to be counted, has been settled before, or comes too late.
Standing = Literal["accepted", "duplicate", "stale"]

#: Settled leases that are remembered. All that it changes is what a repetition is called:
#: whatever is not running is refused.
REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Lease:
    """A task given to a site.

    Attributes:
        id: Its number; none is ever used twice in a job.
        site: Who has it.
        version: Version of the model that the site was given.
        began: When it was given, in seconds.
        until: When it runs out.
    """

    id: int
    site: str
    version: int
    began: float
    until: float


class Leases:
    """The leases of one job; at most one runs for each site.

    Args:
        seconds: How long each runs, infinite for as long as its site lives.
    """

    def __init__(self, seconds: float) -> None:
        """Begin with none."""
        self._seconds = seconds
        #: Number of the one granted next.
        self.next = 1
        self._running: dict[int, Lease] = {}
        self._by_site: dict[str, Lease] = {}
        self._settled: dict[int, None] = {}
        self._ends: list[tuple[float, int]] = []

    def __len__(self) -> int:
        """How many run."""
        return len(self._running)

    @property
    def running(self) -> Iterable[Lease]:
        """Those that run, oldest first."""
        return self._running.values()

    def of(self, site: str) -> Lease | None:
        """The lease that runs for a site."""
        return self._by_site.get(site)

    def get(self, number: int) -> Lease | None:
        """The running lease of a number."""
        return self._running.get(number)

    def grant(self, site: str, version: int, now: float) -> Lease:
        """Give a site a task; raises `ValueError` if it has one."""
        if site in self._by_site:
            raise ValueError(f"{site} has a task already")
        lease = Lease(self.next, site, version, now, now + self._seconds)
        self.next += 1
        self._running[lease.id] = self._by_site[site] = lease
        if lease.until < float("inf"):
            heapq.heappush(self._ends, (lease.until, lease.id))
        return lease

    def standing(self, site: str, number: int) -> Standing:
        """What a result for a lease is worth now; changes nothing."""
        lease = self._running.get(number)
        if lease is not None and lease.site == site:
            return "accepted"
        return "duplicate" if number in self._settled else "stale"

    def stop_clock(self, number: int) -> None:
        """A result has come in time: how long counting it takes does not end the lease."""
        lease = self._running.get(number)
        if lease is not None:
            self._running[number] = self._by_site[lease.site] = replace(lease, until=math.inf)

    def settle(self, number: int) -> Lease | None:
        """A result has been taken: the lease is over. None if it was not running."""
        lease = self._end(number)
        if lease is not None:
            self._settled[number] = None
            if len(self._settled) > REMEMBERED:
                del self._settled[next(iter(self._settled))]
        return lease

    def revoke(self, site: str) -> Lease | None:
        """A site can do nothing any more: its lease is over, if it has one."""
        lease = self._by_site.get(site)
        return None if lease is None else self._end(lease.id)

    def expire(self, now: float) -> list[Lease]:
        """End all whose time is up, and return them, the first to end first."""
        ended: list[Lease] = []
        while self._ends and self._ends[0][0] <= now:
            number = heapq.heappop(self._ends)[1]
            lease = self._running.get(number)
            if lease is not None and lease.until <= now:
                self._end(number)
                ended.append(lease)
        return ended

    def _end(self, number: int) -> Lease | None:
        lease = self._running.pop(number, None)
        if lease is not None:
            del self._by_site[lease.site]
        return lease
