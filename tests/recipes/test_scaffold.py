"""SCAFFOLD is what its paper says, and its control variates survive whatever a run survives."""

from __future__ import annotations

import importlib
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from covey.algorithms.tensors import read_layout
from covey.client import FLModel
from covey.recipes import ConfigError, FedAvgRecipe, JobFailed, ScaffoldRecipe, TrainContext
from tests.recipes import digits
from tests.recipes.conftest import digest_of, lab_in
from tests.recipes.digits import LR, ROUNDS, SITES

if TYPE_CHECKING:
    from tests.recipes.conftest import Lab

NUMPY = """
import numpy as np
import covey.client as flare
import digits
from pathlib import Path

FOLDER = Path(__file__).parent
RECEIVED = []


def reach(name):
    if (FOLDER / name).exists():
        import os, signal
        (FOLDER / name).write_text(f"{os.getpid()}\\n")
        while True:
            signal.pause()


flare.init()
site = flare.get_site_name()
while flare.is_running():
    model = flare.receive()
    assert set(model.params) == set(model.control) == {"weight", "bias"}
    params = model.params
    scaffold = flare.Scaffold(model)
    for images, labels in digits.batches(site):
        images = images + 0.01 * np.random.standard_normal(images.shape)
        gradient = digits.gradient(params, images, labels)
        scaffold.correct_gradients(gradient)
        for name in params:
            params[name] -= digits.LR * gradient[name]
    answer = scaffold.update(params, lr=digits.LR)
    reach(f"{site}-{model.current_round}")
    flare.send(answer)
"""

TORCH = """
import torch
import covey.client as flare
import digits

flare.init()
site = flare.get_site_name()
net = torch.nn.Linear(64, 10, dtype=torch.float64)
while flare.is_running():
    model = flare.receive()
    net.load_state_dict(model.params)
    optimizer = torch.optim.SGD(net.parameters(), lr=digits.LR)
    scaffold = flare.Scaffold(model)
    for images, labels in digits.batches(site):
        optimizer.zero_grad()
        scores = net(torch.from_numpy(images))
        torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels)).backward()
        scaffold.correct_gradients(net)
        optimizer.step()
    flare.send(scaffold.update(net.state_dict(), lr=digits.LR))
"""

JOB = """
import sys
import digits
from covey.recipes import ScaffoldRecipe, SimEnv

recipe = ScaffoldRecipe(initial_model=digits.initial(), num_rounds=4, train_script="client.py",
    clients_per_round=3)
run = recipe.execute(SimEnv(num_clients=4, seed=5))
"""


def oracle(
    cohorts: Sequence[Sequence[str]],
    server_lr: float = 1.0,
    weights: Mapping[str, float] | None = None,
) -> digits.Model:
    """Algorithm 1 of the paper with option II, in one process; weights p_i where they are given."""
    x = digits.initial()
    c = {name: np.zeros_like(value) for name, value in x.items()}
    c_of = {site: dict(c) for site in digits.names()}
    for cohort in cohorts:
        dx = {name: np.zeros_like(value) for name, value in x.items()}
        dc, total = dict(dx), 0.0
        for site in cohort:
            y, c_i, steps = dict(x), c_of[site], 0
            for images, labels in digits.batches(site):
                g = digits.gradient(y, images, labels)
                y = {name: y[name] - LR * (g[name] - c_i[name] + c[name]) for name in y}
                steps += 1
            plus = {name: c_i[name] - c[name] + (x[name] - y[name]) / (steps * LR) for name in x}
            p = weights[site] if weights else 1.0
            dx = {name: dx[name] + p * (y[name] - x[name]) for name in x}
            dc = {name: dc[name] + p * (plus[name] - c_i[name]) for name in x}
            total += p
            c_of[site] = plus
        share = len(cohort) / SITES
        x = {name: x[name] + server_lr * dx[name] / total for name in x}
        c = {name: c[name] + share * dc[name] / total for name in c}
    return x


def train(params: Any, ctx: TrainContext) -> FLModel:
    """Local steps by NumPy."""
    scaffold = ctx.scaffold(params)
    for images, labels in digits.batches(ctx.site):
        gradient = digits.gradient(params, images, labels)
        scaffold.correct_gradients(gradient)
        for name in gradient:
            params[name] -= LR * gradient[name]
    return scaffold.update(params, lr=LR)


def recipe(**settings: Any) -> ScaffoldRecipe:
    """On the digits, by function."""
    given: dict[str, Any] = {"initial_model": digits.initial(), "num_rounds": ROUNDS}
    if "train_script" not in settings:
        given["train"] = train
    return ScaffoldRecipe(**(given | settings))


def cohorts_of(run: Any) -> list[list[str]]:
    """Who trained in each round."""
    rows = [row for row in run.metrics if row["site"] != "global"]
    number = 1 + max(row["round"] for row in rows)
    return [sorted(r["site"] for r in rows if r["round"] == n) for n in range(number)]


@pytest.mark.parametrize("server_lr", [1.0, 0.6])
def test_with_all_sites_it_is_the_paper_s_algorithm(lab: Lab, server_lr: float) -> None:
    run = recipe(server_lr=server_lr).execute(lab.env(SITES))
    digits.assert_close(run.model(), oracle([digits.names()] * ROUNDS, server_lr))


def test_with_some_of_the_sites_in_each_round_too(lab: Lab) -> None:
    run = recipe(clients_per_round=2, num_rounds=8).execute(lab.env(SITES))
    cohorts = cohorts_of(run)
    assert {len(cohort) for cohort in cohorts} == {2}
    assert len(set(map(tuple, cohorts))) > 1
    digits.assert_close(run.model(), oracle(cohorts))


def test_weights_are_those_of_both_means(lab: Lab) -> None:
    weights = {site: 1.0 + number for number, site in enumerate(digits.names())}
    run = recipe(aggregation_weights=weights).execute(lab.env(SITES))
    digits.assert_close(run.model(), oracle([digits.names()] * ROUNDS, weights=weights))


def test_it_is_not_fedavg(lab: Lab) -> None:
    def plain(params: Any, ctx: TrainContext) -> Any:
        for images, labels in digits.batches(ctx.site):
            gradient = digits.gradient(params, images, labels)
            params = {name: params[name] - LR * gradient[name] for name in params}
        return params

    averaged = FedAvgRecipe(initial_model=digits.initial(), num_rounds=ROUNDS, train=plain)
    model = averaged.execute(lab.env(SITES)).model()
    own = recipe().execute(lab.env(SITES)).model()
    assert float(np.abs(own["weight"] - model["weight"]).max()) > 1e-2


def test_by_a_torch_script_it_is_the_paper_s_algorithm(lab: Lab) -> None:
    torch: Any = importlib.import_module("torch")
    shutil.copy(Path(digits.__file__), lab.folder / "digits.py")
    model = {name: torch.from_numpy(value) for name, value in digits.initial().items()}
    script = lab.client(text=TORCH)
    run = recipe(train_script=script, initial_model=model).execute(lab.env(SITES))
    digits.assert_close(run.model(), oracle([digits.names()] * ROUNDS))


def test_scripts_find_their_control_variates_however_they_run(lab: Lab) -> None:
    shutil.copy(Path(digits.__file__), lab.folder / "digits.py")
    settings = {"train_script": lab.client(text=NUMPY), "num_rounds": 3}
    once = recipe(**settings).execute(lab.env(SITES))
    for way in ({"restart_scripts": True}, {"isolation": "inline"}):
        assert digest_of(recipe(**settings).execute(lab.env(SITES, **way))) == digest_of(once)


def write_job(lab: Lab) -> None:
    """A run of four rounds by scripts, as a command."""
    shutil.copy(Path(digits.__file__), lab.folder / "digits.py")
    lab.client(text=NUMPY)
    (lab.folder / "job.py").write_text(JOB)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Digest of the model of that run where nothing cuts it off."""
    with lab_in(tmp_path_factory.mktemp("undisturbed")) as lab:
        write_job(lab)
        done = lab.run()
        assert done.returncode == 0, done.stderr
        yield digest_of(lab.folder_of())


@pytest.mark.parametrize("place", ["site-2-1", "site-3-2"])
def test_a_run_that_was_cut_off_ends_with_the_same_bytes(
    lab: Lab, undisturbed: str, place: str
) -> None:
    write_job(lab)
    # Killed when some sites of the round have kept their new c_i, and others have not.
    lab.kill_at(place)
    resumed = lab.run()
    assert "resuming" in resumed.stdout, resumed.stderr
    folder = lab.folder_of()
    assert digest_of(folder) == undisturbed
    assert not (folder / "checkpoint").exists()


FUNCTIONS = """
import os
import signal

import digits
from covey.recipes import ScaffoldRecipe, SimEnv


def train(params, ctx):
    scaffold = ctx.scaffold(params)
    for images, labels in digits.batches(ctx.site):
        gradient = digits.gradient(params, images + 0.01 * ctx.rng.normal(size=64), labels)
        scaffold.correct_gradients(gradient)
        for name in params:
            params[name] -= digits.LR * gradient[name]
    answer = scaffold.update(params, lr=digits.LR)
    if (ctx.site, str(ctx.round)) == ("site-3", os.environ.get("KILL_AT")):
        os.kill(os.getpid(), signal.SIGKILL)
    return answer


recipe = ScaffoldRecipe(initial_model=digits.initial(), num_rounds=4, train=train,
    clients_per_round=3)
recipe.execute(SimEnv(num_clients=4, seed=5))
"""


def test_functions_go_on_with_the_same_bytes_too(lab: Lab) -> None:
    shutil.copy(Path(digits.__file__), lab.folder / "digits.py")
    (lab.folder / "job.py").write_text(FUNCTIONS)
    assert lab.run(KILL_AT="2").returncode == -signal.SIGKILL
    resumed = lab.run()
    assert "resuming an unfinished run at round 2" in resumed.stdout, resumed.stderr
    undisturbed = lab.run(COVEY_FRESH="1")
    assert undisturbed.returncode == 0, undisturbed.stderr
    first, second = lab.folders()
    assert digest_of(first) == digest_of(second)


# What is in which file --------------------------------------------------------


def mixed() -> dict[str, Any]:
    """A model of several element types."""
    return {
        "w": np.linspace(-1, 1, 5),
        "f": np.ones((2, 3), np.float32),
        "h": np.ones(3, np.float16),
        "count": np.array([4, 5], np.int64),
        "mask": np.array([True, False]),
        "keep": np.array([7.0], np.float32),
    }


def move(params: Any, ctx: TrainContext) -> FLModel:
    """One step of a gradient of ones."""
    assert ctx.control is not None
    assert set(ctx.control) == {"w", "f", "h"}
    assert ctx.control["h"].dtype == np.float32
    scaffold = ctx.scaffold(params)
    gradient = {name: np.ones_like(params[name]) for name in ("w", "f", "h", "keep")}
    scaffold.correct_gradients(gradient)
    for name, value in gradient.items():
        params[name] = params[name] - np.asarray(0.5, value.dtype) * value
    params["count"] = params["count"] + 1
    return scaffold.update(params, lr=0.5, metrics={"accuracy": float(ctx.round)})


def test_files_hold_the_model_alone_and_excluded_variables_have_no_control(lab: Lab) -> None:
    start = mixed()
    settings = {"initial_model": start, "train": move, "num_rounds": 3, "exclude_vars": ["keep"]}
    run = recipe(**settings).execute(lab.env(2))
    for name in ("model.safetensors", "best_model.safetensors"):
        names = [spec.name for spec in read_layout(run.get_result() / name).specs]
        assert sorted(names) == sorted(start)
    model = run.model()
    np.testing.assert_allclose(model["w"], start["w"] - 1.5)
    np.testing.assert_allclose(model["f"], start["f"] - 1.5)
    np.testing.assert_allclose(model["h"], start["h"] - 1.5)
    assert model["count"].tolist() == [7, 8]
    assert model["mask"].tolist() == [True, False]
    assert model["keep"].tolist() == [7.0]
    np.testing.assert_allclose(run.best_model()["w"], start["w"] - 1.0)  # of round 2


def test_a_model_file_can_be_where_it_begins(lab: Lab) -> None:
    first = recipe(num_rounds=1).execute(lab.env(SITES))
    path = first.get_result() / "model.safetensors"
    run = recipe(initial_model=path, num_rounds=1).execute(lab.env(SITES))
    assert set(run.model()) == {"weight", "bias"}


def test_a_function_that_forgets_the_control_variates_is_told(lab: Lab) -> None:
    def forgetful(params: Any, ctx: TrainContext) -> Any:
        del ctx
        return params

    with pytest.raises(JobFailed, match=r"return.*ctx\.scaffold\(params\)\.update"):
        recipe(train=forgetful).execute(lab.env(SITES))


def test_a_script_that_forgets_the_control_variates_is_told(lab: Lab) -> None:
    shutil.copy(Path(digits.__file__), lab.folder / "digits.py")
    text = NUMPY.replace("flare.send(answer)", "flare.send(flare.FLModel(params=params))")
    with pytest.raises(JobFailed, match=r"send what Scaffold\.update\(\) returns"):
        recipe(train_script=lab.client(text=text)).execute(lab.env(SITES))


def test_scaffold_without_its_recipe_is_refused(lab: Lab) -> None:
    averaged = FedAvgRecipe(initial_model=digits.initial(), train=train)
    with pytest.raises(JobFailed, match="come from a ScaffoldRecipe"):
        averaged.execute(lab.env(SITES))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"server_lr": 0}, "server_lr"),
        ({"server_lr": "1"}, "server_lr"),
        ({"initial_model": {"covey.control.w": np.zeros(2)}}, "are taken"),
        ({"initial_model": {"w" * 250: np.zeros(2)}}, "initial_model"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        recipe(**settings)
