"""Clients by function: `train=fn` in place of a script, thousands in one process.

A function is called with the parameters and a context, and returns the update.
It is called on the loop while it is quick, in a worker thread once a call has
taken long enough to be felt; the numbers are the same, since every random draw
comes from the context and every client has parameters of its own.
"""

from __future__ import annotations

import asyncio
import inspect
import linecache
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from covey.algorithms import AlgorithmError, derive, generator
from covey.client import FLModel, ParamsType
from covey.client.messages import Answer, Metric, Task

from .launchers.errors import Fault, ScriptError, ScriptFailed
from .launchers.script import Outcome
from .parameters import Parameters, Params

# A call that holds the loop longer than this goes to a thread from then on:
# progress lines and Ctrl-C stay prompt.
QUICK_S = 0.005

TrainFunction: TypeAlias = Callable[[Params, "TrainContext"], Any]


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
        context = TrainContext(
            self.site, task.round, task.total_rounds, owner.job_id, owner.seed, self._on_metric
        )
        assert task.model is not None
        assert function is not None
        try:
            params, token = owner.parameters.lend(task.model, task.round)
            returned = await owner.call(function, params, context)
            return self._outcome(task, returned, token)
        except AlgorithmError as error:
            raise self._failed(error, function) from error
        except ScriptError:
            raise
        except Exception as error:
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

    def _failed(self, error: Exception, function: TrainFunction) -> FunctionFailed:
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
        slots: asyncio.Semaphore | None = None,
    ) -> None:
        """Call `train` for training tasks and `evaluate` for evaluation alone.

        `slots` limits how many calls are in threads, or suspended, at once.
        """
        self.train = train
        self.evaluate = evaluate
        self.job_id = job_id
        self.seed = seed
        self.parameters = Parameters(exclude)
        self._slow = self._was_slow = False
        self._slots = slots or asyncio.Semaphore(1)

    async def start(self, site: str, on_metric: Callable[[Metric], None]) -> FunctionScript:
        """A client for one site."""
        return FunctionScript(site, self, on_metric)

    async def call(self, function: TrainFunction, params: Params, context: TrainContext) -> Any:
        """Call the function on the loop, or in a thread once it has proved slow."""
        if inspect.iscoroutinefunction(function):
            async with self._slots:
                return await cast("Awaitable[Any]", function(params, context))
        if self._slow:
            async with self._slots:
                returned, seconds = await asyncio.to_thread(_timed, function, params, context)
        else:
            returned, seconds = _timed(function, params, context)
        # One slow call says little: it may have imported something, or waited for a processor.
        slow = seconds > QUICK_S
        self._slow, self._was_slow = slow and self._was_slow, slow
        if inspect.isawaitable(returned):
            return await returned
        return returned


def _timed(function: TrainFunction, params: Params, context: TrainContext) -> tuple[Any, float]:
    began = time.perf_counter()
    returned = function(params, context)
    return returned, time.perf_counter() - began


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


def fault_of(error: Exception, function: TrainFunction) -> Fault:
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
    return Fault(type(error).__name__, str(error), file, line, source, text)
