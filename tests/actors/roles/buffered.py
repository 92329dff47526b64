"""What the tests of the buffered aggregator share: a bench with one, and gates for its threads.

Here: starting an aggregator by itself, updates for it, what its versions hold, and holding up the
functions that it runs in threads. Not here: any test, nor fixtures (`conftest.py`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from covey.actors.downloads.blobs import Blob, BlobRef, Blobs
from covey.actors.jobs.checkpoint import Checkpoint
from covey.actors.roles.buffering import BufferedAggregator, BufferPlan, Intake
from covey.actors.roles.messages import (
    Advanced,
    Entered,
    Fill,
    Filled,
    Flush,
    Flushed,
    Follow,
    Leased,
    Update,
)
from covey.actors.runtime import Ref, Restart, System
from covey.actors.runtime.testing import simulate
from covey.algorithms import FedBuff
from covey.algorithms.tensors import Layout, Packer, load_initial

MODEL: dict[str, Any] = {"w": np.zeros(4, np.float32), "b": np.zeros(2, np.float64)}


class Bench:
    """An aggregator at version 0, whose model is zero everywhere, and updates for it."""

    def __init__(self, system: System, plan: BufferPlan, intake: Intake) -> None:
        self.system = system
        self.plan = plan
        self.intake = intake
        self.ref: Ref[BufferedAggregator]
        self.leases = 0

    def update(self, value: float, weight: float = 1.0) -> Update:
        state = {name: np.full_like(array, value) for name, array in MODEL.items()}
        return self.of_bytes(Packer(Layout.of(state)).pack(state), weight)

    def of_bytes(self, data: bytes | bytearray, weight: float = 1.0) -> Update:
        blob = Blob.of_bytes(data)
        kind: Any = str(self.plan.rule.params_type)
        return Update(BlobRef(self.plan.blobs.register(blob), blob.size), kind, weight)

    def leased(self, value: float, version: int = 0, lease: int | None = None) -> Leased:
        """An update, under a lease of its own."""
        self.leases += 1
        number = self.leases if lease is None else lease
        return Leased(f"site-{number}", number, version, self.update(value))

    def send(self, *updates: Leased) -> asyncio.Future[Filled]:
        return self.ref.ask(Fill(updates))

    async def fill(self, value: float, version: int = 0, lease: int | None = None) -> Entered:
        """Send one update and hear what became of it."""
        (entered,) = (await self.send(self.leased(value, version, lease))).entered
        return entered

    async def flush(self, number: int = 1, known: int = 0, **how: bool) -> Flushed:
        return await self.ref.ask(Flush(number, known, **how))

    async def versions(self, upto: int, known: int = 0) -> list[Advanced]:
        """The versions after the one that is known, as they are heard of."""
        heard: list[Advanced] = []
        async with self.ref.stream(Follow(known)) as news:
            async for advanced in news:
                heard.append(advanced)
                if advanced.version >= upto:
                    return heard
        raise AssertionError

    def value(self, advanced: Advanced) -> float:
        """What all numbers of a version are."""
        assert not advanced.error
        blob = bytearray(self.plan.blobs.open(advanced.model.rid).buffer)
        model: Any = Packer(self.plan.layout).unpack(blob)
        values = {float(value) for array in model.values() for value in array}
        assert len(values) == 1
        return values.pop()

    async def crash(self) -> None:
        """End the present life."""
        cell = self.system.cells["aggregator"]
        generation = cell.generation
        cell.crash(RuntimeError("drawn"))
        await asyncio.sleep(1)
        assert cell.generation == generation + 1


class Trial(Protocol):
    """Runs a test with an aggregator whose files are in a folder of the test's own."""

    def __call__(
        self,
        test: Callable[[Bench], Awaitable[None]],
        *,
        rule: Any = None,
        size: int = 2,
        last: int = 100,
        period_s: float | None = None,
    ) -> None:
        """As `try_in`."""


def try_in(
    folder: Path,
    test: Callable[[Bench], Awaitable[None]],
    *,
    rule: Any = None,
    size: int = 2,
    last: int = 100,
    period_s: float | None = None,
) -> None:
    """Run `test` with an aggregator."""
    initial = load_initial(MODEL)
    checkpoint, blobs = Checkpoint(folder), Blobs()
    with checkpoint.writing(0) as fd:
        initial.write(fd)
    rule = rule or FedBuff(staleness="constant")
    plan = BufferPlan(rule, size, period_s, last, initial.layout, blobs, checkpoint)

    async def main() -> None:
        intake = Intake(plan, 0)
        async with System("server") as system:
            bench = Bench(system, plan, intake)
            bench.ref = await system.spawn(
                lambda: BufferedAggregator(plan, intake), name="aggregator", restart=Restart(9)
            )
            await test(bench)

    simulate(main)


class Gate:
    """Holds a function up, in its thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.entered, self.open, self.calls = threading.Event(), threading.Event(), 0
        function = getattr(owner, name)

        def held(*given: Any, **named: Any) -> Any:
            self.calls += 1
            self.entered.set()
            assert self.open.wait(60)
            return function(*given, **named)

        monkeypatch.setattr(owner, name, held)

    async def reached(self) -> None:
        """Wait for the first to begin."""
        await asyncio.to_thread(self.entered.wait, 60)

    async def open_during(self, crash: Awaitable[None]) -> None:
        """Open when a life is over; no virtual time passes before."""
        crashing = asyncio.ensure_future(crash)
        for _ in range(10):
            await asyncio.sleep(0)
        self.open.set()
        await crashing
