"""Clients that use torch: many from one template, and the same bits by every launcher."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import numpy as np
import pytest

from covey.actors.jobs.launchers.fork import (
    FORK_IS_SAFE,
    ForkLauncher,
    Template,
)

if TYPE_CHECKING:
    from tests.actors.jobs.conftest import Bench

pytestmark = pytest.mark.skipif(not FORK_IS_SAFE, reason="fork is not safe on this system")


TORCH = """
    import argparse
    import torch
    from torch import nn
    import covey.client as flare
    from covey.client.tracking import SummaryWriter

    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float)
    args = parser.parse_args()
    net = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=args.lr)
    start = float(net.weight.sum())
    writer = SummaryWriter()
    flare.init()
    while flare.is_running():
        model = flare.receive()
        net.load_state_dict({"weight": model.params["w"], "bias": model.params["b"]})
        x, y = torch.randn(8, 3), torch.randint(0, 2, (8,))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        writer.add_scalar("loss", loss, global_step=model.current_round)
        params = {"w": net.weight, "b": net.bias.detach().numpy()}
        flare.send(flare.FLModel(
            params=params, metrics={"loss": loss},
            meta={"threads": torch.get_num_threads(), "start": start, "draw": torch.rand(())},
        ))
"""


def test_thirty_two_torch_clients_run_from_one_template_and_leave_nothing(bench: Bench) -> None:
    path = bench.script(TORCH)
    shared = set(os.listdir("/dev/shm"))

    async def main() -> list[int | None]:
        launcher = ForkLauncher(Template.launch(["torch", "torch:nn"]))
        settings = [
            bench.settings(
                path, f"site-{n}", kind="torch", args=("--lr", "0.1"), torch_threads=1 + n % 2
            )
            for n in range(32)
        ]
        scripts = [await launcher.start(one, bench.metrics.append) for one in settings]
        pids = [script.pid for script in scripts]
        starts: set[object] = set()
        for round in range(2):
            outcomes = await asyncio.gather(*(s.run(bench.task(round)) for s in scripts))
            draws = {outcome.answer.meta["draw"] for outcome in outcomes}
            assert len(draws) == 32
            starts = {outcome.answer.meta["start"] for outcome in outcomes}
            assert [o.answer.meta["threads"] for o in outcomes] == [1 + n % 2 for n in range(32)]
            for outcome in outcomes:
                assert np.any(bench.arrays(outcome)["w"] != 0)
        assert len(starts) == 32
        assert set(await asyncio.gather(*(s.stop(20) for s in scripts))) == {None}
        await launcher.close()
        return [*pids, launcher.template.pid]

    for pid in asyncio.run(main()):
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert len(bench.metrics) == 64
    assert set(os.listdir("/dev/shm")) <= shared


def test_torch_gives_the_same_bits_by_every_launcher(bench: Bench) -> None:
    bench.script(TORCH)
    program = bench.folder / "compare.py"
    program.write_text(textwrap.dedent(COMPARE))
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fork, spawn, inline = done.stdout.split()
    assert fork == spawn
    assert fork == inline


COMPARE = """
    import asyncio, os
    from pathlib import Path
    import torch
    from covey.actors.jobs.launchers.fork import ForkLauncher, Template
    from covey.actors.jobs.launchers.inline import InlineLauncher
    from covey.actors.jobs.launchers.script import ScriptSettings
    from covey.actors.jobs.launchers.spawn import SpawnLauncher
    from covey.client.messages import Task

    folder = Path(__file__).parent
    model = folder / "model.safetensors"
    kinds = {
        "fork": lambda: ForkLauncher(Template.launch(["torch"])),
        "spawn": lambda: SpawnLauncher(["torch"]),
        "inline": lambda: InlineLauncher(["torch"]),
    }

    async def digest(kind):
        launcher = kinds[kind]()
        settings = ScriptSettings(
            "site-1", "job", folder / "client.py", folder, os.environ, folder / "log", 3, "torch",
            args=("--lr", "0.1"))
        script = await launcher.start(settings, lambda metric: None)
        found = b""
        for round in range(3):
            outcome = await script.run(Task("train", round, 3, str(model), model.stat().st_size))
            found += bytes(outcome.blob.buffer) + repr(outcome.answer).encode()
            outcome.blob.close()
        assert await script.stop(20) is None
        await launcher.close()
        return hash(found)

    torch.rand(7)
    torch.set_num_threads(2)
    for kind in kinds:
        print(asyncio.run(digest(kind)))
    assert torch.get_num_threads() == 2
"""
