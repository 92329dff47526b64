"""The aggregation seam carries rules that FedAvg does not need: three are written here on it.

A coordinate median needs every site's value of an element; a buffered asynchronous rule takes
updates one by one and weighs them by staleness; server momentum keeps state between rounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from covey.algorithms import (
    Aggregation,
    Contribution,
    NonFiniteUpdate,
    UpdateInfo,
    WeightedMean,
    fold,
    state_lanes,
)
from covey.algorithms.tensors import DTYPES, Layout, Packer, ParamsType, narrow, widen

F64 = npt.NDArray[np.float64]
FULL, DIFF = ParamsType.FULL, ParamsType.DIFF


class MedianRows:
    """Keeps one row per update of one chunk."""

    def __init__(self, elements: int, updates: int) -> None:
        self._rows: F64 = np.empty((updates, elements))
        self._count = 0
        self._elements = elements

    def reset(self, elements: int) -> None:
        self._count, self._elements = 0, elements

    def fold(self, values: F64, weight: float) -> None:
        self._rows[self._count, : self._elements] = values
        self._count += 1

    def step(self, old: F64, out: F64, state: Mapping[str, F64], number: int) -> None:
        np.median(self._rows[: self._count, : self._elements], axis=0, out=out)


class CoordinateMedian(Aggregation):
    """Yin et al. 2018: the median of every coordinate."""

    uses_old = False

    def accumulator(self, elements: int, updates: int) -> MedianRows:
        return MedianRows(elements, updates)


class DeltaMean(WeightedMean):
    """old + rate x (weighted sum of differences / buffer size)."""

    def __init__(self, elements: int, rate: float, buffer_size: int) -> None:
        super().__init__(elements)
        self._rate = rate / buffer_size

    def step(self, old: F64, out: F64, state: Mapping[str, F64], number: int) -> None:
        total = self.total
        super().step(old, out, state, number)
        out -= old
        out *= total * self._rate
        out += old


class Buffered(Aggregation):
    """FedBuff (Nguyen et al. 2022), steps by count: staleness weighs 1 / sqrt(1 + tau)."""

    def __init__(self, buffer_size: int, rate: float) -> None:
        self.buffer_size = buffer_size
        self.rate = rate

    def weigh(self, info: UpdateInfo) -> float:
        return super().weigh(info) / math.sqrt(1 + info.staleness)

    def accumulator(self, elements: int, updates: int) -> DeltaMean:
        return DeltaMean(elements, self.rate, self.buffer_size)


class Buffer:
    """A small asynchronous driver: an accumulator per chunk, stepped when the buffer is full."""

    def __init__(self, model: F64, rule: Buffered, chunk: int) -> None:
        self.model, self.rule, self.version = model, rule, 0
        self._chunks = [slice(i, min(i + chunk, len(model))) for i in range(0, len(model), chunk)]
        self._accumulators = [rule.accumulator(chunk, rule.buffer_size) for _ in self._chunks]
        self._count = 0
        self._reset()

    def _reset(self) -> None:
        for chunk, accumulator in zip(self._chunks, self._accumulators, strict=True):
            accumulator.reset(chunk.stop - chunk.start)

    def receive(self, site: str, difference: F64, base_version: int) -> None:
        weight = self.rule.weigh(UpdateInfo(site, 1.0, self.version - base_version))
        for chunk, accumulator in zip(self._chunks, self._accumulators, strict=True):
            accumulator.fold(self.model[chunk] + difference[chunk], weight)
        self._count += 1
        if self._count == self.rule.buffer_size:
            self._step()

    def _step(self) -> None:
        for chunk, accumulator in zip(self._chunks, self._accumulators, strict=True):
            accumulator.step(self.model[chunk].copy(), self.model[chunk], {}, 1)
        self._reset()
        self._count, self.version = 0, self.version + 1


class MomentumMean(WeightedMean):
    def step(self, old: F64, out: F64, state: Mapping[str, F64], number: int) -> None:
        super().step(old, out, state, number)
        state["velocity"][:] = 0.9 * state["velocity"] + (out - old)
        np.add(old, state["velocity"], out=out)


class ServerMomentum(Aggregation):
    """FedAvgM (Hsu et al. 2019)."""

    state_names = ("velocity",)

    def accumulator(self, elements: int, updates: int) -> MomentumMean:
        return MomentumMean(elements)


def folded(
    old: Any,
    layout: Layout,
    updates: Sequence[Contribution],
    rule: Aggregation,
    state: Mapping[str, F64] | None = None,
) -> bytearray:
    out = bytearray()
    fold(old, layout, updates, rule, out.extend, state=state)
    return out


def states(count: int, seed: int = 0) -> list[dict[str, npt.NDArray[np.float32]]]:
    random = np.random.default_rng(seed)
    return [
        {
            "w": random.standard_normal((300, 400)).astype(np.float32),
            "b": random.standard_normal(7).astype(np.float32),
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("sites", [1, 2, 5, 6])
def test_a_coordinate_median_sees_every_site(sites: int) -> None:
    given = states(sites)
    packer = Packer(Layout.of(given[0]))
    updates = [Contribution(f"s{i}", 1.0, FULL, packer.pack(s)) for i, s in enumerate(given)]
    new = packer.unpack(folded(packer.pack(given[0]), packer.layout, updates, CoordinateMedian()))
    for name in ("w", "b"):
        expected = np.median(np.stack([s[name].astype(np.float64) for s in given]), axis=0)
        np.testing.assert_array_equal(new[name], expected.astype(np.float32))


@pytest.mark.parametrize("name", ["BF16", "F8_E4M3", "I16", "F16"])
def test_a_coordinate_median_works_on_every_type_and_on_differences(name: str) -> None:
    dtype = DTYPES[name]
    layout = Layout.canonical([("x", dtype, (100,))], "torch")
    random = np.random.default_rng(1)

    def blob() -> bytearray:
        made = bytearray(layout.size)
        made[: layout.data_start] = layout.header
        lanes = np.frombuffer(made, dtype.storage, 100, layout.data_start)
        narrow(dtype, random.standard_normal(100) * 4, lanes)
        return made

    def numbers(of: bytearray) -> F64:
        out = np.empty(100)
        widen(dtype, np.frombuffer(of, dtype.storage, 100, layout.data_start), out)
        return out

    old, blobs = blob(), [blob() for _ in range(3)]
    updates = [Contribution(f"s{i}", 1.0, DIFF, b) for i, b in enumerate(blobs)]
    new = folded(old, layout, updates, CoordinateMedian())
    expected = np.empty(100, dtype.storage)
    middle: F64 = np.median([numbers(old) + numbers(b) for b in blobs], axis=0)
    narrow(dtype, middle, expected)
    np.testing.assert_array_equal(
        np.frombuffer(new, dtype.storage, 100, layout.data_start), expected
    )


def test_a_median_shrugs_off_what_would_spoil_a_mean() -> None:
    given = states(3)
    packer = Packer(Layout.of(given[0]), finite=False)
    given[1]["b"][2] = np.inf
    updates = [Contribution(f"s{i}", 1.0, FULL, packer.pack(s)) for i, s in enumerate(given)]
    new = packer.unpack(folded(packer.pack(given[0]), packer.layout, updates, CoordinateMedian()))
    assert np.isfinite(new["b"]).all()
    with pytest.raises(NonFiniteUpdate, match="s1"):
        folded(packer.pack(given[0]), packer.layout, updates[1:2], CoordinateMedian())


def test_a_buffered_rule_steps_when_the_buffer_is_full() -> None:
    random = np.random.default_rng(2)
    start: F64 = random.standard_normal(1000)
    differences: list[F64] = [random.standard_normal(1000) for _ in range(4)]
    buffer = Buffer(start.copy(), Buffered(buffer_size=2, rate=0.5), chunk=300)

    buffer.receive("a", differences[0], 0)
    assert np.array_equal(buffer.model, start)
    buffer.receive("b", differences[1], 0)
    first = start + 0.5 * (differences[0] + differences[1]) / 2
    np.testing.assert_allclose(buffer.model, first, rtol=1e-12, atol=1e-12)
    assert buffer.version == 1

    buffer.receive("c", differences[2], 0)  # one version late
    buffer.receive("a", differences[3], 1)
    second = first + 0.5 * (differences[2] / math.sqrt(2) + differences[3]) / 2
    np.testing.assert_allclose(buffer.model, second, rtol=1e-12, atol=1e-12)


def test_a_buffered_rule_also_serves_a_synchronous_round() -> None:
    old, one, two = states(3)
    packer = Packer(Layout.of(old))
    updates = [Contribution(f"s{i}", 1.0, DIFF, packer.pack(s)) for i, s in enumerate((one, two))]
    new = packer.unpack(folded(packer.pack(old), packer.layout, updates, Buffered(2, 1.0)))
    for name in ("w", "b"):
        mean = (one[name].astype(np.float64) + two[name]) / 2
        np.testing.assert_allclose(new[name], old[name] + mean, rtol=1e-6, atol=1e-6)


def test_state_is_kept_from_round_to_round_by_chunk() -> None:
    rule = ServerMomentum()
    given = states(4)
    packer = Packer(Layout.of(given[0]))
    state = {"velocity": np.zeros(state_lanes(packer.layout, rule))}
    model = packer.pack(given[0])
    expected = {name: value.astype(np.float64) for name, value in given[0].items()}
    velocity = {name: np.zeros_like(value) for name, value in expected.items()}
    for target in given[1:]:
        update = Contribution("s", 1.0, FULL, packer.pack(target))
        model = folded(model, packer.layout, [update], rule, state)
        for name, value in target.items():
            velocity[name] = 0.9 * velocity[name] + (value - expected[name])
            expected[name] = (expected[name] + velocity[name]).astype(np.float32).astype(np.float64)
    for name, value in packer.unpack(model).items():
        np.testing.assert_array_equal(value, expected[name].astype(np.float32))


def test_state_passes_over_excluded_and_bool_tensors() -> None:
    class Partial(ServerMomentum):
        excluded = frozenset({"h"})

    layout = Layout.canonical(
        [("a", DTYPES["F32"], (3,)), ("h", DTYPES["F32"], (5,)), ("c", DTYPES["C64"], (2,)),
         ("b", DTYPES["BOOL"], (4,))], "torch",
    )  # fmt: skip
    assert state_lanes(layout, Partial()) == 3 + 2 * 2
