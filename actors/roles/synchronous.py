"""Synchronous training, in rounds: all work on one model, and the next is made of their updates.

A round ends with its last answer, or the moment it cannot succeed any more. What
is decided about a round is in `rounds.py`; in which order things happen, in
the workflow.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, TypeAlias, cast

from covey.algorithms import derive
from covey.client.messages import TaskName

from ..downloads.blobs import Blob, BlobRef
from ..jobs.checkpoint import write_atomically
from ..runtime import ActorError, Ref, Rejected, Restart
from .aggregator import Aggregator
from .blame import WorkflowFailed, blame
from .employment import PUSH_TIMEOUT_S, RETRY_S
from .job import Job
from .messages import Assign, Begin, Contribute, Counted, Failure, Step, Submit, Taken, Update
from .plan import QuorumLost, are_alike
from .rounds import Round

# What models are called that are no site's own.
GLOBAL_MODEL, BEST_MODEL = "global", "best"

# Tasks pushed in one turn of the loop. Thousands of clients by function work in turns too:
# pushed all at once, each would have left the processor's caches before it works.
PUSHED_AT_ONCE = 16

# A round that is lost by its first failure is given up when so much time has passed, or another
# site has done something else: till then all may fail alike.
ALIKE_S = 0.5

#: Draws how many seconds a site takes for its next task.
Durations: TypeAlias = Callable[[str], float]


def drawn(durations: Durations, site: str) -> float:
    """Draw a site's next duration; a user's own function may do anything."""
    try:
        return durations(site)
    except Exception as error:
        raise Rejected("durations", f"durations, for {site}: {error}") from error


class SynchronousTraining:
    """Follows a workflow, which sees it as `Rounds`; see `Training`."""

    def __init__(
        self,
        job: Job,
        *,
        seed: int = 0,
        cohort: int | None = None,
        durations: Durations | None = None,
        keep_local: bool = False,
    ) -> None:
        """Train for `job`.

        Args:
            job: The job.
            seed: Of the draw of cohorts.
            cohort: Sites that are drawn for each round, None for all.
            durations: Draws the virtual seconds that a site takes for its next task; a round
                takes as long as its slowest site. None in real time.
            keep_local: Keep the last model of each site's own, to be measured.
        """
        self._job = job
        self._seed = seed
        self._cohort = cohort
        self._durations = durations
        self._keep_local = keep_local
        self._some_train = False  # others of them in the next round
        self._plan = job.plan
        self._round: Round | None = None
        self._settled: asyncio.Future[None] | None = None
        self._attempts = 0
        # The first of the attempts that are of this round, and whom it is open to.
        self._since = 0
        self._asked: frozenset[str] = frozenset()
        self._stepping = False
        self._aggregator: Ref[Aggregator]

    async def prepare(self) -> None:
        """Start the aggregator."""
        plan = self._plan
        self._aggregator = await self._job.ctx.spawn(
            lambda: Aggregator(plan.rule, plan.layout, plan.blobs, plan.checkpoint, plan.sites),
            name="aggregator",
            restart=Restart.never(),
        )

    async def work(self) -> None:
        """See `Training.work`."""
        try:
            await self._plan.workflow(self)
        except (QuorumLost, ActorError, OSError):
            raise
        except Exception as error:
            failure = blame(error)
            if failure is None:
                raise
            raise WorkflowFailed(failure) from error

    # What the workflow sees ------------------------------------------------

    @property
    def first(self) -> int:
        """The first round to run."""
        return self._plan.version

    @property
    def total(self) -> int:
        """The number of rounds."""
        return self._plan.rounds

    @property
    def sites(self) -> Sequence[str]:
        """Who takes part."""
        return self._plan.sites

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._seed

    async def train(self, round: int, sites: Sequence[str] | None = None) -> Mapping[str, float]:
        """Have sites train on the current model; return the metrics measured on it."""
        await self._aggregator.ask(Begin(round, self._job.model))
        self._some_train = sites is not None or self._cohort is not None
        asked = self._drawn(round) if sites is None else list(sites)
        began = self._job.ctx.now
        work = await self._run_round("train", round, asked, min(self._plan.minimum, len(asked)))
        self._tell(work, began)
        if self._durations is not None:
            self._plan.progress.time += max(drawn(self._durations, site) for site in work.done)
        return work.metrics()

    def _tell(self, work: Round, began: float) -> None:
        """A round is over: say so, and when in virtual time its model was there."""
        time = None if self._durations is None else self._plan.progress.time
        seconds = self._job.ctx.now - began
        self._job.telling.round_finished(work, seconds, self._job.model.size, time)

    def _drawn(self, round: int) -> list[str]:
        """Whom a round asks, in the federation's order: all, or a cohort of the present by lot."""
        if self._cohort is None:
            return list(self._plan.sites)
        present = self._job.employment.present
        if self._cohort >= len(present):
            return present
        drawn = set(Random(derive(self._seed, "cohort", round)).sample(present, self._cohort))
        return [site for site in present if site in drawn]

    async def step(self, round: int) -> None:
        """Aggregate into the next version, and commit it."""
        # A fold takes as long as it takes; the aggregator's death would end the wait.
        self._stepping = True
        try:
            last = round + 1 >= self._plan.rounds or self.stopped
            step = Step(round, apart=self._keep_local and (last or self._some_train))
            stepped = await self._aggregator.ask(step, timeout=float("inf"))
        finally:
            self._stepping = False
        for site, text in stepped.unfit.items():
            self._spoil(site, text)
        assert self._round is not None
        if not self._round.met:
            self._plan.blobs.release(stepped.model.rid)
            raise self._quorum_lost(self._round)
        self._job.version = round + 1
        self._job.commit(self._job.version)
        self._plan.blobs.release(self._job.model.rid)
        self._job.model = stepped.model

    @property
    def stopped(self) -> bool:
        """Whether to stop before the last round."""
        return bool(self._plan.progress.stopped_by)

    def judge(self, round: int, metrics: Mapping[str, float]) -> None:
        """Keep the model if it is the best so far; note whether to stop."""
        progress = self._plan.progress
        if progress.judge(round, metrics):
            self._plan.checkpoint.mark_best(round)
        if round == self.first:  # once is enough
            for text in progress.unreported(metrics):
                self._job.telling.notice(None, text)

    async def evaluate(self, round: int, sites: Sequence[str] | None = None) -> Mapping[str, float]:
        """Have the current model evaluated, by those that can if no sites are given."""
        asked = self._evaluators() if sites is None else list(sites)
        minimum = 0 if sites is None else min(self._plan.minimum, len(asked))
        if sites is None and not set(asked) & set(self._job.employment.present):
            return {}
        began = self._job.ctx.now
        work = await self._run_round("evaluate", round, asked, minimum)
        self._tell(work, began)
        if work.done and self._plan.progress.best.offer(round, work.metrics()):
            self._plan.checkpoint.mark_best(round)
            self._job.commit(round)
        return work.metrics()

    def _evaluators(self) -> list[str]:
        evaluators = self._plan.progress.evaluators
        return [site for site in self._plan.sites if site in evaluators]

    @property
    def models(self) -> Sequence[str]:
        """The names of the models that can be measured."""
        best = [] if self._plan.progress.best.version is None else [BEST_MODEL]
        checkpoint = self._plan.checkpoint
        own = [site for site in self._plan.sites if checkpoint.local(site).is_file()]
        return [GLOBAL_MODEL, *best, *own]

    async def measure(
        self, model: str, sites: Sequence[str] | None = None
    ) -> Mapping[str, Mapping[str, float]]:
        """Have a model evaluated; tell nobody of it."""
        if model not in self.models:
            known = ", ".join(self.models)
            raise ValueError(f"there is no such model as {model!r} now; there are {known}")
        asked = self._evaluators() if sites is None else list(sites)
        if model == GLOBAL_MODEL:
            work = await self._run_round("evaluate", self._job.version, asked, 0, self._job.model)
        else:
            blob = Blob.of_file(self._path_of(model))
            ref = BlobRef(self._plan.blobs.register(blob), blob.size)
            try:
                work = await self._run_round("evaluate", self._job.version, asked, 0, ref)
            finally:
                self._plan.blobs.release(ref.rid)
        return {site: work.done[site].metrics for site in asked if site in work.done}

    def _path_of(self, model: str) -> Path:
        best = self._plan.progress.best.version
        if model == BEST_MODEL and best is not None:
            return self._plan.checkpoint.path(best)
        return self._plan.checkpoint.local(model)

    def notice(self, text: str) -> None:
        """Tell something to who follows the run."""
        self._job.telling.notice(None, text)

    def save(self, name: str, data: Any) -> None:
        """Write a JSON file into the run's folder."""
        text = json.dumps(without_nan(data), indent=1) + "\n"
        write_atomically(self._plan.checkpoint.folder / name, text)

    # One round -------------------------------------------------------------

    async def _run_round(
        self,
        task: TaskName,
        number: int,
        sites: list[str],
        minimum: int,
        model: BlobRef | None = None,
    ) -> Round:
        present = set(self._job.employment.present)
        self._asked = frozenset(sites)  # those of them that are away may come back in time
        self._since = self._attempts + 1
        here = [site for site in sites if site in present]
        self._round = work = Round.of(task, number, minimum, here)
        self._settled = asyncio.get_running_loop().create_future()
        work.model = model
        if model is None:
            self._job.telling.round_started(work)
        if not work.settled:
            self._job.ctx.run(self._push(work), lambda _: None)
            await self._settled
        if work.hopeless or (minimum and not work.met):
            await self._hear_the_rest(work)
            raise self._quorum_lost(work)
        return work

    def _quorum_lost(self, work: Round) -> QuorumLost:
        left = len(work.done) + len(work.waiting)
        known = {**self._job.employment.out, **work.failed}
        # In the federation's order: whose word comes first may differ from run to run.
        failures = {site: known[site] for site in self._plan.sites if site in known}
        sites = len(self._asked.union(failures))
        answered = bool(work.done)
        return QuorumLost(work.number, work.minimum, left, sites, failures, answered=answered)

    async def _hear_the_rest(self, work: Round) -> None:
        """One mistake that is in every script shows at all sites within a moment: hear of all."""
        until = self._job.ctx.now + ALIKE_S
        while work.waiting and not work.done and work.failed and are_alike(work.failed):
            left_s = until - self._job.ctx.now
            if left_s <= 0:
                return
            self._settled = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._settled], timeout=left_s)

    async def _push(self, work: Round) -> None:
        """Give every site its task; those that cannot be reached get it again and again."""
        self._attempts += 1
        msg = self._assignment(work)
        asks: dict[asyncio.Future[Taken], str] = {}
        try:
            for count, site in enumerate(list(work.waiting), 1):
                ask = self._job.employment.trainers[site].ask(msg, timeout=PUSH_TIMEOUT_S)
                if not ask.done() or ask.exception() is not None:
                    asks[ask] = site
                if not count % PUSHED_AT_ONCE:
                    await asyncio.sleep(0)
            while asks:
                await asyncio.wait(asks, return_when=asyncio.FIRST_EXCEPTION)
                for ask in [ask for ask in asks if ask.done()]:
                    site = asks.pop(ask)
                    if ask.exception() is not None:
                        self._job.ctx.run(self._push_again(work, site, msg), lambda _: None)
        finally:
            for ask in asks:
                ask.cancel()

    def _assignment(self, work: Round) -> Assign:
        plan = self._plan
        task: Any = work.task
        return Assign(
            plan.id,
            task,
            work.number,
            self._attempts,
            plan.rounds,
            work.model or self._job.model,
            plan.task_deadline_s,
        )

    async def _push_again(self, work: Round, site: str, msg: Assign) -> None:
        trainer = self._job.employment.trainers[site]
        pause, longest = RETRY_S
        while True:
            await asyncio.sleep(pause * self._job.ctx.rng.uniform(0.5, 1.0))
            pause = min(longest, pause * 2)
            if work is not self._round or site not in work.waiting:
                return
            if self._job.employment.trainers[site] is not trainer:
                return  # its next trainer has a task of its own
            with suppress(ActorError):
                await trainer.ask(msg, timeout=PUSH_TIMEOUT_S)
                return

    def _check_settled(self) -> None:
        self._job.telling.touch()
        settled = self._settled
        if settled is not None and not settled.done() and self._round and self._round.settled:
            settled.set_result(None)

    # Results ---------------------------------------------------------------

    async def take(self, msg: Submit) -> Counted:
        """See `Training.take`."""
        work = self._round
        asked = work is not None and (msg.task, msg.round) == (work.task, work.number)
        if work is None or not asked or msg.attempt < self._since:
            return Counted("late", f"round {msg.round} is over")
        if self._stepping:
            # The aggregator could only say so when it has folded: all others would wait.
            return Counted("late", f"round {msg.round} is being aggregated")
        if isinstance(msg.outcome, Failure):
            self.lose(msg.site, msg.outcome)
            return Counted("accepted")
        return await self._count(work, msg.site, msg.outcome)

    async def _count(self, work: Round, site: str, update: Update) -> Counted:
        if work.task == "train":
            counted = await self._aggregator.ask(Contribute(site, work.number, update))
        else:
            counted = Counted("duplicate" if site in work.done else "accepted")
        # A submission that was withdrawn while the aggregator counted it comes again
        # as a duplicate that this actor has not seen.
        missed = counted.verdict == "duplicate" and site not in work.done
        if counted.verdict == "accepted" or missed:
            if update.evaluates:
                self._plan.progress.evaluators[site] = None
            work.finish(site, update)
            if work.model is None:
                self._job.telling.update(work.task, work.number, site, update)
        elif counted.verdict == "refused":
            self.lose(site, Failure("BadUpdate", counted.text, fatal=False))
        self._check_settled()
        return counted

    def lose(self, site: str, failure: Failure) -> None:
        """See `Training.lose`."""
        if failure.fatal:
            if site in self._job.employment.out:
                return
            self._job.employment.out[site] = failure
        work = self._round
        if (work is None or not work.fail(site, failure)) and not failure.fatal:
            return
        self._job.telling.failure(work.number if work else None, site, failure)
        self._check_settled()

    def _spoil(self, site: str, text: str) -> None:
        """An update that had been taken turned out to be unfit in the fold."""
        assert self._round is not None
        failure = Failure("BadUpdate", text, fatal=False)
        self._round.spoil(site, failure)
        self._job.telling.failure(self._round.number, site, failure)

    def welcome(self, site: str) -> None:
        """See `Training.welcome`."""
        work = self._round
        if work is None or site not in self._asked:
            return
        if site not in work.done and not work.settled:
            work.reopen(site)
            self._attempts += 1
            self._job.ctx.run(self._push_again(work, site, self._assignment(work)), lambda _: None)

    def look(self) -> None:
        """See `Training.look`."""
        work = self._round
        if work is not None:
            self._job.telling.silence(work.task, work.number, work.waiting)


def without_nan(data: object) -> object:
    """Data as JSON has it: without NaN and infinity, which it knows not."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        pairs = cast("Mapping[str, object]", data).items()
        return {str(key): without_nan(value) for key, value in pairs}
    if isinstance(data, list | tuple):
        return [without_nan(value) for value in cast("Sequence[object]", data)]
    return data
