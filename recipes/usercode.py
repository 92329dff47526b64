"""The user's own code, looked at before anything starts: what would fail at every client.

Here: whether a function can be called as clients are, and whether scripts are Python. Nothing is
run. Not here: what a script imports (`covey.actors.jobs.launchers.imports`).
"""

from __future__ import annotations

import functools
import inspect
import linecache
import traceback
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import CodeType
from typing import Any

from covey.actors.jobs.batched import Batched

from .errors import ConfigError


def checked_function(setting: str, function: Any) -> Any:
    """A client's function, or None; raise `ConfigError` for what cannot be called as one."""
    if function is None:
        return None
    if not callable(function):
        raise ConfigError(setting, f"{function!r} is no function; a script goes to train_script=")
    called = _function_of(function)
    try:
        # What a decorator wraps may take more: it is the decorator's own that clients call.
        signature = inspect.signature(called, follow_wrapped=False)
    except (TypeError, ValueError):
        return function  # it has none that could be read
    try:
        signature.bind(object(), object())
    except TypeError as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise ConfigError(
            setting,
            f"{name}{signature} cannot be called with the parameters and a TrainContext "
            f"({error}); it should be {name}(params, ctx){_place(called)}",
        ) from None
    return function


def _function_of(given: Any) -> Any:
    """What is called in the end."""
    return given.function if isinstance(given, Batched) else given


def _place(function: Any) -> str:
    """Where a function is defined, as the last lines of an error."""
    code = _code_of(function)
    return "" if code is None else _lines(code.co_filename, code.co_firstlineno)


def _code_of(function: Any) -> CodeType | None:
    """The code that is run where something is called, if it is Python's."""
    while isinstance(function, functools.partial):
        function = function.func
    found: Any = function
    if not hasattr(found, "__code__"):
        found = getattr(found, "__call__", None)  # noqa: B004 (of an object that is no function)
    code: CodeType | None = getattr(found, "__code__", None)
    return code


def place_of(error: Exception, function: Any) -> str:
    """Where a function that was called raised, or else where it is, as the last lines of an error.

    The caller's own frame comes first in the traceback, and what is not of the function's file is
    not the user's.
    """
    where = _code_of(function)
    if where is None:
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame.lineno for frame in frames if frame.filename == where.co_filename]
    return _lines(where.co_filename, (mine[-1] if mine else None) or where.co_firstlineno)


def check_syntax(files: Iterable[Path]) -> None:
    """Raise `ConfigError` for the first file that is no Python, with its line; nothing is run."""
    for file in files:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the script itself will show them
                compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            kind, why = type(error).__name__, getattr(error, "msg", None) or str(error)
            line = getattr(error, "lineno", None) or 1
            raise ConfigError("train_script", f"{kind}: {why}{_lines(str(file), line)}") from None


def _lines(file: str, line: int) -> str:
    linecache.checkcache(file)  # it may have been edited since
    source = linecache.getline(file, line).strip()
    return f'\n  File "{file}", line {line}' + (f"\n    {source}" if source else "")
