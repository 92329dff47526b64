"""SocketLink: a link to another process of this host, over a connected Unix stream socket.

Here: the asyncio side, with descriptors passed beside the bytes. Works on asyncio and uvloop,
which both offer `add_reader`. Not here: the side of a plain script (`blocking.py`), making and
handing over the sockets (launchers do).
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

from .codec import Codec
from .descriptors import ancillary, close_all, duplicate, receive_into
from .envelope import Envelope
from .errors import LinkClosed, LinkFull, LocalProtocolError, RemoteProtocolError
from .frames import FrameReader
from .link import OVERRUN, LinkStatistics
from .waiters import Waiters

#: Two frames of the largest default body: enough to keep a fast reader busy.
DEFAULT_QUEUED_BYTES: Final = 16 << 20

#: A bound on pieces too, for many small envelopes cost more memory than their bytes.
MOST_QUEUED_PIECES: Final = 16_384

#: One read; larger ones gain nothing on a Unix socket, whose own buffer is about 208 KiB.
READ_BYTES: Final = 64 << 10

#: Pieces of one `sendmsg`; Linux takes 1,024.
_PIECES_AT_ONCE: Final = 512

#: Writes or reads in one turn of the loop, so that one busy link does not starve the others.
_CALLS_PER_TURN: Final = 16

_Piece = tuple[bytes | memoryview, tuple[int, ...]]


class SocketLink:
    """A link over a connected AF_UNIX stream socket; see `Link` for the contract.

    Must be made in the running loop, which it belongs to. It owns the socket.

    `close` offers what is queued to the socket once more, without waiting; what the socket does
    not take then is lost.

    Args:
        sock: The socket; made non-blocking.
        codec: Encodes and decodes; its limits bind both directions.
        peer: Who is at the other end.
        name: This side's name, for logs.
        max_queued_bytes: Bytes accepted by `send` and not yet taken by the operating system
            at which the link is `full`.
    """

    __slots__ = (
        "_buffer",
        "_bytes_in",
        "_bytes_out",
        "_closed",
        "_codec",
        "_flush_scheduled",
        "_loop",
        "_lost",
        "_max_queued_bytes",
        "_queue",
        "_queued_bytes",
        "_reader",
        "_receive",
        "_received",
        "_sent",
        "_socket",
        "_unwritable",
        "_waiters",
        "_writing",
        "name",
        "peer",
    )

    def __init__(
        self,
        sock: socket.socket,
        codec: Codec,
        peer: str,
        *,
        name: str = "",
        max_queued_bytes: int = DEFAULT_QUEUED_BYTES,
    ) -> None:
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            raise ValueError(f"a SocketLink needs a Unix stream socket, not {sock!r}")
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self.name = name
        self.peer = peer
        self._socket = sock
        self._codec = codec
        self._reader = FrameReader(codec)
        self._buffer = bytearray()
        self._max_queued_bytes = max_queued_bytes
        self._queue: deque[_Piece] = deque()
        self._queued_bytes = 0
        self._receive: Callable[[Envelope], None] | None = None
        self._lost: Callable[[str], None] | None = None
        self._closed: str | None = None
        self._unwritable: str | None = None  # the peer takes no more, but may have sent more
        self._flush_scheduled = False
        self._writing = False
        self._waiters = Waiters()
        self._sent = self._received = self._bytes_out = self._bytes_in = 0

    def __repr__(self) -> str:
        state = "open" if self._closed is None else f"closed: {self._closed}"
        counts = f"{self._sent} sent, {self._received} received, {self._queued_bytes} B queued"
        return f"<SocketLink to {self.peer}, {counts}, {state}>"

    @property
    def leased(self) -> bool:
        """It is lost as soon as it breaks."""
        return False

    @property
    def full(self) -> bool:
        """Whether so much is queued that a sender should await `ready`."""
        return (
            self._queued_bytes >= self._max_queued_bytes or len(self._queue) >= MOST_QUEUED_PIECES
        )

    def start(self, receive: Callable[[Envelope], None], lost: Callable[[str], None]) -> None:
        """Begin delivery; see `Link.start`.

        Raises:
            LocalProtocolError: If called twice.
            LinkClosed: If the link has been closed.
        """
        if self._receive is not None:
            raise LocalProtocolError(f"to {self.peer!r}", "the link has been started already")
        if self._closed is not None:
            raise LinkClosed(self.peer, self._closed)
        self._receive = receive
        self._lost = lost
        self._buffer = bytearray(READ_BYTES)
        self._loop.add_reader(self._socket, self._on_readable)

    def send(self, envelope: Envelope) -> None:
        """Queue an envelope; all of one turn leave together. See `Link.send`."""
        if self._closed is not None or self._unwritable is not None:
            raise LinkClosed(self.peer, self._closed or self._unwritable or "")
        self._check_room()
        parts = self._codec.encode(envelope)
        fds = duplicate(envelope.fds, self._codec.limits.fds) if envelope.fds else ()
        for part in parts:
            self._queue.append((part, fds))  # with the first byte of the frame
            fds = ()
            self._queued_bytes += len(part)
            self._bytes_out += len(part)
        self._sent += 1
        if not self._flush_scheduled and not self._writing:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    async def ready(self) -> None:
        """Wait until the link is not full; see `Link.ready`."""
        while self._closed is None and self._unwritable is None and self.full:
            await self._waiters.wait()
        if self._closed is not None or self._unwritable is not None:
            raise LinkClosed(self.peer, self._closed or self._unwritable or "")

    def close(self, reason: str = "") -> None:
        """End the link and close the socket; idempotent. Must be called in the loop's thread."""
        if self._closed is None:
            self._flush()
            self._end(reason or "closed by this side")

    def statistics(self) -> LinkStatistics:
        """Counts up to now; `queued` counts pieces of frames (one or two each)."""
        return LinkStatistics(
            sent=self._sent,
            received=self._received,
            queued=len(self._queue),
            sent_bytes=self._bytes_out,
            received_bytes=self._bytes_in,
            queued_bytes=self._queued_bytes,
            closed=self._closed,
        )

    def _check_room(self) -> None:
        most_bytes = self._max_queued_bytes * OVERRUN
        if self._queued_bytes >= most_bytes:
            raise LinkFull(self.peer, self._queued_bytes, most_bytes, "bytes")
        most_pieces = MOST_QUEUED_PIECES * OVERRUN
        if len(self._queue) >= most_pieces:
            raise LinkFull(self.peer, len(self._queue), most_pieces, "pieces")

    # Writing.

    def _flush(self) -> None:
        """Give the socket what it takes; the rest goes when it is writable."""
        self._flush_scheduled = False
        if self._closed is not None:
            return
        try:
            for _ in range(_CALLS_PER_TURN):
                if not self._queue:
                    break
                self._write_once()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._stop_writing(error)
            return
        self._watch_writable(bool(self._queue))
        if not self.full:
            self._waiters.wake()

    def _write_once(self) -> None:
        pieces, fds = self._next_pieces()
        sent = self._socket.sendmsg(pieces, ancillary(fds))
        if fds:
            self._queue[0] = (self._queue[0][0], ())
            close_all(fds)
        self._queued_bytes -= sent
        queue = self._queue
        while sent:
            piece, fds = queue.popleft()
            if sent < len(piece):
                queue.appendleft((memoryview(piece)[sent:], fds))
                break
            sent -= len(piece)

    def _next_pieces(self) -> tuple[list[bytes | memoryview], tuple[int, ...]]:
        """The next pieces for one call, and the descriptors that go with the first byte."""
        pieces: list[bytes | memoryview] = []
        fds: tuple[int, ...] = ()
        for piece, its_fds in islice(self._queue, _PIECES_AT_ONCE):
            if its_fds:
                if pieces:
                    break
                fds = its_fds
            pieces.append(piece)
        return pieces, fds

    def _watch_writable(self, wanted: bool) -> None:
        if wanted and not self._writing:
            self._loop.add_writer(self._socket, self._flush)
        elif self._writing and not wanted:
            self._loop.remove_writer(self._socket)
        self._writing = wanted

    def _stop_writing(self, error: OSError) -> None:
        """The peer takes no more. What it sent before it ended is still read."""
        self._unwritable = f"closed by the peer ({error.strerror or error})"
        self._watch_writable(False)
        self._drop_queue()
        self._waiters.wake()
        if self._receive is not None:
            self._loop.call_soon(self._read_rest)

    # Reading.

    def _on_readable(self) -> None:
        for _ in range(_CALLS_PER_TURN):
            if self._closed is not None or not self._read_once():
                return

    def _read_rest(self) -> None:
        """After a failed write: take what has come already, then end."""
        self._on_readable()
        if self._closed is None:
            self._report(self._unwritable or "")

    def _read_once(self) -> bool:
        """Receive and deliver once; gives whether more may be waiting."""
        try:
            count, fds = receive_into(self._socket, self._buffer)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._report(f"closed by the peer ({error.strerror or error})")
            return False
        except RemoteProtocolError as error:
            self._report(str(error))
            return False
        if count == 0:
            self._on_eof()
            return False
        self._bytes_in += count
        self._take(memoryview(self._buffer)[:count], fds)
        return count == READ_BYTES

    def _take(self, data: memoryview, fds: tuple[int, ...]) -> None:
        try:
            envelopes = self._reader.feed(data, fds)
        except RemoteProtocolError as error:
            self._report(str(error))
            return
        self._deliver(envelopes)
        if self._reader.error is not None and self._closed is None:
            self._report(str(self._reader.error))

    def _deliver(self, envelopes: list[Envelope]) -> None:
        receive = self._receive
        assert receive is not None
        for index, envelope in enumerate(envelopes):
            if self._closed is not None:
                for unread in envelopes[index:]:
                    close_all(unread.fds)
                return
            self._received += 1
            try:
                receive(envelope)
            except BaseException:
                for unread in envelopes[index + 1 :]:
                    close_all(unread.fds)
                self._report("the receiver of this link raised")
                raise

    def _on_eof(self) -> None:
        try:
            self._reader.eof()
        except RemoteProtocolError as error:
            self._report(str(error))
        else:
            self._report("closed by the peer")

    # Ending.

    def _report(self, reason: str) -> None:
        self._end(reason)
        if self._lost is not None:
            self._lost(reason)

    def _end(self, reason: str) -> None:
        if self._closed is not None:
            return
        self._closed = reason
        self._watch_writable(False)
        if self._receive is not None:
            self._loop.remove_reader(self._socket)
        self._drop_queue()
        self._reader.close()
        self._socket.close()
        self._waiters.wake()

    def _drop_queue(self) -> None:
        for _, fds in self._queue:
            close_all(fds)
        self._queue.clear()
        self._queued_bytes = 0
