"""SCAFFOLD, as a recipe."""

from __future__ import annotations

from typing import Any, Unpack

from covey.actors.jobs.batched import Batched
from covey.algorithms.errors import BadUpdate
from covey.algorithms.scaffold import ScaffoldAverage
from covey.algorithms.tensors import InitialModel
from covey.algorithms.tensors.control import with_control

from .errors import ConfigError
from .fedavg import FedAvgRecipe, FedAvgSettings


class ScaffoldRecipe(FedAvgRecipe):
    """SCAFFOLD (Karimireddy et al. 2020): clients' gradients without what they drift apart by.

    A control variate for each float variable travels with the model, both ways; files of the
    run hold the model alone. Clients correct their gradients: scripts with
    `covey.client.Scaffold(model)`, functions with `ctx.scaffold(params)`.

    Takes the settings of `FedAvgRecipe`, and:

    Args:
        server_lr: The server's learning rate, for what clients changed on average.

    Raises:
        ConfigError: For a setting that cannot work.
    """

    def __init__(self, *, server_lr: float = 1.0, **settings: Unpack[FedAvgSettings]) -> None:
        """See the class."""
        self.server_lr = server_lr
        settings.setdefault("name", "scaffold")
        super().__init__(**settings)

    def check(self) -> None:
        """See `Recipe.check`."""
        server_lr: Any = self.server_lr
        if isinstance(server_lr, bool) or not isinstance(server_lr, int | float):
            raise ConfigError("server_lr", f"{server_lr!r}; must be a number above 0")
        if isinstance(self.train, Batched):
            why = "is batched; SCAFFOLD's clients keep what is their own: train one in a call"
            raise ConfigError("train", why)
        super().check()
        try:
            self.version_0()
        except BadUpdate as error:
            raise ConfigError("initial_model", f"{error}; SCAFFOLD needs longer names") from None

    def version_0(self) -> InitialModel:
        """The initial model, and control variates of zeros."""
        return with_control(self.initial, self.exclude_vars)

    def aggregation(self) -> ScaffoldAverage:
        """SCAFFOLD's rule."""
        return ScaffoldAverage(
            server_lr=self.server_lr,
            exclude_vars=self.exclude_vars,
            aggregation_weights=self.aggregation_weights,
        )

    def settings(self) -> dict[str, Any]:
        """The recipe's own settings."""
        return super().settings() | {"server_lr": self.server_lr}
