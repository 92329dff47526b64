"""covey run: what it prints, its exit codes, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COVEY = Path(sys.executable).with_name("covey")

CLIENT = """
import sys
import numpy as np
import covey.client as flare

flare.init()
while flare.is_running():
    model = flare.receive()
    print("torch" in sys.modules)
    {body}
    params = {{name: np.array(value) + 1 for name, value in model.params.items()}}
    flare.send(flare.FLModel(params=params, metrics={{"accuracy": float(model.current_round)}}))
"""

JOB = """
import numpy as np
from covey.recipes import FedAvgRecipe, SimEnv

recipe = FedAvgRecipe(
    name="tiny", initial_model={{"w": np.zeros(3)}}, num_rounds=2, train_script="client.py", {more}
)
{env}
"""

BY_FUNCTION = """
import numpy as np
from covey.recipes import FedAvgRecipe

def train(params, ctx):
    return {"w": params["w"] + 1}, {"accuracy": ctx.round / 10}

recipe = FedAvgRecipe(name="tiny", initial_model={"w": np.zeros(3)}, train=train)
"""


def command(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COVEY), "run", *args],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def environment() -> dict[str, str]:
    unset = ("COVEY_FRESH", "COVEY_WORKSPACE")
    return {name: value for name, value in os.environ.items() if name not in unset}


def write(folder: Path, body: str = "", more: str = "", env: str = "") -> None:
    (folder / "client.py").write_text(CLIENT.format(body=body or "pass"))
    (folder / "job.py").write_text(JOB.format(more=more, env=env))


def summaries(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob("covey_runs/*/*/summary.json"))
    return [json.loads(path.read_text()) for path in paths]


def test_a_run_ends_with_its_status_and_its_folder(tmp_path: Path) -> None:
    write(tmp_path, env="env = SimEnv(num_clients=2, seed=4)")
    done = command(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "tiny: 2 sites, 2 rounds, seed 4"
    assert [line.split("  ")[:2] for line in lines[1:3]] == [
        ["round 0", "2 ok"],
        ["round 1", "2 ok"],
    ]
    (folder,) = tmp_path.glob("covey_runs/tiny/*")
    assert f"result: {folder.relative_to(tmp_path)}" in lines
    assert any(line.startswith("status: completed, 2 rounds") for line in lines)
    assert len(lines) <= 8


def test_a_numpy_job_and_its_clients_never_import_torch(tmp_path: Path) -> None:
    write(tmp_path)
    job = tmp_path / "job.py"
    job.write_text(
        "import atexit, sys\n"
        "atexit.register(lambda: print('torch in main:', 'torch' in sys.modules))\n"
        + job.read_text()
    )
    done = command(tmp_path)
    assert "torch in main: False" in done.stdout
    logs = list(tmp_path.glob("covey_runs/tiny/*/logs/site-*.log"))
    assert len(logs) == 2
    assert {line for log in logs for line in log.read_text().splitlines()} == {"False"}


def test_the_template_process_is_up_before_the_job_file_is_imported(tmp_path: Path) -> None:
    write(tmp_path)
    job = tmp_path / "job.py"
    job.write_text(
        "import os\n"
        "def command_line(pid):\n"
        "    while not (text := open(f'/proc/{pid}/cmdline').read()):\n"
        "        pass  # the kernel is still putting it in place\n"
        "    return text\n"
        "children = open(f'/proc/self/task/{os.getpid()}/children').read().split()\n"
        "print('children:', [command_line(pid) for pid in children])\n" + job.read_text()
    )
    done = command(tmp_path)
    assert "covey.actors.jobs.launchers.template" in done.stdout.splitlines()[0]
    assert done.returncode == 0


def test_options_change_what_the_file_says(tmp_path: Path) -> None:
    write(tmp_path, env="env = SimEnv(num_clients=2, seed=4)")
    args = ["--clients", "3", "--rounds", "1", "--seed", "9", "--threads", "1", "--workspace", "w"]
    done = command(tmp_path, "job.py", *args, "--isolation", "inline")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "tiny: 3 sites, 1 round, seed 9"
    (config,) = tmp_path.glob("w/tiny/*/config.json")
    environment: dict[str, Any] = json.loads(config.read_text())["environment"]
    assert (environment["num_threads"], environment["isolation"]) == (1, "inline")


def test_verbose_shows_what_scripts_print(tmp_path: Path) -> None:
    write(tmp_path, body="print('hello from', flare.get_site_name())")
    done = command(tmp_path, "--verbose")
    assert "[site-2] hello from site-2" in done.stdout.splitlines()


def test_a_recipe_by_function_needs_no_script(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(BY_FUNCTION)
    done = command(tmp_path, "other.py", "--clients", "50")
    assert (done.returncode, done.stderr) == (0, "")
    assert "50 ok" in done.stdout


def test_json_is_one_object_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(BY_FUNCTION)
    done = command(tmp_path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    outcome: dict[str, Any] = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert (outcome["status"], outcome["rounds"]) == ("completed", 2)
    assert (Path(outcome["folder"]) / outcome["model"]).is_file()
    assert summaries(tmp_path) == [{k: v for k, v in outcome.items() if k != "folder"}]


def test_a_script_that_raises_is_told_with_its_own_file_and_line_last_and_once(
    tmp_path: Path,
) -> None:
    body = (
        "if model.current_round == 1 and flare.get_site_name() == 'site-2': raise ValueError('oh')"
    )
    write(tmp_path, body=body)
    done = command(tmp_path)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert "ValueError: oh" in done.stderr
    assert lines[-2:] == [f'  File "{tmp_path / "client.py"}", line 10', f"    {body}"]
    assert (done.stdout + done.stderr).count("line 10") == 1
    assert "Traceback" not in done.stderr
    assert "status: failed" in done.stdout
    assert [summary["status"] for summary in summaries(tmp_path)] == ["failed"]


def test_a_failed_run_has_its_json_too(tmp_path: Path) -> None:
    write(tmp_path, body="1 / 0")
    done = command(tmp_path, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["status"] == "failed"
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize(
    ("more", "env", "told"),
    [
        ("min_clients=5,", "", "min_clients: 5, but there are 2 clients"),
        ("num_runds=5,", "", "did you mean 'num_rounds'?"),
        ("", "recipe = 3", "`recipe` is of type int"),
        ("", "env = 'prod'", "`env` is a str"),
    ],
)
def test_what_cannot_work_is_told_before_anything_runs(
    tmp_path: Path, more: str, env: str, told: str
) -> None:
    write(tmp_path, more=more, env=env)
    done = command(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "covey_runs").exists()


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--seed", "-1", "seed: -1; must be a whole number of at least 0"),
        ("--seed", str(2**63), "must be less than 2**63"),
        ("--clients", "0", "clients"),
    ],
)
def test_an_option_is_checked_as_the_setting_is(
    tmp_path: Path, option: str, value: str, told: str
) -> None:
    (tmp_path / "job.py").write_text(BY_FUNCTION)
    done = command(tmp_path, option, value)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "covey_runs").exists()


def test_a_module_that_the_script_misses_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    client = tmp_path / "client.py"
    client.write_text("import covey_has_no_such_module\n" + client.read_text())
    done = command(tmp_path)
    assert done.returncode == 2
    assert "covey_has_no_such_module" in done.stderr
    assert "client.py" in done.stderr


def test_ctrl_c_ends_everything_and_the_same_command_resumes(tmp_path: Path) -> None:
    body = (
        "import os, time\n"
        "    while model.current_round == 1 and not os.path.exists('go'): time.sleep(0.01)"
    )
    write(tmp_path, body=body)
    process = subprocess.Popen(
        [str(COVEY), "run"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("round 0"):
            break
    below = children_of(process.pid)
    assert below
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted; run the same command again to resume" in errors
    assert "Traceback" not in errors
    assert [pid for pid in below if alive(pid)] == []

    (tmp_path / "go").touch()
    done = command(tmp_path)
    assert done.returncode == 0
    first = done.stdout.splitlines()[0]
    assert first == "resuming an unfinished run at round 1 (--fresh starts over)"
    assert [summary["rounds"] for summary in summaries(tmp_path)] == [2]


def test_fresh_starts_over(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(BY_FUNCTION)
    assert command(tmp_path).returncode == 0
    (summary,) = tmp_path.glob("covey_runs/tiny/*/summary.json")
    summary.unlink()  # as a run that was cut off
    done = command(tmp_path, "--fresh")
    assert "resuming" not in done.stdout
    assert len(list(tmp_path.glob("covey_runs/tiny/*"))) == 2


def children_of(pid: int) -> list[int]:
    """Processes below a process, at any depth."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [found for child in children for found in (int(child), *children_of(int(child)))]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
