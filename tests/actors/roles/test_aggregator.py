"""The aggregator counts each update once, and makes the next model of those that fit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covey.actors.downloads.blobs import Blob, BlobRef, Blobs
from covey.actors.jobs.checkpoint import Checkpoint
from covey.actors.roles.aggregator import Aggregator
from covey.actors.roles.messages import Begin, Contribute, Counted, Step, Stepped, Update
from covey.actors.runtime import Ref, Rejected, System
from covey.algorithms import FedAvg
from covey.algorithms.tensors import Layout, Packer, load_initial

SITES = ("site-1", "site-2", "site-3")
MODEL: dict[str, Any] = {"w": np.zeros(4, np.float32), "b": np.zeros(2, np.float64)}


class Bench:
    """An aggregator in its first round, and updates for it."""

    def __init__(self, folder: Path, ref: Ref[Aggregator], layout: Layout, blobs: Blobs) -> None:
        self.folder = folder
        self.ref = ref
        self.layout = layout
        self.blobs = blobs
        self.packer = Packer(layout)

    def update(self, value: float, weight: float = 1.0, **state: Any) -> Update:
        full: dict[str, Any] = {name: np.full_like(array, value) for name, array in MODEL.items()}
        return self.of_bytes(Packer(Layout.of(full | state)).pack(full | state), weight)

    def infinite(self) -> Update:
        data = self.packer.pack(MODEL)
        data[-4:] = np.float32(np.inf).tobytes()
        return self.of_bytes(data)

    def of_bytes(self, data: bytes | bytearray, weight: float = 1.0) -> Update:
        blob = Blob.of_bytes(data)
        return Update(BlobRef(self.blobs.register(blob), blob.size), weight=weight)

    async def send(self, site: str, update: Update, round: int = 0) -> Counted:
        return await self.ref.ask(Contribute(site, round, update))

    async def step(self, round: int = 0) -> Stepped:
        return await self.ref.ask(Step(round))

    def model(self, stepped: Stepped) -> Any:
        return self.packer.unpack(bytearray(self.blobs.open(stepped.model.rid).buffer))


def trial(tmp_path: Path, test: Callable[[Bench], Awaitable[None]], **rule: Any) -> None:
    initial = load_initial(MODEL)
    checkpoint, blobs = Checkpoint(tmp_path), Blobs()
    with checkpoint.writing(0) as fd:
        initial.write(fd)

    async def main() -> None:
        async with asyncio.timeout(30), System("server") as system:
            ref = await system.spawn(
                lambda: Aggregator(FedAvg(**rule), initial.layout, blobs, checkpoint, SITES),
                name="aggregator",
            )
            old = Blob.of_file(checkpoint.path(0))
            await ref.ask(Begin(0, BlobRef(blobs.register(old), old.size)))
            await test(Bench(tmp_path, ref, initial.layout, blobs))

    asyncio.run(main())


def test_updates_are_folded_by_their_weights(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        for site, value, weight in (("site-2", 4.0, 3.0), ("site-1", 0.0, 1.0)):
            counted = await bench.send(site, bench.update(value, weight))
            assert counted.verdict == "accepted"
        stepped = await bench.step()
        assert stepped.folded == 2
        assert (bench.model(stepped)["w"] == 3.0).all()

    trial(tmp_path, test)


def test_an_update_counts_once(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        assert (await bench.send("site-1", bench.update(1.0))).verdict == "accepted"
        assert (await bench.send("site-1", bench.update(9.0))).verdict == "duplicate"
        assert (await bench.send("site-2", bench.update(1.0), round=1)).verdict == "late"
        assert (bench.model(await bench.step())["w"] == 1.0).all()

    trial(tmp_path, test)


@pytest.mark.parametrize(
    "state",
    [
        {"w": np.zeros(3, np.float32)},
        {"w": np.zeros(4, np.float64)},
        {"more": np.zeros(1)},
    ],
)
def test_an_update_of_another_layout_is_refused(tmp_path: Path, state: dict[str, Any]) -> None:
    async def test(bench: Bench) -> None:
        counted = await bench.send("site-1", bench.update(1.0, **state))
        assert counted.verdict == "refused"
        assert f"'{next(iter(state))}'" in counted.text
        # Refused, it may come again as it should be.
        assert (await bench.send("site-1", bench.update(1.0))).verdict == "accepted"

    trial(tmp_path, test)


def test_what_is_no_update_is_refused(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        gone = bench.update(1.0)
        assert gone.tensors is not None
        bench.blobs.release(gone.tensors.rid)
        for update in (
            Update(None),
            gone,
            bench.of_bytes(b"\xff" * bench.layout.size),
            bench.of_bytes(b""),
            bench.update(1.0, weight=-1.0),
        ):
            assert (await bench.send("site-1", update)).verdict == "refused"

    trial(tmp_path, test)


def test_an_update_that_is_gone_at_the_fold_is_left_out(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        lost = bench.update(9.0)
        await bench.send("site-1", lost)
        await bench.send("site-2", bench.update(1.0))
        assert lost.tensors is not None
        bench.blobs.release(lost.tensors.rid)
        stepped = await bench.step()
        assert stepped.folded == 1
        assert list(stepped.unfit) == ["site-1"]
        assert (bench.model(stepped)["w"] == 1.0).all()

    trial(tmp_path, test)


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        await bench.send("site-1", bench.infinite())
        await bench.send("site-3", bench.update(2.0))
        stepped = await bench.step()
        assert (stepped.folded, list(stepped.unfit)) == (1, ["site-1"])

    trial(tmp_path, test)


def test_nothing_to_fold_is_rejected_with_the_reasons(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        await bench.send("site-1", bench.infinite())
        with pytest.raises(Rejected, match="NaN or infinity in the update of site-1"):
            await bench.step()
        with pytest.raises(Rejected, match="this is round 0"):
            await bench.step(round=3)

    trial(tmp_path, test)


def test_a_round_without_updates_is_rejected(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(Rejected, match="no update came in"):
            await bench.step()

    trial(tmp_path, test)


def test_no_weight_at_all_is_rejected(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        await bench.send("site-1", bench.update(1.0))
        with pytest.raises(Rejected, match="all weights are zero"):
            await bench.step()

    trial(tmp_path, test, aggregation_weights={"site-1": 0.0})


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        await bench.send("site-1", bench.update(1.0))
        (tmp_path / "checkpoint" / "model-1.partial").mkdir()
        with pytest.raises(Rejected, match=r"cannot write .*model-1\.safetensors: Is a directory"):
            await bench.step()

    trial(tmp_path, test)


def test_a_weight_that_is_infinite_with_its_factor_is_refused(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        counted = await bench.send("site-1", bench.update(1.0, 1.7e308))
        assert counted.verdict == "refused"
        assert "site-1 sent a weight" in counted.text
        assert (await bench.send("site-2", bench.update(2.0))).verdict == "accepted"
        assert (await bench.step()).folded == 1

    trial(tmp_path, test, aggregation_weights={"site-1": 10.0})


def test_an_infinite_sum_of_weights_is_answered_and_survived(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        for site in SITES:
            assert (await bench.send(site, bench.update(1.0, 1.7e308))).verdict == "accepted"
        with pytest.raises(Rejected, match="sum of their weights is infinite"):
            await bench.step()
        with pytest.raises(Rejected):
            await bench.step()

    trial(tmp_path, test)
