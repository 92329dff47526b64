"""What an actor may do: `self.ctx`.

Everything begun here belongs to the actor's present life and ends with it:
children, child tasks and timers do not survive a restart. Watches do.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from .address import Address
from .consumer import close_unstarted
from .mailbox import Mailbox
from .message import Down, Message, type_name
from .supervision import Restart

if TYPE_CHECKING:
    from .actor import Actor
    from .cell import Cell
    from .ref import Ref
    from .system import System

A = TypeVar("A", bound="Actor")
T = TypeVar("T")


class Context:
    """An actor's handle on its system, valid for one life of the actor."""

    __slots__ = ("_cell", "_generation", "_timers")

    def __init__(self, cell: Cell) -> None:
        """Made by the runtime at each start."""
        self._cell = cell
        self._generation: int = cell.generation
        self._timers: dict[str, asyncio.TimerHandle] = {}

    @property
    def system(self) -> System:
        """The system that runs the actor."""
        return self._cell.system

    @property
    def address(self) -> Address:
        """The actor's own address."""
        return self._cell.address

    @property
    def ref(self) -> Ref[Any]:
        """A reference to the actor itself, to hand out."""
        return self._cell.system.ref(self._cell)

    @property
    def rng(self) -> random.Random:
        """The system's seeded source of randomness."""
        return self._cell.system.rng

    @property
    def now(self) -> float:
        """The event loop's clock, in seconds; virtual in a simulation."""
        return self._cell.system.loop.time()

    async def spawn(
        self,
        factory: Callable[[], A],
        *,
        name: str,
        mailbox: Mailbox | None = None,
        restart: Restart | None = None,
    ) -> Ref[A]:
        """Start a child actor; its address is this actor's with `.name` added.

        A child past its budget makes this actor fail, unless this actor watches it.
        Raises what the child's `started` raises; `ValueError` where the name is taken.
        """
        return await self._cell.system.start(
            factory, f"{self._cell.address.name}.{name}", mailbox, restart, self._cell
        )

    def watch(self, ref: Ref[Any]) -> None:
        """Ask for one `Down` message when `ref` ends, at once if it already has.

        Watching twice is watching once. Raises `TypeError` if the actor does not handle `Down`.
        """
        if Down not in self._cell.handlers:
            raise TypeError(f"{self._cell.kind} watches {ref.text} but has no handler for Down")
        self._cell.system.watch(self._cell, ref)

    def unwatch(self, ref: Ref[Any]) -> None:
        """Take `watch` back; a `Down` already in the mailbox still arrives."""
        self._cell.system.unwatch(self._cell, ref)

    def after(self, delay: float, message: Message[Any, Any], *, key: str | None = None) -> None:
        """Deliver `message` to this actor in `delay` seconds, overtaking its mailbox.

        A timer of the same key (default: the message's type) is replaced.
        """
        self._set_timer(key or type_name(message), self.now + delay, message, None)

    def every(self, period: float, message: Message[Any, Any], *, key: str | None = None) -> None:
        """Deliver `message` each `period` seconds, first in one period, without drift.

        A loop that was held up makes up for it with one message, not with all it missed.
        """
        if period <= 0:
            raise ValueError(f"a period is positive, not {period:g} s")
        self._set_timer(key or type_name(message), self.now + period, message, period)

    def cancel_timer(self, key: str) -> None:
        """Cancel the timer of this key, if there is one."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def cancel_timers(self) -> None:
        """Cancel all timers of this life."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _set_timer(self, key: str, due: float, message: Any, period: float | None) -> None:
        self.cancel_timer(key)
        self._timers[key] = self.system.loop.call_at(due, self._fire, key, due, message, period)

    def _fire(self, key: str, due: float, message: Any, period: float | None) -> None:
        del self._timers[key]
        if period is not None:
            missed = max(0, int((self.now - due) / period))
            self._set_timer(key, due + (missed + 1) * period, message, period)
        self._cell.remind(message, self._generation)

    def run(
        self,
        work: Awaitable[T],
        then: Callable[[T | Exception], Message[Any, Any] | None],
    ) -> None:
        """Await `work` in a child task and bring its result back as a message.

        `then` makes the message from the result, or from the exception; None sends
        nothing. The message overtakes the mailbox. The task is cancelled when the
        actor's present life ends, and then nothing is sent.
        """
        task = self._cell.own(self._carry(work, then))
        task.add_done_callback(lambda task: close_unstarted(work))

    async def _carry(self, work: Awaitable[T], then: Callable[[T | Exception], Any]) -> None:
        result: T | Exception
        try:
            result = await work
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancels this task: something that the work awaited was cancelled.
            result = RuntimeError("the work was cancelled from inside")
        except Exception as error:
            result = error
        message = then(result)
        if message is not None:
            self._cell.remind(message, self._generation)

    def stop(self) -> None:
        """End this actor once the present message is handled; the rest become dead letters."""
        self._cell.finish("stopped by itself")
