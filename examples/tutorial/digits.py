"""What the notebook and its script share: each site's digits, the test digits, and the network."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from covey.algorithms import partition

NUM_SITES = 8


@cache
def load() -> tuple[torch.Tensor, torch.Tensor]:
    """All 1,797 digits: images as rows of 64 numbers from 0 to 1, and labels."""
    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy((images / 16).astype(np.float32)), torch.from_numpy(labels)


@cache
def sites() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The training digits of each site: other digits at each, by a Dirichlet draw of the labels."""
    images, labels = load()
    training = torch.arange(len(labels)) % 5 != 0
    images, labels = images[training], labels[training]
    shares = partition(labels.numpy(), NUM_SITES, alpha=0.5, seed=1, min_size=50)
    return {f"site-{n}": (images[s], labels[s]) for n, s in enumerate(map(torch.tensor, shares), 1)}


def test() -> tuple[torch.Tensor, torch.Tensor]:
    """Every fifth digit, which no site trains on."""
    images, labels = load()
    return images[::5], labels[::5]


def make_net() -> nn.Module:
    """A small network, 2,410 parameters."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def accuracy(net: nn.Module) -> float:
    """Share of the test digits that a network gets right."""
    images, labels = test()
    with torch.inference_mode():
        return float((net(images).argmax(1) == labels).float().mean())
