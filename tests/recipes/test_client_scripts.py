"""Scripts written for NVIDIA FLARE's Client API run when their import lines are changed."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from covey.recipes import JobFailed, Run, add_experiment_tracking

if TYPE_CHECKING:
    from tests.recipes.conftest import Lab

#: As such scripts look, two lines apart: those that import the Client API.
TORCH = """
import argparse
import os

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import nvflare.client as flare
from nvflare.client.tracking import SummaryWriter


class SimpleNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.fc2 = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc2(torch.relu(self.norm(self.fc1(x))))


def evaluate(net, data_loader, device):
    net.eval()
    correct, total = 0, 0
    with torch.no_grad():
        for inputs, labels in data_loader:
            outputs = net(inputs.to(device))
            correct += (outputs.argmax(1) == labels.to(device)).sum().item()
            total += labels.size(0)
    return 100 * correct // total


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=1)
    args = parser.parse_args()

    flare.init()
    sys_info = flare.system_info()
    client_name = sys_info["site_name"]

    generator = torch.Generator().manual_seed(hash(client_name) % 2 + 1)
    inputs = torch.randn(32, 4, generator=generator)
    labels = (inputs.sum(1) > 0).long()
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=args.batch_size, shuffle=True)

    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model = SimpleNetwork().to(device)
    loss_fn = nn.CrossEntropyLoss()
    summary_writer = SummaryWriter()
    best_accuracy = 0.0

    while flare.is_running():
        input_model = flare.receive()
        print(f"site = {client_name}, current_round={input_model.current_round}")

        model.load_state_dict(input_model.params)
        model.to(device)

        if flare.is_evaluate():
            accuracy = evaluate(model, loader, device)
            flare.send(flare.FLModel(metrics={"accuracy": accuracy}))
            continue
        if flare.is_submit_model():
            flare.send(flare.FLModel(params=model.cpu().state_dict()))
            continue

        accuracy = evaluate(model, loader, device)
        summary_writer.add_scalar("global_accuracy", accuracy, input_model.current_round)

        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        steps = args.epochs * len(loader)
        model.train()
        for epoch in range(args.epochs):
            running_loss = 0.0
            for i, (batch, target) in enumerate(loader):
                optimizer.zero_grad()
                loss = loss_fn(model(batch.to(device)), target.to(device))
                loss.backward()
                optimizer.step()
                running_loss += loss.item()
                global_step = input_model.current_round * steps + epoch * len(loader) + i
                summary_writer.add_scalar("loss", loss.item(), global_step)

        output_model = flare.FLModel(
            params=model.cpu().state_dict(),
            metrics={"accuracy": accuracy},
            meta={"NUM_STEPS_CURRENT_ROUND": steps},
        )
        flare.send(output_model)


if __name__ == "__main__":
    main()
"""

NUMPY = """
import argparse
import copy

import numpy as np
import pytest

import nvflare.client as flare
from nvflare.client.tracking import SummaryWriter


def train(input_arr):
    output_arr = copy.deepcopy(input_arr)
    return output_arr + 1


def evaluate(arr):
    return np.mean(arr)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--update_type", choices=["full", "diff"], default="full")
    args = parser.parse_args()

    flare.init()
    summary_writer = SummaryWriter()

    sys_info = flare.system_info()
    print(f"system info is: {sys_info}", flush=True)

    while flare.is_running():
        input_model = flare.receive()
        print(f"current_round={input_model.current_round}", flush=True)
        input_arr = input_model.params["numpy_key"]
        metric = evaluate(input_arr)
        summary_writer.add_scalar("weight_mean", metric, global_step=input_model.current_round)
        output_arr = train(input_arr)
        if args.update_type == "diff":
            params, params_type = output_arr - input_arr, flare.ParamsType.DIFF
        else:
            params, params_type = output_arr, flare.ParamsType.FULL
        flare.send(
            flare.FLModel(
                params={"numpy_key": params},
                params_type=params_type,
                metrics={"weight_mean": metric},
                current_round=input_model.current_round,
                meta={"NUM_STEPS_CURRENT_ROUND": 1},
            )
        )


if __name__ == "__main__":
    main()
"""


def only_the_imports_changed(script: str) -> str:
    return script.replace("nvflare.client", "covey.client")


def curves_of(run: Run) -> dict[str, dict[str, dict[int, float]]]:
    """What TensorBoard's own reader finds: site -> curve -> step -> value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves: dict[str, dict[str, dict[int, float]]] = defaultdict(dict)
    for folder in sorted((run.get_result() / "tracking" / "tensorboard").iterdir()):
        reader: Any = EventAccumulator(str(folder))
        reader.Reload()
        for tag in reader.Tags()["scalars"]:
            curves[folder.name][tag] = {event.step: event.value for event in reader.Scalars(tag)}
    return curves


def test_a_numpy_script_with_its_curves(lab: Lab) -> None:
    lab.client(text=only_the_imports_changed(NUMPY))
    for update_type in ("full", "diff"):
        recipe = lab.recipe(
            initial_model={"numpy_key": np.arange(9, dtype=np.float64).reshape(3, 3)},
            key_metric="weight_mean",
            train_args=f"--update_type {update_type}",
        )
        add_experiment_tracking(recipe, tracking_type="tensorboard")
        run = recipe.execute(lab.env(2))
        np.testing.assert_array_equal(run.model()["numpy_key"], np.arange(9.0).reshape(3, 3) + 3)
        curves = curves_of(run)
        assert set(curves) == {"site-1", "site-2", "global"}
        for site in curves:
            assert curves[site]["weight_mean"] == {0: 4.0, 1: 5.0, 2: 6.0}


def test_a_torch_script_that_evaluates_what_it_receives(lab: Lab) -> None:
    import torch

    script = only_the_imports_changed(TORCH)
    lab.client(text=script)
    namespace: dict[str, Any] = {"__name__": "model"}
    exec(compile(script.split("def evaluate")[0], "model.py", "exec"), namespace)
    recipe = lab.recipe(
        initial_model=namespace["SimpleNetwork"](), num_rounds=3, train_args="--batch_size 8"
    )
    add_experiment_tracking(recipe)
    run = recipe.execute(lab.env(2))

    curves = curves_of(run)
    assert set(curves) == {"site-1", "site-2", "global"}
    for site in ("site-1", "site-2"):
        assert set(curves[site]["global_accuracy"]) == {0, 1, 2}
        assert set(curves[site]["loss"]) == set(range(12))  # 32 samples in batches of 8
        assert set(curves[site]["accuracy"]) == {0, 1, 2, 3}  # 3: the last model, evaluated
    assert set(curves["global"]["accuracy"]) == {0, 1, 2, 3}
    rows = [row for row in run.metrics if row["site"] == "global"]
    assert [row["task"] for row in rows] == ["train"] * 3 + ["evaluate"]
    assert curves["global"]["accuracy"] == {
        row["round"]: row["metrics"]["accuracy"] for row in rows
    }
    assert isinstance(run.model()["fc1.weight"], torch.Tensor)
    assert run.model()["norm.num_batches_tracked"].item() == 12


def test_the_log_of_a_site_has_what_its_script_printed(lab: Lab) -> None:
    lab.client(text=only_the_imports_changed(NUMPY))
    run = lab.recipe(initial_model={"numpy_key": np.zeros(2)}).execute(lab.env(2))
    log = (run.get_result() / "logs" / "site-2.log").read_text().splitlines()
    assert log[0].startswith("system info is: {")
    assert "'site_name': 'site-2'" in log[0]
    assert log[1:] == [f"current_round={i}" for i in range(3)]


def test_rows_of_metrics_are_plain_json(lab: Lab) -> None:
    lab.client("metrics['broken'] = float('nan')")
    run = lab.recipe(num_rounds=1).execute(lab.env(2))
    text = Path(run.get_result() / "metrics.jsonl").read_text()
    rows = [json.loads(line, parse_constant=lambda name: 1 / 0) for line in text.splitlines()]
    assert [row["site"] for row in rows][-1] == "global"
    assert rows[0]["metrics"] == {"accuracy": 0.0, "broken": None}
    assert {row["weight"] for row in rows[:-1]} == {1.0, 2.0}


def test_what_argparse_printed_is_in_the_error(lab: Lab) -> None:
    lab.client(text="import argparse\nargparse.ArgumentParser(prog='client.py').parse_args()\n")
    with pytest.raises(JobFailed) as caught:
        lab.recipe(train_args="--epocs 3", num_rounds=1).execute(lab.env(2))
    told = str(caught.value).splitlines()
    assert told[0].endswith(
        "SystemExit: sys.exit(2), after printing: "
        "client.py: error: unrecognized arguments: --epocs 3"
    )
    assert told[1] == "  usage: client.py [-h]"
    assert told[-1] == "    argparse.ArgumentParser(prog='client.py').parse_args()"
