"""What a site does, as one function for all algorithms: PyTorch on its own digits."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import covey.client as flare
from covey.recipes import TrainContext, partition

NUM_SITES = 10
ALPHA = 0.1  # most sites know two or three digits
LR, EPOCHS, BATCH = 0.2, 5, 64
Tensors = dict[str, torch.Tensor]


def make_net() -> nn.Module:
    """A small network, 2,410 parameters."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def net_of(params: Tensors) -> nn.Module:
    net = make_net()
    net.load_state_dict(params)
    return net


@cache
def load_data() -> tuple[torch.Tensor, ...]:
    """Training images and labels, and every fifth digit to test with."""
    images, labels = load_digits(return_X_y=True)
    test = torch.arange(len(labels)) % 5 == 0
    inputs, targets = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    return inputs[~test], targets[~test], inputs[test], targets[test]


@cache
def shares() -> list[torch.Tensor]:
    """Each site's samples: a Dirichlet draw over the labels, the same each time."""
    labels = load_data()[1].numpy()
    return [torch.tensor(s) for s in partition(labels, NUM_SITES, ALPHA, seed=1, min_size=20)]


def evaluate(params: Tensors, ctx: TrainContext) -> dict[str, float]:
    """Share of the test digits that the model gets right."""
    _, _, images, labels = load_data()
    with torch.inference_mode():
        return {"accuracy": float((net_of(params)(images).argmax(1) == labels).float().mean())}


def train(params: Tensors, ctx: TrainContext) -> object:
    """Epochs on the site's own digits, by whatever algorithm the recipe is of."""
    metrics = evaluate(params, ctx)
    net = net_of(params)
    images, labels, _, _ = load_data()
    mine = shares()[int(ctx.site.rpartition("-")[2]) - 1]
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)
    scaffold = ctx.scaffold(params) if ctx.control else None
    mu = float(ctx.config.get("mu", 0.0))
    for _ in range(EPOCHS):
        for batch in mine[torch.randperm(len(mine), generator=ctx.generator)].split(BATCH):
            optimizer.zero_grad()
            loss = cross_entropy(net(images[batch]), labels[batch])
            if mu:  # FedProx
                loss = loss + flare.proximal_term(net, params, mu)
            loss.backward()
            if scaffold is not None:  # SCAFFOLD
                scaffold.correct_gradients(net)
            optimizer.step()
    meta = {"NUM_STEPS_CURRENT_ROUND": len(mine)}
    if scaffold is not None:
        return scaffold.update(net.state_dict(), lr=LR, metrics=metrics, meta=meta)
    return flare.FLModel(params=net.state_dict(), metrics=metrics, meta=meta)
