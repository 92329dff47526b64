"""A system's border: its links, and what it has asked of other nodes over them.

Here: which link leads to a node, the lease of one that is lost, and this side of
asks, streams and watches that went out. Not here: what peers ask of this system
(`arrivals.py`), which nodes are behind which peer (`routes.py`), handing on what is
for others (`Forwarder`, which a relay brings).

Delivery is at most once. What was under way on a link that breaks may be lost;
asks then end by their deadline, watches by the lease. Only the peer that was
asked can answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from covey.transport import Envelope, Kind, Link, LinkClosed, Record, TransportError

from .address import Address
from .arrivals import Arrivals
from .asks import Ask, Traced, content, trace_of
from .errors import ActorError, ProtocolError, Stopped, Unreachable, no_record
from .faults import error_of, fault
from .message import Credit, Down, Reachable, Reason
from .routes import Routes
from .statistics import LinkState
from .stream import Inlet, Stream
from .wire import room

if TYPE_CHECKING:
    from .ref import Ref
    from .system import System

# Seconds a node may be out of reach before it counts as gone; the one liveness
# setting. Long enough for a modem to redial, short enough for a round.
LEASE_S: Final = 180.0


class Forwarder(Protocol):
    """Hands on envelopes between others; a relay."""

    def forward(self, source: Link, origin: str, envelope: Envelope) -> None:
        """An envelope of `origin` has come over `source` for a node that is not this one."""
        ...

    def joined(self, peer: str, nodes: tuple[str, ...]) -> None:
        """`nodes`, new or anew, are reached over the link to `peer`."""
        ...

    def left(self, peer: str, nodes: tuple[str, ...]) -> None:
        """`nodes` were reached over the link to `peer`, and are gone for good."""
        ...


class Border:
    """The links of one system and everything it awaits over them."""

    def __init__(self, system: System, lease: float) -> None:
        """Made by `System`."""
        self._system = system
        self._lease = lease
        self.links: dict[str, Link] = {}
        self.arrivals = Arrivals(system, self)
        self.routes = Routes()
        #: Where envelopes for other nodes go, None where this node is no relay.
        self.forwarder: Forwarder | None = None
        self._default: str | None = None
        self._leases: dict[str, asyncio.TimerHandle] = {}
        # By number: what waits, the link over which it may be answered, what the asker's
        # leaving calls; for streams, the node as well.
        self._asks: dict[int, tuple[Ask, Link, Callable[[asyncio.Future[Any]], None]]] = {}
        self._inlets: dict[int, tuple[Link, str, Inlet]] = {}
        self._watches: dict[int, tuple[Address, Ref[Any], Callable[[Down], None]]] = {}
        self._watch_ids: dict[tuple[Address, str], int] = {}
        # A node that comes back must not take the answer to a question of its former
        # life for one of its own: numbers begin at the time, in milliseconds.
        self._next = int(system.loop.time() * 1000) << 20
        self._closed = False

    # Links -----------------------------------------------------------------

    def attach(self, link: Link, default: bool) -> None:
        """Use a link; one that takes the place of another takes its watches over."""
        node = link.peer
        if node == self._system.name or (node == self._default and not default):
            # By its certificate it may be called so; here the name is taken.
            self._count("name", f"{node} is the name of this node, or of its parent")
            link.close(f"{node} is the name of another node here")
            return
        old = self.links.get(node)
        behind: list[str] = []
        if old is not None:
            self._abandon(node, "it was replaced by a new one")
            behind = self.routes.drop(node)
        self.links[node] = link
        if default:
            self._default = node
        self._end_lease(node)
        self._leave(node, behind, self._lease, "the way to it was replaced by a new one")
        link.start(partial(self._receive, link), partial(self._lost, link))
        if old is not None:
            old.close("replaced by a new link")
        self._renew_watches(link)
        if self.forwarder is not None:
            self.forwarder.joined(node, (node,))

    @property
    def parent(self) -> str | None:
        """The node that everything without a way of its own goes to."""
        return self._default

    def _end_lease(self, node: str) -> None:
        lease = self._leases.pop(node, None)
        if lease is not None:
            lease.cancel()

    def _renew_watches(self, link: Link, of: str | None = None) -> None:
        """Watch anew what is watched over a link, or one node of that."""
        for number, (watcher, ref, _) in list(self._watches.items()):
            node = ref.address.node
            if of in (None, node) and self.route(node) is link:
                self._send_watch(number, watcher, ref)

    def route(self, node: str) -> Link | None:
        """The link that leads to a node, None where there is none."""
        link = self.links.get(node)
        if link is not None:
            return link
        peer = self.routes.peer_of(node) or self._default
        return None if peer is None else self.links.get(peer)

    def _link(self, text: str, node: str) -> Link:
        link = self.route(node)
        if link is None:
            raise Unreachable(text)
        return link

    def send(self, link: Link, envelope: Envelope) -> None:
        """Send an envelope; raises `Unreachable` or `ProtocolError`."""
        try:
            link.send(envelope)
        except LinkClosed as error:
            self._lost(link, error.reason)
            raise Unreachable(envelope.to or link.peer, error.reason) from None
        except TransportError as error:
            raise ProtocolError(str(error)) from error

    def try_send(self, link: Link | None, envelope: Envelope) -> None:
        """Send what nobody waits for; a link that is gone takes it along."""
        if link is None:
            return
        try:
            self.send(link, envelope)
        except ActorError:
            self._system.dead_letters.add("link lost", envelope.to, envelope.message)

    def _lost(self, link: Link, reason: str) -> None:
        node = link.peer
        if self.links.get(node) is not link:
            return
        del self.links[node]
        self._abandon(node, reason)
        gone = [node, *self.routes.drop(node)]
        if not self._closed:
            self._leave(node, gone, 0.0 if link.leased else self._lease, reason)

    def _leave(self, peer: str, nodes: Iterable[str], seconds: float, reason: str) -> None:
        """Nodes are not reached through `peer` any more: by another way, or from now on a lease."""
        for node in nodes:
            if self.route(node) is None or self.route(node) is self.links.get(self._default or ""):
                self._begin_lease(peer, node, seconds, reason)
            else:
                self._renew_watches(self.links[self.routes.peer_of(node) or node], node)

    def _begin_lease(self, peer: str, node: str, seconds: float, reason: str) -> None:
        self._end_lease(node)
        expire = partial(self._expire, peer, node, reason)
        self._leases[node] = self._system.loop.call_later(seconds, expire)

    def _abandon(self, peer: str, reason: str) -> None:
        """End what does not outlive a link: streams, and watches by the peer, who renews them."""
        for node in (peer, *self.routes.behind(peer)):
            self._abandon_node(node, reason)
        link = self.links.get(peer)
        for number, (way, node, inlet) in list(self._inlets.items()):
            if way.peer == peer or way is link:
                del self._inlets[number]
                inlet.finish(Unreachable(node, f"the link was lost: {reason}"))

    def _abandon_node(self, node: str, reason: str) -> None:
        self.arrivals.link_lost(node)
        for number, (_, of, inlet) in list(self._inlets.items()):
            if of == node:
                del self._inlets[number]
                inlet.finish(Unreachable(node, f"the link was lost: {reason}"))

    def _expire(self, peer: str, node: str, reason: str) -> None:
        """A node's lease is over: tell its watchers, fail what waits for its answer."""
        self._leases.pop(node, None)
        if self.forwarder is not None:
            self.forwarder.left(peer, (node,))
        self.arrivals.lease_over(node)
        for number, (watcher, ref, notify) in list(self._watches.items()):
            if not self.reaches(ref.address.node):
                self._drop_watch(number, watcher, ref)
                notify(Down(ref.text, Reason.UNREACHABLE, reason))
        for ask, _, _ in list(self._asks.values()):
            ref = ask[3]
            if not self.reaches(ref.address.node):
                error = Unreachable(ref.text, f"its link was lost for {self._lease:g} s")
                self._system.sweep.settle(ask, None, error)

    def reaches(self, node: str) -> bool:
        """Whether a link leads to a node, or may come back within its lease."""
        return self.route(node) is not None or node in self._leases

    # Outgoing --------------------------------------------------------------

    def tell(self, ref: Ref[Any], item: Any) -> Awaitable[None]:
        """Send a message; the awaitable is done when the link's queue has room again."""
        link = self._link(ref.text, ref.address.node)
        trace = None if self._system.observer is None else trace_of(item)
        record = record_of(item)
        name = self._system.name
        self.send(link, Envelope(Kind.TELL, ref.text, name, 0, record, None, trace))
        return room(link) if link.full else self._system.accepted

    def ask(self, ask: Ask) -> None:
        """Send a request; its answer completes `ask`."""
        future, message, _, ref, timeout = ask
        system, text = self._system, ref.text
        self._next = number = self._next + 1
        trace = None if system.observer is None else trace_of(message)
        left_ms = max(1, int(timeout * 1000)) if timeout < 1e15 else None
        try:
            record, link = record_of(message), self._link(text, ref.address.node)
            self.send(link, Envelope(Kind.ASK, text, system.name, number, record, left_ms, trace))
        except ActorError as error:
            system.sweep.settle(ask, None, error)
            return
        settled = partial(self._settled, number)
        self._asks[number] = ask, link, settled
        future.add_done_callback(settled)

    def _settled(self, number: int, future: asyncio.Future[Any]) -> None:
        """The ask ended without the peer's doing, which is told that nobody waits."""
        found = self._asks.pop(number, None)
        if found is not None:
            text = found[0][3].text
            # Over the link there is now: the question has outlived the one that it went over.
            link = self.links.get(found[1].peer)
            self.try_send(link, Envelope(Kind.CANCEL, text, self._system.name, number))

    def stream(
        self, ref: Ref[Any], message: Any, credit: int, batch: int, timeout: float
    ) -> Stream[Any]:
        """The consumer's side of a stream from another node."""
        self._next = number = self._next + 1  # asks, streams and watches share one count
        node, text, name = ref.address.node, ref.text, self._system.name
        trace = trace_of(message)

        def grant(parts: int) -> None:
            self.try_send(
                self.route(node), Envelope(Kind.CREDIT, text, name, number, Credit(parts))
            )

        inlet = Inlet(batch, grant)

        async def begin() -> None:
            link, record = self._link(text, node), record_of(message)
            self.send(link, Envelope(Kind.OPEN, text, name, number, record, None, trace))
            self._inlets[number] = (link, node, inlet)
            grant(credit)

        def leave() -> None:
            if self._inlets.pop(number, None) is not None and not inlet.ended:
                self.try_send(self.route(node), Envelope(Kind.CANCEL, text, name, number))

        return Stream(begin, inlet, leave, text, content(message), timeout)

    def watch(self, watcher: Address, ref: Ref[Any], notify: Callable[[Down], None]) -> None:
        """Watch an actor of another node."""
        key = (watcher, ref.text)
        if key in self._watch_ids:
            return
        node = ref.address.node
        if self.route(node) is None and node not in self._leases:
            notify(Down(ref.text, Reason.UNREACHABLE, "no link to its node"))
            return
        self._next = number = self._next + 1
        self._watches[number] = (watcher, ref, notify)
        self._watch_ids[key] = number
        self._send_watch(number, watcher, ref)

    def _send_watch(self, number: int, watcher: Address, ref: Ref[Any]) -> None:
        link = self.route(ref.address.node)
        self.try_send(link, Envelope(Kind.WATCH, ref.text, str(watcher), number))

    def unwatch(self, watcher: Address, ref: Ref[Any]) -> None:
        """Take a watch back."""
        number = self._watch_ids.get((watcher, ref.text))
        if number is not None:
            self._drop_watch(number, watcher, ref)
            link = self.route(ref.address.node)
            self.try_send(link, Envelope(Kind.UNWATCH, ref.text, str(watcher), number))

    def _drop_watch(self, number: int, watcher: Address, ref: Ref[Any]) -> None:
        self._watches.pop(number, None)
        self._watch_ids.pop((watcher, ref.text), None)

    # Incoming --------------------------------------------------------------

    def _receive(self, link: Link, envelope: Envelope) -> None:
        node, sender = link.peer, envelope.sender
        if sender != node and sender:
            origin = sender.partition("/")[0]
            if origin != node:
                if origin in self.links or not self.routes.has(node, origin):
                    self._doubt(link, origin, envelope)
                    return
                node = origin
        forwarder = self.forwarder
        if forwarder is not None and envelope.to:
            to = envelope.to.partition("/")[0]
            if to != self._system.name:
                forwarder.forward(link, node, envelope)
                return
        answer = ANSWERS.get(envelope.kind)
        if answer is not None:
            answer(self, link, node, envelope)
        else:
            self.arrivals.receive(node, envelope)

    def _doubt(self, link: Link, origin: str, envelope: Envelope) -> None:
        """An envelope is in the name of a node that its link does not stand for.

        From a relay it may be late, or ahead of its announcement: it is dropped. Who a peer is
        comes from its link, so any other that claims to be somebody else is hostile.
        """
        peer = link.peer
        if not self._system.carries(peer):
            self._refuse(link, f"{peer} sent an envelope in the name of {envelope.sender}")
            return
        self._count("unannounced", f"{peer} sent an envelope of {origin}, which is not behind it")
        self.try_answer(link, origin, envelope, f"{peer} has not announced {origin}")

    def try_answer(self, link: Link, origin: str, envelope: Envelope, why: str) -> None:
        """Tell whoever waits for an answer to an envelope that there will be none."""
        error = fault(Unreachable(envelope.to, why))
        name, number = self._system.name, envelope.id
        if envelope.kind is Kind.ASK:
            answer = Envelope(Kind.ERROR, origin, name, number, error)
        elif envelope.kind is Kind.OPEN:
            answer = Envelope(Kind.END, origin, name, number, error)
        elif envelope.kind is Kind.WATCH:
            down = Down(envelope.to, Reason.UNREACHABLE, why)
            answer = Envelope(Kind.DOWN, envelope.sender, name, number, down)
        else:
            return
        self.try_send(link, answer)

    def _count(self, word: str, text: str) -> None:
        if self._system.wiring is not None:
            self._system.wiring.refuse(word, text)

    def _refuse(self, link: Link, text: str) -> None:
        self._count("sender", text)
        link.close(text)
        self._lost(link, "it claimed another sender")

    def _may_answer(self, link: Link, origin: str, asked: Link, node: str) -> bool:
        """Whether what came over `link` from `origin` may answer what `node` was asked.

        The parent, and whoever is beyond it, may: a node on the way says that there is none.
        """
        if link.peer != asked.peer:
            return False
        return origin in (node, link.peer) or link.peer == self._default

    def _replied(self, link: Link, node: str, envelope: Envelope) -> None:
        number = envelope.id
        found = self._asks.get(number)
        if found is None or not self._may_answer(link, node, found[1], found[0][3].address.node):
            return
        del self._asks[number]
        ask, _, settled = found
        ask[0].remove_done_callback(settled)
        error = error_of(envelope.message) if envelope.kind is Kind.ERROR else None
        self._system.sweep.settle(ask, envelope.message, error)

    def _streamed(self, link: Link, node: str, envelope: Envelope) -> None:
        found = self._inlets.get(envelope.id)
        if found is None or not self._may_answer(link, node, found[0], found[1]):
            return
        if envelope.kind is Kind.CHUNK:
            found[2].push(envelope.message)
        else:
            del self._inlets[envelope.id]
            found[2].finish(None if envelope.message is None else error_of(envelope.message))

    def _downed(self, link: Link, node: str, envelope: Envelope) -> None:
        found = self._watches.get(envelope.id)
        if found is None or not isinstance(envelope.message, Down):
            return
        watcher, ref, notify = found
        if self.route(ref.address.node) is link and node in (ref.address.node, link.peer):
            self._drop_watch(envelope.id, watcher, ref)
            notify(Down(ref.text, envelope.message.reason, envelope.message.detail))

    def _routed(self, link: Link, node: str, envelope: Envelope) -> None:
        """A relay says whom it reaches."""
        message, peer = envelope.message, link.peer
        if not isinstance(message, Reachable) or node != peer or not self._system.carries(peer):
            self._refuse(link, f"{peer} may not speak for other nodes")
            return
        gone = self.routes.withdraw(peer, message.gone)
        for each in gone:
            self._abandon_node(each, f"{peer} has lost it")
        self._leave(peer, gone, 0.0, f"{peer} has lost it")
        own = (self._system.name, self._default, peer)
        here = [each for each in message.nodes if each not in own]
        here = [each for each in here if self._reach(link, each)]
        if self.forwarder is not None:
            self.forwarder.joined(peer, tuple(here))

    def _reach(self, link: Link, node: str) -> bool:
        """A peer announces a node: it is reached that way from now on, and anew."""
        if self.routes.peer_of(node) is not None:
            self._abandon_node(node, "it has begun a new session")
        if not self.routes.announce(link.peer, node):
            return False
        self._end_lease(node)
        self._renew_watches(link, node)
        return True

    # End -------------------------------------------------------------------

    def go_away(self) -> None:
        """Tell all peers that this system takes no more messages."""
        for link in list(self.links.values()):
            self.try_send(link, Envelope(Kind.GOAWAY, "", self._system.name))

    def close(self) -> None:
        """Close all links, end what waits on them and stop all timers; idempotent."""
        self._closed = True
        for lease in self._leases.values():
            lease.cancel()
        links, self.links = self.links, {}
        for node, link in links.items():
            self._abandon(node, f"{self._system.name} has closed")
            link.close(f"{self._system.name} has closed")
        for ask, _, _ in list(self._asks.values()):
            error = Stopped(ask[3].text, f"{self._system.name} has closed")
            self._system.sweep.settle(ask, None, error)

    def statistics(self) -> tuple[LinkState, ...]:
        """A snapshot of the links."""
        counts = {node: link.statistics() for node, link in self.links.items()}
        alive = [LinkState(node, of.sent, of.received, False) for node, of in counts.items()]
        return (*alive, *(LinkState(node, 0, 0, True) for node in self._leases))


# Envelopes that answer something this system has sent; all others are arrivals. A
# table, since comparing kinds one by one costs a microsecond an envelope.
ANSWERS: Final[dict[Kind, Callable[[Border, Link, str, Envelope], None]]] = {
    Kind.REPLY: Border._replied,
    Kind.ERROR: Border._replied,
    Kind.CHUNK: Border._streamed,
    Kind.END: Border._streamed,
    Kind.DOWN: Border._downed,
    Kind.ROUTE: Border._routed,
}


def record_of(item: Any) -> Record:
    """The record that an item holds; raises `ProtocolError` if it cannot cross a link."""
    message = item.message if type(item) is Traced else item
    if isinstance(message, Record):
        return message
    raise no_record(message)
