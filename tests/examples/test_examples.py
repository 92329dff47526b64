"""Every example and every template runs as its README says, and learns what it should."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TEMPLATES = ROOT / "cli" / "templates"
COVEY = Path(sys.executable).with_name("covey")

#: template, example, sites, rounds, accuracy of the final model
EVERY = [
    ("torch", "hello_digits", 4, 5, 0.95),
    ("numpy", "hello_numpy", 3, 5, 0.9),
    ("sklearn", "hello_sklearn", 3, 5, 0.9),
]
WITHOUT_TORCH = ("hello_numpy", "hello_sklearn")


def run(folder: Path, *command: str) -> str:
    """Run a command in a folder, with run folders below it; gives its output."""
    env = {**os.environ, "COVEY_WORKSPACE": str(folder / "covey_runs")}
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def rows(result: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (result / "metrics.jsonl").read_text().splitlines()]


def check(result: Path, sites: int, rounds: int, accuracy: float) -> None:
    """A run's folder: status, and the final model as measured by every site."""
    summary: dict[str, Any] = json.loads((result / "summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("completed", rounds)
    last = [row for row in rows(result) if row["task"] == "evaluate"]
    assert len(last) == sites + 1
    assert {row["round"] for row in last} == {rounds}
    assert min(row["metrics"]["accuracy"] for row in last) >= accuracy
    assert summary["best_value"] >= accuracy


@dataclass(frozen=True)
class Done:
    """An example that has run by `python job.py`: its output, and the run's folder."""

    out: str
    result: Path


#: Tells at the end of a process whether it has loaded torch.
REPORT = "\nimport atexit, sys\natexit.register(lambda: print('torch' in sys.modules))\n"


def with_report(folder: Path) -> None:
    """Let the example in a folder report."""
    for script in ("client.py", "job.py"):
        source = (folder / script).read_text()
        head, future, rest = source.partition("from __future__ import annotations\n")
        (folder / script).write_text(head + future + REPORT + rest)


@pytest.fixture(scope="module")
def example_that_ran(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Done]:
    """Run an example, once for all tests; those that need no torch report whether they load it."""

    @cache
    def ran(example: str) -> Done:
        folder = copied(tmp_path_factory.mktemp("examples"), example)
        if example in WITHOUT_TORCH:
            with_report(folder)
        out = run(folder, sys.executable, "job.py")
        (result,) = (folder / "covey_runs").glob("*/*")
        return Done(out, result)

    return ran


@pytest.mark.parametrize(("example", "sites", "rounds", "accuracy"), [row[1:] for row in EVERY])
def test_an_example_runs_by_python_and_prints_status_and_folder(
    example_that_ran: Callable[[str], Done], example: str, sites: int, rounds: int, accuracy: float
) -> None:
    done = example_that_ran(example)
    check(done.result, sites, rounds, accuracy)
    assert f"Result can be found in : {done.result}" in done.out
    assert "Job Status is: completed" in done.out
    assert len(done.out.splitlines()) <= 30
    if example == "hello_digits":
        check_curves(done.result, sites, rounds)


def copied(tmp_path: Path, example: str) -> Path:
    folder = tmp_path / example
    shutil.copytree(
        EXAMPLES / example, folder, ignore=shutil.ignore_patterns("__pycache__", "covey_runs")
    )
    return folder


def numbers_in(line: str) -> list[float]:
    return [float(word) for word in line.split() if re.fullmatch(r"\d+\.\d+", word)]


def test_nobody_waits_in_the_example_of_asynchronous_training(tmp_path: Path) -> None:
    folder = copied(tmp_path, "fedbuff_digits")
    out = run(folder, sys.executable, "job.py")
    last = [line for line in out.splitlines() if line.endswith(" virtual seconds")]
    told = {line.split()[0]: numbers_in(line) for line in last}
    assert told.keys() == {"FedAvg", "FedBuff"}
    assert min(accuracy for accuracy, _ in told.values()) >= 0.92
    assert told["FedBuff"][1] <= 0.35 * told["FedAvg"][1]
    for job in ("fedavg-digits", "fedbuff-digits"):
        (result,) = (folder / "covey_runs" / job).glob("*")
        summary = json.loads((result / "summary.json").read_text())
        assert summary["status"] == "completed"
        assert summary["stopped_by"].startswith("stop_cond")


def test_covey_run_takes_fedbuff_of_the_example_of_asynchronous_training(tmp_path: Path) -> None:
    folder = copied(tmp_path, "fedbuff_digits")
    run(folder, str(COVEY), "run", "--rounds", "5")
    (result,) = (folder / "covey_runs").glob("*/*")
    summary = json.loads((result / "summary.json").read_text())
    assert (summary["name"], summary["status"], summary["rounds"]) == (
        "fedbuff-digits", "completed", 5,
    )  # fmt: skip


def test_what_helps_where_sites_differ_helps_in_the_example_of_algorithms(tmp_path: Path) -> None:
    folder = copied(tmp_path, "algorithms_digits")
    out = run(folder, sys.executable, "job.py")
    final = {line[:15].rstrip(): numbers_in(line)[-1:] for line in out.splitlines()}
    accuracy = {name: values[0] for name, values in final.items() if values}
    assert accuracy.keys() == {"FedAvg", "FedProx", "SCAFFOLD", "FedAdam", "FedOpt, AdamW"}
    assert accuracy["FedAvg"] >= 0.7
    assert abs(accuracy["FedProx"] - accuracy["FedAvg"]) <= 0.02
    for better in ("SCAFFOLD", "FedAdam", "FedOpt, AdamW"):
        assert accuracy[better] >= accuracy["FedAvg"] + 0.02, out
    assert len(list(folder.glob("covey_runs/*/*/summary.json"))) == 5


def check_curves(result: Path, sites: int, rounds: int) -> None:
    """Curves of every site and of the global model, by TensorBoard's own reader."""
    # TensorBoard's modules carry no types.
    accumulator: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracking = result / "tracking" / "tensorboard"
    names = {f"site-{number}" for number in range(1, sites + 1)}
    assert {folder.name for folder in tracking.iterdir()} == {"global", *names}
    for name in ("global", *names):
        reader: Any = accumulator.EventAccumulator(str(tracking / name))
        reader.Reload()
        steps = [event.step for event in reader.Scalars("accuracy")]
        assert steps == list(range(rounds + 1))
        if name != "global":  # three epochs in each round, at the script's own steps
            losses = [event.step for event in reader.Scalars("train_loss")]
            assert losses == list(range(3 * rounds))


@pytest.mark.parametrize(("template", "example", "sites", "rounds", "accuracy"), EVERY)
def test_a_template_runs_by_covey_run(
    tmp_path: Path, template: str, example: str, sites: int, rounds: int, accuracy: float
) -> None:
    del example
    run(tmp_path, str(COVEY), "new", "demo", "--template", template)
    run(tmp_path / "demo", str(COVEY), "run")
    (result,) = (tmp_path / "demo" / "covey_runs" / "demo").glob("*")
    check(result, sites, rounds, accuracy)


@pytest.mark.parametrize(("template", "example"), [row[:2] for row in EVERY])
def test_a_template_is_its_example(template: str, example: str) -> None:
    copies = {file.name.removesuffix(".txt"): file for file in (TEMPLATES / template).iterdir()}
    originals = {file.name: file for file in (EXAMPLES / example).iterdir() if file.is_file()}
    assert copies.keys() == originals.keys()
    for name, original in originals.items():
        assert copies[name].read_bytes() == original.read_bytes(), f"copy {original} again"


@pytest.mark.parametrize("example", WITHOUT_TORCH)
def test_an_example_without_torch_never_loads_it(
    example_that_ran: Callable[[str], Done], example: str
) -> None:
    done = example_that_ran(example)
    assert done.out.splitlines()[-1] == "False"
    logs = list(done.result.glob("logs/site-*.log"))
    assert len(logs) == 3
    assert all(log.read_text().splitlines()[-1] == "False" for log in logs)
