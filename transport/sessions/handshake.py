"""Handshake: the first words of a connection, on both sides.

```
dialer                          listener
  HELLO {versions, node, ...}  ->
                               <-  CHALLENGE {nonce, token, evidence}    only if a proof is wanted
  PROOF {token, evidence}      ->
                               <-  WELCOME {session, ...}, or FAREWELL {code, text}
```

Here: the order of the words, versions, limits and what proofs cover. Not here: whether a name is
to be believed and a proof is good (`Doorkeeper` and `Credentials`, which others bring), sessions.

The first words have the form of wire version 1 for ever, so that nodes of any two versions can
tell each other why they do not speak.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Final, Protocol

from ..codec import VERSION, Codec
from ..doors.pipe import Presented
from ..envelope import Envelope, Kind
from ..errors import LocalProtocolError, Refused, RemoteProtocolError
from ..limits import Limits
from ..record import Record
from ..registry import Registry
from .connection import Connection
from .messages import SESSION_MESSAGES, Bounds, Challenge, Farewell, Hello, Proof, Welcome

#: Wire versions that this code speaks.
LOWEST: Final = VERSION
HIGHEST: Final = VERSION

#: Seconds for all first words together.
HANDSHAKE_S: Final = 5.0

#: A first word fits into this, evidence (a quote with its certificates) and all.
FIRST_WORD: Final = Limits(meta_bytes=64 << 10, body_bytes=0, bin_bytes=48 << 10, fds=0)

#: The least that each side must take, so that every message of the runtime gets through.
LEAST_META_BYTES: Final = 4 << 10

NONCE_BYTES: Final = 32
SESSION_ID_BYTES: Final = 16

#: The longest name of a node, and the longest lease that is believed: a year.
NODE_CHARS: Final = 255
LONGEST_LEASE_S: Final = 366 * 86_400.0

_CONTEXT: Final = b"covey session 1"


def first_words_codec() -> Codec:
    """The codec of the first words."""
    registry = Registry(*SESSION_MESSAGES)
    registry.freeze()
    return Codec(registry, FIRST_WORD)


def session_registry(registry: Registry) -> Registry:
    """A node's registry, and with it what sessions say about themselves."""
    return registry.extended(*SESSION_MESSAGES)


class Doorkeeper(Protocol):
    """Decides on the listener's side who may come in."""

    @property
    def evidence(self) -> tuple[str, ...]:
        """Kinds of evidence of which every peer must give one; empty for none."""
        ...

    def name_of(self, presented: Presented, claimed: str) -> str | None:
        """Who a peer is by its connection alone; None if that shows nothing and a token must.

        Args:
            presented: The connection.
            claimed: The node's name that it claims.

        Raises:
            Refused: It shows somebody who may not come in.
        """
        ...

    def check_token(self, token: bytes, binding: bytes, claimed: str) -> str:
        """Who signed a token over `binding`; raises `Refused`."""
        ...

    def check_evidence(self, kind: str, evidence: bytes, binding: bytes, name: str) -> None:
        """Judge what a peer says it runs on; raises `Refused`."""
        ...


class Credentials(Protocol):
    """What the dialer's side shows, and whom it believes."""

    def check_listener(self, presented: Presented, node: str) -> None:
        """Whether the listener may be `node`; raises `Refused`."""
        ...

    def token(self, binding: bytes, node: str) -> bytes:
        """A token over `binding`; raises `Refused` if there is nothing to sign with."""
        ...

    def attest(self, kinds: tuple[str, ...], binding: bytes) -> tuple[str, bytes]:
        """Evidence of one of `kinds` over `binding`; raises `Refused` if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """What one side brings to a session.

    Attributes:
        node: Its name.
        limits: What it takes.
    """

    node: str
    limits: Limits

    @property
    def bounds(self) -> Bounds:
        """The part of the limits that the peer must keep to."""
        return Bounds(self.limits.meta_bytes, self.limits.body_bytes)


@dataclass(frozen=True, slots=True)
class Opened:
    """What both sides have agreed on.

    Attributes:
        peer: The other node's name, proven.
        hello: The dialer's first word.
        welcome: The listener's last one; None on its own side until it is sent.
        limits: What may be sent in either direction.
    """

    peer: str
    hello: Hello
    welcome: Welcome | None
    limits: Limits


def binding_of(hello: Hello, challenge: Challenge) -> bytes:
    """What proofs are made over: both nonces, the claimed name, and the TLS certificate if any.

    An old proof, one of another session and one of another name cover something else.
    """
    digest = hashlib.sha256()
    parts = (_CONTEXT, hello.nonce, challenge.nonce, hello.node.encode(), challenge.certificate)
    for part in parts:
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return digest.digest()


def fingerprint(certificate: bytes | None) -> bytes:
    """SHA-256 of a certificate in DER; empty without one."""
    return b"" if certificate is None else hashlib.sha256(certificate).digest()


def nonce() -> bytes:
    """Random bytes that nobody can guess or will meet again."""
    return secrets.token_bytes(NONCE_BYTES)


def agreed(own: Limits, other: Bounds, peer: str) -> Limits:
    """The smaller of both sides' limits.

    Raises:
        Refused: The other side takes less than any session needs.
    """
    if other.meta_bytes < LEAST_META_BYTES or other.body_bytes < 0:
        why = f"it takes {other.meta_bytes} bytes, and {LEAST_META_BYTES} are the least"
        raise Refused(peer, "limits", why)
    return Limits(
        meta_bytes=min(own.meta_bytes, other.meta_bytes),
        body_bytes=min(own.body_bytes, other.body_bytes),
        str_bytes=own.str_bytes,
        bin_bytes=own.bin_bytes,
        array_items=own.array_items,
        map_items=own.map_items,
        containers=own.containers,
        depth=own.depth,
        fds=0,
    )


# The dialer -----------------------------------------------------------------


async def introduce(
    connection: Connection,
    terms: Terms,
    credentials: Credentials,
    session: bytes,
    received: tuple[int, int],
    own_certificate: bytes | None,
) -> Opened:
    """Say who calls and be let in. The caller bounds the time.

    Args:
        connection: A new connection.
        terms: What this side brings.
        credentials: What it shows.
        session: The session to go on with, empty for a new one.
        received: The last control and bulk envelopes that it has of that.
        own_certificate: This side's TLS certificate in DER, which proofs are bound to if the
            listener has seen it.

    Raises:
        Refused: The listener, or a check of the listener, refuses.
        RemoteProtocolError: The listener says something else.
        LinkClosed: The connection has ended.
    """
    hello = Hello(LOWEST, HIGHEST, terms.node, nonce(), terms.bounds, session, received)
    connection.send(Envelope(Kind.HELLO, message=hello))
    answer = await _word(connection)
    if isinstance(answer, Challenge):
        if answer.certificate not in (b"", fingerprint(own_certificate)):
            raise Refused(terms.node, "identity", "the listener has seen another's certificate")
        binding = binding_of(hello, answer)
        token = credentials.token(binding, terms.node) if answer.token else b""
        kind, evidence = "", b""
        if answer.evidence:
            kind, evidence = credentials.attest(answer.evidence, binding)
        connection.send(Envelope(Kind.HELLO, message=Proof(token, kind, evidence)))
        answer = await _word(connection)
    if not isinstance(answer, Welcome):
        raise RemoteProtocolError("first word", f"a {type(answer).__name__} is no welcome")
    if not LOWEST <= answer.version <= HIGHEST:
        raise RemoteProtocolError("welcome", f"version {answer.version} was not offered")
    if len(answer.session) != SESSION_ID_BYTES or not 0 < answer.lease_s < LONGEST_LEASE_S:
        raise RemoteProtocolError("welcome", "its session is none")
    _check_name(answer.node)
    credentials.check_listener(connection.presented, answer.node)
    return Opened(answer.node, hello, answer, agreed(terms.limits, answer.bounds, answer.node))


async def _word(connection: Connection) -> Record:
    """The listener's next word; raises `Refused` if it is a farewell."""
    envelope = await connection.next()
    message = envelope.message
    if isinstance(message, Farewell):
        raise Refused(connection.presented.address, message.code, message.text)
    if message is None:
        raise RemoteProtocolError("first word", f"{envelope.kind.name} says nothing")
    return message


# The listener ---------------------------------------------------------------


async def receive(connection: Connection, terms: Terms, keeper: Doorkeeper) -> Opened:
    """Hear who calls and have it proven. The caller bounds the time and sends the welcome.

    Raises:
        Refused: The peer may not come in; it is to be told.
        RemoteProtocolError: The peer says something else.
        LinkClosed: The connection has ended.
    """
    hello = (await connection.next()).message
    if not isinstance(hello, Hello) or len(hello.nonce) != NONCE_BYTES:
        raise RemoteProtocolError("first word", "it is no hello")
    _check_name(hello.node)
    me, presented = terms.node, connection.presented
    if hello.highest < LOWEST or hello.lowest > HIGHEST:
        raise Refused(me, "version", _versions(hello))
    name = keeper.name_of(presented, hello.node)
    if name is None or keeper.evidence:
        name = await _proven(connection, keeper, hello, name)
    if name != hello.node:
        raise Refused(me, "identity", f"{name} calls itself {hello.node}")
    return Opened(name, hello, None, agreed(terms.limits, hello.bounds, name))


async def _proven(
    connection: Connection, keeper: Doorkeeper, hello: Hello, name: str | None
) -> str:
    seen = fingerprint(connection.presented.certificate)
    challenge = Challenge(nonce(), name is None, seen, keeper.evidence)
    connection.send(Envelope(Kind.WELCOME, message=challenge))
    proof = (await connection.next()).message
    if not isinstance(proof, Proof):
        raise RemoteProtocolError("first word", "it is no proof")
    binding = binding_of(hello, challenge)
    if name is None:
        name = keeper.check_token(proof.token, binding, hello.node)
    if keeper.evidence:
        keeper.check_evidence(proof.kind, proof.evidence, binding, name)
    return name


def _check_name(node: str) -> None:
    """Names stand in logs, and in front of people."""
    if not 0 < len(node) <= NODE_CHARS or not node.isprintable():
        raise RemoteProtocolError("node", f"a name has 1 to {NODE_CHARS} printable characters")


def _versions(hello: Hello) -> str:
    spoken = f"{LOWEST}" if LOWEST == HIGHEST else f"{LOWEST} to {HIGHEST}"
    which = "a newer" if hello.highest < LOWEST else "an older"
    return (
        f"this node speaks wire version {spoken}, the caller {hello.lowest} to {hello.highest}: "
        f"install {which} covey there"
    )


def farewell(connection: Connection, code: str, text: str) -> None:
    """Say why there is no session, and end the connection."""
    try:
        connection.send(Envelope(Kind.GOAWAY, message=Farewell(code, text)))
    except LocalProtocolError:  # a text of somebody's that is too long to send
        connection.send(Envelope(Kind.GOAWAY, message=Farewell(code, "refused")))
    connection.close(text)
