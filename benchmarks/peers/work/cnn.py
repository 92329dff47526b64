"""A small convolutional network and its training, the same for all systems."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

#: The trivial training: steps of plain SGD on one batch of made-up 8 x 8 images.
TRIVIAL_STEPS = 2
TRIVIAL_SAMPLES = 8
TRIVIAL_RATE = 0.01

#: The training on real images: one pass over a site's samples, in their order.
BATCH = 32
RATE = 0.1


class SmallCNN(nn.Module):
    """Two convolutions and a linear layer, 3,818 parameters; the same first weights each time.

    In: (batch, 1, height, width), at least 8 x 8. Out: (batch, 10).
    """

    def __init__(self) -> None:
        """Draw the weights from a generator of its own."""
        super().__init__()
        drawing: Any = torch.random  # it has no types
        with drawing.fork_rng():
            drawing.manual_seed(1)
            self.conv1 = nn.Conv2d(1, 8, 3)
            self.conv2 = nn.Conv2d(8, 16, 3)
            self.fc = nn.Linear(16 * 4 * 4, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores of the ten classes."""
        hidden = torch.relu(self.conv2(torch.relu(self.conv1(images))))
        scores: torch.Tensor = self.fc(nn.functional.adaptive_max_pool2d(hidden, 4).flatten(1))
        return scores


def trivial_samples() -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of no meaning."""
    drawn = torch.Generator().manual_seed(0)
    images = torch.randn(TRIVIAL_SAMPLES, 1, 8, 8, generator=drawn)
    return images, torch.randint(10, (TRIVIAL_SAMPLES,), generator=drawn)


def train_trivially(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Two steps on all samples at once."""
    _descend(net, [(images, labels)] * TRIVIAL_STEPS, TRIVIAL_RATE)


def train(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """One pass over the samples."""
    starts = range(0, len(labels), BATCH)
    _descend(net, [(images[at : at + BATCH], labels[at : at + BATCH]) for at in starts], RATE)


def _descend(net: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]], rate: float) -> None:
    optimizer: Any = torch.optim.SGD(net.parameters(), lr=rate)
    for images, labels in batches:
        optimizer.zero_grad()
        loss: Any = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()


def accuracy(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of the images that the network gets right."""
    with torch.inference_mode():
        return float((net(images).argmax(1) == labels).float().mean())
