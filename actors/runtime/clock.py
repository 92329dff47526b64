"""Virtual time: a stock asyncio loop whose clock moves only when nobody can run.

Here: the loop and its selector. Not here: `simulate` and other faces for tests
(`testing.py`), the simulated network (`network.py`).

Theory of operation. An asyncio loop asks its selector to sleep until the next
timer. This selector never sleeps: it adds the time to a clock instead, so an
hour of waiting costs a turn of the loop. Ready I/O always comes first. Where no
timer is set and nothing can become ready, real time would hang; here that is a
`Deadlock` which names who waits. After trio's `MockClock(autojump_threshold=0)`.

Limits. uvloop is not built on a selector, so this is always asyncio's own loop.
While a thread works (`asyncio.to_thread`), virtual time stands still; the order
in which several threads finish is not reproducible.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import deque
from collections.abc import Callable, Mapping
from types import CoroutineType, GeneratorType
from typing import Any, Final, TypeAlias, TypeVar

from .errors import Deadlock
from .worker import worker_of

T = TypeVar("T")

# How long a thread, or a peer outside this process, may take in real time before
# waiting for it counts as a deadlock.
PATIENCE_S: Final = 60.0

# Timers this close together fire in one turn. Far above the rounding of a float
# that counts seconds for a year, far below any delay that means something.
RESOLUTION_S: Final = 1e-6

_Ready: TypeAlias = list[tuple[selectors.SelectorKey, int]]


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, beginning at 0 seconds.

    Args:
        jitter: Shuffles the callbacks that are ready in the same turn, so that
            different seeds explore different interleavings; None keeps asyncio's
            order. Transports of real sockets rely on that order: use None with them.
    """

    _ready: deque[asyncio.Handle]

    def __init__(self, *, jitter: random.Random | None = None) -> None:
        self._now = 0.0
        self._jitter = jitter
        self._threads = 0
        super().__init__(_Selector(self))
        self._clock_resolution = RESOLUTION_S

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def run_in_executor(  # type: ignore[override]  # typeshed binds the arguments' types
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run in a thread; virtual time stands still until it has finished."""
        future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        self._threads += 1
        future.add_done_callback(self._thread_done)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Join the threads; asyncio uses one more thread for that."""
        del timeout
        self._threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._threads -= 1

    def _thread_done(self, future: asyncio.Future[Any]) -> None:
        self._threads -= 1

    def idle(
        self, select: Callable[[float], _Ready], others: bool, timeout: float | None
    ) -> _Ready:
        """What the selector does instead of sleeping for `timeout` seconds (None: for ever).

        Raises:
            Deadlock: If nothing is scheduled and nothing can become ready.
        """
        if timeout is not None and timeout <= 0:
            self._shuffle()
            return select(0) if others or self._threads else []
        if self._threads:
            ready = select(PATIENCE_S)
        elif others:
            ready = select(0 if timeout is not None else PATIENCE_S)
        else:
            ready = []
        if not ready and (timeout is None or self._threads):
            if self._ready:  # a thread's callback
                return ready
            raise Deadlock(self._now, waiting_tasks(self))
        if not ready and timeout is not None:
            self._now += timeout
        return ready

    def _shuffle(self) -> None:
        ready, jitter = self._ready, self._jitter
        if jitter is not None and len(ready) > 1:
            draw = jitter.random
            handles = sorted(ready, key=lambda handle: draw())
            ready.clear()
            ready.extend(handles)


class _Selector(selectors.BaseSelector):
    """asyncio's selector, asking the loop what to do instead of sleeping."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> _Ready:
        # One descriptor is the loop's own pipe, which threads and signals write to.
        others = len(self._real.get_map()) > 1
        return self._loop.idle(self._real.select, others, timeout)


def waiting_tasks(loop: asyncio.AbstractEventLoop) -> tuple[str, ...]:
    """Each unfinished task of `loop` by name and line; actors without work are left out."""
    found: list[str] = []
    for task in asyncio.all_tasks(loop):
        worker = worker_of(task)
        if not task.done() and (worker is None or not worker.asleep):
            coroutine = task.get_coro() if worker is None else worker.coroutine
            found.append(f"{task.get_name()} at {_where(coroutine)}")
    return tuple(sorted(found))


def _where(coroutine: Any) -> str:
    """The innermost suspended frame of a coroutine; its task's stack shows only the outermost."""
    frame = coroutine.cr_frame
    while isinstance(coroutine := _awaited(coroutine), (CoroutineType, GeneratorType)):
        frame = _frame(coroutine)
    if frame is None:
        return "its first step"
    return f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"


def _awaited(coroutine: Any) -> Any:
    return getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)


def _frame(coroutine: Any) -> Any:
    return getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
