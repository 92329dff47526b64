"""Slow and fast sites train on digits: in rounds, and without waiting for anybody.

python job.py        or        covey run job.py
"""

from __future__ import annotations

import asyncio

import numpy as np
from sites import NUM_SITES, evaluate, train

from covey.recipes import EventKind, FedAvgRecipe, FedBuffRecipe, LogNormal, Run, SimEnv

TARGET = "accuracy >= 0.92"
MODEL = {"weights": np.zeros((64, 10)), "bias": np.zeros(10)}

# How long a site takes is drawn once for each: half take less than a second, the slowest seven.
env = SimEnv(num_clients=NUM_SITES, seed=1, durations=LogNormal(0.0, 1.0, of_client=True))

recipe = FedBuffRecipe(
    name="fedbuff-digits",
    initial_model=MODEL,
    num_rounds=400,  # versions, at most
    buffer_size=10,
    train=train,
    evaluate=evaluate,
    stop_cond=TARGET,
)
in_rounds = FedAvgRecipe(
    name="fedavg-digits",
    initial_model=MODEL,
    num_rounds=100,
    train=train,
    evaluate=evaluate,
    stop_cond=TARGET,
)


async def virtual_seconds(run: Run) -> float:
    """When a run had its last model."""
    times = [
        event.data["virtual_s"]
        async for event in run.events()
        if event.kind is EventKind.ROUND_FINISHED and "virtual_s" in event.data
    ]
    return float(max(times))


def accuracy(run: Run) -> float:
    """That of the best model, which ended the run."""
    return max(row["metrics"]["accuracy"] for row in run.metrics if row["site"] == "global")


if __name__ == "__main__":
    lines = []
    for name, made in (("FedAvg", in_rounds), ("FedBuff", recipe)):
        run = made.execute(env)
        seconds = asyncio.run(virtual_seconds(run))
        lines.append(f"{name:8} accuracy {accuracy(run):.3f} after {seconds:6.1f} virtual seconds")
    print("\n".join(lines))
    print("Result can be found in :", run.get_result())
    print("Job Status is:", run.get_status())
