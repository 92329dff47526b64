"""Connection: envelopes over one pipe, from its first word to its end.

Here: frames to and from bytes, the first words one by one, and when the peer was heard last. Not
here: numbers and copies (`lanes.py`), what the first words mean (`handshake.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from ..codec import Codec
from ..doors.pipe import Pipe, Presented
from ..envelope import Envelope
from ..errors import DecodeError, LinkClosed, RemoteProtocolError
from ..frames import FrameReader
from ..waiters import Waiters

#: Seconds for what was written last to leave; doors take one.
_LEAVING_S: Final = 2.0


class Carried(Protocol):
    """Who uses a connection once it is open."""

    def arrived(self, envelopes: Sequence[Envelope]) -> None:
        """Envelopes have come; raises `RemoteProtocolError` for what no peer may send."""
        ...

    def writable(self) -> None:
        """The connection takes more."""
        ...

    def disconnected(self, connection: Connection, reason: str) -> None:
        """The connection is gone."""
        ...


class Connection:
    """One connection; first words are asked for one by one (`next`), the rest is handed on.

    Args:
        pipe: The bytes; started here.
        codec: For the first words.
        gone: Told when nothing of it is left.
    """

    __slots__ = (
        "_awaited",
        "_carried",
        "_codec",
        "_early",
        "_gone",
        "_loop",
        "_over",
        "_pipe",
        "_reader",
        "heard_at",
        "received_bytes",
    )

    def __init__(
        self, pipe: Pipe, codec: Codec, gone: Callable[[Connection], object] = lambda _: None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipe = pipe
        self._codec = codec
        self._gone = gone
        self._reader = FrameReader(codec)
        self._awaited: asyncio.Future[Envelope] | None = None
        self._carried: Carried | None = None
        self._early = bytearray()
        self._over: str | None = None
        #: When bytes came last, on the loop's clock.
        self.heard_at = self._loop.time()
        self.received_bytes = 0
        pipe.start(self)

    @property
    def presented(self) -> Presented:
        """What is known of the peer."""
        return self._pipe.presented

    @property
    def over(self) -> str | None:
        """Why it ended, None while it has not."""
        return self._over

    @property
    def is_writable(self) -> bool:
        """Whether it takes more without holding much."""
        return self._pipe.is_writable

    # First words -------------------------------------------------------------

    async def next(self) -> Envelope:
        """The peer's next first word. Cancelling leaves it for the next call.

        Raises:
            LinkClosed: The connection has ended.
            DecodeError: The peer sent what is no envelope.
        """
        self._awaited = self._loop.create_future()
        try:
            self._feed_early()
            return await self._awaited
        finally:
            self._awaited = None

    def send(self, envelope: Envelope) -> None:
        """Send an envelope outside of the session's numbers, before all that waits."""
        self._pipe.write(self._codec.encode(envelope))

    def open(self, codec: Codec, carried: Carried) -> None:
        """The first words are said: hand everything to `carried` from now on."""
        self._codec = codec
        self._reader.use(codec)
        self._carried = carried
        self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Hand on what came together with the last first word, and what comes from now on."""
        early, self._early = self._early, bytearray()
        if early and self._carried is not None:
            self._take_frames(memoryview(early))
        if self._over is None:
            self._pipe.resume()
        else:
            self._tell_disconnected()

    def _feed_early(self) -> None:
        early, self._early = self._early, bytearray()
        if early:
            self._take_word(memoryview(early))
        if self._over is not None:
            self._fail(LinkClosed(self.presented.address, self._over))
        elif not self._early:
            self._pipe.resume()

    def _take_word(self, data: memoryview) -> None:
        """Take the one envelope that is waited for; keep the rest for whoever asks next."""
        awaited = self._awaited
        if awaited is not None and not awaited.done():
            try:
                taken, envelope = self._reader.feed_one(data)
            except DecodeError as error:
                awaited.set_exception(error)
                return
            data = data[taken:]
            if envelope is not None:
                awaited.set_result(envelope)
        if data:
            self._early += data
            self._pipe.pause()

    def _fail(self, error: Exception) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_exception(error)

    # The pipe's side ---------------------------------------------------------

    def destination(self) -> memoryview | None:
        """See `Sink.destination`."""
        return None if self._carried is None else self._reader.destination()

    def filled(self, count: int) -> None:
        """See `Sink.filled`."""
        if self._over is not None:
            return
        self.heard_at = self._loop.time()
        self.received_bytes += count
        try:
            envelope = self._reader.filled(count)
        except DecodeError as error:
            self.break_off(str(error))
            return
        if envelope is not None:
            self._hand_on([envelope])

    def take(self, data: memoryview) -> None:
        """See `Sink.take`."""
        if self._over is not None:  # TLS hands over what came while it was being closed
            return
        self.heard_at = self._loop.time()
        if self._carried is None:
            self._take_word(data)
        elif self._early:  # its turn comes first
            self._early += data
        else:
            self._take_frames(data)

    def _take_frames(self, data: memoryview) -> None:
        self.received_bytes += len(data)
        try:
            envelopes = self._reader.feed(data)
        except DecodeError as error:
            self.break_off(str(error))
            return
        if envelopes:
            self._hand_on(envelopes)
        if self._reader.error is not None:
            self.break_off(str(self._reader.error))

    def _hand_on(self, envelopes: list[Envelope]) -> None:
        assert self._carried is not None
        try:
            self._carried.arrived(envelopes)
        except RemoteProtocolError as error:
            self.break_off(str(error))

    def writable(self) -> None:
        """See `Sink.writable`."""
        if self._carried is not None:
            self._carried.writable()

    def ended(self, reason: str) -> None:
        """See `Sink.ended`."""
        if self._over is None:
            self._over = reason
        self._fail(LinkClosed(self.presented.address, self._over))
        if not self._early:  # else what has come is handed on first
            self._tell_disconnected()
        self._gone(self)

    def _tell_disconnected(self) -> None:
        carried, self._carried = self._carried, None
        if carried is not None and self._over is not None:
            carried.disconnected(self, self._over)

    # The session's side ------------------------------------------------------

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Send frames."""
        self._pipe.write(pieces)

    def close(self, reason: str) -> None:
        """End it once what was written is sent; nobody is told but who asks for `over`."""
        if self._over is None:
            self._over = reason
            self._carried = None
            self._fail(LinkClosed(self.presented.address, reason))
            self._pipe.close()

    def break_off(self, reason: str) -> None:
        """End it now, for a fault; whoever uses it is told."""
        if self._over is None:
            self._over = reason
            self._pipe.abort()


class Standing:
    """The connections of one owner, until nothing is left of them."""

    __slots__ = ("_connections", "_waiters")

    def __init__(self) -> None:
        self._connections: set[Connection] = set()
        self._waiters = Waiters()

    def __len__(self) -> int:
        """Connections of which something is left."""
        return len(self._connections)

    def add(self, pipe: Pipe, codec: Codec) -> Connection:
        """A connection over a pipe."""
        connection = Connection(pipe, codec, self._forget)
        self._connections.add(connection)
        return connection

    async def gone(self) -> None:
        """Wait until all that are closed have sent their last, for two seconds at most."""
        try:
            async with asyncio.timeout(_LEAVING_S):
                while self._connections:
                    await self._waiters.wait()
        except TimeoutError:
            for connection in list(self._connections):
                connection.break_off("it did not end")

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._waiters.wake()
