"""Cross-site evaluation: asking for it, and the workflow of a recipe that has it.

Not here: the evaluation itself (`covey.actors.jobs.workflow`), its matrix (`Run.cross_site`).
"""

from __future__ import annotations

from functools import partial

from covey.actors.jobs.workflow import Workflow, cross_site_evaluation

from .errors import ConfigError
from .fedbuff import AsynchronousRecipe
from .fedeval import FedEvalRecipe
from .recipe import Recipe


def add_cross_site_evaluation(recipe: Recipe) -> None:
    """After training, have every client evaluate every model.

    The models are "global" (the last one), "best" (the best by the key metric, if there is one),
    and under each client's name the last model that it sent. The matrix is `run.cross_site()`,
    and `cross_site.json` in the run's folder: metrics by model and client. Clients by function
    need `evaluate=`; scripts must tell tasks apart by `is_evaluate()`, and one that does not is
    not asked, nor is one that was never drawn. A client that fails is missing from the matrix,
    and is told.

    Raises:
        ConfigError: The recipe has no function to evaluate with, or no rounds.
    """
    if isinstance(recipe, AsynchronousRecipe | FedEvalRecipe):
        raise ConfigError("recipe", f"{type(recipe).__name__} does not train in rounds")
    if recipe.train is not None and recipe.evaluate is None:
        raise ConfigError("evaluate", "is what clients measure models with; give it to the recipe")
    recipe.cross_site = True


def workflow_of(recipe: Recipe) -> Workflow:
    """What a run of the recipe does in which order."""
    if not recipe.cross_site:
        return recipe.workflow
    all_can = recipe.evaluate is not None
    return partial(cross_site_evaluation, training=recipe.workflow, all_can=all_can)
