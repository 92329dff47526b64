"""The installed package, used as a user would: from an empty folder, without its sources."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its output is text."""
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=110, check=False
    )


def covey(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the installed `covey` command."""
    return run(str(Path(sys.executable).with_name("covey")), *args, cwd=cwd)


def test_every_room_can_be_imported(tmp_path: Path) -> None:
    rooms = ("transport", "algorithms", "client", "actors.runtime", "recipes", "cli.main")
    code = "; ".join(f"import covey.{room}" for room in rooms)
    done = run(sys.executable, "-c", f"{code}; print('ok')", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


def test_a_new_job_runs(tmp_path: Path) -> None:
    made = covey("new", "demo", "--template", "numpy", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    done = covey("run", "job.py", "--rounds", "2", "--json", cwd=tmp_path / "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["status"] == "completed"
    listed = covey("runs", "--json", cwd=tmp_path / "demo")
    assert "completed" in listed.stdout
    report = covey("report", cwd=tmp_path / "demo")
    assert (tmp_path / "demo" / report.stdout.strip()).is_file(), report.stderr


def test_the_version_is_told(tmp_path: Path) -> None:
    done = covey("--version", cwd=tmp_path)
    assert done.returncode == 0
    assert "0.1.0" in done.stdout
