"""One simulated run: its systems, its scripts, its files, from the first event to the last."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covey.actors.downloads.blobs import Blobs
from covey.actors.jobs.batched import Batched
from covey.actors.jobs.batches import Batches
from covey.actors.jobs.checkpoint import BEST, MODEL, Checkpoint
from covey.actors.jobs.function import FunctionClients
from covey.actors.jobs.launchers.fork import ForkLauncher, Template
from covey.actors.jobs.launchers.script import Launcher, ScriptSettings
from covey.actors.jobs.states import RunStatus
from covey.actors.jobs.threads import Slots
from covey.actors.observe.events import EventKind, RunEvent
from covey.actors.observe.journal import Journal
from covey.actors.observe.keeping import BeforeRound, FirstRows, Keep
from covey.actors.roles.job import Abort, Job, Training
from covey.actors.roles.messages import role_messages
from covey.actors.roles.plan import JobPlan
from covey.actors.roles.server import RunJob, Server
from covey.actors.roles.site import Site
from covey.actors.roles.trainer import TrainerSettings
from covey.actors.runtime import ActorError, Mailbox, Ref, System, runtime_messages
from covey.algorithms.tensors.control import has_control, write_alone
from covey.transport import Registry

from .console import Console
from .cross_site import workflow_of
from .durations import Drawn
from .errors import ConfigError
from .folder import RunFolder
from .recipe import Recipe
from .run import Run
from .tracking import trackers

if TYPE_CHECKING:
    from .sim import SimEnv

# The node that the server and all the sites live on: an actor does not care where others are.
NODE = "local"

# What an interrupted run says, and the most its job gets to end its scripts: they
# are killed, which takes milliseconds.
_INTERRUPTED = "interrupted"
_INTERRUPT_S = 1.0

# Failures that the summary lists; all of them are in the log of events.
_MOST_FAILURES = 100

# Objects of about a hundred bytes, 10 MB of them, before the collector looks at them; with many
# sites as much for each as it takes itself.
COLLECT_OBJECTS = 100_000
COLLECT_OBJECTS_PER_SITE = 100


class Simulation:
    """Everything of one run in one loop. `run` may be called once."""

    def __init__(
        self,
        env: SimEnv,
        recipe: Recipe,
        folder: RunFolder,
        template: Template | None,
        preload: tuple[str, ...],
        note: str = "",
    ) -> None:
        """Put the initial model, or the version to go on from, in place; `note` is told first."""
        self._env = env
        self._recipe = recipe
        self._folder = folder
        self._template = template
        self._preload = preload
        self._note = note
        self._began = time.time()
        self._blobs = Blobs()
        self._start = recipe.version_0()
        more = has_control(self._start.layout)
        self._checkpoint = Checkpoint(folder.path, write_alone if more else None)
        self._progress = recipe.progress()
        self._resumed, self._version = self._place_model()
        self._journal = Journal(folder.path, keep=self._kept() if self._resumed else None)
        self.outcome = Run(folder.path, folder.id, folder.seed, self._journal)
        self._console = _console(env) if env.progress else None
        self._trackers = trackers(recipe, folder)
        self._subscribe()
        self._slots = Slots(env.num_threads)
        self._done = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None
        self._interrupted = False
        self._failures: list[RunEvent] = []

    def _place_model(self) -> tuple[bool, int]:
        state = self._checkpoint.load()
        if state is not None:
            self._progress.restore(state)
            return True, int(state["version"])
        try:
            with self._checkpoint.writing(0) as fd:
                self._start.write(fd)
            self._checkpoint.commit(0, self._progress.state())
        except OSError as error:
            path = self._checkpoint.path(0)
            raise ConfigError("workspace", f"cannot write {path}: {error.strerror}") from None
        return False, 0

    def _kept(self) -> Keep:
        """What is known of the run that goes on and does not come again."""
        progress = self._progress
        if progress.updates is None:
            return BeforeRound(self._version)
        return FirstRows(progress.updates, progress.judged)

    def _subscribe(self) -> None:
        self._journal.subscribe(self._watch)
        for tracker in self._trackers:
            self._journal.subscribe(tracker)
        if self._console is not None:
            self._journal.subscribe(self._console)

    def _watch(self, event: RunEvent) -> None:
        if event.kind is EventKind.RUN_FINISHED:
            self._done.set()
        elif event.kind is EventKind.SITE_FAILED and len(self._failures) < _MOST_FAILURES:
            self._failures.append(event)

    # The run ---------------------------------------------------------------

    async def run(self) -> None:
        """Run to the end. Cancelling ends it within a second, to be resumed later."""
        self._task = asyncio.current_task()
        if self._interrupted:
            self.interrupt()
        try:
            if self._note:
                self._journal.record(RunEvent(EventKind.NOTICE, data={"text": self._note}))
            async with AsyncExitStack() as stack:
                stack.enter_context(_patient_collector(len(self._env.sites)))
                await self._simulate(stack)
        except (asyncio.CancelledError, KeyboardInterrupt):
            self._end_early(RunStatus.ABORTED, _INTERRUPTED)
            raise
        except Exception as error:
            self._end_early(RunStatus.FAILED, str(error) or repr(error))
            self._summarise()
            await self._end_trackers()
        else:
            self._summarise()
            await self._end_trackers()
        finally:
            self._close()

    def interrupt(self) -> None:
        """Cancel `run`, from another thread and also before it has begun."""
        self._interrupted = True
        if self._task is not None:
            with suppress(RuntimeError):  # its loop has been closed: the run is over
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    async def _simulate(self, stack: AsyncExitStack) -> None:
        registry = Registry(*runtime_messages(), *role_messages())
        registry.freeze()
        system = System(
            NODE, registry=registry, seed=self._folder.seed, check_codec=self._env.check_codec
        )
        stack.callback(self.outcome.show, ())
        await stack.enter_async_context(system)
        self.outcome.show((system,))
        mailbox = Mailbox(2 * len(self._env.sites) + 64)
        server = await system.spawn(Server, name="server", mailbox=mailbox)
        trainer = await self._trainers(stack)
        for site in self._env.sites:
            settings = partial(trainer, site)
            await system.spawn(partial(Site, site, server, settings), name=site)
        job: Ref[Job] = await server.ask(RunJob(self._plan()))
        loop = asyncio.get_running_loop()
        abort = partial(self._abort, job, "aborted by its user")
        self.outcome.steer(partial(loop.call_soon_threadsafe, abort))
        try:
            await self._done.wait()
        except asyncio.CancelledError:
            await self._interrupt(job)
            raise

    def _abort(self, job: Ref[Job], reason: str) -> None:
        with suppress(ActorError):  # the job has ended meanwhile
            self._aborting = job.tell(Abort(reason))

    async def _interrupt(self, job: Ref[Job]) -> None:
        """Have the job end as for an abort, so that no script's end is taken for a failure."""
        self._abort(job, _INTERRUPTED)
        with suppress(TimeoutError):
            async with asyncio.timeout(_INTERRUPT_S):
                await self._done.wait()

    def _plan(self) -> JobPlan:
        recipe, env = self._recipe, self._env
        return JobPlan(
            id=self._folder.id,
            name=recipe.name,
            sites=env.sites,
            minimum=recipe.min_clients or len(env.sites),
            rounds=recipe.rounds(env.sites),
            rule=recipe.aggregation(),
            layout=self._start.layout,
            blobs=self._blobs,
            checkpoint=self._checkpoint,
            version=self._version,
            progress=self._progress,
            record=self._record,
            write=self._journal.flush,
            virtual=env.durations is not None,
            crashed=partial(self._end_early, RunStatus.FAILED),
            training=self._training(),
            task_deadline_s=recipe.task_timeout,
            workflow=workflow_of(recipe),
            info={
                "job": self._folder.id,
                "seed": self._folder.seed,
                "folder": str(self._folder.path),
                "resumed_round": self._version if self._resumed else None,
                "resumed_updates": self._progress.updates if self._resumed else None,
                "tracking": list(recipe.tracking),
                "task": "train" if recipe.trains else "evaluate",
            },
        )

    def _training(self) -> Callable[[Job], Training]:
        env, seed = self._env, self._folder.seed
        drawn = None if env.durations is None else Drawn(env.durations, seed)
        return self._recipe.training(seed, drawn, env.sites)

    # Clients ---------------------------------------------------------------

    async def _trainers(self, stack: AsyncExitStack) -> Callable[[str, str], TrainerSettings]:
        """How the trainer of (site, job) is set up."""
        if self._recipe.train is not None:
            return self._function_trainers(self._recipe.train, stack)
        launcher = self._launcher()
        stack.push_async_callback(launcher.close)
        env, kept = self._env, dict(os.environ)
        for note in self._placement():
            self._journal.record(RunEvent(EventKind.NOTICE, data={"text": note}))

        def settings(site: str, job: str) -> TrainerSettings:
            script = self._script_settings(site, job, kept)
            return TrainerSettings(
                site=site,
                start=partial(launcher.start, script),
                blobs=self._blobs,
                slots=self._slots,
                warm=not env.restart_scripts,
                restart=env.restart_scripts,
            )

        return settings

    def _function_trainers(
        self, train: Any, stack: AsyncExitStack
    ) -> Callable[[str, str], TrainerSettings]:
        excluded = tuple(self._recipe.aggregation().excluded)
        # A deadline begins once a task has its slot, so the trainer must take it then.
        timed = self._recipe.task_timeout is not None
        clients = FunctionClients(
            train,
            self._recipe.evaluate,
            job_id=self._folder.id,
            seed=self._folder.seed,
            exclude=excluded,
            config=self._recipe.config(),
            state=self._checkpoint.sites,
            slots=self._slots,
            slots_are_held=timed,
        )
        stack.callback(clients.close)
        batches = Batches(clients) if self._is_batched() else None
        if batches is not None:
            stack.push_async_callback(batches.close)

        def settings(site: str, job: str) -> TrainerSettings:
            del job
            return TrainerSettings(
                site=site,
                start=partial(clients.start, site),
                blobs=self._blobs,
                slots=self._slots if timed else None,
                warm=False,
                batches=batches,
            )

        return settings

    def _is_batched(self) -> bool:
        return any(isinstance(f, Batched) for f in (self._recipe.train, self._recipe.evaluate))

    def _launcher(self) -> Launcher:
        if self._template is not None:
            return ForkLauncher(self._template, self._show)
        if self._env.isolation == "inline":
            from covey.actors.jobs.launchers.inline import InlineLauncher

            return InlineLauncher(self._preload, self._show)
        from covey.actors.jobs.launchers.spawn import SpawnLauncher

        return SpawnLauncher(self._preload, self._show)

    def _show(self, text: str) -> None:
        if self._console is not None:
            self._console.write(text)

    def _script_settings(self, site: str, job: str, env: Mapping[str, str]) -> ScriptSettings:
        recipe = self._recipe
        assert recipe.train_script is not None
        shown = self._env.verbose or len(self._env.sites) == 1
        return ScriptSettings(
            site=site,
            job_id=job,
            script=recipe.train_script,
            cwd=Path.cwd(),
            env=env,
            log=self._folder.path / "logs" / f"{site}.log",
            seed=self._folder.seed,
            kind=recipe.initial.kind,
            args=recipe.train_args,
            echo=f"[{site}] " if shown else None,
            torch_threads=self._env.torch_threads,
            gpus=self._gpus_of(site),
            exclude=tuple(recipe.aggregation().excluded),
            config=recipe.config(),
            state=self._checkpoint.sites / site,
        )

    def _gpus_of(self, site: str) -> tuple[int, ...]:
        env = self._env
        first = env.sites.index(site) * env.gpus_per_client
        return tuple(env.gpus[(first + i) % len(env.gpus)] for i in range(env.gpus_per_client))

    def _placement(self) -> list[str]:
        if not self._env.gpus_per_client:
            return []
        return [
            f"{site} sees device {', '.join(map(str, self._gpus_of(site)))}"
            for site in self._env.sites
        ]

    # The end ---------------------------------------------------------------

    def _record(self, event: RunEvent) -> None:
        """Journal what the job tells, to the end and no further."""
        if self.outcome.final is None:
            self._journal.record(event)

    def _end_early(self, status: RunStatus, error: str) -> None:
        """Tell the end of a run whose job could not."""
        if self.outcome.final is not None:
            return
        best = self._progress.best
        data = {
            "status": status.value,
            "error": error,
            "rounds": self._checkpoint.version,
            "key_metric": best.key_metric,
            "best_round": best.version,
            "best_value": best.value,
            "stopped_by": self._progress.stopped_by,
        }
        if self._env.durations is not None:
            data["virtual_s"] = self._progress.time
        self._journal.record(RunEvent(EventKind.RUN_FINISHED, data=data))

    async def _end_trackers(self) -> None:
        """Wait until all curves are written; an interrupted run leaves that to `_close`."""
        ends = (tracker.end() for tracker in self._trackers)
        for error in await asyncio.gather(*ends, return_exceptions=True):
            if error is not None:
                text = f"tracking stopped: {type(error).__name__}: {error}"
                with suppress(OSError):  # a full disk, which the run has met as well
                    self._journal.record(RunEvent(EventKind.NOTICE, data={"text": text}))

    def _summarise(self) -> None:
        """Write `summary.json`; drop what only a resumed run would need."""
        summary = self._summary()
        try:
            self._folder.summarise(summary)
        except OSError:
            self._checkpoint.discard()  # on a full disk it makes room for the summary
            try:
                self._folder.summarise(summary)
            except OSError as error:
                text = f"cannot write {error.filename}: {error.strerror}"
                self._journal.record(RunEvent(EventKind.NOTICE, data={"text": text}))
        self._checkpoint.discard()
        self._draw()

    def _draw(self) -> None:
        """Write `report.html`; a run without one is as good."""
        from covey.actors.observe.report import report_at_end  # milliseconds that no run waits for

        missing = report_at_end(self._folder.path)
        if missing:
            with suppress(OSError):  # a full disk, which the run has met as well
                self._journal.record(RunEvent(EventKind.NOTICE, data={"text": missing}))

    def _summary(self) -> dict[str, Any]:
        final = self.outcome.final
        assert final is not None
        folder, best = self._folder.path, self._progress.best
        return {
            "id": self._folder.id,
            "name": self._recipe.name,
            "status": final.data["status"],
            "error": final.data["error"],
            "site": final.site,
            "failures": [_failure(event) for event in self._failures],
            "rounds": final.data["rounds"],
            "seconds": round(final.time - self._began, 3),
            **_virtual_seconds(final),
            "key_metric": best.key_metric,
            "best_round": best.version,
            "best_value": best.value,
            "stopped_by": self._progress.stopped_by,
            **self._counts(),
            "model": MODEL,
            "best_model": BEST if (folder / BEST).exists() else None,
            "seed": self._folder.seed,
            "started": self._folder.config["created"],
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(final.time)),
        }

    def _counts(self) -> dict[str, Any]:
        """What came of updates in asynchronous training; nothing of training by rounds."""
        progress = self._progress
        if progress.updates is None:
            return {}
        return {
            "updates": progress.updates - progress.lost,
            "stale": progress.stale,
            "dropped": progress.dropped + progress.lost,
        }

    def _close(self) -> None:
        """Let go of everything, whatever the disk says: somebody may wait for the end."""
        closers = [self._journal.close, *(tracker.close for tracker in self._trackers)]
        try:
            for close in closers:
                with suppress(OSError):  # a full disk; what was written is whole
                    close()
            if self._console is not None:
                self._console.close()
            self._blobs.close()
        finally:
            self._folder.close()
            self.outcome.finish()


def _console(env: SimEnv) -> Console:
    live = env.sites if env.progress == "live" else ()
    return Console(verbose=env.verbose, failures=False, live=live, fresh=env.fresh)


def _virtual_seconds(final: RunEvent) -> dict[str, float]:
    """How long training took in virtual time, where there is one."""
    return {"virtual_seconds": final.data["virtual_s"]} if "virtual_s" in final.data else {}


def _failure(event: RunEvent) -> dict[str, Any]:
    """A site's failure, as the summary has it."""
    what = {key: event.data.get(key) for key in ("kind", "text", "file", "line")}
    return {"site": event.site, "round": event.round, **what}


@contextmanager
def _patient_collector(sites: int) -> Generator[None]:
    """Look for cycles of garbage less often while thousands of actors live.

    Python's collector looks at every young object each 700 allocations, and a
    round makes many that are all in use: it was measured at a third of the time
    of a round of 1,000 sites. The threshold is put back after the last of the runs
    that go on at once.
    """
    before = _thresholds[0] if _thresholds else gc.get_threshold()
    _thresholds.append(before)
    objects = max(before[0], COLLECT_OBJECTS, sites * COLLECT_OBJECTS_PER_SITE)
    gc.set_threshold(objects, *before[1:])
    try:
        yield
    finally:
        _thresholds.pop()
        if not _thresholds:
            gc.set_threshold(*before)


# One entry for each run that goes on: the threshold from before the first of them.
_thresholds: list[tuple[int, int, int]] = []
