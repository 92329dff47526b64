"""covey by function, many clients in a call: `python batched.py`, for "tasks" alone."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.peers.covey.function import drawn, main, net, work
from benchmarks.peers.work import cnn
from covey.recipes import TrainContext, batched

functions: Any = torch.func  # it has no types


def loss(params: dict[str, Any], module: Any, images: Any, labels: Any) -> Any:
    """What one client minimizes."""
    scores = functions.functional_call(module, params, images)
    return torch.nn.functional.cross_entropy(scores, labels)


@batched
def train(params: dict[str, Any], contexts: list[TrainContext]) -> dict[str, Any]:
    """Two steps on made-up images, of all these clients at once, each with images of its own."""
    if not work.training:
        return params
    images, labels = (value.expand(len(contexts), *value.shape) for value in drawn)
    module = net.module  # of this thread: a call puts its parameters there for a while
    gradients = functions.vmap(functions.grad(loss), in_dims=(0, None, 0, 0))
    for _ in range(cnn.TRIVIAL_STEPS):
        found = gradients(params, module, images, labels)
        params = {name: value - cnn.TRIVIAL_RATE * found[name] for name, value in params.items()}
    return params


if __name__ == "__main__":
    main(train)
