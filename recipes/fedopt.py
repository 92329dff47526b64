"""Adaptive federated optimization, as a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from covey.algorithms import FedOpt, ServerOptimizer

from .errors import ConfigError
from .fedavg import FedAvgRecipe, FedAvgSettings


class FedOptRecipe(FedAvgRecipe):
    """FedOpt (Reddi et al. 2021): the mean update is a gradient for an optimizer on the server.

    Takes the settings of `FedAvgRecipe`, and:

    Args:
        optimizer: The server optimizer, from `covey.algorithms`: `SGD(lr=1.0, momentum=0.9)`
            makes FedAvgM, `Adagrad`, `Adam` and `Yogi` make FedAdagrad, FedAdam and FedYogi.
        schedule: Factor on its learning rate by the number of the step, the first being 1.

    Raises:
        ConfigError: For a setting that cannot work.
    """

    def __init__(
        self,
        *,
        optimizer: ServerOptimizer,
        schedule: Callable[[int], float] | None = None,
        **settings: Unpack[FedAvgSettings],
    ) -> None:
        """See the class."""
        self.optimizer = optimizer
        self.schedule = schedule
        settings.setdefault("name", "fedopt")
        super().__init__(**settings)

    def check(self) -> None:
        """See `Recipe.check`."""
        if not hasattr(self.optimizer, "state_names"):
            why = f"{self.optimizer!r} is none; give one of covey.algorithms, such as Adam(lr=0.01)"
            raise ConfigError("optimizer", why)
        super().check()

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
        schedule = None if self.schedule is None else getattr(self.schedule, "__qualname__", "")
        return super().settings() | {"optimizer": str(self.optimizer), "schedule": schedule}
