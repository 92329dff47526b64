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

from covey.actors.runtime import Actor, Message, System, Unreachable, handles, runtime_messages
from covey.actors.runtime.faults import fault
from covey.actors.runtime.message import Down, Reachable, Reason
from covey.actors.runtime.wiring import Identity, Wire
from covey.transport import Envelope, Kind, Link, Record, TransportError
from covey.transport.opaque import OpaqueRegistry

#: Nodes named in one message: it stays far below the limit of an array.
_NAMED: Final = 1000

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


class Relay(Actor):
    """Hands on envelopes between the links of its system; see `Forwarder`.

    What passes through does not go through its mailbox: it is handed on as it comes.
    """

    def __init__(self) -> None:
        """Stand between the parent of its system and all others."""
        self._forwarded = self._refused = 0

    async def started(self) -> None:
        """Begin, and tell everybody who is reached through this node."""
        border = self.ctx.system.border
        border.forwarder = self
        for peer in list(border.links):
            self.joined(peer, (peer, *border.routes.behind(peer)))

    async def stopping(self, reason: str) -> None:
        """Hand on nothing more."""
        self.ctx.system.border.forwarder = None

    @handles
    def count(self, msg: CountTraffic) -> RelayStatistics:
        """Say what has passed."""
        border = self.ctx.system.border
        parent = self._parent if self._parent in border.links else ""
        behind = sum(len(border.routes.behind(child)) for child in self._children())
        children = sum(1 for _ in self._children())
        return RelayStatistics(parent, children, behind, self._forwarded, self._refused)

    @property
    def _parent(self) -> str:
        return self.ctx.system.border.parent or ""

    def _children(self) -> Iterator[str]:
        return (peer for peer in self.ctx.system.border.links if peer != self._parent)

    # What passes -------------------------------------------------------------

    def forward(self, source: Link, origin: str, envelope: Envelope) -> None:
        """See `Forwarder.forward`."""
        to = envelope.to.partition("/")[0]
        link = self.ctx.system.border.route(to)
        if link is None or link is source:
            self._return(source, origin, envelope, "the relay has no way to its node")
            return
        if not envelope.sender:
            envelope.sender = origin
        try:
            link.send(envelope)
        except TransportError as error:
            self._return(source, origin, envelope, str(error))
        else:
            self._forwarded += 1

    def _return(self, source: Link, origin: str, envelope: Envelope, why: str) -> None:
        """Tell whoever waits for an answer that there will be none."""
        self._refused += 1
        error = fault(Unreachable(envelope.to, why))
        name, number = self.ctx.system.name, envelope.id
        answer: Envelope | None = None
        if envelope.kind is Kind.ASK:
            answer = Envelope(Kind.ERROR, origin, name, number, error)
        elif envelope.kind is Kind.OPEN:
            answer = Envelope(Kind.END, origin, name, number, error)
        elif envelope.kind is Kind.WATCH:
            down = Down(envelope.to, Reason.UNREACHABLE, why)
            answer = Envelope(Kind.DOWN, envelope.sender, name, number, down)
        if answer is not None:
            self.ctx.system.border.try_send(source, answer)

    # Who is where ------------------------------------------------------------

    def joined(self, peer: str, nodes: tuple[str, ...]) -> None:
        """See `Forwarder.joined`."""
        border = self.ctx.system.border
        if peer == self._parent:
            for child in list(self._children()):
                self._announce(child, nodes)
            if peer in nodes:  # a new session: it knows nobody
                for child in list(self._children()):
                    self._announce(peer, (child, *border.routes.behind(child)))
            return
        self._announce(self._parent, nodes)
        if peer in nodes and self._parent in border.links:
            self._announce(peer, (self._parent, *border.routes.behind(self._parent)))

    def left(self, peer: str, nodes: tuple[str, ...]) -> None:
        """See `Forwarder.left`."""
        others = self._children() if peer == self._parent else iter((self._parent,))
        for other in list(others):
            for some in _some(nodes):
                self._tell(other, Reachable(gone=some))

    def _announce(self, peer: str, nodes: Iterable[str]) -> None:
        for some in _some(nodes):
            self._tell(peer, Reachable(nodes=some))

    def _tell(self, peer: str, message: Reachable) -> None:
        system = self.ctx.system
        link = system.border.links.get(peer)
        system.border.try_send(link, Envelope(Kind.ROUTE, "", system.name, 0, message))


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
    """The system of a relay, to be entered; then `spawn(Relay, name=ACTOR)` on it.

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
    )
