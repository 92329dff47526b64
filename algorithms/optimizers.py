"""Server optimizers: how the mean difference of a step moves the global model.

Here: the rules of the literature, element by element on float64, in place. Not here: those of
PyTorch (`torch_optimizer.py`), the mean (`linear.py`, `fedopt.py`), who keeps the state from step
to step (the driver).

The mean difference, delta = mean of (site's model - model it started from), points where the sites
went: it is a gradient's negative. All optimizers therefore *add*.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, Protocol

import numpy as np

from .errors import BadSetting
from .tensors.dtypes import F64

State = Mapping[str, F64]


class ServerOptimizer(Protocol):
    """What makes the next model from a difference. Holds settings only, so it can be shared.

    It must be elementwise: a number of the new model depends on the same number of its inputs and
    on nothing else, because it is given a part of the model at a time, cut anywhere. One that looks
    at a tensor as a whole has an attribute `whole_tensors`, which is True: then it is given one
    tensor at a time, in the tensor's shape.

    If it has a method `check()`, a rule calls that when it is made, for `BadSetting` to be raised
    before anything starts.
    """

    @property
    def state_names(self) -> tuple[str, ...]:
        """Arrays, one number per number of the model, that it keeps from step to step."""
        ...

    def step(
        self, delta: F64, old: F64, out: F64, state: State, number: int, scale: float = 1.0
    ) -> None:
        """Compute new values; does not allocate.

        Args:
            delta: The mean difference; may be destroyed.
            old: The current values; read-only.
            out: Where new values go; none of the other arrays.
            state: The arrays of `state_names`, all zero before the first step; updated in place.
            number: Which step this is, the first being 1; of all parts of a model the same.
            scale: Factor on the learning rate of this step.
        """
        ...


def check_optimizer(optimizer: ServerOptimizer) -> None:
    """Have an optimizer check its settings, if it can; raises `BadSetting`."""
    if isinstance(optimizer, type):
        raise BadSetting("optimizer", f"is a class; make one: {optimizer.__name__}(lr=...)")
    check = getattr(optimizer, "check", None)
    if callable(check):
        check()


def takes_whole_tensors(optimizer: ServerOptimizer) -> bool:
    """Whether an optimizer looks at tensors as a whole."""
    return bool(getattr(optimizer, "whole_tensors", False))


@dataclass(frozen=True, slots=True)
class SGD:
    """Gradient descent, with momentum if wanted.

    1. v = momentum x v + delta
    2. w = w + lr x v; with `nesterov`, w + lr x (delta + momentum x v)

    With lr 1 and no momentum, the model becomes the mean. With momentum this is the server of
    FedAvgM (Hsu, Qi, Brown: "Measuring the Effects of Non-Identical Data Distribution for
    Federated Visual Classification", 2019, section 4.3).

    Attributes:
        lr: Learning rate; above 0.
        momentum: >= 0, below 1.
        nesterov: Look ahead; needs momentum.

    """

    lr: float = 1.0
    momentum: float = 0.0
    nesterov: bool = False

    def check(self) -> None:
        """Check the settings; raise `BadSetting` for one that is out of its range."""
        _check(self)
        if self.nesterov and not self.momentum:
            raise BadSetting("nesterov", "needs momentum above 0")

    @property
    def state_names(self) -> tuple[str, ...]:
        """The velocity v, if there is momentum."""
        return ("velocity",) if self.momentum else ()

    def step(
        self, delta: F64, old: F64, out: F64, state: State, number: int, scale: float = 1.0
    ) -> None:
        """Steps 1 and 2."""
        direction = delta
        if self.momentum:
            velocity = state["velocity"]
            velocity *= self.momentum
            velocity += delta
            if self.nesterov:
                np.multiply(velocity, self.momentum, out=out)
                delta += out
            else:
                direction = velocity
        np.multiply(direction, self.lr * scale, out=out)
        out += old


@dataclass(frozen=True, slots=True)
class _Adaptive(ABC):
    """What the adaptive optimizers share: steps 1 and 3 of FedOpt."""

    lr: float
    beta1: float
    tau: float

    def check(self) -> None:
        """Check the settings; raise `BadSetting` for one that is out of its range."""
        _check(self)

    @property
    def state_names(self) -> tuple[str, ...]:
        """The moments m and v."""
        return ("momentum", "variance")

    def step(
        self, delta: F64, old: F64, out: F64, state: State, number: int, scale: float = 1.0
    ) -> None:
        """Steps 1 to 3; the first one also sets the state."""
        if number == 1:
            self._start(state)
        momentum = state["momentum"]
        momentum *= self.beta1
        np.multiply(delta, 1.0 - self.beta1, out=out)
        momentum += out
        np.square(delta, out=delta)
        variance = self._update_variance(state, delta, out)
        np.sqrt(variance, out=out)
        out += self.tau
        np.divide(momentum, out, out=out)
        out *= self.lr * scale
        out += old

    def _start(self, state: State) -> None:
        """Begin from m = 0 and the least variance that the paper allows, tau squared."""
        state["momentum"].fill(0.0)
        state["variance"].fill(self.tau**2)

    @abstractmethod
    def _update_variance(self, state: State, squares: F64, room: F64) -> F64:
        """Step 2: take in delta squared; give what the root is drawn of. May destroy both."""


@dataclass(frozen=True, slots=True)
class Adagrad(_Adaptive):
    """The server of FedAdagrad.

    Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan: "Adaptive Federated
    Optimization", ICLR 2021, algorithm 2. In every step, from m = 0 and v = tau ** 2:

    1. m = beta1 x m + (1 - beta1) x delta
    2. v = v + delta ** 2
    3. w = w + lr x m / (sqrt(v) + tau)

    Attributes:
        lr: Learning rate, "eta" in the paper; above 0.
        beta1: Momentum; >= 0, below 1.
        tau: Degree of adaptivity: the smaller, the more adaptive; above 0.

    """

    lr: float = 0.1
    beta1: float = 0.0
    tau: float = 1e-3

    def _update_variance(self, state: State, squares: F64, room: F64) -> F64:
        variance = state["variance"]
        variance += squares
        return variance


@dataclass(frozen=True, slots=True)
class Adam(_Adaptive):
    """The server of FedAdam: Adam without bias correction.

    As `Adagrad`, but for:

    2. v = beta2 x v + (1 - beta2) x delta ** 2

    Attributes:
        lr: Learning rate, "eta" in the paper; above 0.
        beta1: Momentum; >= 0, below 1.
        tau: Degree of adaptivity: the smaller, the more adaptive; above 0.
        beta2: How long the variance remembers; >= 0, below 1.

    """

    lr: float = 0.01
    beta1: float = 0.9
    tau: float = 1e-3
    beta2: float = 0.99

    def _update_variance(self, state: State, squares: F64, room: F64) -> F64:
        return _decay(state["variance"], squares, self.beta2)


@dataclass(frozen=True, slots=True)
class Yogi(_Adaptive):
    """The server of FedYogi: the variance moves by no more than a share of delta ** 2.

    As `Adagrad`, but for:

    2. v = v - (1 - beta2) x delta ** 2 x sign(v - delta ** 2)

    Attributes:
        lr: Learning rate, "eta" in the paper; above 0.
        beta1: Momentum; >= 0, below 1.
        tau: Degree of adaptivity: the smaller, the more adaptive; above 0.
        beta2: How long the variance remembers; >= 0, below 1.

    """

    lr: float = 0.01
    beta1: float = 0.9
    tau: float = 1e-3
    beta2: float = 0.99

    def _update_variance(self, state: State, squares: F64, room: F64) -> F64:
        variance = state["variance"]
        np.subtract(variance, squares, out=room)
        np.sign(room, out=room)
        room *= squares
        room *= 1.0 - self.beta2
        variance -= room
        return variance


@dataclass(frozen=True, slots=True)
class AMSGrad(_Adaptive):
    """The server of FADAS: Adam whose variance never shrinks.

    Wang, Wang, Lu, Chen: "FADAS: Towards Federated Adaptive Asynchronous Optimization", ICML 2024,
    algorithm 1. In every step, from m = v = u = 0:

    1. m = beta1 x m + (1 - beta1) x delta
    2. v = beta2 x v + (1 - beta2) x delta ** 2; u = max(u, v)
    3. w = w + lr x m / (sqrt(u) + tau)

    Attributes:
        lr: Learning rate; above 0.
        beta1: Momentum; >= 0, below 1.
        tau: What keeps the divisor from 0, "epsilon" in the paper; above 0.
        beta2: How long the variance remembers; >= 0, below 1.

    """

    lr: float = 0.001
    beta1: float = 0.9
    tau: float = 1e-8
    beta2: float = 0.99

    @property
    def state_names(self) -> tuple[str, ...]:
        """The moments m, v and u."""
        return ("momentum", "variance", "largest")

    def _start(self, state: State) -> None:
        for name in self.state_names:
            state[name].fill(0.0)

    def _update_variance(self, state: State, squares: F64, room: F64) -> F64:
        variance = _decay(state["variance"], squares, self.beta2)
        return np.maximum(state["largest"], variance, out=state["largest"])


def _decay(average: F64, values: F64, beta: float) -> F64:
    """Update a running average; destroys `values`."""
    average *= beta
    values *= 1.0 - beta
    average += values
    return average


#: Least value, whether that itself is allowed, and the bound that must stay above the value.
_RANGES: Final = {
    "lr": (0.0, False, math.inf),
    "tau": (0.0, False, math.inf),
    "momentum": (0.0, True, 1.0),
    "beta1": (0.0, True, 1.0),
    "beta2": (0.0, True, 1.0),
}


def _check(optimizer: SGD | _Adaptive) -> None:
    for field in fields(optimizer):
        if field.name not in _RANGES:
            continue
        low, closed, high = _RANGES[field.name]
        value: object = getattr(optimizer, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadSetting(field.name, f"{value!r} is no number")
        if not (low < value < high or (closed and value == low)):
            bounds = f"{'>=' if closed else '>'} {low:g} and < {high:g}"
            raise BadSetting(field.name, f"{value}; must be {bounds}")
