"""Commands are timed with all they start, and a failure is told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.commands import CommandFailed, take_turns, time_command
from benchmarks.results import Row, markdown
from benchmarks.slope import slope_of

BUSY = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
ORPHAN = f"import os\nif os.fork() == 0:\n    exec({BUSY!r})"


@pytest.mark.parametrize("code", [BUSY, ORPHAN], ids=["itself", "an orphan"])
def test_cpu_time_of_a_command_and_of_its_orphans_is_counted(tmp_path: Path, code: str) -> None:
    assert time_command([sys.executable, "-S", "-c", code], tmp_path).cpu_s >= 0.3


def test_a_command_that_fails_is_told_with_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"ended with 3:\nlast words") as caught:
        time_command(
            [sys.executable, "-S", "-c", "print('last words'); raise SystemExit(3)"], tmp_path
        )
    assert caught.value.code == 3


def test_commands_take_turns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import sys; open(sys.argv[1], 'a').write(sys.argv[2])"
    commands = {name: [sys.executable, "-S", "-c", code, str(log), name] for name in "ab"}
    timings = take_turns(commands, 3, tmp_path)
    assert log.read_text() == "ababab"
    assert [len(timings[name].runs) for name in "ab"] == [3, 3]


def test_the_slope_of_a_line_is_found_without_noise() -> None:
    slope, noise = slope_of([100, 103, 106, 109])
    assert (slope, noise) == pytest.approx((3, 0))


def test_results_are_a_table() -> None:
    page = markdown({"date": "today"}, {"Speed": [Row("it", "1 s", "a note", "<= 2 s")]})
    assert "- date: today" in page
    assert "| it | 1 s | <= 2 s | a note |" in page
