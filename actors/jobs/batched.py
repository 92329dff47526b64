"""Functions that train many sites in one call.

Here: what marks them. Not here: who is in a call, and making it (`batches.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar

from .calls import TrainFunction

P = ParamSpec("P")
R = TypeVar("R")


class Batched(Generic[P, R]):
    """A function that trains many sites in one call; made by `batched`."""

    def __init__(self, function: Callable[P, R]) -> None:
        """Call `function`."""
        update_wrapper(self, function)
        self.function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function itself."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"batched({self.function!r})"


#: A client's function: for one site, or for many.
ClientFunction: TypeAlias = "TrainFunction | Batched[..., Any]"


def batched(function: Callable[P, R]) -> Batched[P, R]:
    """Mark a function that trains many sites in one call.

    It is called with the parameters, in which every tensor has a leading axis of sites (shape
    (sites, ...), copies of its own), and with a list of one `TrainContext` for each site. It
    returns what a function for one site returns, with the same leading axis: the parameters, a
    pair of them and metrics, or an `FLModel`; of each metric one number for each site, of
    `NUM_STEPS_CURRENT_ROUND` in `meta` one for each or one for all. A function that evaluates
    returns metrics.

    How many sites are in a call is not to be relied on: what becomes of one must not depend on
    the others.

    Raises:
        TypeError: For an `async` function; calls are made in threads.
    """
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"{function.__qualname__} is async; a batched function is a plain one")
    return Batched(function)
