"""A job answers while it aggregates, and ends when its scripts have had their last words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covey.actors.downloads.blobs import Blob, Blobs
from covey.actors.jobs.checkpoint import Checkpoint
from covey.actors.jobs.launchers.errors import Fault, ScriptFailed
from covey.actors.jobs.launchers.script import Outcome, Script
from covey.actors.observe.events import EventKind, RunEvent
from covey.actors.roles.aggregator import Aggregator
from covey.actors.roles.job import Abort, Job
from covey.actors.roles.messages import Returned, Submit, Update, role_messages
from covey.actors.roles.plan import JobPlan, Progress
from covey.actors.roles.server import RunJob, Server
from covey.actors.roles.site import Site
from covey.actors.roles.synchronous import SynchronousTraining
from covey.actors.roles.trainer import TrainerSettings
from covey.actors.runtime import Ref, System, runtime_messages
from covey.actors.runtime.testing import SimulatedNetwork, simulate
from covey.algorithms import BestModel, FedAvg
from covey.algorithms.tensors import load_initial
from covey.client.messages import Answer, Metric, Task
from covey.transport import Registry

REGISTRY = Registry(*runtime_messages(), *role_messages())
SITES = ("site-1", "site-2", "site-3")
FAULT = Fault("ValueError", "no", "client.py", 3, "raise ValueError", "Traceback")


class Failing:
    """A script that sends the model back; site-3 raises in its first task."""

    pid = None

    def __init__(
        self,
        site: str,
        blob: bytes,
        given: list[tuple[str, int]],
        on_metric: Callable[[Metric], None],
    ) -> None:
        self.site = site
        self._on_metric = on_metric
        self._blob = blob
        self._given = given

    async def run(self, task: Task) -> Outcome:
        self._given.append((self.site, task.round))
        if (self.site, task.round) == ("site-3", 0):
            raise ScriptFailed(self.site, "log", FAULT)
        answer = Answer(task.name, task.round, "FULL", True, len(self._blob), {})
        return Outcome(answer, Blob.of_bytes(self._blob))

    async def wait(self) -> None:
        return None

    async def stop(self, grace_s: float) -> ScriptFailed | None:
        await asyncio.sleep(min(grace_s, 25.0))  # of virtual time: it tests its model
        self._on_metric(Metric("tested", 1.0))
        return ScriptFailed(self.site, "log", FAULT) if self.site != "site-2" else None

    def kill(self) -> None:
        return None


class Federation:
    """A job of two rounds on three sites, of which two are enough."""

    def __init__(self, folder: Path) -> None:
        self.events: list[RunEvent] = []
        self.given: list[tuple[str, int]] = []
        self.blobs = Blobs()
        self.checkpoint = Checkpoint(folder)
        self.initial = load_initial({"w": np.zeros(4, np.float32)})
        with self.checkpoint.writing(0) as fd:
            self.initial.write(fd)
        self.ended = asyncio.Event()

    async def run(self, test: Callable[[Ref[Job]], Any]) -> None:
        async with SimulatedNetwork(seed=1, registry=REGISTRY) as network:
            make = partial(System, registry=REGISTRY)
            await network.start("server", self._serve, make=partial(make, "server"))
            for site in SITES:
                enrol = partial(self._enrol, site)
                await network.start(site, enrol, uplink="server", make=partial(make, site))
            await asyncio.sleep(20)  # of virtual time: all have registered
            server = network.system("server").lookup("server/server", Server)
            await test(await server.ask(RunJob(self._plan())))
            await self.ended.wait()

    async def _serve(self, system: System) -> None:
        await system.spawn(Server, name="server")

    async def _enrol(self, site: str, system: System) -> None:
        async def start(on_metric: Callable[[Metric], None]) -> Script:
            blob = self.checkpoint.path(0).read_bytes()
            return Failing(site, blob, self.given, on_metric)

        def settings(job: str) -> TrainerSettings:
            del job
            return TrainerSettings(site, start, self.blobs)

        server = system.lookup("server/server", Server)
        await system.spawn(lambda: Site(site, server, settings), name="site")

    def _plan(self) -> JobPlan:
        return JobPlan(
            id="job",
            name="test",
            sites=SITES,
            minimum=2,
            rounds=2,
            rule=FedAvg(),
            layout=self.initial.layout,
            blobs=self.blobs,
            checkpoint=self.checkpoint,
            version=0,
            progress=Progress(BestModel("loss", "min")),
            record=self._record,
            crashed=lambda detail: pytest.fail(detail),
            training=SynchronousTraining,
        )

    def _record(self, event: RunEvent) -> None:
        self.events.append(event)
        if event.kind is EventKind.RUN_FINISHED:
            self.ended.set()


def test_nobody_waits_for_a_fold_and_no_site_is_taken_back_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> Federation:
        folding, release = asyncio.Event(), asyncio.Event()
        offload: Any = vars(Aggregator)["_offload"]

        async def slow(self: Aggregator, *args: Any) -> None:
            folding.set()
            await release.wait()
            await offload(self, *args)

        monkeypatch.setattr(Aggregator, "_offload", slow)
        federation = Federation(tmp_path)

        async def test(job: Ref[Job]) -> None:
            await folding.wait()
            late = Submit("site-3", "train", 0, 1, Update(None))
            counted = await job.ask(late, timeout=1)
            assert (counted.verdict, counted.text) == ("late", "round 0 is being aggregated")
            await job.tell(Returned("site-3", "site-3/site"))
            await asyncio.sleep(60)  # of virtual time: it has been found again
            release.set()

        await federation.run(test)
        return federation

    federation = simulate(main, seed=1)
    assert [round for site, round in federation.given if site == "site-3"] == [0, 1]
    assert federation.events[-1].data["status"] == "completed"


def test_what_scripts_say_after_their_last_task_is_told_before_the_end(tmp_path: Path) -> None:
    async def main() -> Federation:
        async def test(job: Ref[Job]) -> None:
            del job

        federation = Federation(tmp_path)
        await federation.run(test)
        return federation

    federation = simulate(main, seed=1)
    tested = [e.site for e in federation.events if e.kind is EventKind.METRIC]
    assert sorted(map(str, tested)) == list(SITES)
    # The failure of site-3 in its only task has been told as one.
    (notice,) = [e for e in federation.events if e.kind is EventKind.NOTICE and e.site]
    assert notice.site == "site-1"
    text = "site-1's script raised after its last task: ValueError: no (client.py, line 3)"
    assert notice.data["text"] == text
    assert federation.events[-1].data["status"] == "completed"


def test_an_abort_gives_up_last_words(tmp_path: Path) -> None:
    async def main() -> float:
        federation = Federation(tmp_path)

        async def test(job: Ref[Job]) -> None:
            async with asyncio.timeout(600):
                await asyncio.sleep(10)  # of virtual time: all have answered
                assert ("site-1", 1) in federation.given
                assert not federation.ended.is_set()
                await job.tell(Abort())
                await federation.ended.wait()

        began = asyncio.get_running_loop().time()
        await federation.run(test)
        assert federation.events[-1].data["status"] == "completed"
        return asyncio.get_running_loop().time() - began

    assert simulate(main, seed=1) < 20 + 25
