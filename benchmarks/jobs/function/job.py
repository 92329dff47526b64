"""Clients by function, one JSON object out.

`python job.py CLIENTS ROUNDS torch|numpy plain|codec|count|batched`.

Trivial training: a constant is added to 8 tensors, 4,000 parameters in all, and one number drawn.
"count" also looks at every actor when the last round is over, which takes time of its own;
"batched" trains many clients in one call.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

TENSORS, ELEMENTS = 8, 500
_KIB = 1024


def memory(field: str) -> int:
    """A size from the kernel's account of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * _KIB
    return 0


# What comes after the import of torch is ours; the high-water mark begins here.
BASE_BYTES = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")

from covey.actors.runtime import System  # noqa: E402
from covey.recipes import EventKind, FedAvgRecipe, Run, SimEnv, TrainContext, batched  # noqa: E402


def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
    """Add a constant; draw once."""
    ctx.rng.random()
    return {name: value + 1.0 for name, value in params.items()}


@batched
def train_many(params: dict[str, Any], contexts: list[TrainContext]) -> dict[str, Any]:
    """The same for many clients."""
    for ctx in contexts:
        ctx.rng.random()
    return {name: value + 1.0 for name, value in params.items()}


def counts() -> dict[str, Any]:
    """What `statistics()` of every system says: messages handled by kind of actor, envelopes."""
    handled: Counter[str] = Counter()
    actors: Counter[str] = Counter()
    envelopes = 0
    for system in [found for found in gc.get_objects() if type(found) is System]:
        statistics = system.statistics()
        for actor in statistics.actors:
            actors[actor.kind] += 1
            handled[actor.kind] += actor.handled
        envelopes += sum(link.sent for link in statistics.links)
    return {"actors": dict(actors), "handled": dict(handled), "envelopes": envelopes}


async def counted(recipe: FedAvgRecipe, env: SimEnv) -> tuple[Run, dict[str, Any]]:
    """Run, and look at the actors when the last round is over."""
    run = await recipe.start(env)
    found: dict[str, Any] = {}
    async for event in run.events():
        if event.kind is EventKind.ROUND_FINISHED and event.round == recipe.num_rounds - 1:
            found = counts()
    await run.wait()
    return run, found


async def round_times(run: Run) -> list[float]:
    """When each round began, and when the run ended."""
    kinds = (EventKind.ROUND_STARTED, EventKind.RUN_FINISHED)
    return [event.time async for event in run.events() if event.kind in kinds]


def main() -> None:
    """Run once, as the arguments say."""
    clients, rounds, kind, mode = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    zeros = np.zeros(ELEMENTS, np.float32)
    one: Any = torch.zeros(ELEMENTS) if kind == "torch" else zeros
    model = {f"layer{i}": one for i in range(TENSORS)}
    recipe = FedAvgRecipe(
        name="function",
        initial_model=model,
        num_rounds=rounds,
        train=train_many if mode == "batched" else train,
    )
    env = SimEnv(clients, seed=1, progress=False, check_codec=mode == "codec")
    found: dict[str, Any] = {}
    began, cpu_began = time.perf_counter(), time.process_time()
    if mode == "count":
        run, found = asyncio.run(counted(recipe, env))
    else:
        run = recipe.execute(env)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    peak = memory("VmHWM") - BASE_BYTES
    times = asyncio.run(round_times(run))
    assert all(bool((value == rounds).all()) for value in run.model().values())
    outcome = {
        "execute_s": seconds,
        "cpu_s": cpu_s,
        "rounds_s": [after - before for before, after in pairwise(times)],
        "peak_bytes": peak,
        **found,
    }
    sys.stdout.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main()
