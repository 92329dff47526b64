"""Settings that are rules: server optimizers, and functions of the staleness or of the step.

Here: checking them, and describing them for a manifest, so that the same rule has the same digest
in every process.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

from covey.actors.jobs.manifest import digest_of_text

from .errors import ConfigError
from .recipe import source_of


def check_optimizer(optimizer: Any) -> None:
    """Raise `ConfigError` for what is no server optimizer."""
    if isinstance(optimizer, type):
        raise ConfigError("optimizer", f"is a class; make one: {optimizer.__name__}(lr=...)")
    if not (hasattr(optimizer, "state_names") and callable(getattr(optimizer, "step", None))):
        why = f"{optimizer!r} is none; give one of covey.algorithms, such as Adam(lr=0.01)"
        raise ConfigError("optimizer", why)


def described(rule: Any) -> Any:
    """A rule as plain data: a name, a dataclass with its settings, or the digest of a source."""
    if rule is None or isinstance(rule, str):
        return rule
    if is_dataclass(rule) and not isinstance(rule, type):
        return repr(rule)
    if callable(rule):
        name = getattr(rule, "__qualname__", type(rule).__name__)
        return f"{name} {digest_of_text(source_of(rule))}"
    return type(rule).__name__
