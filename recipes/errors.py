"""What a recipe's user may meet: a configuration that cannot run, and a run that failed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .run import Run


class RecipeError(Exception):
    """Root of the errors of recipes."""


class ConfigError(RecipeError, ValueError):
    """A setting that cannot work, found before anything starts.

    Attributes:
        setting: The setting at fault.
    """

    def __init__(self, setting: str, why: str) -> None:
        """Name the setting and say what to do."""
        super().__init__(f"{setting}: {why}")
        self.setting = setting


class JobFailed(RecipeError):
    """A run ended as FAILED. Its text ends with the user's own file and line, if it is there.

    Attributes:
        run: The run; its folder holds the last good model and the logs.
        site: The site that failed, None if none did.
        round: The round in which it failed.
    """

    def __init__(self, text: str, run: Run, site: str | None, round: int | None) -> None:
        """Say what failed, with the user's line last."""
        super().__init__(text)
        self.run = run
        self.site = site
        self.round = round


class JobAborted(RecipeError):
    """A run was given up before its end.

    Attributes:
        run: The run.
    """

    def __init__(self, text: str, run: Run) -> None:
        """Say who gave it up."""
        super().__init__(text)
        self.run = run


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest of the known names, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
