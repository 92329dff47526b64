"""The same clients in a plain loop without covey, one JSON object out.

`python loop.py CLIENTS ROUNDS`.

What no system could save: a client gets tensors of its own and a generator of its own, trains,
and its update is flattened and added to a mean in float64.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch

TENSORS, ELEMENTS = 8, 500


def train(params: dict[str, torch.Tensor], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Add a constant; draw once."""
    rng.random()
    return {name: value + 1.0 for name, value in params.items()}


def one_round(model: dict[str, torch.Tensor], clients: int, number: int) -> dict[str, torch.Tensor]:
    """Have all clients train; the mean of what they made."""
    total = torch.zeros(TENSORS * ELEMENTS, dtype=torch.float64)
    for client in range(clients):
        params = {name: value.clone() for name, value in model.items()}
        rng = np.random.default_rng((1, client, number))
        total += torch.cat([value.reshape(-1) for value in train(params, rng).values()])
    mean = (total / clients).to(torch.float32)
    return dict(zip(model, mean.reshape(TENSORS, ELEMENTS), strict=True))


def main() -> None:
    """Run once, as the arguments say."""
    clients, rounds = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    model = {f"layer{i}": torch.zeros(ELEMENTS) for i in range(TENSORS)}
    seconds: list[float] = []
    for number in range(rounds):
        began = time.perf_counter()
        model = one_round(model, clients, number)
        seconds.append(time.perf_counter() - began)
    assert all(bool((value == rounds).all()) for value in model.values())
    sys.stdout.write(json.dumps({"rounds_s": seconds}) + "\n")


if __name__ == "__main__":
    main()
