"""FedProx, as a recipe."""

from __future__ import annotations

import math
from typing import Any, Unpack

from covey.transport import Scalar

from .errors import ConfigError
from .fedavg import FedAvgRecipe, FedAvgSettings


class FedProxRecipe(FedAvgRecipe):
    """FedProx (Li et al. 2020): FedAvg whose clients are held to the model that they received.

    Clients add (mu / 2) ||w - w_t||^2 to their loss: scripts and functions by torch with
    `covey.client.proximal_term`, those by NumPy with `covey.client.proximal_gradient`. A script
    finds mu in `get_config()["mu"]`, a function in `ctx.config["mu"]`.

    Takes the settings of `FedAvgRecipe`, and:

    Args:
        mu: How strongly clients are held; 0 makes it FedAvg.

    Raises:
        ConfigError: For a setting that cannot work.
    """

    def __init__(self, *, mu: float = 0.01, **settings: Unpack[FedAvgSettings]) -> None:
        """See the class."""
        self.mu = mu
        settings.setdefault("name", "fedprox")
        super().__init__(**settings)

    def check(self) -> None:
        """See `Recipe.check`."""
        super().check()
        mu: Any = self.mu
        if isinstance(mu, bool) or not isinstance(mu, int | float) or not 0 <= mu < math.inf:
            raise ConfigError("mu", f"{mu!r}; must be a number of at least 0")

    def config(self) -> dict[str, Scalar]:
        """See `Recipe.config`."""
        return super().config() | {"mu": float(self.mu)}

    def settings(self) -> dict[str, Any]:
        """The recipe's own settings."""
        return super().settings() | {"mu": self.mu}
