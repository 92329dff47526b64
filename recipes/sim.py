"""SimEnv: a whole federation in one event loop, with real scripts.

The server and all sites are actors of one system: the roles and messages are those
of any other run. Scripts run in processes forked
from one preloaded template, one after another inside this process
(`isolation="inline"`), or are plain functions.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import inspect
import os
import secrets
import signal
import sys
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from covey.actors.jobs.launchers.fork import FORK_IS_SAFE, Template
from covey.actors.jobs.launchers.imports import scan

from .checked import Checked
from .durations import Duration, check_durations
from .errors import ConfigError, did_you_mean
from .folder import FRESH, RunFolder, workspace_of
from .leftover import leftover
from .recipe import NAME, NAME_RULE, Recipe, whole
from .run import Run
from .simulation import Simulation
from .usercode import check_syntax

Isolation = Literal["process", "inline"]

# Seeds are shown to people and typed again by them; 32 bits are enough for that.
_SEED_BITS = 32
# Given seeds travel as signed numbers of 64 bits.
_LARGEST_SEED_BITS = 63


class SimEnv(Checked):
    """Simulates a federation on this machine.

    Args:
        num_clients: Number of clients, named site-1, site-2, ...
        clients: Their names, in place of a number.
        num_threads: Clients that train at once; None: as many as there are usable CPUs.
        seed: Seeds everything random in the run; None draws one, which is shown and kept.
        workspace: Where run folders are made; None: `COVEY_WORKSPACE`, else `./covey_runs`.
        isolation: "process" runs each client's script in a process of its own, "inline" all in
            this process, one at a time, so that a debugger works.
        gpus_per_client: Devices that each client sees, dealt out in turn.
        max_processes: Most client processes at once, 20-40 MB each.
        restart_scripts: Start each client's script anew for every task. What a script keeps
            between rounds is lost, and any number of clients fits.
        torch_threads: torch threads of a client's process; functions have those of the program.
        resume: Go on with a run of the same recipe that was cut off. `COVEY_FRESH=1` says no.
        verbose: Show what scripts print, and each client's answer.
        progress: Show the run's progress; "live" shows what each client does too, on a terminal;
            False shows nothing.
        template: A template process that is up already; see `covey run`.
        check_codec: Send every message through the codec, as over a network (for tests).
        durations: Train in virtual time, in which each client's task takes as long as drawn
            from this, such as `LogNormal(0, 0.5)`, or `duration(site, rng) -> seconds`.

    Raises:
        ConfigError: For a setting that cannot work.
    """

    def __init__(
        self,
        num_clients: int = 2,
        *,
        clients: Sequence[str] | None = None,
        num_threads: int | None = None,
        seed: int | None = None,
        workspace: str | Path | None = None,
        isolation: Isolation = "process",
        gpus_per_client: int = 0,
        max_processes: int = 64,
        restart_scripts: bool = False,
        torch_threads: int = 1,
        resume: bool = True,
        verbose: bool = False,
        progress: bool | Literal["live"] = True,
        template: Template | None = None,
        check_codec: bool = False,
        durations: Duration | None = None,
    ) -> None:
        """See the class."""
        self.sites = _sites(num_clients, clients)
        threads = _usable_cpus() if num_threads is None else num_threads
        self.num_threads = whole("num_threads", threads, 1)
        self.seed = None if seed is None else whole("seed", seed, 0)
        if seed is not None and seed >> _LARGEST_SEED_BITS:
            raise ConfigError("seed", f"{seed}; must be less than 2**{_LARGEST_SEED_BITS}")
        self.workspace = workspace
        if isolation not in ("process", "inline"):
            hint = did_you_mean(str(isolation), ("process", "inline"))
            raise ConfigError("isolation", f"{isolation!r}; 'process' or 'inline'{hint}")
        self.isolation: Isolation = isolation
        self.gpus_per_client = whole("gpus_per_client", gpus_per_client, 0)
        self.gpus = _visible_gpus() if gpus_per_client else ()
        if gpus_per_client > len(self.gpus):
            raise ConfigError(
                "gpus_per_client", f"{gpus_per_client}, but {len(self.gpus)} devices are visible"
            )
        self.max_processes = whole("max_processes", max_processes, 1)
        self.restart_scripts = restart_scripts
        self.torch_threads = whole("torch_threads", torch_threads, 1)
        self.resume = resume and os.environ.get("COVEY_FRESH", "0") in ("", "0")
        self.verbose = verbose
        if progress not in (True, False, "live"):
            raise ConfigError("progress", f"{progress!r}; True, False or 'live'")
        self.progress = progress
        self.template = template
        self.check_codec = check_codec
        if durations is not None:
            check_durations(durations, self.sites[0])
        self.durations = durations
        #: What starts over instead of resuming, as users are told; `covey run` has an option.
        self.fresh = FRESH

    def __repr__(self) -> str:
        return f"<SimEnv: {len(self.sites)} clients, {self.num_threads} at once>"

    def replace(self, **settings: Any) -> Self:
        """A copy with other settings, such as `seed=2`; raises `ConfigError`."""
        known = inspect.signature(type(self)).parameters
        kept = {name: getattr(self, name) for name in known if hasattr(self, name)}
        if "num_clients" not in settings:
            kept["clients"] = self.sites
        return type(self)(**(kept | settings))

    # What recipes call -----------------------------------------------------

    def execute(self, recipe: Recipe) -> Run:
        """Run to the end; see `Recipe.execute`."""
        simulation = self._prepare(recipe)
        try:
            if _loop_is_running():  # a notebook's
                _in_thread(simulation).join()
            else:
                with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                    runner.run(simulation.run())
        except KeyboardInterrupt:
            # This very class: Python ends by SIGINT for no subclass, and shells see 130.
            raise KeyboardInterrupt(simulation.outcome.resume_hint) from None
        simulation.outcome.check()
        return simulation.outcome

    async def run(self, recipe: Recipe) -> Run:
        """Run to the end in the running loop; see `Recipe.run`."""
        simulation = self._prepare(recipe)
        await simulation.run()
        simulation.outcome.check()
        return simulation.outcome

    def submit(self, recipe: Recipe) -> Run:
        """Run in a thread of its own; see `Recipe.submit`."""
        simulation = self._prepare(recipe)
        _in_thread(simulation)
        return simulation.outcome

    async def start(self, recipe: Recipe) -> Run:
        """Run in a task of the running loop; see `Recipe.start`."""
        simulation = self._prepare(recipe)
        task = asyncio.create_task(_quietly(simulation.run()))
        # The loop itself holds tasks weakly, and its user need not hold the run.
        _started.add(task)
        task.add_done_callback(_started.discard)
        simulation.outcome.keep(task)
        await asyncio.sleep(0)  # from here on a cancellation finds the run begun, and ends it
        return simulation.outcome

    # Preparation -----------------------------------------------------------

    def _prepare(self, recipe: Recipe) -> Simulation:
        """Check, make or find the run's folder, and begin preloading; nothing runs yet."""
        if recipe.min_clients is not None and recipe.min_clients > len(self.sites):
            raise ConfigError(
                "min_clients", f"{recipe.min_clients}, but there are {len(self.sites)} clients"
            )
        for site in recipe_sites(recipe):
            if site not in self.sites:
                why = f"names {site!r}, which is no client{did_you_mean(site, self.sites)}"
                raise ConfigError("aggregation_weights", why)
        recipe.training(0, None, self.sites)  # raises what cannot work with these clients
        template, preload = self._preload(recipe)
        folder: RunFolder | None = None
        try:
            folder, note = self._folder(recipe)
            return Simulation(self, recipe, folder, template, preload, note)
        except BaseException as error:
            if template is not None:
                template.kill()
            if folder is not None:
                folder.close()
            if isinstance(error, OSError):
                why = f"{error.filename or workspace_of(self.workspace)}: {error.strerror}"
                raise ConfigError("workspace", why) from None
            raise

    def _preload(self, recipe: Recipe) -> tuple[Template | None, tuple[str, ...]]:
        """Check the script's imports, and start the template on them."""
        if recipe.train_script is None:
            return None, ()
        self._check_processes()
        found = scan(recipe.train_script)
        check_syntax(found.local)
        if found.missing:
            raise ConfigError("train_script", "; ".join(map(str, found.missing)))
        preload = found.third_party
        if recipe.initial.kind == "torch" and "torch" not in preload:
            preload = ("torch", *preload)
        if self.isolation == "inline" or not FORK_IS_SAFE:
            return None, preload
        template = self.template
        if template is None:
            return Template.launch(preload), preload
        template.preload([name for name in preload if name not in template.modules])
        return template, preload

    def _check_processes(self) -> None:
        many = len(self.sites) > self.max_processes
        if many and self.isolation == "process" and not self.restart_scripts:
            raise ConfigError(
                "num_clients",
                f"{len(self.sites)} clients are more than max_processes={self.max_processes}; "
                "use train= (thousands of clients by function), raise max_processes (20-40 MB "
                "each), or restart_scripts=True (scripts keep nothing between rounds)",
            )

    def _folder(self, recipe: Recipe) -> tuple[RunFolder, str]:
        """A folder to go on in or a new one, and what to tell of an unfinished run."""
        manifest = recipe.manifest(self.sites)
        workspace, note = workspace_of(self.workspace), ""
        if self.resume:
            found = RunFolder.find_unfinished(workspace, manifest, self.seed)
            if found is not None:
                return found, ""
            note = leftover(workspace, manifest, self.seed)
        seed = self.seed if self.seed is not None else secrets.randbits(_SEED_BITS)
        environment = {
            "kind": "SimEnv",
            "num_threads": self.num_threads,
            "isolation": self.isolation,
            "restart_scripts": self.restart_scripts,
            "torch_threads": self.torch_threads,
            "durations": None if self.durations is None else str(self.durations),
        }
        return RunFolder.create(workspace, manifest, seed, environment), note


# Runs that `start` began and that are not over.
_started: set[asyncio.Task[None]] = set()

# Runs in threads of their own that are not over.
_submitted: set[Run] = set()


def recipe_sites(recipe: Recipe) -> list[str]:
    """The sites that a recipe's settings name."""
    return list(recipe.settings().get("aggregation_weights", ()))


def _sites(number: int, names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return tuple(f"site-{i}" for i in range(1, whole("num_clients", number, 1) + 1))
    sites: tuple[Any, ...] = tuple(names)
    if isinstance(names, str) or not sites or len(set(sites)) != len(sites):
        raise ConfigError("clients", "give a list of different names")
    for site in sites:
        # A name becomes part of addresses, and the name of its log.
        if not isinstance(site, str) or not NAME.fullmatch(site):
            raise ConfigError("clients", f"{site!r}; {NAME_RULE}")
    if {"server", "global", "best"} & set(sites):
        raise ConfigError("clients", "'server', 'global' and 'best' are taken")
    return sites


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _visible_gpus() -> tuple[int, ...]:
    """Devices that CUDA would show, found without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(int(part) for part in visible.split(",") if part.strip().isdigit())
    cards = Path("/proc/driver/nvidia/gpus")
    return tuple(range(len(list(cards.iterdir())))) if cards.is_dir() else ()


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _loop_factory() -> Any:
    """Uvloop where it is there, since it halves the cost of a message."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _in_thread(simulation: Simulation) -> Run:
    """Run a simulation on a loop in a thread of its own."""
    run = simulation.outcome
    run.on_interrupt(simulation.interrupt)
    make_loop = _loop_factory()  # here, since modules cannot all be imported at the program's end

    def work() -> None:
        try:
            with asyncio.Runner(loop_factory=make_loop) as runner:
                runner.run(_quietly(simulation.run()))
        finally:
            _submitted.discard(run)

    _wait_at_exit()
    _submitted.add(run)
    # Not a daemon: a program that ends after submit() waits for its run.
    threading.Thread(target=work, name=f"covey {run.get_job_id()}").start()
    return run


@functools.cache
def _wait_at_exit() -> None:
    """Have the end of the program wait for submitted runs, and Ctrl-C end them meanwhile.

    Python joins threads itself, but after it has closed their pools, which a run uses to its
    end. So this takes the hook by which the pools are closed: who comes last is called first.
    """
    importlib.import_module("concurrent.futures.thread")
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        register(_join_submitted)


def _join_submitted() -> None:
    """Wait for the runs in threads of their own; an uncaught Ctrl-C was meant for them too."""
    if getattr(sys, "last_type", None) is KeyboardInterrupt:
        _interrupt_submitted()
        return
    try:
        for run in tuple(_submitted):
            run.join()
    except KeyboardInterrupt:
        _interrupt_submitted()
        # Nobody is left to raise to; the shell is to see 130 all the same.
        sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def _interrupt_submitted() -> None:
    runs = tuple(_submitted)
    for run in runs:
        run.interrupt()
    for run in runs:
        run.join()
        sys.stderr.write(f"{run.resume_hint}\n")


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    """Await a run whose outcome is told by its `Run`."""
    with contextlib.suppress(asyncio.CancelledError):
        await work
