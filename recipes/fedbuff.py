"""Asynchronous training as recipes: what they share, and FedBuff."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Unpack

from covey.actors.jobs.batched import Batched
from covey.actors.roles.asynchronous import AsynchronousSettings, AsynchronousTraining
from covey.actors.roles.job import Job, Training
from covey.actors.roles.synchronous import Durations
from covey.actors.roles.virtual import VirtualTraining
from covey.algorithms import AsynchronousAggregation, FedBuff, ServerOptimizer, Staleness

from .errors import ConfigError
from .fedavg import FedAvgRecipe, FedAvgSettings
from .recipe import whole
from .rules import check_optimizer, check_shapes, described


class AsynchronousRecipe(FedAvgRecipe):
    """What FedBuff and FedAsync share: clients that never wait for each other.

    Each client gets the newest model as soon as it is free. `num_rounds` counts versions of
    the global model; what `FedAvgRecipe` says of a round holds of a version, and `min_clients`
    is the number of clients without which training fails (default 1).
    """

    concurrency: int | None
    max_staleness: int | None
    lease: float | None
    step_every: float | None
    flush: bool
    most_failures: int

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {self.num_rounds} versions>"

    def check(self) -> None:
        """See `Recipe.check`."""
        if self.max_staleness is not None:
            whole("max_staleness", self.max_staleness, 0)
        if type(self.flush) is not bool:
            raise ConfigError("flush", f"{self.flush!r}; True or False")
        super().check()
        if self.clients_per_round is not None:
            raise ConfigError("clients_per_round", "is for rounds; set concurrency=")
        if self.concurrency is not None:
            whole("concurrency", self.concurrency, 1)
        whole("most_failures", self.most_failures, 1)
        for setting in ("lease", "step_every"):
            value: object = getattr(self, setting)
            if value is not None and not _is_positive(value):
                raise ConfigError(setting, f"{value!r}; must be a number of seconds above 0")
        if self.workflow is not FedAvgRecipe.workflow:
            raise ConfigError("workflow", "asynchronous training has none")

    @abstractmethod
    def aggregation(self) -> AsynchronousAggregation:
        """The rule of one run."""

    def training(
        self, seed: int, durations: Durations | None, sites: Sequence[str]
    ) -> Callable[[Job], Training]:
        """See `Recipe.training`."""
        if self.concurrency is not None and self.concurrency > len(sites):
            raise ConfigError(
                "concurrency", f"{self.concurrency}, but there are {len(sites)} clients"
            )
        settings = AsynchronousSettings(
            concurrency=self.concurrency or len(sites),
            lease_s=self.lease or math.inf,
            period_s=self.step_every,
            flush=self.flush,
            most_failures=self.most_failures,
            seed=seed,
            evaluate=self.evaluate is not None,
        )
        rule = self.aggregation()
        if durations is None:
            return partial(AsynchronousTraining, rule=rule, settings=settings)
        return partial(
            VirtualTraining,
            rule=rule,
            settings=settings,
            durations=durations,
            batched=isinstance(self.train, Batched),
        )

    def settings(self) -> dict[str, Any]:
        """The recipe's own settings."""
        return super().settings() | {
            "concurrency": self.concurrency,
            "lease": self.lease,
            "step_every": self.step_every,
            "flush": self.flush,
            "most_failures": self.most_failures,
        }


class FedBuffRecipe(AsynchronousRecipe):
    """FedBuff (Nguyen et al. 2022): a version for every `buffer_size` updates, whoever sends them.

    Takes the settings of `FedAvgRecipe`, and:

    Args:
        buffer_size: K, the updates that make a version.
        concurrency: M, the clients that are at work at any time; None: all of them.
        staleness: How an update counts that began from an older version: "polynomial",
            "constant", "exponential", "hinge" or "threshold", one of these with settings
            (`covey.algorithms.Polynomial(0.5)`), or a function of the staleness.
        max_staleness: Updates staler than this are not counted; None for no limit.
        weights: "equal", or "reported": what a client says its update is worth.
        divide_by: A version's step is the sum of weighted updates divided by their "count", or
            by the sum of their "weight"; None: count for equal weights, else weight.
        optimizer: Server optimizer, such as `covey.algorithms.SGD(lr=0.7, momentum=0.9)`, or one of
            PyTorch's: see `FedOptRecipe`.
        delay_threshold: Above this staleness in a buffer its step is made smaller (FADAS).
        lease: Seconds a client has for a task; then its place is free for another, and what it
            sends later is not counted. None: for as long as it lives.
        step_every: Make a version after so many seconds from whatever has come (FedFix).
        flush: Make a last version of updates that are left at the end; else they are dropped.
        most_failures: A client whose task fails so often in a row gets no more.

    Raises:
        ConfigError: For a setting that cannot work.
    """

    def __init__(
        self,
        *,
        buffer_size: int = 10,
        concurrency: int | None = None,
        staleness: str | Staleness = "polynomial",
        max_staleness: int | None = None,
        weights: Literal["equal", "reported"] = "equal",
        divide_by: Literal["count", "weight"] | None = None,
        optimizer: ServerOptimizer | None = None,
        delay_threshold: int | None = None,
        lease: float | None = None,
        step_every: float | None = None,
        flush: bool = False,
        most_failures: int = 3,
        **settings: Unpack[FedAvgSettings],
    ) -> None:
        """See the class."""
        self.buffer_size = buffer_size
        self.concurrency = concurrency
        self.staleness = staleness
        self.max_staleness = max_staleness
        self.weights: Literal["equal", "reported"] = weights
        self.divide_by: Literal["count", "weight"] | None = divide_by
        self.optimizer = optimizer
        self.delay_threshold = delay_threshold
        self.lease = lease
        self.step_every = step_every
        self.flush = flush
        self.most_failures = most_failures
        settings.setdefault("name", "fedbuff")
        settings.setdefault("min_clients", 1)
        super().__init__(**settings)

    def check(self) -> None:
        """See `Recipe.check`."""
        whole("buffer_size", self.buffer_size, 1)
        if self.delay_threshold is not None:
            whole("delay_threshold", self.delay_threshold, 0)
        if self.optimizer is not None:
            check_optimizer(self.optimizer)
        super().check()
        check_shapes(self.optimizer, self.aggregation(), self.initial.layout)

    def aggregation(self) -> FedBuff:
        """FedBuff's rule."""
        return FedBuff(
            buffer_size=self.buffer_size,
            staleness=self.staleness,
            max_staleness=self.max_staleness,
            weights=self.weights,
            divide_by=self.divide_by,
            optimizer=self.optimizer,
            delay_threshold=self.delay_threshold,
            exclude_vars=self.exclude_vars,
            aggregation_weights=self.aggregation_weights,
        )

    def settings(self) -> dict[str, Any]:
        """The recipe's own settings."""
        return super().settings() | {
            "buffer_size": self.buffer_size,
            "staleness": described(self.staleness),
            "max_staleness": self.max_staleness,
            "weights": self.weights,
            "divide_by": self.divide_by,
            "optimizer": described(self.optimizer),
            "delay_threshold": self.delay_threshold,
        }


def _is_positive(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < math.inf  # type: ignore[operator]
