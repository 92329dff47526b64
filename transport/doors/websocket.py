"""The WebSocket door: frames in binary messages, for networks that let nothing else through.

Here: the pipe of both sides, the listener's handler and dialing. Where a message ends says
nothing: what waits when the writer comes to it leaves as one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias, cast

import aiohttp
from aiohttp import web
from aiohttp.client_proto import ResponseHandler

from ..endpoint import DialerTLS, Endpoint
from ..errors import LinkClosed
from .fast import CLOSE_S, keep_little_unsent, presented
from .pipe import UNWRITTEN_BYTES, Sink
from .tcp import HEAD_S, connect

#: Where the door is.
PATH: Final = "/covey/v1/websocket"

#: Bytes of a message that is sent. Larger ones cost the receiver memory, and gain nothing.
MESSAGE_BYTES: Final = 256 << 10

#: Bytes of a message that is taken: other implementations may find other sizes better.
LARGEST_MESSAGE_BYTES: Final = 1 << 20

#: Once so few bytes are left to be written, the pipe is writable again.
_FEW_BYTES: Final = UNWRITTEN_BYTES // 2

_WebSocket: TypeAlias = "web.WebSocketResponse | aiohttp.ClientWebSocketResponse[Any]"


class WebSocketPipe:
    """A `Pipe` over an open WebSocket; `run` carries it.

    Args:
        socket: The WebSocket.
        transport: What lies below it.
    """

    def __init__(self, socket: _WebSocket, transport: asyncio.Transport) -> None:
        self._socket = socket
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[bytes | memoryview] = deque()
        self._unwritten = 0
        self._sink: Sink | None = None
        self._over: str | None = None
        self._closing: asyncio.TimerHandle | None = None
        # Done when the writer, or the reader, has something to do.
        self._wanted: asyncio.Future[None] | None = None
        self._paused: asyncio.Future[None] | None = self._loop.create_future()
        self.presented = presented(transport, "websocket")
        self.is_writable = True
        keep_little_unsent(transport)

    # The pipe ----------------------------------------------------------------

    def start(self, sink: Sink) -> None:
        """See `Pipe.start`."""
        self._sink = sink
        if self._over is not None:
            self._loop.call_soon(sink.ended, self._over)
        else:
            self.resume()

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """See `Pipe.write`."""
        if self._over is not None or self._closing is not None:
            return
        self._pieces += pieces
        self._unwritten += sum(map(len, pieces))
        if self._unwritten >= UNWRITTEN_BYTES:
            self.is_writable = False
        _wake(self._wanted)

    def pause(self) -> None:
        """See `Pipe.pause`."""
        if self._paused is None:
            self._paused = self._loop.create_future()

    def resume(self) -> None:
        """See `Pipe.resume`."""
        paused, self._paused = self._paused, None
        _wake(paused)

    def close(self) -> None:
        """See `Pipe.close`."""
        if self._over is None and self._closing is None:
            self._closing = self._loop.call_later(CLOSE_S, self._transport.abort)
            _wake(self._wanted)
            self.resume()

    def abort(self) -> None:
        """See `Pipe.abort`."""
        if self._over is None:
            self._transport.abort()
            self.resume()

    # Carrying ----------------------------------------------------------------

    async def run(self) -> None:
        """Carry bytes both ways until the WebSocket's end; cancelling ends it."""
        writer = self._loop.create_task(self._write_all())
        reason = "closed on this side"
        try:
            ended = await self._read_all()
            if self._closing is None:
                reason = ended
            else:
                await asyncio.wait([writer])  # until `_closing` aborts what it waits for
        finally:
            self._end(reason)
            writer.cancel()
            await asyncio.wait([writer])
            if self._closing is None:
                self._transport.abort()
            else:  # what is left is on its way, until `_closing`
                self._transport.close()

    async def _read_all(self) -> str:
        """Hand over what comes; returns why nothing comes any more."""
        while True:
            message = await self._socket.receive()
            if message.type is not aiohttp.WSMsgType.BINARY:
                return _why(message)
            while self._paused is not None:
                await self._paused
            assert self._sink is not None
            self._sink.take(memoryview(message.data))

    async def _write_all(self) -> None:
        """Write what waits, all together, again and again."""
        try:
            while True:
                for message in self._messages():
                    await self._socket.send_bytes(message)
                    self._written(len(message))
                if not self._pieces:
                    if self._closing is not None:
                        await self._socket.close()
                        return
                    self._wanted = self._loop.create_future()
                    await self._wanted
        except (ConnectionError, RuntimeError):  # it is closing; the reader hears why
            self._transport.abort()

    def _messages(self) -> Iterator[bytes]:
        """What waits now, in messages: small pieces joined, large ones cut."""
        pieces, self._pieces = self._pieces, deque()
        small: list[bytes | memoryview] = []
        size = 0
        for piece in pieces:
            if small and size + len(piece) > MESSAGE_BYTES:
                yield b"".join(small)
                small, size = [], 0
            if len(piece) < MESSAGE_BYTES:
                small.append(piece)
                size += len(piece)
                continue
            view = memoryview(piece)
            for start in range(0, len(view), MESSAGE_BYTES):
                # aiohttp takes a view, though its annotations do not say so: it saves a copy.
                yield cast(bytes, view[start : start + MESSAGE_BYTES])
        if small:
            yield b"".join(small)

    def _written(self, size: int) -> None:
        self._unwritten -= size
        if not self.is_writable and self._unwritten <= _FEW_BYTES and self._over is None:
            self.is_writable = True
            if self._sink is not None:
                self._sink.writable()

    def _end(self, reason: str) -> None:
        self._over = reason
        self.is_writable = False
        self._pieces.clear()
        if self._sink is not None:
            self._sink.ended(reason)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _why(message: aiohttp.WSMessage) -> str:
    """Why a message is the last one."""
    if message.type is aiohttp.WSMsgType.TEXT:
        return "the peer sent text"
    if message.type is aiohttp.WSMsgType.ERROR:
        return f"lost: {message.data}"
    return "closed by the peer"


# The listener ---------------------------------------------------------------


async def serve_websocket(
    request: web.Request, made: Callable[[WebSocketPipe], object]
) -> web.StreamResponse:
    """Answer a request for a WebSocket, and carry it to its end.

    Args:
        request: The request.
        made: Called with the pipe.
    """
    response = web.WebSocketResponse(
        timeout=CLOSE_S, compress=False, max_msg_size=LARGEST_MESSAGE_BYTES
    )
    await response.prepare(request)
    transport = request.transport
    if transport is not None:
        pipe = WebSocketPipe(response, transport)
        made(pipe)
        await pipe.run()
    return response


# The dialer -----------------------------------------------------------------

# Pipes of dialers, each carried by a task that ends with it.
_running: set[asyncio.Task[None]] = set()


class _Connected(aiohttp.BaseConnector):
    """Connects as all doors do, through the proxy and all."""

    def __init__(self, endpoint: Endpoint, tls: DialerTLS | None) -> None:
        super().__init__(force_close=True)
        self._endpoint = endpoint
        self._tls = tls
        self.transport: asyncio.Transport | None = None

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> ResponseHandler:
        loop = asyncio.get_running_loop()
        self.transport, protocol = await connect(
            self._endpoint, self._tls, ["http/1.1"], lambda: ResponseHandler(loop)
        )
        return protocol


async def dial_websocket(endpoint: Endpoint, tls: DialerTLS | None) -> WebSocketPipe:
    """Dial the WebSocket door.

    Raises:
        OSError: There is no connection, or no TLS on it.
        TransportError: A proxy, or what answers there, lets nobody through.
    """
    connector = _Connected(endpoint, tls)
    session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
    try:
        async with asyncio.timeout(HEAD_S):
            response = await session.ws_connect(
                f"{'https' if endpoint.encrypted else 'http'}://{endpoint}{PATH}",
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),  # pyright: ignore[reportCallIssue]
                max_msg_size=LARGEST_MESSAGE_BYTES,
            )
    except aiohttp.ClientError as error:
        await session.close()
        raise LinkClosed(str(endpoint), f"there is no WebSocket: {error}") from error
    except BaseException:
        await session.close()
        raise
    assert connector.transport is not None
    pipe = WebSocketPipe(response, connector.transport)

    async def run() -> None:
        async with session:
            await pipe.run()

    task = asyncio.get_running_loop().create_task(run())
    _running.add(task)
    task.add_done_callback(_running.discard)
    return pipe
