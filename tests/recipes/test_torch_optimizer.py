"""FedOpt and FedBuff with PyTorch's optimizers are a plain loop of PyTorch on the mean updates."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from covey.algorithms import (
    SGD,
    Adagrad,
    Adam,
    AMSGrad,
    BadSetting,
    Exponential,
    FedOpt,
    Polynomial,
    TorchOptimizer,
)
from covey.recipes import ConfigError, FedBuffRecipe, FedOptRecipe, Fixed, TrainContext
from covey.recipes.rules import described
from tests.recipes import digits
from tests.recipes.digits import LR, ROUNDS, SITES

if TYPE_CHECKING:
    from tests.recipes.conftest import Lab

# Any: torch's optimizers take whatever they take.
Optim: Any = torch.optim
Schedulers: Any = torch.optim.lr_scheduler

CASES: dict[str, tuple[Any, dict[str, Any], Any, dict[str, Any]]] = {
    "SGD": (Optim.SGD, {"lr": 0.7, "momentum": 0.9}, None, {}),
    "AdamW": (Optim.AdamW, {"lr": 0.02}, Schedulers.CosineAnnealingLR, {"T_max": 4}),
    "Adafactor": (Optim.Adafactor, {"lr": 0.1}, Schedulers.StepLR, {"step_size": 2}),
}


def local(model: digits.Model, site: str) -> digits.Model:
    """What a site makes of a model."""
    for images, labels in digits.batches(site):
        gradient = digits.gradient(model, images, labels)
        model = {name: model[name] - LR * gradient[name] for name in model}
    return model


def train(params: Any, ctx: TrainContext) -> Any:
    """Local steps by NumPy, on tensors of either kind."""
    return local({name: np.asarray(value) for name, value in params.items()}, ctx.site)


def oracle(case: str) -> digits.Model:
    """Five rounds in one process, by PyTorch."""
    optimizer, args, scheduler, more = CASES[case]
    params = {name: torch.tensor(value) for name, value in digits.initial().items()}
    server = optimizer(list(params.values()), **args)
    course = None if scheduler is None else scheduler(server, **more)
    for _ in range(ROUNDS):
        x = {name: value.numpy().copy() for name, value in params.items()}
        locals_ = [local(x, site) for site in digits.names()]
        for name, param in params.items():
            mean = np.mean([own[name] - x[name] for own in locals_], axis=0)
            param.grad = torch.tensor(-mean)
        server.step()
        if course is not None:
            course.step()
    return {name: value.numpy() for name, value in params.items()}


def made(case: str) -> TorchOptimizer:
    optimizer, args, scheduler, more = CASES[case]
    return TorchOptimizer(optimizer, args, scheduler=scheduler, scheduler_args=more)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("case", CASES)
def test_rounds_are_a_plain_loop(lab: Lab, case: str, kind: str) -> None:
    model: Any = digits.initial()
    if kind == "torch":
        model = {name: torch.tensor(value) for name, value in model.items()}
    recipe = FedOptRecipe(optimizer=made(case), initial_model=model, num_rounds=ROUNDS, train=train)
    digits.assert_close(recipe.execute(lab.env(SITES)).model(), oracle(case))


@pytest.mark.parametrize("case", CASES)
def test_versions_are_a_plain_loop_where_all_sites_are_as_fast(lab: Lab, case: str) -> None:
    recipe = FedBuffRecipe(
        optimizer=made(case),
        buffer_size=SITES,
        initial_model=digits.initial(),
        num_rounds=ROUNDS,
        train=train,
    )
    run = recipe.execute(lab.env(SITES, durations=Fixed(1.0)))
    digits.assert_close(run.model(), oracle(case))


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"optimizer": Optim.Adam}, "optimizer", 'TorchOptimizer(torch.optim.Adam, {"lr": ...})'),
    (
        {"optimizer": Optim.SGD([torch.zeros(2)], lr=0.1)},
        "optimizer",
        'TorchOptimizer(torch.optim.SGD, {"lr": ...})',
    ),
    ({"optimizer": TorchOptimizer(Optim.Muon)}, "optimizer", "Muon: Muon only supports 2D"),
    ({"optimizer": TorchOptimizer(Optim.LBFGS)}, "optimizer", "cannot step"),
    ({"optimizer": TorchOptimizer(Optim.Adam, {"lr": -1.0})}, "optimizer", "-1.0"),
    (
        {"optimizer": TorchOptimizer(Optim.Adam, scheduler=Schedulers.ReduceLROnPlateau)},
        "scheduler",
        "metrics",
    ),
    ({"optimizer": Adam}, "optimizer", "is a class; make one: Adam(lr=...)"),
    ({"optimizer": Adam(lr=-1.0)}, "lr", "-1.0; must be > 0"),
    ({"optimizer": Adam(lr=float("nan"))}, "lr", "nan"),
    ({"optimizer": SGD(momentum=1.0)}, "momentum", "must be >= 0 and < 1"),
    ({"optimizer": SGD(nesterov=True)}, "nesterov", "needs momentum"),
    ({"optimizer": Adagrad(tau=0.0)}, "tau", "must be > 0"),
    ({"optimizer": AMSGrad(beta2=2.0)}, "beta2", "< 1"),
]


@pytest.mark.parametrize("recipe", [FedOptRecipe, FedBuffRecipe])
@pytest.mark.parametrize(("settings", "setting", "text"), REFUSED)
def test_a_recipe_refuses_an_optimizer_that_cannot_work(
    recipe: Any, settings: dict[str, Any], setting: str, text: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe(initial_model=digits.initial(), train=train, **settings)
    assert caught.value.setting == setting
    assert text in str(caught.value)
    good = recipe(initial_model=digits.initial(), train=train, optimizer=SGD())
    with pytest.raises(ConfigError):
        good.replace(**settings)


def test_a_recipe_refuses_a_staleness_that_cannot_work() -> None:
    for staleness, setting in ((Polynomial(-1.0), "exponent"), (Exponential(1.5), "base")):
        with pytest.raises(ConfigError) as caught:
            FedBuffRecipe(initial_model=digits.initial(), train=train, staleness=staleness)
        assert caught.value.setting == setting


def test_algorithms_have_an_error_of_their_own() -> None:
    with pytest.raises(BadSetting, match=r"lr: -1.0; must be > 0 and < inf"):
        FedOpt(Adam(lr=-1.0))


DESCRIBED = """
    import torch
    from functools import partial
    from covey.algorithms import TorchOptimizer
    from covey.recipes.rules import described
    from tests.recipes.test_torch_optimizer import course, half
    print(described(course(half)))
"""


def half(step: int) -> float:
    return 0.5**step


def other(step: int) -> float:
    return 0.4**step


def course(function: Any) -> TorchOptimizer:
    """An optimizer with functions in it."""
    return TorchOptimizer(
        partial(Optim.AdamW, weight_decay=0.1),
        {"lr": 0.1, "betas": (0.9, 0.99)},
        scheduler=Schedulers.LambdaLR,
        scheduler_args={"lr_lambda": function},
    )


def test_a_manifest_has_the_same_optimizer_in_every_process() -> None:
    command = [sys.executable, "-c", textwrap.dedent(DESCRIBED)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{described(course(half))}\n"
    assert described(course(half)) != described(course(other))
    plain = described(TorchOptimizer(Optim.SGD, {"lr": 0.1}))
    assert plain["args"] == {"lr": "0.1"}
    assert plain["optimizer"].startswith("SGD ")
    assert plain.keys() == {"optimizer", "args"}


def test_a_scheduler_of_a_list_of_functions_is_described_alike_in_every_process() -> None:
    def falling(step: int) -> float:
        return 1 / (1 + step)

    def made() -> TorchOptimizer:
        return TorchOptimizer(
            torch.optim.SGD,
            {"lr": 0.1},
            scheduler=torch.optim.lr_scheduler.LambdaLR,
            scheduler_args={"lr_lambda": [falling]},
        )

    assert described(made()) == described(made())
    assert " at 0x" not in str(described(made()))
