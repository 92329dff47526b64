"""SessionLink: a link that outlives its connections.

Here: what is written when, what is done with what comes, keeping a connection alive, and the
lease. Not here: the numbers and copies (`lanes.py`), opening a session (`handshake.py`), who dials
again (`dialer.py`) and whom a listener remembers (`listener.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ..codec import Codec
from ..envelope import Envelope, Kind
from ..errors import LinkClosed, LinkFull, LocalProtocolError, RemoteProtocolError
from ..link import OVERRUN, LinkStatistics
from ..waiters import Waiters
from .connection import Connection
from .lanes import BULK, Lane
from .messages import Farewell, Received

#: Bytes that are kept for the peer at which the link is `full`: two of the largest frames.
QUEUED_BYTES: Final = 16 << 20

#: Envelopes of the control lane that are kept at which it is: many small ones cost more memory
#: than their bytes.
QUEUED_ENVELOPES: Final = 16_384

#: Bytes that are written in one go: an envelope that is urgent waits for no more than this.
WRITTEN_BYTES: Final = 64 << 10

#: Go's in one turn of the loop, so that one busy link does not starve the others.
WRITES_PER_TURN: Final = 16

#: Bytes of bulk that are on their way: what stands in the network's buffers before an envelope
#: that is urgent. TCP alone would fill them, which are as large on a fast network.
FLYING_BYTES: Final = 2 << 20

#: So much is taken from the peer before it is told: what it keeps for us is bounded by this.
ACKNOWLEDGED_BYTES: Final = 512 << 10
ACKNOWLEDGED_ENVELOPES: Final = 256

#: How a farewell says that the link was closed, or that another session of the node took its place.
CLOSED: Final = "closed"
REPLACED: Final = "replaced"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a session waits; seconds.

    Attributes:
        lease_s: Without a connection, until it is over. The one setting of liveness.
        ping_s: Between two signs of life.
        silent_s: Without any sign of life, until the connection counts as broken.
    """

    lease_s: float = 180.0
    ping_s: float = 10.0
    silent_s: float = 30.0


class SessionLink:
    """See `Link`. Made in the loop that it belongs to, without a connection at first.

    What was sent is kept until the peer has it, and sent again over the next connection; what comes
    twice is dropped. So each envelope arrives exactly once while both ends live and find each
    other within the lease; the end of the lease ends the link.

    Args:
        name: This side's name.
        peer: The other side's, proven.
        session: The session's id.
        codec: For everything but first words.
        patience: How long it waits for what.
        disconnected: Told when a connection has ended, with the reason.
        ended: Told once when the link is over, for whatever reason.
        bytes_per_s: A cap on bulk traffic, None for none.
        confirmed: Told when the peer's first envelope shows that it holds the session; it may have
            given up the connection, and have another session by another door. None where there
            is nothing to wait for.
    """

    def __init__(
        self,
        name: str,
        peer: str,
        session: bytes,
        codec: Codec,
        patience: Patience,
        *,
        disconnected: Callable[[str], object] = lambda _: None,
        ended: Callable[[str], object] = lambda _: None,
        bytes_per_s: float | None = None,
        confirmed: Callable[[SessionLink], object] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.name = name
        self.peer = peer
        self.session = session
        self._codec = codec
        self._patience = patience
        self._disconnected = disconnected
        self._ended = ended
        self._confirmed = confirmed
        self._rate = None if bytes_per_s is None else Rate(bytes_per_s)
        self._control, self._bulk = Lane(), Lane()
        self._connection: Connection | None = None
        self._receive: Callable[[Envelope], None] | None = None
        self._lost: Callable[[str], None] | None = None
        self._early: list[Envelope] = []
        self._closed: str | None = None
        #: The word for programs with which `close` says farewell.
        self.parting = CLOSED
        #: The word with which the peer has ended it; empty if it has not.
        self.ended_with = ""
        self._waiters = Waiters()
        self._flush_due = False
        self._rested: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lease_ends: asyncio.TimerHandle | None = None
        self._sent = self._received = self._bytes_out = self._bytes_in = 0
        self._told = self._told_bytes = 0
        #: Connections that it has had.
        self.connections = 0
        #: Envelopes that came again, and were dropped.
        self.duplicates = 0
        self._begin_lease("it never had a connection")

    def __repr__(self) -> str:
        state = "connected" if self._connection is not None else "without a connection"
        if self._closed is not None:
            state = f"closed: {self._closed}"
        return f"<SessionLink {self.name} to {self.peer}, {state}>"

    # What a system does ------------------------------------------------------

    @property
    def leased(self) -> bool:
        """It is lost when its lease is over, not when a connection breaks."""
        return True

    @property
    def full(self) -> bool:
        """Whether so much is kept that a sender should await `ready`."""
        kept = self._control.bytes + self._bulk.bytes
        return kept >= QUEUED_BYTES or len(self._control) >= QUEUED_ENVELOPES

    @property
    def received(self) -> tuple[int, int]:
        """Numbers of the last control and bulk envelopes that have come."""
        return self._control.received, self._bulk.received

    @property
    def connection(self) -> Connection | None:
        """The connection that it has now."""
        return self._connection

    @property
    def closed(self) -> str | None:
        """Why it is over, None while it is not."""
        return self._closed

    def start(self, receive: Callable[[Envelope], None], lost: Callable[[str], None]) -> None:
        """Begin delivery; see `Link.start`."""
        if self._receive is not None:
            raise LocalProtocolError(f"to {self.peer!r}", "the link has been started already")
        if self._closed is not None:
            raise LinkClosed(self.peer, self._closed)
        self._receive, self._lost = receive, lost
        if self._early:
            self._loop.call_soon(self._deliver_early)

    def send(self, envelope: Envelope) -> None:
        """Keep an envelope for the peer; all of one turn leave together. See `Link.send`."""
        if self._closed is not None:
            raise LinkClosed(self.peer, self._closed)
        lane = self._bulk if envelope.kind in BULK else self._control
        self._check_room(lane)
        envelope.sequence = lane.sent + 1
        if envelope.fds:
            raise LocalProtocolError(f"to {self.peer!r}", "descriptors do not leave their host")
        pieces = self._codec.encode(envelope)
        before = lane.bytes
        lane.add(pieces)
        self._bytes_out += lane.bytes - before
        self._sent += 1
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    async def ready(self) -> None:
        """Wait until the link is not full; see `Link.ready`."""
        while self._closed is None and self.full:
            await self._waiters.wait()
        if self._closed is not None:
            raise LinkClosed(self.peer, self._closed)

    def close(self, reason: str = "") -> None:
        """End the session, and tell the peer; idempotent."""
        self._say_farewell(self.parting, reason or f"{self.name} has closed")

    def dismiss(self, code: str, text: str) -> None:
        """End the session; tell the peer why, by a word for programs and a text for people.

        The system is told as well, as for a link that is lost: this is not its own `close`.
        """
        if self._closed is None:
            self._say_farewell(code, text)
            if self._lost is not None:
                self._lost(text)

    def _say_farewell(self, code: str, text: str) -> None:
        if self._closed is not None:
            return
        connection = self._connection
        if connection is not None:
            if code in (CLOSED, REPLACED):
                self._write_all(connection)
            connection.send(Envelope(Kind.GOAWAY, message=Farewell(code, text[:1000])))
            connection.close(text)
        self._end(text)

    def forget(self, reason: str) -> None:
        """The peer knows nothing of the session any more: end it, and tell the system."""
        self._fail(reason)

    def statistics(self) -> LinkStatistics:
        """Counts up to now."""
        connection = self._connection
        received_bytes = 0 if connection is None else connection.received_bytes
        return LinkStatistics(
            sent=self._sent,
            received=self._received,
            queued=len(self._control) + len(self._bulk),
            sent_bytes=self._bytes_out,
            received_bytes=self._bytes_in + received_bytes,
            queued_bytes=self._control.bytes + self._bulk.bytes,
            closed=self._closed,
        )

    def _check_room(self, lane: Lane) -> None:
        if lane.bytes >= QUEUED_BYTES * OVERRUN:
            raise LinkFull(self.peer, lane.bytes, QUEUED_BYTES * OVERRUN, "bytes")
        if len(lane) >= QUEUED_ENVELOPES * OVERRUN:
            raise LinkFull(self.peer, len(lane), QUEUED_ENVELOPES * OVERRUN, "envelopes")

    # Connections -------------------------------------------------------------

    def adopt(self, connection: Connection, peer_received: tuple[int, int]) -> None:
        """Go on over a connection whose first words are said.

        Args:
            connection: It takes the place of the one before.
            peer_received: Numbers of the last control and bulk envelopes that the peer has.

        Raises:
            RemoteProtocolError: The peer claims to have what was never sent.
        """
        self._control.acknowledge(peer_received[0])
        self._bulk.acknowledge(peer_received[1])
        before, self._connection = self._connection, connection
        if before is not None:
            self._bytes_in += before.received_bytes
            before.close("replaced by a new connection")
        if self._lease_ends is not None:
            self._lease_ends.cancel()
            self._lease_ends = None
        self.connections += 1
        self._control.rewind()
        self._bulk.rewind()
        self._told = self._told_bytes = 0
        connection.open(self._codec, self)
        self._arm()
        self._waiters.wake()
        self._flush_due = True
        self._loop.call_soon(self._flush)

    def confirm(self) -> None:
        """Show the peer at once that this side holds the session."""
        if self._connection is not None:
            self._tell_received(self._connection)

    def writable(self) -> None:
        """See `Carried.writable`."""
        self._acknowledge()
        self._flush()

    def disconnected(self, connection: Connection, reason: str) -> None:
        """See `Carried.disconnected`."""
        if connection is not self._connection or self._closed is not None:
            return
        self._connection = None
        self._bytes_in += connection.received_bytes
        if self._timer is not None:
            self._timer.cancel()
        self._begin_lease(reason)
        self._disconnected(reason)

    def _begin_lease(self, reason: str) -> None:
        lease = self._patience.lease_s
        text = f"no connection for {lease:g} s: {reason}"
        self._lease_ends = self._loop.call_later(lease, self._fail, text)

    # Writing -----------------------------------------------------------------

    def _flush(self) -> None:
        """Write what waits, urgent things first, as much as the connection takes."""
        self._flush_due = False
        connection = self._connection
        if connection is not None and self._write(connection, WRITES_PER_TURN):
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _write(self, connection: Connection, times: int) -> bool:
        """Write up to `times` times; whether the connection would take more at once."""
        for _ in range(times):
            if not connection.is_writable:
                return False
            pieces = self._next()
            if not pieces:
                return False
            connection.write(pieces)
        return True

    def _write_all(self, connection: Connection) -> None:
        """Offer the peer, before the link ends, what was accepted."""
        pieces: list[bytes | memoryview] = []
        for lane in (self._control, self._bulk):
            lane.take_up_to(lane.bytes, pieces)
        connection.write(pieces)

    def _next(self) -> list[bytes | memoryview]:
        """What is to be written next: all urgent envelopes, then a few bulk ones."""
        pieces: list[bytes | memoryview] = []
        room = WRITTEN_BYTES - self._control.take_up_to(WRITTEN_BYTES, pieces)
        while room > 0 and (frame := self._next_bulk()) is not None:
            pieces += frame[0]
            room -= frame[1]
        return pieces

    def _next_bulk(self) -> tuple[Sequence[bytes | memoryview], int] | None:
        rate = self._rate
        if not self._bulk.waiting or self._bulk.flying >= FLYING_BYTES:
            return None
        if rate is None:
            return self._bulk.take()
        pause = rate.pause(self._loop.time())
        if pause > 0:
            if self._rested is None:
                self._rested = self._loop.call_later(pause, self._rest)
            return None
        frame = self._bulk.take()
        if frame is not None:
            rate.spend(frame[1])
        return frame

    def _rest(self) -> None:
        """The rate lets something through again."""
        self._rested = None
        self._flush()

    # Reading -----------------------------------------------------------------

    def arrived(self, envelopes: Sequence[Envelope]) -> None:
        """See `Carried.arrived`."""
        if self._confirmed is not None:
            confirmed, self._confirmed = self._confirmed, None
            confirmed(self)
        fresh: list[Envelope] = []
        control, bulk = self._control, self._bulk
        try:
            for envelope in envelopes:
                number = envelope.sequence
                lane = bulk if envelope.kind in BULK else control
                if number == lane.received + 1:
                    lane.received = number  # as `accept`, for the one case that is common
                    fresh.append(envelope)
                elif not number:
                    self._deliver(fresh)
                    fresh = []
                    self._hear(envelope)
                    if self._closed is not None:
                        return  # what follows is for nobody
                elif not lane.accept(number):
                    self.duplicates += 1
        finally:
            self._deliver(fresh)  # also what came before a gap: it counts as received
        self._acknowledge()
        if self._flush_due:
            self._flush()  # what was answered at once leaves at once

    def _deliver(self, envelopes: list[Envelope]) -> None:
        receive = self._receive
        if receive is None or self._early:  # whose turn comes first
            self._early += envelopes
            return
        for envelope in envelopes:
            if self._closed is not None:
                return
            self._received += 1
            try:
                receive(envelope)
            except BaseException:
                self._fail("the receiver of this link raised")
                raise

    def _deliver_early(self) -> None:
        early, self._early = self._early, []
        self._deliver(early)

    def _hear(self, envelope: Envelope) -> None:
        """What the peer says about the session itself."""
        if self._closed is not None:
            return  # by what came just before it; the copies that it speaks of are gone
        message = envelope.message
        if isinstance(message, Received):
            self._control.acknowledge(message.control)
            self._bulk.acknowledge(message.bulk)
            if not self.full:
                self._waiters.wake()
            if self._bulk.waiting:
                self._flush()
        elif isinstance(message, Farewell):
            self.ended_with = message.code or CLOSED
            self._fail(message.text or f"ended by {self.peer}")
        else:
            raise RemoteProtocolError("sequence", f"a {envelope.kind.name} has none")

    def _acknowledge(self) -> None:
        """Tell the peer what has come, if that is much."""
        connection = self._connection
        if connection is None or not connection.is_writable:
            return  # a peer that sends and does not read makes this side keep nothing
        count = self._control.received + self._bulk.received
        much = connection.received_bytes - self._told_bytes >= ACKNOWLEDGED_BYTES
        if much or count - self._told >= ACKNOWLEDGED_ENVELOPES:
            self._tell_received(connection)

    def _tell_received(self, connection: Connection) -> None:
        self._told = self._control.received + self._bulk.received
        self._told_bytes = connection.received_bytes
        message = Received(self._control.received, self._bulk.received)
        connection.send(Envelope(Kind.PING, message=message))

    # Life and end ------------------------------------------------------------

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._patience.ping_s, self._tick)

    def _tick(self) -> None:
        """Show that this side lives; break off a connection on which the peer does not."""
        connection = self._connection
        if connection is None or self._closed is not None:
            return
        silent = self._loop.time() - connection.heard_at
        if silent >= self._patience.silent_s:
            connection.break_off(f"{self.peer} was silent for {silent:.0f} s")
            return
        if connection.is_writable:
            self._tell_received(connection)
        self._arm()

    def _fail(self, reason: str) -> None:
        """End it by the peer's doing, or by a fault; tell the system."""
        if self._closed is not None:
            return
        connection = self._connection
        if connection is not None:
            connection.close(reason)
        self._end(reason)
        if self._lost is not None:
            self._lost(reason)

    def _end(self, reason: str) -> None:
        self._closed = reason
        if self._connection is not None:
            self._bytes_in += self._connection.received_bytes
            self._connection = None
        for timer in (self._timer, self._lease_ends, self._rested):
            if timer is not None:
                timer.cancel()
        self._control.clear()
        self._bulk.clear()
        self._early.clear()
        self._waiters.wake()
        self._ended(reason)


class Rate:
    """A cap on bulk bytes: a bucket that holds a tenth of a second's worth.

    Sans-IO; the clock is handed in.

    Args:
        bytes_per_s: The cap.
    """

    __slots__ = ("_at", "_left", "bytes_per_s")

    def __init__(self, bytes_per_s: float) -> None:
        if not bytes_per_s > 0:
            raise ValueError(f"a rate is positive, not {bytes_per_s:g} bytes/s")
        self.bytes_per_s = bytes_per_s
        self._left = 0.0
        self._at: float | None = None

    def pause(self, now: float) -> float:
        """Seconds until something may be written, 0 for now."""
        most = self.bytes_per_s / 10
        if self._at is not None:
            self._left = min(most, self._left + (now - self._at) * self.bytes_per_s)
        self._at = now
        # Less than a byte is rounding, and would be waited for no time, again and again.
        return 0.0 if self._left > -1.0 else -self._left / self.bytes_per_s

    def spend(self, size: int) -> None:
        """Bytes are written; they may be more than the bucket held."""
        self._left -= size
