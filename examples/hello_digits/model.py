"""The model: a small convolutional network for 8x8 digits, 9,930 parameters."""

from __future__ import annotations

import torch
from torch import nn


class DigitsNet(nn.Module):
    """Two convolutions and one linear layer; in: (batch, 1, 8, 8), out: (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(images)
        return logits
