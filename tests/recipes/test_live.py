"""The live view shows what each site does, a bounded part of them, and only on a terminal."""

from __future__ import annotations

import io
import math
import re
import sys

import pytest
import rich.console
from hypothesis import given
from hypothesis import strategies as st

from covey.actors.observe.events import EventKind
from covey.recipes import ConfigError, SimEnv, bars
from covey.recipes.console import Console
from covey.recipes.live import Board, Doing, sparkline

from .test_console import FAILURE, Story, Terminal, terminal

__all__ = ["terminal"]  # a fixture


def board_of(*sites: str) -> tuple[Board, Story]:
    board = Board(sites)
    return board, Story(board)


def doing(board: Board, most: int = 20) -> dict[str, str]:
    return {row.site: row.doing for row in board.rows(most, 2000.0)}


def begin(story: Story, number: int, sites: int) -> None:
    story.tell(EventKind.ROUND_STARTED, number, sites=sites, task="train")


def answer(story: Story, number: int, site: str) -> None:
    metrics = {"accuracy": 0.5, "loss": 1.25}
    story.tell(EventKind.SITE_FINISHED, number, site, metrics=metrics, seconds=0.25)


def test_each_site_is_at_work_until_it_has_answered_or_failed() -> None:
    board, story = board_of("a", "b", "c", "d")
    assert set(doing(board).values()) == {""}
    begin(story, 3, 4)
    assert set(doing(board).values()) == {"at work"}
    answer(story, 3, "a")
    story.tell(EventKind.SITE_FAILED, 3, "b", **(FAILURE | {"fatal": False}))
    story.tell(EventKind.SITE_FAILED, 3, "c", **(FAILURE | {"fatal": True}))
    assert doing(board) == {"a": "answered", "b": "failed", "c": "out", "d": "at work"}
    assert board.counts() == "4 sites, 1 at work, 1 failed, 1 out, 1 answered"
    begin(story, 4, 3)
    assert doing(board) == {"a": "at work", "b": "at work", "c": "out", "d": "at work"}


def test_a_row_has_the_round_the_time_and_the_latest_metrics() -> None:
    board, story = board_of("a", "b")
    begin(story, 3, 2)
    answer(story, 3, "a")
    first, second = board.rows(20, story.clock + 8.9)
    assert first == ("a", Doing.ANSWERED, "3", "0.2 s", "accuracy 0.5  loss 1.25")
    assert second == ("b", Doing.AT_WORK, "3", "9.9 s", "")


def test_in_a_round_that_not_all_are_asked_in_only_what_is_known_is_shown() -> None:
    board, story = board_of("a", "b", "c")
    begin(story, 0, 2)
    assert set(doing(board).values()) == {""}
    story.tell(EventKind.WAITING, 0, None, task="train", sites=["b"], count=1, seconds=5.0)
    assert doing(board) == {"a": "", "b": "at work", "c": ""}


def test_of_many_sites_those_at_work_come_first_the_slowest_before_all() -> None:
    board, story = board_of(*(f"site-{number}" for number in range(10_000)))
    begin(story, 0, 10_000)
    for number in range(10_000):
        if number not in (7, 9000):
            answer(story, 0, f"site-{number}")
    story.tell(EventKind.SITE_FAILED, 0, "site-9000", **FAILURE)
    rows = board.rows(5, 2000.0)
    assert [row.doing for row in rows] == ["at work", "failed", *3 * ["answered"]]
    assert rows[0].site == "site-7"
    assert board.counts() == "10,000 sites, 1 at work, 1 failed, 9,998 answered"


def test_sites_that_nobody_knows_are_no_trouble() -> None:
    board, story = board_of("a")
    answer(story, 0, "stranger")
    story.tell(EventKind.SITE_FAILED, 0, "stranger", **FAILURE)
    story.tell(EventKind.WAITING, 0, None, sites=["stranger"], seconds=5.0)
    assert list(doing(board)) == ["a"]


def test_the_trend_is_that_of_the_first_metric_with_its_latest_value() -> None:
    board, story = board_of("a")
    assert board.trend() == ""
    for number in range(100):
        metrics = {"loss": 1.0 - number / 100, "accuracy": 0.5}
        story.tell(EventKind.ROUND_FINISHED, number, metrics=metrics)
    name, line, value = board.trend().split()
    assert (name, value) == ("loss", "0.01")
    assert len(line) == 40
    assert (line[0], line[-1]) == ("█", "▁")


@given(st.lists(st.floats(), max_size=50))
def test_a_sparkline_has_a_letter_for_each_value(values: list[float]) -> None:
    line = sparkline(values)
    assert len(line) == len(values)
    assert [letter == " " for letter in line] == [not math.isfinite(value) for value in values]


def test_a_sparkline_goes_from_the_lowest_to_the_highest() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([2.0, 2.0]) == "▅▅"


def test_a_terminal_gets_a_table_above_the_bar_that_is_gone_at_the_end(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bars, "_VIEW_EVERY_S", 0.0)
    monkeypatch.setattr(bars, "_VIEW_SHARE", 0)
    console = Console(terminal.stream, live=["site-1", "site-2[bold]"])
    story = Story(console)
    story.start()
    story.round(0)
    begin(story, 1, 2)
    bars._displays[terminal.stream].progress.refresh()  # in a run, ten times a second
    story.finish()
    assert console._board is None
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.text())
    assert "site-1        at work      1" in plain
    assert "site-2[bold]  at work" in plain
    assert "2 sites, 2 at work" in plain
    assert "accuracy ▅ 0" in plain
    assert "round 0  2 ok  accuracy 0  1.2 s  181 KB transferred" in plain


def test_a_view_is_made_ten_times_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []
    clock = 100.0

    def rows(board: Board, most: int, now: float) -> list[object]:
        drawn.append(clock)
        return []

    monkeypatch.setattr(Board, "rows", rows)
    view = bars._View(Board(["a"]), lambda: clock)
    screen = rich.console.Console(file=io.StringIO())
    for _ in range(1000):
        view.drawn(screen, 1)
        clock += 0.001
    assert 9 <= len(drawn) <= 11


def test_two_live_runs_share_a_terminal(terminal: Terminal) -> None:
    stdout = sys.stdout
    first, second = (Story(Console(terminal.stream, live=[name])) for name in "ab")
    first.start("first")
    second.start("second")
    bars._displays[terminal.stream].progress.refresh()
    first.finish()
    bars._displays[terminal.stream].progress.refresh()
    second.finish()
    assert sys.stdout is stdout
    terminal.text()


@pytest.mark.parametrize("name", ["NO_COLOR", "a pipe"])
def test_without_a_terminal_there_are_plain_lines(
    monkeypatch: pytest.MonkeyPatch, terminal: Terminal, name: str
) -> None:
    out = io.StringIO()
    monkeypatch.setenv("NO_COLOR", "1" if name == "NO_COLOR" else "")
    story = Story(Console(terminal.stream if name == "NO_COLOR" else out, live=["site-1"]))
    story.start()
    story.round(0)
    story.finish()
    text = terminal.text() + out.getvalue()
    assert "\x1b" not in text
    assert "site-1" not in text
    assert "round 0  2 ok" in text


def test_only_live_and_booleans_are_ways_to_show_progress() -> None:
    assert SimEnv(2, progress="live").replace(seed=1).progress == "live"
    with pytest.raises(ConfigError, match="progress: 'lively'; True, False or 'live'"):
        SimEnv(2, progress="lively")  # type: ignore[arg-type]
