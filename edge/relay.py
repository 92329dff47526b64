"""The relay: a node between a parent and children, which hands on what passes between them.

It listens for children and dials its parent; trees of any depth are made of relays below relays.
It puts its name to nothing: an envelope keeps its sender, which the relay has seen proven (a child
of its own) or which a relay below it, or its parent, has announced. What it does not know how to
read it hands on unread.

Not here: whose link is whose (`covey.actors.runtime`), connections (`covey.transport`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from covey.actors.runtime import Actor, Message, Rejected, System, handles, runtime_messages
from covey.actors.runtime.message import Reachable
from covey.actors.runtime.wiring import Identity, Wire
from covey.transport import Envelope, Kind, Link, Record, TransportError
from covey.transport.opaque import OpaqueRegistry

#: Nodes named in one message: it stays far below the limit of an array.
_NAMED: Final = 1000

#: Kinds that pass: all that actors say to each other, and nothing that nodes do.
_PASSING: Final = frozenset(
    {
        Kind.TELL,
        Kind.ASK,
        Kind.REPLY,
        Kind.ERROR,
        Kind.OPEN,
        Kind.CREDIT,
        Kind.CHUNK,
        Kind.END,
        Kind.CANCEL,
        Kind.DOWN,
        Kind.WATCH,
        Kind.UNWATCH,
    }
)

#: The name of a relay's actor on its node.
ACTOR: Final = "relay"


@dataclass(frozen=True, slots=True)
class RelayStatistics(Record, id=401):
    """What a relay has done since it began.

    Attributes:
        parent: Its parent's node, empty while there is no session with it.
        children: Nodes that are linked to it.
        behind: Nodes that are reached through its children.
        forwarded: Envelopes handed on.
        refused: Envelopes that could not be handed on; whoever waits for an answer was told.
    """

    parent: str
    children: int
    behind: int
    forwarded: int
    refused: int


@dataclass(frozen=True, slots=True)
class CountTraffic(Message["Relay", RelayStatistics], id=400):
    """Asks a relay for its statistics."""


def relay_messages() -> tuple[type[Record], ...]:
    """The relay's own messages, for the registry of whoever asks one."""
    return (CountTraffic, RelayStatistics)


class Forwarding:
    """Hands on envelopes between the links of a system, up and down; see `Forwarder`.

    What passes does not go through a mailbox: it is handed on as it comes. Nodes below a relay
    reach what is above it, not each other.

    Attributes:
        forwarded: Envelopes handed on.
        refused: Those that could not be.
    """

    def __init__(self, system: System) -> None:
        """Hand on what comes to `system` and is for others."""
        self._system = system
        self.forwarded = self.refused = 0

    @property
    def parent(self) -> str:
        """The parent's node, empty while it is not known."""
        return self._system.border.parent or ""

    def children(self) -> list[str]:
        """Nodes that are linked to this one, but for the parent."""
        return [peer for peer in self._system.border.links if peer != self.parent]

    # What passes -------------------------------------------------------------

    def forward(self, source: Link, origin: str, envelope: Envelope) -> None:
        """See `Forwarder.forward`."""
        if envelope.kind not in _PASSING:
            self.refused += 1
            return
        link = self._system.border.route(envelope.to.partition("/")[0])
        parent = self.parent
        if link is None or link is source:
            self._return(source, origin, envelope, "the relay has no way to its node")
            return
        if parent not in (source.peer, link.peer):
            self._return(source, origin, envelope, "nodes below a relay do not reach each other")
            return
        if not envelope.sender:
            envelope.sender = origin
        try:
            link.send(envelope)
        except TransportError as error:
            self._return(source, origin, envelope, str(error))
        else:
            self.forwarded += 1

    def _return(self, source: Link, origin: str, envelope: Envelope, why: str) -> None:
        self.refused += 1
        self._system.border.try_answer(source, origin, envelope, why)

    # Who is where ------------------------------------------------------------

    def joined(self, peer: str, nodes: tuple[str, ...]) -> None:
        """See `Forwarder.joined`."""
        routes, parent = self._system.border.routes, self.parent
        if peer == parent:
            for child in self.children():
                self._announce(child, nodes)
            if peer in nodes:  # a new session: it knows nobody
                for child in self.children():
                    self._announce(peer, (child, *routes.behind(child)))
            return
        self._announce(parent, nodes)
        if peer in nodes and parent in self._system.border.links:
            self._announce(peer, (parent, *routes.behind(parent)))

    def left(self, peer: str, nodes: tuple[str, ...]) -> None:
        """See `Forwarder.left`."""
        for other in self.children() if peer == self.parent else [self.parent]:
            for some in _some(nodes):
                self._tell(other, Reachable(gone=some))

    def _announce(self, peer: str, nodes: Iterable[str]) -> None:
        for some in _some(nodes):
            self._tell(peer, Reachable(nodes=some))

    def _tell(self, peer: str, message: Reachable) -> None:
        border = self._system.border
        envelope = Envelope(Kind.ROUTE, "", self._system.name, 0, message)
        border.try_send(border.links.get(peer), envelope)


class Relay(Actor):
    """Tells what a relay's node has handed on; the node does so with this actor or without."""

    @handles
    def count(self, msg: CountTraffic) -> RelayStatistics:
        """Say what has passed; raises `Rejected` on a node that is no relay."""
        border = self.ctx.system.border
        forwarding = border.forwarder
        if not isinstance(forwarding, Forwarding):
            raise Rejected("no-relay", f"{self.ctx.system.name} is no relay")
        children = forwarding.children()
        return RelayStatistics(
            parent=forwarding.parent if forwarding.parent in border.links else "",
            children=len(children),
            behind=sum(len(border.routes.behind(child)) for child in children),
            forwarded=forwarding.forwarded,
            refused=forwarding.refused,
        )


def _some(nodes: Iterable[str]) -> Iterator[tuple[str, ...]]:
    rest = iter(nodes)
    while some := tuple(islice(rest, _NAMED)):
        yield some


def relay_system(
    name: str,
    *,
    connect: str,
    listen: str,
    identity: Identity | None = None,
    wire: Wire | None = None,
    lease: float = 180.0,
) -> System:
    """The system of a relay, to be entered; `spawn(Relay, name=ACTOR)` on it tells what passes.

    Args:
        name: The relay's node.
        connect: Its parent's URL.
        listen: Where its children reach it.
        identity: Who it is; None for plaintext on this host alone.
        wire: Bounds on what peers may send.
        lease: Seconds that a session lives without a connection.
    """
    registry = OpaqueRegistry(*runtime_messages(), *relay_messages())
    registry.freeze()
    return System(
        name,
        registry=registry,
        connect=connect,
        listen=listen,
        identity=identity,
        wire=wire,
        lease=lease,
        forwarder=Forwarding,
    )
