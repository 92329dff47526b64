"""Listener: one port through which every door is reached.

Here: the socket, the switch by ALPN and by first bytes, and the sessions that a listener
remembers. Not here: what each door does with its bytes (`doors`, `web.py`), what is said first
(`sessions/handshake.py`).

Theory of operation. TLS ends here once. What a connection is for is told by ALPN: `covey/1` is the
fast door, `h2` gRPC, and `http/1.1` or none HTTP. On plaintext the first bytes tell. The
transport is then handed to the protocol of that door; each door that carries a session ends up in
`hold`, with a pipe.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from .accepting import Accepting, Acceptor, Newcomer
from .admission import Admission, Caps, Refusals
from .codec import MAGIC, Codec
from .doors.fast import ALPN, FastPipe, presented
from .doors.pipe import Pipe, Presented
from .envelope import Envelope, Kind
from .errors import LinkClosed, Refused, RemoteProtocolError
from .registry import Registry
from .routes import Routes, WebLimits
from .sessions.connection import Connection, Standing
from .sessions.handshake import (
    HANDSHAKE_S,
    HIGHEST,
    SESSION_ID_BYTES,
    Doorkeeper,
    Opened,
    Terms,
    farewell,
    first_words_codec,
    nonce,
    receive,
    session_registry,
)
from .sessions.link import Patience, SessionLink
from .sessions.messages import Welcome

#: What ALPN chooses from, in this order: browsers and curl offer h2 too, and are to get HTTP/1.1.
PROTOCOLS: Final = (ALPN, "http/1.1", "h2")

#: How HTTP/2 begins.
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: Seconds for the first bytes, after TLS.
FIRST_BYTES_S: Final = 5.0

#: Connections that the kernel holds until they are accepted.
BACKLOG: Final = 1024

#: What takes over a connection: a factory of protocols, as for `create_server`.
Factory = Callable[[], asyncio.BaseProtocol]


@dataclass(frozen=True, slots=True)
class Listening:
    """What a listener is given.

    Attributes:
        terms: This node's name and limits.
        registry: The messages that may come.
        keeper: Decides who may come in.
        opened: Told of each new session's link, once its peer has shown that it holds it.
        tls: The TLS context; its ALPN names are set here. None for plaintext.
        patience: How long sessions wait.
        caps: Bounds on strangers.
        bytes_per_s: A cap on bulk traffic to each peer, None for none.
        routes: What is served over HTTP beside the doors.
        web_limits: Bounds on what comes over HTTP.
        news: Told, for a log, what happens: an event's name and its fields.
    """

    terms: Terms
    registry: Registry
    keeper: Doorkeeper
    opened: Callable[[SessionLink], object]
    tls: ssl.SSLContext | None = None
    patience: Patience = field(default_factory=Patience)
    caps: Caps = field(default_factory=Caps)
    bytes_per_s: float | None = None
    routes: Routes = field(default_factory=Routes)
    web_limits: WebLimits = field(default_factory=WebLimits)
    news: Callable[[str, dict[str, object]], object] = lambda event, fields: None


class Listener:
    """Listens, and remembers sessions as long as their leases run.

    Attributes:
        sessions: Live sessions' links by id.
        unknown: Connections of which it is not known yet what they are for.
        standing: Connections that have a session, or ask for one.
        refusals: What was refused.
    """

    def __init__(self, listening: Listening) -> None:
        """Make a listener; `open` begins."""
        self._listening = listening
        self._codec = first_words_codec()
        self._registry = session_registry(listening.registry)
        self._acceptor: Acceptor | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.admission = Admission(listening.caps)
        self.refusals = Refusals(self._log_refusal)
        self.sessions: dict[bytes, SessionLink] = {}
        self._ended_bytes = (0, 0)
        self.unknown: set[Switch] = set()
        self.standing = Standing()
        #: Protocols of the doors beside the fast one, by their names in ALPN.
        self.factories: dict[str, Factory] = {}
        #: Awaited last when the listener closes: what doors have running.
        self.closers: list[Callable[[], Awaitable[None]]] = []

    @property
    def port(self) -> int:
        """The TCP port."""
        assert self._acceptor is not None
        return self._acceptor.port

    async def open(self, host: str, port: int) -> None:
        """Listen on an address; port 0 takes a free one.

        Raises:
            OSError: The address is taken, or may not be used.
        """
        tls = self._listening.tls
        listens = bound(host, port)  # first: where it cannot, nothing is left to be cleaned up
        try:
            await self._open_web()
        except BaseException:
            listens.close()
            raise
        if tls is not None:
            tls.set_alpn_protocols(list(PROTOCOLS))
        accepting = Accepting(
            listens,
            tls,
            self.admission,
            self.refusals,
            lambda host: Switch(self, host),
            self.own,
        )
        self._acceptor = Acceptor(accepting)

    async def _open_web(self) -> None:
        """Get ready for HTTP; what does not listen need not load it."""
        from .web import Serving, Web
        from .web_metrics import metrics_page

        serving = Serving(
            self._listening.routes,
            self._listening.web_limits,
            self._listening.keeper,
            self.admission,
            self.refusals,
            self.hold_soon,
            lambda: metrics_page(self),
        )
        web = Web(serving)
        await web.open()
        self.factories["http/1.1"] = web.protocol
        self.closers.append(web.close)

    async def close(self) -> None:
        """Take no more connections, and end all sessions."""
        if self._acceptor is not None:
            self._acceptor.close()
        for switch in list(self.unknown):
            switch.abort()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for link in list(self.sessions.values()):
            link.close(f"{self._listening.terms.node} has closed")
        await self.standing.gone()
        for closer in self.closers:
            await closer()

    def revoke(self, node: str, why: str) -> None:
        """End the live sessions of a node that may not come in any more."""
        for link in list(self.sessions.values()):
            if link.peer == node:
                link.dismiss("revoked", why)
                self.refusals.add("revoked", f"{node}: {why}")

    def own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that ends with the listener at the latest."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Sessions ----------------------------------------------------------------

    async def hold(self, pipe: Pipe) -> None:
        """Hear who is at the other end of a pipe, and give it its session."""
        connection = self.standing.add(pipe, self._codec)
        address = pipe.presented.address
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                opened = await receive(connection, self._listening.terms, self._listening.keeper)
            self._welcome(connection, opened)
        except TimeoutError:
            self.refusals.add("hello-late", f"{address}: no hello in {HANDSHAKE_S:g} s")
            connection.break_off("no hello")
        except Refused as error:
            self.refusals.add(error.code, f"{address}: {error.text}")
            farewell(connection, error.code, error.text)
        except RemoteProtocolError as error:
            self.refusals.add("protocol", f"{address}: {error}")
            farewell(connection, "protocol", str(error))
        except LinkClosed:
            self.refusals.add("left", f"{address}: it left before its session was open")
        except Exception as error:  # of a doorkeeper's, or of ours: one peer's end, not more
            self.refusals.add("failed", f"{address}: {error!r}")
            farewell(connection, "failed", "it failed here")
        except BaseException:
            connection.break_off("the listener has closed")
            raise

    def _welcome(self, connection: Connection, opened: Opened) -> None:
        listening, hello = self._listening, opened.hello
        link = self.sessions.get(hello.session)
        fresh = link is None or link.peer != opened.peer or link.closed is not None
        if link is None or fresh:
            link = self._new(opened)
        welcome = Welcome(
            min(HIGHEST, hello.highest),
            listening.terms.node,
            nonce(),
            listening.terms.bounds,
            link.session,
            link.received,
            listening.patience.lease_s,
        )
        connection.send(Envelope(Kind.WELCOME, message=welcome))
        link.adopt(connection, (0, 0) if fresh else hello.received)

    def _new(self, opened: Opened) -> SessionLink:
        listening = self._listening
        session = secrets.token_bytes(SESSION_ID_BYTES)
        self.sessions[session] = link = SessionLink(
            listening.terms.node,
            opened.peer,
            session,
            Codec(self._registry, opened.limits),
            listening.patience,
            ended=lambda _: self._forget(session),
            bytes_per_s=listening.bytes_per_s,
            # Not before: the peer may have given this connection up and be in by another door.
            confirmed=listening.opened,
        )
        return link

    def _forget(self, session: bytes) -> None:
        link = self.sessions.pop(session, None)
        if link is not None:
            self._ended_bytes = self._with(link, self._ended_bytes)

    @property
    def carried_bytes(self) -> tuple[int, int]:
        """Bytes of envelopes that all sessions have sent and received up to now."""
        carried = self._ended_bytes
        for link in self.sessions.values():
            carried = self._with(link, carried)
        return carried

    @staticmethod
    def _with(link: SessionLink, carried: tuple[int, int]) -> tuple[int, int]:
        statistics = link.statistics()
        return carried[0] + statistics.sent_bytes, carried[1] + statistics.received_bytes

    # Connections -------------------------------------------------------------

    def hold_soon(self, pipe: Pipe) -> None:
        """`hold` in a task of this listener's; the pipe's peer is a stranger until its end."""
        host = host_of(pipe.presented.address)
        refused = self.admission.enter(host)
        if refused is not None:
            self.refusals.add(refused, pipe.presented.address)
            pipe.abort()
            return
        task = self.own(self.hold(pipe))
        task.add_done_callback(lambda _: self.admission.leave(host))

    def take_over(self, protocol: str | None) -> Factory | None:
        """What a connection of a protocol, by its ALPN name, is handed to; None to refuse it."""
        if protocol == ALPN:
            return lambda: FastPipe(self.hold_soon)
        return self.factories.get(protocol or "http/1.1")

    def _log_refusal(self, reason: str, count: int, detail: str) -> None:
        self._listening.news(
            "connection.refused", {"reason": reason, "count": count, "detail": detail}
        )


class Switch(Newcomer):
    """A new connection, until it is known what it is for."""

    def __init__(self, listener: Listener, host: str) -> None:
        super().__init__(listener.admission, host)
        self._listener = listener
        self._transport: Any = None
        self._early = b""
        self._late: asyncio.TimerHandle | None = None
        self._presented: Presented | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there, TLS and all."""
        self._transport = transport
        self._listener.unknown.add(self)
        self._presented = presented(transport, "")
        tls = transport.get_extra_info("ssl_object")
        protocol = None if tls is None else tls.selected_alpn_protocol()
        if protocol is not None:
            self._hand_over(protocol)
            return
        loop = asyncio.get_running_loop()
        self._late = loop.call_later(FIRST_BYTES_S, self._refuse, "silent", "no first bytes")

    def data_received(self, data: bytes) -> None:
        """First bytes, where ALPN says nothing."""
        self._early += data
        protocol = told_by(self._early)
        if protocol is None:
            return
        if protocol != "http/1.1" and self._presented is not None and self._presented.encrypted:
            self._refuse("alpn", f"{protocol} without its name in ALPN")
            return
        self._hand_over(protocol)

    def eof_received(self) -> bool:
        """It has nothing to say."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone before it was known what it was for."""
        self.leave()

    def abort(self) -> None:
        """The listener has closed."""
        self._transport.abort()

    def leave(self) -> None:
        """See `Newcomer.leave`."""
        self._listener.unknown.discard(self)
        if self._late is not None:
            self._late.cancel()
        super().leave()

    def _refuse(self, reason: str, why: str) -> None:
        address = "" if self._presented is None else self._presented.address
        self._listener.refusals.add(reason, f"{address}: {why}")
        self._transport.abort()

    def _hand_over(self, protocol: str) -> None:
        factory = self._listener.take_over(protocol)
        if factory is None:
            self._refuse("door", f"there is no door for {protocol} here")
            return
        self.leave()
        taker: Any = factory()
        self._transport.set_protocol(taker)
        taker.connection_made(self._transport)
        if self._early:
            feed(taker, self._early)


def bound(host: str, port: int) -> socket.socket:
    """A socket on one address, or on all of this machine, of both families, for an empty host.

    Raises:
        OSError: The address is unknown, taken, or may not be used.
    """
    if host:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.create_server((host, port), family=family, backlog=BACKLOG)
    elif socket.has_dualstack_ipv6():
        sock = socket.create_server(
            ("", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
        )
    else:
        sock = socket.create_server(("", port), backlog=BACKLOG)
    sock.setblocking(False)
    return sock


def host_of(address: str) -> str:
    """The host of `host:port`."""
    return address.rpartition(":")[0]


def told_by(first: bytes) -> str | None:
    """The protocol, by its ALPN name, that a connection begins to speak; None if more is needed."""
    for start, protocol in ((MAGIC, ALPN), (PREFACE, "h2")):
        if first[: len(start)] == start[: len(first)]:
            return protocol if len(first) >= len(start) else None
    return "http/1.1"


def feed(protocol: Any, data: bytes) -> None:
    """Give a protocol bytes that came before it was there."""
    if not isinstance(protocol, asyncio.BufferedProtocol):
        protocol.data_received(data)
        return
    rest = memoryview(data)
    while rest:
        buffer: Any = protocol.get_buffer(len(rest))
        count = min(len(buffer), len(rest))
        buffer[:count] = rest[:count]
        protocol.buffer_updated(count)
        rest = rest[count:]
