"""Threads for calls that may never return.

A call in a thread cannot be ended, so nobody may have to wait for one: these
threads are daemons, and neither the loop's end nor the interpreter's joins them.
A call that was given up keeps its slot, since it goes on using a processor. What
is called, and when a thread is worth its while, is not known here.

A thread that comes back from PyTorch to an interpreter that is gone ends the whole process with
"terminate called": C++ cannot be unwound like that. So at the program's end `SystemExit` is raised
in calls that are under way, which take it between two of their own lines, and they get a moment
for it. A call that waits for something else is left where it is: it hurts nobody.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import ctypes
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias

# A line of training takes milliseconds; a program's end must not be felt to hang.
_INTERRUPT_S: Final = 1.0

_Work: TypeAlias = "tuple[asyncio.Future[Any], Callable[[], Any]]"


class Slots(asyncio.Semaphore):
    """A semaphore, one slot of which may stay taken beyond the `async with` that took it."""

    def __init__(self, value: int) -> None:
        """`value` slots."""
        super().__init__(value)
        self._kept = 0

    def keep(self) -> None:
        """Have the next release, which is due for sure, do nothing; `free` makes up for it."""
        self._kept += 1

    def release(self) -> None:
        """Give a slot back, or keep it if that was asked for."""
        if self._kept:
            self._kept -= 1
        else:
            self.free()

    def free(self) -> None:
        """Give a kept slot back."""
        super().release()


class Threads:
    """Daemon threads of one loop, as many as calls were ever at work at once.

    How many that may be is the caller's affair: see `Slots`.
    """

    def __init__(self) -> None:
        """Threads are started when they are needed."""
        self._idle: list[queue.SimpleQueue[_Work | None]] = []
        self._closed = False

    def begin(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """Call `work`, which raises nothing, in a thread; the future has what it returns.

        Do not cancel the future: it tells when the thread is free again.
        """
        inbox = self._idle.pop() if self._idle else self._start()
        future = asyncio.get_running_loop().create_future()
        inbox.put((future, partial(contextvars.copy_context().run, work)))
        return future

    def close(self) -> None:
        """End idle threads now and each other one after its call; returns at once."""
        self._closed = True
        while self._idle:
            self._idle.pop().put(None)

    def _start(self) -> queue.SimpleQueue[_Work | None]:
        inbox: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        threading.Thread(
            target=_serve, args=(inbox, self._finish), name="covey function", daemon=True
        ).start()
        return inbox

    def _finish(
        self,
        inbox: queue.SimpleQueue[_Work | None],
        future: asyncio.Future[Any],
        result: Any,
    ) -> None:
        """On the loop: take a thread back and tell what its call returned."""
        if self._closed:
            inbox.put(None)
        else:
            self._idle.append(inbox)
        if not future.done():
            future.set_result(result)


#: Threads in which a call is under way.
_at_work: set[threading.Thread] = set()


@atexit.register
def interrupt_calls() -> None:
    """Raise `SystemExit` in all calls that are under way, and wait a moment for their ends."""
    deadline = time.monotonic() + _INTERRUPT_S
    threads = tuple(_at_work)
    for thread in threads:
        if thread.ident is not None:
            raised = ctypes.py_object(SystemExit)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), raised)
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _serve(inbox: queue.SimpleQueue[_Work | None], finish: Callable[..., None]) -> None:
    while (item := inbox.get()) is not None:
        future, work = item
        _at_work.add(threading.current_thread())
        try:
            result = work()
        finally:
            _at_work.discard(threading.current_thread())
        try:
            future.get_loop().call_soon_threadsafe(finish, inbox, future, result)
        except RuntimeError:
            return  # the loop is closed: nobody waits for this
        # What the call was given, and gave, may be counted as unused only without these.
        del item, future, work, result
