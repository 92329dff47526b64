"""The events of a run, in the order they happened.

One type for all of them, so that a consumer needs no import to skip the kinds
it does not know. `docs/stability.md` promises the kinds and their `data` keys.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class EventKind(StrEnum):
    """What happened; the comment lists the keys of `data`."""

    # name, rounds, unit ("round" | "version"), sites (count), job, seed, folder,
    # resumed_round | None, resumed_updates | None, tracking (list),
    # task ("train", or "evaluate" where nobody trains)
    RUN_STARTED = "run.started"
    ROUND_STARTED = "round.started"  # sites (count), task
    SITE_FINISHED = "site.finished"  # task, weight, seconds, bytes, metrics {name: float}
    SITE_FAILED = "site.failed"  # kind, text, file, line, source_line, traceback, fatal
    METRIC = "metric"  # key, value, step | None, type ("scalar" | "text" | ...)
    WAITING = "waiting"  # task, sites (names, at most 5), count, seconds
    ROUND_FINISHED = "round.finished"  # task, ok, failed, seconds, bytes, metrics, best (bool)
    # status, error, rounds, key_metric, best_round, best_value, stopped_by; where a script failed,
    # also kind, file, line, source_line, traceback
    RUN_FINISHED = "run.finished"
    NOTICE = "notice"  # text


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One event: its kind, the round and site it belongs to, its data, and Unix time in seconds."""

    kind: EventKind
    round: int | None = None
    site: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    time: float = field(default_factory=time.time)
