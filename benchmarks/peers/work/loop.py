"""The same client tasks without any system: `python loop.py`, which writes each round's seconds.

What no system could save: a client gets the model into a network, trains, and what came of it is
added to a sum.
"""

from __future__ import annotations

import json
import time

import torch

from benchmarks.peers.work import cnn
from benchmarks.peers.work.settings import Work


def one_round(work: Work, net: cnn.SmallCNN, model: dict[str, torch.Tensor]) -> None:
    """Have every client train, and put the mean into the model."""
    drawn = cnn.trivial_samples()
    total = {name: torch.zeros_like(value) for name, value in model.items()}
    for _ in range(work.clients):
        net.load_state_dict(model)
        if work.training:
            cnn.train_trivially(net, *drawn)
        for name, value in net.state_dict().items():
            total[name] += value
    for name, value in total.items():
        model[name].copy_(value / work.clients)


def main() -> None:
    """Run the rounds."""
    work, times = Work.from_environment(), list[float]()
    torch.set_num_threads(1)
    net = cnn.SmallCNN()
    model = {name: value.clone() for name, value in net.state_dict().items()}
    for _ in range(work.rounds):
        began = time.perf_counter()
        one_round(work, net, model)
        times.append(time.perf_counter() - began)
    work.times.write_text(json.dumps(times))


if __name__ == "__main__":
    main()
