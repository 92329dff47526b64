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
        known = list(inspect.signature(cls.__init__).parameters)[1:]
        for name in kwargs:
            if name not in known:
                raise ConfigError(
                    name, f"{cls.__name__} has no such setting{did_you_mean(name, known)}"
                )
        return super().__new__(cls)
