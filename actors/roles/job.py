"""The job: the actor that has sites work towards a model and tells what happens.

Here: its life, from the first trainer to the last word, and what all jobs do alike.
Not here: who is given which task when (`synchronous.py`).

Tasks are pushed, results come back as messages of their own, and nothing is
polled. A site is waited for as long as its trainer lives; death watch tells of
the end.
"""

from __future__ import annotations

import asyncio
from asyncio import FIRST_COMPLETED
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..downloads.blobs import Blob, BlobRef
from ..jobs.states import RunStatus
from ..runtime import Actor, Down, Message, Rejected, handles
from .blame import WorkflowFailed
from .employment import Employment
from .messages import Counted, Failure, Returned, Streamed, Submit
from .plan import JobPlan, Outcome, QuorumLost
from .telling import Telling


@dataclass(frozen=True, slots=True)
class Abort(Message["Job", None]):
    """Give the job up."""

    reason: str = "aborted"


@dataclass(frozen=True, slots=True)
class Ended(Message["Job", None]):
    """To itself: the workflow is through."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Parted(Message["Job", None]):
    """To itself: the sites are retired; `failures` went wrong after the last task."""

    outcome: Outcome
    failures: Mapping[str, Failure]


@dataclass(frozen=True, slots=True)
class Watchdog(Message["Job", None]):
    """To itself: look whether anything has happened lately."""


class Training(Protocol):
    """What kinds of jobs differ in: who is given which task when, and what becomes of answers."""

    async def prepare(self) -> None:
        """Start what is needed beside sites."""

    async def work(self) -> None:
        """Train from the current version to the end; raises `QuorumLost`."""

    async def take(self, msg: Submit) -> Counted:
        """Take a site's result, once."""
        ...

    def lose(self, site: str, failure: Failure) -> None:
        """Count a site's failure, once; note whether it is out for good."""

    def welcome(self, site: str) -> None:
        """A site that was away has a trainer again: give it work."""

    def look(self) -> None:
        """Once a second: say what is waited for, if it has been long."""


class Job(Actor):
    """Runs one job."""

    def __init__(self, plan: JobPlan, addresses: Mapping[str, str]) -> None:
        """Run `plan` on the sites at these addresses as soon as the actor starts."""
        self.plan = plan
        self._addresses = addresses
        self.model = BlobRef(b"", 0)
        self.version = plan.version
        self._cut_short: asyncio.Future[Outcome] | None = None
        self._streamed: dict[str, int] = {}
        self._ending = False
        self._training: Training = plan.training(self)
        self.employment: Employment
        self.telling: Telling

    # Its life --------------------------------------------------------------

    async def started(self) -> None:
        """Begin the work."""
        plan = self.plan
        self.telling = Telling(plan, asyncio.get_running_loop().time, self._disk_refused)
        self.employment = Employment(
            self.ctx, plan.id, self._addresses, plan.progress.out, self._training
        )
        self._cut_short = asyncio.get_running_loop().create_future()
        await self._training.prepare()
        self.telling.started()
        for site, failure in self.employment.out.items():
            self.telling.stays_out(site, failure)
        self.ctx.every(1.0, Watchdog())
        self.ctx.run(self._live(self._cut_short), _ended)

    async def _live(self, cut_short: asyncio.Future[Outcome]) -> Outcome:
        """Run the workflow to its end, or until it is cut short."""
        work = asyncio.ensure_future(self._work())
        try:
            both: set[asyncio.Future[Any]] = {work, cut_short}
            await asyncio.wait(both, return_when=FIRST_COMPLETED)
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait([work])
                if not work.cancelled():
                    work.exception()  # what went wrong in its clean-up changes nothing now
        if cut_short.done():
            return cut_short.result()
        try:
            work.result()
        except QuorumLost as error:
            return _without_quorum(error)
        except WorkflowFailed as error:
            why, failure = str(error), error.failure
            return Outcome(RunStatus.FAILED, why, None, self.version, failure)
        except (Rejected, OSError) as error:
            return Outcome(RunStatus.FAILED, _text(error), None, self.version)
        return Outcome(RunStatus.COMPLETED)

    async def _work(self) -> None:
        self._adopt()
        await self.employment.begin()
        await self._training.work()

    @handles
    def ended(self, msg: Ended) -> None:
        """Retire the sites; what their scripts stream in their last lines is taken meanwhile."""
        self._ending = True
        self.ctx.cancel_timers()
        outcome = msg.outcome
        self.employment.end()

        def parted(failures: Mapping[str, Failure] | Exception) -> Parted:
            return Parted(outcome, {} if isinstance(failures, Exception) else failures)

        kill = outcome.status is not RunStatus.COMPLETED
        self.ctx.run(self.employment.retire(self.plan.sites, kill=kill), parted)

    @handles
    def parted(self, msg: Parted) -> None:
        """Tell the outcome, and end."""
        for site, failure in msg.failures.items():
            self.telling.last_words(site, failure)
        self.telling.finished(msg.outcome, self.version)
        self.ctx.stop()

    @handles
    def abort(self, msg: Abort) -> None:
        """Give the job up; where it is over but for its scripts' last lines, give them up."""
        self.employment.hurry()
        self._cut(Outcome(RunStatus.ABORTED, msg.reason))

    def _cut(self, outcome: Outcome) -> None:
        """End the workflow where it is; the first word counts."""
        if self._cut_short is not None and not self._cut_short.done():
            self._cut_short.set_result(outcome)

    # What sites say --------------------------------------------------------

    @handles
    async def submitted(self, msg: Submit) -> Counted:
        """Take a site's result, unless the job is over."""
        if self._ending:
            return Counted("late", f"round {msg.round} is over")
        return await self._training.take(msg)

    @handles
    def streamed(self, msg: Streamed) -> None:
        """Record values of a curve, once."""
        if self._streamed.get(msg.source, 0) <= msg.first:
            self._streamed[msg.source] = msg.first + len(msg.values)
            self.telling.streamed(msg)

    @handles
    def down(self, msg: Down) -> None:
        """A trainer is gone."""
        self.employment.down(msg)

    @handles
    def returned(self, msg: Returned) -> None:
        """A site has started anew."""
        self.employment.returned(msg.site, msg.address)

    @handles
    def watchdog(self, msg: Watchdog) -> None:
        """Look after what is waited for."""
        self._training.look()

    # What every training needs ----------------------------------------------

    def commit(self, version: int, keep: Collection[int] = ()) -> None:
        """Make a version count, with all that a resumed run must know; `keep` others on disk."""
        progress, employment = self.plan.progress, self.employment
        # Those that are looked for may come back, to this run and to a resumed one.
        out = employment.out.items()
        progress.out = {site: why for site, why in out if site not in employment.sought}
        self.plan.checkpoint.commit(version, progress.state(), keep)

    def _adopt(self) -> None:
        """Register the version on disk as the current model."""
        blob = Blob.of_file(self.plan.checkpoint.path(self.version))
        self.model = BlobRef(self.plan.blobs.register(blob), blob.size)

    def _disk_refused(self, error: OSError) -> None:
        self._cut(Outcome(RunStatus.FAILED, _text(error), None, self.version))


def _ended(result: Outcome | Exception) -> Ended:
    if isinstance(result, Exception):
        # A fault of ours: it must not look like the user's, nor like success.
        result = Outcome(RunStatus.FAILED, f"internal error: {result!r}")
    return Ended(result)


def _without_quorum(error: QuorumLost) -> Outcome:
    """The outcome that names the first site that failed in the user's own code, or any."""
    failures = error.failures
    site = next((site for site in failures if failures[site].file), None)
    site = site or next(iter(failures), None)
    failure = failures[site] if site is not None else None
    text = str(error)
    if failure is not None:
        who = "" if error.alike else f"; {site} failed"
        text = f"{text}{who}: {failure.kind}: {failure.text}"
    return Outcome(RunStatus.FAILED, text, site, error.round, failure)


def _text(error: Exception) -> str:
    if isinstance(error, Rejected):
        return error.text or error.code
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot write {error.filename}: {error.strerror}"
    return str(error)
