"""Who the session tests are about: records, believing peers, and links over pipes in memory.

Here: what several test files of sessions need. Not here: the network (`pipes.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from covey.transport import Body, Codec, Envelope, Kind, Limits, Record, Registry
from covey.transport.doors.pipe import Presented
from covey.transport.sessions.connection import Connection
from covey.transport.sessions.handshake import Terms, first_words_codec, session_registry
from covey.transport.sessions.link import Patience, SessionLink

from .pipes import MemoryPipe, Weather, pipe_pair


@dataclass(frozen=True, slots=True)
class Item(Record, id=1000):
    """What the tests send."""

    number: int
    data: Body = b""


REGISTRY = Registry(Item)
REGISTRY.freeze()
CODEC = Codec(session_registry(REGISTRY))


class Believing:
    """A doorkeeper, and credentials, that take every peer for what it says it is."""

    evidence: tuple[str, ...] = ()

    def name_of(self, presented: Presented, claimed: str) -> str | None:
        return claimed

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


def terms(node: str) -> Terms:
    return Terms(node, Limits())


def control(number: int, size: int = 0) -> Envelope:
    return Envelope(Kind.TELL, "b/x", "a/y", message=Item(number, bytes(size)))


def bulk(number: int, size: int = 0) -> Envelope:
    return Envelope(Kind.CHUNK, "b/x", "a/y", message=Item(number, bytes(size)))


def number_of(envelope: Envelope) -> int:
    assert isinstance(envelope.message, Item)
    return envelope.message.number


@dataclass
class End:
    """One end of a session, and what has become of it."""

    link: SessionLink
    got: list[Envelope] = field(default_factory=list[Envelope])
    lost: list[str] = field(default_factory=list[str])
    broken: list[str] = field(default_factory=list[str])
    ended: list[str] = field(default_factory=list[str])

    @property
    def numbers(self) -> list[int]:
        return [number_of(envelope) for envelope in self.got]

    def start(self, receive: Callable[[Envelope], None] | None = None) -> None:
        self.link.start(receive or self.got.append, self.lost.append)


def end(
    name: str, peer: str, patience: Patience | None = None, bytes_per_s: float | None = None
) -> End:
    """An end without a connection."""
    broken: list[str] = []
    ended: list[str] = []
    link = SessionLink(
        name,
        peer,
        b"s" * 16,
        CODEC,
        patience or Patience(),
        disconnected=broken.append,
        ended=ended.append,
        bytes_per_s=bytes_per_s,
    )
    return End(link, broken=broken, ended=ended)


@dataclass
class Pair:
    """Two ends that are joined by whichever pipes the test makes."""

    near: End
    far: End

    def join(self, weather: Weather | None = None) -> MemoryPipe:
        """Give both a new connection; the pipe at the near end."""
        one, other = pipe_pair(weather)
        ends = self.near.link, self.far.link
        received = ends[1].received, ends[0].received
        for link, pipe, theirs in zip(ends, (one, other), received, strict=True):
            link.adopt(Connection(pipe, first_words_codec()), theirs)
        return one


def pair(
    weather: Weather | None = None,
    patience: Patience | None = None,
    bytes_per_s: float | None = None,
) -> tuple[Pair, MemoryPipe]:
    """A session of two started ends with a connection, whose near pipe is given."""
    both = Pair(end("a", "b", patience, bytes_per_s), end("b", "a", patience, bytes_per_s))
    pipe = both.join(weather)
    both.near.start()
    both.far.start()
    return both, pipe


async def settle(turns: int = 50) -> None:
    """Let everything happen that needs no time."""
    for _ in range(turns):
        await asyncio.sleep(0)
