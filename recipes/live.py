"""What each site is doing now: the live view of a run, as rows of text.

Here: following events, choosing the sites that are shown, the sparkline. Not here: drawing
(`bars.py`), and the lines of a run, which stay when the view is gone (`console.py`).

Events come from the run's loop, rows are asked for by the thread that draws: a lock keeps them
apart. Both take a few milliseconds at most for 10,000 sites.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from enum import StrEnum
from threading import Lock
from typing import Any, Final, NamedTuple

from covey.actors.observe.events import EventKind, RunEvent

#: Values in the sparkline: what fits beside its name.
_MOST_VALUES: Final = 40
_MOST_METRICS: Final = 3
_BARS: Final = "▁▂▃▄▅▆▇█"


class Doing(StrEnum):
    """What a site is doing, the most interesting first."""

    AT_WORK = "at work"
    FAILED = "failed"
    OUT = "out"
    UNKNOWN = ""
    ANSWERED = "answered"


_ORDER: Final = {doing: place for place, doing in enumerate(Doing)}


class Row(NamedTuple):
    """One site, as text: its name, what it does, since which round, how long, and its metrics."""

    site: str
    doing: Doing
    round: str
    seconds: str
    metrics: str


class _Seat:
    __slots__ = ("doing", "metrics", "round", "seconds", "since")

    def __init__(self) -> None:
        self.doing = Doing.UNKNOWN
        self.round: int | None = None
        self.since = 0.0
        self.seconds: float | None = None
        self.metrics: Mapping[str, float] = {}


class Board:
    """Follows a run; give it each event.

    Args:
        sites: All sites, in the order in which they are shown.
        unit: What a row's round is: a "round", or a "version".

    Attributes:
        unit: As above.
    """

    def __init__(self, sites: Sequence[str], unit: str = "round") -> None:
        self.unit = unit
        self._seats = {site: _Seat() for site in sites}
        self._metric = ""
        self._values: deque[float] = deque(maxlen=_MOST_VALUES)
        self._lock = Lock()

    def __call__(self, event: RunEvent) -> None:
        """Take in one event."""
        with self._lock:
            match event.kind:
                case EventKind.ROUND_STARTED:
                    self._begin(event)
                case EventKind.SITE_FINISHED:
                    self._answer(event)
                case EventKind.SITE_FAILED:
                    self._fail(event)
                case EventKind.WAITING:
                    self._wait(event)
                case EventKind.ROUND_FINISHED:
                    self._settle(event)
                case _:
                    pass

    def rows(self, most: int, now: float) -> list[Row]:
        """At most so many sites: all in their order, or those that an eye would look for.

        These are the ones at work, the slowest first, then those that failed.

        Args:
            most: Number of rows.
            now: Unix time in seconds.
        """
        with self._lock:
            seats = list(self._seats.items())
            if len(seats) > most:
                seats = heapq.nsmallest(most, seats, key=_interest)
            return [_row(site, seat, now) for site, seat in seats]

    def counts(self) -> str:
        """How many sites do what, in one line."""
        with self._lock:
            counts = Counter(seat.doing for seat in self._seats.values())
        told = [f"{counts[doing]:,} {doing}" for doing in Doing if doing and counts[doing]]
        return ", ".join([f"{len(self._seats):,} sites", *told])

    def trend(self) -> str:
        """The first metric of all sites together, as a sparkline with its latest value."""
        with self._lock:
            values = list(self._values)
        return f"{self._metric} {sparkline(values)} {values[-1]:.4g}" if values else ""

    def _begin(self, event: RunEvent) -> None:
        """Of a round that not all sites are asked in, who is at work shows later."""
        seats = [seat for seat in self._seats.values() if seat.doing is not Doing.OUT]
        everyone = int(event.data.get("sites") or 0) >= len(seats)
        for seat in seats:
            seat.doing = Doing.AT_WORK if everyone else Doing.UNKNOWN
            seat.round, seat.since, seat.seconds = event.round, event.time, None

    def _answer(self, event: RunEvent) -> None:
        seat = self._seats.get(str(event.site))
        if seat is not None:
            seat.doing, seat.round = Doing.ANSWERED, event.round
            seat.seconds, seat.metrics = event.data.get("seconds"), event.data.get("metrics", {})

    def _fail(self, event: RunEvent) -> None:
        seat = self._seats.get(str(event.site))
        if seat is not None:
            seat.doing = Doing.OUT if event.data.get("fatal") else Doing.FAILED
            seat.round, seat.seconds = event.round, None

    def _wait(self, event: RunEvent) -> None:
        for site in event.data.get("sites", ()):
            seat = self._seats.get(str(site))
            if seat is not None and seat.doing is Doing.UNKNOWN:
                seat.doing = Doing.AT_WORK
                seat.since = event.time - float(event.data.get("seconds") or 0.0)

    def _settle(self, event: RunEvent) -> None:
        metrics: Mapping[str, float] = event.data.get("metrics", {})
        self._metric = self._metric or next(iter(metrics), "")
        if self._metric in metrics:
            self._values.append(metrics[self._metric])


def sparkline(values: Sequence[float]) -> str:
    """A letter for each value, from the lowest to the highest; a space for what is not finite."""
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    return "".join(_bar(value, low, high) for value in values)


def _bar(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return " "
    # Halves, since the difference of two values may be too large for a number.
    share = (value / 2 - low / 2) / (high / 2 - low / 2) if high / 2 > low / 2 else 0.5
    return _BARS[min(int(share * len(_BARS)), len(_BARS) - 1)]


def _interest(item: tuple[str, Any]) -> tuple[int, float]:
    seat: _Seat = item[1]
    return _ORDER[seat.doing], seat.since


def _row(site: str, seat: _Seat, now: float) -> Row:
    seconds = max(0.0, now - seat.since) if seat.doing is Doing.AT_WORK else seat.seconds
    metrics = [f"{name} {value:.4g}" for name, value in list(seat.metrics.items())[:_MOST_METRICS]]
    return Row(
        site,
        seat.doing,
        "" if seat.round is None else str(seat.round),
        "" if seconds is None else f"{seconds:.1f} s",
        "  ".join(metrics),
    )
