"""Importing modules ahead of a script, by the names that `imports.py` found.

Here: the importing, for a template, an exec'd client or scripts inside this process. Not here:
finding the names, or whether a process may fork afterwards (`template.py`).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from typing import Final

#: What a module imports late, in every client by itself: torch._dynamo at the first optimizer
#: step (seconds and a hundred megabytes), numpy.random when the random state is set.
_COMPANIONS: Final = {"torch": "torch._dynamo", "numpy": "numpy.random"}


def import_all(names: Iterable[str]) -> dict[str, str]:
    """Import modules; gives those that failed, with the reason.

    A failure is not an error here: the script will meet it at its own line.
    """
    failed: dict[str, str] = {}
    for name in names:
        why = import_one(name)
        if why is not None:
            failed[name] = why
    return failed


def import_one(name: str) -> str | None:
    """Import "a.b", or for "a.b:c" also a.b.c if that is a module; gives why it failed.

    A module that is loaded brings its companions along.
    """
    module, _, attribute = name.partition(":")
    try:
        imported = importlib.import_module(module)
        if attribute and not hasattr(imported, attribute):
            importlib.import_module(f"{module}.{attribute}")
        for loaded, companion in _COMPANIONS.items():
            if loaded in sys.modules and companion not in sys.modules:
                importlib.import_module(companion)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
