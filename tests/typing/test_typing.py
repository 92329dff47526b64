"""The public names as mypy and pyright see them: a right program passes, each mistake is found."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def marked() -> set[int]:
    """The lines of the mistaken program that must be errors."""
    lines = (HERE / "mistakes_program.py").read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if "# MISTAKE" in line}


def mypy(*files: str) -> dict[str, set[int]]:
    """Lines with errors by file name."""
    bases = ("--namespace-packages", "--explicit-package-bases")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "mypy.ini", *bases, *files],
        cwd=HERE,
        env=os.environ | {"MYPYPATH": f"{ROOT / '.links'}:{HERE}"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: dict[str, set[int]] = {}
    for name, line in re.findall(r"^([\w.]+):(\d+): error", done.stdout, re.MULTILINE):
        found.setdefault(name, set()).add(int(line))
    return found


def pyright(tmp_path: Path, *files: str) -> dict[str, set[int]]:
    """Lines with errors by file name."""
    settings = {
        "include": list(files),
        "extraPaths": [str(ROOT / ".links")],
        "typeCheckingMode": "strict",
    }
    for file in files:
        shutil.copyfile(HERE / file, tmp_path / file)
    project = tmp_path / "pyrightconfig.json"
    project.write_text(json.dumps(settings))
    options = ("-p", str(project), "--pythonpath", sys.executable)
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", *options],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    found: dict[str, set[int]] = {}
    for item in json.loads(done.stdout)["generalDiagnostics"]:
        if item["severity"] == "error":
            name = Path(item["file"]).name
            found.setdefault(name, set()).add(item["range"]["start"]["line"] + 1)
    return found


@pytest.mark.timeout(600)
def test_mypy_finds_exactly_the_planted_mistakes() -> None:
    found = mypy("user_program.py", "mistakes_program.py")
    assert found == {"mistakes_program.py": marked()}


@pytest.mark.timeout(600)
def test_pyright_finds_exactly_the_planted_mistakes(tmp_path: Path) -> None:
    found = pyright(tmp_path, "user_program.py", "mistakes_program.py")
    assert found == {"mistakes_program.py": marked()}
