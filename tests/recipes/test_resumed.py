"""A run that was killed goes on: server optimizers remember, and asynchronous training too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

JOB = """
import os
import signal
import sys

import numpy as np

from covey.algorithms import SGD, Adam
from covey.recipes import FedBuffRecipe, FedOptRecipe, LogNormal, SimEnv


def train(params, ctx):
    kill_at = int(os.environ["KILL_AT"])
    if ctx.site == "site-2" and 0 <= kill_at <= ctx.round:
        os.kill(os.getpid(), signal.SIGKILL)
    return {name: value * 0.9 + ctx.rng.normal(size=value.shape) for name, value in params.items()}


common = {"initial_model": {"w": np.zeros((50, 3))}, "train": train, "num_rounds": 8}
if sys.argv[1] == "fedopt":
    run = FedOptRecipe(optimizer=Adam(lr=0.1), **common).execute(SimEnv(4, seed=3))
else:
    recipe = FedBuffRecipe(buffer_size=2, optimizer=SGD(0.9, momentum=0.5), **common)
    run = recipe.execute(SimEnv(4, seed=3, durations=LogNormal()))
print(run.get_status())
"""


def run(folder: Path, kind: str, kill_at: int = -1) -> subprocess.CompletedProcess[str]:
    script = folder / "job.py"
    script.write_text(JOB)
    env = os.environ | {"KILL_AT": str(kill_at), "COVEY_WORKSPACE": str(folder / "runs")}
    command = [sys.executable, str(script), kind]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)


def folder_of(folder: Path) -> Path:
    (found,) = (path for path in (folder / "runs").glob("*/*") if path.is_dir())
    return found


@pytest.mark.parametrize("kill_at", [0, 1, 5])
def test_a_server_optimizer_goes_on_to_the_same_model(tmp_path: Path, kill_at: int) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    assert run(tmp_path / "whole", "fedopt").returncode == 0
    assert run(tmp_path / "killed", "fedopt", kill_at).returncode == -signal.SIGKILL
    again = run(tmp_path / "killed", "fedopt")
    assert f"resuming an unfinished run at round {kill_at}" in again.stdout
    models = [
        (folder_of(tmp_path / name) / "model.safetensors").read_bytes()
        for name in ("whole", "killed")
    ]
    assert models[0] == models[1]


@pytest.mark.parametrize("kill_at", [0, 5])
def test_asynchronous_training_goes_on_from_its_last_version(tmp_path: Path, kill_at: int) -> None:
    assert run(tmp_path, "fedbuff", kill_at).returncode == -signal.SIGKILL
    again = run(tmp_path, "fedbuff")
    assert again.returncode == 0, again.stderr
    assert "resuming an unfinished run" in again.stdout
    assert "status: completed, 8 rounds" in again.stdout
    assert (folder_of(tmp_path) / "model.safetensors").is_file()
