"""What two nodes say to each other about their session; docs/wire.md has the order.

Here: records. Not here: what is done about them (`handshake.py`, `link.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..record import Record


@dataclass(frozen=True, slots=True)
class Bounds(Record):
    """The largest envelope that a node takes: bytes of the msgpack part, and of the body."""

    meta_bytes: int
    body_bytes: int


@dataclass(frozen=True, slots=True)
class Hello(Record, id=1):
    """The first word of whoever dials.

    Attributes:
        lowest: The lowest wire version it speaks.
        highest: The highest one.
        node: Its name; believed only if its certificate or its proof says the same.
        nonce: 32 random bytes, for evidence that the listener may give.
        bounds: What it takes.
        session: The session to go on with, empty for a new one.
        received: The last control and the last bulk envelope it has of that session.
    """

    lowest: int
    highest: int
    node: str
    nonce: bytes
    bounds: Bounds
    session: bytes = b""
    received: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Challenge(Record, id=2):
    """The listener wants a proof: who the peer is, or what it runs on.

    Attributes:
        nonce: 32 random bytes; a proof that does not cover them is an old one.
        token: Whether a signed token is wanted, since TLS does not say who the peer is.
        certificate: SHA-256 of the peer's TLS certificate as the listener sees it; empty if TLS
            shows it none, or ends before it.
        evidence: Kinds of evidence of which one is wanted; empty for none.
    """

    nonce: bytes
    token: bool
    certificate: bytes = b""
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proof(Record, id=3):
    """Answers a `Challenge`.

    Attributes:
        token: A token signed over both nonces; empty if none was wanted.
        kind: The kind of the evidence, empty for none.
        evidence: Evidence over both nonces and the public key of the peer's certificate.
    """

    token: bytes = b""
    kind: str = ""
    evidence: bytes = b""


@dataclass(frozen=True, slots=True)
class Welcome(Record, id=4):
    """The session is open.

    Attributes:
        version: The wire version to be spoken.
        node: The listener's name.
        nonce: 32 random bytes of the listener's, for evidence given later.
        bounds: What it takes.
        session: The session's id; another one than the hello's says that that one is over.
        received: The last control and the last bulk envelope it has of it.
        lease_s: Seconds that the session lives without a connection.
    """

    version: int
    node: str
    nonce: bytes
    bounds: Bounds
    session: bytes
    received: tuple[int, int]
    lease_s: float


@dataclass(frozen=True, slots=True)
class Farewell(Record, id=5):
    """The session is over, or was refused, and why.

    Attributes:
        code: A word that a program can act on, such as `version` or `identity`.
        text: A sentence for people.
    """

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Received(Record, id=6):
    """The last control and the last bulk envelope that have come: they need not be kept."""

    control: int
    bulk: int


SESSION_MESSAGES: tuple[type[Record], ...] = (
    Hello,
    Challenge,
    Proof,
    Welcome,
    Farewell,
    Received,
)
