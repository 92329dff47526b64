"""The upgrade door: what the fast door carries, after an HTTP Upgrade to it.

For networks whose proxies forward HTTP/1.1 alone, but do forward an Upgrade: nothing is wrapped
around the frames, so that it costs what the fast door costs.

Here: both sides of the Upgrade. Not here: the frames' pipe (`fast.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from ..endpoint import DialerTLS, Endpoint
from ..errors import LinkClosed, RemoteProtocolError
from .fast import ALPN, FastPipe
from .tcp import HEAD_S, Head, connect

#: Where the door is.
PATH: Final = "/covey/v1/stream"


# The listener ---------------------------------------------------------------


class UpgradedPipe(FastPipe):
    """A `FastPipe` on a connection on which HTTP was spoken before.

    Args:
        made: Called with it once it has the connection.
        before: The protocol that had the connection, and still is to hear of its end.
    """

    def __init__(self, made: Callable[[FastPipe], object], before: Any) -> None:
        super().__init__(made, "upgrade")
        self._before = before
        #: Done when the connection is gone.
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def pause_writing(self) -> None:
        """The transport holds enough."""
        super().pause_writing()
        self._before.pause_writing()

    def resume_writing(self) -> None:
        """The transport takes more."""
        self._before.resume_writing()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        super().connection_lost(exc)
        self._before.connection_lost(exc)
        if not self.gone.done():
            self.gone.set_result(None)


async def serve_upgrade(
    request: web.Request, made: Callable[[FastPipe], object]
) -> web.StreamResponse:
    """Answer a request for an Upgrade, and wait for the connection's end.

    Args:
        request: The request.
        made: Called with the pipe.
    """
    transport: Any = request.transport
    if request.headers.get("Upgrade", "").lower() != ALPN or request.body_exists:
        headers = {"Upgrade": ALPN, "Connection": "Upgrade"}
        return web.Response(status=426, text=f"Upgrade: {ALPN} is needed here\n", headers=headers)
    if transport is None or transport.is_closing():
        return web.Response()
    transport.write(
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Connection: Upgrade\r\n"
        b"Upgrade: " + ALPN.encode() + b"\r\n\r\n"
    )
    pipe = UpgradedPipe(made, transport.get_protocol())
    transport.set_protocol(pipe)
    pipe.connection_made(transport)
    try:
        await pipe.gone
    finally:
        pipe.abort()
    return web.Response()


# The dialer -----------------------------------------------------------------


class _Asking(asyncio.Protocol):
    """Asks for the Upgrade."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._answer = bytearray()
        self.head: asyncio.Future[Head] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        taking: Any = transport  # uvloop's transports are no subclasses of asyncio's
        taking.write(
            f"GET {PATH} HTTP/1.1\r\n"
            f"Host: {self._endpoint}\r\n"
            "Connection: Upgrade\r\n"
            f"Upgrade: {ALPN}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if self.head.done():
            return
        self._answer += data
        try:
            head = Head.parse(self._answer)
        except RemoteProtocolError as error:
            self.head.set_exception(error)
            return
        if head is not None:
            self.head.set_result(head)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.head.done():
            self.head.set_exception(LinkClosed(str(self._endpoint), "it hung up on an Upgrade"))


async def dial_upgrade(endpoint: Endpoint, tls: DialerTLS | None) -> FastPipe:
    """Dial the upgrade door.

    Raises:
        OSError: There is no connection, or no TLS on it.
        TransportError: A proxy, or what answers there, lets nobody through.
    """
    transport, asking = await connect(endpoint, tls, ["http/1.1"], lambda: _Asking(endpoint))
    try:
        async with asyncio.timeout(HEAD_S):
            head = await asking.head
        if head.status != 101 or head.fields.get("upgrade", "").lower() != ALPN:
            raise LinkClosed(str(endpoint), f"it answers {head.status} to an Upgrade to {ALPN}")
        if head.followed:  # whoever listens waits for our first word
            raise RemoteProtocolError("answer", "it speaks before it was spoken to")
    except BaseException:
        transport.abort()
        raise
    pipe = FastPipe(lambda _: None, "upgrade")
    transport.set_protocol(pipe)
    pipe.connection_made(transport)
    return pipe
