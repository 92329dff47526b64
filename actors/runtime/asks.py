"""Requests in flight: what an `ask` puts in a mailbox, and the deadlines of all of them.

A local ask is a plain future in a plain tuple: a subclass of `Future` takes the
event loop's slow path at every wake-up, an object per request a tenth of its
cost. Deadlines are swept by one timer per system: a timer per ask was measured
to halve the rate, while a sweep costs nothing until it is due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from .errors import AskTimeout
from .message import type_name

if TYPE_CHECKING:
    from .arrivals import Arrivals
    from .ref import Ref

# A deadline fires at most this much late. Sweeping more often would cost a
# noticeable share of a core with 10,000 asks in flight.
RESOLUTION_S = 0.02

# (reply, message, deadline on the loop's clock, receiver, seconds allowed)
Ask: TypeAlias = "tuple[asyncio.Future[Any], Any, float, Ref[Any], float]"


# The deadline of an ask whose handler begins before it could pass; `Sweep` keeps the real one.
NEVER = float("inf")


class Sweep:
    """All asks of one system that wait for a reply, and the timer of their deadlines."""

    __slots__ = ("_loop", "_timer", "next", "pending", "time")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin with nothing in flight."""
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self.next = float("inf")
        self.pending: dict[asyncio.Future[Any], Ask] = {}
        self.time = loop.time

    def await_reply(
        self, future: asyncio.Future[Any], message: Any, ref: Ref[Any], timeout: float
    ) -> Ask:
        """Make an ask of `future`, which fails with `AskTimeout` after `timeout` seconds."""
        deadline = self.time() + timeout
        self.pending[future] = ask = (future, message, deadline, ref, timeout)
        if deadline < self.next:
            self.schedule(deadline)
        return ask

    def close(self, error: Callable[[str], BaseException]) -> None:
        """Stop the timer and fail what still waits, with an error made from its address."""
        if self._timer is not None:
            self._timer.cancel()
        for ask in list(self.pending.values()):
            self.settle(ask, None, error(ask[3].text))

    def schedule(self, deadline: float) -> None:
        """Sweep at `deadline`, which is earlier than the next sweep was to be."""
        if self._timer is not None:
            self._timer.cancel()
        self.next = deadline
        self._timer = self._loop.call_at(deadline, self._expire)

    def settle(self, ask: Ask, value: Any, error: BaseException | None = None) -> None:
        """Give an ask its reply or its error."""
        future = ask[0]
        self.pending.pop(future, None)
        if future.done():
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)

    def _expire(self) -> None:
        now = self.time()
        for ask in list(self.pending.values()):
            future, message, deadline, ref, timeout = ask
            if deadline <= now:
                error = AskTimeout(ref.text, type_name(content(message)), timeout)
                self.settle(ask, None, error)
            elif future.done():  # cancelled by its asker
                del self.pending[future]
        self._timer = None
        self.next = float("inf")
        if self.pending:
            soonest = min(ask[2] for ask in self.pending.values())
            self.schedule(max(soonest, now + RESOLUTION_S))


class RemoteAsk:
    """A request that came over a link; its answer goes back the same way."""

    __slots__ = (
        "_answered",
        "_arrivals",
        "deadline",
        "message",
        "node",
        "number",
        "to",
        "withdrawn",
    )

    def __init__(
        self, arrivals: Arrivals, node: str, number: int, message: Any, deadline: float, to: str
    ) -> None:
        """The request `number` of the peer `node` for the actor `to`."""
        self._arrivals = arrivals
        self.node = node
        self.number = number
        self.message = message
        self.deadline = deadline
        self.to = to
        self.withdrawn = False
        self._answered = False

    def done(self) -> bool:
        """Whether the asker has gone or has been answered."""
        return self.withdrawn or self._answered

    def answer(self, value: Any) -> None:
        """Send the reply."""
        if not self.done():
            self._answered = True
            self._arrivals.reply(self, value, None)

    def fail(self, error: BaseException) -> None:
        """Send an error."""
        if not self.done():
            self._answered = True
            self._arrivals.reply(self, None, error)


@dataclass(frozen=True, slots=True)
class Traced:
    """A message with its trace, where somebody observes or a link brought one along."""

    message: Any
    trace: str


def content(item: Any) -> Any:
    """The message itself, whatever carries it in a mailbox."""
    if type(item) is _TUPLE:
        item = item[1]
    while type(item) in CARRIERS:
        item = item.message
    return item


def trace_of(item: Any) -> str | None:
    """The trace that an item carries, None without one."""
    if type(item) is _TUPLE:
        item = item[1]
    while type(item) in CARRIERS:
        if isinstance(item, Traced):
            return item.trace
        item = item.message
    return None


# As a name of free type, so that comparing does not narrow `Any` to unknown tuples.
_TUPLE: Any = tuple

# Mailbox items that hold a message beside tuples; all others are messages told.
CARRIERS: set[Any] = {RemoteAsk, Traced}
