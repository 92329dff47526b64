"""The buffered aggregator while a thread adds or makes a version: what comes then counts once."""

from __future__ import annotations

import asyncio

import pytest

from covey.actors.roles import buffering
from covey.algorithms import FedAsync

from .buffered import Bench, Gate, Trial


def test_a_rule_that_takes_one_update_at_a_time_waits_for_its_version(
    trial: Trial, making: Gate
) -> None:
    async def test(bench: Bench) -> None:
        filled = [bench.send(bench.leased(1.0)) for _ in range(3)]
        await making.reached()
        for _ in range(10):
            await asyncio.sleep(0)
        making.open.set()
        await asyncio.gather(*filled)
        versions = await bench.versions(3)
        assert [version.stalenesses for version in versions] == [(0,), (1,), (2,)]

    trial(test, size=1, rule=FedAsync(alpha=0.5, staleness="constant"))


@pytest.mark.usefixtures("threads")
def test_what_comes_while_a_version_is_made_makes_the_next_one(trial: Trial) -> None:
    async def test(bench: Bench) -> None:
        filled = await asyncio.gather(*(bench.send(bench.leased(1.0)) for _ in range(7)))
        assert [each.version for each in filled][:2] == [0, 1]
        flushed = await bench.flush(number=1)
        total = sum(len(made.stalenesses) for made in flushed.made)
        assert total == 7
        assert [made.version for made in flushed.made] == list(range(1, len(flushed.made) + 1))
        assert bench.value(flushed.made[-1]) == float(len(flushed.made))

    trial(test)


def test_a_flush_waits_for_the_version_that_is_being_made(trial: Trial, making: Gate) -> None:
    async def test(bench: Bench) -> None:
        await bench.send(*[bench.leased(value) for value in (1.0, 1.0, 5.0)])
        flushing = asyncio.ensure_future(bench.flush())
        await making.reached()
        for _ in range(10):
            await asyncio.sleep(0)
        making.open.set()
        flushed = await flushing
        assert [made.version for made in flushed.made] == [1, 2]
        assert [bench.value(made) for made in flushed.made] == [1.0, 6.0]

    trial(test)


def test_an_update_sent_again_while_it_is_being_added_counts_once(
    trial: Trial, adding: Gate
) -> None:
    async def test(bench: Bench) -> None:
        asked = bench.send(bench.leased(3.0, lease=1))
        await adding.reached()
        asked.cancel()  # as does a deadline
        again = bench.send(bench.leased(3.0, lease=1))
        await asyncio.sleep(0)
        adding.open.set()
        assert (await again).entered[0].verdict == "duplicate"
        assert adding.calls == 1
        flushed = await bench.flush()
        assert (flushed.updates, [bench.value(made) for made in flushed.made]) == (1, [3.0])

    trial(test)


def test_a_flush_waits_for_an_addition_that_nobody_waits_for(trial: Trial, adding: Gate) -> None:
    async def test(bench: Bench) -> None:
        asked = bench.send(bench.leased(3.0))
        await adding.reached()
        asked.cancel()
        flushing = asyncio.ensure_future(bench.flush())
        await asyncio.sleep(0)
        adding.open.set()
        flushed = await flushing
        assert (flushed.updates, [bench.value(made) for made in flushed.made]) == (1, [3.0])

    trial(test)


def test_a_step_by_the_clock_waits_for_an_addition_that_nobody_waits_for(
    trial: Trial, adding: Gate
) -> None:
    async def test(bench: Bench) -> None:
        asked = bench.send(bench.leased(3.0))
        await adding.reached()
        asked.cancel()
        bench.ref.tell(buffering.StepDue())
        await asyncio.sleep(0)
        adding.open.set()
        (version,) = await bench.versions(1)
        assert (bench.value(version), version.stalenesses) == (3.0, (0,))

    trial(test)


def test_the_next_version_waits_for_an_addition_that_nobody_waits_for(
    trial: Trial, making: Gate, adding: Gate
) -> None:
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

    trial(test)


def test_an_addition_that_nobody_waits_for_makes_its_version(trial: Trial, adding: Gate) -> None:
    async def test(bench: Bench) -> None:
        asked = bench.send(bench.leased(1.0, lease=1))
        await adding.reached()
        asked.cancel()
        again = bench.send(bench.leased(1.0, lease=1))
        adding.open.set()
        assert (await again).entered[0].verdict == "duplicate"
        assert [version.version for version in await bench.versions(1)] == [1]

    trial(test, size=1)


def test_what_comes_while_the_last_version_is_made_is_late(trial: Trial, making: Gate) -> None:
    async def test(bench: Bench) -> None:
        for value in (1.0, 3.0):
            await bench.fill(value)
        assert (await bench.fill(5.0)).verdict == "late"
        making.open.set()
        assert [version.version for version in await bench.versions(1)] == [1]

    trial(test, last=1)
