"""Fifty rounds, and what is resident after each: `python job.py script|function CLIENTS`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from covey.recipes import EventKind, FedAvgRecipe, SimEnv, TrainContext

ROUNDS = 50
SCRIPT = Path(__file__).parent.parent / "torch" / "client.py"
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def train(params: dict[str, torch.Tensor], ctx: TrainContext) -> Any:
    """Add a constant."""
    return {name: value + ctx.rng.random() for name, value in params.items()}, {"loss": 0.5}


def resident(pid: str) -> int:
    """Resident bytes of a process, 0 if it is gone."""
    try:
        return int(Path("/proc", pid, "statm").read_text().split()[1]) * PAGE_BYTES
    except OSError:
        return 0


def descendants(pid: str) -> list[str]:
    """Processes below one: the template and its clients."""
    try:
        children = Path("/proc", pid, "task", pid, "children").read_text().split()
    except OSError:
        return []
    return children + [below for child in children for below in descendants(child)]


async def main() -> None:
    """Run, and look at the processes after each round."""
    model = nn.Sequential(*(nn.Linear(*sizes) for sizes in pairwise((10, 46, 40, 34, 4))))
    how: dict[str, Any] = {"train_script": SCRIPT} if sys.argv[1] == "script" else {"train": train}
    recipe = FedAvgRecipe(
        name="rounds", initial_model=model, num_rounds=ROUNDS, key_metric="loss", **how
    )
    run = await recipe.start(SimEnv(int(sys.argv[2]), progress=False))
    sizes: dict[str, list[int]] = {"command": []}
    async for event in run.events():
        if event.kind is EventKind.ROUND_FINISHED:
            sizes["command"].append(resident(str(os.getpid())))
            below = descendants(str(os.getpid()))
            if below:
                sizes.setdefault("all other processes", []).append(sum(map(resident, below)))
    await run.wait()
    sys.stdout.write(json.dumps(sizes) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
