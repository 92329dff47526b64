"""The rows of `mailbox.py`, which measures in CPU seconds and can be run by itself."""

from __future__ import annotations

from pathlib import Path

from . import mailbox
from .results import Row

_LIMITS = {"tell": ">= 2 x", "ask, 1 in flight": ">= 1.3 x", "ask, 64 in flight": ">= 1.5 x"}


def run(folder: Path, quick: bool) -> list[Row]:
    """Messages per CPU second, as times the queue's."""
    del folder
    results = mailbox.run(rounds=3) if quick else mailbox.run()
    rows: list[Row] = []
    for result in results:
        operation, contender = result["operation"], result["contender"]
        own = contender != "queue"
        rows.append(
            Row(
                f"{operation}: {contender}",
                f"{result['times_queue']:.2f} x" if own else "1 x",
                f"{result['per_cpu_second']:,} per CPU second",
                _LIMITS.get(operation, "") if own else "",
                result["times_queue"],
            )
        )
    return rows
