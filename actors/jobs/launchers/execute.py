"""Running a file as a program inside this process, and telling what went wrong in it.

Here: the file as `__main__`, and an exception as the user sees it. Not here: whose process it
is (`child.py`, `inline.py`).
"""

from __future__ import annotations

import linecache
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from types import CodeType, FrameType, ModuleType, TracebackType
from typing import Final

from covey.client.messages import Failed

from .lastwords import last_words

#: Both fit an envelope with room to spare; a traceback's end says more than its beginning.
_MAX_TEXT_CHARACTERS: Final = 8_000
_MAX_TRACEBACK_CHARACTERS: Final = 48_000

#: Folders below a script's own whose files are nobody's own code.
_FOREIGN: Final = frozenset({"site-packages", "dist-packages"})

#: Python's own library, which may lie below a script's folder too (a home directory).
_STANDARD: Final = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib"))


def main_module(script: str) -> ModuleType:
    """A fresh module to run `script` in, as Python makes one for the file it is started with."""
    module = ModuleType("__main__")
    module.__file__ = script
    module.__loader__ = SourceFileLoader("__main__", script)
    module.__dict__["__builtins__"] = __builtins__
    return module


def execute(script: str, module: ModuleType) -> None:
    """Run a script's file in a module; whatever it raises comes out.

    Raises:
        OSError: If the file cannot be read.
        SyntaxError: If it is no Python.
    """
    code = _compile(script)
    exec(code, module.__dict__)  # the user's own file, named by the user


def _compile(script: str) -> CodeType:
    with open(script, "rb") as file:
        source = file.read()
    return compile(source, script, "exec", dont_inherit=True)


def search_path(script: str, extra: tuple[str, ...]) -> list[str]:
    """What comes first on `sys.path` for a script: its own folder, then those given."""
    return [os.path.dirname(os.path.realpath(script)), *extra]


def describe(error: BaseException, script: str) -> Failed:
    """An exception of a script as the message that reports it."""
    if isinstance(error, SystemExit):
        kind, text = "SystemExit", f"sys.exit({error.code!r}){_said_before(error)}"
    else:
        kind, text = type(error).__name__, _text_of(error)
    file, line, source = _own_place(error, script)
    return Failed(
        kind=kind,
        text=text[:_MAX_TEXT_CHARACTERS],
        traceback=traceback_text(error, script)[-_MAX_TRACEBACK_CHARACTERS:],
        file=file,
        line=line,
        source_line=source[:_MAX_TEXT_CHARACTERS],
    )


def traceback_text(error: BaseException, script: str) -> str:
    """The traceback as Python prints it for a script that was started by itself."""
    lines = traceback.format_exception(type(error), error, _from_script(error, script))
    return "".join(lines)


def exit_code(error: SystemExit) -> int:
    """The exit code that a SystemExit stands for; text is printed, as Python does."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)  # noqa: T201 (what Python itself does with it)
    return 1


def is_own(file: str, script: str) -> bool:
    """Whether a file is the script, or lies beside or below it and is not installed there."""
    if file == script:
        return True
    if not os.path.isabs(file) or file.startswith(_STANDARD) or _FOREIGN & set(file.split(os.sep)):
        return False
    folder = os.path.dirname(script)
    return file.startswith((folder + os.sep, os.path.realpath(folder) + os.sep))


def _said_before(error: SystemExit) -> str:
    """What was printed before leaving with a number, such as `argparse` does: its end first."""
    lines = last_words(sys.stderr) if isinstance(error.code, int) else []
    if not lines:
        return ""
    return "\n  ".join([f", after printing: {lines[-1]}", *lines[:-1]])


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # the user's own __str__
        return f"<its text failed: {type(broken).__name__}>"


def _own_place(error: BaseException, script: str) -> tuple[str, int, str]:
    """File, line and source of the deepest frame that is the user's own."""
    if isinstance(error, SyntaxError) and error.filename and is_own(error.filename, script):
        return error.filename, error.lineno or 0, (error.text or "").strip()
    place = ("", 0, "")
    for frame, line in _frames(error.__traceback__):
        name = frame.f_code.co_filename
        if is_own(name, script) and not _is_ours(frame):
            place = (name, line, linecache.getline(name, line).strip())
    return place


def _frames(trace: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _from_script(error: BaseException, script: str) -> TracebackType | None:
    """The traceback without the frames that led to the script, or whole if it has none."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != script:
        trace = trace.tb_next
    return trace if trace is not None else error.__traceback__


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("covey.")
