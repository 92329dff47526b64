"""Reading curves back with the packages' own readers.

Each works in a process of its own: importing MLflow or wandb changes the process it is done in.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from covey.actors.observe.recorder import environment

#: Step -> value. A round that was done again has two values; the later one counts.
Curve = dict[int, Any]

_MLFLOW = """
import json
from mlflow import MlflowClient

client = MlflowClient(tracking_uri="sqlite:///mlflow.db")
found = []
for experiment in client.search_experiments():
    for run in client.search_runs([experiment.experiment_id]):
        curves = {}
        for key in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, key)
            history = sorted(history, key=lambda m: m.timestamp)
            curves[key] = [(m.step, m.value, m.timestamp) for m in history]
        found.append({
            "experiment": experiment.name,
            "id": run.info.run_id,
            "name": run.info.run_name,
            "status": run.info.status,
            "params": run.data.params,
            "tags": run.data.tags,
            "artifacts": [a.path for a in client.list_artifacts(run.info.run_id)],
            "curves": curves,
        })
print(json.dumps(found))
"""


@dataclass
class Kept:
    """A run as a package's reader gives it: its curves, and all that it says of the run."""

    curves: dict[str, Curve] = field(default_factory=dict[str, Curve])
    about: dict[str, Any] = field(default_factory=dict[str, Any])


def mlflow_runs(folder: Path) -> dict[str, Kept]:
    """The runs of MLflow's store in a folder, by site."""
    variables = environment({"MLFLOW_DISABLE_TELEMETRY": "true"}, "MLFLOW_")
    done = subprocess.run(
        [sys.executable, "-P", "-c", _MLFLOW],
        cwd=folder,
        env=variables,
        capture_output=True,
        check=True,
    )
    kept: dict[str, Kept] = {}
    for run in json.loads(done.stdout):
        curves = {
            name: {step: value for step, value, _ in curve} for name, curve in run["curves"].items()
        }
        site = run["tags"]["covey.site"]
        assert site not in kept, "a site has one run"
        kept[site] = Kept(curves, run)
    return kept


def wandb_runs(folder: Path) -> dict[str, Kept]:
    """The offline runs in a folder, by site; parts of a run that was resumed are put together."""
    kept: dict[str, Kept] = {}
    for path in sorted(folder.glob("offline-run-*/run-*.wandb")):
        records = wandb_records(path)
        (run,) = (record["run"] for record in records if record["type"] == "run")
        config: dict[str, Any] = run["config"]["update"]
        for record in records:
            if record["type"] == "config":
                config |= record["config"]["update"]
        site = kept.setdefault(config["site"], Kept(about={"parts": [], "rows": []}))
        site.about["parts"].append({"run": run, "config": config, "end": _end(records)})
        for record in records:
            if record["type"] == "history":
                _add(site, record["history"]["item"])
    return kept


def _end(records: list[Any]) -> Any:
    """The code that a run ended with, None if it did not end."""
    ends = [record["exit"] for record in records if record["type"] == "exit"]
    return ends[0].get("exit_code", 0) if ends else None


def _add(site: Kept, row: dict[str, Any]) -> None:
    own = {name: value for name, value in row.items() if not name.startswith("_")}
    (axis,) = (name for name in ("step", "round") if name in own)
    step = own.pop(axis)
    site.about["rows"].append(row["_step"])
    for name, value in own.items():
        site.curves.setdefault(name, {})[step] = value


def wandb_records(path: Path) -> list[Any]:
    """The records of one of wandb's files, as `wandb leet inspect --json` prints them."""
    private = str(path.parent / "tmp")
    variables = {f"WANDB_{kind}_DIR": private for kind in ("CACHE", "CONFIG", "DATA")}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "wandb", "leet", "inspect", "--json", str(path)],
        cwd=path.parent / "tmp",
        env=environment(variables | {"WANDB_MODE": "offline"}, "WANDB_"),
        capture_output=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]
