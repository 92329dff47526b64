"""Calls of functions: what one is, and making many of them on the event loop.

Not here: whether a function is called on the loop or in a thread, and what it is told
(`function.py`).
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from covey.algorithms.tensors.control import split
from covey.client.messages import Task

from .launchers.script import Outcome
from .parameters import Parameters, Params

if TYPE_CHECKING:
    from .function import FunctionClients, FunctionScript, TrainContext

# After a call that took longer than this the next one is made in a thread:
# progress lines and Ctrl-C stay prompt.
QUICK_S = 0.005
# Quick calls made in one turn of the loop, each kind of work for all of them before the
# next: lending, calling and packing client by client takes a third longer, since each
# runs more code than a processor's nearest cache holds. More of them at once would take
# more memory than the next one holds.
TOGETHER = 16

TrainFunction: TypeAlias = Callable[[Params, "TrainContext"], Any]


class Call:
    """One call of a function, and what became of it."""

    __slots__ = (
        "context",
        "error",
        "function",
        "made",
        "outcome",
        "over",
        "params",
        "returned",
        "script",
        "seconds",
        "task",
        "token",
    )

    def __init__(
        self, script: FunctionScript, task: Task, function: TrainFunction, context: TrainContext
    ) -> None:
        self.script = script
        self.task = task
        self.function = function
        self.context = context
        self.params: Params | None = None
        self.token: object = None
        self.returned: Any = None
        # The rest is of calls that are made on the loop.
        self.made = False
        self.seconds = 0.0
        self.error: BaseException | None = None
        self.outcome: Outcome | None = None
        self.over: asyncio.Future[None]

    def lend(self, parameters: Parameters) -> None:
        """Get parameters of its own."""
        assert self.task.model is not None
        self.params, self.token = parameters.lend(self.task.model, self.task.round)
        if parameters.has_control:
            self.params, self.context.control = split(self.params)

    def make(self) -> Any:
        """Call the function; its parameters are its own then, and may be lent again."""
        params, self.params = self.params, None
        assert params is not None
        return self.function(params, self.context)


class QuickCalls:
    """Makes quick calls on the loop, `TOGETHER` of them in one turn."""

    def __init__(self, owner: FunctionClients) -> None:
        self._owner = owner
        self._waiting: deque[Call] = deque()
        self._due = False

    async def make(self, call: Call) -> None:
        """Return when the call is over; it is not made if the function is no longer quick."""
        call.over = asyncio.get_running_loop().create_future()
        self._waiting.append(call)
        if not self._due:
            self._come_back()
        await call.over

    def _come_back(self) -> None:
        self._due = True
        asyncio.get_running_loop().call_soon(self._work)

    def _work(self) -> None:
        waiting = self._waiting
        taken = [waiting.popleft() for _ in range(min(TOGETHER, len(waiting)))]
        calls = [call for call in taken if not call.over.done()]  # others were cancelled
        self._due = False
        if waiting:
            self._come_back()
        for call in calls:
            self._lend(call)
        for call in calls:
            self._call(call)
        for call in calls:
            self._finish(call)

    def _lend(self, call: Call) -> None:
        try:
            call.lend(self._owner.parameters)
        except Exception as error:
            call.error = error

    def _call(self, call: Call) -> None:
        owner = self._owner
        if call.error is not None or not owner.is_quick(call.function, call.script.site):
            return
        call.made = True
        began = time.perf_counter()
        try:
            call.returned = call.make()
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            call.error = error
        call.seconds = time.perf_counter() - began
        owner.learn(call.function, call.script.site, call.seconds)

    def _finish(self, call: Call) -> None:
        if call.made and call.error is None and not inspect.isawaitable(call.returned):
            try:
                call.outcome = call.script.outcome(call.task, call.returned, call.token)
            except Exception as error:
                call.error = error
        if call.seconds > QUICK_S:
            # A deadline that passed meanwhile is due before this, and ends it as in a thread.
            asyncio.get_running_loop().call_later(QUICK_S, _set, call.over)
        else:
            _set(call.over)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
