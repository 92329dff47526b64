"""Three sites train one scikit-learn classifier on digits; no torch anywhere.

python job.py        or        covey run job.py
"""

from __future__ import annotations

import numpy as np

from covey.recipes import FedAvgRecipe, SimEnv

NUM_SITES = 3

recipe = FedAvgRecipe(
    name="hello-sklearn",
    initial_model={"coef": np.zeros((10, 64)), "intercept": np.zeros(10)},
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
