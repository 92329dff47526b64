"""Evaluation without training, as a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from covey.actors.jobs.batched import ClientFunction
from covey.actors.jobs.workflow import evaluation
from covey.actors.roles.plan import Progress
from covey.algorithms import Aggregation, BadSetting, BestModel, FedAvg

from .errors import ConfigError
from .recipe import Recipe


class FedEvalRecipe(Recipe):
    """Federated evaluation: every client measures a given model, and nobody trains.

    The metrics are in `run.metrics`: a row for each client, and one for "global" with their
    weighted mean. A script weighs by `NUM_STEPS_CURRENT_ROUND` in `meta`, as in training. The
    run fails if fewer than `min_clients` answer.

    Args:
        name: Names the run's folder.
        initial_model: The model: a torch module, a state dict, named NumPy arrays, or the path
            of a safetensors file.
        model: Another name of `initial_model`.
        min_clients: Answers without which the run fails; None: every client's.
        evaluate_script: Each client's script; it sends `FLModel(metrics=...)`.
        evaluate_args: The script's arguments, as one line or a list.
        evaluate: In place of a script: `evaluate(params, ctx)` returns metrics, or an `FLModel`.
        key_metric: The metric that `summary.json` names.
        key_metric_mode: "max" or "min"; None tells by the name (losses and errors: min).
        task_timeout: Seconds a client may take; None: any time.

    Raises:
        ConfigError: For a setting that cannot work.
    """

    workflow = staticmethod(evaluation)

    def __init__(
        self,
        *,
        name: str = "fedeval",
        initial_model: Any = None,
        model: Any = None,
        min_clients: int | None = 1,
        evaluate_script: str | Path | None = None,
        evaluate_args: str | Sequence[str] = "",
        evaluate: ClientFunction | None = None,
        key_metric: str = "accuracy",
        key_metric_mode: Literal["max", "min"] | None = None,
        task_timeout: float | None = None,
    ) -> None:
        """See the class."""
        if initial_model is not None and model is not None:
            raise ConfigError("model", "is another name of initial_model; give one of them")
        if (evaluate_script is None) == (evaluate is None):
            raise ConfigError("evaluate", "give either evaluate_script= or evaluate=")
        super().__init__(
            name=name,
            initial_model=initial_model if initial_model is not None else model,
            num_rounds=1,
            min_clients=min_clients,
            train_script=evaluate_script,
            train_args=evaluate_args,
            train=evaluate,  # never called: nobody is given a task to train
            evaluate=evaluate,
            task_timeout=task_timeout,
        )
        self.key_metric = key_metric
        self.key_metric_mode = key_metric_mode
        self.check()

    def check(self) -> None:
        """See `Recipe.check`."""
        super().check()
        try:
            self.progress()
        except BadSetting as error:
            raise ConfigError("key_metric_mode", error.why) from None

    def aggregation(self) -> Aggregation:
        """Never asked for anything."""
        return FedAvg()

    def progress(self) -> Progress:
        """The one model is the best."""
        return Progress(best=BestModel(self.key_metric, self.key_metric_mode or "auto"))

    def settings(self) -> dict[str, Any]:
        """The recipe's own settings."""
        return {"key_metric": self.key_metric, "key_metric_mode": self.key_metric_mode}
