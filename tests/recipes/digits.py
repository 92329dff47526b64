"""Real data and a small model in plain NumPy: what the oracles of the algorithms stand on.

Here: scikit-learn's digits, dealt out to sites by label, and softmax regression on them. Not here:
any algorithm (the tests). Imports nothing of covey, so that scripts of tests can use it as well.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
Model: TypeAlias = dict[str, Array]

SITES = 4
ROUNDS = 5
BATCH = 50
LR = 0.5


def initial() -> Model:
    """The model to begin with: small, and not zero."""
    rng = np.random.default_rng(1)
    return {"weight": 0.01 * rng.standard_normal((10, 64)), "bias": np.zeros(10)}


@cache
def data() -> tuple[Array, npt.NDArray[np.int64]]:
    """The first 1,000 digits, sorted by label: neighbours are alike.

    From scikit-learn's file, which takes 0.05 s: importing what reads it takes each process of a
    test 2 s.
    """
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    numbers = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    images, labels = numbers[:, :-1], numbers[:, -1]
    order = np.argsort(labels[:1000], kind="stable")
    return np.asarray(images, np.float64)[order] / 16, np.asarray(labels, np.int64)[order]


def of_site(site: str) -> tuple[Array, npt.NDArray[np.int64]]:
    """The samples of site-1, site-2, ...: some labels, and more for later sites."""
    images, labels = data()
    edges = np.array([0, 100, 300, 600, 1000])
    number = int(site.rpartition("-")[2])
    return images[edges[number - 1] : edges[number]], labels[edges[number - 1] : edges[number]]


def batches(site: str) -> list[tuple[Array, npt.NDArray[np.int64]]]:
    """A site's samples, a batch for each local step."""
    images, labels = of_site(site)
    starts = range(0, len(images), BATCH)
    return [(images[s : s + BATCH], labels[s : s + BATCH]) for s in starts]


def gradient(model: Any, images: Array, labels: npt.NDArray[np.int64]) -> Model:
    """The gradient of the mean cross-entropy."""
    scores = images @ model["weight"].T + model["bias"]
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    wrong = scores / scores.sum(axis=1, keepdims=True)
    wrong[np.arange(len(labels)), labels] -= 1
    wrong /= len(labels)
    return {"weight": wrong.T @ images, "bias": wrong.sum(axis=0)}


def accuracy(model: Any, site: str) -> float:
    """The share of a site's samples that a model tells right."""
    images, labels = of_site(site)
    scores = images @ model["weight"].T + model["bias"]
    return float((scores.argmax(axis=1) == labels).mean())


def names(count: int = SITES) -> list[str]:
    """The sites' names."""
    return [f"site-{number}" for number in range(1, count + 1)]


def assert_close(got: Any, expected: Any, relative: float = 1e-6) -> None:
    """Each tensor within a relative distance of the expected one, in the largest norm."""
    assert set(got) == set(expected)
    for name, value in expected.items():
        own = np.asarray(got[name], np.float64)
        distance = float(np.abs(own - value).max())
        assert distance <= relative * float(np.abs(value).max()), (name, distance)
