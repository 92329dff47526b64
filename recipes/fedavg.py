"""Federated averaging, as a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from covey.actors.jobs.batched import ClientFunction
from covey.actors.roles.plan import Progress
from covey.algorithms import (
    Aggregation,
    BadSetting,
    BestModel,
    FedAvg,
    Patience,
    StopCondition,
)

from .errors import ConfigError, did_you_mean
from .recipe import Recipe, whole

# What settings of the mathematics are called here.
_SETTINGS = {"mode": "key_metric_mode"}


class FedAvgSettings(TypedDict, total=False):
    """The settings of `FedAvgRecipe`, for recipes that take them too."""

    name: str
    initial_model: Any
    model: Any
    min_clients: int | None
    num_rounds: int
    train_script: str | Path | None
    train_args: str | Sequence[str]
    train: ClientFunction | None
    evaluate: ClientFunction | None
    key_metric: str
    key_metric_mode: Literal["max", "min"] | None
    stop_cond: str | None
    patience: int | None
    exclude_vars: Sequence[str]
    aggregation_weights: Mapping[str, float] | None
    clients_per_round: int | None
    task_timeout: float | None


class FedAvgRecipe(Recipe):
    """FedAvg (McMahan et al. 2017): each round is the weighted mean of the clients' models.

    Args:
        name: Names the run's folder.
        initial_model: What round 0 sends, bit for bit: a torch module, a state dict, named
            NumPy arrays, or the path of a safetensors file.
        model: Another name of `initial_model`.
        min_clients: Results without which a round fails; None: every client's.
        num_rounds: Rounds to run.
        train_script: Each client's training script; looked for beside the file that builds
            the recipe, then in the current folder.
        train_args: The script's arguments, as one line or a list.
        train: In place of a script: `train(params, ctx)`, plain or async, returns the
            parameters, a pair (parameters, metrics), or an `FLModel`.
        evaluate: With `train`: `evaluate(params, ctx)` returns metrics; the last model is
            evaluated by it.
        key_metric: The metric that picks the best model.
        key_metric_mode: "max" or "min"; None tells by the name (losses and errors: min).
        stop_cond: Stop when a metric gets there: "accuracy >= 0.95".
        patience: Stop after this many rounds without a better key metric.
        exclude_vars: Variables that are not aggregated and keep their values.
        aggregation_weights: Factor per site on the weight it reports.
        clients_per_round: Clients that are drawn anew for each round; None: all of them.
        task_timeout: Seconds a client may take for one task; None: any time.

    Raises:
        ConfigError: For a setting that cannot work.
    """

    def __init__(
        self,
        *,
        name: str = "fedavg",
        initial_model: Any = None,
        model: Any = None,
        min_clients: int | None = None,
        num_rounds: int = 2,
        train_script: str | Path | None = None,
        train_args: str | Sequence[str] = "",
        train: ClientFunction | None = None,
        evaluate: ClientFunction | None = None,
        key_metric: str = "accuracy",
        key_metric_mode: Literal["max", "min"] | None = None,
        stop_cond: str | None = None,
        patience: int | None = None,
        exclude_vars: Sequence[str] = (),
        aggregation_weights: Mapping[str, float] | None = None,
        clients_per_round: int | None = None,
        task_timeout: float | None = None,
    ) -> None:
        """See the class."""
        if initial_model is not None and model is not None:
            raise ConfigError("model", "is another name of initial_model; give one of them")
        super().__init__(
            name=name,
            initial_model=initial_model if initial_model is not None else model,
            num_rounds=num_rounds,
            min_clients=min_clients,
            train_script=train_script,
            train_args=train_args,
            train=train,
            evaluate=evaluate,
            task_timeout=task_timeout,
        )
        if isinstance(exclude_vars, str):
            raise ConfigError("exclude_vars", "is a list of names, not one text")
        self.key_metric = key_metric
        self.key_metric_mode = key_metric_mode
        self.stop_cond = stop_cond
        self.patience = patience
        self.exclude_vars = tuple(exclude_vars)
        self.aggregation_weights = dict(aggregation_weights or {})
        self.clients_per_round = clients_per_round
        self.check()

    def check(self) -> None:
        """See `Recipe.check`."""
        super().check()
        if self.patience is not None:
            whole("patience", self.patience, 1)
        if self.clients_per_round is not None:
            whole("clients_per_round", self.clients_per_round, self.min_clients or 1)
        for setting in ("key_metric", "stop_cond"):
            value: object = getattr(self, setting)
            if value is not None and not isinstance(value, str):
                raise ConfigError(setting, f"{value!r} is no text")
        self._check_names()
        try:
            self.progress()
            self.aggregation()
        except BadSetting as error:
            raise ConfigError(_SETTINGS.get(error.setting, error.setting), error.why) from None

    def _check_names(self) -> None:
        """The variables and factors that the settings name."""
        known = self.initial.layout.by_name
        for name in self.exclude_vars:
            if name not in known:
                hint = did_you_mean(str(name), known)
                raise ConfigError("exclude_vars", f"the model has no variable {name!r}{hint}")
        if len(set(self.exclude_vars)) == len(known):
            raise ConfigError("exclude_vars", "leaves nothing of the model to aggregate")
        factors: dict[str, Any] = {**self.aggregation_weights}
        for site, factor in factors.items():
            if isinstance(factor, bool) or not isinstance(factor, int | float):
                raise ConfigError("aggregation_weights", f"{site} has {factor!r}, no number")

    def aggregation(self) -> Aggregation:
        """The weighted mean."""
        return FedAvg(exclude_vars=self.exclude_vars, aggregation_weights=self.aggregation_weights)

    def progress(self) -> Progress:
        """Best model, stop condition and patience, at their beginning."""
        key, mode = self.key_metric, self.key_metric_mode or "auto"
        return Progress(
            best=BestModel(key, mode),
            patience=None if self.patience is None else Patience(self.patience, key, mode),
            stop=None if self.stop_cond is None else StopCondition.parse(self.stop_cond),
        )

    def settings(self) -> dict[str, Any]:
        """The recipe's own settings."""
        return {
            "key_metric": self.key_metric,
            "key_metric_mode": self.key_metric_mode,
            "stop_cond": self.stop_cond,
            "patience": self.patience,
            "exclude_vars": list(self.exclude_vars),
            "aggregation_weights": self.aggregation_weights,
            "clients_per_round": self.clients_per_round,
        }
