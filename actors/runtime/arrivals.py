"""What peers ask of a system over its links.

Here: their messages, requests, streams and watches, from the envelope to the
mailbox, and the way back of their answers. Not here: the links, and what this
system asks of others (`border.py`).

A message for a full mailbox is refused, not waited for: one slow actor must not
hold up a link that others share.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from covey.transport import Envelope, Kind, Record

from .asks import RemoteAsk, Traced
from .errors import ActorError, MailboxFull, ProtocolError, Stopped, Unreachable, no_record
from .faults import fault
from .log import log
from .mailbox import Overflow
from .message import Credit, Down, Reason
from .stream import ConsumerLeft, Open, Outlet
from .wire import room

if TYPE_CHECKING:
    from .border import Border
    from .cell import Cell
    from .system import System


class Arrivals:
    """The requests of a system's peers that are not yet answered."""

    def __init__(self, system: System, border: Border) -> None:
        """Made by `Border`."""
        self._system = system
        self._border = border
        # By peer and its number.
        self._asks: dict[tuple[str, int], RemoteAsk] = {}
        self._outlets: dict[tuple[str, int], Outlet] = {}
        self._watched: dict[tuple[str, int], Cell] = {}

    def receive(self, node: str, envelope: Envelope) -> None:
        """Act on an envelope that is no answer to one of ours."""
        act = _ACTS.get(envelope.kind)
        if act is None:
            self._letter(f"kind {envelope.kind.name}", envelope)
        else:
            act(self, node, envelope)

    def link_lost(self, node: str) -> None:
        """End the peer's streams; forget its watches, which it renews over the next link."""
        for key, outlet in list(self._outlets.items()):
            if key[0] == node:
                del self._outlets[key]
                outlet.leave()
        for key, cell in list(self._watched.items()):
            if key[0] == node:
                del self._watched[key]
                cell.watchers.pop(key, None)

    def lease_over(self, node: str) -> None:
        """Withdraw the peer's requests: nobody waits for their answers any more."""
        for key, request in list(self._asks.items()):
            if key[0] == node:
                self._withdraw(key, request)

    # Messages and requests -------------------------------------------------

    def _told(self, node: str, envelope: Envelope) -> None:
        try:
            self._offer(envelope, self._traced(envelope))
        except ActorError as error:
            self._letter(_why(error), envelope)

    def _asked(self, node: str, envelope: Envelope) -> None:
        left_ms = envelope.deadline_ms
        deadline = float("inf") if left_ms is None else self._system.loop.time() + left_ms / 1000
        request = RemoteAsk(self, node, envelope.id, self._traced(envelope), deadline, envelope.to)
        self._asks[node, envelope.id] = request
        try:
            self._offer(envelope, request)
        except ActorError as error:
            self._letter(_why(error), envelope)
            request.fail(error)

    def _opened(self, node: str, envelope: Envelope) -> None:
        outlet = self._outlet(node, envelope.id)
        try:
            self._offer(envelope, Open(self._traced(envelope), outlet))
        except ActorError as error:
            self._letter(_why(error), envelope)
            outlet.finish(error)

    def _traced(self, envelope: Envelope) -> Any:
        trace = envelope.trace
        if trace is None:
            if self._system.observer is None:
                return envelope.message
            trace = self._system.new_trace()
        return Traced(envelope.message, trace)

    def _offer(self, envelope: Envelope, item: Any) -> None:
        system = self._system
        node, _, name = envelope.to.partition("/")
        cell = system.cells.get(name) if node == system.name else None
        if node != system.name:
            raise Unreachable(envelope.to, f"{system.name} hands on nothing")
        if cell is None:
            raise Stopped(envelope.to, "there is no such actor")
        if envelope.message is None:
            raise ProtocolError(f"{envelope.kind.name} without a message for {envelope.to}")
        if system.observer is not None:
            system.observed("enqueue", envelope.to, item)
        queue = cell.queue
        if queue.wake is not None and queue.fast:
            # The actor sleeps: let it work at once, which saves a turn of the loop.
            queue.messages.append(item)
            cell.worker.step()
            return
        if queue.full and not queue.closed and queue.overflow is Overflow.WAIT:
            raise MailboxFull(envelope.to, queue.capacity)
        cell.offer(item, None)

    def reply(self, request: RemoteAsk, value: Any, error: BaseException | None) -> None:
        """Send the answer to a request back to its asker's node."""
        node, number = request.node, request.number
        self._asks.pop((node, number), None)
        border, name = self._border, self._system.name
        if error is None and (value is None or isinstance(value, Record)):
            answer = Envelope(Kind.REPLY, node, name, number, value)
            link = border.route(node)
            if link is None:
                self._system.dead_letters.add("link lost", node, value)
                return
            try:
                border.send(link, answer)
                return
            except Unreachable:
                self._system.dead_letters.add("link lost", node, value)
                return
            except ProtocolError as refused:
                error = refused
        elif error is None:
            error = no_record(value)
        border.try_send(border.route(node), Envelope(Kind.ERROR, node, name, number, fault(error)))

    # Streams ---------------------------------------------------------------

    def _outlet(self, node: str, number: int) -> Outlet:
        border, name = self._border, self._system.name

        def deliver(part: Any) -> Awaitable[None] | None:
            if not isinstance(part, Record):
                raise no_record(part)
            link = border.route(node)
            if link is None:
                raise ConsumerLeft
            try:
                border.send(link, Envelope(Kind.CHUNK, node, name, number, part))
            except Unreachable:
                raise ConsumerLeft from None
            return room(link) if link.full else None

        def finish(error: BaseException | None) -> None:
            self._outlets.pop((node, number), None)
            told = None if error is None else fault(error)
            border.try_send(border.route(node), Envelope(Kind.END, node, name, number, told))

        self._outlets[node, number] = outlet = Outlet(0, deliver, finish)
        return outlet

    def _granted(self, node: str, envelope: Envelope) -> None:
        outlet = self._outlets.get((node, envelope.id))
        if outlet is not None and isinstance(envelope.message, Credit):
            outlet.grant(max(0, envelope.message.parts))

    def _cancelled(self, node: str, envelope: Envelope) -> None:
        key = (node, envelope.id)
        outlet = self._outlets.pop(key, None)
        if outlet is not None:
            outlet.leave()
        elif (request := self._asks.get(key)) is not None:
            self._withdraw(key, request)

    def _withdraw(self, key: tuple[str, int], request: RemoteAsk) -> None:
        del self._asks[key]
        request.withdrawn = True
        cell = self._system.cells.get(request.to.partition("/")[2])
        if cell is not None:
            cell.withdraw(request)

    # Watches ---------------------------------------------------------------

    def _watch(self, node: str, envelope: Envelope) -> None:
        key, watcher = (node, envelope.id), envelope.sender
        name = self._system.name

        def notify(down: Down) -> None:
            self._watched.pop(key, None)
            gone = Envelope(Kind.DOWN, watcher, name, key[1], down)
            self._border.try_send(self._border.route(node), gone)

        cell = self._cell(envelope)
        if cell is None:
            here = envelope.to.partition("/")[0] == name
            notify(Down(envelope.to, Reason.STOPPED if here else Reason.UNREACHABLE))
        else:
            cell.watchers[key] = notify
            self._watched[key] = cell

    def _unwatch(self, node: str, envelope: Envelope) -> None:
        cell = self._watched.pop((node, envelope.id), None)
        if cell is not None:
            cell.watchers.pop((node, envelope.id), None)

    def _cell(self, envelope: Envelope) -> Cell | None:
        node, _, name = envelope.to.partition("/")
        cell = self._system.cells.get(name) if node == self._system.name else None
        return None if cell is None or cell.queue.closed else cell

    def _going_away(self, node: str, envelope: Envelope) -> None:
        log.info("peer.closing", system=self._system.name, peer=node)

    def _letter(self, why: str, envelope: Envelope) -> None:
        self._system.dead_letters.add(why, envelope.to, envelope.message)


_ACTS: Final[dict[Kind, Callable[[Arrivals, str, Envelope], None]]] = {
    Kind.TELL: Arrivals._told,
    Kind.ASK: Arrivals._asked,
    Kind.OPEN: Arrivals._opened,
    Kind.CREDIT: Arrivals._granted,
    Kind.CANCEL: Arrivals._cancelled,
    Kind.WATCH: Arrivals._watch,
    Kind.UNWATCH: Arrivals._unwatch,
    Kind.GOAWAY: Arrivals._going_away,
}


def _why(error: ActorError) -> str:
    if isinstance(error, MailboxFull):
        return "mailbox full"
    return "no such actor" if isinstance(error, Stopped | Unreachable) else "malformed"
