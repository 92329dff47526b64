"""BlockingLink: the side of a plain script, without a loop.

Here: the blocking twin of `SocketLink`, with the same bytes on the wire. Not here: asyncio.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections import deque
from typing import Final

from .codec import Codec
from .descriptors import ancillary, close_all, receive_into
from .envelope import Envelope
from .errors import LinkClosed, LocalProtocolError, RemoteProtocolError
from .frames import FrameReader

_READ_BYTES: Final = 64 << 10


class BlockingLink:
    """A link of blocking calls over a connected AF_UNIX stream socket, which it owns.

    `send` may be called from any thread; `receive` is for one thread at a time (others wait
    their turn). Within a process of one thread no lock is ever contended.

    Args:
        sock: The socket; made blocking.
        codec: Encodes and decodes; used under this link's locks only.
        peer: Who is at the other end.
    """

    __slots__ = (
        "_arrived",
        "_buffer",
        "_closed",
        "_codec",
        "_reader",
        "_receiving",
        "_sending",
        "_socket",
        "peer",
    )

    def __init__(self, sock: socket.socket, codec: Codec, peer: str) -> None:
        sock.setblocking(True)
        self.peer = peer
        self._socket = sock
        self._codec = codec
        self._reader = FrameReader(codec)
        self._buffer = bytearray(_READ_BYTES)
        self._arrived: deque[Envelope] = deque()
        self._closed: str | None = None
        # Re-entrant, so that a signal handler may send or close.
        self._sending = threading.RLock()
        self._receiving = threading.RLock()

    def __repr__(self) -> str:
        state = "open" if self._closed is None else f"closed: {self._closed}"
        return f"<BlockingLink to {self.peer}, {state}>"

    def __enter__(self) -> BlockingLink:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def send(self, envelope: Envelope) -> None:
        """Send an envelope; returns when the operating system has all of it.

        Descriptors are duplicated by the kernel: the caller keeps and closes its own.

        Raises:
            LinkClosed: If the link has ended; how much the peer got is unknown.
            LocalProtocolError: If the envelope cannot be encoded or a descriptor is not open;
                nothing was sent.
        """
        with self._sending:
            self._check_open()
            parts = self._codec.encode(envelope)
            self._send_parts(parts, envelope.fds)

    def receive(self, timeout: float | None = None) -> Envelope:
        """Wait for the next envelope. The caller owns its descriptors.

        Args:
            timeout: Seconds to wait at most, None to wait for ever.

        Raises:
            TimeoutError: If none came in time; the link is as before.
            LinkClosed: At the end of the stream, or after `close`.
            RemoteProtocolError: If the peer sent what is no envelope; the link is closed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._receiving:
            while not self._arrived:
                self._check_open()
                self._check_stream()
                self._wait_readable(deadline)
                self._read()
            return self._arrived.popleft()

    def close(self, reason: str = "") -> None:
        """End the link; idempotent, and wakes a `receive` or `send` of another thread."""
        if self._closed is None:
            self._closed = reason or "closed by this side"
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        # The number of the socket must not be used again while another thread waits on it.
        with self._receiving, self._sending:
            self._socket.close()
            self._reader.close()
            while self._arrived:
                close_all(self._arrived.popleft().fds)

    def _check_open(self) -> None:
        if self._closed is not None:
            raise LinkClosed(self.peer, self._closed)

    def _check_stream(self) -> None:
        """Raise what ended the stream behind envelopes that have been received by now."""
        error = self._reader.error
        if error is not None:
            self.close(str(error))
            raise error

    def _send_parts(self, parts: list[bytes | memoryview], fds: tuple[int, ...]) -> None:
        pending: list[memoryview] = [memoryview(part) for part in parts]
        try:
            while pending:
                sent = self._socket.sendmsg(pending, ancillary(fds))
                fds = ()
                while pending and sent >= len(pending[0]):
                    sent -= len(pending.pop(0))
                if sent:
                    pending[0] = pending[0][sent:]
        except ConnectionError as error:
            raise LinkClosed(self.peer, f"closed by the peer ({error.strerror})") from error
        except OSError as error:
            if fds:  # nothing went out: the kernel refused the descriptors
                raise LocalProtocolError("descriptors", str(error)) from error
            self.close(str(error))
            raise LinkClosed(self.peer, str(error)) from error
        except BaseException:
            # Ctrl-C between two pieces: what follows would be read as the rest of this frame.
            if len(pending) != len(parts) or len(pending[0]) != len(parts[0]):
                self.close("interrupted while sending")
            raise

    def _wait_readable(self, deadline: float | None) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if deadline is None:
            poll.poll()
            return
        left_ms = max(0.0, deadline - time.monotonic()) * 1000
        if not poll.poll(left_ms):
            raise TimeoutError(f"nothing came from {self.peer!r} in time")

    def _read(self) -> None:
        try:
            count, fds = receive_into(self._socket, self._buffer, socket.MSG_DONTWAIT)
            if count == 0:
                self._reader.eof()
                self.close("closed by the peer")
                return
            self._arrived.extend(self._reader.feed(memoryview(self._buffer)[:count], fds))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(f"closed by the peer ({error.strerror or error})")
        except RemoteProtocolError as error:
            self.close(str(error))
            raise
