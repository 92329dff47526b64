"""Accuracy on sites with different data, one JSON object out: `python job.py METHOD SEED [FILE]`.

FILE is a NumPy archive of MNIST with `images` (n, 28, 28) and `labels`; without it scikit-learn's
digits are used. 20 sites, labels by Dirichlet 0.1, all of them in every round; a small network in
NumPy. METHOD is fedavg, fedprox, scaffold or fedadam. Every site's local work is the same number
of steps on batches of the same size, so the budget is the same for all methods. The accuracy of
each round's model on the test set is in the outcome.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from covey.algorithms import Adam, partition
from covey.client import FLModel, proximal_gradient
from covey.recipes import (
    FedAvgRecipe,
    FedOptRecipe,
    FedProxRecipe,
    Recipe,
    ScaffoldRecipe,
    SimEnv,
    TrainContext,
)

SITES, ROUNDS, STEPS, BATCH, HIDDEN = 20, 40, 10, 32, 64
RATE, MU, SERVER_RATE = 0.1, 0.01, 0.01
TEST_SHARE = 0.2

METHOD, SEED = sys.argv[1], int(sys.argv[2])


def load() -> tuple[Any, Any]:
    """Images as rows of numbers from 0 to 1, and labels."""
    if len(sys.argv) > 3:
        with np.load(Path(sys.argv[3])) as archive:
            images, labels = archive["images"], archive["labels"]
        return images.reshape(len(images), -1).astype(np.float32) / 255, labels.astype(int)
    import sklearn.datasets

    sets: Any = sklearn.datasets  # it has no types
    images, labels = sets.load_digits(return_X_y=True)
    return images.astype(np.float32) / 16, labels


_rng = np.random.default_rng(SEED)
_x, _y = load()
_order = _rng.permutation(len(_y))
X, Y = _x[_order], _y[_order]
TEST = int(TEST_SHARE * len(Y))
PARTS = partition(Y[TEST:], SITES, alpha=0.1, seed=SEED, min_size=2)
MODEL = {
    "w1": _rng.normal(0, X.shape[1] ** -0.5, (X.shape[1], HIDDEN)).astype(np.float32),
    "b1": np.zeros(HIDDEN, np.float32),
    "w2": _rng.normal(0, HIDDEN**-0.5, (HIDDEN, 10)).astype(np.float32),
    "b2": np.zeros(10, np.float32),
}
CURVE: dict[int, float] = {}


def forward(params: dict[str, Any], x: Any) -> tuple[Any, Any]:
    """Hidden activations and class probabilities."""
    hidden = np.maximum(x @ params["w1"] + params["b1"], 0)
    scores = hidden @ params["w2"] + params["b2"]
    scores = np.exp(scores - scores.max(1, keepdims=True))
    return hidden, scores / scores.sum(1, keepdims=True)


def accuracy(params: dict[str, Any]) -> float:
    """On the test set."""
    return float((forward(params, X[:TEST])[1].argmax(1) == Y[:TEST]).mean())


def gradient(params: dict[str, Any], x: Any, y: Any) -> dict[str, Any]:
    """Of the mean cross-entropy."""
    hidden, wrong = forward(params, x)
    wrong[np.arange(len(y)), y] -= 1
    wrong /= len(y)
    back = (wrong @ params["w2"].T) * (hidden > 0)
    return {"w1": x.T @ back, "b1": back.sum(0), "w2": hidden.T @ wrong, "b2": wrong.sum(0)}


def train(params: dict[str, Any], ctx: TrainContext) -> Any:
    """Some steps on the site's own samples; the first of the sites also measures the model."""
    if ctx.site == "site-1":
        CURVE[ctx.round] = accuracy(params)
    own = PARTS[int(ctx.site.rpartition("-")[2]) - 1] + TEST
    start = {name: value.copy() for name, value in params.items()}
    scaffold = ctx.scaffold(params) if METHOD == "scaffold" else None
    for _ in range(STEPS):
        batch = own[ctx.rng.integers(0, len(own), BATCH)]
        step = gradient(params, X[batch], Y[batch])
        if METHOD == "fedprox":
            pull = proximal_gradient(params, start, float(ctx.config["mu"]))  # type: ignore[arg-type]
            step = {name: step[name] + pull[name] for name in step}
        if scaffold is not None:
            scaffold.correct_gradients(step)
        for name, value in step.items():
            params[name] -= np.float32(RATE) * value
    meta = {"NUM_STEPS_CURRENT_ROUND": len(own)}
    if scaffold is not None:
        return scaffold.update(params, lr=RATE, meta=meta)
    return FLModel(params=params, meta=meta)


def recipe() -> Recipe:
    """The method's recipe."""
    settings: Any = {"initial_model": MODEL, "num_rounds": ROUNDS, "train": train}
    if METHOD == "fedprox":
        return FedProxRecipe(mu=MU, **settings)
    if METHOD == "scaffold":
        return ScaffoldRecipe(**settings)
    if METHOD == "fedadam":
        return FedOptRecipe(optimizer=Adam(lr=SERVER_RATE), **settings)
    assert METHOD == "fedavg"
    return FedAvgRecipe(**settings)


def main() -> None:
    """Run, and print what came of it."""
    began = time.perf_counter()
    run = recipe().execute(SimEnv(SITES, seed=SEED, progress=False))
    CURVE[ROUNDS] = accuracy(run.model())
    outcome = {
        "curve": [CURVE[number] for number in sorted(CURVE)],
        "seconds": time.perf_counter() - began,
        "steps": SITES * ROUNDS * STEPS,
        "samples": len(Y) - TEST,
        "data": "MNIST" if len(sys.argv) > 3 else "digits",
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
