"""HTTP behind a listener's port: the doors over it, and whatever rooms above serve there.

Here: an aiohttp server for connections that the listener hands over, who may ask for what, and
`/healthz`. Not here: the table of paths (`routes.py`), deadlines (`web_guard.py`), the doors
(`doors/websocket.py`, `doors/upgrade.py`), figures (`web_metrics.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from .admission import Admission, Refusals
from .doors import upgrade, websocket
from .doors.fast import FastPipe
from .doors.pipe import Pipe, Presented
from .doors.websocket import WebSocketPipe
from .errors import Refused
from .routes import Route, Routes, WebLimits
from .sessions.handshake import Doorkeeper
from .web_guard import Guard

#: Seconds that requests have to end in when the listener closes; aiohttp gives them twice.
CLOSE_S: Final = 0.5

#: Seconds for which a body is read that nobody wants any more: a caller that is cut off while it
#: sends may never read why.
LINGER_S: Final = 2.0

#: By these fields a proxy says for whom it forwards a request.
FORWARDED: Final = ("Forwarded", "X-Forwarded-For")

_Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Serving:
    """What HTTP is served with.

    Attributes:
        routes: What rooms above serve.
        limits: Bounds on callers.
        keeper: Says who callers are.
        admission: Counts callers that are not known.
        refusals: Counts what is refused.
        hold: Takes the pipes of doors.
        metrics: Makes the page of figures.
    """

    routes: Routes
    limits: WebLimits
    keeper: Doorkeeper
    admission: Admission
    refusals: Refusals
    hold: Callable[[Pipe], object]
    metrics: Callable[[], tuple[bytes, str]]


class Web:
    """An HTTP/1.1 server without a socket: `protocol` makes what a connection is handed to."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._runner: web.AppRunner | None = None

    async def open(self) -> None:
        """Get ready; the routes are taken as they are now."""
        serving = self._serving
        app = web.Application(
            middlewares=[self._watch], client_max_size=serving.limits.request_bytes
        )
        self._serve(app, Route("GET", "/healthz", _healthz, open=True, allowed=_anybody))
        self._serve(
            app,
            Route(
                "GET",
                "/metrics",
                self._metrics,
                open=serving.routes.open_metrics,
                allowed=_anybody,
            ),
        )
        self._serve(app, Route("GET", websocket.PATH, self._websocket, open=True, allowed=_anybody))
        self._serve(app, Route("GET", upgrade.PATH, self._upgrade, open=True, allowed=_anybody))
        for route in serving.routes:
            self._serve(app, route)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=_Counted(serving.refusals),
            keepalive_timeout=serving.limits.idle_s,
            timeout_ceil_threshold=1e9,
            lingering_time=LINGER_S,
            auto_decompress=False,
            shutdown_timeout=CLOSE_S,
        )
        await self._runner.setup()

    def protocol(self) -> asyncio.BaseProtocol:
        """The protocol of a new connection."""
        serving = self._serving
        assert self._runner is not None
        assert self._runner.server is not None
        return Guard(self._runner.server(), serving.limits, serving.admission, serving.refusals)

    async def close(self) -> None:
        """End all connections."""
        if self._runner is not None:
            await self._runner.cleanup()

    # Callers -----------------------------------------------------------------

    def _serve(self, app: web.Application, route: Route) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            return await route.handler(request, self._caller(request, route))

        if route.method == "GET":
            app.router.add_get(route.path, answer)  # and HEAD with it
        else:
            app.router.add_route(route.method, route.path, answer)

    def _caller(self, request: web.Request, route: Route) -> str:
        """The proven name of whoever asks, empty on a path that is open to all.

        Raises:
            web.HTTPForbidden: It may not ask for this.
        """
        if route.open:
            return ""
        guard = _guard_of(request)
        refusals, address = self._serving.refusals, guard.presented.address
        try:
            name = self._serving.keeper.name_of(_presented(guard.presented, request), "")
        except Refused as error:
            refusals.add(error.code, f"{address}: {error.text}")
            raise web.HTTPForbidden(text="403: you may not come in here\n") from error
        if not name:
            refusals.add("anonymous", f"{address}: {route.path} needs a certificate")
            raise web.HTTPForbidden(text="403: show a certificate\n")
        guard.identified()
        if not route.allowed(name):
            refusals.add("not-allowed", f"{address}: {name} asks for {route.path}")
            raise web.HTTPForbidden(text="403: this is not for you\n")
        return name

    @web.middleware
    async def _watch(self, request: web.Request, handler: _Answer) -> web.StreamResponse:
        """Tell the guard of each request, and count what is refused."""
        guard = _guard_of(request)
        guard.began(request)
        try:
            return await self._answer(request, handler)
        finally:
            guard.finished(request)

    async def _answer(self, request: web.Request, handler: _Answer) -> web.StreamResponse:
        refusals, address = self._serving.refusals, request.remote or ""
        if len(request.headers) > self._serving.limits.headers:
            refusals.add("head-large", f"{address}: {len(request.headers)} header fields")
            return web.Response(status=431, text="431: too many header fields\n")
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            refusals.add("encoded", f"{address}: a compressed body")
            raise web.HTTPUnsupportedMediaType(text="415: bodies are taken as they are\n")
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status in (404, 405, 413):
                refusals.add(f"http-{error.status}", f"{address}: {request.method} {request.path}")
            raise
        except web.RequestPayloadError as error:
            refusals.add("malformed", f"{address}: {error}")
            raise web.HTTPBadRequest(text="400: the body is malformed\n") from error
        except ConnectionError:
            raise
        except Exception as error:
            refusals.add("failed", f"{address}: {request.path}: {error!r}")
            if _is_told(refusals.counts["failed"]):
                _log.exception("%s %s failed", request.method, request.path)
            raise web.HTTPInternalServerError(text="500: it failed here\n") from error

    # Own paths ---------------------------------------------------------------

    async def _metrics(self, request: web.Request, caller: str) -> web.StreamResponse:
        page, kind = self._serving.metrics()
        return web.Response(body=page, headers={"Content-Type": kind})

    async def _websocket(self, request: web.Request, caller: str) -> web.StreamResponse:
        self._refuse_pages(request)
        return await websocket.serve_websocket(request, self._holding(request))

    async def _upgrade(self, request: web.Request, caller: str) -> web.StreamResponse:
        self._refuse_pages(request)
        return await upgrade.serve_upgrade(request, self._holding(request))

    def _refuse_pages(self, request: web.Request) -> None:
        """Open no session for a page in a browser: it comes from this host, whoever wrote it.

        Raises:
            web.HTTPForbidden: A browser asks; it says of which page, and no node does.
        """
        origin = request.headers.get("Origin")
        if origin is not None:
            self._serving.refusals.add("origin", f"{request.remote}: a page of {origin[:200]}")
            raise web.HTTPForbidden(text="403: sessions are not for pages in browsers\n")

    def _holding(self, request: web.Request) -> Callable[[FastPipe | WebSocketPipe], None]:
        """What takes the pipe that a request becomes."""
        guard = _guard_of(request)

        def hold(pipe: FastPipe | WebSocketPipe) -> None:
            guard.release()
            pipe.presented = _presented(pipe.presented, request)
            self._serving.hold(pipe)

        return hold


async def _healthz(request: web.Request, caller: str) -> web.StreamResponse:
    return web.Response(text="ok\n")


def _anybody(name: str) -> bool:
    return True


def _presented(presented: Presented, request: web.Request) -> Presented:
    """What a connection shows, and what its request says about it."""
    forwarded = any(name in request.headers for name in FORWARDED)
    return replace(presented, forwarded=forwarded)


def _guard_of(request: web.Request) -> Guard:
    """The guard of a request's connection; raises `ConnectionResetError` if that is gone."""
    transport: Any = request.transport
    if transport is None:
        raise ConnectionResetError("the caller has left")
    protocol = transport.get_protocol()
    assert isinstance(protocol, Guard)
    return protocol


def _is_told(count: int) -> bool:
    """Whether something that happened so often is worth a line of a log."""
    return count & (count - 1) == 0


class _Counted(logging.Logger):
    """Counts what aiohttp would log: a traceback for each malformed request is a flood.

    Args:
        refusals: The counts.
    """

    def __init__(self, refusals: Refusals) -> None:
        super().__init__(f"{__name__}.aiohttp")
        self._refusals = refusals

    def handle(self, record: logging.LogRecord) -> None:
        """Count a line, and write it if it is not about what a caller sent."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            self._refusals.add("malformed", f"{record.getMessage()}: {error.message}")
            return
        if record.levelno < logging.WARNING or isinstance(error, ConnectionError):
            return  # a caller that has left, or was cut off and counted by the guard
        self._refusals.add("failed", f"{record.getMessage()}: {error!r}")
        if _is_told(self._refusals.counts["failed"]):
            _log.handle(record)
