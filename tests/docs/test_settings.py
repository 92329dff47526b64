"""Tables of settings, names, keys and codes in pages are those of the code."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import covey.client
from covey import algorithms
from covey.cli.errors import ExitCode
from covey.recipes import (
    EventKind,
    FedAvgRecipe,
    FedBuffRecipe,
    FedEvalRecipe,
    FedOptRecipe,
    Fixed,
    JobFailed,
    Run,
    RunEvent,
    RunStatus,
    SimEnv,
    TrainContext,
)

from .pages import ROOT, rows, section, spans

STABILITY = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


def first_cells(text: str) -> dict[str, list[str]]:
    """Tables' rows by the code spans of their first cells."""
    return {name: row for row in rows(text) for name in spans(row[0])}


@pytest.mark.parametrize("cls", [FedAvgRecipe, FedBuffRecipe, FedEvalRecipe, FedOptRecipe, SimEnv])
def test_settings_and_their_defaults_are_those_of_the_signature(cls: type[Any]) -> None:
    table = first_cells(section(RECIPES, f"## {cls.__name__}"))
    parameters = dict(inspect.signature(cls.__init__).parameters)
    del parameters["self"]
    parameters.pop("settings", None)  # of the recipe that it takes after
    told = {name: row[1] for name, row in table.items() if name in parameters}
    expected = {name: repr(of.default).replace("'", '"') for name, of in parameters.items()}
    assert told == {name: f"`{default}`" for name, default in expected.items()}


def test_server_optimizers_are_told_with_their_defaults() -> None:
    text = section(RECIPES, "## Server optimizers")
    told = [name for name in first_cells(text) if "(" in name]
    assert len(told) == 6
    for call in told:
        name = call.partition("(")[0]
        signature = inspect.signature(getattr(algorithms, name))
        plain = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
        shown = str(inspect.Signature(plain)).replace("*, ", "")
        assert call == f"{name}{shown}"


def test_the_arguments_of_partition_are_those_of_the_code() -> None:
    table = first_cells(section(RECIPES, "### Data for simulated sites"))
    parameters = inspect.signature(algorithms.partition).parameters
    told = {name: row[1] for name, row in table.items() if name in parameters}
    assert told == {
        name: "required" if of.default is of.empty else f"`{of.default!r}`"
        for name, of in parameters.items()
    }


def test_methods_of_runs_and_recipes_exist() -> None:
    from covey.recipes import Run

    for name in first_cells(section(RECIPES, "## The run")):
        plain = name.removeprefix("await ").removeprefix("async for event in ").partition("(")[0]
        assert plain == "seed" or hasattr(Run, plain), name
    for name in first_cells(section(RECIPES, "## FedAvgRecipe")):
        if "(" in name:
            plain = name.removeprefix("await ").partition("(")[0]
            assert hasattr(FedAvgRecipe, plain), name


def test_the_page_of_the_client_api_names_all_that_the_package_offers() -> None:
    text = (ROOT / "docs" / "client-api.md").read_text(encoding="utf-8")
    named = {word for span in spans(text) for word in re.findall(r"\w+", span)}
    assert set(covey.client.__all__) <= named


def test_signatures_of_the_client_api_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "client-api.md").read_text(encoding="utf-8")
    for name in first_cells(section(text, "## Functions")):
        called, opened, arguments = name.rstrip(")").partition("(")
        if opened and (function := getattr(covey.client, called)):
            assert [a.partition("=")[0].strip("* ") for a in arguments.split(",") if a] == list(
                inspect.signature(function).parameters
            )


def test_exit_codes_are_those_of_the_command() -> None:
    pages = ((ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), "## Exit codes")
    for text, heading in (pages, (STABILITY, "## Exit codes of `covey`")):
        told = [int(row[0]) for row in rows(section(text, heading)) if row[0].isdigit()]
        assert told == sorted(code.value for code in ExitCode)


# What a run really writes and tells ----------------------------------------


def train(params: dict[str, Any], ctx: TrainContext) -> object:
    """Log a curve; fail at one site in one round."""
    ctx.log("curve", 1.0)
    if (ctx.site, ctx.round) == ("site-2", 1):
        raise ValueError("as planned")
    return params, {"accuracy": 0.5}


def evaluate(params: dict[str, Any], ctx: TrainContext) -> dict[str, float]:
    del params, ctx
    return {"accuracy": 0.75}


async def followed(workspace: Path, **settings: Any) -> tuple[Path, list[RunEvent]]:
    """A run's folder and all its events."""
    recipe = FedAvgRecipe(initial_model={"w": np.zeros(2)}, train=train, **settings)
    env = SimEnv(2, workspace=workspace, progress=False, seed=1)
    run = await recipe.start(env)
    events = [event async for event in run.events()]
    await run.wait()
    return run.get_result(), events


def test_events_rows_and_summary_have_the_promised_keys(tmp_path: Path) -> None:
    folder, events = asyncio.run(followed(tmp_path, min_clients=1, evaluate=evaluate))
    told = first_cells(section(STABILITY, "## Events"))
    kinds = {kind.value for kind in EventKind}
    assert told.keys() == kinds
    for event in events:
        promised = set(spans(told[event.kind][1]))
        assert promised <= event.data.keys(), event
        more = event.data.keys() - promised
        assert event.kind is EventKind.RUN_FINISHED or not more, event
    seen = {event.kind for event in events}
    assert kinds - seen == {EventKind.WAITING, EventKind.NOTICE}
    check_rows(folder)
    check_keys(folder / "summary.json", "### `summary.json`")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    table = first_cells(section(STABILITY, "## The run folder"))
    assert spans(table["config.json"][2]) == list(config)
    manifest = spans(section(STABILITY, "## The manifest").partition("Keys:")[2])
    assert manifest[: len(config["manifest"])] == list(config["manifest"])
    check_files(folder, set(table))


def test_runs_without_rounds_and_in_virtual_time_have_the_further_keys(tmp_path: Path) -> None:
    common: dict[str, Any] = {"initial_model": {"w": np.zeros(2)}, "train": quietly}
    recipe = FedBuffRecipe(num_rounds=3, buffer_size=2, **common)
    env = SimEnv(2, workspace=tmp_path, progress=False, seed=1)
    by_rounds = FedAvgRecipe(**common).execute(env)
    plain = recipe.execute(env)
    virtual = recipe.execute(env.replace(durations=Fixed(1.0)))
    told = rows(section(STABILITY, "### Keys of some runs alone"))
    keys = {(spans(row[0])[0], row[1], row[2]) for row in told if row[0].startswith("`")}
    usual = summary_keys(by_rounds)
    assert {key for key, where, _ in keys if where == "summary"} == summary_keys(virtual) - usual
    of_asynchronous = {key for key, _, runs in keys if runs == "asynchronous"}
    assert of_asynchronous == summary_keys(plain) - usual
    of_rows = {key for key, where, _ in keys if where == "rows"}
    usual_of_rows = {key for row in plain.metrics for key in row}
    assert {key for row in virtual.metrics for key in row} - usual_of_rows == of_rows


def quietly(params: dict[str, Any], ctx: TrainContext) -> object:
    del ctx
    return params, {"accuracy": 0.5}


def summary_keys(run: Run) -> set[str]:
    return set(json.loads((run.get_result() / "summary.json").read_text()))


def check_rows(folder: Path) -> None:
    """Keys of `metrics.jsonl`."""
    table = first_cells(section(STABILITY, "### `metrics.jsonl`"))
    of_sites = {key for key, row in table.items() if row[1] in ("both", "sites")}
    of_rounds = {key for key, row in table.items() if row[1] in ("both", "global")}
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {row["task"] for row in written} == {"train", "evaluate"}
    for row in written:
        assert row.keys() == (of_rounds if row["site"] == "global" else of_sites)


def check_keys(file: Path, heading: str) -> None:
    table = first_cells(section(STABILITY, heading))
    assert json.loads(file.read_text()).keys() == table.keys()


def check_files(folder: Path, told: set[str]) -> None:
    """No file is there that the page does not name."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith("."):
            assert name in told, name


def test_the_end_of_a_failed_run_has_the_promised_keys(tmp_path: Path) -> None:
    _, events = asyncio.run(followed(tmp_path, min_clients=2))
    _, _, after = section(STABILITY, "## Events").partition("failed in a script has ")
    more = set(spans(after.partition(" too.")[0].replace("\n", " ")))
    assert len(more) == 5
    assert more <= events[-1].data.keys()
    assert events[-1].data["file"] == __file__


def test_statuses_are_those_of_the_code() -> None:
    row = first_cells(section(RECIPES, "## The run"))["get_status()"]
    assert row[1].partition(": ")[2].split(", ") == [status.value for status in RunStatus]


def test_a_failure_carries_what_the_page_says(tmp_path: Path) -> None:
    recipe = FedAvgRecipe(initial_model={"w": np.zeros(2)}, train=train)
    with pytest.raises(JobFailed) as caught:
        recipe.execute(SimEnv(2, workspace=tmp_path, progress=False))
    assert (caught.value.site, caught.value.round) == ("site-2", 1)
    assert caught.value.run.get_status() is RunStatus.FAILED
    assert str(caught.value).splitlines()[-1].strip() == 'raise ValueError("as planned")'
