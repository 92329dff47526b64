"""What a script has written to standard error last: what `argparse` said before it left.

Here: remembering the end of a stream. Not here: where output goes (`output.py`), an exception as
the user sees it (`execute.py`).
"""

from __future__ import annotations

import io
from typing import Final

#: A usage and its error fit; what a script wrote long before has nothing to do with its end.
_MOST_LINES: Final = 12
_MOST_CHARACTERS: Final = 2_000


class LastWords:
    """The end of what was written."""

    def __init__(self) -> None:
        self._text = ""

    def hear(self, text: str) -> None:
        """More was written."""
        self._text = (self._text + text)[-_MOST_CHARACTERS:]

    def lines(self) -> list[str]:
        """The last lines that say something."""
        lines = (line.rstrip() for line in self._text.splitlines())
        return [line for line in lines if line][-_MOST_LINES:]


class ErrorStream(io.TextIOWrapper):
    """Standard error of a process, written line by line, whose end is remembered."""

    def __init__(self, fd: int) -> None:
        buffer = open(fd, "wb", closefd=False)  # noqa: SIM115 (open as long as the process)
        super().__init__(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self.last = LastWords()

    def write(self, text: str, /) -> int:
        """Write and remember."""
        self.last.hear(text)
        return super().write(text)


def last_words(stream: object) -> list[str]:
    """The last lines written to a stream; none if it does not remember them."""
    last = getattr(stream, "last", None)
    return last.lines() if isinstance(last, LastWords) else []
