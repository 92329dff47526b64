"""covey by script: `covey run job.py`, or `python job.py`, which also checks a big model."""

from __future__ import annotations

from benchmarks.peers.work.big import Big, check
from benchmarks.peers.work.cnn import SmallCNN
from benchmarks.peers.work.settings import Work
from covey.recipes import FedAvgRecipe, SimEnv

work = Work.from_environment()
recipe = FedAvgRecipe(
    name=work.task,
    initial_model=Big() if work.task == "big" else SmallCNN(),
    num_rounds=work.rounds,
    train_script="client.py",
)
# More than 64 processes have to be asked for.
env = SimEnv(work.clients, seed=1, max_processes=max(64, work.clients))

if __name__ == "__main__":
    run = recipe.execute(env)
    if work.task == "big":
        check(run.model())
