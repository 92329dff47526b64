"""A run's failures for people: those that are alike told once, and counted.

Here: which failures are told at once, what is said of the others at the end of a round and of the
run. Not here: when they are alike (`covey.actors.observe.alike`), where lines go (`console.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from covey.actors.observe.alike import Sort, sort_of
from covey.actors.observe.events import RunEvent

from .folder import short

#: Sorts of failures that are told one by one: in one round, and at the end of the run.
_MOST_SORTS: Final = 3
#: Sorts that are counted; a script that makes up names must not fill the memory.
_MOST_COUNTED: Final = 100
_NAMED_SITES: Final = 3


class Failures:
    """The failures of one run, which is counted in a `unit`: "round" or "version"."""

    def __init__(self, unit: str = "round") -> None:
        self._unit = unit
        self._all = _Groups()
        self._round = _Groups()

    def begin_round(self) -> None:
        """What fails from here on is of another round."""
        self._round = _Groups()

    def add(self, event: RunEvent) -> bool:
        """Take a failure in; whether it is the first of its sort, and to be told at once."""
        self._all.add(event)
        first = self._round.add(event)
        return first and len(self._round.groups) <= _MOST_SORTS

    @property
    def sites(self) -> list[str]:
        """The sites that have failed in this round."""
        return list(dict.fromkeys(name for g in self._round.groups.values() for name in g.sites))

    def others(self, everyone: int) -> list[str]:
        """Of this round: who has failed as a site did that has been told.

        Where `everyone` did, so many sites, the run's error says so.
        """
        groups = list(self._round.groups.values())[:_MOST_SORTS]
        return [
            f"{_named(others)} failed{in_round(g.first, self._unit)} as {g.first.site} did"
            for g in groups
            if (others := list(g.sites)[1:]) and len(g.sites) != everyone
        ]

    def closing(self) -> list[str]:
        """At the end of the run: a line for each sort, and how many have none."""
        groups = list(self._all.groups.values())[:_MOST_SORTS]
        lines = [
            f"failed: {_who_and_where(g.first, self._unit)}{_how_often(g.sites)}" for g in groups
        ]
        more = self._all.total - sum(g.sites.total() for g in groups)
        return [*lines, f"and {more} more, see summary.json"] if more else lines


class _Group:
    """Failures that are alike: the first, and how often which site failed so."""

    __slots__ = ("first", "sites")

    def __init__(self, first: RunEvent) -> None:
        self.first = first
        self.sites: Counter[str] = Counter()


class _Groups:
    def __init__(self) -> None:
        self.groups: dict[Sort, _Group] = {}
        self.total = 0

    def add(self, event: RunEvent) -> bool:
        """Count a failure; whether it is the first of its sort."""
        self.total += 1
        sort = _sort(event)
        group = self.groups.get(sort)
        first = group is None and len(self.groups) < _MOST_COUNTED
        if first:
            group = self.groups[sort] = _Group(event)
        if group is not None:
            group.sites[str(event.site)] += 1
        return first


def _sort(event: RunEvent) -> Sort:
    data = event.data
    kind, text, file = (str(data.get(key) or "") for key in ("kind", "text", "file"))
    return sort_of(str(event.site), kind, text, file, int(data.get("line") or 0))


def in_round(event: RunEvent, unit: str) -> str:
    """Where in the run a failure was; nothing if it was in no round.

    A site is in a round with the others, and works on a version of the model.
    """
    where = "on" if unit == "version" else "in"
    return "" if event.round is None else f" {where} {unit} {event.round}"


def first_line(data: Mapping[str, Any]) -> str:
    """The first line of what a script raised."""
    text = ": ".join(str(data[key]) for key in ("kind", "text") if data.get(key))
    return text.partition("\n")[0]


def _who_and_where(failure: RunEvent, unit: str) -> str:
    text = f"{failure.site}{in_round(failure, unit)}: {first_line(failure.data)}"
    file = failure.data.get("file")
    return f"{text} ({short(Path(str(file)))}, line {failure.data.get('line')})" if file else text


def _how_often(sites: Counter[str]) -> str:
    """Who else failed so, and how often all of them did."""
    others = list(sites)[1:]
    told = f"; so did {_named(others)}" if others else ""
    times = f", {sites.total()} times" if sites.total() > len(sites) else ""
    return told + (f"{times} in all" if others and times else times)


def _named(sites: Sequence[str]) -> str:
    """The first names, and how many there are beside them."""
    more = len(sites) - _NAMED_SITES
    if more > 0:
        return f"{', '.join(sites[:_NAMED_SITES])} and {more} more"
    return _listed(sites)


def _listed(sites: Iterable[str]) -> str:
    *before, last = sites
    return f"{', '.join(before)} and {last}" if before else last
