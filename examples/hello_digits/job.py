"""A small CNN learns scikit-learn's digits at four sites that see different digits.

python job.py        or        covey run job.py
"""

from __future__ import annotations

import torch
from model import DigitsNet

from covey.recipes import FedAvgRecipe, SimEnv, add_experiment_tracking

NUM_SITES = 4

torch.manual_seed(1)  # the same first weights each time, so the same command gives the same model
recipe = FedAvgRecipe(
    name="hello-digits",
    initial_model=DigitsNet(),
    num_rounds=5,
    train_script="client.py",
    train_args=f"--num_sites {NUM_SITES} --batch_size 16",
    key_metric="accuracy",
)
add_experiment_tracking(recipe, tracking_type="tensorboard")
env = SimEnv(num_clients=NUM_SITES, seed=1)

if __name__ == "__main__":
    run = recipe.execute(env)
    print("Result can be found in :", run.get_result())
    print("Job Status is:", run.get_status())
