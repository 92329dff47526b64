"""The fold against a plain float64 oracle: every type, FULL, DIFF and mixed, bit for bit."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.algorithms import (
    BadSetting,
    BadUpdate,
    Contribution,
    FedAvg,
    ManifestMismatch,
    NonFiniteUpdate,
    UpdateInfo,
    fold,
)
from covey.algorithms.tensors import DTYPES, Layout, Packer, ParamsType, all_finite, narrow, widen

WALK = importlib.import_module("covey.algorithms.walk")
FULL, DIFF = ParamsType.FULL, ParamsType.DIFF
Bytes = bytearray
Tensor = tuple[str, str, tuple[int, ...]]  # name, type, shape


def layout_of(tensors: Sequence[Tensor]) -> Layout:
    return Layout.canonical([(n, DTYPES[t], shape) for n, t, shape in tensors], "torch")


def random_blob(layout: Layout, seed: int, scale: float = 3.0) -> Bytes:
    """A blob of moderate numbers: no sum of a few leaves the range of any type."""
    random = np.random.default_rng(seed)
    blob = bytearray(layout.size)
    blob[: layout.data_start] = layout.header
    for spec in layout.specs:
        dtype = spec.type
        lanes = lanes_of(blob, spec.name, layout)
        if dtype.kind == "float":
            narrow(dtype, random.standard_normal(len(lanes)) * scale, lanes)
        elif dtype.kind == "bool":
            lanes[:] = random.integers(0, 2, len(lanes))
        else:
            info = np.iinfo(dtype.storage)
            lanes[:] = random.integers(info.min, info.max, len(lanes), dtype.storage, endpoint=True)
    return blob


def lanes_of(blob: Any, name: str, layout: Layout) -> npt.NDArray[Any]:
    spec = layout.by_name[name]
    count = spec.elements * spec.type.lanes
    return np.frombuffer(blob, spec.type.storage, count, spec.start)


def folded(
    old: Any, layout: Layout, updates: Sequence[Contribution], rule: FedAvg | None = None
) -> Bytes:
    out = bytearray()
    fold(old, layout, updates, rule or FedAvg(), out.extend)
    return out


def wide(layout: Layout, name: str, blob: Any) -> npt.NDArray[np.float64]:
    lanes = lanes_of(blob, name, layout)
    out = np.empty(len(lanes), np.float64)
    widen(layout.by_name[name].type, lanes, out)
    return out


def oracle(
    old: Any, layout: Layout, updates: Sequence[Contribution], name: str
) -> npt.NDArray[Any]:
    """The weighted mean in plain float64, then one rounding."""
    dtype = layout.by_name[name].type
    if dtype.kind == "bool":
        return lanes_of(updates[0].buffer, name, updates[0].layout or layout)
    total = np.zeros(1)
    weights = 0.0
    for update in updates:
        values = wide(update.layout or layout, name, update.buffer)
        if update.params_type == DIFF:
            values = wide(layout, name, old) + values
        total = total + update.weight * values
        weights += update.weight
    out = np.empty(len(lanes_of(old, name, layout)), dtype.storage)
    narrow(dtype, np.array(total / weights), out)
    return out


SHAPES = st.sampled_from([(), (1,), (0,), (5,), (2, 3), (17,)])


@given(
    types=st.lists(st.tuples(st.sampled_from(sorted(DTYPES)), SHAPES), min_size=1, max_size=6),
    sites=st.lists(
        st.tuples(st.sampled_from([FULL, DIFF]), st.floats(0.1, 1000.0)), min_size=1, max_size=5
    ),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=200, deadline=None)
def test_the_fold_is_the_oracle_rounded_once(
    types: list[tuple[str, tuple[int, ...]]], sites: list[tuple[ParamsType, float]], seed: int
) -> None:
    layout = layout_of([(f"t{i}", name, shape) for i, (name, shape) in enumerate(types)])
    old = random_blob(layout, seed)
    updates = [
        Contribution(f"site-{i}", weight, params_type, random_blob(layout, seed + 1 + i))
        for i, (params_type, weight) in enumerate(sites)
    ]
    new = folded(old, layout, updates)
    assert new[: layout.data_start] == layout.header
    assert len(new) == layout.size
    for spec in layout.specs:
        np.testing.assert_array_equal(
            lanes_of(new, spec.name, layout), oracle(old, layout, updates, spec.name)
        )
    assert folded(old, layout, updates) == new


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("kinds", [(FULL, FULL), (DIFF, DIFF), (FULL, DIFF)])
def test_every_type_over_many_blocks(
    name: str, kinds: tuple[ParamsType, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WALK, "BLOCK_LANES", 64)
    monkeypatch.setattr(WALK, "CHUNK_BYTES", 1024)
    layout = layout_of([("x", name, (1000,)), ("y", name, (333,))])
    old = random_blob(layout, 1)
    updates = [
        Contribution(f"s{i}", 1.5 + i, kind, random_blob(layout, i)) for i, kind in enumerate(kinds)
    ]
    new = folded(old, layout, updates)
    for spec in layout.specs:
        expected = oracle(old, layout, updates, spec.name)
        np.testing.assert_array_equal(lanes_of(new, spec.name, layout), expected)
    monkeypatch.undo()
    assert folded(old, layout, updates) == new  # the cut into blocks does not show


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F64"])
def test_torch_agrees_with_the_mean(name: str) -> None:
    dtype = getattr(torch, DTYPES[name].torch)
    states = [
        {"x": torch.randn(500, generator=torch.Generator().manual_seed(i)).to(dtype)}
        for i in range(4)
    ]
    packer = Packer(Layout.of(states[0]))
    updates = [Contribution(f"s{i}", 1.0, FULL, packer.pack(s)) for i, s in enumerate(states)]
    new = packer.unpack(folded(packer.pack(states[0]), packer.layout, updates))["x"]
    mean = torch.stack([s["x"].to(torch.float64) for s in states]).mean(0)
    # torch goes from float64 to short floats by way of float32, whose ties may fall otherwise;
    # a mean of four numbers of at most 11 bits is exact in float32 here, so they agree.
    assert torch.equal(new.to(torch.float64), mean.to(dtype).to(torch.float64))


@given(values=st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 6)), min_size=1, max_size=6))
def test_integers_are_the_exact_mean_rounded_half_to_even(values: list[tuple[int, int]]) -> None:
    layout = layout_of([("n", "I64", ())])
    updates: list[Contribution] = []
    for i, (value, weight) in enumerate(values):
        blob = random_blob(layout, 0)
        lanes_of(blob, "n", layout)[:] = value
        updates.append(Contribution(f"s{i}", float(weight), FULL, blob))
    mean = Fraction(sum(v * w for v, w in values), sum(w for _, w in values))
    assert lanes_of(folded(updates[0].buffer, layout, updates), "n", layout)[0] == round(mean)


def test_integers_saturate() -> None:
    layout = layout_of([("n", "U8", (2,))])
    old, change = random_blob(layout, 0), random_blob(layout, 0)
    lanes_of(old, "n", layout)[:] = [250, 3]
    lanes_of(change, "n", layout)[:] = [10, 10]
    new = folded(old, layout, [Contribution("a", 1.0, DIFF, change)])
    assert lanes_of(new, "n", layout).tolist() == [255, 13]


@pytest.mark.parametrize(
    # float64 and 64-bit integers have no bits to spare in a float64 sum.
    "name",
    [n for n, d in DTYPES.items() if d.storage.itemsize < 8],
)
def test_sites_that_agree_keep_their_model_bit_for_bit(name: str) -> None:
    layout = layout_of([("x", name, (200,))])
    blob = random_blob(layout, 5)
    updates = [Contribution(f"s{i}", 0.1 + i / 3, FULL, blob) for i in range(7)]
    assert folded(random_blob(layout, 6), layout, updates) == blob


def test_bool_is_taken_from_the_first_site() -> None:
    layout = layout_of([("b", "BOOL", (50,)), ("x", "F32", (2,))])
    first, second = random_blob(layout, 1), random_blob(layout, 2)
    for kind in (FULL, DIFF):
        new = folded(
            first, layout, [Contribution("b", 1, kind, second), Contribution("a", 9, kind, first)]
        )
        assert lanes_of(new, "b", layout).tolist() == lanes_of(second, "b", layout).tolist()


def test_excluded_variables_keep_their_values_and_are_absent_from_updates() -> None:
    layout = layout_of(
        [("a", "F32", (9,)), ("h", "F32", (5,)), ("z", "F32", (7,)), ("i", "U8", (3,))]
    )
    rule = FedAvg(exclude_vars=["h", "i"])
    answers = rule.answers(layout)
    assert [spec.name for spec in answers.specs] == ["a", "z"]
    assert rule.sends(layout) is layout
    old, update = random_blob(layout, 1), random_blob(answers, 2)
    new = folded(old, layout, [Contribution("s", 2.0, FULL, update)], rule)
    for name, source, its in [
        ("a", update, answers),
        ("h", old, layout),
        ("z", update, answers),
        ("i", old, layout),
    ]:
        assert lanes_of(new, name, layout).tobytes() == lanes_of(source, name, its).tobytes()


def test_excluded_variables_may_hold_what_is_not_finite() -> None:
    layout = layout_of([("mask", "F32", (4,)), ("x", "F32", (4,))])
    old = random_blob(layout, 1)
    lanes_of(old, "mask", layout)[:] = -np.inf
    rule = FedAvg(exclude_vars={"mask"})
    update = random_blob(rule.answers(layout), 2)
    new = folded(old, layout, [Contribution("s", 1.0, FULL, update)], rule)
    assert np.isneginf(lanes_of(new, "mask", layout)).all()


def test_updates_of_another_tensor_order_are_matched_by_name() -> None:
    layout = layout_of([("a", "F32", (9,)), ("b", "F32", (5,)), ("c", "BF16", (7,))])
    foreign = Layout.of(
        {
            n: torch.empty(k, dtype=t)
            for n, k, t in [
                ("b", 5, torch.float32),
                ("c", 7, torch.bfloat16),
                ("a", 9, torch.float32),
            ]
        }
    )
    updates = [
        Contribution("s1", 1.0, FULL, random_blob(layout, 1)),
        Contribution("s2", 2.0, DIFF, random_blob(foreign, 2), foreign),
        Contribution("s3", 3.0, FULL, random_blob(layout, 3), layout),
    ]
    old = random_blob(layout, 4)
    new = folded(old, layout, updates)
    for spec in layout.specs:
        np.testing.assert_array_equal(
            lanes_of(new, spec.name, layout), oracle(old, layout, updates, spec.name)
        )
    other = layout_of([("a", "F32", (9,))])
    with pytest.raises(ManifestMismatch, match="'b'"):
        folded(old, layout, [Contribution("s", 1.0, FULL, random_blob(other, 1), other)])


@pytest.mark.parametrize("name", [n for n, d in DTYPES.items() if d.kind == "float"])
@pytest.mark.parametrize("place", [0, 499, 500, 999])
def test_a_site_with_nan_is_named_with_the_tensor(name: str, place: int) -> None:
    layout = layout_of([("x", name, (500,)), ("y", name, (500,))])
    updates = [Contribution(f"s{i}", 1.0, FULL, random_blob(layout, i)) for i in range(3)]
    tensor = "x" if place < 500 else "y"
    lanes = lanes_of(updates[1].buffer, tensor, layout)
    narrow(DTYPES[name], np.array([np.nan]), lanes[place % 500 : place % 500 + 1])
    with pytest.raises(NonFiniteUpdate, match="NaN or infinity in the update of s1") as caught:
        folded(updates[0].buffer, layout, updates)
    assert (caught.value.site, caught.value.tensor) == ("s1", tensor)
    rest = [update for update in updates if update.site != "s1"]
    assert folded(updates[0].buffer, layout, rest)


@pytest.mark.parametrize("weight", [0.0, 1e-300])
def test_a_site_of_no_weight_cannot_hide_nan(weight: float) -> None:
    layout = layout_of([("x", "F32", (3,))])
    good, bad = random_blob(layout, 1), random_blob(layout, 2)
    lanes_of(bad, "x", layout)[1] = np.inf
    updates = [Contribution("good", 1.0, FULL, good), Contribution("bad", weight, FULL, bad)]
    with pytest.raises(NonFiniteUpdate, match="bad"):
        folded(good, layout, updates)


@pytest.mark.parametrize(
    "name", [n for n, d in DTYPES.items() if d.kind == "float" and d.lanes == 1]
)
def test_an_overflow_names_the_site_that_drives_it(name: str) -> None:
    dtype = DTYPES[name]
    layout = layout_of([("x", name, (4,))])
    largest = np.array([1.0]) * (
        dtype.short.magnitude(dtype.short.largest) if dtype.short else np.finfo(dtype.storage).max
    )
    old, small, large = random_blob(layout, 1), random_blob(layout, 2), random_blob(layout, 3)
    narrow(dtype, np.repeat(largest, 4), lanes_of(old, "x", layout))
    narrow(dtype, np.repeat(largest, 4), lanes_of(large, "x", layout))
    updates = [Contribution("small", 1.0, DIFF, small), Contribution("large", 9.0, DIFF, large)]
    with pytest.raises(NonFiniteUpdate, match="out of its range in the update of large"):
        folded(old, layout, updates)


@pytest.mark.parametrize(
    ("updates", "error", "message"),
    [
        ([], BadSetting, "none to aggregate"),
        ([("a", 0.0)], BadSetting, "all weights are zero"),
        ([("a", 1.0), ("b", -1.0)], BadUpdate, "b has a weight of -1.0"),
        ([("a", float("nan"))], BadUpdate, "a has a weight of nan"),
        ([("a", float("inf"))], BadUpdate, "a has a weight of inf"),
    ],
)
def test_weights_must_make_a_mean(
    updates: list[tuple[str, float]], error: type[Exception], message: str
) -> None:
    layout = layout_of([("x", "F32", (3,))])
    blob = random_blob(layout, 1)
    with pytest.raises(error, match=message):
        folded(blob, layout, [Contribution(site, weight, FULL, blob) for site, weight in updates])


def test_an_update_of_the_wrong_size_is_refused() -> None:
    layout = layout_of([("x", "F32", (3,))])
    blob = random_blob(layout, 1)
    with pytest.raises(BadUpdate, match=r"s sent \d+ bytes, expected \d+"):
        folded(blob, layout, [Contribution("s", 1.0, FULL, blob[:-1])])


def test_chunks_are_bounded_and_each_has_a_checkpoint() -> None:
    layout = layout_of(
        [("x", "F32", (700_000,)), ("b", "BOOL", (1_500_000,)), ("h", "I8", (1_100_000,))]
    )
    rule = FedAvg(exclude_vars={"h"})
    old, update = random_blob(layout, 1), random_blob(rule.answers(layout), 2)
    sizes: list[int] = []
    checkpoints: list[int] = []
    fold(
        old, layout, [Contribution("s", 1.0, FULL, update)], rule,
        lambda data: sizes.append(len(data)), checkpoint=lambda: checkpoints.append(len(sizes)),
    )  # fmt: skip
    assert sum(sizes) == layout.size
    assert max(sizes) <= 1 << 20
    assert checkpoints == list(range(1, len(sizes)))


def test_a_checkpoint_may_cancel() -> None:
    layout = layout_of([("x", "F32", (700_000,))])
    blob = random_blob(layout, 1)
    sizes: list[int] = []

    def checkpoint() -> None:
        if len(sizes) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fold(
            blob,
            layout,
            [Contribution("s", 1.0, FULL, blob)],
            FedAvg(),
            lambda data: sizes.append(len(data)),
            checkpoint=checkpoint,
        )
    assert len(sizes) == 2


def test_the_order_of_sites_is_kept_and_decides_the_last_bit() -> None:
    layout = layout_of([("x", "F64", (1000,))])
    updates = [Contribution(f"s{i}", 0.1 * (i + 1), FULL, random_blob(layout, i)) for i in range(5)]
    one = folded(updates[0].buffer, layout, updates)
    assert one == folded(updates[0].buffer, layout, updates)
    turned = folded(updates[0].buffer, layout, updates[::-1])
    np.testing.assert_allclose(
        lanes_of(one, "x", layout), lanes_of(turned, "x", layout), rtol=1e-12, atol=1e-12
    )
    assert one != turned


def test_weights_of_sites_multiply_what_they_report() -> None:
    rule = FedAvg(aggregation_weights={"a": 3.0, "b": 0.0})
    assert rule.weigh(UpdateInfo("a", 10)) == 30
    assert rule.weigh(UpdateInfo("b", 10)) == 0
    assert rule.weigh(UpdateInfo("c", 10)) == 10
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(BadUpdate, match="c sent a weight"):
            rule.weigh(UpdateInfo("c", weight))
        with pytest.raises(BadSetting, match="aggregation_weights: a has"):
            FedAvg(aggregation_weights={"a": weight})


def test_signalling_nan_is_found_without_a_warning() -> None:
    layout = layout_of([("x", "F32", (3,)), ("y", "BF16", (3,))])
    for tensor, bits in (("x", 0x7F80_0001), ("y", 0x7F81)):
        blob = random_blob(layout, 1)
        lanes = lanes_of(blob, tensor, layout)
        lanes.view(f"u{lanes.itemsize}")[1] = bits
        assert not all_finite(layout.by_name[tensor].type, lanes)
        with pytest.raises(NonFiniteUpdate):
            folded(blob, layout, [Contribution("s", 1.0, FULL, blob)])
