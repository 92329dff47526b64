"""The events of a run, all of them: the last few in memory, the rest in `logs/server.jsonl`.

A run of a night with a hundred sites makes more events than a process should
hold; whoever looks at old ones reads them back. One thread appends, any may read.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Final, overload

from .events import EventKind, RunEvent

#: Followers that keep up read from memory; a round of a few sites fits.
_RECENT: Final = 64

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
        self._path = path
        self._fd = -1
        self._places = array("q")  # where each event's line begins; 8 bytes an event
        self._end = 0
        self._recent: dict[int, RunEvent] = {}
        self._unwritten: set[int] = set()  # refused by a full disk, and kept in memory for it
        # Held while the file is read or closed: a closed descriptor's number may be another file.
        self._open = Lock()
        if path is not None:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            self._end = os.fstat(self._fd).st_size

    def __len__(self) -> int:
        return len(self._places)

    def append(self, event: RunEvent) -> None:
        """Add an event; it is kept in memory if the file refuses it.

        Raises:
            OSError: The file refused. The event is part of the history all the same.
        """
        number = len(self._places)
        self._recent[number] = event
        self._places.append(self._end)
        if self._fd < 0:
            return  # kept in memory: there is no file, or it is closed already
        row = (event.kind.value, event.round, event.site, event.time, event.data)
        line = _ENCODE(row).encode() + b"\n"
        try:
            written = os.write(self._fd, line)
        except OSError as error:
            error.filename = str(self._path)
            self._unwritten.add(number)
            raise
        self._end += written
        if written < len(line):
            self._unwritten.add(number)
        if number - _RECENT not in self._unwritten:
            self._recent.pop(number - _RECENT, None)

    @overload
    def __getitem__(self, index: int) -> RunEvent: ...

    @overload
    def __getitem__(self, index: slice) -> list[RunEvent]: ...

    def __getitem__(self, index: int | slice) -> RunEvent | list[RunEvent]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(index)
        event = self._recent.get(number)
        return event if event is not None else self._read(number)

    def _read(self, number: int) -> RunEvent:
        start, end = self._places[number], self._places[number + 1]
        with self._open:
            line = os.pread(self._fd, end - start, start) if self._fd >= 0 else b""
        if not line:
            assert self._path is not None
            with self._path.open("rb") as file:
                file.seek(start)
                line = file.read(end - start)
        row: Any = json.loads(line)
        kind, round, site, time, data = row
        return RunEvent(EventKind(kind), round, site, data, time)

    def close(self) -> None:
        """Close the file; events are still there to be read. Idempotent."""
        with self._open:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
