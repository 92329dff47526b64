"""Cyclic weight transfer: one site after the other, each from where the last one stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from covey.algorithms.cyclic import site_of_turn
from covey.recipes import ConfigError, CyclicRecipe, JobFailed, Run, TrainContext
from tests.recipes import digits
from tests.recipes.conftest import digest_of
from tests.recipes.digits import LR, ROUNDS, SITES

if TYPE_CHECKING:
    from tests.recipes.conftest import Lab


def local(model: digits.Model, site: str) -> digits.Model:
    """What a site makes of a model."""
    for images, labels in digits.batches(site):
        gradient = digits.gradient(model, images, labels)
        model = {name: model[name] - LR * gradient[name] for name in model}
    return model


def train(params: Any, ctx: TrainContext) -> Any:
    """Local steps by NumPy."""
    return local(params, ctx.site), {"accuracy": digits.accuracy(params, ctx.site)}


def recipe(**settings: Any) -> CyclicRecipe:
    given: dict[str, Any] = {
        "initial_model": digits.initial(),
        "num_rounds": ROUNDS,
        "train": train,
    }
    return CyclicRecipe(**(given | settings))


def turns(run: Run) -> list[str]:
    """Whose turn it was, in order."""
    rows = [row for row in run.metrics if row["site"] != "global"]
    assert [row["round"] for row in rows] == list(range(len(rows)))
    return [row["site"] for row in rows]


def oracle(order: Sequence[str]) -> digits.Model:
    """The weights go from site to site."""
    model = digits.initial()
    for site in order:
        model = local(model, site)
    return model


def test_the_model_goes_round_in_the_order_of_the_sites(lab: Lab) -> None:
    run = recipe().execute(lab.env(SITES))
    assert turns(run) == digits.names() * ROUNDS
    digits.assert_close(run.model(), oracle(digits.names() * ROUNDS), relative=0)


def test_a_random_order_is_drawn_for_every_cycle_and_is_the_same_again(lab: Lab) -> None:
    run = recipe(order="random").execute(lab.env(SITES))
    order = turns(run)
    cycles = [order[start : start + SITES] for start in range(0, len(order), SITES)]
    assert all(sorted(cycle) == digits.names() for cycle in cycles)
    assert len(set(map(tuple, cycles))) > 1
    digits.assert_close(run.model(), oracle(order), relative=0)
    again = recipe(order="random").execute(lab.env(SITES))
    assert turns(again) == order
    assert digest_of(again) == digest_of(run)
    other = recipe(order="random").execute(lab.env(SITES, seed=6))
    assert turns(other) != order


def test_every_site_has_one_turn_in_a_cycle() -> None:
    sites = [f"s{i}" for i in range(7)]
    for order in ("fixed", "random"):
        for cycle in range(20):
            drawn = [site_of_turn(7 * cycle + place, sites, 3, order) for place in range(7)]
            assert sorted(drawn) == sites


def test_a_site_that_fails_in_its_turn_fails_the_run_and_the_last_model_stays(lab: Lab) -> None:
    def failing(params: Any, ctx: TrainContext) -> Any:
        if ctx.round == 5:
            raise ValueError("out of order")
        return train(params, ctx)

    with pytest.raises(JobFailed, match="out of order") as caught:
        recipe(train=failing).execute(lab.env(SITES))
    assert (caught.value.site, caught.value.round) == ("site-2", 5)
    digits.assert_close(caught.value.run.model(), oracle([*digits.names(), "site-1"]), relative=0)


def test_a_run_that_was_cut_off_goes_on_at_the_turn_it_was_at(lab: Lab) -> None:
    lab.client("reach(f'round-{round}')")
    lab.job("{'name': 'turns', 'num_rounds': 2}")
    text = (lab.folder / "job.py").read_text().replace("FedAvgRecipe", "CyclicRecipe")
    (lab.folder / "job.py").write_text(text)
    lab.kill_at("round-4")
    done = lab.run()
    assert done.returncode == 0, done.stderr
    resumed = lab.folder_of()
    assert "resuming an unfinished run at round 4" in done.stdout
    assert json.loads((resumed / "summary.json").read_text())["rounds"] == 6
    undisturbed = lab.run(COVEY_FRESH="1")
    assert undisturbed.returncode == 0, undisturbed.stderr
    digests = {digest_of(folder) for folder in lab.folders()}
    assert len(digests) == 1
    lab.check_no_process_left()


@pytest.mark.parametrize(
    "settings",
    [
        {"min_clients": 1},
        {"clients_per_round": 2},
        {"aggregation_weights": {"site-1": 2.0}},
        {"order": "rondom"},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        recipe(**settings)
