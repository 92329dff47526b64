"""Adaptive federated optimization, as a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from covey.algorithms import Adam, FedOpt, ServerOptimizer

from .errors import ConfigError
from .fedavg import FedAvgRecipe, FedAvgSettings
from .rules import check_optimizer, check_shapes, described


class FedOptRecipe(FedAvgRecipe):
    """FedOpt (Reddi et al. 2021): the mean update is a gradient for an optimizer on the server.

    Takes the settings of `FedAvgRecipe`, and:

    Args:
        optimizer: The server optimizer, from `covey.algorithms`: `SGD(lr=1.0, momentum=0.9)`
            makes FedAvgM, `Adagrad`, `Adam` and `Yogi` make FedAdagrad, FedAdam and FedYogi.
            `TorchOptimizer(torch.optim.AdamW, {"lr": 0.01})` takes any of PyTorch's, with a
            scheduler if wanted. None: `Adam()`, FedAdam with its defaults.
        schedule: Factor on its learning rate by the number of the step, the first being 1.

    Raises:
        ConfigError: For a setting that cannot work.
    """

    def __init__(
        self,
        *,
        optimizer: ServerOptimizer | None = None,
        schedule: Callable[[int], float] | None = None,
        **settings: Unpack[FedAvgSettings],
    ) -> None:
        """See the class."""
        self.optimizer: ServerOptimizer = Adam() if optimizer is None else optimizer
        self.schedule = schedule
        settings.setdefault("name", "fedopt")
        super().__init__(**settings)

    def check(self) -> None:
        """See `Recipe.check`."""
        check_optimizer(self.optimizer)
        if self.schedule is not None and not callable(self.schedule):
            raise ConfigError("schedule", f"{self.schedule!r} is no function of the step's number")
        super().check()
        check_shapes(self.optimizer, self.aggregation(), self.initial.layout)

    def aggregation(self) -> FedOpt:
        """FedOpt's rule."""
        return FedOpt(
            self.optimizer,
            schedule=self.schedule,
            exclude_vars=self.exclude_vars,
            aggregation_weights=self.aggregation_weights,
        )

    def settings(self) -> dict[str, Any]:
        """The recipe's own settings."""
        return super().settings() | {
            "optimizer": described(self.optimizer),
            "schedule": described(self.schedule),
        }
