"""What can be seen of a running system: frozen snapshots, cheap to take."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .message import type_name

# Enough to see what went wrong last without holding on to old messages.
DEAD_LETTERS_KEPT = 256


@dataclass(frozen=True, slots=True)
class ActorStatistics:
    """One actor: mailbox depth, waiting senders, deepest mailbox met, messages handled.

    `current` is the message whose handler is suspended now, and for how long.
    """

    address: str
    kind: str
    queued: int
    waiting: int
    peak: int
    handled: int
    restarts: int
    failures: int
    tasks: int
    current: str | None
    current_age_s: float


@dataclass(frozen=True, slots=True)
class LinkState:
    """One link of a system: the peer's node, envelopes sent and received since it was made.

    A link that is lost is shown, without counts, until its lease is over.
    """

    peer: str
    sent: int
    received: int
    lost: bool


@dataclass(frozen=True, slots=True)
class SystemStatistics:
    """A whole system: its actors in start order, asks in flight, dead letters by reason, links."""

    name: str
    actors: tuple[ActorStatistics, ...]
    asks: int
    dead_letters: dict[str, int]
    links: tuple[LinkState, ...]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that nobody handled: why, for whom, and its type."""

    reason: str
    address: str
    message: str


class DeadLetters:
    """Counts by reason, and the last of them."""

    __slots__ = ("_on_letter", "counts", "last")

    def __init__(self, on_letter: Callable[[DeadLetter], None] | None = None) -> None:
        """`on_letter` sees each letter as it comes (for logs)."""
        self._on_letter = on_letter
        self.counts: Counter[str] = Counter()
        self.last: deque[DeadLetter] = deque(maxlen=DEAD_LETTERS_KEPT)

    def add(self, reason: str, address: str, message: Any) -> None:
        """Account for one message."""
        letter = DeadLetter(reason, address, type_name(message))
        self.counts[reason] += 1
        self.last.append(letter)
        if self._on_letter is not None:
            self._on_letter(letter)
