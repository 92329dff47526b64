"""One site's training as a script. The lines with `flare` make it federated."""

from __future__ import annotations

import argparse

import digits
import torch
from torch.nn.functional import cross_entropy

import covey.client as flare

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--lr", type=float, default=0.2)
args = parser.parse_args()

flare.init()
images, labels = digits.sites()[flare.get_site_name()]
net = digits.make_net()
while flare.is_running():
    model = flare.receive()
    net.load_state_dict(model.params)
    metrics = {"accuracy": digits.accuracy(net)}  # of the model as it came
    if flare.is_evaluate():
        flare.send(flare.FLModel(metrics=metrics))
        continue
    optimizer = torch.optim.SGD(net.parameters(), lr=args.lr)
    for _ in range(args.epochs):
        for batch in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            loss = cross_entropy(net(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
    print(f"round {model.current_round}: loss {loss.item():.3f}")
    meta = {"NUM_STEPS_CURRENT_ROUND": len(labels)}
    flare.send(flare.FLModel(params=net.state_dict(), metrics=metrics, meta=meta))
