"""The journal of a run: every event in order, and `metrics.jsonl` as they come.

Here: keeping events, writing the rows of `metrics.jsonl`, handing events on to subscribers and
followers. Not here: making events (the job actor), other files made from them (`tensorboard.py`),
how they look on a terminal (`covey.recipes.console`).

`record` belongs to the loop that runs the job. `follow` may be used from any loop in any thread:
a notebook follows a run whose loop is in another thread.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from .appending import Appending
from .events import EventKind, RunEvent
from .history import History
from .keeping import Keep

#: Events and rows are written at once when they come slowly, so that `tail -f` shows them, and
#: together when thousands of sites answer within one such time.
_FLUSH_EVERY_S: Final = 0.2
#: What may be held back in memory meanwhile.
_MOST_UNWRITTEN: Final = 1024
#: Events that are in the files when `record` returns, with all before them.
_MILESTONES: Final = frozenset({EventKind.ROUND_FINISHED, EventKind.RUN_FINISHED})

_METRICS_FILE: Final = "metrics.jsonl"


class Journal:
    """Everything that happened in a run, from its first event.

    Args:
        folder: The run's folder, which exists; None keeps no file.
        keep: Which rows of `metrics.jsonl` are kept; None starts it anew. A row that was cut off
            by a kill is dropped.

    Raises:
        OSError: If `metrics.jsonl` or `logs/server.jsonl` cannot be read or written.
    """

    def __init__(self, folder: Path | None, *, keep: Keep | None = None) -> None:
        self.events = History(_log_of(folder))
        self._subscribers: list[Callable[[RunEvent], object]] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._closed = False
        self._flushed_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._rows = _Rows(folder / _METRICS_FILE, keep) if folder is not None else None

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Journal {state}, {len(self.events)} events, {len(self._subscribers)} subscribers>"

    def record(self, event: RunEvent) -> None:
        """Take in one event: tell subscribers, wake followers, write it and its row.

        A subscriber that raises is dropped, and a notice says so: neither a terminal nor a
        tracker may end a run.

        Raises:
            OSError: If a file cannot be written, for this event or for one that was held back.
                The event has been kept and handed on.
        """
        self.events.append(event)
        self._tell(event)
        if self._waiters:
            self._wake()
        if self._rows is not None:
            self._rows.add(event)
            self._write(event)

    def _write(self, event: RunEvent) -> None:
        """Flush if it is time, else see to it that somebody will."""
        slow = event.time - self._flushed_at >= _FLUSH_EVERY_S
        if slow or event.kind in _MILESTONES or self.events.unwritten >= _MOST_UNWRITTEN:
            self._flushed_at = event.time
            self.flush()
        elif self._timer is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                self.flush()
            else:
                self._timer = loop.call_later(_FLUSH_EVERY_S, self._flush_later)

    def _flush_later(self) -> None:
        self._timer = None
        with suppress(OSError):  # the next event that is recorded meets it again
            self.flush()

    def flush(self) -> None:
        """Write what is held back.

        Raises:
            OSError: If a file cannot be written.
        """
        try:
            self.events.flush()
        finally:
            if self._rows is not None:
                self._rows.flush()

    def subscribe(self, callback: Callable[[RunEvent], object]) -> None:
        """Call back with each event recorded from now on, before `record` returns."""
        self._subscribers.append(callback)

    async def follow(self) -> AsyncIterator[RunEvent]:
        """Every event from the first, in order; ends after RUN_FINISHED or when closed.

        Any number of followers, each at its own pace; one that stops early costs nothing.
        """
        position = 0
        while True:
            while position < len(self.events):
                event = self.events[position]
                position += 1
                yield event
                if event.kind is EventKind.RUN_FINISHED:
                    return
            if self._closed:
                return
            await self._wait_for_more(position)

    def close(self) -> None:
        """Write what is held back and end all followers; idempotent.

        Raises:
            OSError: If the last rows cannot be written. The file is closed all the same.
        """
        self._closed = True
        self._wake()
        if self._timer is not None:
            self._timer.cancel()
        try:
            if self._rows is not None:
                self._rows.close()
        finally:
            self.events.close()

    def _tell(self, event: RunEvent) -> None:
        failures: list[str] = []
        for callback in tuple(self._subscribers):
            try:
                callback(event)
            except Exception as error:
                self._subscribers.remove(callback)
                name = getattr(callback, "__name__", type(callback).__name__)
                failures.append(f"{name} stopped: {_why(error)}")
        for text in failures:  # only now, so that every subscriber sees events in one order
            self.record(RunEvent(EventKind.NOTICE, data={"text": text}))

    async def _wait_for_more(self, position: int) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        # Looked at again after the waiter is in place: another thread may have recorded since.
        if len(self.events) == position and not self._closed:
            await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            _wake_one(waiter)


def _log_of(folder: Path | None) -> Path | None:
    """Where a run's events are kept: the log of its server."""
    if folder is None:
        return None
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    return logs / "server.jsonl"


class _Rows:
    """`metrics.jsonl`: a row for every event that has one."""

    def __init__(self, path: Path, keep: Keep | None) -> None:
        kept = b"" if keep is None else keep.rows(path)
        replacement = path.with_name(path.name + ".new")
        replacement.write_bytes(kept)
        replacement.replace(path)
        self._file = Appending(path)
        self._unwritten: list[RunEvent] = []

    def add(self, event: RunEvent) -> None:
        if event.kind in _ROW_OF:
            self._unwritten.append(event)

    def flush(self) -> None:
        self._encode()
        self._file.flush()

    def close(self) -> None:
        self._encode()
        self._file.close()

    def _encode(self) -> None:
        for event in self._unwritten:
            self._file.add(_ENCODE(_ROW_OF[event.kind](event)).encode() + b"\n")
        self._unwritten.clear()


def _site_row(event: RunEvent) -> dict[str, Any]:
    data = event.data
    return {
        "round": event.round,
        "site": event.site,
        "task": data.get("task", "train"),
        "metrics": _finite(data.get("metrics", {})),
        "weight": _rounded(data.get("weight"), None),
        "seconds": _rounded(data.get("seconds")),
        **_virtual(data),
    }


def _global_row(event: RunEvent) -> dict[str, Any]:
    data = event.data
    return {
        "round": event.round,
        "site": "global",
        "task": data.get("task", "train"),
        "metrics": _finite(data.get("metrics", {})),
        "seconds": _rounded(data.get("seconds")),
        **_virtual(data),
        "best": bool(data.get("best", False)),
    }


def _virtual(data: Mapping[str, Any]) -> Mapping[str, float | None]:
    """Seconds in virtual time, where a run has one."""
    return {"virtual_seconds": _rounded(data["virtual_s"])} if "virtual_s" in data else _NOTHING


_NOTHING: Final[Mapping[str, float | None]] = {}

_ROW_OF: Final = {EventKind.SITE_FINISHED: _site_row, EventKind.ROUND_FINISHED: _global_row}

#: NaN is no JSON, and most readers refuse a file that has it: such metrics are null.
_ENCODE: Final = json.JSONEncoder(allow_nan=False, separators=(", ", ": ")).encode


def _finite(metrics: Mapping[str, float]) -> Mapping[str, float | None]:
    for value in metrics.values():
        if not math.isfinite(value):
            return {name: v if math.isfinite(v) else None for name, v in metrics.items()}
    return dict(metrics)


def _rounded(value: float | None, digits: int | None = 6) -> float | None:
    """Seconds to microseconds: more digits say nothing. None for what is no number."""
    if value is None or not math.isfinite(value):
        return None
    return value if digits is None else round(value, digits)


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _wake_one(waiter: asyncio.Future[None]) -> None:
    loop = waiter.get_loop()
    try:
        here = asyncio.get_running_loop() is loop
    except RuntimeError:
        here = False
    if here:
        _set(waiter)
    else:
        with suppress(RuntimeError):  # that loop has ended, and its follower with it
            loop.call_soon_threadsafe(_set, waiter)


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
