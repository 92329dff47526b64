"""Asynchronous training in virtual time goes on when a trainer dies before its update counts.

Not here: what training in virtual time comes to (`tests/recipes/test_fedbuff.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from covey.actors.downloads.blobs import Blob, Blobs
from covey.actors.jobs.checkpoint import Checkpoint
from covey.actors.jobs.launchers.errors import ScriptFailed
from covey.actors.jobs.launchers.script import Outcome, Script
from covey.actors.observe.events import EventKind, RunEvent
from covey.actors.roles.asynchronous import AsynchronousSettings
from covey.actors.roles.filling import Done
from covey.actors.roles.messages import role_messages
from covey.actors.roles.plan import JobPlan, Progress
from covey.actors.roles.server import RunJob, Server
from covey.actors.roles.site import Site
from covey.actors.roles.trainer import Trainer, TrainerSettings
from covey.actors.roles.virtual import VirtualTraining
from covey.actors.runtime import Mailbox, System, runtime_messages
from covey.algorithms import BestModel, FedBuff
from covey.algorithms.tensors import load_initial
from covey.client.messages import Answer, Metric, Task
from covey.transport import Registry

REGISTRY = Registry(*runtime_messages(), *role_messages())
SITES = tuple(f"site-{number}" for number in range(1, 7))
BUFFER = 3
VERSIONS = 4
#: Tasks by their place in order: the slow one, and one whose update waits for others.
SLOW, WAITS = 1, 2
#: One with which the first four tasks are of different sites.
SEED = 6
#: One with which a site is drawn again while its update waits, and often after that.
RETURNING = 7
#: Bounds every wait; nothing here takes a hundredth of it.
GUARD_S = 60.0


class Echo:
    """A script that sends the model back, after what the test does in the meantime."""

    pid = None

    def __init__(self, federation: Federation, site: str) -> None:
        self.site = site
        self._federation = federation

    async def run(self, task: Task) -> Outcome:
        await self._federation.at_work(self.site)
        blob = self._federation.model
        answer = Answer(task.name, task.round, "FULL", False, len(blob), {})
        return Outcome(answer, Blob.of_bytes(blob))

    async def wait(self) -> None:
        return None

    async def stop(self, grace_s: float) -> ScriptFailed | None:
        del grace_s
        return None

    def kill(self) -> None:
        return None


class Federation:
    """A job on six sites, two of them at work at any time.

    Tasks take a virtual second, but the second one is the slow one. The first update is counted
    at once: how many make a version is heard then. That of the third task waits for others when
    the fourth one begins, which is when a trainer dies: `victim` is that of which task, None of
    none.
    """

    def __init__(
        self,
        folder: Path,
        victim: int | None,
        training: type[VirtualTraining],
        seed: int,
    ) -> None:
        self.events: list[RunEvent] = []
        self.tasks: list[str] = []
        self.blobs = Blobs()
        self._victim = victim
        self._training = training
        self._seed = seed
        self._checkpoint = Checkpoint(folder)
        self._initial = load_initial({"w": np.zeros(4, np.float32)})
        with self._checkpoint.writing(0) as fd:
            self._initial.write(fd)
        self._checkpoint.commit(0, {})
        self.model = self._checkpoint.path(0).read_bytes()
        self._begun = 0
        self._lost = asyncio.Event()
        self._ended = asyncio.Event()
        self._system: System

    async def run(self) -> None:
        async with asyncio.timeout(GUARD_S), System("local", registry=REGISTRY) as system:
            self._system = system
            server = await system.spawn(Server, name="server", mailbox=Mailbox(64))
            for site in SITES:
                settings = partial(self._trainer, site)
                await system.spawn(partial(Site, site, server, settings), name=site)
            await server.ask(RunJob(self._plan()))
            await self._ended.wait()

    def of(self, kind: EventKind) -> list[RunEvent]:
        """The events of a kind."""
        return [event for event in self.events if event.kind is kind]

    async def at_work(self, site: str) -> None:
        """A site has begun a task."""
        self.tasks.append(site)
        if len(self.tasks) == 4 and self._victim is not None:
            await stop_trainer(self._system, self.tasks[self._victim])
            await self._lost.wait()

    def _trainer(self, site: str, job: str) -> TrainerSettings:
        del job

        async def start(on_metric: Callable[[Metric], None]) -> Script:
            del on_metric
            return Echo(self, site)

        return TrainerSettings(site, start, self.blobs)

    def _seconds(self, site: str) -> float:
        del site
        self._begun += 1
        return 5.0 if self._begun == 1 + SLOW else 1.0

    def _record(self, event: RunEvent) -> None:
        self.events.append(event)
        if event.kind is EventKind.SITE_FAILED:
            self._lost.set()
        elif event.kind is EventKind.RUN_FINISHED:
            self._ended.set()

    def _plan(self) -> JobPlan:
        rule = FedBuff(buffer_size=BUFFER)
        settings = AsynchronousSettings(
            concurrency=2,
            lease_s=float("inf"),
            period_s=None,
            flush=False,
            most_failures=3,
            seed=self._seed,
        )
        return JobPlan(
            id="job",
            name="test",
            sites=SITES,
            minimum=1,
            rounds=VERSIONS,
            rule=rule,
            layout=self._initial.layout,
            blobs=self.blobs,
            checkpoint=self._checkpoint,
            version=0,
            progress=Progress(BestModel("loss", "min")),
            record=self._record,
            crashed=lambda detail: pytest.fail(detail),
            training=partial(self._training, rule=rule, settings=settings, durations=self._seconds),
            virtual=True,
        )


async def stop_trainer(system: System, site: str) -> None:
    """Have a site's first trainer die."""
    await system.stop(system.lookup(f"local/{site}.trainer-job-1", Trainer), "killed")


class Restarting(VirtualTraining):
    """While a site that has been drawn waits for its update to be counted, its trainer dies.

    The site comes back before that is done.
    """

    restarted = ""
    back: asyncio.Future[None]

    async def count(self, updates: Sequence[Done]) -> None:
        """See `AsynchronousTraining.count`."""
        drawn = [site for site in (d.lease.site for d in updates) if self.is_drawn(site)]
        if drawn and not self.restarted:
            self.restarted = drawn[0]
            self.back = asyncio.get_running_loop().create_future()
            await stop_trainer(self.job.ctx.system, self.restarted)
            self.job.employment.returned(self.restarted, f"local/{self.restarted}")
            await self.back
        await super().count(updates)

    def is_drawn(self, site: str) -> bool:
        """Whether a site is neither free nor at work, although it could be."""
        free = site in self.idle or site in self.job.employment.out
        return not free and self.leases.of(site) is None

    def welcome(self, site: str) -> None:
        """See `Training.welcome`."""
        super().welcome(site)
        self.back.set_result(None)


def run(
    folder: Path,
    victim: int | None = None,
    training: type[VirtualTraining] = VirtualTraining,
    seed: int = SEED,
) -> Federation:
    async def main() -> Federation:
        federation = Federation(folder, victim, training, seed)
        await federation.run()
        return federation

    return asyncio.run(main())


def check_the_job_went_on(federation: Federation, site: str) -> None:
    """All versions were made, of as many updates each, and the dead trainer's counts nowhere."""
    assert len(set(federation.tasks[:4])) == 4
    (finished,) = federation.of(EventKind.RUN_FINISHED)
    assert (finished.data["status"], finished.data["rounds"]) == ("completed", VERSIONS)
    answers = federation.of(EventKind.SITE_FINISHED)
    assert site not in {event.site for event in answers}
    assert VERSIONS * BUFFER <= len(answers) < (VERSIONS + 1) * BUFFER
    assert federation.tasks.count(site) == 1, "it gets no more"
    (first,) = [e for e in federation.of(EventKind.ROUND_FINISHED) if e.round == 0]
    assert first.data["failed"] == 1, "its version does not wait for it"


def test_an_update_whose_trainer_died_while_it_waited_for_others_is_refused_and_told(
    tmp_path: Path,
) -> None:
    federation = run(tmp_path, victim=WAITS)
    site = federation.tasks[WAITS]
    check_the_job_went_on(federation, site)
    lost, refused = federation.of(EventKind.SITE_FAILED)
    assert (lost.site, lost.data["fatal"]) == (site, True)
    assert lost.data["kind"].startswith("Trainer")
    assert (refused.site, refused.data["kind"]) == (site, "BadUpdate")


def test_an_answer_whose_trainer_died_before_its_time_has_come_is_given_up(tmp_path: Path) -> None:
    federation = run(tmp_path, victim=SLOW)
    site = federation.tasks[SLOW]
    check_the_job_went_on(federation, site)
    (lost,) = federation.of(EventKind.SITE_FAILED)
    assert (lost.site, lost.data["fatal"]) == (site, True)
    assert lost.data["kind"].startswith("Trainer")


def test_a_site_that_comes_back_while_its_update_is_counted_is_given_one_task_at_a_time(
    tmp_path: Path,
) -> None:
    federation = run(tmp_path, training=Restarting, seed=RETURNING)
    (finished,) = federation.of(EventKind.RUN_FINISHED)
    assert (finished.data["status"], finished.data["error"]) == ("completed", "")
    lost = federation.of(EventKind.SITE_FAILED)
    assert [event.data["kind"] for event in lost] == ["TrainerStopped", "BadUpdate"]
    (site,) = {event.site for event in lost}
    place = next(n for n, event in enumerate(federation.events) if event is lost[-1])
    assert site in {event.site for event in federation.events[place + 1 :]}, "it takes part again"
