"""Who is kept out by TLS, by certificates and by tokens: each with its own counter and log line."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop

from covey.actors.runtime import System, runtime_messages
from covey.actors.runtime.identity import NodeIdentity, Proxy
from covey.security.tls import KeyFiles, client_context_maker, server_context
from covey.security.tokens import Signer
from covey.transport import Envelope, Kind, Limits, LinkClosed, Refused, Registry
from covey.transport.dialer import Dialer, Dialing, dial
from covey.transport.doors.fast import ALPN, FastPipe
from covey.transport.endpoint import DialerTLS, Endpoint
from covey.transport.listener import Listener, Listening
from covey.transport.sessions.connection import Connection
from covey.transport.sessions.handshake import (
    Credentials,
    Opened,
    Terms,
    first_words_codec,
    introduce,
)
from covey.transport.sessions.link import SessionLink
from tests.pki import HOUR, SERVER, Authority, leaf_of

REGISTRY = Registry()
REGISTRY.freeze()

Main = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Main], None]:
    def run_main(main: Main) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await main()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(bounded())

    return run_main


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> KeyFiles:
    return authority.issue("server", "server")


@dataclass
class Door:
    """A listener under test, and what it has told of refusals."""

    listener: Listener
    identity: NodeIdentity
    said: asyncio.Queue[dict[str, object]]

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("localhost", self.listener.port, ("fast",), encrypted=True)

    async def refused(self, reason: str) -> str:
        """The one refusal is counted, and told in one line: its detail."""
        line = await self.said.get()
        assert self.listener.refusals.counts == {reason: 1}
        assert line["reason"] == reason
        assert line["count"] == 1
        assert self.said.empty()
        assert not self.listener.sessions
        return str(line["detail"])


@asynccontextmanager
async def door(
    files: KeyFiles, identity: NodeIdentity | None = None, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[Door]:
    """A listener on loopback."""
    identity = identity or NodeIdentity(files)
    told: asyncio.Queue[dict[str, object]] = asyncio.Queue()
    listening = Listening(
        Terms("server", Limits()),
        REGISTRY,
        identity.doorkeeper,
        lambda link: link.start(lambda envelope: None, lambda reason: None),
        tls or identity.listener_tls,
        news=lambda event, fields: told.put_nowait(fields),
    )
    listener = Listener(listening)
    await listener.open("127.0.0.1", 0)
    try:
        yield Door(listener, identity, told)
    finally:
        await listener.close()
        assert not len(listener.admission)


async def knock(
    endpoint: Endpoint,
    credentials: Credentials,
    tls: DialerTLS | None,
    node: str = "site-1",
    certificate: bytes | None = None,
) -> Opened:
    """Dial and say the first words, once."""
    pipe = await dial("fast", endpoint, tls)
    connection = Connection(pipe, first_words_codec())
    try:
        return await introduce(
            connection, Terms(node, Limits()), credentials, b"", (0, 0), certificate
        )
    finally:
        connection.close("the test has seen enough")


def maker(context: ssl.SSLContext) -> DialerTLS:
    """Gives the one context whatever it is asked for."""

    def make(protocols: object) -> ssl.SSLContext:
        context.set_alpn_protocols([ALPN])
        return context

    return make


def bare(authority: Authority) -> ssl.SSLContext:
    """A client's context that shows nothing."""
    return ssl.create_default_context(cafile=authority.roots)


# Certificates -----------------------------------------------------------------


def test_a_node_with_a_good_certificate_comes_in(
    run: Callable[[Main], None], authority: Authority, server: KeyFiles
) -> None:
    site = NodeIdentity(authority.issue("site", "site-1"))

    async def main() -> None:
        async with door(server) as at:
            opened = await knock(
                at.endpoint, site.credentials, site.dialer_tls, certificate=site.certificate
            )
            assert opened.peer == "server"
            assert [link.peer for link in at.listener.sessions.values()] == ["site-1"]
            assert not at.listener.refusals.counts

    run(main)


def expired(authority: Authority, tmp_path: Path) -> KeyFiles:
    return authority.issue("site", "site-1", ends=-HOUR / 2)


def not_yet(authority: Authority, tmp_path: Path) -> KeyFiles:
    return authority.issue("site", "site-1", begins=HOUR / 2)


def foreign(authority: Authority, tmp_path: Path) -> KeyFiles:
    return replace(Authority(tmp_path).issue("site", "site-1"), roots=authority.roots)


def for_listening(authority: Authority, tmp_path: Path) -> KeyFiles:
    return authority.issue("server", "server-2", usages=[SERVER])


def servers_own_kind(authority: Authority, tmp_path: Path) -> KeyFiles:
    return authority.issue("site", "x", uris=["spiffe://hospitals.example/server/server-2"])


def nobody(authority: Authority, tmp_path: Path) -> KeyFiles:
    uris = [f"spiffe://hospitals.example/site/site-{n}" for n in (1, 2)]
    return authority.issue("site", "site-1", uris=uris)


def of_another_federation(authority: Authority, tmp_path: Path) -> KeyFiles:
    return authority.issue("site", "site-1", uris=["spiffe://banks.example/site/site-1"])


def other_sites(authority: Authority, tmp_path: Path) -> KeyFiles:
    return authority.issue("site", "site-2", common_name="site-1")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (expired, "expired"),
        (not_yet, "expired"),
        (foreign, "wrong-authority"),
        (for_listening, "wrong-kind"),
        (servers_own_kind, "wrong-kind"),
        (nobody, "identity"),
        (of_another_federation, "federation"),
        (other_sites, "identity"),
    ],
)
def test_a_bad_certificate_is_refused_and_counted_by_its_reason(
    run: Callable[[Main], None],
    authority: Authority,
    server: KeyFiles,
    tmp_path: Path,
    bad: Callable[[Authority, Path], KeyFiles],
    reason: str,
) -> None:
    files = bad(authority, tmp_path)
    credentials = NodeIdentity(authority.issue("site", "site-1")).credentials
    make = client_context_maker(files)

    async def main() -> None:
        async with door(server) as at:
            with pytest.raises((LinkClosed, Refused, OSError)):
                await knock(at.endpoint, credentials, make)
            assert "127.0.0.1:" in await at.refused(reason)

    run(main)


def test_without_a_certificate_nobody_comes_in(
    run: Callable[[Main], None], authority: Authority, server: KeyFiles
) -> None:
    credentials = NodeIdentity(authority.issue("site", "site-1")).credentials

    async def main() -> None:
        async with door(server) as at:
            with pytest.raises(Refused, match="shows no certificate"):
                await knock(at.endpoint, credentials, maker(bare(authority)))
            assert "site-1" in await at.refused("no-certificate")

    run(main)


def test_tls_itself_may_demand_a_certificate(
    run: Callable[[Main], None], authority: Authority, server: KeyFiles
) -> None:
    credentials = NodeIdentity(authority.issue("site", "site-1")).credentials

    async def main() -> None:
        async with door(server, tls=server_context(server, required=True)) as at:
            with pytest.raises((LinkClosed, OSError)):
                await knock(at.endpoint, credentials, maker(bare(authority)))
            await at.refused("no-certificate")

    run(main)


def test_what_the_authority_has_revoked_is_refused_by_tls(
    run: Callable[[Main], None], tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("site", "site-1")
    site = NodeIdentity(files)
    server = replace(authority.issue("server", "server"), revoked=authority.revoke(files))

    async def main() -> None:
        async with door(server) as at:
            with pytest.raises((LinkClosed, OSError)):
                await knock(at.endpoint, site.credentials, site.dialer_tls)
            await at.refused("revoked")

    run(main)


def test_nobody_comes_in_while_it_is_not_known_who_is_revoked(
    run: Callable[[Main], None], tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    site = NodeIdentity(authority.issue("site", "site-1"))
    server = replace(authority.issue("server", "server"), revoked=authority.revocations())
    identity = NodeIdentity(server)
    authority.revocations(due=timedelta(seconds=-1))

    async def main() -> None:
        async with door(server, identity) as at:
            with pytest.raises((LinkClosed, OSError)):
                await knock(at.endpoint, site.credentials, site.dialer_tls)
            await at.refused("no-revocations")

    run(main)


def test_revoking_a_node_ends_its_session_and_keeps_it_out(
    run: Callable[[Main], None], authority: Authority, server: KeyFiles
) -> None:
    files = authority.issue("site", "site-1")
    site = NodeIdentity(files)

    async def main() -> None:
        async with door(server) as at:
            lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            there: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            refused: asyncio.Future[object] = asyncio.get_running_loop().create_future()

            def opened(link: SessionLink) -> None:
                link.start(lambda envelope: None, lost.set_result)
                there.set_result(None)

            def news(event: str, fields: dict[str, object]) -> None:
                if event == "link.refused" and not refused.done():
                    refused.set_result(fields["code"])

            dialing = Dialing(
                at.endpoint,
                Terms("site-1", Limits()),
                REGISTRY,
                site.credentials,
                opened,
                site.dialer_tls,
                site.certificate,
                news=news,
            )
            running = asyncio.create_task(Dialer(dialing).run())
            await there
            assert len(at.listener.sessions) == 1
            serial = leaf_of(files).serial_number
            for name in at.identity.doorkeeper.revoke_serial(serial, "the key has leaked"):
                at.listener.revoke(name, "the key has leaked")
            assert "leaked" in await lost
            assert not at.listener.sessions
            assert await refused == "revoked"
            assert at.listener.refusals.counts == {"revoked": 2}
            running.cancel()
            await asyncio.wait([running])

    run(main)


# TLS --------------------------------------------------------------------------


def test_tls_1_2_is_refused(
    run: Callable[[Main], None], authority: Authority, server: KeyFiles
) -> None:
    site = NodeIdentity(authority.issue("site", "site-1"))
    old = bare(authority)
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    async def main() -> None:
        async with door(server) as at:
            with pytest.raises(OSError):  # noqa: PT011 - asyncio's TLS sends no alert
                await knock(at.endpoint, site.credentials, maker(old))
            await at.refused("tls-version")

    run(main)


@pytest.mark.parametrize("protocols", [["covey/9"], []])
def test_the_fast_door_opens_to_its_name_in_alpn_alone(
    run: Callable[[Main], None], authority: Authority, server: KeyFiles, protocols: list[str]
) -> None:
    files = authority.issue("site", "site-1")
    site = NodeIdentity(files)
    context = client_context_maker(files)(protocols)

    async def main() -> None:
        async with door(server) as at:
            with pytest.raises(LinkClosed, match="does not speak"):
                await knock(at.endpoint, site.credentials, lambda names: context)
        async with door(server) as at:
            loop = asyncio.get_running_loop()
            _, pipe = await loop.create_connection(
                lambda: FastPipe(lambda made: None),
                "127.0.0.1",
                at.listener.port,
                ssl=context,
                server_hostname="localhost",
            )
            connection = Connection(pipe, first_words_codec())
            terms = Terms("site-1", Limits())
            with pytest.raises(LinkClosed):
                await introduce(connection, terms, site.credentials, b"", (0, 0), None)
            await at.refused("alpn")

    run(main)


def test_what_is_no_tls_at_all_is_refused(run: Callable[[Main], None], server: KeyFiles) -> None:
    async def main() -> None:
        async with door(server) as at:
            reader, writer = await asyncio.open_connection("127.0.0.1", at.listener.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.read()
            writer.close()
            await at.refused("not-tls")

    run(main)


def test_who_hangs_up_in_the_middle_of_tls_is_counted(
    run: Callable[[Main], None], server: KeyFiles
) -> None:
    async def main() -> None:
        async with door(server) as at:
            _, writer = await asyncio.open_connection("127.0.0.1", at.listener.port)
            writer.write(b"\x16\x03\x01")
            writer.close()
            await at.refused("tls-left")

    run(main)


def test_who_does_not_trust_the_listener_says_so_and_is_counted(
    run: Callable[[Main], None], server: KeyFiles, tmp_path: Path
) -> None:
    context = bare(Authority(tmp_path))

    def speak(port: int) -> None:
        with (
            socket.create_connection(("127.0.0.1", port)) as sock,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            context.wrap_socket(sock, server_hostname="localhost")

    async def main() -> None:
        async with door(server) as at:
            await asyncio.to_thread(speak, at.listener.port)
            await at.refused("tls-alert")

    run(main)


def test_a_site_does_not_believe_a_site_that_listens(
    run: Callable[[Main], None], authority: Authority, server: KeyFiles
) -> None:
    """Its certificate is of the same authority, and for this host."""
    site = NodeIdentity(authority.issue("site", "site-1"))
    uris = ["spiffe://hospitals.example/site/server"]
    posing = authority.issue("server", "server", uris=uris)

    async def main() -> None:
        async with door(server, tls=server_context(posing)) as at:
            with pytest.raises(Refused, match="may not listen") as caught:
                await knock(at.endpoint, site.credentials, site.dialer_tls)
            assert caught.value.code == "wrong-kind"

    run(main)


# Envelopes --------------------------------------------------------------------


def test_an_envelope_in_anothers_name_ends_the_session_and_is_counted(
    run: Callable[[Main], None], authority: Authority, server: KeyFiles
) -> None:
    site = NodeIdentity(authority.issue("site", "site-1"))
    registry = Registry(*runtime_messages())
    registry.freeze()

    async def main() -> None:
        losses: asyncio.Queue[str] = asyncio.Queue()
        links: asyncio.Queue[SessionLink] = asyncio.Queue()

        def opened(link: SessionLink) -> None:
            link.start(lambda envelope: None, losses.put_nowait)
            links.put_nowait(link)

        async with System(
            "server", registry=registry, listen="127.0.0.1:0", identity=NodeIdentity(server)
        ) as system:
            endpoint = Endpoint("localhost", system.port, ("fast",), encrypted=True)
            dialing = Dialing(
                endpoint,
                Terms("site-1", Limits()),
                registry,
                site.credentials,
                opened,
                site.dialer_tls,
                site.certificate,
            )
            running = asyncio.create_task(Dialer(dialing).run())
            link = await links.get()
            link.send(Envelope(Kind.TELL, "server/actor", "site-2/actor"))
            assert "in the name of site-2/actor" in await losses.get()
            assert system.wiring is not None
            assert system.wiring.listeners[0].refusals.counts == {"sender": 1}
            running.cancel()
            await asyncio.wait([running])

    run(main)


# Tokens -----------------------------------------------------------------------


class Showing:
    """Credentials of a site that is behind a proxy, but show another token.

    Args:
        inner: The site's.
        token: Makes the token, of the binding.
    """

    def __init__(self, inner: Credentials, token: Callable[[bytes], bytes]) -> None:
        self._inner = inner
        self._token = token
        self.check_listener = inner.check_listener
        self.attest = inner.attest

    def token(self, binding: bytes, node: str) -> bytes:
        return self._token(binding)


@asynccontextmanager
async def proxy(upstream: int, context: ssl.SSLContext) -> AsyncGenerator[Endpoint]:
    """Ends TLS like a load balancer, and hands the bytes on."""
    relays: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up, down = await asyncio.open_connection("127.0.0.1", upstream)
        try:
            await asyncio.gather(copy(reader, down), copy(up, writer))
        finally:
            down.close()
            writer.close()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(relay(reader, writer))
        relays.add(task)
        task.add_done_callback(relays.discard)

    context.set_alpn_protocols([ALPN])
    balancer = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=context)
    port: int = balancer.sockets[0].getsockname()[1]
    try:
        yield Endpoint("localhost", port, ("fast",), encrypted=True)
    finally:
        balancer.close()
        for task in list(relays):
            task.cancel()
        await asyncio.gather(*relays, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Behind:
    """A listener behind a proxy, and a site that knows the way."""

    at: Door
    endpoint: Endpoint
    site: NodeIdentity

    async def show(self, token: Callable[[bytes], bytes], node: str = "site-1") -> Opened:
        """Knock with a token of one's own making."""
        credentials = Showing(self.site.credentials, token)
        return await knock(self.endpoint, credentials, self.site.dialer_tls, node)


@asynccontextmanager
async def behind(authority: Authority, folder: Path) -> AsyncGenerator[Behind]:
    """A proxy with a certificate of an authority of its own, and what is before and behind it."""
    outside = Authority(folder)
    balancer = outside.issue("server", "balancer")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(balancer.chain, balancer.key)
    server = authority.issue("server", "server")
    identity = NodeIdentity(server, tokens=True, plaintext=True)
    site = NodeIdentity(authority.issue("site", "site-1"), proxy=Proxy(outside.roots))
    async with door(server, identity) as at, proxy(at.listener.port, context) as endpoint:
        yield Behind(at, endpoint, site)


def test_a_node_behind_a_proxy_comes_in_by_a_token(
    run: Callable[[Main], None], authority: Authority, tmp_path: Path
) -> None:
    async def main() -> None:
        async with behind(authority, tmp_path) as there:
            site = there.site
            opened = await knock(
                there.endpoint, site.credentials, site.dialer_tls, certificate=site.certificate
            )
            assert opened.peer == "server"
            assert [link.peer for link in there.at.listener.sessions.values()] == ["site-1"]
            assert not there.at.listener.refusals.counts

    run(main)


def test_a_token_that_was_used_lets_nobody_in_again(
    run: Callable[[Main], None], authority: Authority, tmp_path: Path
) -> None:
    signer = Signer(authority.issue("site", "site-1"))
    made: list[bytes] = []

    def once(binding: bytes) -> bytes:
        if not made:
            made.append(signer.sign(binding, time.time()))
        return made[0]

    async def main() -> None:
        async with behind(authority, tmp_path) as there:
            await there.show(once)
            with pytest.raises(Refused, match="used before"):
                await there.show(once)
            assert there.at.listener.refusals.counts == {"token-replayed": 1}
            line = await there.at.said.get()
            assert line["reason"] == "token-replayed"
            assert there.at.said.empty()

    run(main)


def test_a_token_that_is_not_for_this_is_refused_and_counted_by_its_reason(
    run: Callable[[Main], None], authority: Authority, tmp_path: Path
) -> None:
    own = Signer(authority.issue("site", "site-1"))
    others = Signer(authority.issue("site", "site-2"))
    foreign = Signer(Authority(tmp_path / "foreign").issue("site", "site-1"))
    listening = Signer(authority.issue("server", "server-2"))
    bad: dict[str, Callable[[bytes], bytes]] = {
        "token-session": lambda binding: own.sign(bytes(32), time.time()),
        "token-expired": lambda binding: own.sign(binding, time.time() - 301),
        "token-name": lambda binding: others.sign(binding, time.time()),
        "wrong-authority": lambda binding: foreign.sign(binding, time.time()),
        "wrong-kind": lambda binding: listening.sign(binding, time.time()),
        "token": lambda binding: b"",
    }

    async def main() -> None:
        for reason, token in bad.items():
            async with behind(authority, tmp_path / reason) as there:
                with pytest.raises(Refused) as caught:
                    await there.show(token)
                assert caught.value.code == reason
                await there.at.refused(reason)

    run(main)


def test_a_node_revoked_by_name_cannot_come_in_by_a_token(
    run: Callable[[Main], None], authority: Authority, tmp_path: Path
) -> None:
    async def main() -> None:
        async with behind(authority, tmp_path) as there:
            there.at.identity.doorkeeper.revoke("site-1", "it has left")
            with pytest.raises(Refused, match="it has left"):
                await knock(there.endpoint, there.site.credentials, there.site.dialer_tls)
            await there.at.refused("revoked")

    run(main)


def test_no_token_is_signed_for_a_listener_that_tls_reaches(
    run: Callable[[Main], None], authority: Authority, server: KeyFiles
) -> None:
    """A listener that asks although it sees the certificate wants to use it elsewhere."""
    site = NodeIdentity(authority.issue("site", "site-1"))
    identity = NodeIdentity(server, tokens=True)

    async def main() -> None:
        async with door(server, identity) as at:
            with pytest.raises(Refused, match="does TLS end at a proxy"):
                await knock(at.endpoint, site.credentials, maker(bare(authority)))
            await at.refused("left")

    run(main)
