"""Virtual time is in a run's rows, its summary and its lines; real time knows nothing of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from covey.recipes import FedBuffRecipe, Fixed, JobFailed, Run, TrainContext

if TYPE_CHECKING:
    from tests.recipes.conftest import Lab


def train(params: dict[str, Any], ctx: TrainContext) -> object:
    return params, {"accuracy": ctx.round / 10}


def buffered() -> FedBuffRecipe:
    return FedBuffRecipe(
        name="job", initial_model={"w": np.zeros(1)}, train=train, num_rounds=3, buffer_size=2
    )


def summary_of(run: Run) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run.get_result() / "summary.json").read_text())
    return summary


def times(run: Run, overall: bool) -> list[float | None]:
    return [r.get("virtual_seconds") for r in run.metrics if (r["site"] == "global") == overall]


def test_rounds_and_the_summary_have_virtual_time(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = lab.recipe(train=train, num_rounds=3)
    run = recipe.execute(lab.env(2, durations=Fixed(2.5), progress=True))
    assert times(run, overall=True) == [0.0, 2.5, 5.0]
    assert set(times(run, overall=False)) == {None}
    assert summary_of(run)["virtual_seconds"] == 7.5
    told = capsys.readouterr().out
    assert "  at virtual 2.5 s  " in told
    assert ", 7.5 s in virtual time\n" in told


def test_versions_their_updates_and_the_summary_have_virtual_time(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    run = buffered().execute(lab.env(2, durations=Fixed(2.5), progress=True))
    assert times(run, overall=True) == [0.0, 2.5, 5.0]
    assert times(run, overall=False) == [2.5] * 6
    assert summary_of(run)["virtual_seconds"] == 7.5
    assert "7.5 s in virtual time" in capsys.readouterr().out


def test_a_failed_run_has_virtual_time_too(lab: Lab) -> None:
    def fails(params: dict[str, Any], ctx: TrainContext) -> object:
        if ctx.round == 2:
            raise LookupError
        return params

    with pytest.raises(JobFailed) as caught:
        lab.recipe(train=fails).execute(lab.env(2, durations=Fixed(2.5)))
    assert summary_of(caught.value.run)["virtual_seconds"] == 5.0


def test_real_time_has_none(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    run = buffered().execute(lab.env(2, progress=True))
    assert set(times(run, overall=True)) == set(times(run, overall=False)) == {None}
    assert "virtual_seconds" not in summary_of(run)
    assert "virtual" not in capsys.readouterr().out
