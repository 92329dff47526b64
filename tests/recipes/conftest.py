"""What the recipe tests share: a folder with a script, recipes on it, and commands."""

from __future__ import annotations

import hashlib
import json
import os
import select
import subprocess
import sys
import textwrap
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covey.recipes import FedAvgRecipe, Run, SimEnv

#: Bounds every wait of a test; nothing here takes a tenth of it.
GUARD_S = 60.0

#: Adds noise from its own random state; notes its process and its template; `BODY` comes in each
#: round. `reach(name)` tells the test that this line is reached, then waits to be killed.
CLIENT = """
import os
import signal
import sys
from pathlib import Path

import numpy as np
import covey.client as flare

FOLDER = Path(__file__).parent


def reach(name):
    if (FOLDER / name).exists():
        (FOLDER / name).write_text(f"{os.getpid()}\\n")
        while True:
            signal.pause()


flare.init()
site = flare.get_site_name()
with open(FOLDER / f"{site}.pids", "a") as file:
    file.write(f"{os.getpid()} {os.getppid()}\\n")
while flare.is_running():
    model = flare.receive()
    round = model.current_round
    params = {
        name: value + np.random.standard_normal(value.shape).astype(value.dtype)
        for name, value in model.params.items()
    }
    metrics = {"accuracy": float(round)}
    meta = {"NUM_STEPS_CURRENT_ROUND": int(site[-1])}
    kind = flare.ParamsType.FULL
BODY
    flare.send(flare.FLModel(params=params, params_type=kind, metrics=metrics, meta=meta))
"""

JOB = """
import sys
import numpy as np
from covey.recipes import FedAvgRecipe, SimEnv

recipe = FedAvgRecipe(**({"name": "job", "initial_model": {"w": np.zeros(4, np.float32)},
    "num_rounds": 3, "train_script": "client.py"} | dict(RECIPE)))
run = recipe.execute(SimEnv(num_clients=3, seed=5, ENV))
print("torch" in sys.modules, run.get_status(), run.get_result())
"""


@dataclass
class Lab:
    """A folder, and runs in it."""

    folder: Path
    _processes: list[subprocess.Popen[str]] = field(default_factory=list["subprocess.Popen[str]"])

    def client(self, body: str = "pass", text: str = CLIENT) -> Path:
        """Write `client.py` with lines for each round."""
        lines = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
        path = self.folder / "client.py"
        path.write_text(text.replace("BODY", lines))
        return path

    def recipe(self, **settings: Any) -> FedAvgRecipe:
        """A recipe of three rounds on two small arrays, with changes."""
        given: dict[str, Any] = {
            "name": "job",
            "initial_model": {"w": np.arange(6, dtype=np.float32), "b": np.ones(2, np.float64)},
            "num_rounds": 3,
        }
        if "train" not in settings:
            given["train_script"] = self.folder / "client.py"
        return FedAvgRecipe(**(given | settings))

    def env(self, clients: int = 3, **settings: Any) -> SimEnv:
        """A silent environment with its runs in this folder."""
        given: dict[str, Any] = {"seed": 5, "workspace": self.folder / "runs", "progress": False}
        return SimEnv(clients, **(given | settings))

    # Commands --------------------------------------------------------------

    def job(self, recipe: str = "", env: str = "") -> None:
        """Write `job.py`."""
        text = JOB.replace("RECIPE", recipe).replace("ENV", env)
        (self.folder / "job.py").write_text(text)

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        """Start `python job.py`."""
        process = subprocess.Popen(
            [sys.executable, *(args or ("job.py",))],
            cwd=self.folder,
            env=_environment() | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self._processes.append(process)
        return process

    def run(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `python job.py` to its end."""
        process = self.start(*args, **env)
        out, err = process.communicate(timeout=GUARD_S)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def fifo(self, name: str) -> int:
        """Make a place for `reach(name)`; gives a descriptor for `reached`."""
        os.mkfifo(self.folder / name)
        return os.open(self.folder / name, os.O_RDONLY | os.O_NONBLOCK)

    def reached(self, fd: int, name: str) -> int:
        """Wait until a script gets there; gives its process id. It stays there."""
        ready, _, _ = select.select([fd], [], [], GUARD_S)
        assert ready, f"no script came to {name}"
        pid = int(os.read(fd, 100).split()[0])
        os.close(fd)
        (self.folder / name).unlink()
        return pid

    def kill_at(self, name: str) -> None:
        """Run `job.py` and kill it with SIGKILL when a script reaches `name`."""
        fd = self.fifo(name)
        process = self.start()
        self.reached(fd, name)
        process.kill()
        process.communicate(timeout=GUARD_S)

    def clean_up(self) -> None:
        """End what a failing test left behind."""
        for process in self._processes:
            process.kill()
            if process.stdout is not None and not process.stdout.closed:
                process.communicate(timeout=GUARD_S)

    # What is left ----------------------------------------------------------

    def check_no_process_left(self) -> None:
        """Every script's process, and its template, ends within a moment."""
        pids = {int(pid) for file in self.folder.glob("*.pids") for pid in file.read_text().split()}
        for pid in pids - {os.getpid(), os.getppid()}:  # an inline script is the test itself
            _wait_gone(pid)

    def folders(self) -> list[Path]:
        """All run folders, the oldest first."""
        return sorted(path.parent for path in self.folder.rglob("config.json"))

    def folder_of(self) -> Path:
        """The only run's folder."""
        (folder,) = self.folders()
        return folder


def _environment() -> dict[str, str]:
    unset = ("COVEY_FRESH", "COVEY_WORKSPACE", "PYTHONPATH")
    return {name: value for name, value in os.environ.items() if name not in unset}


def _wait_gone(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended, _, _ = select.select([pidfd], [], [], GUARD_S)
    os.close(pidfd)
    assert ended, f"process {pid} is still there"


def summary_of(folder: Path) -> dict[str, Any]:
    """The run's summary."""
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def digest_of(run: Run | Path, name: str = "model.safetensors") -> str:
    """Digest of a run's model file."""
    folder = run if isinstance(run, Path) else run.get_result()
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


@contextmanager
def lab_in(folder: Path) -> Generator[Lab]:
    """A lab in an empty folder, which ends what is left in the end."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("COVEY_FRESH", "COVEY_WORKSPACE"):
            patch.delenv(name, raising=False)
        lab = Lab(folder)
        try:
            yield lab
        finally:
            lab.clean_up()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A lab of the test's own."""
    with lab_in(tmp_path) as lab:
        yield lab
