"""The progress bar below a run's lines, drawn by rich.

Here: one display per terminal, shared by the runs that are shown on it. Not here: what it says
(`console.py`), which imports this module only where there is a terminal.
"""

from __future__ import annotations

from typing import Final, TextIO

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

_BAR_COLUMNS: Final = 24

#: Bar, count ("1000/1000"), time and the spaces between.
_FIXED_COLUMNS: Final = _BAR_COLUMNS + 9 + 7 + 4

#: The displays that are drawn now; two on one terminal would draw over each other.
_displays: Final[dict[TextIO, _Display]] = {}


class _Display:
    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.bars = 0
        self.console = rich.console.Console(file=stream, highlight=False, soft_wrap=True)
        self.progress = Progress(
            TextColumn("{task.fields[name]}", markup=False),
            BarColumn(bar_width=_BAR_COLUMNS),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=self.console,
            transient=True,
        )

    def join(self) -> None:
        if not self.bars:
            self.progress.start()
        self.bars += 1

    def leave(self) -> None:
        self.bars -= 1
        if not self.bars:
            self.progress.stop()
            del _displays[self.stream]


class Bar:
    """One run's bar.

    Args:
        stream: A terminal.
        name: The run's name, at the left.
        total: Rounds of the run.
    """

    def __init__(self, stream: TextIO, name: str, total: int) -> None:
        if stream not in _displays:
            _displays[stream] = _Display(stream)
        self._display = _displays[stream]
        self._display.join()
        self._room_for_name = len(name)
        self._task = self._display.progress.add_task("starting", total=total, name=name)

    def update(self, completed: int, text: str) -> None:
        """Say how many rounds are done and what is happening."""
        room = max(self._display.console.width - self._room_for_name - _FIXED_COLUMNS, 8)
        # Cut here: rich would rather shorten the numbers than the text.
        short = text if len(text) <= room else text[: room - 1] + "…"
        self._display.progress.update(self._task, completed=completed, description=short)

    def print(self, text: str, style: str = "") -> None:
        """Print lines above all bars."""
        self._display.console.print(Text(text, style=style), soft_wrap=True)

    def close(self) -> None:
        """Take the bar away, and with the last one the display."""
        self._display.progress.remove_task(self._task)
        self._display.leave()
