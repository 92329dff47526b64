"""What a site does, as functions: softmax regression on its own digits, in NumPy."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

from covey.recipes import TrainContext, partition

Array = npt.NDArray[np.float64]
NUM_SITES = 30


@cache
def load_data() -> tuple[Array, npt.NDArray[np.int64], Array, npt.NDArray[np.int64]]:
    """Training images and labels, and every fifth digit to test with."""
    images, labels = load_digits(return_X_y=True)
    test = np.arange(len(labels)) % 5 == 0
    return images[~test] / 16, labels[~test], images[test] / 16, labels[test]


@cache
def shares() -> list[npt.NDArray[np.int64]]:
    """Each site's samples: a Dirichlet draw over the labels, the same each time."""
    return partition(load_data()[1], NUM_SITES, alpha=0.5, seed=1, min_size=10)


def predict(params: dict[str, Array], images: Array) -> Array:
    """Probability of each digit for each image."""
    scores = images @ params["weights"] + params["bias"]
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: Array = scores / scores.sum(axis=1, keepdims=True)
    return probabilities


def evaluate(params: dict[str, Array], ctx: TrainContext) -> dict[str, float]:
    """Share of the test digits that the model gets right."""
    _, _, images, labels = load_data()
    return {"accuracy": float((predict(params, images).argmax(1) == labels).mean())}


def train(params: dict[str, Array], ctx: TrainContext) -> object:
    """A few steps on the site's own digits; measures the model as it came."""
    metrics = evaluate(params, ctx)
    images, labels, _, _ = load_data()
    mine = shares()[int(ctx.site.rpartition("-")[2]) - 1]
    for _ in range(5):
        for batch in np.array_split(ctx.rng.permutation(mine), max(1, len(mine) // 10)):
            error = predict(params, images[batch])
            error[np.arange(len(batch)), labels[batch]] -= 1
            params["weights"] -= 0.5 * images[batch].T @ error / len(batch)
            params["bias"] -= 0.5 * error.mean(0)
    return params, metrics
