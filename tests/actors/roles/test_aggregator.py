"""The aggregator counts an update once, and none that it would not fold."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covey.actors.downloads.blobs import Blob, BlobRef, Blobs
from covey.actors.jobs.checkpoint import Checkpoint
from covey.actors.roles.aggregator import Aggregator
from covey.actors.roles.messages import Begin, Contribute, Counted, Step, Update
from covey.actors.runtime import Ref, Rejected, System
from covey.actors.runtime.testing import simulate
from covey.algorithms import FedAvg
from covey.algorithms.tensors import Layout, Packer

SITES = ("a", "b")


class Table:
    """A model of two numbers, and updates of it."""

    def __init__(self, folder: Path) -> None:
        self.layout = Layout.of({"w": np.zeros(2)})
        self.blobs = Blobs()
        self.checkpoint = Checkpoint(folder)
        with self.checkpoint.path(0).open("wb") as file:
            file.write(self._pack(0.0))
        self.model = self._ref(Blob.of_file(self.checkpoint.path(0)))

    def _pack(self, value: float) -> bytes:
        return bytes(Packer(self.layout).pack({"w": np.full(2, value)}))

    def _ref(self, blob: Blob) -> BlobRef:
        return BlobRef(self.blobs.register(blob), blob.size)

    def update(self, value: float) -> Update:
        return Update(self._ref(Blob.of_bytes(self._pack(value))))

    def value(self, version: int) -> float:
        data = bytearray(self.checkpoint.path(version).read_bytes())
        return float(Packer(self.layout).unpack(data)["w"][0])


Body = Callable[[Table, Ref[Aggregator]], Coroutine[Any, Any, None]]


def aggregating(folder: Path, body: Body) -> None:
    async def main() -> None:
        table = Table(folder)
        async with System("server") as system:
            rule, blobs = FedAvg(), table.blobs
            ref = await system.spawn(
                lambda: Aggregator(rule, table.layout, blobs, table.checkpoint), name="aggregator"
            )
            await ref.ask(Begin(0, table.model))
            await body(table, ref)

    simulate(main)


def test_a_repeated_update_counts_once(tmp_path: Path) -> None:
    async def body(table: Table, ref: Ref[Aggregator]) -> None:
        again = Contribute("a", 0, table.update(4.0))
        assert (await ref.ask(again)).verdict == "accepted"
        assert await ref.ask(again) == Counted("duplicate")
        assert (await ref.ask(Contribute("b", 0, table.update(1.0)))).verdict == "accepted"
        assert (await ref.ask(Step(0, SITES))).folded == SITES
        assert table.value(1) == 2.5

    aggregating(tmp_path, body)


def test_an_update_that_comes_after_the_fold_has_begun_is_late(tmp_path: Path) -> None:
    async def body(table: Table, ref: Ref[Aggregator]) -> None:
        await ref.ask(Contribute("a", 0, table.update(4.0)))
        step = ref.ask(Step(0, SITES))
        late = ref.ask(Contribute("b", 0, table.update(1.0)))
        assert (await step).folded == ("a",)
        assert (await late).verdict == "late"
        assert table.value(1) == 4.0

    aggregating(tmp_path, body)


def test_an_update_that_is_gone_is_left_out(tmp_path: Path) -> None:
    async def body(table: Table, ref: Ref[Aggregator]) -> None:
        lost = table.update(4.0)
        await ref.ask(Contribute("a", 0, lost))
        await ref.ask(Contribute("b", 0, table.update(1.0)))
        assert lost.tensors is not None
        table.blobs.release(lost.tensors.rid)
        stepped = await ref.ask(Step(0, SITES))
        assert stepped.folded == ("b",)
        assert list(stepped.unfit) == ["a"]
        assert table.value(1) == 1.0

    aggregating(tmp_path, body)


def test_nothing_to_fold_is_an_error(tmp_path: Path) -> None:
    async def body(table: Table, ref: Ref[Aggregator]) -> None:
        with pytest.raises(Rejected, match="no update"):
            await ref.ask(Step(0, SITES))

    aggregating(tmp_path, body)
