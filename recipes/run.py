"""A run, as its user holds it: status, events, metrics, models, abort."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covey.actors.jobs.checkpoint import BEST, MODEL
from covey.actors.jobs.states import RunStatus
from covey.actors.jobs.workflow import CROSS_SITE
from covey.actors.observe.events import EventKind, RunEvent
from covey.actors.observe.journal import Journal
from covey.actors.runtime import System, SystemStatistics

from .errors import ConfigError, JobAborted, JobFailed, did_you_mean

if TYPE_CHECKING:
    from covey.actors.observe.report import Plot


class Run:
    """One run of a recipe, under way or over. All methods may be called from any thread.

    Attributes:
        seed: The run's seed.
    """

    def __init__(self, folder: Path, job_id: str, seed: int, journal: Journal) -> None:
        """Made by environments."""
        self.seed = seed
        self._folder = folder
        self._id = job_id
        self._journal = journal
        self._status = RunStatus.SUBMITTED
        self._over = threading.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._final: RunEvent | None = None
        self._abort: Callable[[], object] | None = None
        self._interrupt: Callable[[], object] | None = None
        self._systems: Sequence[System] = ()
        self._abort_wanted = False
        self._task: asyncio.Task[None] | None = None
        journal.subscribe(self._follow)

    def __repr__(self) -> str:
        return f"<Run {self._id}: {self._status}>"

    # What happened ---------------------------------------------------------

    def get_job_id(self) -> str:
        """The run's id, unique on this machine."""
        return self._id

    def get_status(self) -> RunStatus:
        """Where the run is now; never None."""
        return self._status

    def get_result(self) -> Path:
        """The run's folder, which exists from the start."""
        return self._folder

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`: one per round and site, and one per round for "global"."""
        try:
            lines = (self._folder / "metrics.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    def model(self) -> dict[str, Any]:
        """The latest complete global model, in the kind of the initial model.

        Raises `FileNotFoundError` before there is one.
        """
        return _read(self._folder / MODEL)

    def best_model(self) -> dict[str, Any]:
        """The model with the best key metric; raises `FileNotFoundError` if none was measured."""
        return _read(self._folder / BEST)

    def cross_site(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Metrics by model and site, of a recipe with `add_cross_site_evaluation`.

        Raises `FileNotFoundError` before the evaluation is through, and where there is none.
        """
        matrix: dict[str, dict[str, dict[str, float | None]]]
        matrix = json.loads((self._folder / CROSS_SITE).read_text())
        return matrix

    def plot(self, metric: str | None = None) -> Plot:
        """Pictures of what has been measured so far, for a notebook to show.

        Args:
            metric: The only metric to show; None shows all, and the rounds' times.

        Raises `ConfigError` for a metric that nobody has measured.
        """
        from covey.actors.observe.report import Plot

        plot = Plot(self._folder, metric)
        if metric is not None and metric not in plot.metrics:
            raise ConfigError("metric", _unmeasured(metric, plot.metrics))
        return plot

    # Following -------------------------------------------------------------

    def events(self) -> AsyncIterator[RunEvent]:
        """All events from the first, in order, until the run is over."""
        return self._journal.follow()

    async def wait(self) -> RunStatus:
        """Wait until the run is over and its files are written; return its status.

        Cancelling the wait leaves the run alone.
        """
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        # Looked at after the waiter is in place: another thread may be finishing the run.
        try:
            if not self._over.is_set():
                await waiter
        finally:
            self._waiters.remove(waiter)
        return self._status

    def join(self) -> RunStatus:
        """As `wait`, blocking the thread.

        Ctrl-C meanwhile ends a submitted run too, to be resumed later, and raises
        `KeyboardInterrupt` once it is over.
        """
        try:
            self._over.wait()
        except KeyboardInterrupt:
            if self._interrupt is None:
                raise
            self._interrupt()
            self._over.wait()
            # This very class: Python ends by SIGINT for no subclass, and shells see 130.
            raise KeyboardInterrupt(self.resume_hint) from None
        return self._status

    def statistics(self) -> tuple[SystemStatistics, ...]:
        """What can be seen of every node now; empty before the run and after it."""
        return tuple(system.statistics() for system in self._systems)

    def abort(self) -> None:
        """Give the run up; it is over within a second. Nothing happens if it is over already."""
        self._abort_wanted = True  # before `steer` it is all there is to do
        if self._abort is not None and not self._status.final:
            with suppress(RuntimeError):  # its loop has been closed: the run is over
                self._abort()

    def check(self) -> None:
        """Raise `JobFailed` or `JobAborted` if the run has ended so."""
        final = self._final
        if final is None or self._status is RunStatus.COMPLETED:
            return
        if self._status is RunStatus.ABORTED:
            raise JobAborted(f"run {self._id} was {final.data['error']}", self)
        raise JobFailed(_failure_text(final), self, final.site, final.round)

    # For environments ------------------------------------------------------

    def show(self, systems: Sequence[System]) -> None:
        """Set what `statistics` looks at."""
        self._systems = systems

    def steer(self, abort: Callable[[], object]) -> None:
        """Set what `abort` does; done at once if that has been asked for already."""
        self._abort = abort
        if self._abort_wanted:
            abort()

    def on_interrupt(self, interrupt: Callable[[], object]) -> None:
        """Set what Ctrl-C in `join` does, for a run that no thread's Ctrl-C reaches by itself."""
        self._interrupt = interrupt

    def interrupt(self) -> None:
        """Do what Ctrl-C does, and do not wait for it."""
        if self._interrupt is not None:
            self._interrupt()

    @property
    def resume_hint(self) -> str:
        """What to tell after an interrupt."""
        return f"interrupted; run the same command again to resume ({self._folder})"

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold the task that the run is, for as long as somebody holds the run."""
        self._task = task

    def finish(self) -> None:
        """The run is over and its files are written."""
        self._over.set()
        for waiter in tuple(self._waiters):
            with suppress(RuntimeError):  # that loop has ended, and who waited with it
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)

    @property
    def final(self) -> RunEvent | None:
        """The last event, None while the run is under way."""
        return self._final

    def _follow(self, event: RunEvent) -> None:
        if event.kind is EventKind.RUN_STARTED:
            self._status = RunStatus.RUNNING
        elif event.kind is EventKind.RUN_FINISHED:
            self._final = event
            self._status = RunStatus(event.data["status"])


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _failure_text(final: RunEvent) -> str:
    """The failure, with the user's own file and line last."""
    data = final.data
    text = str(data["error"])
    if data.get("file"):
        text += f'\n  File "{data["file"]}", line {data["line"]}'
        if data.get("source_line"):
            text += f"\n    {data['source_line']}"
    return text


def _unmeasured(metric: str, known: Sequence[str]) -> str:
    measured = ", ".join(known) or "nothing yet"
    return f"{metric!r} has not been measured, but {measured}{did_you_mean(metric, known)}"


def _read(path: Path) -> dict[str, Any]:
    """Tensors of a file, as views of a private mapping."""
    from covey.algorithms.tensors import Packer, map_private, read_layout

    return Packer(read_layout(path)).unpack(map_private(path))
