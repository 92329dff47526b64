"""Keyword arguments that do not exist are told with the nearest that does."""

from __future__ import annotations

import inspect
from typing import Any, Self

from .errors import ConfigError, did_you_mean


class Checked:
    """Base of classes whose users type their arguments by hand.

    Type checkers look at `__init__`; this is for those who run none.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse unknown keywords; raise `ConfigError`."""
        known = settings_of(cls)
        for name in kwargs:
            if name not in known:
                raise ConfigError(
                    name, f"{cls.__name__} has no such setting{did_you_mean(name, known)}"
                )
        return super().__new__(cls)


def settings_of(cls: type) -> list[str]:
    """What a class's `__init__` takes; where it takes any more, what its base's takes, too."""
    names: list[str] = []
    for klass in cls.__mro__:
        if "__init__" not in vars(klass):
            continue
        parameters = list(inspect.signature(vars(klass)["__init__"]).parameters.values())[1:]
        names += [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return list(dict.fromkeys(names))
