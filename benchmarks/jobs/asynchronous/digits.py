"""Time to a target accuracy in virtual time, one JSON object out: `python digits.py METHOD`.

scikit-learn's digits over 100 sites with skewed labels (Dirichlet 0.3), 20 at work at any time, a
task takes exp(N(0, 0.5)) seconds. METHOD is fedavg (cohorts of 20), fedbuff (a buffer of 5) or
fedasync. Every site measures the model it is given on the same test set, so that each version's
accuracy is known.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import numpy as np
import sklearn.datasets

from covey.algorithms import partition
from covey.recipes import (
    EventKind,
    FedAsyncRecipe,
    FedAvgRecipe,
    FedBuffRecipe,
    LogNormal,
    Run,
    SimEnv,
    TrainContext,
)

SITES, AT_WORK, BUFFER, HIDDEN, TEST = 100, 20, 5, 32, 360
STEPS, BATCH, RATE = 5, 8, 0.1

_rng = np.random.default_rng(0)
_datasets: Any = sklearn.datasets
_digits = _datasets.load_digits()
_order: Any = _rng.permutation(len(_digits.target))
X: Any = (_digits.data[_order] / 16).astype(np.float32)
Y: Any = _digits.target[_order]
PARTS = partition(Y[TEST:], SITES, alpha=0.3, seed=1)
MODEL = {
    "w1": _rng.normal(0, 0.2, (64, HIDDEN)).astype(np.float32),
    "b1": np.zeros(HIDDEN, np.float32),
    "w2": _rng.normal(0, 0.2, (HIDDEN, 10)).astype(np.float32),
    "b2": np.zeros(10, np.float32),
}


def forward(params: dict[str, Any], x: Any) -> tuple[Any, Any]:
    """Hidden activations and class probabilities."""
    hidden: Any = np.maximum(x @ params["w1"] + params["b1"], 0)
    scores: Any = hidden @ params["w2"] + params["b2"]
    scores = np.exp(scores - scores.max(1, keepdims=True))
    return hidden, scores / scores.sum(1, keepdims=True)


def train(params: dict[str, Any], ctx: TrainContext) -> Any:
    """Measure the model on the test set; take some steps on the site's own samples."""
    accuracy = float((forward(params, X[:TEST])[1].argmax(1) == Y[:TEST]).mean())
    own = PARTS[int(ctx.site.rpartition("-")[2]) - 1] + TEST
    for _ in range(STEPS):
        batch = ctx.rng.choice(own, min(BATCH, len(own)), replace=False)
        hidden, slope = forward(params, X[batch])
        slope[np.arange(len(batch)), Y[batch]] -= 1
        slope /= len(batch)
        back = (slope @ params["w2"].T) * (hidden > 0)
        for name, gradient in (
            ("w2", hidden.T @ slope),
            ("b2", slope.sum(0)),
            ("w1", X[batch].T @ back),
            ("b1", back.sum(0)),
        ):
            params[name] -= RATE * gradient
    return params, {"accuracy": accuracy}


def recipe_of(method: str) -> FedAvgRecipe:
    """The recipe, for some 3,000 updates."""
    common: Any = {"initial_model": MODEL, "train": train, "min_clients": 1}
    if method == "fedavg":
        return FedAvgRecipe(num_rounds=150, clients_per_round=AT_WORK, **common)
    if method == "fedbuff":
        return FedBuffRecipe(num_rounds=600, buffer_size=BUFFER, concurrency=AT_WORK, **common)
    return FedAsyncRecipe(num_rounds=3000, alpha=0.6, concurrency=AT_WORK, **common)


async def curve_of(run: Run) -> tuple[list[tuple[float, int, float]], int]:
    """Virtual time, version and accuracy of each version in order, and the updates in all."""
    points: list[tuple[int, float, float]] = []
    updates = 0
    async for event in run.events():
        updates += event.kind is EventKind.SITE_FINISHED
        if event.kind is EventKind.ROUND_FINISHED and event.data["metrics"]:
            assert event.round is not None
            point = (event.round, event.data["virtual_s"], event.data["metrics"]["accuracy"])
            points.append(point)
    return [(at, version, accuracy) for version, at, accuracy in sorted(points)], updates


def main() -> None:
    """Run one method."""
    method = sys.argv[1]
    env = SimEnv(SITES, seed=3, progress=False, durations=LogNormal(0.0, 0.5))
    began = time.process_time()
    run = recipe_of(method).execute(env)
    cpu_s = time.process_time() - began
    curve, updates = asyncio.run(curve_of(run))
    digest = (run.get_result() / "model.safetensors").read_bytes().hex()[-64:]
    outcome = {"curve": curve, "updates": updates, "cpu_s": cpu_s, "model": digest}
    sys.stdout.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main()
