"""Real images: how they are split among the sites, and the curve that a run writes.

Digits: scikit-learn's, 8 x 8. MNIST: a NumPy archive with `images` and `labels`. Every fifth image
is for testing; the others are shuffled with a fixed seed and dealt out, so that all sites have the
same number of them and the mean over sites needs no weights.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import torch

from .settings import Work

Samples = tuple[torch.Tensor, torch.Tensor]


def for_testing(work: Work) -> Samples:
    """Images and labels that nobody trains with."""
    images, labels = _load(work.data)
    return images[::5].contiguous(), labels[::5].contiguous()


def of_site(work: Work, site: int) -> Samples:
    """Images and labels of a site, counted from 0."""
    images, labels = _load(work.data)
    others = np.arange(len(labels)) % 5 != 0
    order = np.random.default_rng(1).permutation(np.flatnonzero(others))
    order = order[: len(order) // work.clients * work.clients]
    mine = torch.as_tensor(order[site :: work.clients].copy())
    return images[mine], labels[mine]


def note(work: Work, models: int, accuracy: float) -> None:
    """Write that the model after so many rounds has this accuracy, and the time of saying so."""
    line = json.dumps({"models": models, "accuracy": accuracy, "time": time.monotonic()})
    with work.curve.open("a") as file:
        file.write(line + "\n")


def _load(data: str) -> Samples:
    if data:
        with np.load(data) as archive:
            images, labels = archive["images"] / np.float32(255), archive["labels"]
    else:
        import sklearn.datasets

        sets: Any = sklearn.datasets  # it has no types
        images, labels = sets.load_digits(return_X_y=True)
        images = images.reshape(-1, 8, 8) / 16
    shaped = torch.as_tensor(images.astype(np.float32)).unsqueeze(1)
    return shaped, torch.as_tensor(labels.astype(np.int64))
