"""covey by function: `python function.py`; for "tasks" it also writes the seconds of each round."""

from __future__ import annotations

import asyncio
import json
import threading
from itertools import pairwise
from typing import Any

import torch

from benchmarks.peers.work import cnn
from benchmarks.peers.work.settings import Work
from covey.recipes import EventKind, FedAvgRecipe, Run, SimEnv, TrainContext

work = Work.from_environment()
drawn = cnn.trivial_samples()


class Net(threading.local):
    """A network of each thread that trains clients."""

    def __init__(self) -> None:
        """One for this thread."""
        self.module = cnn.SmallCNN()


net = Net()


def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
    """Two steps on made-up images, in the client's own copy of the model."""
    if not work.training:
        return params
    net.module.load_state_dict(params, assign=True)
    cnn.train_trivially(net.module, *drawn)
    return net.module.state_dict()


async def round_times(run: Run) -> list[float]:
    """When each round began, and when the run ended."""
    kinds = (EventKind.ROUND_STARTED, EventKind.RUN_FINISHED)
    return [event.time async for event in run.events() if event.kind in kinds]


if __name__ == "__main__":
    torch.set_num_threads(1)  # what every system is given
    recipe = FedAvgRecipe(
        name=work.task, initial_model=cnn.SmallCNN(), num_rounds=work.rounds, train=train
    )
    run = recipe.execute(SimEnv(work.clients, seed=1))
    if work.task == "tasks":
        times = asyncio.run(round_times(run))
        work.times.write_text(json.dumps([after - before for before, after in pairwise(times)]))
