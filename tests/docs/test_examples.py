"""Every program in a page runs, and prints what the page says it prints."""

from __future__ import annotations

import ast
import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .pages import ROOT, Block, blocks, name_of, pages

LONGEST_S = 100
COVEY = "from covey.cli.main import main; main()"


def programs(page: Path) -> dict[str, Block]:
    """The blocks of a page that are to be run, by file name."""
    found = blocks(page.read_text(encoding="utf-8"))
    return {block.options["run"]: block for block in found if "run" in block.options}


PROGRAMS = [(name_of(page), name) for page in pages() for name in programs(page)]


def run(page: Path, name: str, folder: Path, *command: str) -> str:
    """Write a page's files to a folder, run one of them there, and give what it prints."""
    for block in blocks(page.read_text(encoding="utf-8")):
        file = block.options.get("file") or block.options.get("run")
        if file is not None:
            (folder / file).write_text(block.text, encoding="utf-8")
    env = {**os.environ, "COVEY_WORKSPACE": "", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, *command, name],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(("page", "name"), PROGRAMS)
def test_a_program_in_a_page_runs_and_prints_what_the_page_says(
    page: str, name: str, tmp_path: Path
) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    printed = run(ROOT / page, name, tmp_path)
    checker = doctest.OutputChecker()  # `...` in a page stands for anything
    for block in blocks(text):
        if block.options.get("output") == name:
            agrees = checker.check_output(block.text, printed, doctest.ELLIPSIS)
            assert agrees, f"{page}:{block.line} shows something else than\n{printed}"


@pytest.mark.parametrize("name", ["job.py", "thousand.py", "nobody_waits.py"])
def test_the_first_programs_are_what_covey_run_takes_too(name: str, tmp_path: Path) -> None:
    readme = ROOT / "README.md"
    printed = run(readme, name, tmp_path, "-c", COVEY, "run")
    shown = next(
        block.text
        for block in blocks(readme.read_text(encoding="utf-8"))
        if block.options.get("output") == name
    )
    assert printed.splitlines()[0] == shown.splitlines()[0]
    assert "status: completed" in printed


def test_there_are_programs_to_run() -> None:
    assert {"job.py", "thousand.py", "counter.py"} <= {name for _, name in PROGRAMS}


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_all_python_in_pages_can_be_parsed(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "python":
            assert ast.parse(block.text, f"{name_of(page)}:{block.line}").body


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_options_of_blocks_are_known_and_outputs_have_a_program(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8")):
        assert block.options.keys() <= {"file", "run", "output"}, block.line
        if "output" in block.options:
            assert block.options["output"] in programs(page), block.line
