"""The server: the actor that knows the sites and starts jobs."""

from __future__ import annotations

from dataclasses import dataclass

from ..runtime import (
    Actor,
    ActorError,
    Down,
    Mailbox,
    Message,
    Reason,
    Ref,
    Rejected,
    Restart,
    handles,
)
from .job import Job
from .messages import Register, Registered, Returned
from .plan import JobPlan


@dataclass(frozen=True, slots=True)
class RunJob(Message["Server", "Ref[Job]"]):
    """Start a job on sites that have registered; answered with the job's reference."""

    plan: JobPlan


class Server(Actor):
    """Keeps the roster of sites; starts jobs and reports those that crash."""

    def __init__(self) -> None:
        """Begin with no site."""
        # Addresses by site.
        self._sites: dict[str, str] = {}
        self._jobs: dict[str, tuple[JobPlan, Ref[Job]]] = {}

    @handles
    def register(self, msg: Register) -> Registered:
        """Note a site; tell running jobs of one that has come back."""
        if msg.site in self._sites:
            for plan, job in self._jobs.values():
                if msg.site in plan.sites:
                    self.ctx.run(_tell(job, Returned(msg.site, msg.address)), lambda _: None)
        self._sites[msg.site] = msg.address
        return Registered(len(self._sites))

    @handles
    async def run(self, msg: RunJob) -> Ref[Job]:
        """Start a job.

        Raises `Rejected` where a site has not registered.
        """
        plan = msg.plan
        missing = [site for site in plan.sites if site not in self._sites]
        if missing:
            raise Rejected("unknown-sites", f"not registered: {', '.join(missing[:5])}")
        addresses = {site: self._sites[site] for site in plan.sites}
        job = await self.ctx.spawn(
            lambda: Job(plan, addresses),
            name=f"job-{plan.id}",
            # Every site may submit at once, and a remote message for a full
            # mailbox is refused.
            mailbox=Mailbox(2 * len(plan.sites) + 64),
            restart=Restart.never(),
        )
        self._jobs[job.text] = (plan, job)
        self.ctx.watch(job)
        return job

    @handles
    def down(self, msg: Down) -> None:
        """Forget a job that has ended; report one that ended by a fault of its own."""
        plan, _ = self._jobs.pop(msg.address)
        if msg.reason is not Reason.STOPPED:
            plan.crashed(msg.detail)


async def _tell(job: Ref[Job], message: Returned) -> None:
    try:
        await job.tell(message)
    except ActorError:
        return  # the job has ended meanwhile
