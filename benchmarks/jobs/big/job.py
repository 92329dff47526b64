"""A big model: `python job.py TENSORS`, of 16 MiB each, 2 clients x 2 rounds; checks the result."""

from __future__ import annotations

import sys

import torch

from covey.recipes import FedAvgRecipe, SimEnv

ELEMENTS = 4 << 20
ROUNDS = 2


def main() -> None:
    """Run, and look at every element."""
    model = {f"layer{i}": torch.full((ELEMENTS,), float(i)) for i in range(int(sys.argv[1]))}
    recipe = FedAvgRecipe(
        name="big", initial_model=model, num_rounds=ROUNDS, train_script="client.py"
    )
    del model
    run = recipe.execute(SimEnv(2))
    # Clients add 1 and 2 to all elements, so each round adds 1.5, which is exact in float32.
    for name, value in run.model().items():
        expected = float(name.removeprefix("layer")) + 1.5 * ROUNDS
        assert bool((value == expected).all()), name


if __name__ == "__main__":
    main()
