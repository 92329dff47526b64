"""A run that was killed goes on: server optimizers remember, and asynchronous training too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from numpy.testing import assert_allclose
from safetensors import numpy as files

from covey.actors.observe.chronicle import Chronicle

JOB = """
import os
import signal
import sys

import numpy as np

from covey.actors.roles import asynchronous
from covey.algorithms import SGD, Adam, TorchOptimizer
from covey.recipes import FedBuffRecipe, FedOptRecipe, Fixed, LogNormal, SimEnv


def train(params, ctx):
    kill_at = int(os.environ["KILL_AT"])
    if ctx.site == "site-2" and 0 <= kill_at <= ctx.round:
        os.kill(os.getpid(), signal.SIGKILL)
    return {name: value * 0.9 + ctx.rng.normal(size=value.shape) for name, value in params.items()}


def half(step):
    return 0.5**step


def adam(params, lr):
    import torch

    return torch.optim.Adam(params, lr=lr)


def falling(optimizer):
    import torch

    return torch.optim.lr_scheduler.LambdaLR(optimizer, half)


common = {"initial_model": {"w": np.zeros((50, 3))}, "train": train, "num_rounds": 8}
if sys.argv[1] == "fedopt":
    run = FedOptRecipe(optimizer=Adam(lr=0.1), **common).execute(SimEnv(4, seed=3))
elif sys.argv[1] == "torch":
    optimizer = TorchOptimizer(adam, {"lr": 0.1}, scheduler=falling)
    run = FedOptRecipe(optimizer=optimizer, **common).execute(SimEnv(4, seed=3))
elif sys.argv[1] == "fedbuff of torch":
    asynchronous.COMMIT_EVERY_S = 0.0
    optimizer = TorchOptimizer(adam, {"lr": 0.1}, scheduler=falling)
    # As fast as each other, a version of all: what is trained again after a kill is the same.
    recipe = FedBuffRecipe(buffer_size=4, optimizer=optimizer, **common)
    run = recipe.execute(SimEnv(4, seed=3, durations=Fixed()))
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


def model_in(folder: Path) -> bytes:
    return (folder_of(folder) / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """The model of a run of a kind that nothing kills, which is made once."""

    @cache
    def made(kind: str) -> bytes:
        folder = tmp_path_factory.mktemp("whole")
        assert run(folder, kind).returncode == 0
        return model_in(folder)

    return made


@pytest.mark.parametrize(("kind", "kill_at"), [("fedopt", n) for n in (0, 1, 5)] + [("torch", 5)])
def test_a_server_optimizer_goes_on_to_the_same_model(
    tmp_path: Path, whole: Callable[[str], bytes], kind: str, kill_at: int
) -> None:
    assert run(tmp_path, kind, kill_at).returncode == -signal.SIGKILL
    again = run(tmp_path, kind)
    assert f"resuming an unfinished run at round {kill_at}" in again.stdout
    assert model_in(tmp_path) == whole(kind)


@pytest.mark.parametrize("kill_at", [0, 5])
def test_asynchronous_training_goes_on_from_its_last_version(tmp_path: Path, kill_at: int) -> None:
    assert run(tmp_path, "fedbuff", kill_at).returncode == -signal.SIGKILL
    again = run(tmp_path, "fedbuff")
    assert again.returncode == 0, again.stderr
    assert "resuming an unfinished run" in again.stdout
    assert "status: completed, 8 versions" in again.stdout
    assert (folder_of(tmp_path) / "model.safetensors").is_file()


def test_asynchronous_training_remembers_a_torch_optimizer(tmp_path: Path) -> None:
    models: list[npt.NDArray[np.float64]] = []
    for name, kill_at in (("whole", -1), ("killed", 5)):
        (tmp_path / name).mkdir()
        done = run(tmp_path / name, "fedbuff of torch", kill_at)
        if kill_at >= 0:
            assert done.returncode == -signal.SIGKILL
            done = run(tmp_path / name, "fedbuff of torch")
            assert f"resuming an unfinished run at version {kill_at}" in done.stdout
        assert done.returncode == 0, done.stderr
        blob = (folder_of(tmp_path / name) / "model.safetensors").read_bytes()
        models.append(files.load(blob)["w"])
    # All but the last bits, which depend on who was first.
    assert_allclose(models[0], models[1], rtol=1e-9, atol=1e-12)


ROWS_JOB = """
import os
import signal
import sys
import time

import numpy as np

from covey.actors.roles import asynchronous
from covey.recipes import FedBuffRecipe, LogNormal, SimEnv

size, kind, kill_after = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
asynchronous.COMMIT_EVERY_S = 0.0 if kind == "virtual" else 0.02
calls = 0


def train(params, ctx):
    global calls
    calls += 1
    if calls == kill_after:
        os.kill(os.getpid(), signal.SIGKILL)
    params["w"] += 1
    return params, {"accuracy": 0.5}


durations = LogNormal() if kind == "virtual" else None
recipe = FedBuffRecipe(
    initial_model={"w": np.zeros(size)}, train=train, num_rounds=40, buffer_size=3
)
run = recipe.execute(SimEnv(5, seed=3, durations=durations, num_threads=3))
"""


@pytest.mark.parametrize("kind", ["virtual", "real"])
@pytest.mark.parametrize("size", [10, 530_000], ids=["small", "made in threads"])
@pytest.mark.parametrize("kill_after", [20, 71])
def test_every_update_that_counts_has_one_row_after_a_kill(
    tmp_path: Path, kind: str, size: int, kill_after: int
) -> None:
    """Whatever was trained and lost, in a version or waiting for one, is trained again."""
    script = tmp_path / "job.py"
    script.write_text(ROWS_JOB)
    env = os.environ | {"COVEY_WORKSPACE": str(tmp_path / "runs")}

    def start(kill_after: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), str(size), kind, str(kill_after)]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)

    assert start(kill_after).returncode == -signal.SIGKILL
    again = start(-1)
    assert again.returncode == 0, again.stderr
    assert "resuming an unfinished run" in again.stdout
    folder = folder_of(tmp_path)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    updates = [row for row in rows if row["site"] != "global"]
    told = json.loads((folder / "summary.json").read_text())
    assert told["updates"] >= 40 * 3
    assert len(updates) == told["updates"] + told["dropped"]
    assert Chronicle(folder).staleness.total() == len(updates)
    versions = [row["round"] for row in rows if row["site"] == "global"]
    assert len(set(versions)) == len(versions)
