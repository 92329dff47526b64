"""A client of nvflare, for all kinds of work."""

from __future__ import annotations

import nvflare.client as flare
import torch

from benchmarks.peers.work import cnn, samples
from benchmarks.peers.work.settings import Work


def main():
    """Train, task by task."""
    work = Work.from_environment()
    flare.init()
    if work.task == "big":
        send_back()
    elif work.task == "accuracy":
        train_and_measure(work)
    else:
        train_trivially()


def train_trivially():
    """Two steps on made-up images."""
    torch.set_num_threads(1)
    net, drawn = cnn.SmallCNN(), cnn.trivial_samples()
    while flare.is_running():
        model = flare.receive()
        load(net, model)
        cnn.train_trivially(net, *drawn)
        flare.send(flare.FLModel(params=net.state_dict()))


def train_and_measure(work):
    """One pass over the site's images; the first site also measures the model that came."""
    torch.set_num_threads(1)
    site = int(flare.get_site_name().rpartition("-")[2]) - 1
    net, own = cnn.SmallCNN(), samples.of_site(work, site)
    test = samples.for_testing(work) if site == 0 else None
    while flare.is_running():
        model = flare.receive()
        load(net, model)
        if test is not None:
            samples.note(work, model.current_round, cnn.accuracy(net, *test))
        cnn.train(net, *own)
        flare.send(flare.FLModel(params=net.state_dict()))


def send_back():
    """Return what came."""
    while flare.is_running():
        flare.send(flare.FLModel(params=flare.receive().params))


def load(net, model):
    """Put what came, arrays or tensors, into the network."""
    net.load_state_dict({name: torch.as_tensor(value) for name, value in model.params.items()})


if __name__ == "__main__":
    main()
