"""What all trackers share: which value belongs to which curve, at which step.

Here: the rules of curves, what a tracker is, what it is told of the run. Not here: how a package
keeps curves (`tensorboard.py`, `mlflow.py`, `wandb.py`), who asks for tracking (recipes).

Steps: a metric that a script streams has the script's own step, a metric of a round has the
round. Metrics of a site's answer and of a round keep their name; if the script streams a curve of
that name, a site's metric of rounds is `round/<name>`, so that two kinds of steps never share a
curve.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final, NamedTuple, Protocol, cast

from .errors import TrackingUnavailable
from .events import EventKind, RunEvent

#: Whose curves are those of the global model; no site may have this name.
GLOBAL: Final = "global"

#: What a script may stream beside numbers.
SCALAR: Final = "scalar"
PARAMETER: Final = "parameter"
TAG: Final = "tag"


@dataclass(frozen=True, slots=True)
class Experiment:
    """What a tracker is told of the run before its first event.

    Attributes:
        name: The user's name for the recipe.
        job: The job's id, the same when the run is resumed.
        seed: The run's seed.
        settings: The recipe's settings as plain data.
    """

    name: str
    job: str
    seed: int
    settings: Mapping[str, Any]


class Point(NamedTuple):
    """One value of a curve, or a text.

    Attributes:
        site: The site, or `GLOBAL`.
        name: The curve.
        step: The script's own step, or the round if `by_round`.
        value: A number if `kind` is `SCALAR`, else a text.
        time: Unix time in seconds.
        kind: `SCALAR`, or what else a script said it streams ("text", "parameter", "tag").
        by_round: Whether the step is a round.
    """

    site: str
    name: str
    step: int
    value: float | str
    time: float
    kind: str
    by_round: bool


class Tracker(Protocol):
    """Takes a run's events to where its curves are kept; subscribed to the run's journal."""

    def __call__(self, event: RunEvent) -> None:
        """Take in one event, without waiting; raise if this can no longer be done."""
        ...

    async def end(self) -> None:
        """Wait until everything is written; raise if something could not be.

        Cancelling gives up waiting, and nothing else.
        """
        ...

    def close(self) -> None:
        """Let go of everything, after `end` or without; idempotent."""
        ...


class Curves:
    """Sorts the events of one run into curves."""

    def __init__(self) -> None:
        self._streamed: dict[str, Counter[str]] = {}

    def points(self, event: RunEvent) -> Iterator[Point]:
        """The values that an event has, in order; none for most events."""
        match event.kind:
            case EventKind.METRIC:
                yield self._streamed_point(event)
            case EventKind.SITE_FINISHED:
                yield from self._round_points(event.site or GLOBAL, event)
            case EventKind.ROUND_FINISHED:
                yield from self._round_points(GLOBAL, event)
            case _:
                return

    def _streamed_point(self, event: RunEvent) -> Point:
        site, key, step = event.site or GLOBAL, str(event.data["key"]), event.data.get("step")
        counter = self._streamed.setdefault(site, Counter())
        if step is None:
            step = counter[key]  # without steps of its own a curve counts its values
        counter[key] += 1
        value, kind = event.data["value"], event.data.get("type", SCALAR)
        value = float(value) if kind == SCALAR else str(value)
        return Point(site, key, step, value, event.time, kind, by_round=False)

    def _round_points(self, site: str, event: RunEvent) -> Iterator[Point]:
        if event.round is None:
            return
        metrics: Mapping[str, float] = event.data.get("metrics", {})
        streamed = self._streamed.get(site, ())
        for name, value in metrics.items():
            curve = f"round/{name}" if name in streamed else name
            yield Point(site, curve, event.round, float(value), event.time, SCALAR, by_round=True)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings as a table of texts: `{"a": {"b": [1]}}` is `{"a.b": "[1]"}`."""
    table: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            table |= flat(cast("Mapping[str, Any]", value), f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            table[f"{prefix}{key}"] = text
    return table


def require_modules(tracker: str, extra: str, *modules: str) -> None:
    """Check that modules are installed, without importing them.

    Raises:
        TrackingUnavailable: If one is not; the message names the extra that brings it.
    """
    for module in modules:
        spec = find_spec(module)
        # Without an origin it is a folder of that name in the current one, not the package.
        if spec is None or spec.origin is None:
            why = f"there is no module {module!r}"
            raise TrackingUnavailable(tracker, f"covey[{extra}]", why)
