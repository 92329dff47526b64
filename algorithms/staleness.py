"""How much a late update counts: functions from staleness to weight.

Here: the functions of the literature, and finding one by its name. Not here: what is multiplied by
the weight (`fedbuff.py`, `fedasync.py`), how staleness is counted (the driver).

Staleness, tau, is the number of versions that the global model has advanced since the sender of an
update received it. A fresh update has tau 0 and weighs exactly 1, except under `Normalised`, which
says otherwise. A rule takes any callable from tau to a weight that is finite and >= 0; nothing
says that it must fall.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from .errors import BadSetting

Staleness: TypeAlias = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Constant:
    """Every update weighs 1, however late."""

    def __call__(self, tau: int) -> float:
        """The weight at a staleness."""
        return 1.0


@dataclass(frozen=True, slots=True)
class Polynomial:
    """(1 + tau) ** -exponent: that of FedAsync; FedBuff takes the exponent 1/2.

    Xie, Koyejo, Gupta: "Asynchronous Federated Optimization", 2019, section 5.2; Nguyen et al.:
    "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022, section 5.

    Attributes:
        exponent: How fast the weight falls; >= 0.
    """

    exponent: float = 0.5

    def check(self) -> None:
        """Check the settings; raise `BadSetting` for one that is out of its range."""
        _check_range("exponent", self.exponent, 0.0)

    def __call__(self, tau: int) -> float:
        """The weight at a staleness."""
        return float((1.0 + tau) ** -self.exponent)


@dataclass(frozen=True, slots=True)
class Threshold:
    """1 up to a cutoff, another weight beyond it.

    Attributes:
        cutoff: Largest staleness that weighs 1; >= 0.
        after: Weight of what is staler; >= 0.
    """

    cutoff: float
    after: float

    def check(self) -> None:
        """Check the settings; raise `BadSetting` for one that is out of its range."""
        _check_range("cutoff", self.cutoff, 0.0)
        _check_range("after", self.after, 0.0)

    def __call__(self, tau: int) -> float:
        """The weight at a staleness."""
        return 1.0 if tau <= self.cutoff else float(self.after)


@dataclass(frozen=True, slots=True)
class Exponential:
    """base ** tau.

    The only one that factorises: an update that waited d versions more weighs base ** d of what
    it weighed, whatever its age, so that a sum of updates can be aged as a whole.

    Attributes:
        base: Weight at a staleness of 1; above 0, at most 1.
    """

    base: float = 0.9

    def check(self) -> None:
        """Check the settings; raise `BadSetting` for one that is out of its range."""
        if not 0.0 < self.base <= 1.0:
            raise BadSetting("base", f"{self.base}; must be above 0 and at most 1")

    def __call__(self, tau: int) -> float:
        """The weight at a staleness."""
        return float(self.base**tau)


@dataclass(frozen=True, slots=True)
class Hinge:
    """1 up to b, and 1 / (a (tau - b) + 1) beyond it.

    Xie, Koyejo, Gupta: "Asynchronous Federated Optimization", 2019, section 5.2.

    Attributes:
        a: How fast the weight falls beyond b; >= 0.
        b: Largest staleness that weighs 1; >= 0.
    """

    a: float = 10.0
    b: float = 4.0

    def check(self) -> None:
        """Check the settings; raise `BadSetting` for one that is out of its range."""
        _check_range("a", self.a, 0.0)
        _check_range("b", self.b, 0.0)

    def __call__(self, tau: int) -> float:
        """The weight at a staleness."""
        return 1.0 if tau <= self.b else 1.0 / (self.a * (tau - self.b) + 1.0)


@dataclass(frozen=True, slots=True)
class Normalised:
    """Another function divided by its value at the usual staleness, so that the usual weighs 1.

    A rule that divides by the number of updates makes smaller steps the staler they are: with
    1 / sqrt(1 + tau) and a mean tau of 85, steps of a ninth. This undoes it. A *fresh* update
    then weighs more than 1: 1 / inner(average).

    Attributes:
        inner: The function.
        average: The staleness that shall weigh 1; in steady state about the number of sites at
            work divided by the size of the buffer.
    """

    inner: Staleness
    average: int

    def check(self) -> None:
        """Check the settings; raise `BadSetting` for one that is out of its range."""
        _check_settings(self.inner)
        _check_range("average", self.average, 0.0)
        at_average = self.inner(self.average)
        if not (math.isfinite(at_average) and at_average > 0):
            raise BadSetting("average", f"the function is {at_average} at {self.average}")

    def __call__(self, tau: int) -> float:
        """The weight at a staleness."""
        return self.inner(tau) / self.inner(self.average)


_NAMED: Final[Mapping[str, Callable[..., Staleness]]] = {
    "constant": Constant,
    "polynomial": Polynomial,
    "threshold": Threshold,
    "exponential": Exponential,
    "hinge": Hinge,
}


def staleness_of(function: str | Staleness, **settings: float) -> Staleness:
    """Find a staleness function by name; a callable is taken as it is, once it has been checked.

    Args:
        function: "constant", "polynomial", "threshold", "exponential", "hinge", or any callable.
        settings: What the named function takes, such as `exponent=0.5`.

    Raises:
        BadSetting: An unknown name or setting, a setting missing or out of range, or settings
            beside a callable.
    """
    if not isinstance(function, str):
        if settings:
            raise BadSetting(next(iter(settings)), "a function brings its own settings")
        _check_settings(function)
        return function
    if function not in _NAMED:
        raise BadSetting("staleness", f"{function!r} is none of {_choose(function, _NAMED)}")
    make = _NAMED[function]
    names = list(inspect.signature(make).parameters)
    for name in settings:
        if name not in names:
            raise BadSetting(name, f"{function} takes {_choose(name, names)}")
    try:
        made = make(**settings)
    except TypeError:
        needed = ", ".join(name for name in names if name not in settings)
        raise BadSetting("staleness", f"{function} also needs {needed}") from None
    _check_settings(made)
    return made


def weight_at(function: Staleness, tau: int) -> float:
    """The weight that a function gives, checked: the function may be anybody's.

    Raises:
        BadSetting: Tau is negative, or the weight is negative or not finite.
    """
    if tau < 0:
        raise BadSetting("staleness", f"{tau} versions; an update cannot be newer than the model")
    weight = float(function(tau))
    if not (math.isfinite(weight) and weight >= 0):
        raise BadSetting("staleness", f"the function gives {weight} at {tau}; must be >= 0")
    return weight


def _check_settings(function: Staleness) -> None:
    """Have a function check its settings, if it can."""
    check = getattr(function, "check", None)
    if callable(check) and not isinstance(function, type):
        check()


def _check_range(setting: str, value: float, low: float) -> None:
    if not (math.isfinite(value) and value >= low):
        raise BadSetting(setting, f"{value}; must be >= {low:g}")


def _choose(given: str, names: Mapping[str, object] | list[str]) -> str:
    """The names there are, with the one that was probably meant."""
    close = difflib.get_close_matches(given, list(names), n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return (", ".join(repr(name) for name in names) or "no settings") + hint
