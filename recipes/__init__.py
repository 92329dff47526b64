"""What a data scientist writes: recipes, and the environments they run in.

One recipe, unchanged, in every environment. Importing this room touches no
`sys.argv`, working directory, signal handler or logging, and imports no torch.
"""

from __future__ import annotations

from covey.actors.jobs.batched import batched
from covey.actors.jobs.function import TrainContext
from covey.actors.jobs.states import RunStatus
from covey.actors.observe.events import EventKind, RunEvent
from covey.algorithms import partition

from .cross_site import add_cross_site_evaluation
from .cyclic import CyclicRecipe
from .durations import Fixed, LogNormal
from .errors import ConfigError, JobAborted, JobFailed, RecipeError
from .fedasync import FedAsyncRecipe
from .fedavg import FedAvgRecipe
from .fedbuff import FedBuffRecipe
from .fedeval import FedEvalRecipe
from .fedopt import FedOptRecipe
from .fedprox import FedProxRecipe
from .recipe import Environment, Recipe
from .run import Run
from .scaffold import ScaffoldRecipe
from .sim import SimEnv
from .tracking import add_experiment_tracking

__all__ = [
    "ConfigError",
    "CyclicRecipe",
    "Environment",
    "EventKind",
    "FedAsyncRecipe",
    "FedAvgRecipe",
    "FedBuffRecipe",
    "FedEvalRecipe",
    "FedOptRecipe",
    "FedProxRecipe",
    "Fixed",
    "JobAborted",
    "JobFailed",
    "LogNormal",
    "Recipe",
    "RecipeError",
    "Run",
    "RunEvent",
    "RunStatus",
    "ScaffoldRecipe",
    "SimEnv",
    "TrainContext",
    "add_cross_site_evaluation",
    "add_experiment_tracking",
    "batched",
    "partition",
]
