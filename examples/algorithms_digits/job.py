"""FedAvg, FedProx, SCAFFOLD, FedAdam and FedOpt with PyTorch's AdamW, on sites that differ much.

python job.py
"""

from __future__ import annotations

import torch
from sites import NUM_SITES, evaluate, make_net, train

from covey.algorithms import Adam, TorchOptimizer
from covey.recipes import (
    FedAvgRecipe,
    FedOptRecipe,
    FedProxRecipe,
    Run,
    ScaffoldRecipe,
    SimEnv,
)

ROUNDS = 15

torch.manual_seed(1)
torch.set_num_threads(1)  # small matrices: more threads would only get in each other's way
shared = {
    "initial_model": make_net(),
    "num_rounds": ROUNDS,
    "train": train,
    "evaluate": evaluate,
}
adamw = TorchOptimizer(
    torch.optim.AdamW,
    {"lr": 0.1, "betas": (0.6, 0.99), "eps": 1e-3, "weight_decay": 0.0},
    scheduler=torch.optim.lr_scheduler.CosineAnnealingLR,
    scheduler_args={"T_max": ROUNDS},
)
recipes = {
    "FedAvg": FedAvgRecipe(**shared),
    "FedProx": FedProxRecipe(mu=0.01, **shared),
    "SCAFFOLD": ScaffoldRecipe(**shared),
    "FedAdam": FedOptRecipe(name="fedadam", optimizer=Adam(lr=0.03, beta1=0.6), **shared),
    "FedOpt, AdamW": FedOptRecipe(name="fedopt-adamw", optimizer=adamw, **shared),
}
env = SimEnv(num_clients=NUM_SITES, seed=1, progress=False)


def accuracies(run: Run) -> list[float]:
    """That of each round's model; the last one is the final model's."""
    rows = [row for row in run.metrics if row["site"] == "global"]
    return [row["metrics"]["accuracy"] for row in rows]


if __name__ == "__main__":
    print(f"{'accuracy after':15}{'5 rounds':>9}{'10':>7}{ROUNDS:7}")
    for name, recipe in recipes.items():
        run = recipe.execute(env)
        curve = accuracies(run)
        print(f"{name:15}{curve[5]:9.3f}{curve[10]:7.3f}{curve[ROUNDS]:7.3f}", flush=True)
    print("Result can be found in :", run.get_result().parents[1])
    print("Job Status is:", run.get_status())
