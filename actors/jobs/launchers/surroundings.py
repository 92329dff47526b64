"""What a script sees of its process, put in place while it runs and taken away when it waits.

Here: everything that a process has once and that each of several scripts in it must have for
itself: arguments, environment, folder, `__main__`, its own modules, output, random state, torch
threads, the current session, Ctrl-C. Not here: when to switch (`inline.py`).
"""

from __future__ import annotations

import asyncio
import io
import os
import pdb
import random
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import IO, Any, TextIO, cast

from covey.client.messages import Welcome
from covey.client.session import Session, install

from .execute import is_own, main_module, search_path
from .lastwords import LastWords
from .script import Terminal


class InlineStream(io.TextIOBase):
    """Standard output and error of one script: into its log, and line by line to the terminal.

    What is flushed in the middle of a line is shown too: it is the prompt of a debugger.

    Args:
        log: The script's log.
        prefix: Prefix of lines on the terminal, None to show none.
        terminal: Takes the text.
    """

    def __init__(self, log: IO[str], prefix: str | None, terminal: Terminal) -> None:
        super().__init__()
        self._log = log
        self._prefix = prefix
        self._terminal = terminal
        self._line = ""
        self._begun = False  # whether the beginning of the current line has been shown

    def writable(self) -> bool:
        """True."""
        return True

    def fileno(self) -> int:
        """The log's descriptor."""
        return self._log.fileno()

    def write(self, text: str, /) -> int:
        """Take text, and show the lines that are complete."""
        self._log.write(text)
        if self._prefix is not None:
            *lines, self._line = (self._line + text).split("\n")
            for line in lines:
                self._show(line + "\n")
                self._begun = False
        return len(text)

    def flush(self) -> None:
        """Write out the log, and show what there is of the current line."""
        if self._log.closed:
            return
        self._log.flush()
        if self._line:
            self._show(self._line)
            self._begun, self._line = True, ""

    def close(self) -> None:
        """Close the log."""
        if not self._log.closed:
            self.flush()
            self._log.close()

    def _show(self, text: str) -> None:
        with outside(None):  # the terminal may well be the standard output that this one hides
            self._terminal(text if self._begun else f"{self._prefix}{text}")


class _InlineErrors(io.TextIOBase):
    """Standard error of a script: what is written to it goes where standard output goes."""

    def __init__(self, stream: InlineStream) -> None:
        super().__init__()
        self._stream = stream
        self.last = LastWords()

    def writable(self) -> bool:
        """True."""
        return True

    def fileno(self) -> int:
        """The log's descriptor."""
        return self._stream.fileno()

    def write(self, text: str, /) -> int:
        """Write and remember."""
        self.last.hear(text)
        return self._stream.write(text)

    def flush(self) -> None:
        """As for standard output."""
        self._stream.flush()


@dataclass(slots=True)
class _State:
    """Everything that is swapped. `Any`: the states of generators, and foreign handlers."""

    argv: list[str]
    path: list[str]
    env: dict[str, str]
    cwd: str
    main: ModuleType
    modules: dict[str, ModuleType]
    stdout: TextIO
    stderr: TextIO
    breakpoint: Callable[..., Any]
    session: Session | None
    python_random: Any
    numpy_random: Any
    torch_random: Any
    torch_threads: int | None


class Surroundings:
    """One script's surroundings, to be entered and left in turn.

    Args:
        welcome: Whose surroundings they are.
        session: Its session.
        stream: Its output.
    """

    def __init__(self, welcome: Welcome, session: Session, stream: InlineStream) -> None:
        self._script = welcome.script
        self._own = self._first_state(welcome, session, stream)
        self._outer: _State | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._interrupts: tuple[Any, int] | None = None

    def enter(self) -> None:
        """Put the script's surroundings in place of those of the loop, which is hidden."""
        self._outer = self._capture()
        self._loop = asyncio.get_running_loop()
        self._interrupts = _take_interrupts()
        asyncio._set_running_loop(None)  # so that the script may use asyncio.run
        self._apply(self._own)
        _hidden.append((self._outer.stdout, self._outer.stderr))

    def leave(self) -> None:
        """Keep the script's surroundings as they are now, and put those of the loop back."""
        assert self._outer is not None
        _hidden.pop()
        self._own = self._capture()
        self._apply(self._outer)
        self._outer = None
        _give_interrupts(self._interrupts)
        asyncio._set_running_loop(self._loop)

    def _first_state(self, welcome: Welcome, session: Session, stream: InlineStream) -> _State:
        output = cast("TextIO", stream)
        return _State(
            argv=[welcome.script, *welcome.args],
            path=search_path(welcome.script, welcome.path) + sys.path,
            env=welcome.env,
            cwd=welcome.cwd,
            main=main_module(welcome.script),
            modules={},
            stdout=output,
            stderr=cast("TextIO", _InlineErrors(stream)),
            breakpoint=_breakpoint_hook(),
            session=session,
            python_random=random.getstate(),
            numpy_random=None,
            torch_random=None,
            torch_threads=welcome.torch_threads,
        )

    def _capture(self) -> _State:
        numpy_random: Any = sys.modules.get("numpy.random")
        torch: Any = sys.modules.get("torch")
        session = install(None)
        install(session)
        return _State(
            argv=sys.argv,
            path=sys.path,
            env=dict(os.environ),
            cwd=os.getcwd(),
            main=sys.modules["__main__"],
            modules=self._own_modules(),
            stdout=sys.stdout,
            stderr=sys.stderr,
            breakpoint=sys.breakpointhook,
            session=session,
            python_random=random.getstate(),
            numpy_random=numpy_random.get_state() if numpy_random is not None else None,
            torch_random=torch.get_rng_state() if torch is not None else None,
            torch_threads=torch.get_num_threads() if torch is not None else None,
        )

    def _apply(self, state: _State) -> None:
        sys.argv, sys.path = state.argv, state.path
        if state.env != dict(os.environ):
            os.environ.clear()
            os.environ.update(state.env)
        os.chdir(state.cwd)
        for name in self._own_modules():
            del sys.modules[name]
        sys.modules.update(state.modules)
        sys.modules["__main__"] = state.main
        sys.stdout, sys.stderr = state.stdout, state.stderr
        sys.breakpointhook = state.breakpoint
        install(state.session)
        _restore_random(state)

    def _own_modules(self) -> dict[str, ModuleType]:
        """Loaded modules that are the user's own: two clients must not share their state."""
        return {
            name: module
            for name, module in tuple(sys.modules.items())
            if name != "__main__"
            and not name.startswith("covey.")
            and is_own(getattr(module, "__file__", None) or "", self._script)
        }


#: Standard output and error that the script which runs now hides; at most one entry.
_hidden: list[tuple[TextIO, TextIO]] = []


@contextmanager
def outside(loop: asyncio.AbstractEventLoop | None) -> Generator[None]:
    """Call something that belongs to the loop from inside a script: its streams, and its loop."""
    streams, running = (sys.stdout, sys.stderr), asyncio._get_running_loop()
    if _hidden:
        sys.stdout, sys.stderr = _hidden[-1]
    asyncio._set_running_loop(loop or running)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        asyncio._set_running_loop(running)


def _restore_random(state: _State) -> None:
    random.setstate(state.python_random)
    if state.numpy_random is not None:
        numpy_random: Any = sys.modules["numpy.random"]
        numpy_random.set_state(state.numpy_random)
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return
    if state.torch_random is not None:
        torch.set_rng_state(state.torch_random)
    if state.torch_threads is not None and torch.get_num_threads() != state.torch_threads:
        torch.set_num_threads(state.torch_threads)


def _breakpoint_hook() -> Callable[..., Any]:
    """What `breakpoint()` does in a script: pdb on the real terminal, not in the log.

    A hook that somebody else has installed (an IDE, PYTHONBREAKPOINT) is left alone.
    """
    if sys.breakpointhook is not sys.__breakpointhook__ or os.environ.get("PYTHONBREAKPOINT"):
        return sys.breakpointhook
    stdin, stdout = sys.stdin, sys.stdout

    def stop(*_: object, **__: object) -> None:
        caller: FrameType | None = sys._getframe(1)
        pdb.Pdb(stdin=stdin, stdout=stdout).set_trace(caller)

    return stop


def _take_interrupts() -> tuple[Any, int] | None:
    """Make Ctrl-C interrupt the script; gives what to put back, None outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return None
    wakeup = signal.set_wakeup_fd(-1)
    handler = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return handler, wakeup


def _give_interrupts(before: tuple[Any, int] | None) -> None:
    if before is not None:
        handler, wakeup = before
        signal.signal(signal.SIGINT, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
