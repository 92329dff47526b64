"""A system's border: where messages become envelopes and envelopes become messages.

Outgoing, it finds the link to a node and remembers what waits for an answer.
Incoming, it checks that the sender belongs to the link it came by, finds the
actor, and sends its answers back. A message for a full mailbox is refused, not
waited for: one slow actor must not hold up a link that others share.

Delivery is at most once. What was under way on a link that breaks may be lost;
asks then end by their deadline, watches by the lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from covey.transport import Envelope, Kind, Link, LinkClosed, Record, TransportError

from .address import Address
from .asks import Ask, RemoteAsk, Traced
from .errors import (
    ActorError,
    MailboxFull,
    ProtocolError,
    Rejected,
    RemoteError,
    Stopped,
    Unreachable,
)
from .message import Credit, Down, Fault, Reason, type_name
from .statistics import LinkState
from .stream import Inlet, Open, Outlet, Stream

if TYPE_CHECKING:
    from .ref import Ref
    from .system import System

# Seconds a node may be out of reach before it counts as gone; the one liveness
# setting. Long enough for a modem to redial, short enough for a round.
LEASE_S = 180.0


class Border:
    """The links of one system and everything in flight over them."""

    def __init__(self, system: System, lease: float) -> None:
        """Made by `System`."""
        self._system = system
        self._lease = lease
        self.links: dict[str, Link] = {}
        self._default: str | None = None
        self._leases: dict[str, asyncio.TimerHandle] = {}
        self._incoming: dict[tuple[str, int], RemoteAsk | Outlet] = {}
        self._asks: dict[int, Ask] = {}
        self._inlets: dict[int, tuple[str, Inlet]] = {}
        self._watches: dict[int, tuple[Address, Ref[Any], Callable[[Down], None]]] = {}
        self._watch_ids: dict[tuple[Address, Address], int] = {}
        self._sent: dict[str, int] = {}
        self._received: dict[str, int] = {}
        self._next = 0
        self._closed = False

    # Links -----------------------------------------------------------------

    def attach(self, link: Link, default: bool) -> None:
        """Use a link; one that takes the place of a lost one takes its watches over."""
        node = link.peer
        old = self.links.get(node)
        self.links[node] = link
        if default:
            self._default = node
        lease = self._leases.pop(node, None)
        if lease is not None:
            lease.cancel()
        link.start(
            lambda envelope: self._receive(link, envelope), lambda reason: self._lost(link, reason)
        )
        if old is not None:
            old.close("replaced by a new link")
        for number, (watcher, ref, _) in list(self._watches.items()):
            if self._route(ref.address.node) is link:
                self._send_watch(number, watcher, ref)

    def _route(self, node: str) -> Link | None:
        link = self.links.get(node)
        if link is None and self._default is not None:
            return self.links.get(self._default)
        return link

    def _link(self, text: str, node: str) -> Link:
        link = self._route(node)
        if link is None:
            raise Unreachable(text)
        return link

    def _send(self, link: Link, envelope: Envelope) -> None:
        try:
            link.send(envelope)
        except LinkClosed as error:
            raise Unreachable(envelope.to or link.peer, error.reason) from None
        except TransportError as error:
            raise ProtocolError(str(error)) from error
        self._sent[link.peer] = self._sent.get(link.peer, 0) + 1

    def _try_send(self, link: Link | None, envelope: Envelope) -> None:
        """Send what nobody waits for; a link that is gone takes it along."""
        if link is None:
            return
        try:
            self._send(link, envelope)
        except ActorError as error:
            self._system.dead_letters.add("link lost", envelope.to, error)

    def _lost(self, link: Link, reason: str) -> None:
        node = link.peer
        if self.links.get(node) is not link:
            return
        del self.links[node]
        for key, request in list(self._incoming.items()):
            if key[0] == node and isinstance(request, Outlet):
                del self._incoming[key]
                request.leave()
        for number, (peer, inlet) in list(self._inlets.items()):
            if peer == node:
                del self._inlets[number]
                inlet.finish(Unreachable(node, f"the link was lost: {reason}"))
        if not self._closed:
            self._leases[node] = self._system.loop.call_later(
                self._lease, self._expire, node, reason
            )

    def _expire(self, node: str, reason: str) -> None:
        """A node's lease is over: tell its watchers, fail what waits for its answer."""
        self._leases.pop(node, None)
        for number, (watcher, ref, notify) in list(self._watches.items()):
            if self._route(ref.address.node) is None:
                self._drop_watch(number, watcher, ref)
                notify(Down(ref.text, Reason.UNREACHABLE, reason))
        for ask in list(self._asks.values()):
            ref = ask[3]
            if self._route(ref.address.node) is None:
                error = Unreachable(ref.text, f"link lost for {self._lease:g} s")
                self._system.sweep.settle(ask, None, error)

    # Outgoing --------------------------------------------------------------

    def tell(self, ref: Ref[Any], item: Any) -> Awaitable[None]:
        """Send a message; the awaitable is done when the link's queue has room again."""
        link = self._link(ref.text, ref.address.node)
        envelope = Envelope(Kind.TELL, ref.text, self._system.name, 0, _record(item))
        envelope.trace = _trace_of(item)
        self._send(link, envelope)
        return self._ready(link)

    async def _ready(self, link: Link) -> None:
        if link.full:
            await link.ready()

    def ask(self, ask: Ask) -> None:
        """Send a request; its answer completes `ask`."""
        future, message, _, ref, timeout = ask
        self._next = number = self._next + 1
        envelope = Envelope(Kind.ASK, ref.text, self._system.name, number)
        envelope.deadline_ms = max(1, int(timeout * 1000))
        envelope.trace = _trace_of(message)
        try:
            envelope.message = _record(message)
            self._send(self._link(ref.text, ref.address.node), envelope)
        except ActorError as error:
            self._system.sweep.settle(ask, None, error)
            return
        self._asks[number] = ask
        future.add_done_callback(lambda future: self._settled(number, ref))

    def _settled(self, number: int, ref: Ref[Any]) -> None:
        """The ask is over; where that was not the peer's doing, it is told that nobody waits."""
        if self._asks.pop(number, None) is not None:
            link = self._route(ref.address.node)
            self._try_send(link, Envelope(Kind.CANCEL, ref.text, self._system.name, number))

    def stream(
        self, ref: Ref[Any], message: Any, credit: int, batch: int, timeout: float
    ) -> Stream[Any]:
        """The consumer's side of a stream from another node."""
        self._next = number = self._next + 1  # asks, streams and watches share one count
        node, text, name = ref.address.node, ref.text, self._system.name

        def grant(parts: int) -> None:
            envelope = Envelope(Kind.CREDIT, text, name, number, Credit(parts))
            self._try_send(self._route(node), envelope)

        inlet = Inlet(batch, grant)

        async def begin() -> None:
            link = self._link(text, node)
            self._inlets[number] = (link.peer, inlet)
            self._send(link, Envelope(Kind.OPEN, text, name, number, _record(message)))
            grant(credit)

        def leave() -> None:
            if self._inlets.pop(number, None) is not None and not inlet.ended:
                self._try_send(self._route(node), Envelope(Kind.CANCEL, text, name, number))

        return Stream(begin, inlet, leave, text, message, timeout)

    def watch(self, watcher: Address, ref: Ref[Any], notify: Callable[[Down], None]) -> None:
        """Watch an actor of another node."""
        key = (watcher, ref.address)
        if key in self._watch_ids:
            return
        if self._route(ref.address.node) is None and ref.address.node not in self._leases:
            notify(Down(ref.text, Reason.UNREACHABLE, "no link to its node"))
            return
        self._next = number = self._next + 1
        self._watches[number] = (watcher, ref, notify)
        self._watch_ids[key] = number
        self._send_watch(number, watcher, ref)

    def _send_watch(self, number: int, watcher: Address, ref: Ref[Any]) -> None:
        link = self._route(ref.address.node)
        self._try_send(link, Envelope(Kind.WATCH, ref.text, str(watcher), number))

    def unwatch(self, watcher: Address, ref: Ref[Any]) -> None:
        """Take a watch back."""
        number = self._watch_ids.get((watcher, ref.address))
        if number is not None:
            self._drop_watch(number, watcher, ref)
            link = self._route(ref.address.node)
            self._try_send(link, Envelope(Kind.UNWATCH, ref.text, str(watcher), number))

    def _drop_watch(self, number: int, watcher: Address, ref: Ref[Any]) -> None:
        self._watches.pop(number, None)
        self._watch_ids.pop((watcher, ref.address), None)

    # Incoming --------------------------------------------------------------

    def _receive(self, link: Link, envelope: Envelope) -> None:
        node = link.peer
        self._received[node] = self._received.get(node, 0) + 1
        # Who a peer is comes from its link; an envelope that claims otherwise is hostile.
        if envelope.sender and envelope.sender.partition("/")[0] != node:
            link.close(f"{node} sent an envelope in the name of {envelope.sender}")
            self._lost(link, "it claimed another sender")
            return
        match envelope.kind:
            case Kind.REPLY | Kind.ERROR:
                self._replied(envelope)
            case Kind.ASK | Kind.TELL | Kind.OPEN:
                self._deliver(link, envelope)
            case Kind.CHUNK | Kind.END:
                self._streamed(envelope)
            case Kind.CREDIT | Kind.CANCEL:
                self._steered(link, envelope)
            case Kind.WATCH | Kind.UNWATCH:
                self._watched(link, envelope)
            case Kind.DOWN:
                self._downed(envelope)
            case Kind.GOAWAY:
                log_letter = f"{node} is closing"
                self._system.dead_letters.add(log_letter, node, envelope)
            case _:
                self._system.dead_letters.add(f"kind {envelope.kind.name}", envelope.to, envelope)

    def _deliver(self, link: Link, envelope: Envelope) -> None:
        system = self._system
        node, _, name = envelope.to.partition("/")
        cell = system.cells.get(name) if node == system.name else None
        item: Any = envelope.message
        if envelope.trace is not None:
            item = Traced(item, envelope.trace)
        if envelope.kind is Kind.ASK:
            item = self._request(link, envelope, item)
        elif envelope.kind is Kind.OPEN:
            item = self._outlet(link, envelope, item)
        try:
            if cell is None:
                raise Stopped(envelope.to, "there is no such actor")
            if envelope.message is None:
                raise ProtocolError(f"{envelope.kind.name} without a message for {envelope.to}")
            if system.observer is not None:
                system.observed("enqueue", cell.address, item)
            if cell.queue.full and not cell.queue.closed:
                raise MailboxFull(envelope.to, cell.queue.capacity)
            cell.offer(item, None)
        except ActorError as error:
            system.dead_letters.add(_why(error), envelope.to, envelope.message)
            if envelope.kind is not Kind.TELL:
                item.fail(error)

    def _request(self, link: Link, envelope: Envelope, message: Any) -> RemoteAsk:
        key = (link.peer, envelope.id)

        def reply(value: Any, error: BaseException | None) -> None:
            self._incoming.pop(key, None)
            back = self._route(key[0])
            if error is None and (value is None or isinstance(value, Record)):
                self._try_send(back, Envelope(Kind.REPLY, "", self._system.name, key[1], value))
                return
            if error is None:
                error = ProtocolError(f"a reply that crosses a link is a Record, not {value!r:.80}")
            self._try_send(back, Envelope(Kind.ERROR, "", self._system.name, key[1], fault(error)))

        left = envelope.deadline_ms
        deadline = float("inf") if left is None else self._system.loop.time() + left / 1000
        request = RemoteAsk(message, deadline, reply)
        self._incoming[key] = request
        return request

    def _outlet(self, link: Link, envelope: Envelope, message: Any) -> Open:
        key = (link.peer, envelope.id)
        name = self._system.name

        def deliver(part: Any) -> None:
            self._send(
                self._link(key[0], key[0]), Envelope(Kind.CHUNK, "", name, key[1], _record(part))
            )

        def finish(error: BaseException | None) -> None:
            self._incoming.pop(key, None)
            told = None if error is None else fault(error)
            self._try_send(self._route(key[0]), Envelope(Kind.END, "", name, key[1], told))

        outlet = Outlet(0, deliver, finish)
        self._incoming[key] = outlet
        return Open(message, outlet)

    def _replied(self, envelope: Envelope) -> None:
        ask = self._asks.pop(envelope.id, None)
        if ask is not None:
            failed = envelope.kind is Kind.ERROR
            error = error_of(envelope.message) if failed else None
            self._system.sweep.settle(ask, envelope.message, error)

    def _streamed(self, envelope: Envelope) -> None:
        found = self._inlets.get(envelope.id)
        if found is None:
            return
        if envelope.kind is Kind.CHUNK:
            found[1].push(envelope.message)
        else:
            del self._inlets[envelope.id]
            error = None if envelope.message is None else error_of(envelope.message)
            found[1].finish(error)

    def _steered(self, link: Link, envelope: Envelope) -> None:
        key = (link.peer, envelope.id)
        request = self._incoming.get(key)
        if isinstance(request, Outlet):
            if envelope.kind is Kind.CREDIT and isinstance(envelope.message, Credit):
                request.grant(max(0, envelope.message.parts))
            elif envelope.kind is Kind.CANCEL:
                del self._incoming[key]
                request.leave()
        elif request is not None and envelope.kind is Kind.CANCEL:
            del self._incoming[key]
            request.withdrawn = True
            cell = self._system.cells.get(envelope.to.partition("/")[2])
            if cell is not None:
                cell.withdraw(request)

    def _watched(self, link: Link, envelope: Envelope) -> None:
        key = (link.peer, envelope.id)
        cell = self._system.cells.get(envelope.to.partition("/")[2])
        if envelope.kind is Kind.UNWATCH:
            if cell is not None:
                cell.watchers.pop(key, None)
            return

        def notify(down: Down) -> None:
            gone = Envelope(Kind.DOWN, envelope.sender, self._system.name, key[1], down)
            self._try_send(self._route(key[0]), gone)

        if cell is None or cell.queue.closed:
            notify(Down(envelope.to, Reason.STOPPED))
        else:
            cell.watchers[key] = notify

    def _downed(self, envelope: Envelope) -> None:
        found = self._watches.get(envelope.id)
        if found is not None and isinstance(envelope.message, Down):
            watcher, ref, notify = found
            self._drop_watch(envelope.id, watcher, ref)
            notify(Down(ref.text, envelope.message.reason, envelope.message.detail))

    # End -------------------------------------------------------------------

    def go_away(self) -> None:
        """Tell all peers that this system takes no more messages."""
        for link in list(self.links.values()):
            self._try_send(link, Envelope(Kind.GOAWAY, "", self._system.name))

    def close(self) -> None:
        """Close all links and stop all timers."""
        self._closed = True
        for lease in self._leases.values():
            lease.cancel()
        for link in list(self.links.values()):
            link.close(f"{self._system.name} has closed")
        self.links.clear()

    def statistics(self) -> tuple[LinkState, ...]:
        """A snapshot of the links."""
        nodes = dict.fromkeys([*self.links, *self._leases])
        return tuple(
            LinkState(
                node, self._sent.get(node, 0), self._received.get(node, 0), node not in self.links
            )
            for node in nodes
        )


def _trace_of(item: Any) -> str | None:
    return item.trace if type(item) is Traced else None


def _record(item: Any) -> Record:
    message = item.message if type(item) is Traced else item
    if isinstance(message, Record):
        return message
    raise ProtocolError(f"{type_name(message)} is no Record and cannot cross a link")


def _why(error: ActorError) -> str:
    if isinstance(error, MailboxFull):
        return "mailbox full"
    return "no such actor" if isinstance(error, Stopped) else "malformed"


def fault(error: BaseException) -> Fault:
    """An error's form on the wire."""
    match error:
        case Rejected():
            return Fault("rejected", "", error.code, error.text)
        case MailboxFull():
            return Fault("mailbox-full", error.address, number=error.capacity)
        case Stopped():
            return Fault("stopped", error.address, text=error.reason)
        case Unreachable():
            return Fault("unreachable", error.address, text=error.reason)
        case RemoteError():
            return Fault("failed", error.address, error.kind, error.text[:4096])
        case _:
            return Fault("protocol", "", type(error).__name__, str(error)[:4096])


def error_of(message: Any) -> ActorError:
    """The error that a fault stands for."""
    if not isinstance(message, Fault):
        return ProtocolError(f"an error envelope held a {type_name(message)}")
    match message.code:
        case "rejected":
            return Rejected(message.kind, message.text)
        case "mailbox-full":
            return MailboxFull(message.address, int(message.number))
        case "stopped":
            return Stopped(message.address, message.text)
        case "unreachable":
            return Unreachable(message.address, message.text)
        case "failed":
            return RemoteError(message.address, message.kind, message.text)
        case _:
            return ProtocolError(message.text)
