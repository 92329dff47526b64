"""References: how everybody else speaks to an actor, local or remote alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from .actor import Actor
from .address import Address
from .asks import NEVER, Ask
from .errors import ActorError, AskTimeout, ProtocolError, Stopped
from .mailbox import NOWHERE
from .message import Message, Pull, type_name
from .stream import Inlet, Open, Outlet, Stream

if TYPE_CHECKING:
    from .cell import Cell
    from .system import System

A = TypeVar("A", bound=Actor, covariant=True)
R = TypeVar("R")
P = TypeVar("P")

# Of the asks that are answered at once, one in this many keeps its asker waiting for
# a turn of the loop: a caller in a tight loop lets others run.
BREATH: Final = 32
# Seconds an ask waits unless told otherwise; long work takes its own deadline.
ASK_TIMEOUT_S = 60.0
# Parts a stream may have on the way; enough to hide one loop turn's latency.
STREAM_CREDIT = 8


class Ref(Generic[A]):
    """A typed reference to an actor of kind `A`; hashable, equal by address.

    The same whether the actor runs in this system or behind a link; the deadline
    of every `ask`, and `Unreachable`, are where the network shows.
    """

    __slots__ = ("_cell", "_queue", "_system", "address", "text")

    def __init__(self, system: System, address: Address, cell: Cell | None = None) -> None:
        """Made by `System.spawn` and `System.lookup`."""
        self._system = system
        self._cell = cell
        self._queue = NOWHERE if cell is None else cell.queue
        self.address = address
        self.text = str(address)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and self.address == other.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __repr__(self) -> str:
        return f"<ref {self.text}>"

    def tell(self, message: Message[A, Any]) -> Awaitable[None]:
        """Hand the message over; the awaitable is done when the next queue has accepted it.

        Under overflow WAIT the await may suspend, which is the back-pressure;
        cancelled while it waits, the message is withdrawn. Raises `Stopped`,
        `MailboxFull` (REJECT) or `Unreachable` at once, before anything is awaited.
        """
        queue = self._queue
        if queue.fast and not queue.waiting:
            messages = queue.messages
            if len(messages) < queue.capacity:
                messages.append(message)
                if queue.wake is not None:
                    queue.nudge()
                return queue.accepted
        return self._tell(message)

    def _tell(self, message: Any) -> Awaitable[None]:
        system = self._system
        cell = self._local()
        item = system.prepare(self.text, message, local=cell is not None)
        if cell is None:
            return system.border.tell(self, item)
        future: asyncio.Future[None] = system.loop.create_future()
        return cell.queue.accepted if cell.offer(item, future) else future

    def ask(self, message: Message[A, R], *, timeout: float = ASK_TIMEOUT_S) -> asyncio.Future[R]:
        """Send the message and return the future of its reply; nothing is raised before.

        Awaiting it raises exactly one of: `RemoteError` or `Rejected` from the handler,
        `AskTimeout` after `timeout` seconds (the effect is unknown then),
        `Stopped`, `MailboxFull`, `Unreachable`, `ProtocolError`. Cancelling it
        withdraws the request and cancels a handler at work on it.
        """
        queue = self._queue
        if not queue.fast:
            return self._ask(message, timeout)
        cell: Any = self._cell  # there is one, since its mailbox is open
        system, messages = self._system, queue.messages
        future: asyncio.Future[Any] = system.loop.create_future()
        if queue.wake is not None and not messages:
            # The actor sleeps: let it work at once. Two turns through the loop are
            # saved, which cost several times the whole call.
            messages.append((future, message, NEVER, self, timeout))
            cell.worker.step()
            if not future.done():
                system.sweep.await_reply(future, message, self, timeout)
                return future
            system.served = served = system.served + 1
            return future if served % BREATH else system.next_turn(future)
        ask = system.sweep.await_reply(future, message, self, timeout)
        if len(messages) < queue.capacity and not queue.waiting and cell.current is None:
            messages.append(ask)
        else:
            self._offer(cell, ask)
        return future

    def _ask(self, message: Any, timeout: float) -> asyncio.Future[Any]:
        system = self._system
        future: asyncio.Future[Any] = system.loop.create_future()
        try:
            cell = self._local()
            message = system.prepare(self.text, message, local=cell is not None)
        except ActorError as error:
            future.set_exception(error)
            return future
        ask = system.sweep.await_reply(future, message, self, timeout)
        if cell is None:
            system.border.ask(ask)
        elif system.observer is None and cell.at_rest:
            cell.queue.messages.append(ask)  # as in `ask`: it works at once
            cell.worker.step()
        else:
            self._offer(cell, ask)
        return future

    def _offer(self, cell: Cell, ask: Ask) -> None:
        try:
            if cell.current is not None and cell.asks_itself():
                raise ProtocolError(
                    f"a handler of {self.text} asks its own actor, which would wait for itself: "
                    "call the method, or tell"
                )
            cell.offer(ask, None)
        except ActorError as error:
            self._system.sweep.settle(ask, None, error)

    def stream(
        self,
        message: Pull[A, P],
        *,
        credit: int = STREAM_CREDIT,
        timeout: float = ASK_TIMEOUT_S,
    ) -> Stream[P]:
        """Ask for a stream of parts with at most `credit` of them unconsumed.

        `timeout` bounds each wait for the next part, in seconds.
        """
        if credit < 1:
            raise ValueError("a stream needs a credit of at least one part")
        # Credit goes back in batches, since each grant may be an envelope; half
        # the credit keeps the producer busy meanwhile.
        batch = max(1, credit // 2)
        system, cell = self._system, self._local()
        item = system.prepare(self.text, message, local=cell is not None)
        if cell is None:
            return system.border.stream(self, item, credit, batch, timeout)
        inlet = Inlet(batch, lambda parts: outlet.grant(parts))
        outlet = Outlet(credit, inlet.push, inlet.finish)
        request = Open(item, outlet)

        async def begin() -> None:
            future: asyncio.Future[None] = system.loop.create_future()
            if not cell.offer(request, future):
                try:
                    async with asyncio.timeout(timeout):
                        await future
                except TimeoutError:
                    raise AskTimeout(self.text, type_name(message), timeout) from None

        return Stream(begin, inlet, outlet.leave, self.text, message, timeout)

    def _local(self) -> Cell | None:
        """The actor's cell here, None if it lives elsewhere; raises `Stopped` if it is gone."""
        cell = self._cell
        if cell is not None and not cell.queue.closed:
            return cell
        system = self._system
        if self.address.node != system.name:
            return None
        cell = system.cells.get(self.address.name)
        if cell is None or cell.queue.closed:
            raise Stopped(self.text, "stopped" if self._cell is None else self._cell.reason.value)
        self._cell, self._queue = cell, cell.queue
        return cell


async def broadcast(
    refs: Iterable[Ref[A]], message: Message[A, R], *, timeout: float = ASK_TIMEOUT_S
) -> dict[Ref[A], R | ActorError]:
    """Ask all of `refs` at once; return each one's reply or error, in the order given.

    One receiver's error never hides another's reply. Cancelling withdraws all.
    """
    asks = {ref: ref.ask(message, timeout=timeout) for ref in dict.fromkeys(refs)}
    outcomes = await asyncio.gather(*asks.values(), return_exceptions=True)
    results: dict[Ref[A], R | ActorError] = {}
    for ref, outcome in zip(asks, outcomes, strict=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, ActorError):
            raise outcome
        results[ref] = outcome
    return results
