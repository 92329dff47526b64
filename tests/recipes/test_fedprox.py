"""FedProx is what its paper says: FedAvg whose clients are held to what they received."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from covey.client import FLModel, proximal_gradient
from covey.recipes import ConfigError, FedAvgRecipe, FedProxRecipe, TrainContext
from tests.recipes import digits
from tests.recipes.digits import LR, ROUNDS, SITES

if TYPE_CHECKING:
    from tests.recipes.conftest import Lab

MU = 0.3

SCRIPT = """
import torch
import covey.client as flare
import digits

flare.init()
site, mu = flare.get_site_name(), flare.get_config()["mu"]
net = torch.nn.Linear(64, 10, dtype=torch.float64)
while flare.is_running():
    model = flare.receive()
    net.load_state_dict(model.params)
    optimizer = torch.optim.SGD(net.parameters(), lr=digits.LR)
    for images, labels in digits.batches(site):
        optimizer.zero_grad()
        scores = net(torch.torch.from_numpy(images))
        loss = torch.nn.functional.cross_entropy(scores, torch.torch.from_numpy(labels))
        (loss + flare.proximal_term(net, model.params, mu)).backward()
        optimizer.step()
    samples = len(digits.of_site(site)[0])
    meta = {"NUM_STEPS_CURRENT_ROUND": samples}
    flare.send(flare.FLModel(params=net.state_dict(), meta=meta))
"""


def oracle(mu: float) -> digits.Model:
    """Algorithm 2 of the paper in one process, each site weighing as many as it has samples."""
    w_t = digits.initial()
    for _ in range(ROUNDS):
        total, samples = {name: np.zeros_like(value) for name, value in w_t.items()}, 0
        for site in digits.names():
            w = {name: value.copy() for name, value in w_t.items()}
            for images, labels in digits.batches(site):
                gradient = digits.gradient(w, images, labels)
                w = {
                    name: w[name] - LR * (gradient[name] + mu * (w[name] - w_t[name])) for name in w
                }
            own = len(digits.of_site(site)[0])
            total = {name: total[name] + own * w[name] for name in w}
            samples += own
        w_t = {name: value / samples for name, value in total.items()}
    return w_t


def train(params: Any, ctx: TrainContext) -> FLModel:
    """Local steps by NumPy."""
    start = {name: value.copy() for name, value in params.items()}
    mu = float(ctx.config.get("mu", 0))  # type: ignore[arg-type]
    for images, labels in digits.batches(ctx.site):
        gradient = digits.gradient(params, images, labels)
        pull = proximal_gradient(params, start, mu)
        for name in params:
            params[name] -= LR * (gradient[name] + pull[name])
    return FLModel(
        params=params, meta={"NUM_STEPS_CURRENT_ROUND": len(digits.of_site(ctx.site)[0])}
    )


def test_by_function_it_is_the_paper_s_algorithm(lab: Lab) -> None:
    recipe = FedProxRecipe(initial_model=digits.initial(), num_rounds=ROUNDS, train=train, mu=MU)
    digits.assert_close(recipe.execute(lab.env(SITES)).model(), oracle(MU))


def test_by_script_it_is_the_paper_s_algorithm(lab: Lab) -> None:
    torch: Any = importlib.import_module("torch")
    shutil.copy(Path(digits.__file__), lab.folder / "digits.py")
    script = lab.client(text=SCRIPT)
    model = {name: torch.from_numpy(value) for name, value in digits.initial().items()}
    recipe = FedProxRecipe(initial_model=model, num_rounds=ROUNDS, train_script=script, mu=MU)
    digits.assert_close(recipe.execute(lab.env(SITES)).model(), oracle(MU))


def test_with_mu_0_it_is_fedavg_and_with_more_it_is_not(lab: Lab) -> None:
    settings: Any = {"initial_model": digits.initial(), "num_rounds": ROUNDS, "train": train}
    plain = FedAvgRecipe(**settings).execute(lab.env(SITES)).model()
    free = FedProxRecipe(mu=0, **settings).execute(lab.env(SITES)).model()
    held = FedProxRecipe(mu=MU, **settings).execute(lab.env(SITES)).model()
    assert all(free[name].tobytes() == plain[name].tobytes() for name in plain)
    assert float(np.abs(held["weight"] - plain["weight"]).max()) > 1e-3


@pytest.mark.parametrize("mu", [-1.0, float("nan"), float("inf"), "0.1", True])
def test_a_mu_that_cannot_work_is_refused(mu: Any) -> None:
    with pytest.raises(ConfigError, match="mu"):
        FedProxRecipe(initial_model=digits.initial(), train=train, mu=mu)


def test_mu_is_a_setting_like_any_other(lab: Lab) -> None:
    recipe = FedProxRecipe(initial_model=digits.initial(), train=train).replace(mu=0.7)
    assert recipe.config() == {"mu": 0.7}
    run = recipe.replace(num_rounds=1).execute(lab.env(SITES))
    assert '"mu": 0.7' in (run.get_result() / "config.json").read_text()
