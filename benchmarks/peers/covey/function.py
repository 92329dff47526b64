"""covey by function: `python function.py`; for "tasks" it also writes the seconds of each round."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import torch

from benchmarks.peers.work import big, cnn, samples
from benchmarks.peers.work.settings import Work
from covey.recipes import EventKind, FedAvgRecipe, Run, SimEnv, TrainContext

Train = Callable[[dict[str, Any], TrainContext], dict[str, Any]]

work = Work.from_environment()
drawn = cnn.trivial_samples()
own, test = cache(samples.of_site), cache(samples.for_testing)


class Net(threading.local):
    """A network of each thread that trains clients."""

    def __init__(self) -> None:
        """One for this thread."""
        self.module = cnn.SmallCNN()


net = Net()


def send_back(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
    """Return what came."""
    return params


def train_trivially(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
    """Two steps on made-up images, in the client's own copy of the model."""
    net.module.load_state_dict(params, assign=True)
    cnn.train_trivially(net.module, *drawn)
    return net.module.state_dict()


def train_and_measure(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
    """One pass over the site's images; the first site also measures the model that came."""
    site = int(ctx.site.rpartition("-")[2]) - 1
    net.module.load_state_dict(params, assign=True)
    if site == 0:
        samples.note(work, ctx.round, cnn.accuracy(net.module, *test(work)))
    cnn.train(net.module, *own(work, site))
    return net.module.state_dict()


def training() -> Train:
    """What clients do."""
    if work.task == "accuracy":
        return train_and_measure
    if work.task == "big":
        return send_back
    return train_trivially if work.training else send_back


async def round_times(run: Run) -> list[float]:
    """When each round began, and when the run ended."""
    kinds = (EventKind.ROUND_STARTED, EventKind.RUN_FINISHED)
    return [event.time async for event in run.events() if event.kind in kinds]


def main(train: Any) -> None:
    """Run the work with clients that do this."""
    torch.set_num_threads(1)  # as in every system
    recipe = FedAvgRecipe(
        name=work.task,
        initial_model=big.Big() if work.task == "big" else cnn.SmallCNN(),
        num_rounds=work.rounds,
        train=train,
    )
    run = recipe.execute(SimEnv(work.clients, seed=1))
    if work.task == "big":
        big.check(run.model())
    if work.task == "tasks":
        times = asyncio.run(round_times(run))
        work.times.write_text(json.dumps([after - before for before, after in pairwise(times)]))


if __name__ == "__main__":
    main(training())
