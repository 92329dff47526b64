"""`@train` and `@evaluate`: functions that receive and send by themselves.

Here: the two decorators. Not here: the calls they make (`api.py`)::

    @flare.evaluate
    def measure(model):
        ...
        return {"accuracy": accuracy}

    @flare.train
    def train(model, epochs=1):
        ...
        return flare.FLModel(params=net.state_dict())

    flare.init()
    while flare.is_running():
        model = flare.receive()
        measure(model)
        train(model)
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar, cast

from . import api
from .errors import BadModel, WrongCall
from .model import FLModel

_P = ParamSpec("_P")
_Metrics = TypeVar("_Metrics", bound="Mapping[str, float] | float")

#: Metrics of the model received last, until the answer that carries them: (model, metrics).
_measured: tuple[FLModel, Mapping[str, float]] | None = None

#: The model whose "evaluate" task was answered by an `evaluate` function.
_evaluated: FLModel | None = None


def train(function: Callable[_P, FLModel]) -> Callable[..., FLModel | None]:
    """Turn a training function into one that answers the current task.

    The function's first parameter is the received model; if it is not given, or None, it is
    received first. What the function returns is sent; if that has no metrics, those of an
    `evaluate` function that ran on the same model go along. For the task "evaluate" the
    function is not run, and the call returns None.

    Raises:
        BadModel: If the function returns no FLModel.
        WrongCall: If there are no more tasks.
    """

    @functools.wraps(function)
    def answer(*args: Any, **kwargs: Any) -> FLModel | None:
        global _measured
        received, args = _with_model(function, args, kwargs)
        # Not `is_evaluate`: asking that says that the script can evaluate by itself.
        if received is _evaluated or api.get_task_name() == "evaluate":
            return None
        result = function(*args, **kwargs)
        if not isinstance(result, FLModel):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise BadModel(function.__name__, f"returned a {type(result).__name__}, not an FLModel")
        if result.metrics is None and _measured is not None and _measured[0] is received:
            result.metrics = _measured[1]
        _measured = None
        api.send(result)
        return result

    return answer


def evaluate(function: Callable[_P, _Metrics]) -> Callable[..., _Metrics]:
    """Turn an evaluating function into one whose metrics go along with the answer.

    The function's first parameter is the received model, as for `train`. A single number that
    it returns becomes the metric "accuracy". For the task "evaluate" the metrics are sent.

    Raises:
        WrongCall: If there are no more tasks.
    """

    @functools.wraps(function)
    def measure(*args: Any, **kwargs: Any) -> _Metrics:
        global _measured, _evaluated
        received, args = _with_model(function, args, kwargs)
        result = function(*args, **kwargs)
        metrics: Mapping[str, float]
        metrics = result if isinstance(result, Mapping) else {"accuracy": result}
        if api.is_evaluate():
            api.send(FLModel(metrics=metrics))
            _evaluated = received
        else:
            _measured = (received, metrics)
        return result

    return measure


# Any: the arguments of the user's own function.
def _with_model(
    function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[FLModel, tuple[Any, ...]]:
    """The received model, and the positional arguments with it in its place."""
    first = next(iter(inspect.signature(function).parameters), "")
    given = args[0] if args else kwargs.get(first)
    received = cast("FLModel | None", given) if given is not None else api.receive()
    if received is None:
        raise WrongCall("receive()", "there are no more tasks; ask is_running() first")
    if first in kwargs:
        kwargs[first] = received
        return received, args
    return received, (received, *args[1:])
