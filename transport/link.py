"""Link: an ordered, two-way pipe of envelopes to one peer.

Here: what every link promises, and what it tells about itself. Not here: the links themselves
(`memory.py`, `sockets.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from .envelope import Envelope

#: How far past `full` a queue goes before `send` refuses: replies and signals, which cannot
#: wait, need room behind the senders that do.
OVERRUN: Final = 4


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """Counts of one link since it was made.

    Attributes:
        sent: Envelopes accepted by `send`.
        received: Envelopes handed to the receiver.
        queued: Envelopes accepted and not yet handed to the other side.
        sent_bytes: Bytes accepted by `send`, 0 where envelopes are not encoded.
        received_bytes: Bytes received, 0 where envelopes are not encoded.
        queued_bytes: Bytes accepted and not yet taken by the operating system.
        closed: Why the link ended, None while it is open.
    """

    sent: int
    received: int
    queued: int
    sent_bytes: int = 0
    received_bytes: int = 0
    queued_bytes: int = 0
    closed: str | None = None


class Link(Protocol):
    """An ordered pipe of envelopes between this node and one peer, in one event loop.

    Envelopes arrive in the order they were sent, each at most once, in batches: what is sent in
    one turn of the loop leaves together. A link belongs to one loop and one thread.
    """

    @property
    def name(self) -> str:
        """This side's name, for logs."""
        ...

    @property
    def peer(self) -> str:
        """The other side's name, as established by whoever made the link."""
        ...

    @property
    def leased(self) -> bool:
        """Whether the link has waited for its peer to come back before it is lost."""
        ...

    @property
    def full(self) -> bool:
        """Whether the queue is at its bound, so that a sender should await `ready`."""
        ...

    def start(self, receive: Callable[[Envelope], None], lost: Callable[[str], None]) -> None:
        """Begin delivery. Called once, in the running loop.

        Envelopes that came before are kept and delivered first.

        Args:
            receive: Called with each envelope, in order; it must not raise (the link is closed
                if it does).
            lost: Called once with the reason when the link ends by the peer or by a fault,
                after the last envelope; not called for this side's own `close`.

        Raises:
            LocalProtocolError: If called twice.
        """
        ...

    def send(self, envelope: Envelope) -> None:
        """Accept an envelope for sending; never waits.

        Raises:
            LinkClosed: If the link has ended.
            LinkFull: If the queue is four times past the bound that `full` shows.
            LocalProtocolError: If the envelope cannot be encoded; nothing is sent.
        """
        ...

    async def ready(self) -> None:
        """Wait until the link is not full. Cancelling the wait has no effect on the link.

        Raises:
            LinkClosed: If the link has ended or ends while waiting.
        """
        ...

    def close(self, reason: str = "") -> None:
        """End the link; idempotent. What was accepted before is still offered to the peer."""
        ...

    def statistics(self) -> LinkStatistics:
        """Counts up to now."""
        ...
