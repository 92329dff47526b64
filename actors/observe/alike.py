"""Failures that are of one kind: what one mistake does at every site.

Here: when two failures are alike. Not here: what is told of them (`covey.actors.roles`,
`covey.recipes.failures`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

_NUMBERS = re.compile(r"\d+")


class Sort(NamedTuple):
    """What failures have in common: the error and its place, but for names and numbers."""

    kind: str
    text: str
    file: str
    line: int


def sort_of(site: str, kind: str, text: str, file: str, line: int) -> Sort:
    """The sort of a site's failure: that it names the site, or another number, is no difference."""
    return Sort(kind, _NUMBERS.sub("#", text.replace(site, "#")), file, line)
