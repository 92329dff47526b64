"""An actor's life: its start, its failures and restarts, its children, its end.

The cell outlives the actor objects that it makes: address, mailbox, watches and
watchers stay over a restart; state, timers, children and child tasks do not.
Whatever happens to the actor, each message that reached the mailbox is handled,
answered with an error, or becomes a dead letter. How messages are handled is in
`consumer.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .actor import Actor
from .address import Address
from .asks import content
from .consumer import Consumer
from .context import Context
from .errors import ActorFailed, Stopped
from .mailbox import Mailbox
from .message import Down, Reason, type_name
from .signals import ANY_LIFE, Stop, Tick
from .statistics import ActorStatistics
from .supervision import Budget, Restart
from .worker import Worker

if TYPE_CHECKING:
    from .ref import Ref
    from .system import System


class Cell(Consumer):
    """The runtime's side of an actor; `Ref` and `Context` are faces of it."""

    __slots__ = (
        "budget",
        "children",
        "context",
        "factory",
        "failure",
        "kind",
        "parent",
        "ready",
        "started",
        "watchers",
        "watching",
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
        """Make a cell; `begin` starts its actor."""
        super().__init__(system, address, mailbox)
        self.factory = factory
        self.budget = Budget(restart)
        self.parent = parent
        self.children: dict[str, Cell] = {}
        # By watcher, local (its address) or remote (its node and a number).
        self.watchers: dict[Any, Callable[[Down], None]] = {}
        self.watching: dict[str, Ref[Any]] = {}
        self.context: Context | None = None
        self.started = False
        self.ready: asyncio.Future[None] | None = None
        self.kind = ""
        self.failure: BaseException | None = None

    def __repr__(self) -> str:
        return f"<actor {self.text}: {len(self.queue)} queued, {self.handled} handled>"

    # Start -----------------------------------------------------------------

    def begin(self) -> asyncio.Future[None] | None:
        """Make the actor and its worker; return the future of its `started`, if it has one.

        Raises what the factory raises; nothing has begun then.
        """
        instance = self._make()
        hook = type(instance).started is not Actor.started
        self.ready = ready = self.system.loop.create_future() if hook else None
        if ready is None:
            self._open()
        self.worker = Worker(
            self.system.loop,
            self._run(),
            self.queue,
            self.text,
            self.system.stack,
            self,
        )
        self.system.workers.add(self.worker.task)
        self.worker.task.add_done_callback(self._worker_over)
        return ready

    def _make(self) -> Actor:
        self.generation += 1
        instance = self.factory()
        self.kind = type(instance).__name__
        self.handlers = type(instance).handlers
        self.functions = type(instance).functions
        instance.ctx = self.context = Context(self)
        self.instance = instance
        return instance

    def _open(self) -> None:
        """Let senders take the short way."""
        self.started = True
        self.queue.fast = self.system.direct and not self.draining

    async def _run(self) -> None:
        """Serve the mailbox until the actor ends, over restarts, then clean up."""
        try:
            alive = self.ready is None or await self._start(self.ready)
            while alive:
                try:
                    await self.consume()
                    alive = False
                except (Exception, asyncio.CancelledError) as error:
                    failure = self.failure_of(error)
                    alive = failure is None or await self._restart(failure)
        except asyncio.CancelledError:
            # Only the system cancels a worker, at the end of its grace.
            self.reason = Reason.STOPPED
        finally:
            await self._end()

    async def _start(self, ready: asyncio.Future[None]) -> bool:
        assert self.instance is not None
        try:
            await self.instance.started()
        except Exception as error:
            # The first start has a caller who is told; budgets are for later.
            self.reason = Reason.FAILED
            self.failure = error
            if not ready.done():
                ready.set_exception(error)
            return False
        self._open()
        if not ready.done():
            ready.set_result(None)
        return True

    # Failure ---------------------------------------------------------------

    async def _restart(self, error: Exception) -> bool:
        """Decide on a failure and carry the decision out; False if the actor ends."""
        loop = self.system.loop
        self.queue.fast = False
        while True:
            self.failure = error
            pause = self.budget.failed(loop.time(), self.system.rng)
            self.system.log_failure(self.text, error, pause)
            await self._dismantle("failed")
            if pause is None:
                self.reason = Reason.FAILED
                return False
            if not await self._pause(loop.time() + pause):
                return False
            try:
                await self._make().started()
            except Exception as again:
                error = again
            else:
                self._open()
                return True

    async def _pause(self, until: float) -> bool:
        """Wait out the backoff; False if the actor is to end meanwhile."""
        loop, queue = self.system.loop, self.queue
        kept: list[Any] = []
        while True:
            while queue.signals:
                signal = queue.signals.pop(0)
                if isinstance(signal, Stop):
                    self.stop = signal
                    return False
                if isinstance(signal, Tick) and signal.generation == ANY_LIFE:
                    kept.append(signal)  # all others belong to the life that failed
            left = until - loop.time()
            if left <= 0:
                queue.signals.extend(kept)
                return True
            if self.draining and not queue.messages:
                return False
            queue.wake = wake = loop.create_future()
            timer = loop.call_later(left, queue.nudge)
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
        hook = instance is not None and type(instance).stopping is not Actor.stopping
        if instance is not None and hook and not self.system.aborted:
            try:
                async with asyncio.timeout(self.system.grace):
                    await instance.stopping(reason)
            except Exception as error:
                self.system.log_failure(self.text, error, None)

    # End -------------------------------------------------------------------

    def drain(self) -> None:
        """Take no more messages; end when those accepted are handled."""
        rests = self.at_rest
        self.draining = True
        self.queue.fast = False
        if rests:
            self.worker.step()
        else:
            self.queue.nudge()

    def cancel(self, reason: str) -> None:
        """End at once, in the middle of a message."""
        self.queue.fast = False
        self.finish(reason)
        self.worker.task.cancel()

    async def halt(self, reason: str, wait_s: float | None = None) -> None:
        """End after the present message, at the latest in `wait_s` (default: the grace)."""
        if self.at_rest:
            # At once, as in `Ref.ask`: thousands that end with a job would take a turn of the
            # loop after the other.
            self.queue.signals.append(Stop(reason))
            self.worker.step()
        else:
            self.finish(reason)
        await self.over(self.system.grace if wait_s is None else wait_s, reason)

    async def over(self, wait_s: float, reason: str) -> None:
        """Wait for the end; cancel the worker if it has not come in `wait_s` seconds."""
        if self.queue.closed or self.at_work():
            return
        task = self.worker.task
        await asyncio.wait([task], timeout=max(0.0, wait_s))
        while not task.done():
            # A handler may swallow one cancellation, its clean-up takes a grace of its own.
            self.cancel(reason)
            await asyncio.wait([task], timeout=max(1.0, 2 * self.system.grace))

    async def _end(self) -> None:
        reason = self.stop.reason if self.stop is not None else self.reason.value
        self.queue.fast = False
        try:
            await self._dismantle(reason)
        finally:
            self._close()

    def _worker_over(self, task: asyncio.Task[None]) -> None:
        """Clean up after a worker that was cancelled before its first step and never ran."""
        self.worker.coroutine.close()
        self._close()
        self.system.workers.discard(task)

    def _close(self) -> None:
        """Account for all messages, and tell everybody; idempotent."""
        if not self.queue.closed:
            self._empty()
            if self.ready is not None and not self.ready.done():
                self.ready.set_exception(Stopped(self.text, self.reason.value))
            self._tell_the_world()

    def _empty(self) -> None:
        """Close the mailbox and account for all that is in it or waits before it."""
        queued, waiting = self.queue.close()
        for item in queued:
            self.discard(item, "actor stopped")
        for item, future in waiting:
            if future is None:
                self.discard(item, "actor stopped")
            elif not future.done():
                future.set_exception(Stopped(self.text, self.reason.value))

    def _tell_the_world(self) -> None:
        failure = self.failure if self.reason is Reason.FAILED else None
        down = Down(self.text, self.reason, "" if failure is None else repr(failure))
        watched = bool(self.watchers)
        for notify in list(self.watchers.values()):
            notify(down)
        self.watchers.clear()
        for ref in list(self.watching.values()):
            self.system.unwatch(self, ref)
        self.system.forget(self)
        self.context = None
        if failure is not None and self.started and not watched:
            self._escalate(failure)

    def _escalate(self, failure: BaseException) -> None:
        failed = ActorFailed(self.text, self.budget.failures, repr(failure))
        failed.__cause__ = failure
        if self.parent is not None:
            self.parent.crash(failed)
        else:
            self.system.failures.append(failed)

    # What others see -------------------------------------------------------

    def down(self, down: Down) -> None:
        """Deliver a death notice; it outlives a restart, as watches do."""
        self.watching.pop(down.address, None)
        self.remind(down, ANY_LIFE)

    def statistics(self) -> ActorStatistics:
        """A snapshot of the actor's counts."""
        current = self.current
        message = None if current is None else content(current)
        waits = current is not None and current is self.suspended
        return ActorStatistics(
            address=self.text,
            kind=self.kind,
            queued=len(self.queue),
            waiting=len(self.queue.waiting or ()),
            peak=max(self.queue.peak, len(self.queue)),
            handled=self.handled,
            restarts=max(0, self.generation - 1),
            failures=self.budget.failures,
            tasks=len(self.tasks),
            current=None if message is None else type_name(message),
            current_age_s=self.system.loop.time() - self.since if waits else 0.0,
        )
