"""Trivial training in torch: `python job.py CLIENTS [ROUNDS]`, or `covey run job.py`."""

from __future__ import annotations

import sys
from itertools import pairwise

from torch import nn

from covey.recipes import FedAvgRecipe, SimEnv

recipe = FedAvgRecipe(
    name="trivial",
    initial_model=nn.Sequential(*(nn.Linear(*sizes) for sizes in pairwise((10, 46, 40, 34, 4)))),
    num_rounds=int(sys.argv[2]) if len(sys.argv) > 2 else 3,
    train_script="client.py",
    key_metric="loss",
)

if __name__ == "__main__":
    recipe.execute(SimEnv(int(sys.argv[1])))
