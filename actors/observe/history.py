"""The events of a run, all of them: the last few in memory, the rest in `logs/server.jsonl`.

A run of a night with a hundred sites makes more events than a process should
hold; whoever looks at old ones reads them back, a block at a time. One thread
appends and flushes, any may read.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Final, overload

from .appending import Appending
from .events import EventKind, RunEvent

#: Events that are read back together, and of which one place in the file is kept. Followers
#: that are less than a block behind read from memory.
BLOCK: Final = 32

_ENCODE: Final = json.JSONEncoder(separators=(",", ":"), default=str).encode


class History(Sequence[RunEvent]):
    """Every event recorded, by position.

    Args:
        path: The file that events are appended to, in a folder that exists; None keeps all in
            memory.

    Raises:
        OSError: If the file cannot be opened.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = Appending(path) if path is not None else None
        self._places = array("q")  # where each block begins
        # Events in memory, from number `_first` on, which begins a block.
        self._recent: list[RunEvent] = []
        self._first = 0
        self._encoded = 0
        self._closed = False
        self._block: tuple[int, list[RunEvent]] = (-1, [])
        # Held while events move from memory to the file, or the file is read or closed.
        self._lock = Lock()

    def __len__(self) -> int:
        return self._first + len(self._recent)

    @property
    def unwritten(self) -> int:
        """How many events `flush` would write."""
        return 0 if self._file is None or self._closed else len(self) - self._encoded

    def append(self, event: RunEvent) -> None:
        """Add an event, in memory for now."""
        self._recent.append(event)

    def flush(self) -> None:
        """Write the new events; let go of those that need not be in memory any more.

        Raises:
            OSError: The file refused. Events that are not written stay in memory.
        """
        with self._lock:
            if self._file is None or self._closed:
                return
            self._encode(self._file)
            self._file.flush()
            spare = (len(self._recent) - BLOCK) // BLOCK * BLOCK
            if spare > 0:
                del self._recent[:spare]
                self._first += spare

    def _encode(self, file: Appending) -> None:
        for event in self._recent[self._encoded - self._first :]:
            if not self._encoded % BLOCK:
                self._places.append(file.size)
            row = (event.kind.value, event.round, event.site, event.time, event.data)
            file.add(_ENCODE(row).encode() + b"\n")
            self._encoded += 1

    @overload
    def __getitem__(self, index: int) -> RunEvent: ...

    @overload
    def __getitem__(self, index: slice) -> list[RunEvent]: ...

    def __getitem__(self, index: int | slice) -> RunEvent | list[RunEvent]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        with self._lock:
            number = index + len(self) if index < 0 else index
            if not 0 <= number < len(self):
                raise IndexError(index)
            if number >= self._first:
                return self._recent[number - self._first]
            return self._read(number // BLOCK)[number % BLOCK]

    def _read(self, block: int) -> list[RunEvent]:
        if self._block[0] != block:
            assert self._file is not None  # without one, all are in memory
            rows = self._file.read(*self._places[block : block + 2]).splitlines()
            self._block = (block, [_event(json.loads(row)) for row in rows])
        return self._block[1]

    def close(self) -> None:
        """Write the new events and close the file; all are still there to be read. Idempotent.

        Raises:
            OSError: The file refused; it is closed all the same.
        """
        with self._lock:
            if self._file is not None and not self._closed:
                self._closed = True
                self._encode(self._file)
                self._file.close()


def _event(row: Any) -> RunEvent:
    kind, round, site, time, data = row
    return RunEvent(EventKind(kind), round, site, data, time)
