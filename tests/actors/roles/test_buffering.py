"""The buffered aggregator: every lease counts once, and every full buffer makes a version."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from covey.actors.roles.buffering import REMEMBERED, TOLD
from covey.actors.roles.messages import Entered, Filled, Flushed, Leased, Update
from covey.actors.runtime import Rejected
from covey.algorithms import FedAsync, FedBuff
from covey.algorithms.tensors import Packer

from .buffered import MODEL, Bench, Trial

# Updates ---------------------------------------------------------------------


def test_a_full_buffer_makes_a_version_of_the_mean(trial: Trial, where: str) -> None:
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

    trial(test)


def test_updates_that_come_together_count_as_one_by_one(trial: Trial, where: str) -> None:
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

    trial(test)


def test_each_version_goes_on_from_the_last(trial: Trial, where: str) -> None:
    async def test(bench: Bench) -> None:
        for value in (1.0, 1.0, 5.0, 7.0):
            await bench.fill(value)
        one, two = await bench.versions(2)
        assert (bench.value(one), bench.value(two)) == (1.0, 7.0)
        assert two.stalenesses == (1, 1)

    trial(test)


def test_a_lease_counts_once(trial: Trial, where: str) -> None:
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

    trial(test)


def test_the_leases_that_counted_last_are_remembered(trial: Trial) -> None:
    async def test(bench: Bench) -> None:
        update = bench.update(1.0)
        for first in range(0, REMEMBERED, 64):
            leased = [Leased("site", first + number, 0, update) for number in range(64)]
            await bench.send(*leased)
        assert (await bench.fill(1.0, lease=0)).verdict == "duplicate"
        assert (await bench.fill(1.0, lease=REMEMBERED)).verdict == "accepted"
        assert (await bench.fill(1.0, lease=1)).verdict == "duplicate"
        assert len(bench.intake.counted) == REMEMBERED

    trial(test, size=10**6)


def test_staleness_is_how_many_versions_were_begun_since(trial: Trial, where: str) -> None:
    async def test(bench: Bench) -> None:
        for value in (1.0, 1.0):
            await bench.fill(value)
        assert (await bench.fill(1.0, version=0)).staleness == 1
        assert (await bench.fill(1.0, version=1)).staleness == 0
        (_, version) = await bench.versions(2)
        assert version.stalenesses == (1, 0)

    trial(test)


def test_an_update_that_is_too_stale_leaves_no_trace(trial: Trial, where: str) -> None:
    async def test(bench: Bench) -> None:
        for value in (1.0, 1.0):
            await bench.fill(value)
        stale = await bench.fill(9.0, version=0, lease=50)
        assert (stale.verdict, stale.staleness) == ("stale", 1)
        assert stale.text
        assert (await bench.fill(1.0, version=1, lease=50)).verdict == "accepted"
        flushed = await bench.flush(known=1)
        assert (flushed.updates, [bench.value(made) for made in flushed.made]) == (1, [2.0])

    trial(test, rule=FedBuff(staleness="constant", max_staleness=0))


def test_an_update_that_does_not_fit_leaves_no_trace(trial: Trial, where: str) -> None:
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

    trial(test)


def test_a_staleness_that_gives_no_weight_is_the_rules_fault(trial: Trial, where: str) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(Rejected) as rejected:
            await bench.fill(1.0)
        assert rejected.value.code == "staleness"
        assert bench.system.statistics().actors[0].failures == 0

    trial(test, rule=FedBuff(staleness=lambda tau: -1.0))


def test_after_the_last_version_updates_are_late(trial: Trial, where: str) -> None:
    async def test(bench: Bench) -> None:
        for value in (1.0, 3.0):
            await bench.fill(value)
        late = await bench.send(bench.leased(9.0))
        assert (late.entered[0].verdict, late.version, late.made) == ("late", 1, ())
        assert late.entered[0].text
        flushed = await bench.flush()
        assert (flushed.updates, [made.version for made in flushed.made]) == (0, [1])
        assert await bench.flush(number=2, known=1, last=True) == Flushed(0)

    trial(test, last=1)


def test_a_rule_that_takes_one_update_at_a_time_gets_one(trial: Trial, where: str) -> None:
    async def test(bench: Bench) -> None:
        filled = [bench.send(bench.leased(1.0)) for _ in range(3)]
        entered = [each.entered[0].staleness for each in await asyncio.gather(*filled)]
        assert entered == [0, 1, 2]
        versions = await bench.versions(3)
        assert [version.stalenesses for version in versions] == [(0,), (1,), (2,)]
        assert [bench.value(version) for version in versions] == [0.5, 0.75, 0.875]

    trial(test, size=1, rule=FedAsync(alpha=0.5, staleness="constant"))


# Versions by the clock, and flushes ---------------------------------------------


def test_by_the_clock_a_version_is_made_of_whatever_is_there(trial: Trial, where: str) -> None:
    async def test(bench: Bench) -> None:
        await asyncio.sleep(4)  # there was nothing at 3
        assert bench.intake.version == 0
        await bench.fill(2.0)
        await asyncio.sleep(1.9)
        assert bench.intake.version == 0
        (version,) = await bench.versions(1)
        assert asyncio.get_running_loop().time() == 6.0
        assert (bench.value(version), version.stalenesses) == (2.0, (0,))

    trial(test, size=1000, period_s=3.0)


def test_a_flush_makes_a_version_of_what_is_there(trial: Trial, where: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.fill(2.0)
        flushed = await bench.flush()
        assert (flushed.updates, [bench.value(made) for made in flushed.made]) == (1, [2.0])
        assert bench.intake.version == 1
        # Nothing is there any more, and the versions that are known are not told again.
        assert await bench.flush(number=2, known=1) == Flushed(0)
        assert (await bench.fill(4.0, version=1)).staleness == 0

    trial(test)


def test_a_flush_that_is_sent_again_is_answered_as_before(trial: Trial, where: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.fill(2.0)
        first = await bench.flush()
        await bench.fill(4.0, version=1)
        assert await bench.flush() == first
        assert bench.intake.version == 1
        assert (await bench.flush(number=2)).updates == 1

    trial(test)


def test_what_is_dropped_is_in_no_version(trial: Trial, where: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.fill(9.0)
        assert await bench.flush(drop=True) == Flushed(1)
        assert bench.intake.version == 0
        for value in (1.0, 3.0):
            await bench.fill(value)
        (version,) = await bench.versions(1)
        assert (bench.value(version), version.stalenesses, version.lost) == (2.0, (0, 0), 0)

    trial(test)


@pytest.mark.parametrize("drop", [False, True])
def test_after_the_last_flush_nothing_is_taken(trial: Trial, where: str, drop: bool) -> None:
    async def test(bench: Bench) -> None:
        assert (await bench.flush(drop=drop)).updates == 0
        assert (await bench.fill(2.0)).verdict == "accepted"
        flushed = await bench.flush(number=2, last=True, drop=drop)
        assert (flushed.updates, len(flushed.made)) == (1, not drop)
        assert (await bench.fill(2.0)).verdict == "late"
        # Another flush does not open it again.
        assert await bench.flush(number=3, known=1, drop=drop) == Flushed(0)
        assert (await bench.fill(2.0)).verdict == "late"

    trial(test)


# News ------------------------------------------------------------------------


def test_followers_hear_of_every_version_from_where_they_were(trial: Trial, where: str) -> None:
    async def test(bench: Bench) -> None:
        followers = [asyncio.ensure_future(bench.versions(3, known)) for known in (0, 1, 2)]
        for _ in range(6):
            await bench.fill(1.0)
            await asyncio.sleep(1)
        heard = [[version.version for version in await each] for each in followers]
        assert heard == [[1, 2, 3], [2, 3], [3]]
        # And so does who comes back later, of the latest.
        assert [version.version for version in await bench.versions(3, 1)] == [2, 3]

    trial(test)


def test_the_latest_versions_are_kept_for_who_comes_back(trial: Trial) -> None:
    async def test(bench: Bench) -> None:
        for _ in range(TOLD + 3):
            await bench.fill(0.0)
        kept = await bench.versions(TOLD + 3)
        assert [version.version for version in kept] == list(range(4, TOLD + 4))

    trial(test, size=1)
