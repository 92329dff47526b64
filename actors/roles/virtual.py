"""Asynchronous training in virtual time: how long a task takes is drawn, not waited for.

A task is worked on when it begins, on the model that is then the newest, and its update is held
until its drawn end: no old model is kept, and scripts and functions both work. What ends when
is a heap of events on the ordinary event loop, so a run is exact, the same twice, and as fast as
its clients. All that ends in one instant is taken before anybody begins anew: with equal
durations and a buffer for all sites this is synchronous training.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from typing import Any

from covey.algorithms import AsynchronousAggregation

from .asynchronous import AsynchronousSettings, AsynchronousTraining
from .filling import Done, refusal
from .job import Job
from .leases import Lease, Leases
from .messages import Assign, Counted, Entered, Failure, Submit, Update
from .synchronous import PUSHED_AT_ONCE, Durations, drawn


class VirtualTraining(AsynchronousTraining):
    """Keeps sites at work in virtual time; see `Training`."""

    def __init__(
        self,
        job: Job,
        rule: AsynchronousAggregation,
        settings: AsynchronousSettings,
        durations: Durations,
        batched: bool = False,
    ) -> None:
        """Train for `job` by `rule`; a site's tasks take `durations`.

        `batched` tasks are held back until the first of their answers is due, and given all at
        once: sites that train in one call wait for company.
        """
        super().__init__(job, rule, settings)
        self.leases = Leases(math.inf)  # their ends are events, too
        self._durations = durations
        self._time = job.plan.progress.time
        self._next_step = self._time + (settings.period_s or math.inf)
        # When, which lease, and whether its site is too slow for it.
        self._ends: list[tuple[float, int, bool]] = []
        self._answers: dict[int, asyncio.Future[Update | Failure]] = {}
        self._batched = batched
        self._held: list[tuple[Lease, Assign]] = []
        # Updates whose time has come, by their sites: as long as they make no version, and their
        # sites get no other task, nothing depends on them but what is judged by metrics.
        self._collected: dict[str, Done] = {}
        progress = job.plan.progress
        self._is_judged = progress.stop is not None or progress.patience is not None

    @property
    def time(self) -> float | None:
        """Virtual seconds of training so far."""
        return self._time

    async def keep_at_work(self) -> None:
        """Let one instant after the other come until it is over."""
        while not self.over:
            await self._begin()
            if self._ends:
                await self._instant()
            elif self._collected:
                await self._count_collected()
            else:
                await asyncio.wait([self._over])  # nobody is left to work
        await self._count_collected()

    def fill_places(self) -> None:
        """Nobody begins between two instants."""

    async def _begin(self) -> None:
        """Give work to free sites until enough are at work."""
        begun = 0
        while not self.over and len(self.leases) < self.settings.concurrency and self.idle:
            site = self.draw()
            if site in self._collected:
                await self._count_collected()  # a site keeps an update until its next task
                # Meanwhile it may have been lost, and have come back to be drawn again.
                if self.over or site in self.job.employment.out or site in self.idle:
                    continue
            self.start(site, self._time)
            begun += 1
            if not begun % PUSHED_AT_ONCE:
                await asyncio.sleep(0)

    def start(self, site: str, now: float) -> Lease:
        """Give a site the newest model, and draw how long it takes."""
        seconds = drawn(self._durations, site)
        slow = seconds > self.settings.lease_s
        # Before the task is given: a quick function answers at once.
        number = self.leases.next
        self._answers[number] = asyncio.get_running_loop().create_future()
        end = now + min(seconds, self.settings.lease_s)
        heapq.heappush(self._ends, (end, number, slow))
        return super().start(site, now)

    def give(self, lease: Lease, msg: Assign) -> None:
        """Give a site its task, or hold it back."""
        if self._batched:
            self._held.append((lease, msg))
        else:
            super().give(lease, msg)

    def _give_held(self) -> None:
        held, self._held = self._held, []
        for lease, msg in held:
            if self.leases.get(lease.id) is not None:
                super().give(lease, msg)

    async def _instant(self) -> None:
        """Take all that ends at the next instant, in the order in which it began."""
        now = self._ends[0][0]
        await self._step_until(now)
        self._set_time(now)
        while self._ends and self._ends[0][0] == now and not self.over:
            _, number, slow = heapq.heappop(self._ends)
            lease, answer = self.leases.get(number), self._answers[number]
            if lease is not None and not slow and not answer.done():
                self._give_held()
                either: tuple[asyncio.Future[Any], ...] = (answer, self._over)
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                lease = self.leases.get(number)
            del self._answers[number]
            if lease is None or self.over:
                continue  # its site was lost meanwhile
            text = f"no answer within {self.settings.lease_s:g} s, its lease"
            self._progress.stale += slow  # it comes, and too late
            outcome = Failure("LeaseOver", text, fatal=False) if slow else answer.result()
            await self._end(lease, outcome)

    async def _end(self, lease: Lease, outcome: Update | Failure) -> None:
        """A task is over, and its site is free."""
        if isinstance(outcome, Failure):
            await self._count_collected()
            self._end_in_failure(lease, outcome)
            return
        self.leases.settle(lease.id)
        self._free(lease.site)
        self._collected[lease.site] = Done(lease, outcome, self._time - lease.began)
        if self._is_judged or len(self._collected) >= self.at_once:
            await self._count_collected()

    async def _count_collected(self) -> None:
        """Have updates added that have come since: at the latest when they make a version."""
        collected, self._collected = self._collected, {}
        await self.count(list(collected.values()))

    def enter(self, done: Done, entered: Entered) -> None:
        """See `AsynchronousTraining.enter`; here its site has been free since its time came."""
        failure, site = refusal(entered), done.lease.site
        if failure is None:
            if entered.verdict != "late":
                self.tell_update(done, entered.staleness)
            return
        self._progress.stale += entered.verdict == "stale"
        if self._fail(done.lease, failure) and site in self.idle:
            self.idle.remove(site)

    def _set_time(self, time: float) -> None:
        self._time = self.job.plan.progress.time = time

    async def _step_until(self, now: float) -> None:
        """Make the versions that are due by the clock before `now`."""
        period = self.settings.period_s
        while period is not None and self._next_step <= now and not self.over:
            await self._count_collected()
            self._set_time(self._next_step)
            self._next_step += period
            await self.flush()

    async def wait_for(self, version: int) -> None:
        """Making a version takes no virtual time: what begins next begins from it."""
        while self.job.version < version and not self.over:  # it may have been heard of already
            self.news = news = asyncio.get_running_loop().create_future()
            await asyncio.wait([news, self._over], return_when=asyncio.FIRST_COMPLETED)

    async def take(self, msg: Submit) -> Counted:
        """Hold what a site has made until its time comes."""
        if self._evaluating:
            return await super().take(msg)
        answer = self._answers.get(msg.attempt)
        lease = self.leases.get(msg.attempt)
        key = (msg.site, msg.task, msg.round)
        if answer is None or lease is None or key != (lease.site, "train", lease.version):
            return Counted("stale", f"lease {msg.attempt} is over")
        if answer.done():
            return Counted("duplicate")
        answer.set_result(msg.outcome)
        return Counted("accepted")

    def lose(self, site: str, failure: Failure) -> None:
        """See `Training.lose`."""
        lease = self.leases.of(site)
        answer = None if lease is None else self._answers.get(lease.id)
        if answer is not None and not answer.done():
            answer.set_result(failure)
        else:
            super().lose(site, failure)

    def look(self) -> None:
        """See `Training.look`."""
        if self._evaluating:
            super().look()
        if self._evaluating or not self._begun:
            return
        answers = self._answers
        running = self.leases.running
        waiting = [e.site for e in running if e.id in answers and not answers[e.id].done()]
        self.job.telling.silence("train", self.job.version, waiting)
