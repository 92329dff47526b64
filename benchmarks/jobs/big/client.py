"""A client that adds its own number to every element of the model it got, in place."""

from __future__ import annotations

import torch

import covey.client as flare


def main() -> None:
    """Add, task by task."""
    flare.init()
    number = int(flare.get_site_name().rpartition("-")[2])
    while flare.is_running():
        model = flare.receive()
        assert model is not None
        assert model.params is not None
        with torch.no_grad():
            for value in model.params.values():
                value.add_(number)
        flare.send(flare.FLModel(params=model.params))


if __name__ == "__main__":
    main()
