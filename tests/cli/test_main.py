"""Help, version and completion answer at once and load nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COVEY = Path(sys.executable).with_name("covey")


def covey(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COVEY), *args],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100", **env},
    )


@pytest.mark.parametrize("args", [["--help"], ["run", "--help"], ["--version"], ["new", "-h"]])
def test_help_loads_neither_torch_nor_numpy_nor_asyncio_nor_rich(args: list[str]) -> None:
    code = (
        "import sys\n"
        "from covey.cli.main import app\n"
        f"try: app({args!r})\n"
        "except SystemExit as error: assert error.code == 0, error.code\n"
        "heavy = ['torch', 'numpy', 'asyncio', 'covey.recipes', 'rich.console']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", [[], ["new"], ["run"], ["runs"], ["report"]])
def test_each_help_has_an_example_and_the_exit_codes(command: list[str]) -> None:
    done = covey(*command, "--help")
    assert done.returncode == 0
    assert "Example:\n    covey" in done.stdout
    for code in ("0 completed", "1 failed", "2 wrong usage", "130 interrupted"):
        assert code in " ".join(done.stdout.split())
    assert "\x1b" not in done.stdout


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert covey("--version").stdout == f"covey {version('covey')}\n"


@pytest.mark.parametrize("args", [["fly"], ["run", "--clients", "0"], ["new"], ["runs", "--x"]])
def test_wrong_usage_has_its_own_exit_code_and_no_traceback(args: list[str]) -> None:
    done = covey(*args)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_the_shell_is_given_completions() -> None:
    done = covey(_COVEY_COMPLETE="complete_bash", COMP_WORDS="covey ru", COMP_CWORD="1")
    assert done.stdout.split() == ["run", "runs"]
