"""Batches: one call of a function for many sites.

Sites whose tasks come together are trained by one call, in a thread.

Not here: what such a function is (`batched.py`), functions that train one site in a call
(`function.py`), who gives tasks and takes results (the trainers).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Final, Literal

from covey.algorithms import BadUpdate
from covey.algorithms.tensors import Rows, Stack
from covey.client import FLModel
from covey.client.messages import Metric, Task

from ..downloads.blobs import Blob
from .batched import Batched
from .differences import layout_of
from .function import (
    FunctionClients,
    FunctionFailed,
    TrainContext,
    as_model,
    fault_of,
    on_this_loop,
)
from .launchers.script import WEIGHT_KEY

# Sites in one call: more bring nothing, and every one costs a model's memory.
_TOGETHER: Final = 256
_TOGETHER_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Made:
    """What a batch made of one site's task.

    Attributes:
        blob: The update, None where the task asks for none; the caller owns it.
        params_type: Whether it is a model or a difference.
        weight: The update's weight in the average.
        metrics: Measured on the model that was received.
        seconds: The site's part of the call's time.
    """

    blob: Blob | None
    params_type: Literal["FULL", "DIFF"]
    weight: float
    metrics: dict[str, float]
    seconds: float


@dataclass(frozen=True, slots=True)
class Place:
    """One site's task, waiting for its batch.

    Attributes:
        site: The site.
        task: Its task.
        rid: The RID of the model to train.
        model: That model's bytes, which outlive its blob.
        difference: Whether the update is to be a difference.
        deadline_s: Seconds that the task may take, None for any time.
        on_metric: Takes values of curves.
        done: Told on the loop what came of it.
    """

    site: str
    task: Task
    rid: bytes
    model: memoryview
    difference: bool
    deadline_s: float | None
    on_metric: Callable[[Metric], None]
    done: Callable[[Made | Exception], None]

    @property
    def key(self) -> tuple[str, int, bytes, bool]:
        """The same for all that may be in one call."""
        return self.task.name, self.task.round, self.rid, self.difference


class Batches:
    """Collects the tasks of one loop's sites and makes a call of those that come together."""

    def __init__(self, clients: FunctionClients) -> None:
        """Call the functions of `clients` that are `Batched`."""
        self._clients = clients
        self._waiting: list[Place] = []
        self._due = False
        self._calls: set[asyncio.Task[None]] = set()
        self._stack: Stack | None = None

    def takes(self, task: str) -> bool:
        """Whether tasks of a name are for batches."""
        return isinstance(self._function_of(task), Batched)

    @property
    def evaluates(self) -> bool:
        """Whether sites can be asked to evaluate alone."""
        return self._clients.evaluate is not None

    def join(self, place: Place) -> None:
        """Have a task done in the next batch."""
        self._waiting.append(place)
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._turn, 0)

    async def close(self) -> None:
        """Give up all that is under way."""
        self._waiting.clear()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _function_of(self, task: str) -> Any:
        clients = self._clients
        return clients.evaluate if task == "evaluate" else clients.train

    def _turn(self, before: int) -> None:
        """Wait as long as each turn of the loop brings more, and no longer.

        Not for calls that are at work: who is in a batch must not depend on how long they take.
        """
        count = len(self._waiting)
        if before < count < _TOGETHER:
            asyncio.get_running_loop().call_soon(self._turn, count)
            return
        self._due = False
        waiting, self._waiting = self._waiting, []
        for _, group in groupby(waiting, lambda place: place.key):
            places = list(group)
            most = max(1, min(_TOGETHER, _TOGETHER_BYTES // max(1, places[0].model.nbytes)))
            for first in range(0, len(places), most):
                call = asyncio.ensure_future(self._call(places[first : first + most]))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)

    async def _call(self, places: list[Place]) -> None:
        """Make one call, and tell each site what came of it."""
        call = _Call(self._clients, self._function_of(places[0].task.name), places)
        results: Sequence[Made | Exception]
        try:
            async with self._clients.slots, asyncio.timeout(_deadline_of(places)):
                returned, error, _ = await self._clients.run_in_thread(
                    partial(call.make, self._stack_of(places[0].model))
                )
            results = returned if error is None else call.failed(error)
        except asyncio.CancelledError:
            call.end()
            raise
        except Exception as error:
            call.end()
            results = [error] * len(places)
        for place, result in zip(places, results, strict=True):
            place.done(result)

    def _stack_of(self, model: memoryview) -> Stack:
        layout, stack = layout_of(model), self._stack
        if stack is None or stack.layout != layout:
            exclude = self._clients.parameters.exclude
            self._stack = stack = Stack(layout, layout.without(exclude), exclude)
        return stack


class _Call:
    """One call of a batched function; made in a thread."""

    def __init__(
        self, clients: FunctionClients, function: Batched[Any, Any], places: list[Place]
    ) -> None:
        self._clients = clients
        self._function = function
        self._places = places
        self._model = places[0].model
        self._contexts = [
            TrainContext(
                place.site,
                place.task.round,
                place.task.total_rounds,
                clients.job_id,
                clients.seed,
                on_this_loop(place.on_metric),
                clients.config,
                clients.state,
                place.task.repeat,
            )
            for place in places
        ]

    def end(self) -> None:
        """Stream nothing more."""
        for context in self._contexts:
            context.end()

    def make(self, stack: Stack) -> list[Made | Exception]:
        """Call the function; what came of each site's task."""
        began, count = time.perf_counter(), len(self._places)
        returned = self._function(stack.spread(self._model, count), self._contexts)
        first = self._places[0]
        model = as_model(returned, first.task.name)
        metrics = _by_site(model.metrics or {}, count)
        weight = model.meta.get(WEIGHT_KEY, 1.0)
        alike = isinstance(weight, int | float)
        weights = _by_site({WEIGHT_KEY: [weight] * count if alike else weight}, count)
        rows, unfit = None, dict[int, BadUpdate]()
        bounds: Sequence[float | None] = [None] * count
        if first.task.name == "train":
            rows, unfit = _cut(stack, model, count)
        kind: Literal["FULL", "DIFF"] = "DIFF" if model.params_type == "DIFF" else "FULL"
        if rows is not None and first.difference and kind == "FULL":
            bounds = stack.subtract(rows, self._model)
            kind = "DIFF"
        seconds = (time.perf_counter() - began) / count
        made: list[Made | Exception] = []
        for i in range(count):
            if i in unfit:
                made.append(self._failure(self._places[i], unfit[i]))
                continue
            blob = None if rows is None else Blob.of_bytes(rows[i].tobytes(), bounds[i])
            made.append(Made(blob, kind, weights[i][WEIGHT_KEY], metrics[i], seconds))
        return made

    def failed(self, error: BaseException) -> list[FunctionFailed]:
        """The failure of every site, for the call has failed."""
        return [self._failure(place, error) for place in self._places]

    def _failure(self, place: Place, error: BaseException) -> FunctionFailed:
        return FunctionFailed(place.site, "", fault_of(error, self._function))


def _deadline_of(places: list[Place]) -> float | None:
    """What a call may take: as long as its tasks one after the other."""
    each = places[0].deadline_s
    return None if each is None else each * len(places)


def _cut(stack: Stack, model: FLModel, count: int) -> tuple[Rows, dict[int, BadUpdate]]:
    if model.params is None:
        raise TypeError("the train function returned no parameters")
    try:
        return stack.cut(model.params, count)
    except BadUpdate as error:
        shape = getattr(model.params.get(error.tensor), "shape", None)
        spec = stack.answers.by_name.get(error.tensor)
        if spec is None or shape is None or tuple(shape) == (count, *spec.shape):
            raise
        why = f"{error.why}; the first axis is that of the {count} sites in the call"
        raise BadUpdate(error.tensor, why) from None


def _by_site(values: Mapping[str, Any], count: int) -> list[dict[str, float]]:
    """The numbers of each site, from one for each site of each name."""
    by_site: list[dict[str, float]] = [{} for _ in range(count)]
    for name, value in values.items():
        numbers: Any = value.tolist() if hasattr(value, "tolist") else value
        found = len(numbers) if hasattr(numbers, "__len__") else 1
        if found != count or not hasattr(numbers, "__len__"):
            what = f"{found} number{'s'[: found != 1]}"
            raise TypeError(
                f"{name} has {what}; give one for each of the {count} sites in the call"
            )
        for site, number in zip(by_site, numbers, strict=True):
            site[name] = float(number)
    return by_site
