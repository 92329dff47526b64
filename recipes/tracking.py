"""Experiment tracking: where a run's curves go beside its own files.

Here: what kinds there are, asking for one, making a run's trackers. Not here: how curves are kept
(`covey.actors.observe`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from covey.actors.observe import mlflow, tensorboard, wandb
from covey.actors.observe.errors import TrackingUnavailable
from covey.actors.observe.tracking import Experiment, Tracker

from .errors import ConfigError, did_you_mean
from .folder import RunFolder
from .recipe import Recipe


def _tensorboard(folder: Path, experiment: Experiment) -> Tracker:
    del experiment
    return tensorboard.TensorBoardTracker(folder)


# Kinds: the check that is made when one is asked for, and what makes a run's tracker.
_KINDS: Final[Mapping[str, tuple[Callable[[], None], Callable[[Path, Experiment], Tracker]]]] = {
    "tensorboard": (tensorboard.require, _tensorboard),
    "mlflow": (mlflow.require, mlflow.mlflow_tracker),
    "wandb": (wandb.require, wandb.wandb_tracker),
}


def add_experiment_tracking(recipe: Recipe, tracking_type: str = "tensorboard") -> None:
    """Write every curve of the recipe's runs for an experiment tracker; may be called for several.

    Each writes below `tracking/` in the run's folder, and nowhere else:

    "tensorboard": event files in `tensorboard/<site>` and `tensorboard/global`.
    "mlflow": a run for the global model and below it one for each site, in `mlflow/mlflow.db`.
    "wandb": an offline run for the global model and one for each site, in `wandb/`.

    Raises:
        ConfigError: For an unknown kind, or one whose package is not installed.
    """
    if tracking_type not in _KINDS:
        hint = did_you_mean(tracking_type, _KINDS)
        raise ConfigError("tracking_type", f"{tracking_type!r} is not supported{hint}")
    require, _ = _KINDS[tracking_type]
    try:
        require()
    except TrackingUnavailable as error:
        raise ConfigError("tracking_type", str(error)) from None
    if tracking_type not in recipe.tracking:
        recipe.tracking = (*recipe.tracking, tracking_type)


def trackers(recipe: Recipe, folder: RunFolder) -> list[Tracker]:
    """The trackers that a recipe asks for, for one run."""
    if not recipe.tracking:
        return []
    settings = folder.config["manifest"]["settings"]
    experiment = Experiment(recipe.name, folder.id, folder.seed, settings)
    return [
        _KINDS[kind][1](folder.path / "tracking" / kind, experiment) for kind in recipe.tracking
    ]
