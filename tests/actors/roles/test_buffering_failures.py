"""The buffered aggregator after crashes and errors: nothing that counted is lost without a word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covey.actors.downloads.blobs import BlobRef
from covey.actors.roles.buffering import Adding, Intake
from covey.actors.runtime import RemoteError
from covey.algorithms import SGD, Adam, Addend, Buffer, FedBuff, Tally

from .buffered import Bench, Gate, Trial


def test_a_crash_loses_nothing_that_counted(trial: Trial, where: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.fill(1.0, lease=1)
        await bench.crash()
        assert (await bench.fill(9.0, lease=1)).verdict == "duplicate"
        await bench.fill(3.0, lease=2)
        (version,) = await bench.versions(1)
        assert (bench.value(version), version.lost) == (2.0, 0)
        await bench.crash()
        assert [each.version for each in await bench.versions(1)] == [1]

    trial(test)


def test_after_a_crash_the_clock_goes_on(trial: Trial, where: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.crash()
        await bench.fill(1.0)
        assert bench.value((await bench.versions(1))[0]) == 1.0

    trial(test, size=1000, period_s=3.0)


def test_a_full_buffer_that_a_crash_left_makes_a_version(trial: Trial, where: str) -> None:
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

    trial(test)


def test_an_addition_goes_on_over_a_crash_and_counts(trial: Trial, adding: Gate) -> None:
    async def test(bench: Bench) -> None:
        asked = bench.send(bench.leased(3.0, lease=1))
        await adding.reached()
        asked.cancel()
        await adding.open_during(bench.crash())
        again = bench.send(bench.leased(3.0, lease=1), bench.leased(5.0))
        assert [each.verdict for each in (await again).entered] == ["duplicate", "accepted"]
        (version,) = await bench.versions(1)
        assert (bench.value(version), version.lost) == (4.0, 0)

    trial(test)


def test_an_addition_that_goes_on_over_a_crash_makes_its_version(
    trial: Trial, adding: Gate
) -> None:
    async def test(bench: Bench) -> None:
        asked = bench.send(bench.leased(3.0))
        await adding.reached()
        asked.cancel()
        await adding.open_during(bench.crash())
        assert [version.version for version in await bench.versions(1)] == [1]

    trial(test, size=1)


def test_a_version_that_is_being_made_is_made_over_a_crash(trial: Trial, making: Gate) -> None:
    async def test(bench: Bench) -> None:
        for value in (1.0, 3.0, 5.0, 7.0):
            await bench.fill(value)
        await making.reached()
        await making.open_during(bench.crash())
        one, two = await bench.versions(2)
        assert (bench.value(one), bench.value(two)) == (2.0, 8.0)
        assert making.calls == 2

    trial(test)


def test_a_sum_that_an_error_broke_is_lost_and_that_is_told(
    trial: Trial, where: str, monkeypatch: pytest.MonkeyPatch
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

    trial(test)


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
    trial: Trial, tmp_path: Path, where: str, rule: Any, value: float, text: str
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

    trial(test, rule=rule)


def test_a_run_goes_on_with_what_its_optimizer_kept(trial: Trial, where: str) -> None:
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

    trial(test, rule=FedBuff(optimizer=Adam(0.1), staleness="constant"))
