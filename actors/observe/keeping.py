"""Which rows of `metrics.jsonl` a resumed run keeps: those of what is not done again.

Here: reading the rows that a run has left. Not here: writing them (`journal.py`), how far the run
had come (`covey.actors.jobs.checkpoint`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast


class Keep(Protocol):
    """Chooses rows."""

    def rows(self, path: Path) -> bytes:
        """The lines that are kept, as they are; raises `OSError`."""
        ...


@dataclass(frozen=True, slots=True)
class BeforeRound:
    """Rows of rounds before the one that is done again.

    Attributes:
        round: That round.
    """

    round: int

    def rows(self, path: Path) -> bytes:
        """See `Keep`."""
        return b"".join(line for line, row in _rows(path) if row["round"] < self.round)


@dataclass(frozen=True, slots=True)
class FirstRows:
    """In asynchronous training: rows of updates that are in the version that was committed.

    Those that came after them are trained again: they were in a version that is lost, or waited
    for one. Which round a row is of says nothing of that.

    Attributes:
        updates: Rows of sites that are kept, the first ones.
        versions: Rows of all sites together that are kept, the first ones.
    """

    updates: int
    versions: int

    def rows(self, path: Path) -> bytes:
        """See `Keep`."""
        left = {False: self.updates, True: self.versions}
        kept: list[bytes] = []
        for line, row in _rows(path):
            overall = row["site"] == "global"
            if row.get("task") == "train" and left[overall] > 0:
                left[overall] -= 1
                kept.append(line)
        return b"".join(kept)


def _rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The rows that are whole; the last may have been cut off."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(True):
        with suppress(ValueError):
            found: Any = json.loads(line)
            row = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
            if line.endswith(b"\n") and isinstance(row.get("round"), int) and "site" in row:
                yield line, row
