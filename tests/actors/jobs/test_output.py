from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from covey.actors.jobs.launchers.output import LineEcho, Output, print_lines


def test_lines_are_shown_whole_however_they_arrive() -> None:
    shown: list[str] = []
    echo = LineEcho("> ", shown.append)
    for piece in (b"on", b"e\ntwo\nth", "ree \N{SNOWMAN}".encode()[:-1], b"\x83\r\n", b"last"):
        echo.feed(piece)
    assert shown == ["> one\n> two\n", "> three \N{SNOWMAN}\n"]
    echo.flush()
    echo.flush()
    assert shown[2:] == ["> last\n"]


def test_a_line_without_an_end_is_shown_in_pieces() -> None:
    shown: list[str] = []
    LineEcho("", shown.append).feed(b"x" * 100_000)
    assert len(shown) == 1


def test_what_a_process_wrote_last_is_taken_when_it_is_closed(tmp_path: Path) -> None:
    shown: list[str] = []

    async def main() -> None:
        output = Output(tmp_path / "log", "[a] ", shown.append)
        child = os.dup(output.child_fd)
        output.handed_over()
        os.write(child, b"one\nlast words")
        output.close()
        os.close(child)

    asyncio.run(main())
    assert "".join(shown) == "[a] one\n[a] last words\n"
    assert (tmp_path / "log").read_bytes() == b"one\nlast words"


def test_without_an_echo_the_log_itself_is_handed_over(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "log").write_text("before\n")
        output = Output(tmp_path / "log", None, print_lines)
        os.write(output.child_fd, b"after\n")
        output.handed_over()
        output.close()

    asyncio.run(main())
    assert (tmp_path / "log").read_text() == "before\nafter\n"


def test_lines_go_to_standard_output_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines("a\nb\n")
    assert capsys.readouterr().out == "a\nb\n"
