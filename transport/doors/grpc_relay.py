"""Relay: two connections, each of which sends what comes over the other.

Here: the bytes, and holding back whoever sends faster than the other side takes. grpc adopts no
socket and its TLS knows neither our policy nor optional certificates: so TLS ends in asyncio, and
grpc is spoken to over a Unix socket. Not here: who is at which end (`grpc.py`).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from .fast import CLOSE_S, keep_little_unsent, read_buffer
from .pipe import UNWRITTEN_BYTES

#: Whether Unix sockets may have names that are no files.
ABSTRACT: Final = sys.platform == "linux"


#: The longest path of a folder for temporary files: that of a Unix socket in it has 104 bytes at
#: most, or 108.
_FOLDER_BYTES: Final = 70


class End(asyncio.BufferedProtocol):
    """One of the two connections.

    Args:
        made: Called with it once the connection is there; `join` may come later.
    """

    def __init__(self, made: Callable[[End], object]) -> None:
        self._made = made
        self._lost: Callable[[], object] = lambda: None
        self._loop = asyncio.get_running_loop()
        self._buffer = read_buffer(self._loop)
        self._other: End | None = None
        self._early = bytearray()
        self._closing: asyncio.TimerHandle | None = None
        self.transport: Any = None

    def join(self, other: End) -> None:
        """Send what comes over `other`, and the other way round; both connections are there."""
        self._other, other._other = other, self
        for one, two in ((self, other), (other, self)):
            early, one._early = one._early, bytearray()
            if early:
                two.transport.write(bytes(early))
            one.resume()

    def on_lost(self, lost: Callable[[], object]) -> None:
        """Have `lost` called once the connection is gone."""
        self._lost = lost

    def finish(self) -> None:
        """End it once what was written is sent, in a second at the latest."""
        if self._closing is None:
            self._closing = self._loop.call_later(CLOSE_S, self.abort)
            self.transport.close()

    def abort(self) -> None:
        """End it now."""
        self.transport.abort()

    def pause(self) -> None:
        """Read no more."""
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if not self.transport.is_closing():
            self.transport.resume_reading()

    # asyncio's side ----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there, TLS and all."""
        self.transport = transport
        self.transport.set_write_buffer_limits(high=UNWRITTEN_BYTES)
        keep_little_unsent(transport)
        self._made(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come; copied, as the buffer is used again before they are sent."""
        if self._other is None:
            self._early += self._buffer[:nbytes]
            self.pause()
        else:
            self._other.transport.write(bytes(self._buffer[:nbytes]))

    def pause_writing(self) -> None:
        """The transport holds enough."""
        if self._other is not None:
            self._other.pause()

    def resume_writing(self) -> None:
        """The transport takes more."""
        if self._other is not None:
            self._other.resume()

    def eof_received(self) -> bool:
        """HTTP/2 does not close halves of connections."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone, and so is the other one once it has sent the rest."""
        if self._closing is not None:
            self._closing.cancel()
        if self._other is not None:
            self._other.finish()
        self._lost()


class Folder:
    """A folder of this user's alone, for a Unix socket."""

    def __init__(self) -> None:
        usual = tempfile.gettempdir()
        short = len(os.fsencode(usual)) <= _FOLDER_BYTES
        # mkdtemp makes it 0700.
        self.path = tempfile.mkdtemp(prefix="covey-", dir=usual if short else "/tmp")
        self.socket = os.path.join(self.path, "s")

    def remove(self) -> None:
        """Remove it and all that is in it; idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)

    def connect(self, *, abstract: bool) -> tuple[socket.socket, str]:
        """A connection to the folder's socket from a name of its own, and grpc's name for that.

        Nobody else can have the name as long as the connection is there, and nobody can guess it
        before.

        Args:
            abstract: Whether the name is no file.

        Raises:
            OSError: Nobody listens there, or too many connections wait.
        """
        unique = f"covey-{secrets.token_hex(16)}"
        path = os.path.join(self.path, unique[-8:])
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            ours.setblocking(False)
            ours.bind(f"\0{unique}" if abstract else path)
            ours.connect(self.socket)
        except BaseException:
            ours.close()
            raise
        return ours, f"unix-abstract:{unique}" if abstract else f"unix:{path}"

    def forget(self, name: str) -> None:
        """Remove the file of a name that `connect` gave, if it is one."""
        kind, _, path = name.partition(":")
        if kind == "unix":
            Path(path).unlink(missing_ok=True)
