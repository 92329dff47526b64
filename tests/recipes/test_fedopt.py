"""FedOpt's family is what its paper says, and FedAvg is its plainest member."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from covey.algorithms import SGD, Adagrad, Adam, ServerOptimizer, Yogi
from covey.recipes import ConfigError, FedAvgRecipe, FedOptRecipe, TrainContext
from tests.recipes import digits
from tests.recipes.digits import LR, ROUNDS, SITES, Array

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
    return local(params, ctx.site)


class Server:
    """Algorithm 2 of Reddi et al. (2021), lines 9 to 13, for one tensor; and FedAvgM's server."""

    def __init__(self, optimizer: Any, x: Array) -> None:
        self.x = x
        self.optimizer = optimizer
        self.m = np.zeros_like(x)
        self.v = np.full_like(x, getattr(optimizer, "tau", 0.0) ** 2)

    def step(self, delta: Array, scale: float) -> None:
        o, name = self.optimizer, type(self.optimizer).__name__
        if name == "SGD":
            self.m = o.momentum * self.m + delta
            self.x = self.x + scale * o.lr * self.m
            return
        self.m = o.beta1 * self.m + (1 - o.beta1) * delta
        if name == "Adagrad":
            self.v = self.v + delta**2
        elif name == "Yogi":
            self.v = self.v - (1 - o.beta2) * delta**2 * np.sign(self.v - delta**2)
        else:
            self.v = o.beta2 * self.v + (1 - o.beta2) * delta**2
        self.x = self.x + scale * o.lr * self.m / (np.sqrt(self.v) + o.tau)


def halved(number: int) -> float:
    """A schedule."""
    return 0.5 ** (number - 1)


def oracle(optimizer: Any, scheduled: bool) -> digits.Model:
    """Five rounds in one process."""
    servers = {name: Server(optimizer, value) for name, value in digits.initial().items()}
    for t in range(ROUNDS):
        x = {name: server.x for name, server in servers.items()}
        locals_ = [local(x, site) for site in digits.names()]
        for name, server in servers.items():
            delta = np.mean([own[name] - x[name] for own in locals_], axis=0)
            server.step(delta, halved(t + 1) if scheduled else 1.0)
    return {name: server.x for name, server in servers.items()}


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.7),
        SGD(0.5, momentum=0.9),
        Adagrad(0.05, tau=0.01),
        Adam(0.02, tau=0.01),
        Yogi(0.03, tau=0.01),
    ],
    ids=str,
)
def test_it_is_the_paper_s_algorithm(lab: Lab, optimizer: Any, scheduled: bool) -> None:
    recipe = FedOptRecipe(
        optimizer=optimizer,
        schedule=halved if scheduled else None,
        initial_model=digits.initial(),
        num_rounds=ROUNDS,
        train=train,
    )
    run = recipe.execute(lab.env(SITES))
    digits.assert_close(run.model(), oracle(optimizer, scheduled))


def test_gradient_descent_by_the_whole_mean_is_fedavg(lab: Lab) -> None:
    settings: Any = {"initial_model": digits.initial(), "num_rounds": ROUNDS, "train": train}
    plain = FedAvgRecipe(**settings).execute(lab.env(SITES)).model()
    digits.assert_close(plain, oracle(SGD(1.0), scheduled=False))
    other = FedOptRecipe(optimizer=SGD(1.0), **settings).execute(lab.env(SITES)).model()
    digits.assert_close(other, plain)


def test_without_an_optimizer_it_is_fedadam(lab: Lab) -> None:
    recipe = FedOptRecipe(initial_model=digits.initial(), num_rounds=ROUNDS, train=train)
    run = recipe.execute(lab.env(SITES))
    digits.assert_close(run.model(), oracle(Adam(), scheduled=False))


def test_what_is_no_optimizer_is_refused() -> None:
    optimizer: ServerOptimizer | Any = "adam"
    with pytest.raises(ConfigError, match="optimizer"):
        FedOptRecipe(optimizer=optimizer, initial_model=digits.initial(), train=train)
