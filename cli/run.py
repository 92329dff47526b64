"""`covey run`: run the recipe of a job file in the simulator.

Here: the order of things (look, start the template, import, run, tell) and the options that
change recipe and environment. Not here: how a job file is found out about (`jobfile.py`), what a
run shows while it is under way (`covey.recipes.console`).

The template process starts before the job file is imported, so that what clients import and what
the job file imports are loaded side by side.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from .errors import CommandError, ExitCode
from .jobfile import JobFile, load, look

if TYPE_CHECKING:
    from covey.actors.jobs.launchers.fork import Template
    from covey.recipes import Recipe, Run, SimEnv


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `covey run` was asked for; None leaves what the job file says."""

    file: Path
    clients: int | None = None
    rounds: int | None = None
    seed: int | None = None
    workspace: Path | None = None
    threads: int | None = None
    isolation: Literal["process", "inline"] | None = None
    fresh: bool = False
    verbose: bool = False
    live: bool = False
    json: bool = False


def run_file(options: RunOptions) -> ExitCode:
    """Run a job file to its end and tell the outcome.

    Raises:
        CommandError: If it cannot be run, has failed, or was interrupted.
    """
    job = look(options.file)
    try:
        with _template(job, options) as template:
            return _run(job, options, template)
    except KeyboardInterrupt as error:
        text = str(error) or "interrupted; run the same command again to resume"
        raise CommandError(text, ExitCode.INTERRUPTED) from error


def _run(job: JobFile, options: RunOptions, template: Template | None) -> ExitCode:
    module = load(job)
    from covey.recipes import ConfigError, JobAborted, JobFailed

    try:
        recipe = _recipe(module, options)
        run = recipe.execute(_environment(module, options, template))
    except ConfigError as error:
        raise CommandError(str(error)) from error
    except (JobFailed, JobAborted) as error:
        _tell(error.run, options)
        raise CommandError(str(error), ExitCode.FAILED) from error
    _tell(run, options)
    return ExitCode.COMPLETED


@contextmanager
def _template(job: JobFile, options: RunOptions) -> Generator[Template | None]:
    """A template that imports what the clients will, if there will be any to fork."""
    if not job.scripts or options.isolation == "inline":
        yield None
        return
    from covey.actors.jobs.launchers.fork import FORK_IS_SAFE, Template
    from covey.actors.jobs.launchers.imports import scan

    if not FORK_IS_SAFE:
        yield None
        return
    template = Template.launch(scan(job.scripts[0]).third_party)
    try:
        yield template
    finally:
        template.kill()


def _recipe(module: ModuleType, options: RunOptions) -> Recipe:
    from covey.recipes import Recipe

    recipe: object = getattr(module, "recipe", None)
    if recipe is None:
        found = [name for name, value in vars(module).items() if isinstance(value, Recipe)]
        hint = f"; rename `{found[0]}`" if found else ""
        raise CommandError(f"{options.file} has no variable `recipe`{hint}")
    if not isinstance(recipe, Recipe):
        kind = type(recipe).__name__
        raise CommandError(f"{options.file}: `recipe` is of type {kind}, no recipe")
    return recipe if options.rounds is None else recipe.replace(num_rounds=options.rounds)


def _environment(module: ModuleType, options: RunOptions, template: Template | None) -> SimEnv:
    """The job file's `env`, or a new one, with what the options change."""
    from covey.recipes import SimEnv

    given: object = getattr(module, "env", None)
    if given is not None and not isinstance(given, SimEnv):
        kind = type(given).__name__
        raise CommandError(f"{options.file}: `env` is a {kind}; covey run needs a SimEnv")
    env = given if given is not None else SimEnv()
    asked = {
        "num_clients": options.clients,
        "num_threads": options.threads,
        "seed": options.seed,
        "workspace": options.workspace,
        "isolation": options.isolation,
    }
    env = env.replace(
        **{name: value for name, value in asked.items() if value is not None},
        resume=env.resume and not options.fresh,
        verbose=env.verbose or options.verbose,
        progress=False if options.json else "live" if options.live else env.progress,
    )
    if template is not None and env.isolation == "process":
        env = env.replace(template=template)
    env.fresh = "--fresh"
    return env


def _tell(run: Run, options: RunOptions) -> None:
    """The outcome as one JSON object, if that was asked for; else the console has told it."""
    if not options.json:
        return
    folder = run.get_result()
    outcome = {"folder": str(folder), **json.loads((folder / "summary.json").read_text())}
    sys.stdout.write(json.dumps(outcome) + "\n")
