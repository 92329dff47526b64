"""Which pictures are made of a run, and of which of its numbers.

Here: a run's metrics, times, bytes, answers and ages as pictures. Not here: the page they stand on
(`report.py`), reading a run (`chronicle.py`), drawing (`charts.py`).

Up to eight sites have curves of their own. Of more, the spread is shown, and the two sites whose
means are the lowest and the highest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

from .charts import Curve, Part, lines, number, stacked
from .chronicle import GLOBAL, Chronicle, Column
from .curves import Bar, Point, Thinned, bands, bars, histogram, outermost, shares_by_speed
from .page import HUES, remark

#: More pictures of a kind would make a page that nobody looks through.
_MOST_PICTURES: Final = 40

_TIMES: Final = ((1.0, "ms", 1e-3), (120.0, "s", 1.0), (7200.0, "min", 60.0))
_LONGEST: Final = ("h", 3600.0)
_SIZES: Final = ((1e3, "B", 1.0), (1e6, "KB", 1e3), (1e9, "MB", 1e6), (1e12, "GB", 1e9))
_LARGEST: Final = ("TB", 1e12)

_PHASES: Final = (
    Part("until the first answer", "c0"),
    Part("until the last answer", "c5"),
    Part("aggregation and commit", "c4"),
)


def of_metrics(run: Chronicle, only: str | None = None) -> str:
    """All metrics, the one that picks the best model first; or one of them."""
    names = [name for name in metric_names(run) if only in (None, name)]
    shown = names[:_MOST_PICTURES]
    more = len(names) - len(shown)
    pictures = _together(_metric(run, name, run.metrics[name]) for name in shown)
    return pictures + (remark(f"{more} more metrics are in metrics.jsonl.") if more else "")


def metric_names(run: Chronicle) -> list[str]:
    """Names of metrics, the one that picks the best model first."""
    key = run.summary.get("key_metric") or run.settings.get("key_metric")
    return sorted(run.metrics, key=lambda name: name != key)


def of_rounds(run: Chronicle) -> str:
    """Where the time of each round went, and what was sent and received in it.

    Without rounds, versions overlap, and none has a time of its own.
    """
    times = {} if run.staleness else run.times_of_training()
    return _together([_phases(times), _traffic(run)])


def of_sites(run: Chronicle) -> str:
    """How many sites answered how often, unless all did alike."""
    counts = histogram(Counter(site.answers for site in run.sites))
    if len(counts) == 1:
        return ""
    rows = [Bar(first, last, [count]) for first, last, count in counts]
    title = "Sites by number of answers"
    return _together([stacked(title, [Part("sites", "c0")], rows, "", "answers")])


def of_asynchrony(run: Chronicle) -> str:
    """How old answers were, and how much fast and slow sites had to say; nothing in rounds."""
    if not run.staleness:
        return ""
    ages = [Bar(first, last, [count]) for first, last, count in histogram(run.staleness)]
    mean = sum(age * count for age, count in run.staleness.items()) / run.staleness.total()
    told = f"Mean staleness {number(mean)}, the highest {max(run.staleness)} versions."
    answers = stacked("Staleness of answers", [Part("answers", "c0")], ages, "", "versions")
    return remark(told) + _together([answers, _participation(run), _over_time(run)])


def of_streams(run: Chronicle) -> str:
    """The curves that scripts stream, at their own steps."""
    shown = list(run.streamed.items())[:_MOST_PICTURES]
    return _together(lines(key, _streams(curves), [], "step") for key, curves in shown)


def _streams(curves: Mapping[str, Thinned]) -> list[Curve]:
    return [Curve(site, f"c{hue}", curves[site].points) for hue, site in enumerate(curves)]


def _metric(run: Chronicle, name: str, column: Column) -> str:
    many = len(set(column.sites)) > HUES
    spread = bands(zip(column.rounds, column.values, strict=True)) if many else []
    named = _outermost(run, column) if many else _every(run, column)
    points = _by_site(column, named)
    curves = [
        Curve(title, f"c{hue}", points[site]) for hue, (site, title) in enumerate(named.items())
    ]
    if column.overall:  # last, so that it lies on top
        curves.append(Curve(GLOBAL, "all", sorted(column.overall.items())))
    return lines(name, curves, spread, run.counted)


def _every(run: Chronicle, column: Column) -> dict[int, str]:
    """All sites of a metric, with what to call them."""
    return {site: run.sites[site].name for site in sorted(set(column.sites))}


def _outermost(run: Chronicle, column: Column) -> dict[int, str]:
    """The two sites that an eye would look for."""
    ends = outermost(column.sites, column.values)
    if ends is None:
        return {}
    lowest, highest = (run.sites[site].name for site in ends)
    return {ends[0]: f"{lowest} (lowest)", ends[1]: f"{highest} (highest)"}


def _by_site(column: Column, sites: Iterable[int]) -> dict[int, list[Point]]:
    """The points of some sites, by round."""
    points: dict[int, list[Point]] = {site: [] for site in sites}
    for site, round_, value in zip(column.sites, column.rounds, column.values, strict=True):
        if site in points:
            points[site].append((round_, value))
    for of_site in points.values():
        of_site.sort(key=_place)
    return points


def _place(point: Point) -> float:
    return point[0]


def _phases(times: Mapping[int, Sequence[float]]) -> str:
    rows = bars({round_: [b - a for a, b in pairwise(marks)] for round_, marks in times.items()})
    unit, size = _unit(rows, _TIMES, _LONGEST)
    return stacked("Time of a round", _PHASES, _scaled(rows, size), unit)


def _traffic(run: Chronicle) -> str:
    rows = bars({round_: [size] for round_, size in run.bytes.items()})
    unit, size = _unit(rows, _SIZES, _LARGEST)
    parts = [Part("bytes", "c2")]
    return stacked("Sent and received", parts, _scaled(rows, size), unit, run.counted)


def _over_time(run: Chronicle) -> str:
    """The first metric by virtual time, which is what asynchronous training is to save."""
    name = next((name for name in metric_names(run) if run.metrics[name].overall), None)
    if name is None or not run.virtual:
        return ""
    known = sorted(run.metrics[name].overall.items())
    points = [(run.virtual[version], y) for version, y in known if version in run.virtual]
    return lines(f"{name} by virtual time", [Curve(GLOBAL, "all", points)], [], "virtual s")


def _participation(run: Chronicle) -> str:
    """Who is fast is told by the time that counts; nothing if that is not known."""
    answered = [site for site in run.sites if site.answers]
    if run.virtual:
        answered = [site for site in answered if site.virtual_s]
        speeds = [(site.virtual_s / site.answers, site.answers) for site in answered]
    else:
        speeds = [(site.seconds / site.answers, site.answers) for site in answered]
    shares = shares_by_speed(speeds)
    rows = [Bar(part, part, [100 * share]) for part, share in enumerate(shares, 1)]
    part = "tenth" if len(shares) == 10 else "part"
    title = f"Answers by each {part} of the sites"
    return stacked(title, [Part("share", "c1")], rows, "%", f"{part}, from fast to slow")


def _unit(
    rows: Sequence[Bar], units: Sequence[tuple[float, str, float]], largest: tuple[str, float]
) -> tuple[str, float]:
    """The unit in which the highest bar is easy to read, and its size."""
    highest = max((sum(row.parts) for row in rows), default=0.0)
    return next(((name, size) for limit, name, size in units if highest < limit), largest)


def _scaled(rows: Sequence[Bar], size: float) -> list[Bar]:
    return [Bar(row.first, row.last, [part / size for part in row.parts]) for row in rows]


def _together(pictures: Iterable[str]) -> str:
    drawn = "".join(pictures)
    return f'<div class="charts">\n{drawn}</div>\n' if drawn else ""
