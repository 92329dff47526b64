"""A task whose coroutine others may step while it sleeps.

Here: an actor's worker, and how a caller lets it work at once on the caller's
own stack. Not here: what the worker does (`consumer.py`, `cell.py`).

Theory of operation. The task does not run the worker's coroutine itself; it runs
`_drive`, which sends into the coroutine and waits for what that waits for. When
the coroutine has nothing to do it yields `IDLE`, and `_drive` waits for a wake-up
future. Meanwhile `step` may send into the coroutine from outside, as the worker's
task and in its context. If the coroutine is idle again afterwards, nothing has
happened that the task need know of: two turns through the event loop are saved.
If it waits for something else, the task is woken and waits for that in its stead.
"""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Coroutine, Generator
from contextvars import copy_context
from typing import Any, Final, Protocol

from .mailbox import Queue

# Steps within steps: far from Python's limit of 1,000 frames.
DEPTH: Final = 16

IDLE: Final = object()
_OVER: Final = object()

# Which task is current in a loop: asyncio's own table. The calls documented for other
# task implementations cost four times as much as two entries in it.
if sys.version_info < (3, 14):
    _current_tasks: Any = getattr(asyncio.tasks, "_current_tasks")  # noqa: B009
else:

    class _CurrentTasks:
        """The same face where asyncio keeps the current task in the thread's state."""

        get = staticmethod(asyncio.current_task)
        __setitem__ = staticmethod(asyncio.tasks._swap_current_task)

        def __delitem__(self, loop: asyncio.AbstractEventLoop) -> None:
            asyncio.tasks._swap_current_task(loop, None)

    _current_tasks: Any = _CurrentTasks()


class Stack:
    """How many steps stand on the stack now, each taken by the one before."""

    __slots__ = ("depth",)

    def __init__(self) -> None:
        self.depth = 0


class Owner(Protocol):
    """Whose worker it is."""

    def note_turn(self) -> None:
        """The loop lets the coroutine go on."""

    def note_suspension(self) -> None:
        """The coroutine waits for something else than work."""


class Worker:
    """The task of one actor. `queue.wake` is its wake-up future while it sleeps.

    Args:
        loop: The event loop.
        coroutine: What to run; it yields `IDLE` when it has nothing to do.
        queue: The mailbox whose arrivals wake it.
        name: The task's name.
        stack: The system's count of steps within each other.
        owner: Told when the loop, not a step from outside, lets the coroutine go on, and
            when the coroutine waits for something else than work.
    """

    __slots__ = (
        "_loop",
        "_owner",
        "_queue",
        "_run",
        "_send",
        "_stack",
        "_waits_for",
        "coroutine",
        "task",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, None],
        queue: Queue,
        name: str,
        stack: Stack,
        owner: Owner,
    ) -> None:
        self._owner = owner
        self.coroutine = coroutine
        scope = copy_context()
        self._run = scope.run
        self._stack = stack
        self._send = coroutine.send
        self._loop = loop
        self._queue = queue
        self._waits_for: Any = None
        self.task: asyncio.Task[None] = loop.create_task(self.work(), name=name, context=scope)

    @property
    def asleep(self) -> bool:
        """Whether it has nothing to do."""
        return self._waits_for is IDLE

    def step(self) -> None:
        """Work on what is in the mailbox, now; the worker must be asleep."""
        queue, stack = self._queue, self._stack
        if stack.depth >= DEPTH:
            queue.nudge()
            return
        # Without its wake-up future the worker is busy in everybody's eyes.
        wake, queue.wake = queue.wake, None
        stack.depth += 1
        loop = self._loop
        before = _current_tasks.get(loop)
        _current_tasks[loop] = self.task
        try:
            waits_for = self._run(self._send, None)
        except StopIteration:
            waits_for = _OVER
        finally:
            stack.depth -= 1
            if before is None:
                del _current_tasks[loop]
            else:
                _current_tasks[loop] = before
        if waits_for is IDLE:
            queue.wake = wake
        else:
            self._left_waiting(waits_for, wake)

    def _left_waiting(self, waits_for: Any, wake: asyncio.Future[None] | None) -> None:
        self._waits_for = waits_for
        if waits_for is not _OVER:
            self._owner.note_suspension()
        if wake is not None and not wake.done():
            wake.set_result(None)

    async def work(self) -> None:
        """What the task runs."""
        await self._drive()

    @types.coroutine
    def _drive(self) -> Generator[Any, Any, None]:
        error: BaseException | None = None
        while True:
            try:
                if error is None:
                    self._waits_for = self._send(None)
                else:
                    self._waits_for = self.coroutine.throw(error)
            except StopIteration:
                return
            error = None
            try:
                if self._waits_for is IDLE:
                    yield from self._sleep()
                else:
                    self._owner.note_suspension()
                    yield self._waits_for
                    self._owner.note_turn()
            except BaseException as thrown:
                error = thrown
            if self._waits_for is _OVER:
                return

    def _sleep(self) -> Generator[Any, Any, None]:
        """Wait to be woken; then for what a step from outside has left to be waited for."""
        self._queue.wake = wake = self._loop.create_future()
        try:
            yield from wake
        except BaseException:
            # As `Task.cancel` does: what is waited for is cancelled, else the coroutine.
            left: Any = self._waits_for
            if left is IDLE or left is _OVER or left is None or not left.cancel():
                raise
        self._owner.note_turn()
        if self._waits_for is not IDLE and self._waits_for is not _OVER:
            yield self._waits_for
            self._owner.note_turn()


def worker_of(task: asyncio.Task[Any]) -> Worker | None:
    """The worker whose task this is, None for other tasks (for diagnostics)."""
    coroutine: Any = task.get_coro()
    if getattr(coroutine, "cr_code", None) is not Worker.work.__code__:
        return None
    worker: Worker | None = coroutine.cr_frame and coroutine.cr_frame.f_locals["self"]
    return worker
