"""The base of recipes: from what a user writes to something an environment can run.

A recipe is data plus references to code. It knows nothing of where it runs:
the environment takes its manifest and its model and returns a `Run`.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

from covey.actors.jobs.batched import ClientFunction
from covey.actors.jobs.launchers import imports
from covey.actors.jobs.manifest import JobManifest, digest_of_file, digest_of_text
from covey.actors.jobs.workflow import Workflow, evaluation, federated_averaging
from covey.actors.roles.job import Job, Training
from covey.actors.roles.plan import Progress
from covey.actors.roles.synchronous import Durations, SynchronousTraining
from covey.algorithms import Aggregation
from covey.algorithms.errors import AlgorithmError, BadSetting
from covey.algorithms.tensors import InitialModel, load_initial
from covey.algorithms.tensors.control import PREFIX, has_control
from covey.transport import Scalar

from .checked import Checked, settings_of
from .errors import ConfigError, did_you_mean
from .rules import source_of
from .run import Run
from .usercode import checked_function

# A name becomes a folder's and part of addresses.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}")
NAME_RULE = "use letters, digits, '_', '-' and '.', at most 64"


class Environment(Protocol):
    """Where recipes run."""

    def execute(self, recipe: Recipe) -> Run:
        """Run to the end, blocking; also where a loop is running already."""
        ...

    async def run(self, recipe: Recipe) -> Run:
        """Run to the end in the running loop; cancelling gives the run up."""
        ...

    def submit(self, recipe: Recipe) -> Run:
        """Start in the background and return at once."""
        ...

    async def start(self, recipe: Recipe) -> Run:
        """Start in the running loop and return at once."""
        ...


class Recipe(Checked, ABC):
    """Base of all recipes.

    Attributes:
        name: Names the run's folder.
        num_rounds: Rounds to run.
        min_clients: Results without which a round fails; None: of every client.
        initial: The model that round 0 sends.
        train_script: The clients' script, or None.
        train: The clients' function, or None.
        tracking: Kinds of experiment tracking, see `add_experiment_tracking`.
    """

    workflow: Workflow = staticmethod(federated_averaging)
    #: Clients that are drawn for each round; None: all of them.
    clients_per_round: int | None = None
    #: Whether all models are measured everywhere at the end; see `add_cross_site_evaluation`.
    cross_site: bool = False

    def __init__(
        self,
        *,
        name: str,
        initial_model: Any,
        num_rounds: int,
        min_clients: int | None,
        train_script: str | Path | None,
        train_args: str | Sequence[str],
        train: ClientFunction | None,
        evaluate: ClientFunction | None,
        task_timeout: float | None,
    ) -> None:
        """Check what can be checked before anything starts; raise `ConfigError`."""
        self.name = _checked_name(name)
        self.num_rounds = whole("num_rounds", num_rounds, 1)
        self.min_clients = None if min_clients is None else whole("min_clients", min_clients, 1)
        if (train_script is None) == (train is None):
            raise ConfigError("train_script", "give either train_script= or train=")
        if evaluate is not None and train is None:
            raise ConfigError("evaluate", "goes with train=; a script uses flare.is_evaluate()")
        self.task_timeout = _checked_timeout(task_timeout)
        self.evaluate = checked_function("evaluate", evaluate)
        self.train = checked_function("train", train)
        self.train_script = None if train_script is None else find_script(train_script)
        self.train_args = _split(train_args)
        self.initial = _load(initial_model)
        self._from_file = initial_model if isinstance(initial_model, str | Path) else None
        self.tracking: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {self.num_rounds} rounds>"

    @abstractmethod
    def aggregation(self) -> Aggregation:
        """A fresh aggregation rule for one run."""

    @abstractmethod
    def progress(self) -> Progress:
        """Model selection and early stopping of one run, at its beginning."""

    def training(
        self, seed: int, durations: Durations | None, sites: Sequence[str]
    ) -> Callable[[Job], Training]:
        """What a job of this recipe does with its sites; raises `ConfigError`.

        Args:
            seed: The run's seed.
            durations: How long tasks take in virtual time, None in real time.
            sites: Who takes part.
        """
        del sites
        return partial(
            SynchronousTraining,
            seed=seed,
            durations=durations,
            cohort=self.clients_per_round,
            keep_local=self.cross_site,
        )

    def version_0(self) -> InitialModel:
        """What round 0 sends: the initial model, with what else travels with it."""
        return self.initial

    @property
    def trains(self) -> bool:
        """Whether clients train, or measure a model alone."""
        return self.workflow is not evaluation

    def rounds(self, sites: Sequence[str]) -> int:
        """How many rounds the workflow has with these sites."""
        del sites
        return self.num_rounds

    def config(self) -> dict[str, Scalar]:
        """What clients are told: `get_config()` in a script, `ctx.config` in a function."""
        return {}

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The recipe's own settings as plain data, for the manifest."""

    def replace(self, **settings: Any) -> Self:
        """A copy with other settings, such as `num_rounds=2`; raises `ConfigError`."""
        known = [name for name in settings_of(type(self)) if hasattr(self, name)]
        other = copy.copy(self)
        for key, value in settings.items():
            if key not in known:
                hint = did_you_mean(key, known)
                raise ConfigError(key, f"{type(self).__name__} has no such setting{hint}")
            setattr(other, key, value)
        other.check()
        return other

    def check(self) -> None:
        """Check the settings once more, after some were set; raise `ConfigError`."""
        _checked_name(self.name)
        whole("num_rounds", self.num_rounds, 1)
        if self.min_clients is not None:
            whole("min_clients", self.min_clients, 1)
        if (self.train_script is None) == (self.train is None):
            raise ConfigError("train_script", "give either train_script= or train=")
        checked_function("evaluate", self.evaluate)
        checked_function("train", self.train)
        if self.train_script is not None:
            self.train_script = find_script(self.train_script)
        self.train_args = _split(self.train_args)
        _checked_timeout(self.task_timeout)

    # Running ---------------------------------------------------------------

    def execute(self, env: Environment) -> Run:
        """Run in `env` to the end, also from a notebook.

        Raises `JobFailed` with the user's own line last, `ConfigError` before
        anything starts, `KeyboardInterrupt` after a clean end on Ctrl-C.
        """
        return env.execute(self)

    async def run(self, env: Environment) -> Run:
        """Run in `env` to the end; raises as `execute`. Cancelling ends the run within a second."""
        return await env.run(self)

    def submit(self, env: Environment) -> Run:
        """Start in `env`, in the background, and return the `Run` at once."""
        return env.submit(self)

    async def start(self, env: Environment) -> Run:
        """Start in `env`, in the running loop, and return the `Run` at once."""
        return await env.start(self)

    # As data ---------------------------------------------------------------

    def manifest(self, sites: Sequence[str]) -> JobManifest:
        """The job as canonical data for these sites."""
        shared = {
            "num_rounds": self.num_rounds,
            "min_clients": self.min_clients,
            "train_args": list(self.train_args),
            "task_timeout": self.task_timeout,
        }
        if self.cross_site:
            shared["cross_site"] = True
        model = self.initial.layout.digest
        if self._from_file is not None:
            model = digest_of_file(Path(self._from_file))
        kind = type(self).__name__
        settings = shared | self.settings()
        return JobManifest(kind, self.name, tuple(sites), settings, model, self._code())

    def _code(self) -> dict[str, str]:
        if self.train_script is not None:
            files = imports.scan(self.train_script).local
            base = self.train_script.parent
            return {os.path.relpath(file, base): digest_of_file(file) for file in files}
        functions = {"train": self.train, "evaluate": self.evaluate}
        return {
            kind: digest_of_text(source_of(function))
            for kind, function in functions.items()
            if function is not None
        }

    def export(self, folder: str | Path, sites: Sequence[str] = ()) -> Path:
        """Write the job as a folder: `manifest.json`, `model.safetensors` and the script's files.

        Raises `ConfigError` for a recipe by function, whose code is not a file,
        and where the folder exists and is not empty, or cannot be written.
        """
        target = Path(folder)
        if self.train_script is None:
            raise ConfigError("train", "a recipe by function has no script to export")
        try:
            if target.exists() and any(target.iterdir()):
                raise ConfigError("folder", f"{target} exists and is not empty")
            self._write(target, self.train_script, sites)
        except OSError as error:
            raise ConfigError("folder", f"{error.filename or target}: {error.strerror}") from None
        return target

    def _write(self, target: Path, script: Path, sites: Sequence[str]) -> None:
        code = target / "code"
        code.mkdir(parents=True, exist_ok=True)
        for file in imports.scan(script).local:
            own = file.is_relative_to(script.parent)
            inside = file.relative_to(script.parent) if own else Path(file.name)
            (code / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, code / inside)
        with (target / "model.safetensors").open("wb") as model:
            self.initial.write(model.fileno())
        manifest = self.manifest(sites).as_dict() | {"entry": script.name}
        (target / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError("name", f"{name!r}; {NAME_RULE}")
    return name


def whole(setting: str, value: Any, least: int) -> int:
    """A whole number of at least `least`; raise `ConfigError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(setting, f"{value!r}; must be a whole number of at least {least}")
    return value


def _checked_timeout(seconds: Any) -> float | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise ConfigError("task_timeout", f"{seconds!r}; a number of seconds above 0, or None")
    return float(seconds)


def _split(args: str | Sequence[Any]) -> tuple[str, ...]:
    """A script's arguments, as a shell would split them."""
    try:
        return tuple(shlex.split(args) if isinstance(args, str) else map(str, args))
    except (ValueError, TypeError) as error:
        raise ConfigError("train_args", f"{args!r}: {error}") from None


def _load(source: Any) -> InitialModel:
    """The initial model, refused by content where it could run code."""
    if source is None:
        raise ConfigError("initial_model", "give a module, a state dict, arrays, or a path")
    try:
        initial = load_initial(source)
    except FileNotFoundError as error:
        raise ConfigError("initial_model", f"{error.filename}: there is no such file") from None
    except BadSetting as error:
        raise ConfigError("initial_model", error.why) from None
    except (AlgorithmError, OSError) as error:
        raise ConfigError("initial_model", str(error)) from None
    if has_control(initial.layout):
        raise ConfigError("initial_model", f"names that begin with {PREFIX!r} are taken")
    return initial


def find_script(script: str | Path) -> Path:
    """Look for a script beside the file that builds the recipe, then in the current folder.

    Raises `ConfigError` with every place looked at.
    """
    given = Path(script)
    places = [given] if given.is_absolute() else [_caller() / given, Path.cwd() / given]
    for place in places:
        if place.is_file():
            return place.resolve()
    looked = " and ".join(str(place) for place in dict.fromkeys(places))
    near = [file.name for place in places for file in place.parent.glob("*.py")]
    hint = did_you_mean(given.name, near)
    raise ConfigError("train_script", f"there is no {given} (looked for {looked}){hint}")


def _caller() -> Path:
    """The folder of the first file on the stack that is not covey's own."""
    frame = sys._getframe(1)
    while frame is not None:
        if not str(frame.f_globals.get("__name__", "")).startswith("covey."):
            return Path(frame.f_code.co_filename).resolve().parent
        frame = frame.f_back  # type: ignore[assignment]
    return Path.cwd()
