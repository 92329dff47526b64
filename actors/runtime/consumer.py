"""How an actor's messages are taken from its mailbox and handled, one at a time.

Here: everything between a message's acceptance and its end: handled, answered,
failed, refused or accounted for as a dead letter. Not here: whose turn it is
(`mailbox.py`), and what becomes of an actor that fails or ends (`cell.py`).

One task per actor, its worker, runs `consume`. An `ask` that finds it asleep lets it
work at once (`worker.py`): nothing is queued then, so nothing is overtaken.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Final

from .actor import Actor, Handler
from .address import Address
from .asks import RemoteAsk, content
from .errors import (
    ActorError,
    Interrupted,
    MailboxFull,
    ProtocolError,
    Rejected,
    RemoteError,
    Stopped,
)
from .mailbox import Mailbox, Overflow, Queue
from .message import Reason, type_name
from .signals import ANY_LIFE, Crash, Stop, Tick
from .stream import Open, serve
from .worker import IDLE, Worker

if TYPE_CHECKING:
    from .system import System

# A handler that never suspends keeps the loop; after 512 messages (a power of two)
# the consumer lets others run. Twice the default mailbox, so that a sender and a
# consumer that run in turns need no turn of the loop beside those of the mailbox.
TURN_MASK: Final = 512 - 1

# Mailbox items that somebody elsewhere waits for; local asks are tuples.
REMOTE: Final[frozenset[Any]] = frozenset({RemoteAsk, Open})

# As a name of free type, so that comparing does not narrow `Any` to unknown tuples.
_TUPLE: Final[Any] = tuple


class Consumer:
    """The message side of one running actor; `worker` is set when it begins."""

    worker: Worker

    __slots__ = (
        "address",
        "current",
        "draining",
        "functions",
        "generation",
        "handled",
        "handlers",
        "instance",
        "queue",
        "reason",
        "since",
        "stop",
        "suspended",
        "system",
        "tasks",
        "text",
        "withdrawn",
        "worker",
    )

    def __init__(self, system: System, address: Address, mailbox: Mailbox) -> None:
        """Make a consumer without an actor yet."""
        self.system = system
        self.address = address
        self.text = str(address)
        self.queue = Queue(mailbox, system.accepted)
        self.tasks: dict[asyncio.Task[None], None] = {}
        # All of the actor's handlers, and those that are no streams.
        self.handlers: dict[Any, Handler] = {}
        self.functions: dict[Any, Handler] = {}
        self.instance: Actor | None = None
        self.current: Any = None
        # The message whose handler has been seen to wait, and since when; else when
        # the worker last had its turn.
        self.suspended: Any = None
        self.since = 0.0
        self.withdrawn = False
        self.draining = False
        self.stop: Stop | None = None
        self.generation: int = 0
        self.handled = 0
        self.reason = Reason.STOPPED

    # What senders do -------------------------------------------------------

    def offer(self, item: Any, future: asyncio.Future[None] | None) -> bool:
        """Take an item the long way; False if it must wait for `future`.

        Raises:
            Stopped: If the mailbox is closed or draining.
            MailboxFull: By its policy.
        """
        queue = self.queue
        if queue.closed or self.draining:
            raise Stopped(self.text, self.reason.value)
        if not queue.full:
            queue.put(item)
            return True
        match queue.overflow:
            case Overflow.REJECT:
                raise MailboxFull(self.text, queue.capacity)
            case Overflow.DROP_OLDEST:
                self.discard(queue.evict(), "mailbox full")
                queue.put(item)
                return True
            case Overflow.WAIT:
                queue.wait_for_room(item, future)
                return False

    def discard(self, item: Any, why: str) -> None:
        """Account for a message that will not be handled: fail its asker, keep a dead letter."""
        if why == "mailbox full":
            self._refuse(item, MailboxFull(self.text, self.queue.capacity))
        else:
            self._refuse(item, Stopped(self.text, self.reason.value))
        self._letter(why, item)

    def _letter(self, why: str, item: Any) -> None:
        self.system.dead_letters.add(why, self.text, content(item))

    def _refuse(self, item: Any, error: ActorError) -> bool:
        """Fail whoever waits for `item`; False if it was only told."""
        if type(item) is _TUPLE:
            self.system.sweep.settle(item, None, error)
        elif type(item) in REMOTE:
            item.fail(error)
        else:
            return False
        return True

    @property
    def at_rest(self) -> bool:
        """Whether it sleeps with nothing to do, and takes messages."""
        queue = self.queue
        asleep = queue.wake is not None and self.worker.asleep
        return asleep and not queue.messages and not queue.closed and not self.draining

    def asks_itself(self) -> bool:
        """Whether the code that runs now is an `async` handler of this very actor."""
        if not self.at_work():
            return False
        handler = self.handlers.get(type(content(self.current)))
        return handler is not None and handler.awaited

    def at_work(self) -> bool:
        """Whether the code that runs now is the worker's."""
        return asyncio.current_task(self.system.loop) is self.worker.task

    def _asker_left(self, reply: asyncio.Future[Any]) -> None:
        """Cancel the handler at work on a local ask that was cancelled or has expired."""
        current = self.current
        if type(current) is _TUPLE and current[0] is reply:
            self.withdraw(current)

    def withdraw(self, item: Any) -> None:
        """Cancel the handler that is at work on `item`, if it still is."""
        if self.current is item:
            if self.at_work():
                return  # the handler gave up its own request; it ends by itself
            self.withdrawn = True
            self.worker.task.cancel()

    # The consumer ----------------------------------------------------------

    def failure_of(self, error: Exception | asyncio.CancelledError) -> Exception | None:
        """What `consume` raised, if it counts as a failure of the actor; its asker is told.

        None if the actor goes on: a rejection, or a request withdrawn. Raises `error`
        again if it is the cancellation of the worker itself.
        """
        item, self.current, self.suspended = self.current, None, None
        withdrawn = self.withdrawn
        self._forgive()
        if isinstance(error, Rejected):
            if not self._refuse(item, error):
                self._letter(f"rejected: {error.code}", item)
            return None
        if isinstance(error, asyncio.CancelledError):
            if withdrawn:
                self._letter("asker gone", item)
                return None
            if item is None or self.worker.task.cancelling():
                raise error
            # The handler awaited something that others cancelled.
            interrupted = Interrupted(self.text)
            interrupted.__cause__ = error
            error = interrupted
        self._refuse(item, self._told(error))
        return error

    def _forgive(self) -> None:
        """Take back the cancellation that stopped a handler, not the actor."""
        if self.withdrawn:
            self.withdrawn = False
            self.worker.task.uncancel()

    @types.coroutine
    def consume(self) -> Generator[Any, Any, None]:
        """The loop that every message of the actor goes through; `current` is the one at work.

        Told messages and local asks are handled in line, everything else by
        `_handle`, and the coroutine is written as a generator, which can yield
        `IDLE` itself: three calls less halve the cost of a message.
        """
        queue, instance, system = self.queue, self.instance, self.system
        messages, signals, pending = queue.messages, queue.signals, system.sweep.pending
        # Where somebody observes or the codec is checked, everything goes the long way.
        functions: dict[Any, Handler] = self.functions if system.direct else {}
        reply: Any
        while True:
            if signals:
                if (yield from self._signal(signals.pop(0)).__await__()):
                    return
            elif messages:
                item = self.current = messages.popleft()
                if queue.waiting and len(messages) <= queue.low:
                    queue.release()
                if type(item) is not _TUPLE:
                    handler = functions.get(type(item))
                    if handler is None:
                        yield from self._handle(item).__await__()
                    else:
                        self.handled += 1
                        reply = handler.call(instance, item)
                        if handler.awaited:
                            yield from reply
                else:
                    future, message, deadline, _, _ = item
                    handler = functions.get(type(message))
                    if handler is None or deadline <= self.since or future.done():
                        yield from self._handle(item).__await__()
                    else:
                        self.handled += 1
                        reply = handler.call(instance, message)
                        if handler.awaited:
                            reply = yield from reply  # pyright: ignore[reportUnknownVariableType]
                            if self.withdrawn:
                                self._forgive()
                        if pending:
                            pending.pop(future, None)
                        try:  # noqa: SIM105  # `suppress` costs ten times as much
                            future.set_result(reply)
                        except asyncio.InvalidStateError:  # the asker left meanwhile
                            pass
                # Held until the next message otherwise: 10,000 idle actors kept
                # 280 MB of their last messages alive.
                item = message = future = reply = self.current = None
                if self.suspended is not None:
                    self.note_end()
                if not self.handled & TURN_MASK:
                    yield  # to the loop, for a turn
            elif self.draining and not self.tasks:
                return
            else:
                yield IDLE

    def note_suspension(self) -> None:
        """Date a handler that begins to wait; from now on its asker's leaving cancels it."""
        current = self.current
        if current is not None and current is not self.suspended:
            self.suspended = current
            self.since = self.system.loop.time()
            if type(current) is _TUPLE:
                current[0].add_done_callback(self._asker_left)

    def note_end(self) -> None:
        """Date what comes after a handler that has waited."""
        self.suspended = None
        self.since = self.system.loop.time()

    def note_turn(self) -> None:
        """Keep the deepest mailbox met; date what begins now."""
        if self.suspended is None:
            self.since = self.system.loop.time()
        depth = len(self.queue.messages)
        if depth > self.queue.peak:
            self.queue.peak = depth

    async def _handle(self, item: Any) -> None:
        """Handle one message the long way: observed, remote, expired, or unknown ones."""
        system, message = self.system, content(item)
        if self._late(item):
            return
        handler = self.handlers.get(type(message))
        if handler is None or handler.stream != (type(item) is Open):
            self._unhandled(item, message)
            return
        self.handled += 1
        observer = system.observer
        if observer is not None:
            system.observed("start", self.text, item)
        try:
            reply = handler.call(self.instance, message)
            if handler.stream:
                self._produce(reply, item)
                return
            if handler.awaited:
                reply = await reply
                self._forgive()
            if type(item) is _TUPLE:
                system.sweep.settle(item, *system.crossing(message, reply))
            elif type(item) in REMOTE:
                item.answer(reply)
        finally:
            if observer is not None:
                system.observed("end", self.text, item)

    def _late(self, item: Any) -> bool:
        """Whether nobody waits for `item` any more; accounts for it then."""
        if type(item) is _TUPLE:
            gone, deadline = item[0].done(), item[2]
        elif type(item) in REMOTE:
            gone, deadline = item.done(), item.deadline
        else:
            return False
        if not gone and deadline > self.system.loop.time():
            return False
        if gone and type(item) is _TUPLE:
            self.system.sweep.pending.pop(item[0], None)
        self._letter("asker gone" if gone else "deadline passed", item)
        return True

    def _told(self, error: BaseException) -> RemoteError:
        """What an asker hears of a handler's failure."""
        told = RemoteError(self.text, type(error).__name__, str(error))
        told.__cause__ = error
        return told

    def _unhandled(self, item: Any, message: Any) -> None:
        kind = type(self.instance).__name__
        text = f"{self.text} ({kind}) has no handler for {type_name(message)}"
        self._refuse(item, ProtocolError(text))
        self._letter("no handler", message)

    # Signals ---------------------------------------------------------------

    async def _signal(self, signal: Any) -> bool:
        """Act on a signal; True if it ends the actor."""
        match signal:
            case Stop():
                self.stop = signal
                return True
            case Tick(message, generation) if generation in (self.generation, ANY_LIFE):
                self.current = message
                await self._handle(message)
                self.current = self.suspended = None
            case Crash(error, generation) if generation == self.generation:
                raise error
            case _:
                pass  # of a life that is over
        return False

    def remind(self, message: Any, generation: int) -> None:
        """Put a message of the actor's own, or a death notice, before all others."""
        if not self.queue.closed:
            if self.system.observer is not None:
                message = self.system.prepare(self.text, message, local=False)
            self.queue.signal(Tick(message, generation))

    def crash(self, error: BaseException) -> None:
        """Let the present life of the actor fail."""
        if not self.queue.closed:
            self.queue.signal(Crash(error, self.generation))

    def finish(self, reason: str) -> None:
        """End the actor after the present message."""
        if not self.queue.closed:
            self.queue.signal(Stop(reason))

    # Child tasks -----------------------------------------------------------

    def own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` as a child task that ends with the actor's present life."""
        task: asyncio.Task[None] = self.system.loop.create_task(work)
        self.tasks[task] = None
        task.add_done_callback(self._disown)
        return task

    def _disown(self, task: asyncio.Task[None]) -> None:
        self.tasks.pop(task, None)
        if self.draining:
            self.queue.nudge()
        if not task.cancelled() and (error := task.exception()) is not None:
            self.crash(error)

    def _produce(self, parts: Any, request: Open) -> None:
        """Serve a stream in a child task."""
        task = self.own(serve(parts, request, self.text))
        request.outlet.begin(task)
        # A task cancelled before its first step never runs and tells nobody.
        task.add_done_callback(lambda task: request.fail(Stopped(self.text, self.reason.value)))


def close_unstarted(work: Awaitable[Any]) -> None:
    """Close a coroutine whose task was cancelled before its first step; else no effect."""
    if isinstance(work, Coroutine):
        work.close()
