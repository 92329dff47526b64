"""One site's training: an ordinary PyTorch script; the lines with `flare` make it federated."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from model import DigitsNet
from sklearn.datasets import load_digits
from torch import nn

import covey.client as flare
from covey.algorithms import partition
from covey.client.tracking import SummaryWriter


def load_data(site: int, num_sites: int) -> tuple[torch.Tensor, ...]:
    """This site's share of the training digits, and the test digits that all sites share."""
    digits = load_digits()
    images = torch.from_numpy((digits.images / 16).astype(np.float32)).unsqueeze(1)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    test = torch.arange(len(labels)) % 5 == 0
    # Every site gets other digits: a Dirichlet draw over the labels, the same one at all sites.
    shares = partition(labels[~test].numpy(), num_sites, alpha=0.5, seed=1)
    mine = torch.from_numpy(shares[site % num_sites])
    return images[~test][mine], labels[~test][mine], images[test], labels[test]


def evaluate(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of the images that the network gets right."""
    with torch.inference_mode():
        return float((net(images).argmax(1) == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--num_sites", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()

    net = DigitsNet()
    loss_of = nn.CrossEntropyLoss()
    writer = SummaryWriter()

    flare.init()
    site = int(flare.get_site_name().rpartition("-")[2]) - 1
    images, labels, test_images, test_labels = load_data(site, args.num_sites)

    while flare.is_running():
        model = flare.receive()
        if model is None or model.params is None:
            break
        net.load_state_dict(model.params)
        metrics = {"accuracy": evaluate(net, test_images, test_labels)}
        print(f"round {model.current_round}: accuracy {metrics['accuracy']:.4f}")
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics=metrics))
            continue

        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        steps = 0
        for epoch in range(args.epochs):
            total = 0.0
            for batch in torch.randperm(len(labels)).split(args.batch_size):
                optimizer.zero_grad()
                loss = loss_of(net(images[batch]), labels[batch])
                loss.backward()
                optimizer.step()
                total += loss.item() * len(batch)
                steps += 1
            step = (model.current_round or 0) * args.epochs + epoch
            writer.add_scalar("train_loss", total / len(labels), global_step=step)

        flare.send(
            flare.FLModel(
                params=net.state_dict(),
                metrics=metrics,
                meta={"NUM_STEPS_CURRENT_ROUND": steps},
            )
        )


if __name__ == "__main__":
    main()
