"""The fast door: frames over TCP or TLS and nothing else.

Here: the protocol of both sides, once the connection is there (after ALPN `covey/1`, after an
HTTP Upgrade, or as first bytes on plaintext). Not here: connecting and listening.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

from ..endpoint import DialerTLS, Endpoint
from ..errors import LinkClosed
from .pipe import UNWRITTEN_BYTES, Presented, Sink
from .tcp import connect

#: The fast door's name in ALPN, and in an HTTP Upgrade.
ALPN: Final = "covey/1"

#: Bytes of one read. Larger ones gain nothing: TLS gives 16 KiB at a time.
READ_BYTES: Final = 256 << 10

#: Bytes that Linux holds unsent, beside those on their way: else megabytes of a download stand in
#: its buffer before an envelope that is urgent.
NOT_SENT_BYTES: Final = 256 << 10
_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", None)

#: Bytes that are read before others have their turn of the loop.
TURN_BYTES: Final = 1 << 20

#: Pieces below this size are joined: a write costs more than copying them.
_JOINED_BYTES: Final = 32 << 10

#: How long `close` lets the network take what is left.
CLOSE_S: Final = 1.0

# One read buffer for all connections of a loop: each read is dealt with before the next begins.
# 2,000 idle connections would hold 512 MB otherwise.
_buffers: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()


def read_buffer(loop: asyncio.AbstractEventLoop) -> memoryview:
    """The read buffer that all connections of a loop share.

    A memoryview, never a bytearray: asyncio's TLS slices it, and a slice of a bytearray is a copy,
    into which the data would be lost.
    """
    buffer = _buffers.get(loop)
    if buffer is None:
        buffer = _buffers[loop] = memoryview(bytearray(READ_BYTES))
    return buffer


def joined(pieces: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """The same bytes in fewer pieces: small ones are joined with their neighbours."""
    together: list[bytes | memoryview] = []
    small: list[bytes | memoryview] = []
    for piece in pieces:
        if len(piece) < _JOINED_BYTES:
            small.append(piece)
            continue
        if small:
            together.append(b"".join(small))
            small = []
        together.append(piece)
    if small:
        together.append(b"".join(small) if len(small) > 1 else small[0])
    return together


class FastPipe(asyncio.BufferedProtocol):
    """A `Pipe` over an asyncio transport.

    Args:
        door: The name of the door that it stands behind.
        made: Called with it once the connection is there.
    """

    def __init__(self, made: Callable[[FastPipe], object], door: str = "fast") -> None:
        self._made = made
        self._door = door
        self._transport: Any = None
        self._loop = asyncio.get_running_loop()
        self._buffer = read_buffer(self._loop)
        self._sink: Sink | None = None
        self._early = bytearray()
        self._into: memoryview | None = None
        self._read = 0
        self._paused = False
        self._over: str | None = None
        self._closing: asyncio.TimerHandle | None = None
        self.presented = Presented(door, "")
        self.is_writable = False

    # asyncio's side ----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there, TLS and all."""
        self._transport = transport
        self.presented = presented(transport, self._door)
        self._transport.set_write_buffer_limits(high=UNWRITTEN_BYTES)
        keep_little_unsent(transport)
        self.is_writable = True
        self._made(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: straight into a large body, else the shared buffer."""
        del sizehint
        self._into = None if self._sink is None else self._sink.destination()
        return self._buffer if self._into is None else self._into

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        if self._sink is None:
            self._early += self._buffer[:nbytes]
            self._transport.pause_reading()
        elif self._into is None:
            self._sink.take(self._buffer[:nbytes])
        else:
            self._into = None
            self._sink.filled(nbytes)
        self._read += nbytes
        if self._read >= TURN_BYTES:
            self._let_others_run()

    def _let_others_run(self) -> None:
        """Read on in the next turn: uvloop reads 32 times in one, which is 10 ms of a download."""
        self._read = 0
        if self._over is None and not self._paused and not self._transport.is_closing():
            self._transport.pause_reading()
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self._paused:
            self._resume_reading()

    def pause_writing(self) -> None:
        """The transport holds enough."""
        self.is_writable = False

    def resume_writing(self) -> None:
        """The transport takes more."""
        self.is_writable = True
        if self._sink is not None:
            self._sink.writable()

    def eof_received(self) -> bool:
        """The peer sends no more: neither does this side."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._end("closed by the peer" if exc is None else f"lost: {exc}")

    # The pipe ----------------------------------------------------------------

    def start(self, sink: Sink) -> None:
        """See `Pipe.start`."""
        self._sink = sink
        if self._over is not None:
            self._loop.call_soon(sink.ended, self._over)
        elif self._early:
            early, self._early = self._early, bytearray()
            self.resume()
            sink.take(memoryview(early))  # which may pause again

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """See `Pipe.write`."""
        if self._over is not None:
            return
        for piece in joined(pieces):
            if self._transport.is_closing():  # asyncio logs what is written after a failure
                self.is_writable = False
                return
            self._transport.write(piece)

    def pause(self) -> None:
        """See `Pipe.pause`."""
        self._paused = True
        if self._over is None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """See `Pipe.resume`."""
        self._paused = False
        self._resume_reading()

    def _resume_reading(self) -> None:
        if self._over is None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """See `Pipe.close`."""
        if self._over is None and self._closing is None:
            self._closing = self._loop.call_later(CLOSE_S, self.abort)
            self._transport.close()

    def abort(self) -> None:
        """See `Pipe.abort`."""
        if self._over is None:
            self._transport.abort()

    def _end(self, reason: str) -> None:
        if self._over is not None:
            return
        self._over = reason
        self.is_writable = False
        if self._closing is not None:
            self._closing.cancel()
        if self._sink is not None:
            self._sink.ended(reason)


def presented(transport: asyncio.BaseTransport, door: str) -> Presented:
    """What a connection shows of its peer."""
    tls = transport.get_extra_info("ssl_object")
    name: Any = transport.get_extra_info("peername") or ""
    address = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)
    certificate = None if tls is None else tls.getpeercert(binary_form=True)
    return Presented(door, address, certificate, encrypted=tls is not None)


def keep_little_unsent(transport: asyncio.BaseTransport) -> None:
    """Send at once, and bound what the kernel holds of what is not on its way yet."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if _NOTSENT_LOWAT is not None:
        sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, NOT_SENT_BYTES)


async def dial_fast(endpoint: Endpoint, tls: DialerTLS | None) -> FastPipe:
    """Dial the fast door.

    Raises:
        OSError: There is no connection, or no TLS on it.
        TransportError: A proxy lets nobody through, or something else answers there.
    """
    transport, pipe = await connect(endpoint, tls, [ALPN], lambda: FastPipe(lambda _: None))
    tls_object = transport.get_extra_info("ssl_object")
    if tls_object is not None and tls_object.selected_alpn_protocol() != ALPN:
        transport.abort()
        raise LinkClosed(str(endpoint), f"what answers there does not speak {ALPN}")
    return pipe
