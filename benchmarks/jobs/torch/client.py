"""A client that trains next to nothing: two steps of SGD on 3,920 parameters."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn

import covey.client as flare


def main() -> None:
    """Train, task by task."""
    model = nn.Sequential(*(nn.Linear(*sizes) for sizes in pairwise((10, 46, 40, 34, 4))))
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.01)
    loss_of = nn.CrossEntropyLoss()
    flare.init()
    while flare.is_running():
        received = flare.receive()
        assert received is not None
        assert received.params is not None
        model.load_state_dict(received.params)
        losses: list[float] = []
        for _ in range(2):
            optimizer.zero_grad()
            loss = loss_of(model(torch.randn(8, 10)), torch.randint(4, (8,)))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        flare.send(flare.FLModel(params=model.state_dict(), metrics={"loss": losses[0]}))


if __name__ == "__main__":
    main()
