"""Request streams: the receiver grants credit, the producer never runs ahead of it.

Two halves, each on its own side: an `Outlet` where the producer's generator
sends, an `Inlet` where the consumer reads. In one system they are joined
directly; over a link the border joins them by chunk, credit, end and cancel
envelopes. Neither half knows which it is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

from .asks import CARRIERS
from .errors import AskTimeout, Rejected, RemoteError
from .message import type_name

P = TypeVar("P")


class ConsumerLeft(Exception):
    """Raised in the producer when nobody reads any more; never seen by users' consumers."""


class Outlet:
    """The producer's half: sends parts while there is credit, waits while there is none."""

    __slots__ = ("_credit", "_deliver", "_finish", "_room", "_task", "finished", "left", "sent")

    def __init__(
        self,
        credit: int,
        deliver: Callable[[Any], Awaitable[None] | None],
        finish: Callable[[BaseException | None], None],
    ) -> None:
        """`deliver` takes each part, `finish` the end and its error, if any.

        What `deliver` returns is awaited before the next part: the way may be full.
        """
        self._credit = credit
        self._deliver = deliver
        self._finish = finish
        self._room: asyncio.Future[None] | None = None
        self._task: asyncio.Task[Any] | None = None
        self.left = False
        self.finished = False
        self.sent = 0

    def begin(self, task: asyncio.Task[Any]) -> None:
        """Let a leaving consumer cancel the producer's task."""
        self._task = task

    async def send(self, part: Any) -> None:
        """Deliver one part, first waiting for credit; raise `ConsumerLeft` if nobody reads."""
        while self._credit <= 0 and not self.left:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        if self.left:
            raise ConsumerLeft
        self._credit -= 1
        self.sent += 1
        way = self._deliver(part)
        if way is not None:
            await way

    def grant(self, parts: int) -> None:
        """Add credit."""
        self._credit += parts
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def leave(self) -> None:
        """The consumer is gone: stop the producer, wherever it waits."""
        if not self.left:
            self.left = True
            if self._task is not None:
                self._task.cancel()

    def finish(self, error: BaseException | None) -> None:
        """Tell the consumer that there is no more."""
        if not self.left and not self.finished:
            self.finished = True
            self._finish(error)


class Open:
    """A stream request in a mailbox: the `Pull` and the outlet its parts go to."""

    __slots__ = ("deadline", "message", "outlet")

    def __init__(self, message: Any, outlet: Outlet) -> None:
        """Ask for `message` to be served into `outlet`."""
        self.message = message
        self.outlet = outlet
        self.deadline = float("inf")

    def done(self) -> bool:
        """Whether the consumer has left before the stream began."""
        return self.outlet.left

    def fail(self, error: BaseException) -> None:
        """End the stream with an error."""
        self.outlet.finish(error)


CARRIERS.add(Open)


async def serve(parts: AsyncGenerator[Any, None], request: Open, address: str) -> None:
    """Run a stream handler to its end; raises what counts as a failure of its actor."""
    outlet = request.outlet
    try:
        try:
            async for part in parts:
                await outlet.send(part)
        finally:
            await parts.aclose()
    except ConsumerLeft:
        return
    except asyncio.CancelledError:
        if outlet.left:
            return
        outlet.finish(RemoteError(address, "Stopped", "the actor ended while it was streaming"))
        raise
    except Rejected as error:
        outlet.finish(error)
    except Exception as error:
        told = RemoteError(address, type(error).__name__, str(error))
        told.__cause__ = error
        outlet.finish(told)
        raise
    else:
        outlet.finish(None)


class Inlet:
    """The consumer's half: parts in order, then the end or an error."""

    __slots__ = ("_error", "_grant", "_parts", "_unacknowledged", "_wake", "batch", "ended")

    def __init__(self, batch: int, grant: Callable[[int], None]) -> None:
        """`grant` is told of each `batch` of parts consumed."""
        self._parts: deque[Any] = deque()
        self._grant = grant
        self._wake: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._unacknowledged = 0
        self.batch = batch
        self.ended = False

    def push(self, part: Any) -> None:
        """Take a part from the producer."""
        self._parts.append(part)
        self._nudge()

    def finish(self, error: BaseException | None) -> None:
        """Take the end from the producer."""
        if not self.ended:
            self.ended = True
            self._error = error
            self._nudge()

    def _nudge(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)

    async def next(self, silence_s: float, address: str, message: Any) -> Any:
        """The next part; raise `StopAsyncIteration` at the end, `AskTimeout` after `silence_s`."""
        if not self._parts and not self.ended:
            self._wake = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(silence_s):
                    await self._wake
            except TimeoutError:
                raise AskTimeout(address, type_name(message), silence_s) from None
        if self._parts:
            part = self._parts.popleft()
            self._consumed()
            return part
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    def _consumed(self) -> None:
        self._unacknowledged += 1
        if self._unacknowledged >= self.batch and not self.ended:
            parts, self._unacknowledged = self._unacknowledged, 0
            self._grant(parts)


class Stream(Generic[P]):
    """A stream of parts as its consumer sees it: `async with` it, then `async for` over it.

    At most `credit` parts are on the way or unread at any time. Leaving the block
    cancels the producer. Iterating raises what the producer raised (as
    `RemoteError`, or `Rejected`), or `AskTimeout` if nothing comes for `timeout` seconds.
    """

    __slots__ = ("_address", "_begin", "_inlet", "_leave", "_message", "_timeout")

    def __init__(
        self,
        begin: Callable[[], Any],
        inlet: Inlet,
        leave: Callable[[], None],
        address: str,
        message: Any,
        timeout: float,
    ) -> None:
        """Made by `Ref.stream`: `begin` sends the request, `leave` cancels it."""
        self._begin = begin
        self._inlet = inlet
        self._leave = leave
        self._address = address
        self._message = message
        self._timeout = timeout

    async def __aenter__(self) -> Stream[P]:
        await self._begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()

    def __aiter__(self) -> Stream[P]:
        return self

    async def __anext__(self) -> P:
        part: P = await self._inlet.next(self._timeout, self._address, self._message)
        return part
