"""Guard: deadlines and bounds on an HTTP/1.1 connection, which aiohttp does not have.

Here: a protocol that stands before aiohttp's and passes everything on; it breaks off a connection
that is silent, drips, or lets its answer stand. Not here: requests and answers (`web.py`).
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Any, Final

from aiohttp import web

from .admission import Admission, Refusals
from .doors.fast import presented
from .doors.pipe import Presented
from .routes import WebLimits

_HEAD_ENDS: Final = b"\r\n\r\n"


class _Stage(Enum):
    """Where a connection stands."""

    #: Nothing of the next request has come.
    IDLE = 1
    #: The head of a request has begun.
    HEAD = 2
    #: The head is complete; a body may come.
    BODY = 3
    #: The request is answered though its body goes on; aiohttp reads on for a while, then closes.
    LINGERING = 4
    #: No more requests come: it is a door's.
    FREE = 5


class Guard(asyncio.Protocol):
    """Stands before aiohttp's protocol of one connection.

    Args:
        protocol: aiohttp's protocol.
        limits: The bounds.
        admission: Counts it as a stranger until it is known.
        refusals: Counts what is broken off.
    """

    def __init__(
        self, protocol: Any, limits: WebLimits, admission: Admission, refusals: Refusals
    ) -> None:
        self._protocol = protocol
        self._limits = limits
        self._admission = admission
        self._refusals = refusals
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._entered: str | None = None
        self._passed_on = False
        self._stage = _Stage.IDLE
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._request: web.BaseRequest | None = None
        self._head = 0  # bytes of it
        self._tail = b""  # the last of them, which its end may begin in
        self._body = 0  # bytes that have come since it was measured
        self.presented = Presented("http", "")

    # The connection's side ---------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there, TLS and all."""
        self._transport = transport
        self.presented = presented(transport, "http")
        host = self.presented.address.rpartition(":")[0]
        refused = self._admission.enter(host)
        if refused is not None:
            self._refuse(refused, "too many that have not said who they are")
            return
        self._entered = host
        self._passed_on = True
        self._protocol.connection_made(transport)
        self._arm(self._limits.head_s, "silent", "it asks for nothing")

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self._stage in (_Stage.IDLE, _Stage.HEAD):
            self._take_head(data)
        elif self._stage is _Stage.BODY:
            self._body += len(data)
        if not self._transport.is_closing():
            self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        """The peer sends no more."""
        answer: bool | None = self._protocol.eof_received()
        return answer

    def pause_writing(self) -> None:
        """The transport holds enough."""
        if self._stage is not _Stage.FREE:
            seconds, why = self._limits.unread_s, "it does not take its answer"
            self._unread = self._loop.call_later(seconds, self._refuse, "answer-unread", why)
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """The transport takes more."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._rest()
        self.identified()
        self._request = None
        if self._passed_on:
            self._protocol.connection_lost(exc)

    # The requests' side ------------------------------------------------------

    def began(self, request: web.BaseRequest) -> None:
        """A request's head is complete, and somebody answers it."""
        self._request = request
        if self._stage is not _Stage.BODY:
            self._begin_body(0)

    def finished(self, request: web.BaseRequest) -> None:
        """It is answered."""
        self._request = None
        if self._stage is _Stage.FREE:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._stage = _Stage.IDLE if request.content.is_eof() else _Stage.LINGERING

    def identified(self) -> None:
        """The caller is known, and no stranger any more."""
        if self._entered is not None:
            self._admission.leave(self._entered)
            self._entered = None

    def release(self) -> None:
        """Pass on everything unbounded: a door has the connection now, and bounds it itself."""
        self._stage = _Stage.FREE
        self._rest()
        self.identified()

    # Deadlines ---------------------------------------------------------------

    def _take_head(self, data: bytes) -> None:
        if self._stage is _Stage.IDLE:
            self._stage, self._head, self._tail = _Stage.HEAD, 0, b""
            self._arm(self._limits.head_s, "head-late", "the head of its request is not complete")
        window = self._tail + data
        end = window.find(_HEAD_ENDS)
        ended = end >= 0
        self._head += (end + len(_HEAD_ENDS) - len(self._tail)) if ended else len(data)
        if self._head > self._limits.head_bytes:
            self._refuse("head-large", f"a head of over {self._limits.head_bytes} bytes")
        elif ended:
            self._begin_body(len(window) - end - len(_HEAD_ENDS))
        else:
            self._tail = window[-len(_HEAD_ENDS) + 1 :]

    def _begin_body(self, come: int) -> None:
        self._stage, self._body = _Stage.BODY, come
        self._measure_later()

    def _measure_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._limits.body_s, self._measure)

    def _measure(self) -> None:
        """Whether the body of the request has come fast enough of late."""
        limits, request = self._limits, self._request
        come, self._body = self._body, 0
        if request is None:
            self._refuse("head-late", "the head of its request is not complete")
        elif (
            not request.content.is_eof()
            and self._transport.is_reading()
            and come < limits.body_bytes_per_s * limits.body_s
        ):
            self._refuse("body-slow", f"{come} bytes of a body in {limits.body_s:g} s")
        else:
            self._measure_later()

    def _arm(self, seconds: float, reason: str, why: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._refuse, reason, why)

    def _rest(self) -> None:
        for timer in (self._timer, self._unread):
            if timer is not None:
                timer.cancel()

    def _refuse(self, reason: str, why: str) -> None:
        self._rest()
        if not self._transport.is_closing():
            self._refusals.add(reason, f"{self.presented.address}: {why}")
            self._transport.abort()
