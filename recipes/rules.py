"""Settings that are rules: server optimizers, and functions of the staleness or of the step.

Here: checking them, and describing them for a manifest, so that the same rule has the same digest
in every process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, cast

from covey.actors.jobs.manifest import digest_of_text
from covey.algorithms import Aggregation, BadSetting, TorchOptimizer
from covey.algorithms.tensors import Layout

from .errors import ConfigError
from .recipe import source_of


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
        return repr(rule)
    if callable(rule):
        name = getattr(rule, "__qualname__", type(rule).__name__)
        return f"{name} {digest_of_text(source_of(rule))}"
    return type(rule).__name__


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of one of PyTorch's classes: numbers, texts, functions of the step, lists."""
    return {name: _value(value) for name, value in sorted(settings.items())}


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _plain(cast("Mapping[str, Any]", value))
    if isinstance(value, list | tuple):
        return [_value(each) for each in cast("Sequence[Any]", value)]
    if callable(value):
        return described(value)
    text = repr(value)
    # An address is another one in every process: the run could not be resumed.
    return type(value).__qualname__ if " at 0x" in text else text
