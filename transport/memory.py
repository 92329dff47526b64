"""MemoryLink: a link between two systems in one event loop.

Here: the pair and its batching. Without codecs a message is handed over as the same frozen
object, which costs about a microsecond; with codecs every envelope goes through its bytes, so
that a simulation proves what a deployment would do. Not here: delay, loss and partitions (the
simulated network of the runtime is built on top).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from .codec import HEADER_BYTES, Codec
from .descriptors import close_all, duplicate
from .envelope import Envelope
from .errors import DecodeError, LinkClosed, LinkFull, LocalProtocolError
from .limits import Limits
from .link import OVERRUN, LinkStatistics
from .waiters import Waiters

#: Envelopes sent in one turn of the loop after which a link is `full`; the other side takes
#: them all in the next turn.
DEFAULT_CAPACITY: Final = 4096

_MOST_FDS: Final = Limits().fds


def memory_pair(
    a: str,
    b: str,
    *,
    codec_a: Codec | None = None,
    codec_b: Codec | None = None,
    capacity: int = DEFAULT_CAPACITY,
) -> tuple[MemoryLink, MemoryLink]:
    """Make the two ends of a link between `a` and `b`, both in the calling loop.

    Args:
        a: Name of the first side, and the `peer` of the second end.
        b: Name of the second side.
        codec_a: The first side's codec. Envelopes are encoded only if both sides have one.
        codec_b: The second side's codec.
        capacity: Envelopes on their way in one direction before that end is `full`.

    Raises:
        ValueError: If only one codec is given, or capacity is not positive.
    """
    if (codec_a is None) != (codec_b is None):
        raise ValueError("give a codec to both sides or to none")
    if capacity < 1:
        raise ValueError(f"capacity must be at least 1, not {capacity}")
    first = MemoryLink(a, b, codec_a, capacity)
    second = MemoryLink(b, a, codec_b, capacity)
    first._other = second
    second._other = first
    return first, second


class MemoryLink:
    """One end of a `memory_pair`; see `Link` for the contract.

    All envelopes sent in one turn of the loop are delivered in one callback of the next.
    """

    __slots__ = (
        "_bytes_in",
        "_bytes_out",
        "_capacity",
        "_closed",
        "_codec",
        "_ended",
        "_inbox",
        "_loop",
        "_lost",
        "_other",
        "_receive",
        "_received",
        "_scheduled",
        "_sent",
        "_waiters",
        "name",
        "peer",
    )

    def __init__(self, name: str, peer: str, codec: Codec | None, capacity: int) -> None:
        self.name = name
        self.peer = peer
        self._codec = codec
        self._capacity = capacity
        self._other: MemoryLink = self
        # What the other end sent: envelopes, or their encoded parts with duplicated descriptors.
        self._inbox: list[Envelope | _Encoded] = []
        self._receive: Callable[[Envelope], None] | None = None
        self._lost: Callable[[str], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduled = False
        self._closed: str | None = None
        self._ended: str | None = None  # the other end's reason, told after its last envelope
        self._waiters: Waiters | None = None  # made when first needed: links are many
        self._sent = 0
        self._received = 0
        self._bytes_out = 0
        self._bytes_in = 0

    def __repr__(self) -> str:
        state = "open" if self._closed is None else f"closed: {self._closed}"
        counts = f"{self._sent} sent, {self._received} received"
        return f"<MemoryLink {self.name} -> {self.peer}, {counts}, {state}>"

    @property
    def leased(self) -> bool:
        """It is lost as soon as it breaks."""
        return False

    @property
    def full(self) -> bool:
        """Whether so much is on its way that a sender should await `ready`."""
        return len(self._other._inbox) >= self._capacity

    def start(self, receive: Callable[[Envelope], None], lost: Callable[[str], None]) -> None:
        """Begin delivery; see `Link.start`."""
        if self._receive is not None:
            raise LocalProtocolError(f"to {self.peer!r}", "the link has been started already")
        self._receive = receive
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        if self._inbox or self._ended is not None:
            self._schedule()

    def send(self, envelope: Envelope) -> None:
        """Hand an envelope to the other end in the next turn; see `Link.send`."""
        other = self._other
        if self._closed is not None or other._closed is not None:
            raise LinkClosed(self.peer, self._closed or self._ended or "")
        inbox = other._inbox
        if len(inbox) >= self._capacity * OVERRUN:
            raise LinkFull(self.peer, len(inbox), self._capacity * OVERRUN, "envelopes")
        inbox.append(self._copy(envelope) if self._codec is None else self._encode(envelope))
        self._sent += 1
        if not other._scheduled and other._receive is not None:
            other._schedule()

    async def ready(self) -> None:
        """Wait until the link is not full; see `Link.ready`."""
        while self._closed is None and self.full:
            if self._waiters is None:
                self._waiters = Waiters()
            await self._waiters.wait()
        if self._closed is not None:
            raise LinkClosed(self.peer, self._closed)

    def close(self, reason: str = "") -> None:
        """End the link; the other end hears of it after the last envelope. Idempotent."""
        if self._closed is not None:
            return
        self._end(reason or "closed by this side")
        other = self._other
        other._ended = reason or f"closed by {self.name}"
        if other._receive is not None:
            other._schedule()

    def statistics(self) -> LinkStatistics:
        """Counts up to now; `queued` is what the other end has not been handed yet."""
        return LinkStatistics(
            sent=self._sent,
            received=self._received,
            queued=len(self._other._inbox),
            sent_bytes=self._bytes_out,
            received_bytes=self._bytes_in,
            closed=self._closed,
        )

    def _copy(self, envelope: Envelope) -> Envelope:
        fds = envelope.fds
        return Envelope(
            envelope.kind,
            envelope.to,
            envelope.sender,
            envelope.id,
            envelope.message,
            envelope.deadline_ms,
            envelope.trace,
            envelope.sequence,
            duplicate(fds, _MOST_FDS) if fds else fds,
        )

    def _encode(self, envelope: Envelope) -> _Encoded:
        assert self._codec is not None
        parts = self._codec.encode(envelope)
        fds = duplicate(envelope.fds, self._codec.limits.fds) if envelope.fds else ()
        self._bytes_out += sum(map(len, parts))
        return _Encoded(parts, fds)

    def _schedule(self) -> None:
        if not self._scheduled and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        """Hand over everything that has come since the last turn, then the end if it has come."""
        self._scheduled = False
        receive = self._receive
        assert receive is not None
        batch = self._inbox
        self._inbox = []
        self._other._wake()
        delivered = 0
        try:
            for item in batch:
                if self._closed is not None:
                    break
                envelope = item if isinstance(item, Envelope) else self._decode(item)
                if envelope is None:
                    break
                delivered += 1
                self._received += 1
                receive(envelope)
        except BaseException:
            self._fail("the receiver of this link raised")
            raise
        finally:
            if delivered < len(batch):
                _close_descriptors(batch[delivered:])
        if self._ended is not None and self._closed is None:
            self._report(self._ended)

    def _decode(self, item: _Encoded) -> Envelope | None:
        """The envelope, or None after ending the link because it is none."""
        assert self._codec is not None
        head, *rest = item.parts
        self._bytes_in += len(head) + sum(map(len, rest))
        body = rest[0] if rest else b""
        try:
            return self._codec.decode(head[:HEADER_BYTES], head[HEADER_BYTES:], body, item.fds)
        except DecodeError as error:
            self._fail(str(error))
            return None

    def _fail(self, reason: str) -> None:
        """End both sides because of a fault found on this one."""
        if self._closed is None:
            other = self._other
            self._report(reason)
            other._ended = reason
            if other._receive is not None:
                other._schedule()

    def _report(self, reason: str) -> None:
        self._end(reason)
        if self._lost is not None:
            self._lost(reason)

    def _end(self, reason: str) -> None:
        self._closed = reason
        _close_descriptors(self._inbox)
        self._inbox = []
        self._wake()

    def _wake(self) -> None:
        """Let the senders that wait on this end look again."""
        if self._waiters is not None:
            self._waiters.wake()


class _Encoded:
    """An envelope in its bytes, with the descriptors that go beside them."""

    __slots__ = ("fds", "parts")

    def __init__(self, parts: list[bytes | memoryview], fds: tuple[int, ...]) -> None:
        self.parts = parts
        self.fds = fds


def _close_descriptors(items: list[Envelope | _Encoded]) -> None:
    """Close what was sent along with envelopes that nobody will receive."""
    for item in items:
        close_all(item.fds)
