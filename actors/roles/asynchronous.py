"""Asynchronous training: a site gets the newest model as soon as it is free, and nobody waits.

Here: who is given which version under which lease, what becomes of answers, when it is over.
Not here: adding updates and making versions (`buffering.py`), what is decided about leases
and versions (`leases.py`, `versions.py`), virtual time (`virtual.py`).
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Final

from covey.algorithms import AsynchronousAggregation, derive

from ..downloads.blobs import BlobRef
from ..runtime import ActorError, Rejected
from .buffering import BufferedAggregator, BufferPlan, Intake
from .employment import PUSH_TIMEOUT_S, RETRY_S
from .filling import Done, Filling, gone, refusal
from .job import Job
from .leases import Lease, Leases
from .messages import (
    Advanced,
    Assign,
    Counted,
    Entered,
    Failure,
    Flushed,
    Submit,
    Taken,
    Update,
)
from .plan import QuorumLost
from .synchronous import PUSHED_AT_ONCE, SynchronousTraining
from .versions import Version, Versions

# A kill costs the work since the last commit; a commit costs as much as a small version.
COMMIT_EVERY_S: Final = 1.0
# Updates that are added in one go: they pass through memory as one, and are held until then.
COUNTED_AT_ONCE: Final = 32
COUNTED_BYTES: Final = 64 << 20
# Sites that are named where there may be thousands.
NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class AsynchronousSettings:
    """How sites are kept at work.

    Attributes:
        concurrency: Sites that are at work at any time.
        lease_s: Seconds that a site has for a task, infinite for any time.
        period_s: Seconds after which a version is made of whatever has come, None for never.
        flush: Make a last version of the updates that are left over at the end, else drop them.
        most_failures: After so many failed tasks in a row a site gets no more.
        seed: Of the order in which sites get their turns.
        evaluate: All sites can evaluate alone, also those that have not answered yet.
    """

    concurrency: int
    lease_s: float
    period_s: float | None
    flush: bool
    most_failures: int
    seed: int
    evaluate: bool = False


class AsynchronousTraining:
    """Keeps sites at work in real time; see `Training`."""

    def __init__(
        self, job: Job, rule: AsynchronousAggregation, settings: AsynchronousSettings
    ) -> None:
        """Train for `job` by `rule`."""
        self.job = job
        self.rule = rule
        self.settings = settings
        self.leases = Leases(settings.lease_s)
        self.idle: list[str] = []
        self._models: dict[int, BlobRef] = {}
        self._in_a_row: Counter[str] = Counter()
        # Answers that wait to be counted, in the order in which they came; the leases of those and
        # of the ones that are being counted; sites that were lost meanwhile.
        self._uncounted: deque[tuple[Lease, Update | Failure]] = deque()
        self._under_way: dict[int, None] = {}
        self._count_due = False
        self._counting = asyncio.Lock()
        #: Updates that the next version can take, as the aggregator said last.
        self.room = 1
        self._lost_meanwhile: dict[str, Failure] = {}
        # How often a site has had a version, of the versions at work.
        self._given: dict[int, Counter[str]] = {}
        # Versions that were heard of before the one that comes before them.
        self._early: dict[int, Advanced] = {}
        self._judged = self._closed = False
        # Leases that have run out, by sites that have not answered yet. They get another one in
        # as much time again: some have never got their task, from others it is taken away.
        self._overdue: dict[str, Lease] = {}
        # The last lease of each site that an answer came too late for.
        self._stale: dict[str, int] = {}
        self._random = Random(derive(settings.seed, "turns"))
        self._over: asyncio.Future[None]
        self._rounds = SynchronousTraining(job)
        self._begun = self._evaluating = False
        self._committed_at = 0.0
        #: Done with the next version, where somebody waits for it.
        self.news: asyncio.Future[None] | None = None
        self._versions: Versions
        self._filling: Filling
        self._progress = job.plan.progress
        self._progress.updates = self._progress.updates or 0
        if settings.evaluate:  # slow ones, too, say how good the last model is
            self._progress.evaluators |= dict.fromkeys(job.plan.sites)

    async def prepare(self) -> None:
        """Start the aggregator, which is started again if it crashes."""
        plan = self.job.plan
        # Sites may be lost before work begins.
        self._over = asyncio.get_running_loop().create_future()
        buffer = BufferPlan(
            rule=self.rule,
            size=self.rule.buffer_size,
            period_s=self.settings.period_s,
            last=plan.rounds,
            layout=plan.layout,
            blobs=plan.blobs,
            checkpoint=plan.checkpoint,
        )
        intake = Intake(buffer, plan.version)
        aggregator = await self.job.ctx.spawn(
            lambda: BufferedAggregator(buffer, intake), name="aggregator"
        )
        self._filling = Filling(self.job.ctx, aggregator)

    async def work(self) -> None:
        """Train until the last version is made, or one is good enough."""
        job = self.job
        self._begun = True
        self._versions = Versions(Version(job.version, began=job.ctx.now, time=self.time))
        self._models[job.version] = job.model
        self.idle = job.employment.present
        job.ctx.run(self._follow(job.version), self._followed)
        self._check_over()
        self._check_quorum()
        try:
            if not self.over:
                await self.keep_at_work()
            await self._over
            await self._finish()
        finally:
            if job.version > job.plan.checkpoint.version:
                with suppress(OSError):  # a full disk; what was committed is whole
                    self._commit()
            for version, model in self._models.items():
                if version != job.version:
                    job.plan.blobs.release(model.rid)

    async def keep_at_work(self) -> None:
        """Give work to whoever is free until it is over."""
        self.fill_places()
        await asyncio.wait([self._over])

    @property
    def time(self) -> float | None:
        """Virtual seconds of training so far; None in real time."""
        return None

    @property
    def over(self) -> bool:
        """Whether nobody is to be given work any more."""
        return self._over.done()

    # Giving work -----------------------------------------------------------

    def fill_places(self) -> None:
        """Let free sites, by lot, have the newest model until enough are at work."""
        if self._begun and not self.over and self.idle:
            self.job.ctx.run(self._fill_places(), lambda _: None)

    async def _fill_places(self) -> None:
        pushed = 0
        while not self.over and len(self.leases) < self.settings.concurrency and self.idle:
            self.start(self.draw(), self.job.ctx.now)
            pushed += 1
            if not pushed % PUSHED_AT_ONCE:
                await asyncio.sleep(0)

    def draw(self) -> str:
        """Take a free site by lot."""
        idle = self.idle
        place = self._random.randrange(len(idle))
        idle[place], idle[-1] = idle[-1], idle[place]
        return idle.pop()

    def start(self, site: str, now: float) -> Lease:
        """Give a site the newest model under a new lease."""
        version, plan = self.job.version, self.job.plan
        self._given.setdefault(version, Counter())
        lease = self.leases.grant(site, version, now)
        self._versions.give(version)
        msg = Assign(
            plan.id,
            "train",
            version,
            lease.id,
            plan.rounds,
            self._models[version],
            plan.task_deadline_s,
            difference=self.rule.params_type == "DIFF",
            leased=True,
            repeat=self._given[version][site],
        )
        self._given[version][site] += 1
        self.give(lease, msg)
        return lease

    def give(self, lease: Lease, msg: Assign) -> None:
        """Give a site its task."""
        ask = self.job.employment.trainers[lease.site].ask(msg, timeout=PUSH_TIMEOUT_S)
        if not ask.done() or ask.exception() is not None:
            self.job.ctx.run(self._push(lease, msg, ask), lambda _: None)

    async def _push(self, lease: Lease, msg: Assign, ask: asyncio.Future[Taken]) -> None:
        """Give the task again and again while its lease runs and the trainer is the same."""
        trainer = self.job.employment.trainers[lease.site]
        pause, longest = RETRY_S
        while True:
            try:
                await ask
                return
            except ActorError:
                await asyncio.sleep(pause * self.job.ctx.rng.uniform(0.5, 1.0))
                pause = min(longest, pause * 2)
            same = self.job.employment.trainers[lease.site] is trainer
            if self.over or not same or self.leases.get(lease.id) is None:
                return
            ask = trainer.ask(msg, timeout=PUSH_TIMEOUT_S)

    # Answers ---------------------------------------------------------------

    async def take(self, msg: Submit) -> Counted:
        """See `Training.take`."""
        if self._evaluating:
            return await self._rounds.take(msg)
        lease, standing = self.leases.get(msg.attempt), self.leases.standing(msg.site, msg.attempt)
        overdue = self._overdue.get(msg.site)
        if overdue is not None and overdue.id == msg.attempt:
            self._too_late(msg)
        if standing != "accepted" or lease is None:
            if standing == "stale" and self._stale.get(msg.site) != msg.attempt:
                self._stale[msg.site] = msg.attempt  # it may be sent again
                self._progress.stale += 1
            return Counted(standing, f"lease {msg.attempt} is over")
        if (msg.task, msg.round) != ("train", lease.version):
            return Counted("refused", f"lease {lease.id} is for version {lease.version}")
        if lease.id not in self._under_way:
            # The site has kept its word, and need not wait until its update is counted.
            self._under_way[lease.id] = None
            self.leases.stop_clock(lease.id)
            self._uncounted.append((lease, msg.outcome))
            if not self._count_due:
                self._count_due = True
                self.job.ctx.run(self._count(), self._counted)
        return Counted("accepted")

    async def _count(self) -> None:
        """Count the answers that wait, in their order; updates that came together, together."""
        async with self._counting:
            while self._uncounted:
                updates: list[Done] = []
                while self._uncounted and len(updates) < self.at_once:
                    lease, outcome = self._uncounted.popleft()
                    if isinstance(outcome, Failure):
                        await self._count_now(updates)
                        updates = []
                        self._end_in_failure(lease, outcome)
                        self._over_with(lease)
                    else:
                        updates.append(Done(lease, outcome))
                await self._count_now(updates)

    @property
    def at_once(self) -> int:
        """Updates that are counted in one go: none that a version could be made of before."""
        size = max(1, self.job.plan.layout.size)
        return max(1, min(self.room, COUNTED_AT_ONCE, COUNTED_BYTES // size))

    async def _count_now(self, updates: Sequence[Done]) -> None:
        await self.count(updates)
        for done in updates:
            self._over_with(done.lease)
        self.fill_places()

    def _over_with(self, lease: Lease) -> None:
        """An answer has been dealt with."""
        del self._under_way[lease.id]
        lost = self._lost_meanwhile.pop(lease.site, None)
        if lost is not None:
            self.lose(lease.site, lost)

    def _counted(self, result: Exception | None) -> None:
        self._count_due = False
        if result is not None:
            self._gone(result)
        self.fill_places()

    async def count(self, updates: Sequence[Done]) -> None:
        """Have updates added, and tell of them."""
        if not updates:
            return
        try:
            filled = await self._filling.fill(updates)
            for done, entered in zip(updates, filled.entered, strict=True):
                self.enter(done, entered)
            for advanced in filled.made:
                self._advance(advanced)
            self.room = filled.room
            await self.wait_for(filled.version)
        finally:
            for done in updates:
                if done.update.tensors is not None:  # it is in the sum, or will never be
                    self.job.plan.blobs.release(done.update.tensors.rid)

    def enter(self, done: Done, entered: Entered) -> None:
        """The aggregator has taken an update, or refused it: its site is free."""
        lease = done.lease
        failure = refusal(entered)
        if failure is not None:
            self._progress.stale += entered.verdict == "stale"
            self._end_in_failure(lease, failure)
            return
        self.leases.settle(lease.id)
        if entered.verdict != "late":
            self.tell_update(done, entered.staleness)
            self._free(lease.site)

    async def wait_for(self, version: int) -> None:
        """A thread makes a version: nobody waits for it."""

    def tell_update(self, done: Done, staleness: int) -> None:
        """An update counts."""
        job, lease, update = self.job, done.lease, done.update
        site = lease.site
        self._in_a_row.pop(site, None)
        if update.evaluates:
            job.plan.progress.evaluators[site] = None
        job.telling.update("train", lease.version, site, update, staleness, done.virtual_s)
        job.telling.touch()
        self._judge(
            self._versions.answer(lease.version, site, update.metrics, update.weight, staleness)
        )

    def _end_in_failure(self, lease: Lease, failure: Failure) -> None:
        """Nothing comes of a task: set its site free."""
        if self.leases.settle(lease.id) is None:
            return
        if not self._fail(lease, failure):
            self._free(lease.site)

    def _fail(self, lease: Lease, failure: Failure) -> bool:
        """Tell of a failure; whether its site is out: one that fails again and again is."""
        site = lease.site
        if failure.kind != "Stale":
            self._in_a_row[site] += 1
        if self._in_a_row[site] >= self.settings.most_failures and not failure.fatal:
            text = f"{failure.text} (its task failed {self._in_a_row[site]} times in a row)"
            failure = Failure(failure.kind, text, failure.file, failure.line, failure.source_line)
        self._judge(self._versions.give_up(lease.version))
        self.job.telling.failure(lease.version, site, failure)
        if failure.fatal:
            self._put_out(site, failure)
        return failure.fatal

    def _free(self, site: str) -> None:
        if site not in self.job.employment.out:
            self.idle.append(site)

    def _put_out(self, site: str, failure: Failure) -> None:
        self.job.employment.out[site] = failure
        self._check_quorum()

    def _check_quorum(self) -> None:
        employment = self.job.employment
        left, minimum = len(employment.present), self.job.plan.minimum
        if left < minimum and not self.over:
            sites = len(self.job.plan.sites)
            version, out = self.job.version, employment.out
            error = QuorumLost(version, minimum, left, sites, out, unit="version")
            self._over.set_exception(error)

    def _too_late(self, msg: Submit) -> None:
        """A site whose lease had run out has answered at last, and can be given work again."""
        del self._overdue[msg.site]
        text = f"{msg.site} answered after its lease; the update was not counted"
        self.job.telling.notice(msg.site, text)
        self._free(msg.site)
        self.fill_places()

    def lose(self, site: str, failure: Failure) -> None:
        """See `Training.lose`."""
        if self._evaluating:
            self._rounds.lose(site, failure)
            return
        if site in self.job.employment.out:
            return
        lease = self.leases.of(site)
        self._overdue.pop(site, None)
        if lease is not None and lease.id in self._under_way:
            self._lost_meanwhile[site] = failure
            return
        if lease is not None:
            self._end_in_failure(lease, failure)
        else:
            if site in self.idle:
                self.idle.remove(site)
            self.job.telling.failure(self.job.version, site, failure)
            self._put_out(site, failure)
        self.fill_places()

    def welcome(self, site: str) -> None:
        """See `Training.welcome`."""
        if self._evaluating:
            self._rounds.welcome(site)
            return
        self._lost_meanwhile.pop(site, None)
        lease = self.leases.of(site)
        if lease is not None and lease.id in self._under_way:
            return  # it is free once its answer has been counted
        lease = self.leases.revoke(site)  # its new trainer knows nothing of the task
        if lease is not None:
            self._judge(self._versions.give_up(lease.version))
        # One that was given up has one more try.
        self._in_a_row[site] = min(self._in_a_row[site], self.settings.most_failures - 1)
        self._overdue.pop(site, None)
        if self._begun and site not in self.idle:
            self.idle.append(site)
        self.fill_places()

    def look(self) -> None:
        """See `Training.look`: also ends the leases whose time is up."""
        if self._evaluating:
            self._rounds.look()
            return
        if not self._begun:
            return
        for lease in self.leases.expire(self.job.ctx.now):
            text = f"no answer within {self.settings.lease_s:g} s, its lease"
            if not self._fail(lease, Failure("LeaseOver", text, fatal=False)):
                self._overdue[lease.site] = lease
        latest = self.job.ctx.now - self.settings.lease_s
        for site in [site for site, lease in self._overdue.items() if lease.until <= latest]:
            del self._overdue[site]
            self._free(site)
        self.fill_places()
        waiting = [lease.site for lease in self.leases.running]
        self.job.telling.silence("train", self.job.version, waiting)

    # Versions --------------------------------------------------------------

    async def _follow(self, version: int) -> None:
        """Hear of versions that are made in a thread, over crashes of the aggregator too."""
        async for advanced in self._filling.follow(version):
            self._advance(advanced)

    def _followed(self, result: Exception | None) -> None:
        if isinstance(result, Exception):
            self._gone(result)

    def _gone(self, error: Exception) -> None:
        """The aggregator has crashed too often, or the disk is full."""
        if not self.over:
            self._over.set_exception(error if isinstance(error, OSError) else gone(error))

    def _advance(self, advanced: Advanced) -> None:
        """A new version is there: the next to be free gets it."""
        job = self.job
        if advanced.version <= job.version or self._closed:
            return  # it has been told before, or nobody wants it
        if advanced.version > job.version + 1 and not advanced.error:
            self._early[advanced.version] = advanced
            return
        if advanced.error:
            if not self.over:
                self._over.set_exception(Rejected("version", advanced.error))
            return
        if advanced.lost:
            text = f"{advanced.lost} updates were lost in a crash of the aggregator"
            job.telling.notice(None, text)
        self._progress.updates = (
            (self._progress.updates or 0) + len(advanced.stalenesses) + advanced.lost
        )
        self._progress.lost += advanced.lost
        job.version, job.model = advanced.version, advanced.model
        self._models[job.version] = job.model
        self._judge(self._versions.advance(Version(job.version, began=job.ctx.now, time=self.time)))
        self._check_over()
        if self.over or job.ctx.now - self._committed_at >= COMMIT_EVERY_S:
            self._commit()
        if self.news is not None and not self.news.done():
            self.news.set_result(None)
        following = self._early.pop(job.version + 1, None)
        if following is not None:
            self._advance(following)

    def _judge(self, version: Version | None) -> None:
        """All that is said of a version has been said: note how good it was, and let it go."""
        if version is None:
            return
        plan, metrics = self.job.plan, version.metrics()
        self._given.pop(version.number, None)
        if version.answered and not self._judged:
            self._judged = True  # once is enough
            for text in plan.progress.unreported(metrics):
                self.job.telling.notice(None, text)
        best = plan.progress.judge(version.number, metrics)
        if best:
            plan.checkpoint.mark_best(version.number)
        model = self._models.pop(version.number)
        self._progress.judged += 1
        self.job.telling.version_finished(version, metrics, best, model.size)
        plan.blobs.release(model.rid)
        self._check_over()

    def _check_over(self) -> None:
        plan = self.job.plan
        if not self.over and (self.job.version >= plan.rounds or plan.progress.stopped_by):
            self._over.set_result(None)

    def _commit(self) -> None:
        self._committed_at = self.job.ctx.now
        self.job.plan.write()  # rows of updates that count from here on
        self.job.commit(self.job.version, keep=self._models)

    async def flush(self, *, last: bool = False, drop: bool = False) -> Flushed:
        """Have a version made of a part-filled buffer."""
        flushed = await self._filling.flush(self.job.version, last=last, drop=drop)
        for advanced in flushed.made:
            self._advance(advanced)
        return flushed

    # The end ---------------------------------------------------------------

    async def _finish(self) -> None:
        """Deal with what is left in the buffer, and have the last model evaluated."""
        job, drop = self.job, not self.settings.flush
        async with self._counting:
            flushed = await self.flush(last=True, drop=drop)
        if flushed.updates:
            self._progress.dropped += flushed.updates if drop else 0
            what = "were dropped" if drop else "made a last version"
            job.telling.notice(None, f"{flushed.updates} updates left at the end {what}")
        left = sorted(lease.site for lease in self.leases.running)
        if left:
            names = ", ".join(left[:NAMED]) + (" and others" if len(left) > NAMED else "")
            text = f"{len(left)} tasks under way at the end do not count ({names})"
            job.telling.notice(None, text)
        self._closed = True
        for version in self._versions.close():
            if version.number != job.version and version.answered:
                self._judge(version)
        self._commit()
        self._evaluating = True
        await self._rounds.evaluate(job.version)
