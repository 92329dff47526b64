"""A client's script lives through the whole run: what it keeps between rounds is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from covey.recipes import FedAvgRecipe, SimEnv

ROUNDS, CLIENTS = 40, 3

CLIENT = """
import os
import covey.client as flare

flare.init()
seen = 0
while flare.is_running():
    model = flare.receive()
    metrics = {"seen": float(seen), "pid": float(os.getpid())}
    seen += 1
    flare.send(flare.FLModel(params=model.params, metrics=metrics))
"""


def test_no_script_is_started_anew_between_rounds(tmp_path: Path) -> None:
    script = tmp_path / "client.py"
    script.write_text(CLIENT)
    recipe = FedAvgRecipe(
        name="state",
        initial_model={"w": np.zeros(2)},
        num_rounds=ROUNDS,
        train_script=script,
        key_metric="seen",
    )
    run = recipe.execute(SimEnv(CLIENTS, workspace=tmp_path / "runs", progress=False))
    rows = [row for row in run.metrics if row["site"] != "global"]
    assert len(rows) == ROUNDS * CLIENTS
    assert {(row["round"], row["metrics"]["seen"]) for row in rows} == {
        (round, float(round)) for round in range(ROUNDS)
    }
    assert len({(row["site"], row["metrics"]["pid"]) for row in rows}) == CLIENTS
