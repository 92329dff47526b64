"""The first words: versions, limits, proofs, and everything else that may be said instead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.actors.runtime.testing import simulate
from covey.transport import Envelope, Kind, Limits, LinkClosed, Record, RemoteProtocolError
from covey.transport.doors.pipe import Presented
from covey.transport.errors import Refused
from covey.transport.sessions.connection import Connection
from covey.transport.sessions.handshake import (
    HIGHEST,
    LOWEST,
    Opened,
    Terms,
    agreed,
    binding_of,
    farewell,
    first_words_codec,
    introduce,
    receive,
)
from covey.transport.sessions.messages import Bounds, Challenge, Farewell, Hello, Proof, Welcome

from .nodes import CODEC, Believing, control, end, terms
from .pipes import Weather, pipe_pair

BOUNDS = Bounds(1 << 20, 8 << 20)
HELLO = Hello(LOWEST, HIGHEST, "site-1", b"n" * 32, BOUNDS)
WELCOME = Welcome(HIGHEST, "server", b"m" * 32, BOUNDS, b"s" * 16, (0, 0), 180.0)
FIRST = first_words_codec()


def words(*messages: Record, kind: Kind = Kind.HELLO) -> bytes:
    return b"".join(
        bytes(piece)
        for message in messages
        for piece in FIRST.encode(Envelope(kind, message=message))
    )


class Wanting(Believing):
    """A doorkeeper that wants a token, and may want evidence; and who can give both."""

    def __init__(self, *evidence: str) -> None:
        self.evidence = evidence
        self.seen: list[tuple[str, bytes]] = []

    def name_of(self, presented: Presented, claimed: str) -> str | None:
        return None

    def check_token(self, token: bytes, binding: bytes, claimed: str) -> str:
        if token != b"signed" + binding:
            raise Refused("server", "identity", "the token is not good")
        return claimed

    def check_evidence(self, kind: str, evidence: bytes, binding: bytes, name: str) -> None:
        self.seen.append((kind, evidence))
        if evidence != b"quote" + binding:
            raise Refused("server", "evidence", f"{kind} is not good")

    def token(self, binding: bytes, node: str) -> bytes:
        return b"signed" + binding

    def attest(self, kinds: tuple[str, ...], binding: bytes) -> tuple[str, bytes]:
        return kinds[0], b"quote" + binding


class Naming(Believing):
    """Knows peers by their connections."""

    def name_of(self, presented: Presented, claimed: str) -> str | None:
        return "site-2"


class Doubting(Believing):
    """Believes no listener."""

    def check_listener(self, presented: Presented, node: str) -> None:
        raise Refused(node, "identity", "its certificate names another")


@dataclass
class Talk:
    """What both sides made of each other."""

    dialer: Opened | Exception
    listener: Opened | Exception


async def outcome(work: Awaitable[Opened]) -> Opened | Exception:
    try:
        async with asyncio.timeout(5):
            return await work
    except Exception as error:
        return error


async def talk(
    keeper: Believing,
    credentials: Believing,
    *,
    near: Terms | None = None,
    far: Terms | None = None,
) -> Talk:
    """Both sides, as the listener and the dialer do it."""
    one, other = pipe_pair(Weather(piece_bytes=7))
    dialing, listening = Connection(one, FIRST), Connection(other, FIRST)

    async def listener() -> Opened:
        try:
            opened = await receive(listening, far or terms("server"), keeper)
        except Refused as error:
            farewell(listening, error.code, error.text)
            raise
        listening.send(Envelope(Kind.WELCOME, message=WELCOME))
        return opened

    dialer = introduce(dialing, near or terms("site-1"), credentials, b"", (0, 0), None)
    return Talk(*await asyncio.gather(outcome(dialer), outcome(listener())))


def refusal(outcome: Opened | Exception) -> str:
    assert isinstance(outcome, Refused), outcome
    return outcome.code


def test_both_sides_agree_on_names_and_on_the_smaller_limits() -> None:
    async def main() -> None:
        small = Terms("site-1", Limits(meta_bytes=10_000, body_bytes=1 << 30))
        both = await talk(Believing(), Believing(), near=small)
        assert isinstance(both.dialer, Opened)
        assert isinstance(both.listener, Opened)
        assert (both.dialer.peer, both.listener.peer) == ("server", "site-1")
        assert both.listener.limits.meta_bytes == 10_000
        assert both.listener.limits.body_bytes == 8 << 20
        assert both.dialer.limits == both.listener.limits

    simulate(main)


@pytest.mark.parametrize("evidence", [(), ("tdx", "sev")])
def test_a_proof_covers_both_nonces_and_the_name(evidence: tuple[str, ...]) -> None:
    async def main() -> None:
        keeper = Wanting(*evidence)
        both = await talk(keeper, Wanting())
        assert isinstance(both.listener, Opened), both
        assert isinstance(both.dialer, Opened)
        assert [kind for kind, _ in keeper.seen] == list(evidence[:1])

    simulate(main)


def test_a_binding_changes_with_everything_that_it_covers() -> None:
    challenge = Challenge(b"c" * 32, True, b"f" * 32)
    bindings = {
        binding_of(HELLO, challenge),
        binding_of(replace(HELLO, nonce=b"x" * 32), challenge),
        binding_of(replace(HELLO, node="site-2"), challenge),
        binding_of(HELLO, replace(challenge, nonce=b"x" * 32)),
        binding_of(HELLO, replace(challenge, certificate=b"")),
        # Lengths are covered too: bytes cannot move from one part to the next.
        binding_of(replace(HELLO, node="site-1f"), replace(challenge, certificate=b"f" * 31)),
    }
    assert len(bindings) == 6


@pytest.mark.parametrize("code", ["identity", "evidence"])
def test_a_bad_proof_is_refused_and_the_dialer_is_told(code: str) -> None:
    class Forging(Wanting):
        def token(self, binding: bytes, node: str) -> bytes:
            return b"signed" + (bytes(32) if code == "identity" else binding)

        def attest(self, kinds: tuple[str, ...], binding: bytes) -> tuple[str, bytes]:
            return "tdx", b"quote" + bytes(32)

    async def main() -> None:
        both = await talk(Wanting("tdx"), Forging())
        assert (refusal(both.dialer), refusal(both.listener)) == (code, code)

    simulate(main)


def test_who_calls_itself_by_anothers_name_is_refused() -> None:
    async def main() -> None:
        both = await talk(Naming(), Believing())
        assert refusal(both.dialer) == "identity"
        assert "site-2 calls itself site-1" in str(both.dialer)

    simulate(main)


def test_a_listener_that_is_not_believed_is_left() -> None:
    async def main() -> None:
        both = await talk(Believing(), Doubting())
        assert refusal(both.dialer) == "identity"

    simulate(main)


@pytest.mark.parametrize("side", ["near", "far"])
def test_too_small_limits_are_refused_by_either_side(side: str) -> None:
    async def main() -> None:
        small = Terms("site-1", Limits(meta_bytes=4095))
        if side == "near":
            both = await talk(Believing(), Believing(), near=small)
            assert (refusal(both.dialer), refusal(both.listener)) == ("limits", "limits")
        with pytest.raises(Refused) as info:
            agreed(Limits(), Bounds(4095, 0), "server")
        assert info.value.code == "limits"
        assert agreed(Limits(), Bounds(4096, 0), "server").body_bytes == 0

    simulate(main)


# What a listener hears ------------------------------------------------------


async def heard(data: bytes, keeper: Believing | None = None) -> tuple[Opened | Exception, bytes]:
    """What a listener makes of bytes, and what it says."""
    one, other = pipe_pair(Weather(piece_bytes=1000))
    said = Recorder()
    one.start(said)
    connection = Connection(other, FIRST)
    one.write([data])

    async def listener() -> Opened:
        try:
            return await receive(connection, terms("server"), keeper or Believing())
        except Refused as error:
            farewell(connection, error.code, error.text)
            raise

    found = await outcome(listener())
    await asyncio.sleep(2)
    return found, bytes(said.data)


class Recorder:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.reason: str | None = None

    def destination(self) -> memoryview | None:
        return None

    def filled(self, count: int) -> None:
        raise AssertionError

    def take(self, data: memoryview) -> None:
        self.data += data

    def writable(self) -> None:
        pass

    def ended(self, reason: str) -> None:
        self.reason = reason


@pytest.mark.parametrize(
    ("lowest", "highest", "told"),
    [
        (LOWEST, HIGHEST + 1, None),
        (LOWEST - 1, HIGHEST, None),
        (LOWEST - 1, HIGHEST + 5, None),
        (HIGHEST + 1, HIGHEST + 2, "an older covey"),
        (LOWEST - 1, LOWEST - 1, "a newer covey"),
    ],
)
def test_a_node_a_version_apart_talks_or_is_told_why_not(
    lowest: int, highest: int, told: str | None
) -> None:
    async def main() -> None:
        found, said = await heard(words(replace(HELLO, lowest=lowest, highest=highest)))
        if told is None:
            assert isinstance(found, Opened)
            return
        assert refusal(found) == "version"
        assert f"install {told} there".encode() in said

    simulate(main)


@pytest.mark.parametrize(
    "data",
    [
        words(replace(HELLO, nonce=b"n" * 31)),
        words(replace(HELLO, node="")),
        words(replace(HELLO, node="x" * 256)),
        words(replace(HELLO, node="site\n1")),
        words(WELCOME),
        words(Proof()),
        b"".join(bytes(p) for p in FIRST.encode(Envelope(Kind.PING))),
        b"".join(bytes(p) for p in CODEC.encode(control(1))),
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        bytes(100),
    ],
    ids=[
        "short nonce", "no name", "long name", "a name of two lines", "welcome", "proof",
        "no message", "an application's message", "HTTP", "zeros",
    ],
)  # fmt: skip
def test_what_is_no_hello_is_a_fault_of_the_peer(data: bytes) -> None:
    async def main() -> None:
        found, said = await heard(data)
        assert isinstance(found, RemoteProtocolError)
        assert said == b""  # `Listener.hold` is who says farewell to it

    simulate(main)


def test_a_first_word_that_is_too_long_is_refused_by_its_header() -> None:
    async def main() -> None:
        head = bytearray(words(HELLO)[:24])
        head[16:20] = (65 << 10).to_bytes(4, "big")
        found, _ = await heard(bytes(head))
        assert isinstance(found, RemoteProtocolError)
        assert "past limits" in str(found)

    simulate(main)


def test_another_word_than_a_proof_after_a_challenge_is_a_fault() -> None:
    async def main() -> None:
        found, said = await heard(words(HELLO, HELLO), Wanting())
        assert isinstance(found, RemoteProtocolError)
        assert len(said) > 24

    simulate(main)


def test_half_a_hello_and_then_silence_or_the_end() -> None:
    async def main() -> None:
        found, _ = await heard(words(HELLO)[:-1])
        assert isinstance(found, TimeoutError)
        one, other = pipe_pair()
        one.start(Recorder())
        connection = Connection(other, FIRST)
        one.write([words(HELLO)[:-1]])
        asyncio.get_running_loop().call_later(1, one.close)
        found = await outcome(receive(connection, terms("server"), Believing()))
        assert isinstance(found, LinkClosed)

    simulate(main)


# What a dialer hears --------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (WELCOME, None, ""),
        (Farewell("busy", "come back"), Refused, "come back"),
        (replace(WELCOME, version=HIGHEST + 1), RemoteProtocolError, "not offered"),
        (replace(WELCOME, version=LOWEST - 1), RemoteProtocolError, "not offered"),
        (replace(WELCOME, session=b"s" * 15), RemoteProtocolError, "session"),
        (replace(WELCOME, lease_s=0.0), RemoteProtocolError, "session"),
        (replace(WELCOME, lease_s=float("inf")), RemoteProtocolError, "session"),
        (replace(WELCOME, lease_s=float("nan")), RemoteProtocolError, "session"),
        (replace(WELCOME, node=""), RemoteProtocolError, "name"),
        (replace(WELCOME, bounds=Bounds(1, 1)), Refused, "limits"),
        (HELLO, RemoteProtocolError, "no welcome"),
        (Challenge(b"c" * 32, False, b"f" * 32), Refused, "another's certificate"),
    ],
)
def test_what_a_dialer_makes_of_the_answer(
    answer: Record, error: type[Exception] | None, text: str
) -> None:
    async def main() -> None:
        one, other = pipe_pair()
        other.start(Recorder())
        connection = Connection(one, FIRST)
        other.write([words(answer, kind=Kind.WELCOME)])
        found = await outcome(
            introduce(connection, terms("site-1"), Believing(), b"", (0, 0), None)
        )
        if error is None:
            assert isinstance(found, Opened)
        else:
            assert isinstance(found, error)
            assert text in str(found)

    simulate(main)


@pytest.mark.parametrize("piece_bytes", [1, 40, 256 << 10])
@pytest.mark.parametrize("ends", [False, True])
def test_what_comes_in_one_piece_with_the_welcome_is_not_lost(piece_bytes: int, ends: bool) -> None:
    async def main() -> None:
        one, other = pipe_pair(Weather(piece_bytes=piece_bytes))
        other.start(Recorder())
        frames = b""
        for number in range(5):
            envelope = control(number, 50_000)
            envelope.sequence = number + 1
            frames += b"".join(CODEC.encode(envelope))
        connection = Connection(one, FIRST)
        other.write([words(WELCOME, kind=Kind.WELCOME) + frames])
        if ends:
            other.close()
        opened = await introduce(connection, terms("site-1"), Believing(), b"", (0, 0), None)
        assert opened.welcome == WELCOME
        site = end("site-1", "server")
        site.start()
        site.link.adopt(connection, (0, 0))
        await asyncio.sleep(2)
        assert site.numbers == list(range(5))
        assert site.broken == (["closed by the peer"] if ends else [])

    simulate(main)


def test_while_nobody_asks_for_words_the_peer_is_made_to_wait() -> None:
    async def main() -> None:
        one, other = pipe_pair()
        one.start(Recorder())
        connection = Connection(other, FIRST)
        for _ in range(1000):
            one.write([words(HELLO) * 10])
            await asyncio.sleep(0)
        assert not one.is_writable
        assert len(connection._early) <= 256 << 10
        assert (await connection.next()).message == HELLO

    simulate(main)


def test_a_farewell_whose_text_is_too_long_is_said_in_short() -> None:
    async def main() -> None:
        one, other = pipe_pair()
        said = Recorder()
        one.start(said)
        farewell(Connection(other, FIRST), "identity", "x" * 100_000)
        await asyncio.sleep(2)
        assert b"refused" in said.data
        assert len(said.data) < 200
        assert said.reason is not None

    simulate(main)


# Anything -------------------------------------------------------------------


@st.composite
def almost_first_words(draw: st.DrawFn) -> bytes:
    """Good words, damaged somewhere, or something else altogether."""
    data = bytearray(
        words(
            *draw(st.lists(st.sampled_from([HELLO, WELCOME, Proof(b"t")]), min_size=1, max_size=3))
        )
    )
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.integers(0, 2)):
            case 0:
                data[at] = draw(st.integers(0, 255))
            case 1:
                data[at:at] = draw(st.binary(max_size=8))
            case _:
                del data[at + 1 : at + 1 + draw(st.integers(0, 30))]
    return bytes(data)


def check_anything(data: bytes) -> None:
    async def main() -> None:
        for keeper in (Believing(), Wanting("tdx")):
            found, _ = await heard(data, keeper)
            expected = (Opened, Refused, RemoteProtocolError, TimeoutError)
            assert isinstance(found, expected), repr(found)
        one, other = pipe_pair()
        other.start(Recorder())
        connection = Connection(one, FIRST)
        other.write([data])
        found = await outcome(introduce(connection, terms("site-1"), Wanting(), b"", (0, 0), None))
        assert isinstance(found, (Opened, Refused, RemoteProtocolError, TimeoutError)), repr(found)

    simulate(main)


ANYTHING = st.one_of(st.binary(max_size=300), almost_first_words())


@settings(max_examples=60, deadline=None)
@given(ANYTHING)
def test_whatever_is_said_first_ends_in_a_session_or_in_a_typed_error(data: bytes) -> None:
    check_anything(data)


@pytest.mark.soak
@settings(max_examples=20_000, deadline=None)
@given(ANYTHING)
def test_whatever_is_said_first_ends_well_many_times(data: bytes) -> None:
    check_anything(data)


def test_the_first_words_have_the_form_of_version_1() -> None:
    assert words(HELLO)[:3] == b"cv\x01"
