"""Three hospitals learn to tell tumours apart, in NumPy: logistic regression, no torch anywhere.

python job.py        or        covey run job.py
"""

from __future__ import annotations

import numpy as np

from covey.recipes import FedAvgRecipe, SimEnv

NUM_SITES = 3
NUM_INPUTS = 10

recipe = FedAvgRecipe(
    name="hello-numpy",
    initial_model={"weights": np.zeros(NUM_INPUTS), "bias": np.zeros(1)},
    num_rounds=5,
    train_script="client.py",
    train_args=f"--num_sites {NUM_SITES}",
    key_metric="accuracy",
)
env = SimEnv(num_clients=NUM_SITES, seed=1)

if __name__ == "__main__":
    run = recipe.execute(env)
    print("Result can be found in :", run.get_result())
    print("Job Status is:", run.get_status())
