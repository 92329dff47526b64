"""FedAsync, as a recipe."""

from __future__ import annotations

from typing import Any, Unpack

from covey.algorithms import FedAsync, Staleness

from .fedavg import FedAvgSettings
from .fedbuff import AsynchronousRecipe
from .rules import described


class FedAsyncRecipe(AsynchronousRecipe):
    """FedAsync (Xie et al. 2019): each model that comes is mixed into the global one.

    Takes the settings of `FedAvgRecipe`, those of `FedBuffRecipe` for concurrency, staleness,
    leases and failures, and:

    Args:
        alpha: How far a fresh update moves the model; above 0, at most 1.

    Raises:
        ConfigError: For a setting that cannot work.
    """

    step_every = None
    flush = False

    def __init__(
        self,
        *,
        alpha: float = 0.6,
        concurrency: int | None = None,
        staleness: str | Staleness = "polynomial",
        max_staleness: int | None = None,
        lease: float | None = None,
        most_failures: int = 3,
        **settings: Unpack[FedAvgSettings],
    ) -> None:
        """See the class."""
        self.alpha = alpha
        self.concurrency = concurrency
        self.staleness = staleness
        self.max_staleness = max_staleness
        self.lease = lease
        self.most_failures = most_failures
        settings.setdefault("name", "fedasync")
        settings.setdefault("min_clients", 1)
        super().__init__(**settings)

    def aggregation(self) -> FedAsync:
        """FedAsync's rule."""
        return FedAsync(
            alpha=self.alpha,
            staleness=self.staleness,
            max_staleness=self.max_staleness,
            exclude_vars=self.exclude_vars,
            aggregation_weights=self.aggregation_weights,
        )

    def settings(self) -> dict[str, Any]:
        """The recipe's own settings."""
        return super().settings() | {
            "alpha": self.alpha,
            "staleness": described(self.staleness),
            "max_staleness": self.max_staleness,
        }
