"""What a data scientist writes: recipes, and the environments they run in.

One recipe, unchanged, in every environment. Importing this room touches no
`sys.argv`, working directory, signal handler or logging, and imports no torch.
"""

from __future__ import annotations

from covey.actors.jobs.function import TrainContext
from covey.actors.jobs.states import RunStatus
from covey.actors.observe.events import EventKind, RunEvent
from covey.algorithms import partition

from .errors import ConfigError, JobAborted, JobFailed, RecipeError
from .fedavg import FedAvgRecipe
from .recipe import Environment, Recipe
from .run import Run
from .fedbuff import FedBuffRecipe
from .fedopt import FedOptRecipe
from .fedprox import FedProxRecipe
from .sim import SimEnv
from .tracking import add_experiment_tracking

__all__ = [
    "ConfigError",
    "Environment",
    "EventKind",
    "FedAvgRecipe",
    "JobAborted",
    "JobFailed",
    "Recipe",
    "FedBuffRecipe",
    "FedOptRecipe",
    "FedProxRecipe",
    "Fixed",
    "RecipeError",
    "Run",
    "RunEvent",
    "RunStatus",
    "SimEnv",
    "TrainContext",
    "add_experiment_tracking",
    "partition",
]
