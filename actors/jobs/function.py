"""Clients by function: `train=fn` in place of a script, thousands in one process.

A function is called with the parameters and a context, and returns the update.
It is called in a thread (`threads`) until a call has proved quick, and then on the
loop until one was slow; the numbers are the same, since every random draw comes
from the context and every client has parameters of its own.
"""

from __future__ import annotations

import asyncio
import inspect
import linecache
import math
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from covey.algorithms import derive, generator
from covey.client import FLModel, ParamsType
from covey.client.messages import Answer, Metric, Task

from .launchers.errors import Fault, ScriptError, ScriptFailed
from .launchers.script import Outcome
from .parameters import Parameters, Params
from .threads import Slots, Threads

# After a call that took longer than this the next one is made in a thread:
# progress lines and Ctrl-C stay prompt.
QUICK_S = 0.005
# A call that was given up, and goes on for this many times as long as it was waited for, is taken
# for hung: its slot goes to others, which would else wait for ever.
HUNG_FACTOR = 10

TrainFunction: TypeAlias = Callable[[Params, "TrainContext"], Any]
# Parameters, or what became of them, and the token of their memory.
Loan: TypeAlias = "tuple[Any, object]"


class FunctionFailed(ScriptFailed):
    """The function raised; it can be called again in the next round."""


class TrainContext:
    """What a function is told beside the parameters.

    Attributes:
        site: The site it trains for.
        round: The round, from 0.
        total_rounds: Rounds of the whole run.
        job_id: The job's id.
    """

    __slots__ = (
        "_on_metric",
        "_rng",
        "_run_seed",
        "_torch",
        "job_id",
        "round",
        "site",
        "total_rounds",
    )

    def __init__(
        self,
        site: str,
        round: int,
        total_rounds: int,
        job_id: str,
        run_seed: int,
        on_metric: Callable[[Metric], None],
    ) -> None:
        """Made for each call."""
        self.site = site
        self.round = round
        self.total_rounds = total_rounds
        self.job_id = job_id
        self._run_seed = run_seed
        self._on_metric = on_metric
        self._rng: np.random.Generator | None = None
        self._torch: Any = None

    @property
    def seed(self) -> int:
        """A 128-bit seed for this site and round."""
        return derive(self._run_seed, self.site, self.round)

    @property
    def rng(self) -> np.random.Generator:
        """NumPy's generator for this site and round."""
        if self._rng is None:
            self._rng = generator(self._run_seed, self.site, self.round)
        return self._rng

    @property
    def generator(self) -> Any:
        """Torch's generator for this site and round."""
        if self._torch is None:
            import torch

            self._torch = torch.Generator()
            self._torch.manual_seed(self.seed & (2**63 - 1))
        return self._torch

    def log(self, key: str, value: float, step: int | None = None) -> None:
        """Stream one value of a curve."""
        self._on_metric(Metric(key, float(value), step))

    def end(self) -> None:
        """Stream nothing more: nobody waits for the call, and its site is at another round."""
        self._on_metric = _drop


def _drop(metric: Metric) -> None:
    del metric


class FunctionScript:
    """A client whose "script" is a function; see `launchers.script.Script`."""

    def __init__(
        self, site: str, owner: FunctionClients, on_metric: Callable[[Metric], None]
    ) -> None:
        """Made by `FunctionClients.start`."""
        self.site = site
        self.pid = None
        self._owner = owner
        self._on_metric = on_metric

    async def run(self, task: Task) -> Outcome:
        """Call the function; raises `FunctionFailed` with the user's own line."""
        owner = self._owner
        function = owner.evaluate if task.name == "evaluate" else owner.train
        on_metric = _on_this_loop(self._on_metric)
        context = TrainContext(
            self.site, task.round, task.total_rounds, owner.job_id, owner.seed, on_metric
        )
        assert task.model is not None
        assert function is not None
        lend = partial(owner.parameters.lend, task.model, task.round)
        try:
            returned, token = await owner.call(function, lend, context)
            return self._outcome(task, returned, token)
        except ScriptError:
            raise
        except asyncio.CancelledError as error:
            if _is_being_cancelled():
                raise
            raise self._failed(error, function) from error
        except (Exception, SystemExit) as error:
            # A client that calls `sys.exit` fails; it does not end the run as a success.
            raise self._failed(error, function) from error

    def _outcome(self, task: Task, returned: Any, token: object) -> Outcome:
        model = returned if isinstance(returned, FLModel) else _as_model(returned, task.name)
        blob = None
        if task.name == "train":
            if model.params is None:
                raise TypeError("the train function returned no parameters")
            blob = self._owner.parameters.pack(model.params, token)
        metrics = {name: float(value) for name, value in (model.metrics or {}).items()}
        answer = Answer(
            task.name,
            task.round,
            "DIFF" if model.params_type is ParamsType.DIFF else "FULL",
            blob is not None,
            blob.size if blob is not None else 0,
            metrics,
            dict(model.meta),
            self._owner.evaluate is not None,
        )
        return Outcome(answer, blob)

    def _failed(self, error: BaseException, function: TrainFunction) -> FunctionFailed:
        return FunctionFailed(self.site, "", fault_of(error, function))

    async def wait(self) -> ScriptError | None:
        """Functions do not end by themselves."""
        return None

    async def stop(self, grace_s: float) -> ScriptError | None:
        """Nothing runs between calls."""
        del grace_s
        return None

    def kill(self) -> None:
        """A call that is at work in a thread runs on unheeded: Python cannot end it."""


class FunctionClients:
    """All clients by function of one job in this process."""

    def __init__(
        self,
        train: TrainFunction,
        evaluate: TrainFunction | None,
        *,
        job_id: str,
        seed: int,
        exclude: tuple[str, ...] = (),
        slots: Slots | None = None,
        slots_are_held: bool = False,
    ) -> None:
        """Call `train` for training tasks and `evaluate` for evaluation alone.

        `slots` limits how many calls are in threads, or suspended, at once;
        `slots_are_held` says that who runs a task holds one of them for it.
        """
        self.train = train
        self.evaluate = evaluate
        self.job_id = job_id
        self.seed = seed
        self.parameters = Parameters(exclude)
        self._slots = slots or Slots(1)
        self._slots_are_held = slots_are_held
        self._threads = Threads()
        # Functions whose last call was quick, and the sites, by function, whose last one was not.
        self._quick: set[int] = set()
        self._slow: set[tuple[int, str]] = set()

    async def start(self, site: str, on_metric: Callable[[Metric], None]) -> FunctionScript:
        """A client for one site."""
        return FunctionScript(site, self, on_metric)

    def close(self) -> None:
        """End the threads, at once; one that is at work ends when its call returns."""
        self._threads.close()

    async def call(
        self, function: TrainFunction, lend: Callable[[], Loan], context: TrainContext
    ) -> Loan:
        """Call the function on the loop if it has proved quick, else in a thread.

        The model is lent once there is a slot, for memory would be full of those that wait.
        Returns what the function did, and the token of the parameters it was lent.
        """
        if inspect.iscoroutinefunction(function):
            async with self._slot():
                params, token = lend()
                return await cast("Awaitable[Any]", function(params, context)), token
        if not self._is_quick(function, context.site):
            async with self._slot():
                # While this waited for its slot, another call may have proved quick.
                if not self._is_quick(function, context.site):
                    params, token = lend()
                    returned = await self._call_in_thread(function, params, context)
                    return await returned if inspect.isawaitable(returned) else returned, token
        params, token = lend()
        returned = await self._call_here(function, params, context)
        if inspect.isawaitable(returned):
            async with self._slot():
                return await returned, token
        return returned, token

    def _slot(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._slots_are_held else self._slots

    async def _call_here(
        self, function: TrainFunction, params: Params, context: TrainContext
    ) -> Any:
        began = time.perf_counter()
        try:
            return function(params, context)
        finally:
            seconds = time.perf_counter() - began
            self._learn(function, context.site, seconds)
            if seconds > QUICK_S:
                # A deadline that passed meanwhile is due before this, and ends it as in a thread.
                await asyncio.sleep(QUICK_S)

    async def _call_in_thread(
        self, function: TrainFunction, params: Params, context: TrainContext
    ) -> Any:
        began = time.perf_counter()
        # Waited for without `await`, which would hand a cancellation on to it.
        future = self._threads.begin(partial(_timed, function, params, context))
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            context.end()
            if not future.done():
                self._learn(function, context.site, math.inf)
                self._keep_slot(future, time.perf_counter() - began)
            raise
        returned, error, seconds = future.result()
        self._learn(function, context.site, seconds)
        if error is not None:
            raise error
        return returned

    def _keep_slot(self, future: asyncio.Future[Any], waited_s: float) -> None:
        """Keep the slot of a call that was given up until it returns or counts as hung."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        over.add_done_callback(lambda _: self._slots.free())

        def end(*_: object) -> None:
            if not over.done():
                over.set_result(None)

        self._slots.keep()
        future.add_done_callback(end)
        loop.call_later((HUNG_FACTOR - 1) * waited_s, end)

    def _is_quick(self, function: TrainFunction, site: str) -> bool:
        return id(function) in self._quick and (id(function), site) not in self._slow

    def _learn(self, function: TrainFunction, site: str, seconds: float) -> None:
        if seconds > QUICK_S:
            self._quick.discard(id(function))
            self._slow.add((id(function), site))
        else:
            self._quick.add(id(function))
            self._slow.discard((id(function), site))


def _timed(
    function: TrainFunction, params: Params, context: TrainContext
) -> tuple[Any, BaseException | None, float]:
    """What the function returned, or raised, and how long it took; raises nothing."""
    began = time.perf_counter()
    try:
        return function(params, context), None, time.perf_counter() - began
    except BaseException as error:
        return None, error, time.perf_counter() - began


def _on_this_loop(on_metric: Callable[[Metric], None]) -> Callable[[Metric], None]:
    """The same callback, for any thread."""
    loop, home = asyncio.get_running_loop(), threading.get_ident()

    def stream(metric: Metric) -> None:
        if threading.get_ident() == home:
            on_metric(metric)
        else:
            loop.call_soon_threadsafe(on_metric, metric)

    return stream


def _is_being_cancelled() -> bool:
    """Whether somebody cancels this task; else a `CancelledError` is of the function's making."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _as_model(returned: Any, task: str) -> FLModel:
    """A function may return parameters alone, metrics alone (evaluating), or both as a pair."""
    if task == "evaluate":
        return FLModel(metrics=returned)
    match returned:
        case dict() | Mapping():
            return FLModel(params=cast("Mapping[str, Any]", returned))
        case (params, metrics):
            return FLModel(params=params, metrics=metrics)
        case _:
            pass
    raise TypeError(
        f"the train function returned {type(returned).__name__}; return the parameters, "
        "a pair (parameters, metrics), or an FLModel"
    )


def fault_of(error: BaseException, function: TrainFunction) -> Fault:
    """An exception as data, with the deepest frame that is in the function's own folder."""
    frames = traceback.extract_tb(error.__traceback__)
    code = getattr(inspect.unwrap(function), "__code__", None)
    own = Path(code.co_filename).parent if code is not None else None
    mine = [frame for frame in frames if own is not None and Path(frame.filename).parent == own]
    file, line = (mine[-1].filename, mine[-1].lineno or 0) if mine else ("", 0)
    if not mine and code is not None:
        file, line = code.co_filename, code.co_firstlineno
    source = linecache.getline(file, line).strip() if file else ""
    text = "".join(traceback.format_exception(error))
    said = str(error)
    if isinstance(error, asyncio.CancelledError):
        said = said or "what the function awaited was cancelled, and not by this run"
    return Fault(type(error).__name__, said, file, line, source, text)
