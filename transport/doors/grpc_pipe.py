"""A pipe through a gRPC stream: bytes in messages `covey.v1.Frames`.

Here: what both sides of the stream do alike once it is there, and the one field of its messages
(`covey.proto`). Not here: servers and channels (`grpc.py`). Nothing here needs grpc.

Theory of operation. gRPC takes one write at a time, and each costs a good part of a millisecond,
whatever its size: so all that waits leaves as one message. A read or a write that is under way is
never cancelled, as grpc's core may still write into its memory; it ends when its call does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Protocol

from ..errors import RemoteProtocolError
from .fast import CLOSE_S
from .pipe import Presented, Sink

#: The most that is put into one message; the pipe is writable while less than that waits for the
#: message before to be taken. Half of it halves the throughput, as each message costs the same;
#: twice of it gains nothing, and a message's first byte is handed over with its last one.
MESSAGE_BYTES: Final = 512 << 10

#: Field 1 of protobuf, with a length.
_FIELD: Final = 0x0A


class Messages(Protocol):
    """A gRPC call as either side sees it."""

    async def read(self) -> object:
        """The next message; something that is no `bytes` at the end."""
        ...

    async def write(self, message: bytes) -> None:
        """Send a message; waits while the network takes no more."""
        ...


def head(size: int) -> bytes:
    """What stands before `size` bytes in a message `Frames`."""
    out = bytearray([_FIELD])
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)


def data_of(message: bytes) -> memoryview:
    """The bytes in a message `Frames`, not copied.

    Raises:
        RemoteProtocolError: It is none, or has other fields.
    """
    view = memoryview(message)
    if not view:
        return view
    size = shift = 0
    for at, byte in enumerate(view[1:6], 2):
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            if view[0] == _FIELD and size == len(view) - at:
                return view[at:]
            break
    raise RemoteProtocolError("message", "it is no covey.v1.Frames")


class GrpcPipe:
    """A `Pipe` over one call; `carry` does its work.

    Args:
        messages: The call.
        presented: What is known of the peer.
    """

    def __init__(self, messages: Messages, presented: Presented) -> None:
        self._loop = asyncio.get_running_loop()
        self._messages = messages
        self._sink: Sink | None = None
        self._queue: deque[bytes | memoryview] = deque()
        self._queued = 0
        self._over: str | None = None
        self._closing: asyncio.TimerHandle | None = None
        #: Waited for by the reader while it may not read, and by the writer while there is nothing.
        self._resumed: asyncio.Future[None] | None = self._loop.create_future()
        self._wanted: asyncio.Future[None] | None = None
        self._finished: asyncio.Future[bool] = self._loop.create_future()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._life: asyncio.Task[None] | None = None
        self.presented = presented
        self.is_writable = True

    def own(self, life: Coroutine[Any, Any, None]) -> None:
        """Run what ends with the pipe, and keep it."""
        self._life = self._loop.create_task(life)

    async def carry(self) -> str | None:
        """Carry bytes until an end; None for one in order, else why it broke."""
        if self._over is None:
            work = (self._read_all(), self._write_all())
            self._tasks = tuple(self._loop.create_task(one) for one in work)
            for task in self._tasks:
                task.add_done_callback(self._stopped)
        try:
            return None if await self._finished else self._over
        finally:
            self._end("the call has ended", in_order=False)

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
        self._queue.extend(pieces)
        self._queued += sum(map(len, pieces))
        self.is_writable = self._queued < MESSAGE_BYTES
        self._want()

    def pause(self) -> None:
        """See `Pipe.pause`."""
        if self._over is None and self._resumed is None:
            self._resumed = self._loop.create_future()

    def resume(self) -> None:
        """See `Pipe.resume`."""
        waiter, self._resumed = self._resumed, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def close(self) -> None:
        """See `Pipe.close`."""
        if self._over is None and self._closing is None:
            self._closing = self._loop.call_later(CLOSE_S, self.abort)
            self._want()

    def abort(self) -> None:
        """See `Pipe.abort`."""
        self._end("broken off", in_order=False)

    # The call ----------------------------------------------------------------

    async def _read_all(self) -> None:
        while self._over is None:
            await self._until_resumed()
            if self._over is not None:
                return
            try:
                message = await self._messages.read()
                data = data_of(message) if isinstance(message, bytes) else None
            except Exception as error:  # grpc has some five kinds for the end of a call
                self._end(reason_of(error), in_order=False)
                return
            await self._until_resumed()
            if data is None:
                self._end("closed by the peer", in_order=True)
            elif self._over is None and self._sink is not None:
                self._sink.take(data)

    async def _until_resumed(self) -> None:
        while self._over is None and self._resumed is not None:
            await self._resumed

    async def _write_all(self) -> None:
        while self._over is None:
            if self._queue:
                try:
                    await self._messages.write(self._message())
                except Exception as error:
                    self._end(reason_of(error), in_order=False)
                    return
                self._taken()
            elif self._closing is not None:
                self._end("closed", in_order=True)
            else:
                self._wanted = self._loop.create_future()
                await self._wanted

    def _message(self) -> bytes:
        """All that waits, or as much as goes into a message."""
        queue, room = self._queue, MESSAGE_BYTES
        pieces: list[bytes | memoryview] = [b""]
        while queue and room:
            piece = queue.popleft()
            if len(piece) > room:
                view = memoryview(piece)
                queue.appendleft(view[room:])
                piece = view[:room]
            pieces.append(piece)
            room -= len(piece)
        pieces[0] = head(MESSAGE_BYTES - room)
        self._queued -= MESSAGE_BYTES - room
        return b"".join(pieces)

    def _taken(self) -> None:
        if not self.is_writable and self._over is None and self._queued < MESSAGE_BYTES:
            self.is_writable = True
            if self._sink is not None:
                self._sink.writable()

    def _want(self) -> None:
        """Let the writer look again."""
        waiter, self._wanted = self._wanted, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _stopped(self, task: asyncio.Task[None]) -> None:
        """A reader or a writer has ended; if by a fault of the sink, it is told to the loop."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            what = {"message": "a pipe's sink raised", "exception": error, "task": task}
            self._loop.call_exception_handler(what)
        if error is not None or task.cancelled():
            self._end("the call was cancelled", in_order=False)

    def _end(self, reason: str, *, in_order: bool) -> None:
        if self._over is not None:
            return
        self._over = reason
        self.is_writable = False
        self._queue.clear()
        if self._closing is not None:
            self._closing.cancel()
        self._want()
        self.resume()
        if not self._finished.done():
            self._finished.set_result(in_order)
        if self._sink is not None:
            self._loop.call_soon(self._sink.ended, reason)


def reason_of(error: BaseException) -> str:
    """Why a call has ended, in one line for a log."""
    import grpc

    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return f"lost: {error}"
