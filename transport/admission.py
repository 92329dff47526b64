"""Admission: how many connections may stand at a listener without having said who they are.

Sans-IO: counts and verdicts. Not here: deadlines, and who is who (`listener.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caps:
    """Bounds on peers that are not known yet.

    Attributes:
        strangers: Connections in all without a proven name. Each costs memory, not more.
        strangers_per_address: Those from one network address. Sites behind one address that come
            back together need as many.
    """

    strangers: int = 256
    strangers_per_address: int = 16


class Admission:
    """Who is at the door."""

    def __init__(self, caps: Caps) -> None:
        """Nobody, at first."""
        self._caps = caps
        self._by_address: Counter[str] = Counter()
        self._count = 0

    def __len__(self) -> int:
        """Connections whose peer is not known yet."""
        return self._count

    def enter(self, address: str) -> str | None:
        """Let a connection stand at the door; why not, if it may not."""
        if self._count >= self._caps.strangers:
            return "strangers"
        if self._by_address[address] >= self._caps.strangers_per_address:
            return "strangers-per-address"
        self._count += 1
        self._by_address[address] += 1
        return None

    def leave(self, address: str) -> None:
        """A connection that stood at the door is known now, or gone."""
        self._count -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]


class Refusals:
    """Counts of what was refused, by reason; one log line for each power of two.

    A flood of refusals must not become a flood of lines.

    Args:
        log: Takes a reason, its count, and what is known of the peer.
    """

    def __init__(self, log: Callable[[str, int, str], object]) -> None:
        self.counts: Counter[str] = Counter()
        self._log = log

    def add(self, reason: str, detail: str) -> None:
        """Something was refused; `detail` says whom, and why exactly."""
        self.counts[reason] += 1
        count = self.counts[reason]
        if count & (count - 1) == 0:
            self._log(reason, count, detail)
