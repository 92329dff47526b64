"""The arithmetic of pictures: thinning curves, bands of many sites, scales, shares.

Here: numbers in, numbers out. Not here: where they come from (`chronicle.py`) and how they are
drawn (`charts.py`).

A picture has a few hundred points, however long the run was: what is thinned here keeps the
extremes that an eye would look for.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

Point: TypeAlias = tuple[float, float]

#: Points of one curve: as many as a picture of 440 units can show apart.
MOST_POINTS: Final = 200
#: A band or a row of bars has at most this many places: narrower ones cannot be pointed at.
MOST_PLACES: Final = 60
#: Beyond this, differences and sums of two values may overflow.
_LARGEST: Final = 1e300

_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)


class Band(NamedTuple):
    """What many sites measured at one place: 10 of 100 lie below `low`, 10 above `high`."""

    x: float
    low: float
    middle: float
    high: float


class Bar(NamedTuple):
    """The rounds from `first` to `last` together: their mean parts."""

    first: int
    last: int
    parts: Sequence[float]


class Thinned:
    """A curve that comes point by point, of which every 2nd, 4th, 8th ... is kept."""

    __slots__ = ("_count", "_stride", "points")

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._count = 0
        self._stride = 1

    def add(self, x: float, y: float) -> None:
        """Take the next point."""
        if not self._count % self._stride:
            self.points.append((x, y))
            if len(self.points) >= 2 * MOST_POINTS:
                del self.points[1::2]
                self._stride *= 2
        self._count += 1

    @property
    def count(self) -> int:
        """Points that have come."""
        return self._count


def bounded(value: float) -> float:
    """A finite value that can be scaled without overflow; NaN stays NaN."""
    return value if math.isnan(value) else max(-_LARGEST, min(_LARGEST, value))


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most about `most` of the points: the lowest and the highest of each stretch, in order.

    The last point stays, and a stretch of NaN alone stays a gap.
    """
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / (most // 2))
    thinned: list[Point] = []
    for start in range(0, len(points), size):
        thinned += _extremes(points[start : start + size])
    if thinned[-1] != points[-1]:
        thinned.append(points[-1])
    return thinned


def _extremes(points: Sequence[Point]) -> list[Point]:
    known = [(y, i) for i, (_, y) in enumerate(points) if not math.isnan(y)]
    if not known:
        return [points[0]]
    return [points[i] for i in sorted({min(known)[1], max(known)[1]})]


def bands(values: Iterable[tuple[int, float]], most: int = MOST_PLACES) -> list[Band]:
    """The spread of values by round, rounds taken together where there are more than `most`."""
    groups: defaultdict[int, list[float]] = defaultdict(list)
    for round_, value in values:
        if value == value:  # not NaN, millions of times
            groups[round_].append(value)
    found: list[Band] = []
    for rounds in grouped(sorted(groups), most):
        together = sorted(value for round_ in rounds for value in groups[round_])
        low, middle, high = (quantile(together, q) for q in (0.1, 0.5, 0.9))
        found.append(Band((rounds[0] + rounds[-1]) / 2, low, middle, high))
    return found


def bars(parts: Mapping[int, Sequence[float]], most: int = MOST_PLACES) -> list[Bar]:
    """The parts of each round, the mean of rounds taken together where there are too many."""
    return [
        Bar(rounds[0], rounds[-1], _means([parts[round_] for round_ in rounds]))
        for rounds in grouped(sorted(parts), most)
    ]


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def grouped(rounds: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    """Neighbours together, so that there are at most `most` groups of one size."""
    size = max(1, math.ceil(len(rounds) / most))
    for start in range(0, len(rounds), size):
        yield rounds[start : start + size]


def quantile(ascending: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies, between the two nearest of them."""
    place = share * (len(ascending) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ascending) - 1)
    part = place - below
    return ascending[below] * (1 - part) + ascending[above] * part


def outermost(sites: Iterable[int], values: Iterable[float]) -> tuple[int, int] | None:
    """The sites with the lowest and the highest mean, of those with at least half of the answers.

    Returns None where fewer than two sites have one. NaN counts for nothing.
    """
    sums: defaultdict[int, float] = defaultdict(float)
    counts: Counter[int] = Counter()
    for site, value in zip(sites, values, strict=True):
        if value == value:  # not NaN, millions of times
            sums[site] += value
            counts[site] += 1
    enough = max(counts.values(), default=0) / 2
    means = {site: sums[site] / count for site, count in counts.items() if count >= enough}
    if len(means) < 2:
        return None
    return min(means, key=means.__getitem__), max(means, key=means.__getitem__)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values between two different ones, ascending."""
    step = _step((high - low) / about)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _step(rough: float) -> float:
    """The smallest round step that is not below a rough one."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in _STEPS if step * power >= rough * (1 - 1e-9))


def shares_by_speed(sites: Iterable[tuple[float, int]], tenths: int = 10) -> list[float]:
    """Which share of all answers each tenth of the sites gave, the fastest tenth first.

    Args:
        sites: Seconds per answer and number of answers of each site.
        tenths: Number of parts; fewer where there are fewer sites.
    """
    by_speed = sorted(sites)
    answers = sum(count for _, count in by_speed)
    parts = min(tenths, len(by_speed))
    if not answers:
        return []
    edges = [round(part * len(by_speed) / parts) for part in range(parts + 1)]
    return [
        sum(count for _, count in by_speed[start:end]) / answers for start, end in pairwise(edges)
    ]


def histogram(counts: Mapping[int, int], most: int = MOST_PLACES) -> list[tuple[int, int, int]]:
    """How often each whole number came, as (first, last, how often), neighbours taken together.

    Numbers between the lowest and the highest that never came are there too, with 0.
    """
    if not counts:
        return []
    first, last = min(counts), max(counts)
    size = max(1, math.ceil((last - first + 1) / most))
    found = [0] * ((last - first) // size + 1)
    for number, count in counts.items():
        found[(number - first) // size] += count
    starts = range(first, last + 1, size)
    return [(start, start + size - 1, count) for start, count in zip(starts, found, strict=True)]
