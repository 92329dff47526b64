"""Experiment tracking: where a run's curves go beside its own files."""

from __future__ import annotations

from .errors import ConfigError, did_you_mean
from .recipe import Recipe

_KINDS = ("tensorboard",)


def add_experiment_tracking(recipe: Recipe, tracking_type: str = "tensorboard") -> None:
    """Write every curve of the recipe's runs for an experiment tracker.

    "tensorboard" writes event files to `tracking/tensorboard/<site>` in the run's
    folder, and the global model's to `tracking/tensorboard/global`.

    Raises:
        ConfigError: For an unknown kind, or one whose package is not installed.
    """
    if tracking_type not in _KINDS:
        hint = did_you_mean(tracking_type, _KINDS)
        raise ConfigError("tracking_type", f"{tracking_type!r} is not supported{hint}")
    from covey.actors.observe.errors import TrackingUnavailable
    from covey.actors.observe.tensorboard import require

    try:
        require()
    except TrackingUnavailable as error:
        raise ConfigError("tracking_type", str(error)) from error
    if tracking_type not in recipe.tracking:
        recipe.tracking = (*recipe.tracking, tracking_type)
