"""Importing modules ahead of a script, by the names that `imports.py` found.

Here: the importing, for a template, an exec'd client or scripts inside this process. Not here:
finding the names, or whether a process may fork afterwards (`template.py`).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable


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

    With torch comes torch._dynamo, which every client's first optimizer step imports by itself
    otherwise: seconds, and a hundred megabytes that are not shared.
    """
    module, _, attribute = name.partition(":")
    had_torch = "torch" in sys.modules
    try:
        imported = importlib.import_module(module)
        if attribute and not hasattr(imported, attribute):
            importlib.import_module(f"{module}.{attribute}")
        if "torch" in sys.modules and (not had_torch or module.partition(".")[0] == "torch"):
            importlib.import_module("torch._dynamo")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
