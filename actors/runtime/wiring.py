"""Wiring: how a system is reached, and how it reaches others, over the network.

Here: a system's listeners and its one outbound connection, from the settings to the links. Not
here: connections and sessions (`covey.transport`), who may come in (`Identity`, see
`identity.py`), and what links carry (`border.py`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakKeyDictionary

from covey.transport import Limits, Registry
from covey.transport.admission import Caps
from covey.transport.dialer import Dialer, Dialing
from covey.transport.endpoint import DialerTLS, Endpoint
from covey.transport.listener import Listener, Listening
from covey.transport.routes import Routes
from covey.transport.sessions.handshake import Credentials, Doorkeeper, Terms
from covey.transport.sessions.link import CLOSED, REPLACED, Patience, SessionLink

from .log import log

if TYPE_CHECKING:
    from .system import System

#: A start that waits for its parent longer than this says so, and again each time.
TELL_S: Final = 5.0


class Identity(Protocol):
    """Who a node is, and whom it believes."""

    @property
    def doorkeeper(self) -> Doorkeeper:
        """Decides who may come in where this node listens."""
        ...

    @property
    def credentials(self) -> Credentials:
        """What this node shows where it dials."""
        ...

    @property
    def listener_tls(self) -> ssl.SSLContext | None:
        """TLS where this node listens; None for plaintext."""
        ...

    @property
    def dialer_tls(self) -> DialerTLS | None:
        """TLS where this node dials; None for plaintext."""
        ...

    @property
    def certificate(self) -> bytes | None:
        """The node's own certificate in DER, None without one."""
        ...

    def carries(self, peer: str) -> bool:
        """Whether a peer, known by its proven name, may speak for nodes behind it."""
        ...


@dataclass(frozen=True, slots=True)
class Listen:
    """One address to listen on; a system may have several, each with what it serves.

    Attributes:
        address: `host:port`, `[::1]:port`, or `:port` for all addresses of this machine.
        identity: Who decides there who may come in, and by which TLS; None for the system's own.
        routes: What is served over HTTP there, beside the doors.
        grpc: Whether gRPC is a door, too. A process that has it must not fork, and has it in one
            event loop only.
    """

    address: str
    identity: Identity | None = None
    routes: Routes = field(default_factory=Routes)
    grpc: bool = False


@dataclass(frozen=True, slots=True)
class Wire:
    """Bounds on what a node takes from others and keeps for them; the defaults are for the WAN.

    Attributes:
        limits: The largest envelope that it takes.
        ping_s: Seconds between two signs of life.
        silent_s: Seconds without one after which a connection counts as broken.
        caps: Bounds on connections whose peer is not known yet.
        bytes_per_s: A cap on bulk traffic to each peer, None for none.
        doors: The doors to be tried, in this order; None for all that the URL's scheme stands for.
    """

    limits: Limits = field(default_factory=Limits)
    ping_s: float = 10.0
    silent_s: float = 30.0
    caps: Caps = field(default_factory=Caps)
    bytes_per_s: float | None = None
    doors: Sequence[str] | None = None


class Wiring:
    """The listeners and the dialer of one system."""

    def __init__(
        self,
        system: System,
        connect: str | None,
        listen: Sequence[Listen],
        identity: Identity,
        wire: Wire,
    ) -> None:
        """Made by `System`.

        Raises:
            ValueError: An address is none, or the system has no registry.
        """
        if system.registry is None:
            raise ValueError(f"{system.name}: a system with a network needs a registry of messages")
        self._system = system
        self._registry: Registry = system.registry
        self._identity = identity
        self._wire = wire
        self._endpoint = None if connect is None else Endpoint.parse(connect, doors=wire.doors)
        self._listens = [(each, address_of(each.address)) for each in listen]
        # What a peer may do is for its listener's identity to say; the parent is not in here.
        self._let_in_by: WeakKeyDictionary[SessionLink, Identity] = WeakKeyDictionary()
        self._dialer: Dialer | None = None
        self._running: asyncio.Task[None] | None = None
        #: Where this system listens, in the order of `listen`.
        self.listeners: list[Listener] = []

    async def open(self, lease: float) -> None:
        """Listen, and have the first session with the parent.

        Raises:
            OSError: The address to listen on is taken, or may not be used.
            Refused: The parent, or this side, will not have the other.
            Exception: What is wrong with this node's files, as its identity says it.
        """
        wire, identity = self._wire, self._identity
        terms = Terms(self._system.name, wire.limits)
        patience = Patience(lease, wire.ping_s, wire.silent_s)
        for listen, address in self._listens:
            await self._listen(listen, address, terms, patience)
        if self._endpoint is not None:
            dialing = Dialing(
                self._endpoint,
                terms,
                self._registry,
                identity.credentials,
                self._adopt,
                tls=identity.dialer_tls if self._endpoint.encrypted else None,
                certificate=identity.certificate,
                patience=patience,
                bytes_per_s=wire.bytes_per_s,
                news=self._news,
            )
            self._dialer = Dialer(dialing)
            await self._dial(self._dialer, self._endpoint)

    async def _listen(
        self, listen: Listen, address: tuple[str, int], terms: Terms, patience: Patience
    ) -> None:
        wire, identity = self._wire, listen.identity or self._identity
        listening = Listening(
            terms,
            self._registry,
            identity.doorkeeper,
            partial(self._attach, identity),
            tls=identity.listener_tls,
            patience=patience,
            caps=wire.caps,
            bytes_per_s=wire.bytes_per_s,
            routes=listen.routes,
            news=self._news,
        )
        listener = Listener(listening)
        await listener.open(*address)
        self.listeners.append(listener)
        if listen.grpc:
            from covey.transport.doors.grpc import open_grpc_door  # it takes time to import

            await open_grpc_door(listener)
        log.info("listener.open", system=self._system.name, port=listener.port)

    async def _dial(self, dialer: Dialer, endpoint: Endpoint) -> None:
        self._running = running = asyncio.get_running_loop().create_task(dialer.run())
        running.add_done_callback(self._over)
        waited, either = 0.0, asyncio.FIRST_COMPLETED
        try:
            while not (dialer.first.done() or running.done()):
                done, _ = await asyncio.wait(
                    [dialer.first, running], timeout=TELL_S, return_when=either
                )
                waited += TELL_S
                if not done:
                    log.warning(
                        "link.waiting",
                        system=self._system.name,
                        endpoint=str(endpoint),
                        waited_s=round(waited),
                        why=dialer.trouble or "no answer yet",
                    )
            if not dialer.first.done():
                running.result()
            dialer.first.result()
        except BaseException:
            await self.close()
            raise

    def _over(self, running: asyncio.Task[None]) -> None:
        """The dialer has ended: nobody dials any more."""
        error = None if running.cancelled() else running.exception()
        if error is not None:
            log.error("dialer.failed", system=self._system.name, error=repr(error))

    def _attach(self, identity: Identity, link: SessionLink) -> None:
        """Use a link of a listener's; one whose place it takes says so when it is closed."""
        self._let_in_by[link] = identity
        old = self._system.border.links.get(link.peer)
        if not isinstance(old, SessionLink):
            self._system.attach(link)
            return
        old.parting = REPLACED
        self._system.attach(link)
        old.parting = CLOSED  # it may have kept its place

    def _adopt(self, link: SessionLink) -> None:
        self._system.attach(link, default=True)

    def _news(self, event: str, fields: dict[str, object]) -> None:
        log.info(event, system=self._system.name, **fields)

    def refuse(self, reason: str, detail: str) -> None:
        """Count what a peer may not do, as for those that were not let in."""
        if self.listeners:
            self.listeners[0].refusals.add(reason, detail)
        else:
            self._news("peer.refused", {"reason": reason, "detail": detail})

    def revoke(self, node: str, why: str) -> None:
        """End the sessions of a node that may not come in any more."""
        for listener in self.listeners:
            listener.revoke(node, why)

    def carries(self, peer: str) -> bool:
        """Whether a peer may speak for nodes behind it: whoever let it in says so."""
        link, identity = self._system.border.links.get(peer), self._identity
        if isinstance(link, SessionLink):
            identity = self._let_in_by.get(link, identity)
        return identity.carries(peer)

    def leave(self) -> None:
        """Dial no more; the session that there is lives on, so that what waits is answered."""
        if self._dialer is not None:
            self._dialer.stop()

    async def close(self) -> None:
        """Dial and listen no more, and end all sessions; idempotent."""
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait([self._running])
        for listener in self.listeners:
            await listener.close()


def address_of(text: str) -> tuple[str, int]:
    """Host and port of `host:port`, `[::1]:port` or `:port` (all addresses of this machine).

    Raises:
        ValueError: It is none of these.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 <= int(port) < 1 << 16:
        raise ValueError(f"{text!r}: expected host:port to listen on, as in :443 or 127.0.0.1:0")
    return host.removeprefix("[").removesuffix("]"), int(port)
