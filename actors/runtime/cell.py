"""One running actor: its queue, its one consumer task, its supervision and its end.

The cell outlives the actor objects that it makes: address, mailbox and watchers
stay over a restart, state, timers, children and child tasks do not. Whatever
happens to the actor, each message that reached the queue is handled, answered
with an error, or becomes a dead letter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .actor import Actor, Handler
from .address import Address
from .asks import RemoteAsk, content
from .context import ANY_LIFE, Context
from .errors import (
    ActorError,
    ActorFailed,
    MailboxFull,
    ProtocolError,
    Rejected,
    RemoteError,
    Stopped,
)
from .mailbox import Mailbox, Overflow, Queue
from .message import Down, Reason, type_name
from .statistics import ActorStatistics
from .stream import Open, serve
from .supervision import Budget, Restart

if TYPE_CHECKING:
    from .system import System

# A handler that never suspends keeps the loop; after this many messages in a
# row the consumer lets others run (measured: no cost from 64 on).
TURN_MESSAGES = 64

# Mailbox items that somebody elsewhere waits for; local asks are tuples.
REMOTE = frozenset({RemoteAsk, Open})


@dataclass(frozen=True, slots=True)
class Stop:
    """Signal: end now, leaving what is queued as dead letters."""

    reason: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Signal: a timer or a child task has a message for its own actor."""

    message: Any
    generation: int


@dataclass(frozen=True, slots=True)
class Crash:
    """Signal: a child of the actor is past its budget, which counts as its own failure."""

    error: BaseException


class Cell:
    """The runtime's side of an actor; `Ref` and `Context` are faces of it."""

    __slots__ = (
        "address",
        "budget",
        "busy",
        "children",
        "context",
        "current",
        "draining",
        "ended",
        "factory",
        "failure",
        "generation",
        "handled",
        "handlers",
        "inline",
        "instance",
        "parent",
        "queue",
        "reason",
        "settings",
        "since",
        "stop",
        "system",
        "tasks",
        "watchers",
        "withdrawn",
        "worker",
    )

    def __init__(
        self,
        system: System,
        address: Address,
        factory: Callable[[], Actor],
        mailbox: Mailbox,
        restart: Restart,
        parent: Cell | None,
    ) -> None:
        """Make a cell; `System.spawn` starts its consumer."""
        self.system = system
        self.address = address
        self.factory = factory
        self.settings = mailbox
        self.queue = Queue(mailbox)
        self.queue.fast = system.direct
        self.budget = Budget(restart)
        self.parent = parent
        self.children: dict[str, Cell] = {}
        self.watchers: dict[Any, Callable[[Down], None]] = {}
        self.tasks: dict[asyncio.Task[None], None] = {}
        self.handlers: dict[type, Handler] = {}
        self.instance: Actor | None = None
        self.context: Context | None = None
        self.worker: asyncio.Task[None] | None = None
        self.ended: asyncio.Future[Down] | None = None
        self.current: Any = None
        self.since = 0.0
        self.busy = False
        self.withdrawn = False
        self.draining = False
        self.stop: Stop | None = None
        self.generation = 0
        self.handled = 0
        self.inline = 0
        self.reason = Reason.STOPPED
        self.failure: BaseException | None = None

    def __repr__(self) -> str:
        return f"<actor {self.address}: {len(self.queue)} queued, {self.handled} handled>"

    # What senders do -------------------------------------------------------

    def offer(self, item: Any, future: asyncio.Future[None] | None) -> bool:
        """Take an item that found the mailbox full or closed; False if it must wait for `future`."""
        queue = self.queue
        if queue.closed or self.draining:
            raise Stopped(str(self.address), self.reason.value)
        if not queue.full:
            queue.put(item)
            return True
        match queue.overflow:
            case Overflow.REJECT:
                raise MailboxFull(str(self.address), queue.capacity)
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
            self._refuse(item, MailboxFull(str(self.address), self.queue.capacity))
        else:
            self._refuse(item, Stopped(str(self.address), self.reason.value))
        self.system.dead_letters.add(why, str(self.address), content(item))

    def _refuse(self, item: Any, error: ActorError) -> bool:
        """Fail whoever waits for `item`; False if it was only told."""
        if type(item) is tuple:
            self.system.sweep.settle(item, None, error)
        elif type(item) in REMOTE:
            item.fail(error)
        else:
            return False
        return True

    def _asker_left(self, reply: asyncio.Future[Any]) -> None:
        """Cancel the handler at work on a local ask that was cancelled or has expired."""
        current = self.current
        if type(current) is tuple and current[0] is reply:
            self.withdraw(current)

    def withdraw(self, item: Any) -> None:
        """Cancel the handler that is at work on `item`, if it still is."""
        if self.current is item and self.worker is not None:
            if asyncio.current_task() is self.worker:
                return  # the handler gave up its own request; it ends by itself
            self.withdrawn = True
            self.worker.cancel()

    def serve_now(self, handler: Handler, message: Any) -> asyncio.Future[Any]:
        """Run a plain handler of this idle actor for an asker; return its completed reply."""
        future: asyncio.Future[Any] = self.system.loop.create_future()
        self.handled += 1
        self.busy = True
        try:
            future.set_result(handler.call(self.instance, message))
        except Rejected as error:
            future.set_exception(error)
        except Exception as error:
            told = RemoteError(str(self.address), type(error).__name__, str(error))
            told.__cause__ = error
            future.set_exception(told)
            self.queue.signal(Crash(error))
        finally:
            self.busy = False
        return future

    def remind(self, message: Any, generation: int) -> None:
        """Put a message of the actor's own, or a death notice, before all others."""
        if not self.queue.closed:
            self.queue.signal(Tick(message, generation))

    def down(self, down: Down) -> None:
        """Deliver a death notice; it outlives a restart, as watches do."""
        self.remind(down, ANY_LIFE)

    def finish(self, reason: str) -> None:
        """End the actor after the present message."""
        if not self.queue.closed:
            self.queue.signal(Stop(reason))

    def drain(self) -> None:
        """Take no more messages; end when those accepted are handled."""
        self.draining = True
        self.queue.fast = False
        self.queue.nudge()

    # The consumer ----------------------------------------------------------

    async def run(self, ready: asyncio.Future[None]) -> None:
        """Start the actor, serve its mailbox until it ends, then clean up."""
        try:
            alive = await self._start(ready)
            while alive:
                try:
                    await self._serve()
                    alive = False
                except Exception as error:
                    alive = await self._restart(error)
        except asyncio.CancelledError:
            # Only the system cancels a worker, at the end of its grace.
            self.reason = Reason.STOPPED
        finally:
            await self._end(ready)

    async def _start(self, ready: asyncio.Future[None]) -> bool:
        try:
            await self._make()
        except Exception as error:
            # The first start has a caller who is told; budgets are for later.
            self.reason = Reason.FAILED
            self.failure = error
            if not ready.done():
                ready.set_exception(error)
            return False
        if not ready.done():
            ready.set_result(None)
        return True

    async def _make(self) -> None:
        self.generation += 1
        instance = self.factory()
        self.handlers = type(instance).handlers
        instance.ctx = self.context = Context(self)
        self.instance = instance
        await instance.started()

    async def _serve(self) -> None:
        """Handle signals and messages until a stop; raises what counts as a failure."""
        while True:
            try:
                await self._consume()
                return
            except Exception as error:
                item, self.current = self.current, None
                self._failed(item, error)
            except asyncio.CancelledError:
                if not self.withdrawn:
                    raise
                self.system.dead_letters.add("asker gone", str(self.address), content(self.current))
                self._forgive()
            finally:
                self.current = None

    def _forgive(self) -> None:
        """Take back the cancellation that stopped a handler, not the actor."""
        self.withdrawn = False
        if self.worker is not None:
            self.worker.uncancel()

    async def _consume(self) -> None:
        """The loop that every message of the actor goes through; `current` is the one at work.

        Told messages and local asks are handled in line, everything else by
        `_handle`: two calls less halve the cost of a message.
        """
        queue, handlers, instance, system = self.queue, self.handlers, self.instance, self.system
        messages, signals, time = queue.messages, queue.signals, system.loop.time
        pending, asker_left = system.sweep.pending, self._asker_left
        direct = system.observer is None
        turn = TURN_MESSAGES
        while True:
            if signals:
                if await self._signal(signals.popleft()):
                    return
            elif messages:
                item = self.current = messages.popleft()
                if queue.waiting and len(messages) <= queue.low:
                    queue.release()
                if type(item) is not tuple:
                    handler = handlers.get(type(item))
                    if handler is None or not direct or handler.stream:
                        await self._handle(item)
                    else:
                        self.handled += 1
                        reply = handler.call(instance, item)
                        if handler.awaited:
                            await reply
                else:
                    future, message, deadline, _, _ = item
                    handler = handlers.get(type(message))
                    late = future.done() or deadline <= time()
                    if handler is None or late or not direct or handler.stream:
                        await self._handle(item)
                    else:
                        self.handled += 1
                        reply = handler.call(instance, message)
                        if handler.awaited:
                            future.add_done_callback(asker_left)
                            reply = await reply
                            future.remove_done_callback(asker_left)
                            if self.withdrawn:
                                self._forgive()
                        if pending.pop(future, None) is not None and not future.done():
                            future.set_result(reply)
                # Held until the next message otherwise: 10,000 idle actors kept
                # 280 MB of their last messages alive.
                item = message = future = reply = self.current = None
                turn -= 1
                if not turn:
                    turn = TURN_MESSAGES
                    await asyncio.sleep(0)
                    self._note_turn()
            elif queue.waiting:
                queue.release()
            elif self.draining and not self.tasks:
                return
            else:
                turn = TURN_MESSAGES
                queue.wake = wake = system.loop.create_future()
                await wake
                self._note_turn()

    def _note_turn(self) -> None:
        """Keep the deepest mailbox met; date what begins now."""
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
        system.observed("start", self.address, item)
        try:
            reply = handler.call(self.instance, message)
            if handler.stream:
                self.own(serve(reply, item, str(self.address)))
                return
            if handler.awaited:
                if type(item) is tuple:
                    item[0].add_done_callback(self._asker_left)
                reply = await reply
                if self.withdrawn:
                    self._forgive()
            if type(item) is tuple:
                item[0].remove_done_callback(self._asker_left)
                system.sweep.settle(item, reply)
            elif type(item) in REMOTE:
                item.answer(reply)
        finally:
            system.observed("end", self.address, item)

    def _late(self, item: Any) -> bool:
        """Whether nobody waits for `item` any more; accounts for it then."""
        if type(item) is tuple:
            gone, deadline = item[0].done(), item[2]
        elif type(item) in REMOTE:
            gone, deadline = item.done(), item.deadline
        else:
            return False
        if not gone and deadline > self.system.loop.time():
            return False
        why = "asker gone" if gone else "deadline passed"
        self.system.dead_letters.add(why, str(self.address), content(item))
        return True

    def _failed(self, item: Any, error: Exception) -> None:
        """Tell the asker; pass on what counts as a failure of the actor."""
        told: ActorError
        if isinstance(error, Rejected):
            told = error
        else:
            told = RemoteError(str(self.address), type(error).__name__, str(error))
            told.__cause__ = error
        if not self._refuse(item, told) and told is error:
            self.system.dead_letters.add(f"rejected: {error}", str(self.address), content(item))
        if told is not error:
            raise error

    def _unhandled(self, item: Any, message: Any) -> None:
        kind = type(self.instance).__name__
        text = f"{self.address} ({kind}) has no handler for {type_name(message)}"
        if isinstance(message, Down):
            text += "; an actor that watches handles Down"
        self._refuse(item, ProtocolError(text))
        self.system.dead_letters.add("no handler", str(self.address), message)

    async def _signal(self, signal: Any) -> bool:
        """Act on a signal; True if it ends the actor."""
        match signal:
            case Stop():
                self.stop = signal
                return True
            case Crash(error):
                raise error
            case Tick(message, generation):
                if generation in (self.generation, ANY_LIFE):
                    self.current = message
                    await self._handle(message)
                    self.current = None
                return False
            case _:
                return False

    # Failure and end -------------------------------------------------------

    async def _restart(self, error: Exception) -> bool:
        """Decide on a failure and carry the decision out; False if the actor ends."""
        loop = self.system.loop
        while True:
            self.failure = error
            pause = self.budget.failed(loop.time(), self.system.rng)
            self.system.log_failure(self.address, error, pause)
            await self._dismantle("failed")
            if pause is None:
                self.reason = Reason.FAILED
                return False
            if not await self._pause(loop.time() + pause):
                return False
            try:
                await self._make()
            except Exception as again:
                error = again
            else:
                return True

    async def _pause(self, until: float) -> bool:
        """Wait out the backoff; False if a stop comes meanwhile."""
        loop = self.system.loop
        signals = self.queue.signals
        kept: list[Any] = []
        while True:
            while signals:
                signal = signals.popleft()
                if isinstance(signal, Stop):
                    self.stop = signal
                    return False
                if isinstance(signal, Tick) and signal.generation == ANY_LIFE:
                    kept.append(signal)  # all others belong to the life that failed
            left = until - loop.time()
            if left <= 0:
                signals.extend(kept)
                return True
            self.queue.wake = wake = loop.create_future()
            timer = loop.call_later(left, _complete, wake)
            try:
                await wake
            finally:
                timer.cancel()

    async def _dismantle(self, reason: str) -> None:
        """Take down one life of the actor: timers, child tasks, children, then its own hook."""
        if self.context is not None:
            self.context.cancel_timers()
        for task in reversed(list(self.tasks)):
            task.cancel()
        if self.tasks:
            await asyncio.wait(list(self.tasks), timeout=self.system.grace)
        for child in reversed(list(self.children.values())):
            await child.halt(reason)
        instance, self.instance = self.instance, None
        if instance is not None:
            try:
                async with asyncio.timeout(self.system.grace):
                    await instance.stopping(reason)
            except Exception as error:
                self.system.log_failure(self.address, error, None)

    async def halt(self, reason: str) -> None:
        """Stop this actor and wait until it has ended."""
        self.queue.signal(Stop(reason))
        if self.ended is not None and not self.ended.done():
            await asyncio.wait([self.ended])

    async def _end(self, ready: asyncio.Future[None]) -> None:
        stop = self.stop
        reason = stop.reason if stop is not None else self.reason.value
        try:
            await self._dismantle(reason)
        finally:
            queued, waiting = self.queue.close()
            for item in queued:
                self.discard(item, "actor stopped")
            for item, future in waiting:
                if future is None:
                    self.discard(item, "actor stopped")
                elif not future.done():
                    future.set_exception(Stopped(str(self.address), self.reason.value))
            if not ready.done():
                ready.set_exception(Stopped(str(self.address), reason))
            self._tell_the_world()

    def _tell_the_world(self) -> None:
        detail = (
            "" if self.failure is None or self.reason is not Reason.FAILED else repr(self.failure)
        )
        down = Down(str(self.address), self.reason, detail)
        watched = bool(self.watchers)
        for notify in list(self.watchers.values()):
            notify(down)
        self.watchers.clear()
        self.system.forget(self)
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(down)
        if self.reason is Reason.FAILED and self.failure is not None and not watched:
            failed = ActorFailed(str(self.address), self.budget.failures, repr(self.failure))
            failed.__cause__ = self.failure
            if self.parent is not None:
                self.parent.queue.signal(Crash(failed))
            else:
                self.system.failures.append(failed)

    # Child tasks -----------------------------------------------------------

    def own(self, work: Awaitable[None]) -> asyncio.Task[None]:
        """Run `work` as a child task that ends with the actor's present life."""
        task: asyncio.Task[None] = self.system.loop.create_task(work)  # type: ignore[arg-type]
        self.tasks[task] = None
        task.add_done_callback(self._disown)
        return task

    def _disown(self, task: asyncio.Task[None]) -> None:
        self.tasks.pop(task, None)
        if self.draining:
            self.queue.nudge()
        if not task.cancelled() and (error := task.exception()) is not None:
            self.queue.signal(Crash(error))

    def statistics(self) -> ActorStatistics:
        """A snapshot of the actor's counts."""
        current = self.current
        message = None if current is None else content(current)
        return ActorStatistics(
            address=str(self.address),
            kind=type(self.instance).__name__,
            queued=len(self.queue),
            waiting=len(self.queue.waiting),
            peak=self.queue.peak,
            handled=self.handled,
            restarts=max(0, self.generation - 1),
            failures=self.budget.failures,
            tasks=len(self.tasks),
            current=None if message is None else type_name(message),
            current_age_s=0.0 if message is None else self.system.loop.time() - self.since,
        )


def _complete(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
