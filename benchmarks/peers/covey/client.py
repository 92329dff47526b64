"""A client of covey by script, for all kinds of work."""

from __future__ import annotations

import torch

import covey.client as flare
from benchmarks.peers.work import cnn, samples
from benchmarks.peers.work.settings import Work


def main() -> None:
    """Train, task by task."""
    work = Work.from_environment()
    flare.init()
    if work.task == "big":
        send_back()
    elif work.task == "accuracy":
        train_and_measure(work)
    else:
        train_trivially()


def train_trivially() -> None:
    """Two steps on made-up images."""
    net, drawn = cnn.SmallCNN(), cnn.trivial_samples()
    while flare.is_running():
        net.load_state_dict(params(flare.receive()))
        cnn.train_trivially(net, *drawn)
        flare.send(flare.FLModel(params=net.state_dict()))


def train_and_measure(work: Work) -> None:
    """One pass over the site's images; the first site also measures the model that came."""
    site = int(flare.get_site_name().rpartition("-")[2]) - 1
    net, own = cnn.SmallCNN(), samples.of_site(work, site)
    test = samples.for_testing(work) if site == 0 else None
    while flare.is_running():
        model = flare.receive()
        net.load_state_dict(params(model))
        if test is not None and model is not None:
            samples.note(work, model.current_round or 0, cnn.accuracy(net, *test))
        cnn.train(net, *own)
        flare.send(flare.FLModel(params=net.state_dict()))


def send_back() -> None:
    """Return what came."""
    while flare.is_running():
        flare.send(flare.FLModel(params=params(flare.receive())))


def params(model: flare.FLModel | None) -> dict[str, torch.Tensor]:
    """What came with a task."""
    assert model is not None
    assert model.params is not None
    return dict(model.params)


if __name__ == "__main__":
    main()
