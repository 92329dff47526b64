"""Support for tests of doors: a listener with or without TLS, and a talk of two nodes over it."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from covey.transport import Body, Envelope, Kind, Limits, Record, Registry
from covey.transport.dialer import Dialer, Dialing
from covey.transport.doors.pipe import Presented
from covey.transport.endpoint import DialerTLS, Endpoint
from covey.transport.errors import Refused
from covey.transport.listener import Listener, Listening
from covey.transport.sessions.handshake import Terms
from covey.transport.sessions.link import SessionLink

T = TypeVar("T")

both_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def run(loop: str, work: Coroutine[Any, Any, T]) -> T:
    """Run on one kind of loop, in a minute at most."""
    factory = uvloop.new_event_loop if loop == "uvloop" else None

    async def bounded() -> T:
        async with asyncio.timeout(60):
            return await work

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(bounded())


@dataclass(frozen=True, slots=True)
class Question(Record, id=1000):
    """What the tests send."""

    number: int
    body: Body = b""


@dataclass
class Keeper:
    """Believes in sessions what peers claim; over HTTP, whoever shows any certificate is `name`."""

    evidence: tuple[str, ...] = ()
    name: str = "site-1"
    refused: bool = False

    def name_of(self, presented: Presented, claimed: str) -> str | None:
        if self.refused:
            raise Refused(presented.address, "revoked", "its certificate is revoked")
        if claimed:
            return claimed
        return self.name if presented.certificate is not None else None

    def check_token(self, token: bytes, binding: bytes, claimed: str) -> str:
        raise AssertionError

    def check_evidence(self, kind: str, evidence: bytes, binding: bytes, name: str) -> None:
        raise AssertionError

    def check_listener(self, presented: Presented, node: str) -> None:
        pass

    def token(self, binding: bytes, node: str) -> bytes:
        raise AssertionError

    def attest(self, kinds: tuple[str, ...], binding: bytes) -> tuple[str, bytes]:
        raise AssertionError


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate of this host, for both sides."""

    path: Path

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.path)
        context.load_verify_locations(self.path)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def client(self, *, shown: bool = True) -> DialerTLS:
        def make(protocols: Sequence[str]) -> ssl.SSLContext:
            context = ssl.create_default_context(cafile=str(self.path))
            context.set_alpn_protocols(list(protocols))
            if shown:
                context.load_cert_chain(self.path)
            return context

        return make


def make_certificate(folder: Path) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [
        x509.DNSName("localhost"),
        x509.DNSName("server.example"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return Certificate(path)


def contexts(folder: Path, encrypted: bool) -> tuple[ssl.SSLContext | None, DialerTLS | None]:
    """TLS of the listener and of the dialer."""
    if not encrypted:
        return None, None
    certificate = make_certificate(folder)
    return certificate.server(), certificate.client()


def registry() -> Registry:
    messages = Registry(Question)
    messages.freeze()
    return messages


def echo(link: SessionLink) -> None:
    """Answer every question with its number and body."""

    def answer(envelope: Envelope) -> None:
        link.send(Envelope(Kind.REPLY, message=envelope.message))

    link.start(answer, lambda reason: None)


def listening(tls: ssl.SSLContext | None = None, keeper: Keeper | None = None) -> Listening:
    terms = Terms("server", Limits())
    return Listening(terms, registry(), keeper or Keeper(), echo, tls=tls)


@asynccontextmanager
async def listener(made: Listening) -> AsyncGenerator[Listener, None]:
    """An open listener on loopback."""
    opened = Listener(made)
    await opened.open("127.0.0.1", 0)
    try:
        yield opened
    finally:
        await opened.close()


@dataclass
class Talk:
    """One site's session."""

    link: SessionLink
    lost: asyncio.Future[str]
    answers: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    expected: int = 0
    all_there: asyncio.Event = field(default_factory=asyncio.Event)
    cut_at: tuple[int, ...] = ()

    def receive(self, envelope: Envelope) -> None:
        assert isinstance(envelope.message, Question)
        self.answers.append((envelope.message.number, bytes(envelope.message.body)))
        if len(self.answers) == self.expected:
            self.all_there.set()
        elif len(self.answers) in self.cut_at and self.link.connection is not None:
            self.link.connection.break_off("cut by the test")

    async def ask(self, bodies: Sequence[Body]) -> list[tuple[int, bytes]]:
        """Send questions with these bodies; the answers."""
        self.answers.clear()
        self.all_there.clear()
        self.expected = len(bodies)
        for number, body in enumerate(bodies):
            await self.link.ready()
            self.link.send(Envelope(Kind.ASK, message=Question(number, body)))
        await self.all_there.wait()
        return self.answers


@asynccontextmanager
async def talk(
    url: str,
    tls: DialerTLS | None = None,
    *,
    doors: Sequence[str] | None = None,
    change: Callable[[Dialing], Dialing] = lambda dialing: dialing,
) -> AsyncGenerator[Talk, None]:
    """A session of site-1 with whoever listens at `url`."""
    links: list[SessionLink] = []
    endpoint = Endpoint.parse(url, doors=doors)
    terms = Terms("site-1", Limits())
    dialing = change(Dialing(endpoint, terms, registry(), Keeper(), links.append, tls=tls))
    dialer = Dialer(dialing)
    running = asyncio.create_task(dialer.run())
    try:
        await dialer.first
        conversation = Talk(links[0], asyncio.get_running_loop().create_future())
        links[0].start(conversation.receive, conversation.lost.set_result)
        yield conversation
    finally:
        running.cancel()
        await asyncio.wait([running])
