"""FedAvg by the real roles over real connections: whatever the way, the same model to the last bit.

The scripts calculate (`tests/simulation/arithmetic.py`), so that an update that is lost, doubled or
of another round shows in the final bytes. All nodes are systems of this process, which share one
table of blobs; envelopes go over TCP.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from covey.actors.downloads.blobs import Blobs
from covey.actors.jobs.checkpoint import MODEL, Checkpoint
from covey.actors.jobs.launchers.script import OnMetric, Script
from covey.actors.observe.events import EventKind, RunEvent
from covey.actors.roles.messages import role_messages
from covey.actors.roles.plan import JobPlan, Progress
from covey.actors.roles.server import RunJob, Server
from covey.actors.roles.site import Site
from covey.actors.roles.synchronous import SynchronousTraining
from covey.actors.roles.trainer import TrainerSettings
from covey.actors.runtime import Rejected, System, runtime_messages
from covey.algorithms import BestModel, FedAvg
from covey.edge.relay import ACTOR, Relay, relay_messages, relay_system
from covey.transport import Registry

from ..simulation.arithmetic import (
    ArithmeticScript,
    Ledger,
    Manner,
    beginning,
    blob_of,
    layout,
    oracle,
)

SITES = tuple(f"site-{number}" for number in range(4))
ROUNDS = 5
EXPECTED = oracle(len(SITES), [list(range(len(SITES)))] * ROUNDS)


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(100):
            await main

    asyncio.run(bounded())


class Federation:
    """A server, sites, and maybe relays, linked over this machine's loopback."""

    def __init__(self, stack: AsyncExitStack, folder: Path, busy_s: float = 0.0) -> None:
        self._stack = stack
        self._folder = folder
        self._blobs = Blobs()
        self._slots = asyncio.Semaphore(len(SITES))
        self._over = asyncio.Event()
        self.ledger = Ledger()
        self.events: list[RunEvent] = []
        self.systems: dict[str, System] = {}
        self._manner = Manner(7, SITES, (0.0, busy_s), frozenset(), 0.0, (), False, False)

    async def serve(self) -> System:
        """Start the server."""
        system = System("server", registry=self._registry(), listen="127.0.0.1:0")
        self.systems["server"] = await self._stack.enter_async_context(system)
        await system.spawn(Server, name="server")
        return system

    async def relay(self, name: str, above: System) -> System:
        """Start a relay."""
        url = f"covey+plain://127.0.0.1:{above.port}"
        system = relay_system(name, connect=url, listen="127.0.0.1:0")
        self.systems[name] = await self._stack.enter_async_context(system)
        await system.spawn(Relay, name=ACTOR)
        return system

    async def enrol(self, site: str, above: System, scheme: str = "covey+plain") -> None:
        """Start a site that dials by a scheme."""
        url = f"{scheme}://127.0.0.1:{above.port}"
        system = System(site, registry=self._registry(), connect=url)
        self.systems[site] = await self._stack.enter_async_context(system)
        server = system.lookup("server/server", Server)
        settings = partial(self._settings, site)
        await system.spawn(lambda: Site(site, server, settings), name="site")

    async def train(self) -> bytes:
        """Train; the final model's bytes."""
        server = self.systems["server"].lookup("server/server", Server)
        while True:
            try:
                await server.ask(RunJob(self._plan()))
                break
            except Rejected:  # not all sites have registered
                await asyncio.sleep(0.01)
        await self._over.wait()
        return (self._folder / MODEL).read_bytes()

    def _registry(self) -> Registry:
        registry = Registry(*runtime_messages(), *role_messages(), *relay_messages())
        registry.freeze()
        return registry

    def _settings(self, site: str, job: str) -> TrainerSettings:
        async def start(on_metric: OnMetric) -> Script:
            return ArithmeticScript(site, self._manner, self.ledger, on_metric)

        return TrainerSettings(site=site, start=start, blobs=self._blobs, slots=self._slots)

    def _plan(self) -> JobPlan:
        checkpoint = Checkpoint(self._folder)
        checkpoint.path(0).write_bytes(blob_of(beginning(len(SITES))))
        progress = Progress(BestModel("round", "max"))
        checkpoint.commit(0, progress.state())
        return JobPlan(
            id="job",
            name="over-sockets",
            sites=SITES,
            minimum=len(SITES),
            rounds=ROUNDS,
            rule=FedAvg(),
            layout=layout(len(SITES)),
            blobs=self._blobs,
            checkpoint=checkpoint,
            version=0,
            progress=progress,
            record=self._record,
            crashed=lambda detail: self._over.set(),
            training=SynchronousTraining,
        )

    def _record(self, event: RunEvent) -> None:
        self.events.append(event)
        if event.kind is EventKind.RUN_FINISHED:
            self._over.set()

    def check(self, model: bytes) -> None:
        """Every update has counted once, and nobody was given up."""
        assert model == EXPECTED
        assert [e for e in self.events if e.kind is EventKind.SITE_FAILED] == []

    def cut(self, rng: random.Random) -> None:
        """Break one connection somewhere."""
        links = [
            link
            for system in self.systems.values()
            for link in system.border.links.values()
            if getattr(link, "connection", None) is not None
        ]
        if links:
            link: Any = rng.choice(links)
            link.connection.break_off("cut by the test")


@pytest.mark.parametrize("schemes", [("covey+plain",), ("ws",), ("http", "ws", "covey+plain")])
def test_every_door_leads_to_the_same_model(schemes: tuple[str, ...]) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with AsyncExitStack() as stack:
                federation = Federation(stack, Path(folder))
                server = await federation.serve()
                for number, site in enumerate(SITES):
                    await federation.enrol(site, server, schemes[number % len(schemes)])
                federation.check(await federation.train())

    run(main())


def test_a_tree_of_relays_leads_to_the_same_model() -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with AsyncExitStack() as stack:
                federation = Federation(stack, Path(folder))
                server = await federation.serve()
                upper = await federation.relay("relay-1", server)
                lower = await federation.relay("relay-2", upper)
                for site, above in zip(SITES, (server, upper, lower, lower), strict=True):
                    await federation.enrol(site, above)
                federation.check(await federation.train())

    run(main())


def test_connections_that_break_all_the_time_lead_to_the_same_model() -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with AsyncExitStack() as stack:
                federation = Federation(stack, Path(folder), busy_s=0.05)
                server = await federation.serve()
                upper = await federation.relay("relay-1", server)
                for site, above in zip(SITES, (server, server, upper, upper), strict=True):
                    await federation.enrol(site, above)
                training = asyncio.ensure_future(federation.train())
                rng, cuts = random.Random(11), 0
                while not training.done():
                    await asyncio.wait([training], timeout=rng.uniform(0.02, 0.1))
                    federation.cut(rng)
                    cuts += 1
                federation.check(await training)
                assert cuts >= 3

    run(main())
