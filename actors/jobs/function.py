"""Clients by function: `train=fn` in place of a script, thousands in one process.

A function is called with the parameters and a context, and returns the update.
It is called in a thread (`threads`) until a call has proved quick, and then on the
loop, a few clients at a time, until one was slow; the numbers are the same, since
every random draw comes from the context and every client has parameters of its own.
"""

from __future__ import annotations

import asyncio
import inspect
import linecache
import math
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import numpy as np

from covey.algorithms import derive, generator
from covey.algorithms.tensors.control import join
from covey.client import FLModel, ParamsType, Scaffold
from covey.client.messages import Answer, Metric, Task
from covey.client.state import ClientState
from covey.transport import Scalar

from .batched import ClientFunction
from .calls import QUICK_S, Call, QuickCalls, TrainFunction
from .launchers.errors import Fault, ScriptError, ScriptFailed
from .launchers.script import Outcome
from .parameters import Parameters
from .threads import Slots, Threads

# A call that was given up, and goes on for this many times as long as it was waited for, is taken
# for hung: its slot goes to others, which would else wait for ever.
HUNG_FACTOR = 10

NO_CONFIG: Final[Mapping[str, Scalar]] = MappingProxyType({})


class FunctionFailed(ScriptFailed):
    """The function raised; it can be called again in the next round."""


class TrainContext:
    """What a function is told beside the parameters.

    Attributes:
        site: The site it trains for.
        round: The round, from 0.
        total_rounds: Rounds of the whole run.
        job_id: The job's id.
        config: Settings that the recipe has for its clients.
        control: Control variates by name, where the recipe is a `ScaffoldRecipe`.
    """

    __slots__ = (
        "_names",
        "_on_metric",
        "_rng",
        "_run_seed",
        "_state",
        "_torch",
        "config",
        "control",
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
        config: Mapping[str, Scalar] = NO_CONFIG,
        state: Path | None = None,
        repeat: int = 0,
    ) -> None:
        """Made for each call."""
        # A site that is given a version again draws other numbers.
        self._names: tuple[str | int, ...] = (site, round, repeat) if repeat else (site, round)
        self.config = config
        self.control: Mapping[str, Any] | None = None
        self._state = state
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
        return derive(self._run_seed, *self._names)

    @property
    def rng(self) -> np.random.Generator:
        """NumPy's generator for this site and round."""
        if self._rng is None:
            self._rng = generator(self._run_seed, *self._names)
        return self._rng

    @property
    def generator(self) -> Any:
        """Torch's generator for this site and round."""
        if self._torch is None:
            import torch

            self._torch = torch.Generator()
            self._torch.manual_seed(self.seed & (2**63 - 1))
        return self._torch

    def scaffold(self, params: Mapping[str, Any]) -> Scaffold:
        """SCAFFOLD's half of this round; call it with the parameters before changing them.

        Raises `BadModel` if the recipe is no `ScaffoldRecipe`.
        """
        model = FLModel(params=params, control=self.control, current_round=self.round)
        return Scaffold(model, ClientState(self._state and self._state / self.site))

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
        self._on_metric = on_this_loop(on_metric)

    async def run(self, task: Task) -> Outcome:
        """Call the function; raises `FunctionFailed` with the user's own line."""
        owner = self._owner
        function = owner.evaluate if task.name == "evaluate" else owner.train
        assert task.model is not None
        assert function is not None
        context = TrainContext(
            self.site,
            task.round,
            task.total_rounds,
            owner.job_id,
            owner.seed,
            self._on_metric,
            owner.config,
            owner.state,
            task.repeat,
        )
        call = Call(self, task, function, context)
        try:
            await owner.work(call)
            # Not there where a call took long, or returned something to be awaited.
            return call.outcome or self.outcome(task, call.returned, call.token)
        except ScriptError:
            raise
        except asyncio.CancelledError as error:
            if _is_being_cancelled():
                raise
            raise self._failed(error, function) from error
        except (Exception, SystemExit) as error:
            # A client that calls `sys.exit` fails; it does not end the run as a success.
            raise self._failed(error, function) from error

    def outcome(self, task: Task, returned: Any, token: object) -> Outcome:
        """What the function returned, as a script's outcome; packs its parameters."""
        model = as_model(returned, task.name)
        blob = None
        if task.name == "train":
            if model.params is None:
                raise TypeError("the train function returned no parameters")
            blob = self._owner.parameters.pack(self._joined(model), token)
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

    def _joined(self, model: FLModel) -> Mapping[str, Any]:
        """The parameters, with control variates where they travel along."""
        assert model.params is not None
        if not self._owner.parameters.has_control:
            return model.params
        if model.control is None or model.params_type is not ParamsType.FULL:
            raise TypeError(
                "the recipe is SCAFFOLD, but the train function returned something else than "
                "ctx.scaffold(params).update(...)"
            )
        return join(model.params, model.control)

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
        train: ClientFunction,
        evaluate: ClientFunction | None,
        *,
        job_id: str,
        seed: int,
        exclude: tuple[str, ...] = (),
        slots: Slots | None = None,
        slots_are_held: bool = False,
        config: Mapping[str, Scalar] = NO_CONFIG,
        state: Path | None = None,
    ) -> None:
        """Call `train` for training tasks and `evaluate` for evaluation alone.

        `slots` limits how many calls are in threads, or suspended, at once;
        `slots_are_held` says that who runs a task holds one of them for it.
        Functions find `config` in their context; what they keep from round to round is below
        `state`, in a folder for each site.
        """
        self.train = train
        self.evaluate = evaluate
        self.job_id = job_id
        self.seed = seed
        self.config = MappingProxyType(dict(config))
        self.state = state
        self.parameters = Parameters(exclude)
        self._quick_calls = QuickCalls(self)
        self.slots = slots or Slots(1)
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
        self.parameters.close()

    async def work(self, call: Call) -> None:
        """Have a call made: awaited, on the loop if it has proved quick, or in a thread.

        The model is lent once there is a slot, for memory would be full of those that wait.
        """
        if inspect.iscoroutinefunction(call.function):
            async with self._slot():
                call.lend(self.parameters)
                call.returned = await call.make()
            return
        while not await self._make_now(call):
            async with self._slot():
                # While this waited for its slot, another call may have proved quick.
                if not self.is_quick(call.function, call.script.site):
                    call.lend(self.parameters)
                    returned = await self._call_in_thread(call)
                    call.returned = await returned if inspect.isawaitable(returned) else returned
                    return

    async def _make_now(self, call: Call) -> bool:
        if not self.is_quick(call.function, call.script.site):
            return False
        await self._quick_calls.make(call)
        if call.error is not None:
            raise call.error
        if inspect.isawaitable(call.returned):
            async with self._slot():
                call.returned = await call.returned
        return call.made

    def _slot(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._slots_are_held else self.slots

    async def _call_in_thread(self, call: Call) -> Any:
        function, site = call.function, call.script.site
        # Slow until it returns, for the site may be given another task before it does.
        self._slow.add((id(function), site))
        seconds = math.inf
        try:
            returned, error, seconds = await self.run_in_thread(call.make)
        except asyncio.CancelledError:
            call.context.end()
            raise
        finally:
            self.learn(function, site, seconds)
        if error is not None:
            raise error
        return returned

    async def run_in_thread(
        self, make: Callable[[], Any]
    ) -> tuple[Any, BaseException | None, float]:
        """What `make` returned, or raised, and how long it took; raises nothing itself.

        The caller holds a slot. If it is cancelled, the slot stays taken until the thread is
        free, or counts as hung.
        """
        began = time.perf_counter()
        # Waited for without `await`, which would hand a cancellation on to it.
        future = self._threads.begin(partial(_timed, make))
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            if not future.done():
                self._keep_slot(future, time.perf_counter() - began)
            raise
        result: tuple[Any, BaseException | None, float] = future.result()
        return result

    def _keep_slot(self, future: asyncio.Future[Any], waited_s: float) -> None:
        """Keep the slot of a call that was given up until it returns or counts as hung."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        over.add_done_callback(lambda _: self.slots.free())

        def end(*_: object) -> None:
            if not over.done():
                over.set_result(None)

        self.slots.keep()
        future.add_done_callback(end)
        loop.call_later((HUNG_FACTOR - 1) * waited_s, end)

    def is_quick(self, function: TrainFunction, site: str) -> bool:
        """Whether the function's last call was quick, and this site's last one too."""
        return id(function) in self._quick and (id(function), site) not in self._slow

    def learn(self, function: TrainFunction, site: str, seconds: float) -> None:
        """Note how long a call took."""
        if seconds > QUICK_S:
            self._quick.discard(id(function))
            self._slow.add((id(function), site))
        else:
            self._quick.add(id(function))
            self._slow.discard((id(function), site))


def _timed(make: Callable[[], Any]) -> tuple[Any, BaseException | None, float]:
    """What a call returned, or raised, and how long it took; raises nothing."""
    began = time.perf_counter()
    try:
        return make(), None, time.perf_counter() - began
    except BaseException as error:
        return None, error, time.perf_counter() - began


def on_this_loop(on_metric: Callable[[Metric], None]) -> Callable[[Metric], None]:
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


def as_model(returned: Any, task: str) -> FLModel:
    """A function may return parameters alone, metrics alone (evaluating), or both as a pair."""
    if isinstance(returned, FLModel):
        return returned
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


def fault_of(error: BaseException, function: ClientFunction) -> Fault:
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
