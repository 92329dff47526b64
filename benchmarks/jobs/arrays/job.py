"""Trivial training in NumPy: `python job.py`. Fails if torch gets imported."""

from __future__ import annotations

import sys

import numpy as np

from covey.recipes import FedAvgRecipe, SimEnv

recipe = FedAvgRecipe(
    name="arrays",
    initial_model={f"layer{i}": np.zeros(500, np.float32) for i in range(8)},
    num_rounds=3,
    train_script="client.py",
)

if __name__ == "__main__":
    recipe.execute(SimEnv(2))
    assert "torch" not in sys.modules
