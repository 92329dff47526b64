"""The progress bar below a run's lines, and the live view above it, drawn by rich.

Here: one display per terminal, shared by the runs that are shown on it. Not here: what it says
(`console.py`, which imports this module only where there is a terminal; `live.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final, TextIO

import rich.console
from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from .live import Board, Doing

_BAR_COLUMNS: Final = 24

#: Bar, count ("1000/1000"), time and the spaces between.
_FIXED_COLUMNS: Final = _BAR_COLUMNS + 9 + 7 + 4

#: Rows of a live view, and lines that it leaves to what stands above and below it.
_MOST_ROWS: Final = 20
_OTHER_LINES: Final = 9
#: A view is made anew ten times a second at most, however often lines are printed above it, and
#: so seldom that it takes a twentieth of the time, however many sites there are.
_VIEW_EVERY_S: Final = 0.1
_VIEW_SHARE: Final = 20
_COLOURS: Final = {Doing.AT_WORK: "cyan", Doing.FAILED: "red", Doing.OUT: "red"}

#: The displays that are drawn now; two on one terminal would draw over each other.
_displays: Final[dict[TextIO, _Display]] = {}


class _Display:
    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.bars = 0
        self.console = rich.console.Console(file=stream, highlight=False, soft_wrap=True)
        self.progress = _Bars(
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


class _Bars(Progress):
    """Bars with the live views of their runs above them."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is drawn, from top to bottom."""
        views = [task.fields["view"] for task in self.tasks if task.fields["view"] is not None]
        for view in views:
            yield view.drawn(self.console, len(views))
        yield self.make_tasks_table(self.tasks)


class _View:
    """One run's sites as a table."""

    def __init__(self, board: Board, now: Callable[[], float] = time.monotonic) -> None:
        self._board = board
        self._now = now
        self._drawn: RenderableType = ""
        self._due = 0.0

    def drawn(self, console: rich.console.Console, views: int) -> RenderableType:
        """The table as it was a moment ago, one of several on a terminal."""
        began = self._now()
        if began >= self._due:
            self._drawn = self._draw(console, (console.height - _OTHER_LINES) // views)
            took = self._now() - began
            self._due = began + max(_VIEW_EVERY_S, _VIEW_SHARE * took)
        return self._drawn

    def _draw(self, console: rich.console.Console, room: int) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for head in ("site", "", self._board.unit, "time", "metrics"):
            numbers = head in (self._board.unit, "time")
            table.add_column(head, justify="right" if numbers else "left", no_wrap=True)
        for row in self._board.rows(max(1, min(room, _MOST_ROWS)), time.time()):
            colour = _COLOURS.get(row.doing, "dim")
            rest = (Text(text) for text in (row.round, row.seconds, row.metrics))
            table.add_row(Text(row.site), Text(row.doing, style=colour), *rest)
        trend = self._board.trend() if console.encoding.startswith("utf") else ""
        return Group(table, Text(self._board.counts(), style="dim"), Text(trend, no_wrap=True))


class Bar:
    """One run's bar.

    Args:
        stream: A terminal.
        name: The run's name, at the left.
        total: Rounds of the run.
        board: What the sites do, for a live view; None for the bar alone.
    """

    def __init__(self, stream: TextIO, name: str, total: int, board: Board | None = None) -> None:
        if stream not in _displays:
            _displays[stream] = _Display(stream)
        self._display = _displays[stream]
        self._display.join()
        self._room_for_name = len(name)
        view = None if board is None else _View(board)
        self._task = self._display.progress.add_task("starting", total=total, name=name, view=view)

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
