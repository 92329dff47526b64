"""The buffered aggregator: every lease counts once, and every full buffer makes a version."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covey.actors.downloads.blobs import Blob, BlobRef, Blobs
from covey.actors.jobs.checkpoint import Checkpoint
from covey.actors.roles import buffering
from covey.actors.roles.buffering import (
    REMEMBERED,
    TOLD,
    Adding,
    BufferedAggregator,
    BufferPlan,
    Intake,
)
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
from covey.actors.runtime import Ref, Rejected, RemoteError, Restart, System
from covey.actors.runtime.testing import simulate
from covey.algorithms import SGD, Adam, Addend, Buffer, FedAsync, FedBuff, Tally
from covey.algorithms.tensors import Layout, Packer, load_initial

MODEL: dict[str, Any] = {"w": np.zeros(4, np.float32), "b": np.zeros(2, np.float64)}


@pytest.fixture(params=["inline", "in threads"])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Updates are added, and versions made, as for a small model and as for a large one."""
    if request.param == "in threads":
        monkeypatch.setattr(buffering, "INLINE_BYTES", 0)
    return str(request.param)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a large model."""
    monkeypatch.setattr(buffering, "INLINE_BYTES", 0)


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


def trial(
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


# Updates ---------------------------------------------------------------------


def test_a_full_buffer_makes_a_version_of_the_mean(tmp_path: Path, where: str) -> None:
    async def test(bench: Bench) -> None:
        assert await bench.send(bench.leased(1.0)) == Filled((Entered("accepted"),), 0, 1)
        second = await bench.send(bench.leased(3.0))
        assert (second.entered, second.version, second.room) == ((Entered("accepted"),), 1, 2)
        assert len(second.made) == (where == "inline")
        (version,) = await bench.versions(1)
        assert (version.version, version.stalenesses, version.lost) == (1, (0, 0), 0)
        assert bench.value(version) == 2.0
        assert 0.0 <= version.seconds < 60.0
        assert second.made in ((), (version,))

    trial(tmp_path, test)


def test_updates_that_come_together_count_as_one_by_one(tmp_path: Path, where: str) -> None:
    async def test(bench: Bench) -> None:
        filled = await bench.send(*[bench.leased(value) for value in (1.0, 3.0, 5.0, 7.0, 9.0)])
        assert [entered.verdict for entered in filled.entered] == ["accepted"] * 5
        flushed = await bench.flush()
        made = flushed.made
        assert sum(len(version.stalenesses) for version in made) == 5
        assert [version.version for version in made] == list(range(1, len(made) + 1))
        if where == "inline":
            assert [bench.value(version) for version in made] == [2.0, 8.0, 17.0]
            assert (filled.version, filled.room, filled.made) == (2, 1, made[:2])

    trial(tmp_path, test)


def test_each_version_goes_on_from_the_last(tmp_path: Path, where: str) -> None:
    async def test(bench: Bench) -> None:
        for value in (1.0, 1.0, 5.0, 7.0):
            await bench.fill(value)
        one, two = await bench.versions(2)
        assert (bench.value(one), bench.value(two)) == (1.0, 7.0)
        assert two.stalenesses == (1, 1)

    trial(tmp_path, test)


def test_a_lease_counts_once(tmp_path: Path, where: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.fill(1.0, lease=7)
        assert await bench.fill(9.0, lease=7) == Entered("duplicate")
        await bench.fill(3.0, lease=8)
        (version,) = await bench.versions(1)
        assert bench.value(version) == 2.0
        await bench.fill(1.0, lease=9)
        # Nor in a later version, and what it had been worth is told again.
        assert await bench.fill(9.0, version=1, lease=9) == Entered("duplicate", staleness=1)
        assert (await bench.flush(known=1, drop=True)).updates == 1
        assert (await bench.flush(number=2)).updates == 0

    trial(tmp_path, test)


def test_the_leases_that_counted_last_are_remembered(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        update = bench.update(1.0)
        for first in range(0, REMEMBERED, 64):
            leased = [Leased("site", first + number, 0, update) for number in range(64)]
            await bench.send(*leased)
        assert (await bench.fill(1.0, lease=0)).verdict == "duplicate"
        assert (await bench.fill(1.0, lease=REMEMBERED)).verdict == "accepted"
        assert (await bench.fill(1.0, lease=1)).verdict == "duplicate"
        assert len(bench.intake.counted) == REMEMBERED

    trial(tmp_path, test, size=10**6)


def test_staleness_is_how_many_versions_were_begun_since(tmp_path: Path, where: str) -> None:
    async def test(bench: Bench) -> None:
        for value in (1.0, 1.0):
            await bench.fill(value)
        assert (await bench.fill(1.0, version=0)).staleness == 1
        assert (await bench.fill(1.0, version=1)).staleness == 0
        (_, version) = await bench.versions(2)
        assert version.stalenesses == (1, 0)

    trial(tmp_path, test)


def test_an_update_that_is_too_stale_leaves_no_trace(tmp_path: Path, where: str) -> None:
    async def test(bench: Bench) -> None:
        for value in (1.0, 1.0):
            await bench.fill(value)
        stale = await bench.fill(9.0, version=0, lease=50)
        assert (stale.verdict, stale.staleness) == ("stale", 1)
        assert stale.text
        assert (await bench.fill(1.0, version=1, lease=50)).verdict == "accepted"
        flushed = await bench.flush(known=1)
        assert (flushed.updates, [bench.value(made) for made in flushed.made]) == (1, [2.0])

    trial(tmp_path, test, rule=FedBuff(staleness="constant", max_staleness=0))


def test_an_update_that_does_not_fit_leaves_no_trace(tmp_path: Path, where: str) -> None:
    async def test(bench: Bench) -> None:
        gone = bench.update(1.0)
        infinite = bytearray(Packer(bench.plan.layout).pack(MODEL))
        infinite[-4:] = np.float32(np.inf).tobytes()
        assert gone.tensors is not None
        bench.plan.blobs.release(gone.tensors.rid)
        for update in (
            Update(None),
            gone,
            bench.of_bytes(infinite),
            bench.update(1.0, weight=-1.0),
            bench.of_bytes(b""),
        ):
            (refused,) = (await bench.send(Leased("site-1", 1, 0, update))).entered
            assert (refused.verdict, refused.staleness) == ("refused", 0)
            assert refused.text
        for value in (1.0, 3.0):  # under the same lease, too
            assert (await bench.fill(value)).verdict == "accepted"
        (version,) = await bench.versions(1)
        assert (bench.value(version), version.lost) == (2.0, 0)

    trial(tmp_path, test)


def test_a_staleness_that_gives_no_weight_is_the_rules_fault(tmp_path: Path, where: str) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(Rejected) as rejected:
            await bench.fill(1.0)
        assert rejected.value.code == "staleness"
        assert bench.system.statistics().actors[0].failures == 0

    trial(tmp_path, test, rule=FedBuff(staleness=lambda tau: -1.0))


def test_after_the_last_version_updates_are_late(tmp_path: Path, where: str) -> None:
    async def test(bench: Bench) -> None:
        for value in (1.0, 3.0):
            await bench.fill(value)
        late = await bench.send(bench.leased(9.0))
        assert (late.entered[0].verdict, late.version, late.made) == ("late", 1, ())
        assert late.entered[0].text
        flushed = await bench.flush()
        assert (flushed.updates, [made.version for made in flushed.made]) == (0, [1])
        assert await bench.flush(number=2, known=1, last=True) == Flushed(0)

    trial(tmp_path, test, last=1)


def test_a_rule_that_takes_one_update_at_a_time_gets_one(tmp_path: Path, where: str) -> None:
    async def test(bench: Bench) -> None:
        filled = [bench.send(bench.leased(1.0)) for _ in range(3)]
        entered = [each.entered[0].staleness for each in await asyncio.gather(*filled)]
        assert entered == [0, 1, 2]
        versions = await bench.versions(3)
        assert [version.stalenesses for version in versions] == [(0,), (1,), (2,)]
        assert [bench.value(version) for version in versions] == [0.5, 0.75, 0.875]

    trial(tmp_path, test, size=1, rule=FedAsync(alpha=0.5, staleness="constant"))


@pytest.mark.usefixtures("threads")
def test_a_rule_that_takes_one_update_at_a_time_waits_for_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, buffering, "apply")

    async def test(bench: Bench) -> None:
        filled = [bench.send(bench.leased(1.0)) for _ in range(3)]
        await gate.reached()
        for _ in range(10):
            await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(*filled)
        versions = await bench.versions(3)
        assert [version.stalenesses for version in versions] == [(0,), (1,), (2,)]

    trial(tmp_path, test, size=1, rule=FedAsync(alpha=0.5, staleness="constant"))


@pytest.mark.usefixtures("threads")
def test_what_comes_while_a_version_is_made_makes_the_next_one(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        filled = await asyncio.gather(*(bench.send(bench.leased(1.0)) for _ in range(7)))
        assert [each.version for each in filled][:2] == [0, 1]
        flushed = await bench.flush(number=1)
        total = sum(len(made.stalenesses) for made in flushed.made)
        assert total == 7
        assert [made.version for made in flushed.made] == list(range(1, len(flushed.made) + 1))
        assert bench.value(flushed.made[-1]) == float(len(flushed.made))

    trial(tmp_path, test)


# Versions by the clock, and flushes ---------------------------------------------


def test_by_the_clock_a_version_is_made_of_whatever_is_there(tmp_path: Path, where: str) -> None:
    async def test(bench: Bench) -> None:
        await asyncio.sleep(4)  # there was nothing at 3
        assert bench.intake.version == 0
        await bench.fill(2.0)
        await asyncio.sleep(1.9)
        assert bench.intake.version == 0
        (version,) = await bench.versions(1)
        assert asyncio.get_running_loop().time() == 6.0
        assert (bench.value(version), version.stalenesses) == (2.0, (0,))

    trial(tmp_path, test, size=1000, period_s=3.0)


def test_a_flush_makes_a_version_of_what_is_there(tmp_path: Path, where: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.fill(2.0)
        flushed = await bench.flush()
        assert (flushed.updates, [bench.value(made) for made in flushed.made]) == (1, [2.0])
        assert bench.intake.version == 1
        # Nothing is there any more, and the versions that are known are not told again.
        assert await bench.flush(number=2, known=1) == Flushed(0)
        assert (await bench.fill(4.0, version=1)).staleness == 0

    trial(tmp_path, test)


def test_a_flush_that_is_sent_again_is_answered_as_before(tmp_path: Path, where: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.fill(2.0)
        first = await bench.flush()
        await bench.fill(4.0, version=1)
        assert await bench.flush() == first
        assert bench.intake.version == 1
        assert (await bench.flush(number=2)).updates == 1

    trial(tmp_path, test)


def test_what_is_dropped_is_in_no_version(tmp_path: Path, where: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.fill(9.0)
        assert await bench.flush(drop=True) == Flushed(1)
        assert bench.intake.version == 0
        for value in (1.0, 3.0):
            await bench.fill(value)
        (version,) = await bench.versions(1)
        assert (bench.value(version), version.stalenesses, version.lost) == (2.0, (0, 0), 0)

    trial(tmp_path, test)


@pytest.mark.parametrize("drop", [False, True])
def test_after_the_last_flush_nothing_is_taken(tmp_path: Path, where: str, drop: bool) -> None:
    async def test(bench: Bench) -> None:
        assert (await bench.flush(drop=drop)).updates == 0
        assert (await bench.fill(2.0)).verdict == "accepted"
        flushed = await bench.flush(number=2, last=True, drop=drop)
        assert (flushed.updates, len(flushed.made)) == (1, not drop)
        assert (await bench.fill(2.0)).verdict == "late"
        # Another flush does not open it again.
        assert await bench.flush(number=3, known=1, drop=drop) == Flushed(0)
        assert (await bench.fill(2.0)).verdict == "late"

    trial(tmp_path, test)


@pytest.mark.usefixtures("threads")
def test_a_flush_waits_for_the_version_that_is_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, buffering, "apply")

    async def test(bench: Bench) -> None:
        await bench.send(*[bench.leased(value) for value in (1.0, 1.0, 5.0)])
        flushing = asyncio.ensure_future(bench.flush())
        await gate.reached()
        for _ in range(10):
            await asyncio.sleep(0)
        gate.open.set()
        flushed = await flushing
        assert [made.version for made in flushed.made] == [1, 2]
        assert [bench.value(made) for made in flushed.made] == [1.0, 6.0]

    trial(tmp_path, test)


# News ------------------------------------------------------------------------


def test_followers_hear_of_every_version_from_where_they_were(tmp_path: Path, where: str) -> None:
    async def test(bench: Bench) -> None:
        followers = [asyncio.ensure_future(bench.versions(3, known)) for known in (0, 1, 2)]
        for _ in range(6):
            await bench.fill(1.0)
            await asyncio.sleep(1)
        heard = [[version.version for version in await each] for each in followers]
        assert heard == [[1, 2, 3], [2, 3], [3]]
        # And so does who comes back later, of the latest.
        assert [version.version for version in await bench.versions(3, 1)] == [2, 3]

    trial(tmp_path, test)


def test_the_latest_versions_are_kept_for_who_comes_back(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        for _ in range(TOLD + 3):
            await bench.fill(0.0)
        kept = await bench.versions(TOLD + 3)
        assert [version.version for version in kept] == list(range(4, TOLD + 4))

    trial(tmp_path, test, size=1)


# What goes wrong -----------------------------------------------------------------


def test_a_crash_loses_nothing_that_counted(tmp_path: Path, where: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.fill(1.0, lease=1)
        await bench.crash()
        assert (await bench.fill(9.0, lease=1)).verdict == "duplicate"
        await bench.fill(3.0, lease=2)
        (version,) = await bench.versions(1)
        assert (bench.value(version), version.lost) == (2.0, 0)
        await bench.crash()
        assert [each.version for each in await bench.versions(1)] == [1]

    trial(tmp_path, test)


def test_after_a_crash_the_clock_goes_on(tmp_path: Path, where: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.crash()
        await bench.fill(1.0)
        assert bench.value((await bench.versions(1))[0]) == 1.0

    trial(tmp_path, test, size=1000, period_s=3.0)


def test_a_full_buffer_that_a_crash_left_makes_a_version(tmp_path: Path, where: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.fill(2.0)
        # As where it crashed when an update had counted and before its version was begun.
        tensors = bench.update(4.0).tensors
        assert tensors is not None
        addend = Addend(bench.plan.blobs.open(tensors.rid).buffer, 1.0)
        bench.intake.buffer.add_all([addend])
        bench.intake.count(Adding([99], [addend]))
        await bench.crash()
        assert bench.value((await bench.versions(1))[0]) == 3.0

    trial(tmp_path, test)


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


@pytest.mark.usefixtures("threads")
def test_an_update_sent_again_while_it_is_being_added_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, Buffer, "add_all")

    async def test(bench: Bench) -> None:
        asked = bench.send(bench.leased(3.0, lease=1))
        await gate.reached()
        asked.cancel()  # as does a deadline
        again = bench.send(bench.leased(3.0, lease=1))
        await asyncio.sleep(0)
        gate.open.set()
        assert (await again).entered[0].verdict == "duplicate"
        assert gate.calls == 1
        flushed = await bench.flush()
        assert (flushed.updates, [bench.value(made) for made in flushed.made]) == (1, [3.0])

    trial(tmp_path, test)


@pytest.mark.usefixtures("threads")
def test_a_flush_waits_for_an_addition_that_nobody_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, Buffer, "add_all")

    async def test(bench: Bench) -> None:
        asked = bench.send(bench.leased(3.0))
        await gate.reached()
        asked.cancel()
        flushing = asyncio.ensure_future(bench.flush())
        await asyncio.sleep(0)
        gate.open.set()
        flushed = await flushing
        assert (flushed.updates, [bench.value(made) for made in flushed.made]) == (1, [3.0])

    trial(tmp_path, test)


@pytest.mark.usefixtures("threads")
def test_an_addition_goes_on_over_a_crash_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, Buffer, "add_all")

    async def test(bench: Bench) -> None:
        asked = bench.send(bench.leased(3.0, lease=1))
        await gate.reached()
        asked.cancel()
        await gate.open_during(bench.crash())
        again = bench.send(bench.leased(3.0, lease=1), bench.leased(5.0))
        assert [each.verdict for each in (await again).entered] == ["duplicate", "accepted"]
        (version,) = await bench.versions(1)
        assert (bench.value(version), version.lost) == (4.0, 0)

    trial(tmp_path, test)


@pytest.mark.usefixtures("threads")
def test_an_addition_that_goes_on_over_a_crash_makes_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, Buffer, "add_all")

    async def test(bench: Bench) -> None:
        asked = bench.send(bench.leased(3.0))
        await gate.reached()
        asked.cancel()
        await gate.open_during(bench.crash())
        assert [version.version for version in await bench.versions(1)] == [1]

    trial(tmp_path, test, size=1)


@pytest.mark.usefixtures("threads")
def test_a_step_by_the_clock_waits_for_an_addition_that_nobody_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, Buffer, "add_all")

    async def test(bench: Bench) -> None:
        asked = bench.send(bench.leased(3.0))
        await gate.reached()
        asked.cancel()
        bench.ref.tell(buffering.StepDue())
        await asyncio.sleep(0)
        gate.open.set()
        (version,) = await bench.versions(1)
        assert (bench.value(version), version.stalenesses) == (3.0, (0,))

    trial(tmp_path, test)


@pytest.mark.usefixtures("threads")
def test_the_next_version_waits_for_an_addition_that_nobody_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    making, adding = Gate(monkeypatch, buffering, "apply"), Gate(monkeypatch, Buffer, "add_all")
    adding.open.set()

    async def test(bench: Bench) -> None:
        for value in (1.0, 1.0, 2.0, 3.0):
            await bench.fill(value)
        adding.open.clear()
        adding.entered.clear()
        asked = bench.send(bench.leased(4.0))
        await adding.reached()
        asked.cancel()
        making.open.set()
        assert bench.intake.making is not None
        await asyncio.wait([bench.intake.making])
        for _ in range(10):
            await asyncio.sleep(0)
        adding.open.set()
        _, version = await bench.versions(2)
        assert (bench.value(version), len(version.stalenesses)) == (4.0, 3)

    trial(tmp_path, test)


@pytest.mark.usefixtures("threads")
def test_an_addition_that_nobody_waits_for_makes_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, Buffer, "add_all")

    async def test(bench: Bench) -> None:
        asked = bench.send(bench.leased(1.0, lease=1))
        await gate.reached()
        asked.cancel()
        again = bench.send(bench.leased(1.0, lease=1))
        gate.open.set()
        assert (await again).entered[0].verdict == "duplicate"
        assert [version.version for version in await bench.versions(1)] == [1]

    trial(tmp_path, test, size=1)


def test_a_sum_that_an_error_broke_is_lost_and_that_is_told(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_all = Buffer.add_all

    def broken(buffer: Buffer, addends: Sequence[Addend]) -> None:
        if addends[0].staleness == 1:
            raise MemoryError
        add_all(buffer, addends)

    monkeypatch.setattr(Buffer, "add_all", broken)

    async def test(bench: Bench) -> None:
        for value in (1.0, 3.0):
            await bench.fill(value)
        await bench.fill(9.0, version=1)
        with pytest.raises(RemoteError, match="MemoryError"):
            await bench.fill(9.0, version=0, lease=50)
        for value in (1.0, 3.0):
            assert (await bench.fill(value, version=1)).verdict == "accepted"
        (version,) = await bench.versions(2, known=1)
        assert (bench.value(version), version.stalenesses, version.lost) == (4.0, (0, 0), 1)
        # It is told once.
        await bench.fill(1.0, version=2)
        assert (await bench.flush(known=2)).made[0].lost == 0

    trial(tmp_path, test)


@pytest.mark.usefixtures("threads")
def test_a_version_that_is_being_made_is_made_over_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, buffering, "apply")

    async def test(bench: Bench) -> None:
        for value in (1.0, 3.0, 5.0, 7.0):
            await bench.fill(value)
        await gate.reached()
        await gate.open_during(bench.crash())
        one, two = await bench.versions(2)
        assert (bench.value(one), bench.value(two)) == (2.0, 8.0)
        assert gate.calls == 2

    trial(tmp_path, test)


@pytest.mark.usefixtures("threads")
def test_what_comes_while_the_last_version_is_made_is_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, buffering, "apply")

    async def test(bench: Bench) -> None:
        for value in (1.0, 3.0):
            await bench.fill(value)
        assert (await bench.fill(5.0)).verdict == "late"
        gate.open.set()
        assert [version.version for version in await bench.versions(1)] == [1]

    trial(tmp_path, test, last=1)


class Faulty(FedBuff):
    """A rule of somebody's own."""

    def scale(self, tally: Tally) -> float:
        raise ZeroDivisionError("mine")


@pytest.mark.parametrize(
    ("rule", "value", "text"),
    [
        (None, 1.0, r"cannot write .*model-1\.safetensors: Is a directory"),
        (FedBuff(optimizer=SGD(1e30), staleness="constant"), 1e30, "'w'"),
        (Faulty(), 1.0, "making version 1 raised ZeroDivisionError: mine"),
    ],
    ids=["disk", "numbers", "rule"],
)
def test_why_there_is_no_version_is_told(
    tmp_path: Path, where: str, rule: Any, value: float, text: str
) -> None:
    async def test(bench: Bench) -> None:
        if rule is None:
            (tmp_path / "checkpoint" / "model-1.partial").mkdir()
        for _ in range(2):
            await bench.fill(value)
        (version,) = await bench.versions(1)
        assert re.search(text, version.error)
        assert (version.model, version.stalenesses) == (BlobRef(b"", 0), (0, 0))
        # It has been heard of, and whoever asks hears no other reason.
        assert [made.error for made in (await bench.flush()).made] == [version.error]
        await bench.fill(1.0)
        assert (await bench.flush(number=2, known=1)).updates == 1

    trial(tmp_path, test, rule=rule)


def test_a_run_goes_on_with_what_its_optimizer_kept(tmp_path: Path, where: str) -> None:
    async def test(bench: Bench) -> None:
        for value in (1.0, 3.0):
            await bench.fill(value)
        (version,) = await bench.versions(1)
        again = Intake(bench.plan, 1)
        assert (again.version, again.steps) == (1, 1)
        assert bytes(again.old) == bytes(bench.plan.blobs.open(version.model.rid).buffer)
        assert again.state.keys() == bench.intake.state.keys()
        for name, array in bench.intake.state.items():
            assert array.any()
            np.testing.assert_array_equal(again.state[name], array)

    trial(tmp_path, test, rule=FedBuff(optimizer=Adam(0.1), staleness="constant"))
