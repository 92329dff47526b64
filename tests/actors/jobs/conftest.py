"""What the launcher tests share: a bench with a model, scripts, and one of each launcher."""

from __future__ import annotations

import os
import select
import textwrap
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest

from covey.actors.jobs.launchers.fork import ForkLauncher, Template
from covey.actors.jobs.launchers.inline import InlineLauncher
from covey.actors.jobs.launchers.script import Launcher, Outcome, Script, ScriptSettings
from covey.actors.jobs.launchers.spawn import SpawnLauncher
from covey.algorithms.tensors import Layout, Packer, load_initial
from covey.client.messages import Metric, ModelKind, Task, TaskName

LauncherKind = Literal["fork", "spawn", "inline"]

LOOP = """
    import {imports}
    import covey.client as flare
    flare.init()
    while flare.is_running():
        model = flare.receive()
        {work}
        flare.send(model)
    {after}
"""


@dataclass
class Bench:
    """A folder with a model of eight zeros in two tensors, and ways to run scripts on it."""

    folder: Path
    layout: Layout
    model: Path
    metrics: list[Metric] = field(default_factory=list[Metric])
    shown: list[str] = field(default_factory=list[str])

    def script(self, text: str, name: str = "client.py") -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(textwrap.dedent(text))
        return path

    def loop(self, work: str, imports: str = "os, signal, time", after: str = "") -> Path:
        """A script that does `work` on each model it receives, and something after the last."""
        return self.script(LOOP.format(imports=imports, work=work, after=after))

    def settings(
        self,
        script: Path,
        site: str = "site-1",
        *,
        kind: ModelKind = "numpy",
        env: Mapping[str, str] | None = None,
        args: tuple[str, ...] = (),
        echo: str | None = None,
        torch_threads: int = 1,
        gpus: tuple[int, ...] = (),
        exclude: tuple[str, ...] = (),
    ) -> ScriptSettings:
        return ScriptSettings(
            site=site,
            job_id="job-1",
            script=script,
            cwd=self.folder,
            env=os.environ if env is None else env,
            log=self.log(site),
            seed=7,
            kind=kind,
            args=args,
            echo=echo,
            torch_threads=torch_threads,
            gpus=gpus,
            exclude=exclude,
            config={"lr": 0.5},
        )

    def log(self, site: str = "site-1") -> Path:
        return self.folder / f"{site}.log"

    def task(self, round: int = 0, name: TaskName = "train") -> Task:
        return Task(name, round, 3, str(self.model), self.layout.size)

    def arrays(self, outcome: Outcome) -> dict[str, npt.NDArray[np.float32]]:
        assert outcome.blob is not None
        with outcome.blob as blob:
            return Packer(self.layout, "numpy").unpack(bytearray(blob.buffer))

    @asynccontextmanager
    async def launcher(self, kind: LauncherKind) -> AsyncGenerator[Launcher]:
        launcher = self._launcher(kind)
        try:
            yield launcher
        finally:
            await launcher.close()

    @asynccontextmanager
    async def running(self, kind: LauncherKind, settings: ScriptSettings) -> AsyncGenerator[Script]:
        async with self.launcher(kind) as launcher:
            yield await launcher.start(settings, self.metrics.append)

    def _launcher(self, kind: LauncherKind) -> Launcher:
        if kind == "fork":
            return ForkLauncher(Template.launch(["numpy"]), self.shown.append)
        if kind == "spawn":
            return SpawnLauncher(["numpy"], self.shown.append)
        return InlineLauncher(["numpy"], self.shown.append)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


def make_bench(folder: Path) -> Bench:
    state = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.float32)}
    initial = load_initial(state)
    model = folder / "model.safetensors"
    fd = os.open(model, os.O_CREAT | os.O_WRONLY)
    initial.write(fd)
    os.close(fd)
    return Bench(folder, initial.layout, model)


@pytest.fixture
def alive() -> Callable[[int], bool]:
    """Whether a process exists and is no zombie."""

    def check(pid: int) -> bool:
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return status.rpartition(")")[2].split()[0] != "Z"

    return check


@pytest.fixture
def gone() -> Callable[[int], None]:
    """Wait, bounded, until a process that is no child of this one has ended."""

    def wait(pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        ended, _, _ = select.select([pidfd], [], [], 10)
        os.close(pidfd)
        assert ended, f"process {pid} is still there"

    return wait
