"""Cyclic weight transfer, as a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, Unpack

from covey.actors.jobs.workflow import cyclic
from covey.algorithms.cyclic import Cyclic

from .errors import ConfigError, did_you_mean
from .fedavg import FedAvgRecipe, FedAvgSettings

Order = Literal["fixed", "random"]


class CyclicRecipe(FedAvgRecipe):
    """Cyclic weight transfer (Chang et al. 2018): the model goes from one client to the next.

    Takes the settings of `FedAvgRecipe`, but for `min_clients`, `clients_per_round` and
    `aggregation_weights`: each client has its turn, and one that fails in it fails the run. In
    the run's files, events and metrics, and for clients, each turn is a round.

    Args:
        num_rounds: How often the model goes to every client.
        order: "fixed": in the order of the clients; "random": drawn anew for every time.

    Raises:
        ConfigError: For a setting that cannot work.
    """

    def __init__(self, *, order: Order = "fixed", **settings: Unpack[FedAvgSettings]) -> None:
        """See the class."""
        self.order: Order = order
        settings.setdefault("name", "cyclic")
        super().__init__(**settings)

    def check(self) -> None:
        """See `Recipe.check`."""
        super().check()
        for setting in ("min_clients", "clients_per_round", "aggregation_weights"):
            if getattr(self, setting):
                raise ConfigError(setting, "makes no sense here: every client has its turn")
        if self.order not in ("fixed", "random"):
            hint = did_you_mean(str(self.order), ("fixed", "random"))
            raise ConfigError("order", f"{self.order!r}; 'fixed' or 'random'{hint}")
        self.workflow = partial(cyclic, order=self.order)

    def rounds(self, sites: Sequence[str]) -> int:
        """A turn for each site, in every round."""
        return self.num_rounds * len(sites)

    def aggregation(self) -> Cyclic:
        """What the site sent whose turn it was."""
        return Cyclic(exclude_vars=self.exclude_vars)

    def settings(self) -> dict[str, Any]:
        """The recipe's own settings."""
        return super().settings() | {"order": self.order}
