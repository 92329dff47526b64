"""Dialer: keeps one session with a listener, over as many connections as that takes.

Here: trying doors, dialing again, and what becomes of the session. Not here: how each door is
dialed (`doors`), what is said first (`sessions/handshake.py`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from .codec import Codec
from .doors.pipe import Pipe
from .endpoint import DialerTLS, Endpoint
from .errors import LinkClosed, Refused, RemoteProtocolError, TransportError
from .registry import Registry
from .sessions.connection import Connection, Standing
from .sessions.handshake import (
    Credentials,
    Opened,
    Terms,
    farewell,
    first_words_codec,
    introduce,
    session_registry,
)
from .sessions.link import REPLACED, Patience, SessionLink

#: Seconds that a door has, from the first packet to the listener's welcome. A door that is blocked
#: without a word costs this; the next one is tried then.
DOOR_S: Final = 2.5

#: Seconds between two rounds of all doors, doubled up to the second number, each drawn from half
#: to the whole of that: a thousand sites do not come back in the same instant.
RETRY_S: Final = (0.1, 30.0)

#: The longest pause after a session that was open, in seconds.
BROKEN_S: Final = 1.0

#: A refusal for one of these reasons is the same whichever door is taken.
FINAL_CODES: Final = frozenset(
    {
        "evidence",
        "expired",
        "federation",
        "identity",
        "limits",
        "no-certificate",
        "revoked",
        "token",
        "token-expired",
        "token-name",
        "version",
        "wrong-authority",
        "wrong-kind",
    }
)


class Unreached(TransportError):
    """No door of a listener led to a session.

    Attributes:
        endpoint: The listener's address.
        reasons: What went wrong, by door, in the order in which they were tried.
    """

    def __init__(self, endpoint: str, reasons: dict[str, str]) -> None:
        super().__init__(endpoint, reasons)
        self.endpoint = endpoint
        self.reasons = reasons

    def __str__(self) -> str:
        each = "; ".join(f"{door}: {why}" for door, why in self.reasons.items())
        return f"{self.endpoint} cannot be reached ({each})"


@dataclass(frozen=True, slots=True)
class Dialing:
    """What a dialer is given.

    Attributes:
        endpoint: Where to dial.
        terms: This side's name and limits.
        registry: The messages that may come.
        credentials: What is shown, and who is believed.
        tls: Makes TLS contexts; None for plaintext.
        certificate: This side's TLS certificate in DER, None for none.
        patience: How long sessions wait.
        bytes_per_s: A cap on bulk traffic, None for none.
        door_s: Seconds that a door has; see `DOOR_S`.
        retry_s: Seconds between two rounds; see `RETRY_S`.
        dial: Gives a pipe through a door; see `dial`.
        opened: Told of each new session's link, which replaces the one before.
        news: Told, for a log, what happens: an event's name and its fields.
    """

    endpoint: Endpoint
    terms: Terms
    registry: Registry
    credentials: Credentials
    opened: Callable[[SessionLink], object]
    tls: DialerTLS | None = None
    certificate: bytes | None = None
    patience: Patience = field(default_factory=Patience)
    bytes_per_s: float | None = None
    door_s: float = DOOR_S
    retry_s: tuple[float, float] = RETRY_S
    dial: Callable[[str, Endpoint, DialerTLS | None], Awaitable[Pipe]] = field(
        default_factory=lambda: dial
    )
    news: Callable[[str, dict[str, object]], object] = lambda event, fields: None


class Dialer:
    """Dials as long as it lives; one session at a time."""

    def __init__(self, dialing: Dialing) -> None:
        """Dial as `dialing` says."""
        self._dialing = dialing
        self._codec = first_words_codec()
        self._registry = session_registry(dialing.registry)
        self._link: SessionLink | None = None
        self._broken = asyncio.Event()
        self._standing = Standing()
        self._stopped = False
        self._random = random.Random()
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # What was said of each door last, so that a log has each reason once.
        self._said: dict[str, str] = {}

    @property
    def first(self) -> asyncio.Future[None]:
        """Done when the first session is open; fails if the listener will never let us in."""
        return self._first

    def stop(self) -> None:
        """Dial no more: what session there is lives until its connection breaks."""
        self._stopped = True

    async def run(self) -> None:
        """Keep a session until cancelled, which ends it, or until the first break after `stop`.

        Raises:
            Exception: Before the first session: something is wrong with files or settings.
        """
        shortest, longest = self._dialing.retry_s
        pause, clock = shortest, asyncio.get_running_loop().time
        try:
            while not self._stopped:
                try:
                    await self._open()
                except Refused as error:
                    self._dialing.news("link.refused", {"code": error.code, "error": str(error)})
                    if not self._first.done():
                        self._first.set_exception(error)
                    pause = longest
                except TransportError as error:
                    self._tell_once("", "link.unreached", str(error))
                else:
                    began = clock()
                    await self._broken.wait()
                    if self._stopped:
                        return
                    if clock() - began > pause:  # else the listener may be in trouble
                        pause = shortest
                    pause = min(pause, BROKEN_S)  # but it is there, and lets us in
                    if self._link is not None and self._link.ended_with == REPLACED:
                        pause = longest  # by another of this name, which it would replace in turn
                await asyncio.sleep(pause * self._random.uniform(0.5, 1.0))
                pause = min(longest, pause * 2)
        finally:
            if self._link is not None:
                self._link.close(f"{self._dialing.terms.node} has left")
            await self._standing.gone()

    async def _open(self) -> None:
        """Have a connection by the first door that leads anywhere, and the session on it."""
        connection, opened = await self._knock()
        dialing, welcome = self._dialing, opened.welcome
        assert welcome is not None
        link = self._link
        if link is not None and link.closed is None and link.session == welcome.session:
            self._broken.clear()
            self._adopt(link, connection, welcome.received)
            return
        if welcome.session == opened.hello.session:
            # It ended while it was asked for. A new link would count from one again, and the
            # listener, which holds the old one, would drop what comes as known.
            farewell(connection, "closed", f"{dialing.terms.node} has given the session up")
            await self._open()
            return
        if link is not None:
            link.forget(f"{opened.peer} does not know the session any more")
        self._broken.clear()
        patience = Patience(welcome.lease_s, dialing.patience.ping_s, dialing.patience.silent_s)
        codec = Codec(self._registry, opened.limits)
        self._link = link = SessionLink(
            dialing.terms.node,
            opened.peer,
            welcome.session,
            codec,
            patience,
            disconnected=self._disconnected,
            ended=self._ended,
            bytes_per_s=dialing.bytes_per_s,
        )
        self._adopt(link, connection, (0, 0))
        dialing.opened(link)
        if not self._first.done():
            self._first.set_result(None)

    def _adopt(self, link: SessionLink, connection: Connection, received: tuple[int, int]) -> None:
        try:
            link.adopt(connection, received)
        except RemoteProtocolError as error:
            connection.close(str(error))
            raise
        link.confirm()

    def _ended(self, reason: str) -> None:
        link = self._link
        if link is not None and link.ended_with:
            self._dialing.news("link.ended", {"code": link.ended_with, "reason": reason})
        self._broken.set()

    def _disconnected(self, reason: str) -> None:
        self._dialing.news("link.broken", {"reason": reason})
        self._broken.set()

    async def _knock(self) -> tuple[Connection, Opened]:
        """Try door after door.

        Raises:
            Refused: The listener refuses whoever this is, whichever door is taken.
            Unreached: No door leads to it.
            Exception: What else befell a door while there was no session yet: files or settings
                that are wrong. Later they have been right once, and may be again.
        """
        reasons: dict[str, str] = {}
        fault: Exception | None = None
        for door in self._dialing.endpoint.doors:
            try:
                async with asyncio.timeout(self._dialing.door_s):
                    found = await self._try(door)
            except TimeoutError:
                reasons[door] = f"no answer in {self._dialing.door_s:g} s"
            except Refused as error:
                if error.code in FINAL_CODES:
                    raise
                reasons[door] = str(error)
            except (OSError, TransportError, UnicodeError) as error:  # the last for a host's name
                reasons[door] = str(error) or type(error).__name__
            except Exception as error:
                reasons[door] = f"{type(error).__name__}: {error}"
                fault = error
            else:
                for name, why in reasons.items():
                    self._tell_once(name, "door.closed", why)
                self._said = dict(reasons)
                return found
        if fault is not None and not self._first.done():
            raise fault
        raise Unreached(str(self._dialing.endpoint), reasons)

    async def _try(self, door: str) -> tuple[Connection, Opened]:
        dialing, link = self._dialing, self._link
        pipe = await dialing.dial(door, dialing.endpoint, dialing.tls)
        connection = self._standing.add(pipe, self._codec)
        alive = link is not None and link.closed is None
        session, received = b"", (0, 0)
        if link is not None and alive:
            session, received = link.session, link.received
        try:
            opened = await introduce(
                connection,
                dialing.terms,
                dialing.credentials,
                session,
                received,
                dialing.certificate,
            )
        except BaseException:
            connection.close("there is no session")
            raise
        return connection, opened

    @property
    def trouble(self) -> str:
        """Why there was no session when it was tried last; empty where there is one."""
        return self._said.get("", "")

    def _tell_once(self, door: str, event: str, why: str) -> None:
        if self._said.get(door) != why:
            self._said[door] = why
            endpoint = str(self._dialing.endpoint)
            self._dialing.news(event, {"endpoint": endpoint, "door": door, "reason": why})


async def dial(door: str, endpoint: Endpoint, tls: DialerTLS | None) -> Pipe:
    """A pipe through one door.

    Raises:
        OSError: There is no connection, or no TLS on it.
        LinkClosed: The connection is there, but not the door.
    """
    if endpoint.encrypted and tls is None:
        raise LinkClosed(str(endpoint), "it needs TLS, and there is no context for it")
    match door:
        case "fast":
            from .doors.fast import dial_fast

            return await dial_fast(endpoint, tls)
        case "upgrade":
            from .doors.upgrade import dial_upgrade

            return await dial_upgrade(endpoint, tls)
        case "websocket":
            from .doors.websocket import dial_websocket

            return await dial_websocket(endpoint, tls)
        case "grpc":
            from .doors.grpc import dial_grpc

            return await dial_grpc(endpoint, tls)
        case _:
            raise LinkClosed(str(endpoint), f"there is no door {door!r}")
