"""The trainers of one job: one at each site, found again where it is lost.

Here: calling for trainers, watching them, looking for sites that cannot be
reached, retiring all at the end. Not here: what trainers are given to do (the job).
"""

from __future__ import annotations

import asyncio
from asyncio import FIRST_COMPLETED
from collections.abc import Mapping, Sequence
from typing import Protocol

from ..runtime import (
    ActorError,
    Address,
    AskTimeout,
    Down,
    MailboxFull,
    Reason,
    Ref,
    Stopped,
    Unreachable,
    broadcast,
)
from ..runtime.context import Context
from .messages import Deploy, Deployed, Failure, Retire, Retired
from .site import Site
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


class Employer(Protocol):
    """The job, as its employment sees it."""

    def lose(self, site: str, failure: Failure) -> None:
        """A site has no trainer any more, or never had one."""

    def welcome(self, site: str) -> None:
        """A site that was away has a trainer again."""


class Employment:
    """The trainers of one job.

    Attributes:
        trainers: The trainer last made at each site.
        out: Sites that can do nothing for the job now, and why.
        sought: Those of them that are looked for and may come back.
    """

    def __init__(
        self,
        ctx: Context,
        job: str,
        addresses: Mapping[str, str],
        out: Mapping[str, Failure],
        employer: Employer,
    ) -> None:
        """Employ the sites at these addresses for `job`, but for those that are `out`."""
        self._ctx = ctx
        self._job = job
        self._addresses = dict(addresses)
        self._employer = employer
        self.trainers: dict[str, Ref[Trainer]] = {}
        self.out = dict(out)
        self.sought: dict[str, None] = {}
        self._sites_by_trainer: dict[str, str] = {}
        self._calls = 0
        self._ending = False
        self._hurry = asyncio.Event()

    @property
    def present(self) -> list[str]:
        """The sites that can be given work, in the federation's order."""
        return [site for site in self._addresses if site not in self.out]

    async def begin(self) -> None:
        """Have each site make its trainer; one whose link broke has time to come back."""
        sites = {self._site(site): site for site in self.present}
        answers = await broadcast(sites, self._call_for_trainer(), timeout=PUSH_TIMEOUT_S)
        missing: list[tuple[str, ActorError]] = []
        for ref, answer in answers.items():
            if isinstance(answer, Deployed):
                self._employ(sites[ref], answer.trainer)
            else:
                missing.append((sites[ref], answer))
        until = self._ctx.now + DEPLOY_PATIENCE_S
        await asyncio.gather(*(self._call_again(*each, until) for each in missing))

    async def _call_again(self, site: str, error: ActorError, until: float) -> None:
        """Call for the trainer of a site that did not answer, as long as it makes sense."""
        pause, longest = RETRY_S
        while isinstance(error, PASSING) and not self._ending:
            if self._ctx.now >= until or not (until == FOR_EVER or self._may_return(site)):
                break
            await asyncio.sleep(pause * self._ctx.rng.uniform(0.5, 1.0))
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
        self._employer.lose(site, Failure(type(error).__name__, str(error)))
        if isinstance(error, PASSING):
            self.seek(site)

    def _site(self, site: str) -> Ref[Site]:
        return self._ctx.system.lookup(self._addresses[site], Site)

    def _may_return(self, site: str) -> bool:
        return self._ctx.system.reaches(Address.parse(self._addresses[site]).node)

    def _call_for_trainer(self) -> Deploy:
        self._calls += 1
        return Deploy(self._job, self._ctx.ref.text, self._calls)

    def _employ(self, site: str, address: str) -> None:
        trainer = self._ctx.system.lookup(address, Trainer)
        self.trainers[site] = trainer
        self._sites_by_trainer[address] = site
        self.out.pop(site, None)
        self._ctx.watch(trainer)

    # Sites that go and come ------------------------------------------------

    def down(self, msg: Down) -> None:
        """A trainer is gone: its site is out until it registers again, or can be reached again."""
        site = self._sites_by_trainer.pop(msg.address, None)
        if site is None or self._ending or self.trainers[site].text != msg.address:
            return
        why = Failure(f"Trainer{msg.reason.value.title()}", msg.detail or msg.address)
        self._employer.lose(site, why)
        if msg.reason is Reason.UNREACHABLE:
            self.seek(site)

    def returned(self, site: str, address: str) -> None:
        """A site has started anew, maybe elsewhere."""
        self._addresses[site] = address
        self.seek(site)

    def seek(self, site: str) -> None:
        """Look for a site until it answers or the job ends."""
        if site not in self.sought and not self._ending:
            self.sought[site] = None
            self._ctx.run(self._find(site), lambda _: None)

    async def _find(self, site: str) -> None:
        before = self.trainers.get(site), site in self.out
        await self._call_again(site, Unreachable(site), FOR_EVER)
        del self.sought[site]
        if site in self.out or before == (self.trainers.get(site), False):
            return  # it cannot work, or has never been away
        self._employer.welcome(site)

    # The end ---------------------------------------------------------------

    def end(self) -> None:
        """Look for nobody any more; the ends of trainers are no news."""
        self._ending = True
        for trainer in self.trainers.values():
            self._ctx.unwatch(trainer)

    def hurry(self) -> None:
        """Give up what scripts still have to say."""
        self._hurry.set()

    async def retire(self, sites: Sequence[str], *, kill: bool) -> Mapping[str, Failure]:
        """Have all sites end their trainers; what went wrong after the last task, by site."""
        refs = {self._site(site): site for site in sites}
        timeout = KILL_TIMEOUT_S if kill else RETIRE_TIMEOUT_S
        retire = Retire(self._job, kill)
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
