"""Pictures of numbers as inline SVG: lines with a band, and bars.

Here: turning points into marks, scales and what is read off them by pointing. Not here: which
numbers (`report.py`), thinning and scales (`curves.py`), colours and the page (`page.py`).

Nothing in a picture needs a script: what stands under the pointer is shown by the style sheet
alone, so that a page and a notebook may forbid scripts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from .curves import MOST_PLACES, Band, Bar, Point, thin, ticks
from .page import escape

WIDTH: Final = 440
HEIGHT: Final = 230
_LEFT: Final = 52
_RIGHT: Final = 12
_TOP: Final = 12
_BOTTOM: Final = 34

#: Up to here points are drawn as dots too.
_MOST_DOTS: Final = 15
#: Bars that are narrower have no gaps, which would flicker.
_NARROW: Final = 8
#: Differences below this share of the values are rounding, and any number below the second is 0.
_FLAT: Final = 1e-9
_NOTHING: Final = 1e-280

_ROW: Final = 16  # height of a line of text under the pointer
_GLYPH: Final = 6.4  # mean width of a letter of 12 units


class Curve(NamedTuple):
    """A line of a picture.

    Attributes:
        name: What it is called in the legend.
        style: Class that gives it its colour: "all" for all sites together, "c0" ... "c7".
        points: Its points from left to right; NaN is a gap.
    """

    name: str
    style: str
    points: Sequence[Point]


class Part(NamedTuple):
    """One part of stacked bars: its name and the class that gives it its colour."""

    name: str
    style: str


def number(value: float) -> str:
    """A number for people."""
    return "none" if math.isnan(value) else f"{value:.4g}"


def lines(title: str, curves: Sequence[Curve], spread: Sequence[Band], axis: str = "round") -> str:
    """A picture of curves over rounds or steps, with the spread of many sites behind them."""
    drawn = [Curve(c.name, c.style, thin(c.points)) for c in curves]
    scale = _Scale.of(
        [point for curve in drawn for point in curve.points],
        [(band.x, y) for band in spread for y in (band.low, band.high)],
    )
    if scale is None:
        return ""
    marks = [_area(scale, spread)] + [_line(scale, curve) for curve in drawn]
    readings = _readings_of_lines(drawn, spread, axis)
    body = scale.grid(axis) + "".join(marks) + _pointers(scale, readings)
    legend = [(c.name, c.style) for c in drawn]
    if spread:
        legend += [("middle of the sites", "middle"), ("8 of 10 sites", "band")]
    return _figure(title, body, _told(title, drawn, axis), legend)


def stacked(
    title: str, parts: Sequence[Part], rows: Sequence[Bar], unit: str, axis: str = "round"
) -> str:
    """A picture of bars, one for each round or group of rounds, with their parts on each other."""
    if not rows:
        return ""
    highest = max(sum(row.parts) for row in rows)
    last = rows[-1].last
    scale = _Scale(rows[0].first - 0.5, last + 0.5, 0.0, 1.05 * highest)
    wide = scale.x(rows[0].last + 0.5) - scale.x(rows[0].first - 0.5)
    gap = 2.0 if wide > _NARROW else 0.0
    marks: list[str] = []
    readings: list[_Reading] = []
    for row in rows:
        left, right = scale.x(row.first - 0.5) + gap / 2, scale.x(row.last + 0.5) - gap / 2
        marks.append(_bar(scale, parts, row, left, right - left))
        told = [
            (part.style, f"{part.name} {number(v)}")
            for part, v in zip(parts, row.parts, strict=True)
        ]
        readings.append(_Reading((row.first + row.last) / 2, f"{axis} {_span(row)}", told))
    body = scale.grid(axis) + "".join(marks) + _pointers(scale, readings)
    legend = [(part.name, part.style) for part in parts] if len(parts) > 1 else []
    spoken = f"{title}: {len(rows)} bars, the highest {number(highest)} {unit}".rstrip()
    return _figure(f"{title}, {unit}" if unit else title, body, spoken, legend)


class _Reading(NamedTuple):
    """What is read off at one place: a heading, and lines with the colour they belong to."""

    x: float
    heading: str
    lines: Sequence[tuple[str, str]]


class _Scale:
    """Where a number is in the picture."""

    def __init__(
        self, first: float, last: float, low: float, high: float, whole: bool = True
    ) -> None:
        self.first = first
        self.last = last if last > first else first + 1
        self.whole = whole
        largest = max(abs(low), abs(high))
        flat = high - low <= max(_FLAT * largest, _NOTHING)
        reach = (largest / 10 if largest > _NOTHING else 1.0) if flat else 0.0
        self.low = low - reach
        self.high = high + reach

    @classmethod
    def of(cls, *groups: Iterable[Point]) -> _Scale | None:
        """A scale that holds all points; None if there is nothing to show."""
        points = [point for group in groups for point in group]
        heights = [y for _, y in points if not math.isnan(y)]
        if not heights:
            return None
        places = [x for x, _ in points]
        low, high = min(heights), max(heights)
        margin = (high - low) / 30
        whole = all(place == round(place) for place, _ in points)
        return cls(min(places), max(places), low - margin, high + margin, whole)

    def x(self, value: float) -> float:
        share = (value - self.first) / (self.last - self.first)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    def at(self, x: float, y: float) -> str:
        return f"{self.x(x):.1f},{self.y(y):.1f}"

    def grid(self, axis: str) -> str:
        """Lines and numbers of both scales."""
        right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
        marks: list[str] = []
        for value in ticks(self.low, self.high):
            y = self.y(value)
            marks.append(
                f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>'
                f'<text class="y" x="{_LEFT - 6}" y="{y + 4:.1f}">{_label(value)}</text>'
            )
        for place in self._places():
            x = self.x(place)
            marks.append(f'<text class="x" x="{x:.1f}" y="{bottom + 16}">{_place(place)}</text>')
        name = f'<text class="axis" x="{right}" y="{HEIGHT - 3}">{escape(axis)}</text>'
        return "".join(marks) + name

    def _places(self) -> list[float]:
        """Places that are numbered: whole ones where places are rounds, versions or steps."""
        places = ticks(self.first, self.last, 6)
        return [place for place in places if place == round(place)] if self.whole else places


def _place(value: float) -> str:
    """A round, a step or a time for people."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.4g}"


def _label(value: float) -> str:
    """A number on a scale; so close to zero that it is one, it is written as one."""
    return "0" if abs(value) < 1e-12 else f"{value:.4g}"


def _line(scale: _Scale, curve: Curve) -> str:
    path: list[str] = []
    pen = "M"
    for x, y in curve.points:
        if math.isnan(y):
            pen = "M"
        else:
            path.append(f"{pen}{scale.at(x, y)}")
            pen = "L"
    marks = f'<path class="line {curve.style}" d="{"".join(path)}"/>' if path else ""
    return marks + "".join(_dots(scale, curve))


def _dots(scale: _Scale, curve: Curve) -> Iterable[str]:
    """Dots where points are few, and where a point has a gap at both sides and makes no line."""
    few = len(curve.points) <= _MOST_DOTS
    heights = [math.nan, *(y for _, y in curve.points), math.nan]
    for index, (x, y) in enumerate(curve.points):
        alone = math.isnan(heights[index]) and math.isnan(heights[index + 2])
        if (few or alone) and not math.isnan(y):
            at = f'cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}"'
            yield f'<circle class="dot {curve.style}" {at} r="2.5"/>'


def _area(scale: _Scale, spread: Sequence[Band]) -> str:
    if not spread:
        return ""
    there = "L".join(scale.at(band.x, band.high) for band in spread)
    back = "L".join(scale.at(band.x, band.low) for band in reversed(spread))
    middle = "L".join(scale.at(band.x, band.middle) for band in spread)
    return f'<path class="band" d="M{there}L{back}Z"/><path class="line middle" d="M{middle}"/>'


def _bar(scale: _Scale, parts: Sequence[Part], row: Bar, left: float, width: float) -> str:
    marks: list[str] = []
    below = 0.0
    for part, value in zip(parts, row.parts, strict=True):
        if value > 0:
            top, foot = scale.y(below + value), scale.y(below)
            place = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{foot - top:.1f}"'
            marks.append(f'<rect class="bar {part.style}" {place}/>')
            below += value
    return "".join(marks)


def _span(row: Bar) -> str:
    return str(row.first) if row.first == row.last else f"{row.first} to {row.last}, mean"


def _readings_of_lines(
    curves: Sequence[Curve], spread: Sequence[Band], axis: str
) -> list[_Reading]:
    """What each place of the picture says; of many places, some."""
    places = sorted({x for curve in curves for x, _ in curve.points} | {b.x for b in spread})
    every = math.ceil(len(places) / MOST_PLACES) or 1
    values = [dict(curve.points) for curve in curves]
    bands = {band.x: band for band in spread}
    readings: list[_Reading] = []
    for place in places[::every]:
        told = [
            (curve.style, f"{_short(curve.name)} {number(known[place])}")
            for curve, known in zip(curves, values, strict=True)
            if place in known
        ]
        if band := bands.get(place):
            between = f"{number(band.low)} to {number(band.high)}"
            told += [("middle", f"middle {number(band.middle)}"), ("band", between)]
        readings.append(_Reading(place, f"{axis} {_place(place)}", told))
    return readings


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:19]}…"


def _pointers(scale: _Scale, readings: Sequence[_Reading]) -> str:
    """For each place a strip that, pointed at, shows what is read off there."""
    middles = [scale.x(reading.x) for reading in readings]
    left, right = float(_LEFT), float(WIDTH - _RIGHT)
    inner = [(a + b) / 2 for a, b in pairwise(middles)]
    edges = [left, *inner, right]
    strips = zip(readings, middles, pairwise(edges), strict=True)
    return "".join(_pointer(reading, x, *edge) for reading, x, edge in strips)


def _pointer(reading: _Reading, x: float, left: float, right: float) -> str:
    texts = [reading.heading, *(text for _, text in reading.lines)]
    width = 24 + _GLYPH * max(len(text) for text in texts)
    height = _ROW * len(texts) + 8
    corner = x + 8 if x + 8 + width < WIDTH else max(0.0, x - 8 - width)
    rows = [f'<text class="head" x="{corner + 8:.1f}" y="{_TOP + 16}">{escape(texts[0])}</text>']
    for line, (style, text) in enumerate(reading.lines, 1):
        y = _TOP + 16 + line * _ROW
        rows.append(
            f'<circle class="dot {style}" cx="{corner + 11:.1f}" cy="{y - 4}" r="3.5"/>'
            f'<text x="{corner + 19:.1f}" y="{y}">{escape(text)}</text>'
        )
    strip = f'x="{left:.1f}" width="{right - left:.1f}" y="{_TOP}" height="{HEIGHT - _TOP}"'
    box = f'x="{corner:.1f}" y="{_TOP}" width="{width:.1f}" height="{height}" rx="4"'
    return (
        f'<g class="at"><rect class="strip" {strip}/><g class="read">'
        f'<path class="hair" d="M{x:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>'
        f'<rect class="box" {box}/>{"".join(rows)}</g></g>'
    )


def _told(title: str, curves: Sequence[Curve], axis: str) -> str:
    """The picture in words, for who cannot see it."""
    told: list[str] = []
    for curve in curves:
        known = [y for _, y in curve.points if not math.isnan(y)]
        if known:
            told.append(
                f"{curve.name} from {number(known[0])} to {number(known[-1])}, "
                f"lowest {number(min(known))}, highest {number(max(known))}"
            )
    return f"{title} by {axis}: {'; '.join(told)}"


def _figure(title: str, body: str, told: str, legend: Sequence[tuple[str, str]]) -> str:
    keys = "".join(f'<li><i class="key {style}"></i>{escape(name)}</li>' for name, style in legend)
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(told)}">{body}</svg>'
        + (f'<ul class="legend">{keys}</ul>' if keys else "")
        + "</figure>\n"
    )
