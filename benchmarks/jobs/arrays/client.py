"""A client without torch: adds one to every number."""

from __future__ import annotations

import sys

import covey.client as flare


def main() -> None:
    """Add, task by task."""
    flare.init()
    while flare.is_running():
        received = flare.receive()
        assert received is not None
        assert received.params is not None
        params = {name: value + 1 for name, value in received.params.items()}
        flare.send(flare.FLModel(params=params))
    assert "torch" not in sys.modules


if __name__ == "__main__":
    main()
