"""Settings that are rules: server optimizers, and functions of the staleness or of the step.

Here: checking them, and describing them and clients' functions for a manifest, so that the same
rule or function has the same digest in every process.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, cast

from covey.actors.jobs.manifest import digest_of_text
from covey.algorithms import Aggregation, BadSetting, TorchOptimizer
from covey.algorithms.tensors import Layout

from .errors import ConfigError


def check_optimizer(optimizer: Any) -> None:
    """Raise `ConfigError` for what is no server optimizer."""
    if isinstance(optimizer, TorchOptimizer):
        return
    kind: type[Any] = optimizer if isinstance(optimizer, type) else type(optimizer)
    if any(base.__module__.startswith("torch.optim") for base in kind.__mro__):
        own = kind.__module__.startswith("torch.optim")
        name = f"torch.optim.{kind.__name__}" if own else kind.__name__
        hint = f'TorchOptimizer({name}, {{"lr": ...}})'
        raise ConfigError("optimizer", f"is PyTorch's, which covey.algorithms wraps: {hint}")
    if isinstance(optimizer, type):
        raise ConfigError("optimizer", f"is a class; make one: {optimizer.__name__}(lr=...)")
    if not (hasattr(optimizer, "state_names") and callable(getattr(optimizer, "step", None))):
        why = f"{optimizer!r} is none; give one of covey.algorithms, such as Adam(lr=0.01)"
        raise ConfigError("optimizer", why)


def check_shapes(optimizer: Any, rule: Aggregation, layout: Layout) -> None:
    """Have one of PyTorch's optimizers try the shapes of a model; raise `ConfigError`."""
    if not isinstance(optimizer, TorchOptimizer):
        return
    floats = [spec for spec in rule.answers(layout).specs if spec.type.kind == "float"]
    try:
        optimizer.check(spec.numbers_shape for spec in floats)
    except BadSetting as error:
        raise ConfigError(error.setting, error.why) from None


def described(rule: Any) -> Any:
    """A rule as plain data: a name, a dataclass with its settings, or the digest of a source."""
    if rule is None or isinstance(rule, str):
        return rule
    if isinstance(rule, TorchOptimizer):
        made = {"optimizer": described(rule.optimizer), "args": _plain(rule.args)}
        if rule.scheduler is None:
            return made
        course = {"scheduler": described(rule.scheduler)}
        return made | course | {"scheduler_args": _plain(rule.scheduler_args)}
    if is_dataclass(rule) and not isinstance(rule, type):
        return _text(rule)
    if callable(rule):
        name = getattr(rule, "__qualname__", type(rule).__name__)
        return f"{name} {digest_of_text(source_of(rule))}"
    return type(rule).__name__


def source_of(function: Any) -> str:
    """A function's source, or its name where there is no source to read.

    Of `functools.partial` also its arguments, as text that is the same in every process.
    """
    found: Any = inspect.unwrap(function)
    if isinstance(found, functools.partial):
        return f"{source_of(found.func)}\n{_value(found.args)} {_plain(found.keywords)}"
    try:
        return inspect.getsource(found)
    except (OSError, TypeError):
        return f"{found.__module__}.{getattr(found, '__qualname__', '')}"


def _plain(settings: Mapping[Any, Any]) -> dict[str, Any]:
    """Settings or arguments by name: numbers, texts, functions, lists."""
    texts = {
        name if isinstance(name, str) else str(_value(name)): _value(value)
        for name, value in settings.items()
    }
    return {name: texts[name] for name in sorted(texts)}


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _plain(cast("Mapping[object, Any]", value))
    if isinstance(value, list | tuple):
        return [_value(each) for each in cast("Sequence[Any]", value)]
    if isinstance(value, set | frozenset):  # their order is another one in every process
        return sorted(str(_value(each)) for each in cast("Collection[Any]", value))
    if callable(value):
        return described(value)
    return _text(value)


def _text(value: Any) -> str:
    text = repr(value)
    # An address is another one in every process: the run could not be resumed.
    return type(value).__qualname__ if " at 0x" in text else text
