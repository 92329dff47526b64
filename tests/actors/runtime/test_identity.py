"""Who is let in, who is believed, and by which word each is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import uvloop

from covey.actors.runtime import Actor, Message, System, handles, runtime_messages
from covey.actors.runtime.identity import NodeIdentity, Proxy
from covey.actors.runtime.wiring import Identity
from covey.security.errors import BadKeyFiles
from covey.security.tls import KeyFiles
from covey.security.tokens import LIFETIME_S, Signer
from covey.transport import Record, Refused, Registry
from covey.transport.doors.pipe import Presented
from covey.transport.sessions.handshake import Credentials, Doorkeeper
from tests.pki import CLIENT, Authority, der_of, leaf_of

ADDRESS = "192.0.2.7:4711"
BINDING = bytes(range(32))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> KeyFiles:
    return authority.issue("server", "server")


def shown(files: KeyFiles | None, *, encrypted: bool = True) -> Presented:
    certificate = None if files is None else der_of(files)
    return Presented("fast", ADDRESS, certificate, encrypted=encrypted)


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.code


def test_a_node_is_whoever_its_certificate_names(authority: Authority, server: KeyFiles) -> None:
    keeper: Doorkeeper = NodeIdentity(server).doorkeeper
    files = authority.issue("site", "site-1", common_name="site-9")
    assert keeper.name_of(shown(files), "site-9") == "site-1"


def test_each_certificate_that_is_not_believed_has_its_word(
    authority: Authority, server: KeyFiles, tmp_path: Path
) -> None:
    keeper = NodeIdentity(server).doorkeeper

    def word(files: KeyFiles | None) -> str:
        return code_of(lambda: keeper.name_of(shown(files), "site-1"))

    assert word(None) == "no-certificate"
    assert word(authority.issue("server", "server-2", usages=[CLIENT])) == "wrong-kind"
    assert word(authority.issue("site", "server")) == "wrong-kind"
    assert word(authority.issue("site", "site-1", uris=[])) == "identity"
    other = authority.issue("site", "site-1", uris=["spiffe://banks.example/site/site-1"])
    assert word(other) == "federation"
    keeper.revoke("site-3", "it was stolen")
    assert word(authority.issue("site", "site-3")) == "revoked"
    plain = code_of(lambda: keeper.name_of(shown(None, encrypted=False), "site-1"))
    assert plain == "plaintext"


def test_a_listener_may_take_fewer_kinds(authority: Authority, server: KeyFiles) -> None:
    keeper = NodeIdentity(server, kinds=["relay"]).doorkeeper
    assert keeper.name_of(shown(authority.issue("relay", "relay-1")), "relay-1") == "relay-1"
    site = authority.issue("site", "site-1")
    assert code_of(lambda: keeper.name_of(shown(site), "site-1")) == "wrong-kind"


def test_revoking_tells_whose_sessions_end(authority: Authority, server: KeyFiles) -> None:
    keeper = NodeIdentity(server).doorkeeper
    files = authority.issue("site", "site-1")
    keeper.name_of(shown(files), "site-1")
    assert keeper.revoke_serial(leaf_of(files).serial_number, "the key has leaked") == {"site-1"}
    assert code_of(lambda: keeper.name_of(shown(files), "site-1")) == "revoked"
    assert keeper.name_of(shown(authority.issue("site", "site-1")), "site-1") == "site-1"
    assert keeper.revoke("site-1", "it has left") == {"site-1"}
    keeper.allow("site-1")
    assert keeper.name_of(shown(authority.issue("site", "site-1")), "site-1") == "site-1"


def test_the_authoritys_list_counts_for_tokens_too(authority: Authority, server: KeyFiles) -> None:
    files = authority.issue("site", "site-1")
    listed = replace(server, revoked=authority.revoke(files))
    keeper = NodeIdentity(listed, tokens=True).doorkeeper
    token = Signer(files).sign(BINDING, time.time())
    assert code_of(lambda: keeper.check_token(token, BINDING, "site-1")) == "revoked"


def test_a_token_is_wanted_where_tls_shows_nobody_and_tokens_are_taken(
    authority: Authority, server: KeyFiles
) -> None:
    site = NodeIdentity(authority.issue("site", "site-1"), proxy=Proxy())
    keeper = NodeIdentity(server, tokens=True, plaintext=True).doorkeeper
    assert keeper.name_of(shown(None, encrypted=False), "site-1") is None
    token = site.credentials.token(BINDING, "site-1")
    assert keeper.check_token(token, BINDING, "site-1") == "site-1"
    assert site.certificate is None


def test_each_token_that_is_not_believed_has_its_word(
    authority: Authority, server: KeyFiles, tmp_path: Path
) -> None:
    now = [time.time()]
    keeper = NodeIdentity(server, tokens=True, clock=lambda: now[0]).doorkeeper
    signer = Signer(authority.issue("site", "site-1"))

    def word(token: bytes, binding: bytes = BINDING, name: str = "site-1") -> str:
        return code_of(lambda: keeper.check_token(token, binding, name))

    token = signer.sign(BINDING, now[0])
    assert word(token, bytes(32)) == "token-session"
    assert keeper.check_token(token, BINDING, "site-1") == "site-1"
    assert word(token, bytes(32)) == "token-replayed"
    assert word(token, name="site-2") == "token-name"
    assert word(b"") == "token"
    assert word(b"nothing") == "token"
    stranger = Authority(tmp_path).issue("site", "site-1")
    assert word(Signer(stranger).sign(BINDING, now[0])) == "wrong-authority"
    relay = Signer(authority.issue("relay", "server")).sign(BINDING, now[0])
    assert word(relay, name="server") == "wrong-kind"
    now[0] += LIFETIME_S
    assert word(token) == "token-expired"
    # What is too old to be used again is forgotten.
    now[0] += 1
    other = bytes(reversed(BINDING))
    keeper.check_token(signer.sign(other, now[0]), other, "site-1")
    assert word(token, bytes(32)) == "token-session"


def test_a_listener_is_believed_if_its_certificate_is_a_listeners_of_that_name(
    authority: Authority, server: KeyFiles
) -> None:
    credentials: Credentials = NodeIdentity(authority.issue("site", "site-1")).credentials
    credentials.check_listener(shown(server), "server")

    def word(files: KeyFiles | None, node: str) -> str:
        return code_of(lambda: credentials.check_listener(shown(files), node))

    assert word(server, "relay-1") == "wrong-kind"
    assert word(authority.issue("site", "site-2"), "site-2") == "wrong-kind"
    assert word(None, "server") == "wrong-kind"
    other = authority.issue("server", "server", uris=["spiffe://banks.example/server/server"])
    assert word(other, "server") == "federation"


def test_no_token_is_signed_for_a_listener_that_has_seen_the_certificate(
    authority: Authority,
) -> None:
    """It could be used in this node's name at another listener, which takes tokens."""
    credentials = NodeIdentity(authority.issue("site", "site-1")).credentials
    assert code_of(lambda: credentials.token(BINDING, "site-1")) == "identity"


def test_behind_a_proxy_its_tls_is_enough_but_there_must_be_tls(authority: Authority) -> None:
    credentials = NodeIdentity(authority.issue("site", "site-1"), proxy=Proxy()).credentials
    credentials.check_listener(shown(None), "server")
    plain = shown(None, encrypted=False)
    assert code_of(lambda: credentials.check_listener(plain, "server")) == "plaintext"
    credentials.check_listener(replace(plain, address="127.0.0.1:80"), "server")


def test_evidence_is_neither_asked_for_nor_given(authority: Authority, server: KeyFiles) -> None:
    node = NodeIdentity(server)
    assert node.doorkeeper.evidence == ()
    assert code_of(lambda: node.doorkeeper.check_evidence("snp", b"", BINDING, "a")) == "evidence"
    assert code_of(lambda: node.credentials.attest(("snp",), BINDING)) == "evidence"


def test_relays_and_whoever_was_dialed_speak_for_others(
    authority: Authority, server: KeyFiles
) -> None:
    listening = NodeIdentity(server)
    for kind, name in (("relay", "relay-1"), ("site", "site-1")):
        listening.doorkeeper.name_of(shown(authority.issue(kind, name)), name)
    assert listening.carries("relay-1")
    assert not listening.carries("site-1")
    assert not listening.carries("nobody")
    site: Identity = NodeIdentity(authority.issue("site", "site-1"))
    assert not site.carries("server")
    site.credentials.check_listener(shown(server), "server")
    assert site.carries("server")


def test_what_cannot_work_is_said_at_once(authority: Authority, server: KeyFiles) -> None:
    with pytest.raises(ValueError, match="tokens"):
        NodeIdentity(server, plaintext=True)
    with pytest.raises(BadKeyFiles, match="URIs"):
        NodeIdentity(authority.issue("site", "site-1", uris=[]))
    site: Identity = NodeIdentity(authority.issue("site", "site-1"))
    assert site.certificate is not None
    with pytest.raises(BadKeyFiles, match="does not listen"):
        _ = site.listener_tls
    assert NodeIdentity(server, plaintext=True, tokens=True).listener_tls is None
    assert NodeIdentity(server).pem().roots == authority.roots.read_bytes()


@dataclass(frozen=True, slots=True)
class Sum(Record, id=1201):
    number: int


@dataclass(frozen=True, slots=True)
class Double(Message["Doubler", Sum], id=1200):
    number: int


class Doubler(Actor):
    """Doubles."""

    @handles
    def double(self, msg: Double) -> Sum:
        return Sum(2 * msg.number)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_systems_know_each_other_by_their_certificates(
    authority: Authority,
    server: KeyFiles,
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    registry = Registry(*runtime_messages(), Double, Sum)
    registry.freeze()
    site = NodeIdentity(authority.issue("site", "site-1"))

    async def main() -> None:
        async with asyncio.timeout(20):
            async with System(
                "server", registry=registry, listen="127.0.0.1:0", identity=NodeIdentity(server)
            ) as up:
                await up.spawn(Doubler, name="doubler")
                url = f"covey://localhost:{up.port}"
                async with System("site-1", registry=registry, connect=url, identity=site) as down:
                    found = down.lookup("server/doubler", Doubler)
                    assert await found.ask(Double(21), timeout=10) == Sum(42)
                with pytest.raises(Refused, match="calls itself"):
                    async with System("site-2", registry=registry, connect=url, identity=site):
                        pass

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
