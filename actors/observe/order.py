"""Steps that only grow: values of asynchronous training in the order of their versions.

A version is judged when the last of its sites has answered, so a later one may be judged before it;
and a site may be given one version twice. TensorBoard takes a step that does not grow for a run
that was begun again there, and forgets what came after that step.

Here: which points are drawn, and when. Not here: what a point is (`tracking.py`), writing it
(`tensorboard.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .events import EventKind, RunEvent
from .tracking import Point

#: Versions that wait for an earlier one; then it is given up, and no longer drawn.
MOST_HELD: Final = 64


class Order:
    """Puts the points of one run in order; those of training in rounds are so by themselves."""

    def __init__(self) -> None:
        self._next = 0
        self._held: dict[int, list[Point]] = {}
        self._latest: dict[str | None, int] = {}

    def points(self, event: RunEvent, points: Iterable[Point]) -> Iterable[Point]:
        """The points to draw now that an event with these points has come."""
        match event.kind:
            case EventKind.RUN_STARTED:
                self._next = int(event.data.get("resumed_round") or 0)
            case EventKind.SITE_FINISHED if "staleness" in event.data:
                return points if self._grows(event) else ()
            case EventKind.ROUND_FINISHED if "staleness" in event.data:
                return self._in_order(event.round or 0, list(points))
            case EventKind.ROUND_FINISHED | EventKind.RUN_FINISHED:
                return [*self._rest(), *points]
            case _:
                pass
        return points

    def _grows(self, event: RunEvent) -> bool:
        """Whether a site answers for a version for the first time."""
        version = event.round or 0
        if version <= self._latest.get(event.site, -1):
            return False
        self._latest[event.site] = version
        return True

    def _in_order(self, version: int, points: list[Point]) -> list[Point]:
        """Those of all versions that wait for no other one any more."""
        if version < self._next:
            return []
        self._held[version] = points
        ready: list[Point] = []
        while self._held and (self._next in self._held or len(self._held) > MOST_HELD):
            first = min(self._held)
            ready += self._held.pop(first)
            self._next = first + 1
        return ready

    def _rest(self) -> list[Point]:
        """All that is held, at the end of training."""
        held, self._held = self._held, {}
        return [point for version in sorted(held) for point in held[version]]
