"""nvflare: `python job.py`, its FedAvg recipe in its simulation environment."""

from __future__ import annotations

from pathlib import Path

import torch
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv

from benchmarks.peers.work import big, cnn
from benchmarks.peers.work.settings import Work


def main():
    """Run the work; a big model is looked at in the end."""
    work = Work.from_environment()
    recipe = FedAvgRecipe(
        name=work.task,
        model=big.Big() if work.task == "big" else cnn.SmallCNN(),
        min_clients=work.clients,
        num_rounds=work.rounds,
        train_script="client.py",
        **settings(work),
    )
    run = recipe.execute(SimEnv(num_clients=work.clients, workspace_root=work.folder))
    result = run.get_result()
    if not result:
        raise SystemExit("no result")
    saved = sorted(Path(result).rglob("FL_global_model.pt"))
    state = torch.load(saved[0], map_location="cpu", mmap=True)["model"]
    if work.task == "big":
        big.check({name: torch.as_tensor(value) for name, value in state.items()})


def settings(work):
    """For big models the fastest of the documented ways that it has."""
    if work.task != "big":
        return {}
    from nvflare.client.config import ExchangeFormat

    return {
        "server_expected_format": ExchangeFormat.PYTORCH,
        "enable_tensor_disk_offload": True,
    }


if __name__ == "__main__":
    main()
