"""The job: the actor that runs a workflow over its sites and tells what happens.

Tasks are pushed, results come back as messages of their own, and nothing is
polled: a round ends with its last answer, or the moment it cannot succeed any
more. A site is waited for as long as its trainer lives; death watch tells of
the end. What is decided about a round is in `rounds.py`.
"""

from __future__ import annotations

import asyncio
from asyncio import FIRST_COMPLETED
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from covey.client.messages import TaskName

from ..downloads.blobs import Blob, BlobRef
from ..jobs.states import RunStatus
from ..runtime import (
    Actor,
    ActorError,
    Address,
    AskTimeout,
    Down,
    MailboxFull,
    Message,
    Reason,
    Ref,
    Rejected,
    Restart,
    Stopped,
    Unreachable,
    broadcast,
    handles,
)
from .aggregator import Aggregator
from .messages import (
    Assign,
    Begin,
    Contribute,
    Counted,
    Deploy,
    Deployed,
    Failure,
    Retire,
    Retired,
    Returned,
    Step,
    Streamed,
    Submit,
    Taken,
    Update,
)
from .plan import JobPlan, Outcome, QuorumLost
from .rounds import Round
from .site import Site
from .telling import Telling
from .trainer import LAST_LINES_S, QUIT_S, Trainer

# Errors that pass when a link comes back or a node has started.
PASSING = (AskTimeout, MailboxFull, Stopped, Unreachable)
# Answers to these are immediate; the time is for a loaded network.
PUSH_TIMEOUT_S = 30.0
# A site whose link breaks again and again, and is never gone for a lease, has this
# long to make its trainer before the first round begins without it.
DEPLOY_PATIENCE_S = 600.0
FOR_EVER = float("inf")
# A trainer's end is bounded; these are past it: for scripts that are killed, and for
# those that may end by themselves.
KILL_TIMEOUT_S = 10.0
RETIRE_TIMEOUT_S = LAST_LINES_S + QUIT_S + 5.0
RETRY_S = (0.05, 5.0)
# Tasks pushed in one turn of the loop. Thousands of clients by function work in turns too:
# pushed all at once, each would have left the processor's caches before it works.
PUSHED_AT_ONCE = 16


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


class Job(Actor):
    """Runs one job; its workflow sees it as `Rounds`."""

    def __init__(self, plan: JobPlan, addresses: Mapping[str, str]) -> None:
        """Run `plan` on the sites at these addresses as soon as the actor starts."""
        self._plan = plan
        self._addresses = dict(addresses)
        self._trainers: dict[str, Ref[Trainer]] = {}
        self._sites_by_trainer: dict[str, str] = {}
        self._out = dict(plan.progress.out)
        self._model = BlobRef(b"", 0)
        self._version = plan.version
        self._round: Round | None = None
        self._settled: asyncio.Future[None] | None = None
        self._cut_short: asyncio.Future[Outcome] | None = None
        self._attempts = 0
        self._calls = 0
        self._streamed: dict[str, int] = {}
        self._sought: dict[str, None] = {}
        self._stepping = False
        self._ending = False
        self._hurry = asyncio.Event()
        self._aggregator: Ref[Aggregator]
        self._telling: Telling

    # The job's life --------------------------------------------------------

    async def started(self) -> None:
        """Begin the workflow."""
        plan = self._plan
        self._telling = Telling(plan, asyncio.get_running_loop().time, self._disk_refused)
        self._cut_short = asyncio.get_running_loop().create_future()
        self._aggregator = await self.ctx.spawn(
            lambda: Aggregator(plan.rule, plan.layout, plan.blobs, plan.checkpoint, plan.sites),
            name="aggregator",
            restart=Restart.never(),
        )
        self._telling.started()
        for site, failure in self._out.items():
            self._telling.stays_out(site, failure)
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
            return self._without_quorum(error)
        except (Rejected, OSError) as error:
            return Outcome(RunStatus.FAILED, _text(error), None, self._version)
        return Outcome(RunStatus.COMPLETED)

    async def _work(self) -> None:
        self._adopt(self._plan.version)
        await self._deploy()
        await self._plan.workflow(self)

    def _without_quorum(self, error: QuorumLost) -> Outcome:
        """The outcome that names the first site that failed in the user's own code, or any."""
        failures = error.failures
        site = next((site for site in failures if failures[site].file), None)
        site = site or next(iter(failures), None)
        failure = failures[site] if site is not None else None
        text = str(error)
        if failure is not None:
            text = f"{text}; {site} failed: {failure.kind}: {failure.text}"
        return Outcome(RunStatus.FAILED, text, site, error.round, failure)

    @handles
    def ended(self, msg: Ended) -> None:
        """Retire the sites; what their scripts stream in their last lines is taken meanwhile."""
        self._ending = True
        self.ctx.cancel_timers()
        outcome = msg.outcome
        for trainer in self._trainers.values():
            self.ctx.unwatch(trainer)

        def parted(failures: Mapping[str, Failure] | Exception) -> Parted:
            return Parted(outcome, {} if isinstance(failures, Exception) else failures)

        kill = outcome.status is not RunStatus.COMPLETED
        self.ctx.run(self._retire(kill=kill), parted)

    @handles
    def parted(self, msg: Parted) -> None:
        """Tell the outcome, and end."""
        for site, failure in msg.failures.items():
            self._telling.last_words(site, failure)
        self._telling.finished(msg.outcome, self._version)
        self.ctx.stop()

    @handles
    def abort(self, msg: Abort) -> None:
        """Give the job up; where it is over but for its scripts' last lines, give them up."""
        self._hurry.set()
        self._cut(Outcome(RunStatus.ABORTED, msg.reason))

    def _cut(self, outcome: Outcome) -> None:
        """End the workflow where it is; the first word counts."""
        if self._cut_short is not None and not self._cut_short.done():
            self._cut_short.set_result(outcome)

    async def _deploy(self) -> None:
        """Have each site make its trainer; one whose link broke has time to come back."""
        sites = {self._site(site): site for site in self._plan.sites if site not in self._out}
        answers = await broadcast(sites, self._call_for_trainer(), timeout=PUSH_TIMEOUT_S)
        missing: list[tuple[str, ActorError]] = []
        for ref, answer in answers.items():
            if isinstance(answer, Deployed):
                self._employ(sites[ref], answer.trainer)
            else:
                missing.append((sites[ref], answer))
        until = self.ctx.now + DEPLOY_PATIENCE_S
        await asyncio.gather(*(self._deploy_again(*each, until) for each in missing))

    async def _deploy_again(self, site: str, error: ActorError, until: float) -> None:
        """Call for the trainer of a site that did not answer, as long as it makes sense."""
        pause, longest = RETRY_S
        while isinstance(error, PASSING) and not self._ending:
            if self.ctx.now >= until or not (until == FOR_EVER or self._may_return(site)):
                break
            await asyncio.sleep(pause * self.ctx.rng.uniform(0.5, 1.0))
            pause = min(longest, pause * 2)
            try:
                call = self._call_for_trainer()
                answer = await self._site(site).ask(call, timeout=PUSH_TIMEOUT_S)
            except ActorError as failed:
                error = failed
            else:
                self._employ(site, answer.trainer)
                return
        if self._ending:
            return
        self._lose(site, Failure(type(error).__name__, str(error)))
        if isinstance(error, PASSING):
            self._seek(site)

    def _site(self, site: str) -> Ref[Site]:
        return self.ctx.system.lookup(self._addresses[site], Site)

    def _may_return(self, site: str) -> bool:
        return self.ctx.system.reaches(Address.parse(self._addresses[site]).node)

    def _call_for_trainer(self) -> Deploy:
        self._calls += 1
        return Deploy(self._plan.id, self.ctx.ref.text, self._calls)

    def _employ(self, site: str, address: str) -> None:
        trainer = self.ctx.system.lookup(address, Trainer)
        self._trainers[site] = trainer
        self._sites_by_trainer[address] = site
        self._out.pop(site, None)
        self.ctx.watch(trainer)

    async def _retire(self, *, kill: bool) -> Mapping[str, Failure]:
        """Have all sites end their trainers; what went wrong after the last task, by site."""
        refs = {self._site(site): site for site in self._plan.sites}
        timeout = KILL_TIMEOUT_S if kill else RETIRE_TIMEOUT_S
        retire = Retire(self._plan.id, kill)
        answers = asyncio.ensure_future(broadcast(refs, retire, timeout=timeout))
        hurry = asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait([answers] if kill else [answers, hurry], return_when=FIRST_COMPLETED)
        finally:
            hurry.cancel()
            answers.cancel()  # withdrawn, a site ends its script at once
            await asyncio.wait([answers, hurry])
        if answers.cancelled():
            return {}
        return {
            refs[ref]: answer.failure
            for ref, answer in answers.result().items()
            if isinstance(answer, Retired) and answer.failure is not None
        }

    # What the workflow sees ------------------------------------------------

    @property
    def first(self) -> int:
        """The first round to run."""
        return self._plan.version

    @property
    def total(self) -> int:
        """The number of rounds."""
        return self._plan.rounds

    async def train(self, round: int) -> Mapping[str, float]:
        """Have all sites train on the current model; return the metrics measured on it."""
        await self._aggregator.ask(Begin(round, self._model))
        sites = [site for site in self._plan.sites if site not in self._out]
        began = self.ctx.now
        work = await self._run_round("train", round, sites, self._plan.minimum)
        self._telling.round_finished(work, self.ctx.now - began, self._model.size)
        return work.metrics()

    async def step(self, round: int) -> None:
        """Aggregate into the next version, and commit it."""
        # A fold takes as long as it takes; the aggregator's death would end the wait.
        self._stepping = True
        try:
            step = Step(round)
            stepped = await self._aggregator.ask(step, timeout=float("inf"))
        finally:
            self._stepping = False
        for site, text in stepped.unfit.items():
            self._spoil(site, text)
        assert self._round is not None
        if not self._round.met:
            self._plan.blobs.release(stepped.model.rid)
            raise self._quorum_lost(self._round)
        self._version = round + 1
        self._commit(self._version)
        self._plan.blobs.release(self._model.rid)
        self._model = stepped.model

    def _commit(self, version: int) -> None:
        """Make a version count, with all that a resumed run must know."""
        progress, sought = self._plan.progress, self._sought
        # Those that are looked for may come back, to this run and to a resumed one.
        progress.out = {site: why for site, why in self._out.items() if site not in sought}
        self._plan.checkpoint.commit(version, progress.state())

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
                self._telling.notice(None, text)

    async def evaluate(self, round: int) -> None:
        """Have the last model evaluated where sites can."""
        evaluators = self._plan.progress.evaluators
        sites = [s for s in self._plan.sites if s in evaluators and s not in self._out]
        if not sites:
            return
        began = self.ctx.now
        work = await self._run_round("evaluate", round, sites, 0)
        self._telling.round_finished(work, self.ctx.now - began, self._model.size)
        if work.done and self._plan.progress.best.offer(round, work.metrics()):
            self._plan.checkpoint.mark_best(round)
            self._commit(round)

    # One round -------------------------------------------------------------

    async def _run_round(
        self, task: TaskName, number: int, sites: list[str], minimum: int
    ) -> Round:
        self._round = work = Round.of(task, number, minimum, sites)
        self._settled = asyncio.get_running_loop().create_future()
        self._telling.round_started(work)
        if not work.settled:
            self.ctx.run(self._push(work), lambda _: None)
            await self._settled
        if work.hopeless or (minimum and not work.met):
            raise self._quorum_lost(work)
        return work

    def _quorum_lost(self, work: Round) -> QuorumLost:
        left = len(work.done) + len(work.waiting)
        return QuorumLost(work.number, work.minimum, left, {**self._out, **work.failed})

    async def _push(self, work: Round) -> None:
        """Give every site its task; those that cannot be reached get it again and again."""
        self._attempts += 1
        msg = self._assignment(work)
        asks: dict[asyncio.Future[Taken], str] = {}
        try:
            for count, site in enumerate(list(work.waiting), 1):
                ask = self._trainers[site].ask(msg, timeout=PUSH_TIMEOUT_S)
                if not ask.done() or ask.exception() is not None:
                    asks[ask] = site
                if not count % PUSHED_AT_ONCE:
                    await asyncio.sleep(0)
            while asks:
                await asyncio.wait(asks, return_when=asyncio.FIRST_EXCEPTION)
                for ask in [ask for ask in asks if ask.done()]:
                    site = asks.pop(ask)
                    if ask.exception() is not None:
                        self.ctx.run(self._push_again(work, site, msg), lambda _: None)
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
            self._model,
            plan.task_deadline_s,
        )

    async def _push_again(self, work: Round, site: str, msg: Assign) -> None:
        trainer = self._trainers[site]
        pause, longest = RETRY_S
        while True:
            await asyncio.sleep(pause * self.ctx.rng.uniform(0.5, 1.0))
            pause = min(longest, pause * 2)
            if work is not self._round or site not in work.waiting:
                return
            if self._trainers[site] is not trainer:
                return  # its next trainer has a task of its own
            with suppress(ActorError):
                await trainer.ask(msg, timeout=PUSH_TIMEOUT_S)
                return

    def _check_settled(self) -> None:
        self._telling.touch()
        settled = self._settled
        if settled is not None and not settled.done() and self._round and self._round.settled:
            settled.set_result(None)

    # Results ---------------------------------------------------------------

    @handles
    async def submit(self, msg: Submit) -> Counted:
        """Take a site's result, once."""
        work = self._round
        if work is None or (msg.task, msg.round) != (work.task, work.number) or self._ending:
            return Counted("late", f"round {msg.round} is over")
        if self._stepping:
            # The aggregator could only say so when it has folded: all others would wait.
            return Counted("late", f"round {msg.round} is being aggregated")
        if isinstance(msg.outcome, Failure):
            self._lose(msg.site, msg.outcome)
            return Counted("accepted")
        return await self._take(work, msg.site, msg.outcome)

    async def _take(self, work: Round, site: str, update: Update) -> Counted:
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
            self._telling.update(work, site, update)
        elif counted.verdict == "refused":
            self._lose(site, Failure("BadUpdate", counted.text, fatal=False))
        self._check_settled()
        return counted

    @handles
    def streamed(self, msg: Streamed) -> None:
        """Record values of a curve, once."""
        if self._streamed.get(msg.source, 0) <= msg.first:
            self._streamed[msg.source] = msg.first + len(msg.values)
            self._telling.streamed(msg)

    def _lose(self, site: str, failure: Failure) -> None:
        """Count a site's failure, once; note whether it is out for good."""
        if failure.fatal:
            if site in self._out:
                return
            self._out[site] = failure
        work = self._round
        if (work is None or not work.fail(site, failure)) and not failure.fatal:
            return
        self._telling.failure(work.number if work else None, site, failure)
        self._check_settled()

    def _spoil(self, site: str, text: str) -> None:
        """An update that had been taken turned out to be unfit in the fold."""
        assert self._round is not None
        failure = Failure("BadUpdate", text, fatal=False)
        self._round.spoil(site, failure)
        self._telling.failure(self._round.number, site, failure)

    @handles
    def down(self, msg: Down) -> None:
        """A trainer is gone: its site is out until it registers again, or can be reached again."""
        site = self._sites_by_trainer.pop(msg.address, None)
        if site is None or self._ending or self._trainers[site].text != msg.address:
            return
        self._lose(site, Failure(f"Trainer{msg.reason.value.title()}", msg.detail or msg.address))
        if msg.reason is Reason.UNREACHABLE:
            self._seek(site)

    @handles
    def returned(self, msg: Returned) -> None:
        """A site has started anew: give it a trainer and the round's task."""
        self._addresses[msg.site] = msg.address
        self._seek(msg.site)

    def _seek(self, site: str) -> None:
        """Look for a site until it answers or the job ends."""
        if site not in self._sought and not self._ending:
            self._sought[site] = None
            self.ctx.run(self._welcome_back(site), lambda _: None)

    async def _welcome_back(self, site: str) -> None:
        before = self._trainers.get(site), site in self._out
        await self._deploy_again(site, Unreachable(site), FOR_EVER)
        del self._sought[site]
        if site in self._out or before == (self._trainers.get(site), False):
            return  # it cannot work, or has never been away
        work = self._round
        if work is not None and site not in work.done and not work.settled:
            work.reopen(site)
            self._attempts += 1
            await self._push_again(work, site, self._assignment(work))

    def _adopt(self, version: int) -> None:
        """Register the version on disk as the current model."""
        blob = Blob.of_file(self._plan.checkpoint.path(version))
        self._model = BlobRef(self._plan.blobs.register(blob), blob.size)

    def _disk_refused(self, error: OSError) -> None:
        self._cut(Outcome(RunStatus.FAILED, _text(error), None, self._version))

    @handles
    def watchdog(self, msg: Watchdog) -> None:
        """Say what is waited for, if it has been long."""
        self._telling.silence(self._round)


def _ended(result: Outcome | Exception) -> Ended:
    if isinstance(result, Exception):
        # A fault of ours: it must not look like the user's, nor like success.
        result = Outcome(RunStatus.FAILED, f"internal error: {result!r}")
    return Ended(result)


def _text(error: Exception) -> str:
    if isinstance(error, Rejected):
        return error.text or error.code
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot write {error.filename}: {error.strerror}"
    return str(error)
