"""Where a script's prints go: its log, and the user's terminal line by line.

Here: `Output`, which hands a descriptor to the script's process and, if its lines are to be
shown, pumps them. Not here: what the terminal looks like (the console draws it).

Without an echo the script writes to its log by itself. With one, it writes into a pipe that this
process reads: whole lines only reach the terminal, so clients never cut into each other's lines.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from .script import Terminal

_READ_BYTES: Final = 64 << 10  # the size of a Linux pipe

#: A "line" longer than this is shown in pieces: some programs never end their lines.
_MAX_LINE_BYTES: Final = 64 << 10

#: After its script has ended, at most this much of what is left is taken: a process that it
#: left behind, outside its group, could write for ever.
_MAX_REST_BYTES: Final = 16 << 20


class LineEcho:
    """Cuts a stream of bytes into whole lines and shows them with a prefix."""

    def __init__(self, prefix: str, terminal: Terminal) -> None:
        self._prefix = prefix
        self._terminal = terminal
        self._partial = b""

    def feed(self, data: bytes) -> None:
        """Show the lines that are complete now, in one piece."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > _MAX_LINE_BYTES:
            lines.append(self._partial)
            self._partial = b""
        if lines:
            texts = (line.decode("utf-8", "replace").rstrip("\r") for line in lines)
            self._terminal("".join(f"{self._prefix}{text}\n" for text in texts))

    def flush(self) -> None:
        """Show what is left as a line of its own."""
        if self._partial:
            self.feed(b"\n")


class Output:
    """The output of one script's process.

    Args:
        log: File that is appended to.
        prefix: Prefix of lines on the terminal, None to show none.
        terminal: Takes the lines.

    Raises:
        OSError: If the log cannot be opened.
    """

    def __init__(self, log: Path, prefix: str | None, terminal: Terminal) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._echo = LineEcho(prefix, terminal) if prefix is not None else None
        self._read = -1
        self._child = self._log
        if self._echo is not None:
            self._read, self._child = os.pipe()
            os.set_blocking(self._read, False)
            asyncio.get_running_loop().add_reader(self._read, self._pump)

    @property
    def child_fd(self) -> int:
        """The descriptor for the script's process; closed by `handed_over`."""
        return self._child

    def handed_over(self) -> None:
        """The process has its own copy now: close ours."""
        if self._child >= 0 and self._child != self._log:
            os.close(self._child)
        self._child = -1
        if self._echo is None:
            self._close_log()

    def close(self) -> None:
        """Take what the process has written last, show it, and close; idempotent."""
        self.handed_over()
        taken = 0
        while self._read >= 0 and taken < _MAX_REST_BYTES:
            count = self._pump()
            if not count:
                break
            taken += count
        self._stop()
        self._close_log()

    def _pump(self) -> int:
        """Move once from the pipe to log and terminal; gives how many bytes."""
        try:
            data = os.read(self._read, _READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return 0
        if not data:
            self._stop()
            return 0
        with suppress(OSError):  # a full disk costs the log, not the script
            os.write(self._log, data)
        if self._echo is not None:
            self._echo.feed(data)
        return len(data)

    def _stop(self) -> None:
        if self._read >= 0:
            asyncio.get_running_loop().remove_reader(self._read)
            os.close(self._read)
            self._read = -1
        if self._echo is not None:
            self._echo.flush()

    def _close_log(self) -> None:
        if self._log >= 0:
            os.close(self._log)
            self._log = -1


def print_lines(text: str) -> None:
    """The plain terminal: standard output, flushed."""
    sys.stdout.write(text)
    sys.stdout.flush()
