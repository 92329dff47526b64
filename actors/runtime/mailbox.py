"""The bounded queue in front of an actor.

Decisions only: what is accepted, refused, dropped, and who is to be woken. The
queue holds two lanes: signals of the runtime (stop, down, timers, results of
child tasks), which overtake and are few by construction, and messages, bounded
by `capacity`. One consumer; any number of producers, all on one event loop.

A deque with one wake-up future was measured at about twice the rate of
`asyncio.Queue`, which besides cannot be closed on Python 3.11.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast


class Overflow(Enum):
    """What happens to a message that comes to a full mailbox."""

    WAIT = "wait"  # the sender waits
    REJECT = "reject"  # the sender gets MailboxFull
    DROP_OLDEST = "drop-oldest"  # the oldest message becomes a dead letter


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mailbox's settings: capacity in messages and overflow policy.

    The default holds what a sender says in one turn of the loop or two; every
    doubling was measured to save a sender in a tight loop some 5 %.
    """

    capacity: int = 256
    overflow: Overflow = Overflow.WAIT

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ValueError(f"a mailbox holds at least one message, not {self.capacity}")


class Queue:
    """The two lanes of one mailbox, its consumer's wake-up and its waiting senders.

    `waiting` holds (item, future) in order of arrival: an item enters the moment
    there is room, whether or not its sender has run again, so that neither order
    nor bound depends on the event loop. An `ask` waits with no future of its own.
    """

    __slots__ = (
        "accepted",
        "capacity",
        "closed",
        "fast",
        "low",
        "messages",
        "overflow",
        "peak",
        "signals",
        "waiting",
        "wake",
    )

    def __init__(self, settings: Mailbox, accepted: Awaitable[None]) -> None:
        """Make an empty queue; `accepted` is a completed future for those who need not wait."""
        self.accepted = accepted
        self.capacity = settings.capacity
        self.overflow = settings.overflow
        # Senders are let in again at half full: waking one at each free place
        # would cost a loop turn a message.
        self.low = settings.capacity // 2
        self.messages: deque[Any] = deque()
        # Lists where a deque would nearly always be empty: it takes 600 bytes then.
        self.signals: list[Any] = []
        self.wake: asyncio.Future[None] | None = None
        self.waiting: deque[tuple[Any, asyncio.Future[None] | None]] | None = None
        self.peak = 0
        self.closed = False
        # Whether senders may append without asking the cell: it is neither closed
        # nor draining nor restarting, and nobody observes.
        self.fast = False

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def full(self) -> bool:
        """Whether a message would find no room, or others wait before it."""
        return len(self.messages) >= self.capacity or bool(self.waiting)

    def put(self, item: Any) -> None:
        """Append a message; the caller has made sure that there is room."""
        self.messages.append(item)
        self.nudge()

    def wait_for_room(self, item: Any, future: asyncio.Future[None] | None) -> None:
        """Let `item` enter as soon as there is room; `future` is completed then."""
        if self.waiting is None:
            self.waiting = deque()
        self.waiting.append((item, future))

    def signal(self, item: Any) -> None:
        """Append a signal of the runtime, which overtakes all messages."""
        self.signals.append(item)
        self.nudge()

    def nudge(self) -> None:
        """Wake the consumer."""
        wake = self.wake
        if wake is not None:
            self.wake = None
            if not wake.done():
                wake.set_result(None)

    def evict(self) -> Any:
        """Take out the oldest message to make room (DROP_OLDEST)."""
        return self.messages.popleft()

    def release(self) -> None:
        """Let waiting messages in, as many as there are places, oldest first."""
        messages, waiting = self.messages, self.waiting
        while waiting and len(messages) < self.capacity:
            item, future = waiting.popleft()
            if future is None:
                messages.append(item)
            elif not future.done():  # a sender that gave up withdraws its message
                messages.append(item)
                future.set_result(None)

    def close(self) -> tuple[list[Any], list[tuple[Any, asyncio.Future[None] | None]]]:
        """Refuse everything from now on; hand out what was queued and who was waiting."""
        self.closed = True
        self.fast = False
        queued, waiting = list(self.messages), list(self.waiting or ())
        self.messages.clear()
        self.waiting = None
        return queued, waiting


# The mailbox of a reference to an actor that is not here: nobody may append to it.
NOWHERE = Queue(Mailbox(), cast(Any, None))
