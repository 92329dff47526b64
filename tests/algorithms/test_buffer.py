"""The buffer: sums of every element type, swapping while adding, and what leaves it untouched."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.algorithms import (
    Addend,
    BadSetting,
    BadUpdate,
    Buffer,
    FedAsync,
    FedBuff,
    NonFiniteModel,
    NonFiniteUpdate,
    Sums,
    SumsOutstanding,
    Tally,
    apply,
    new_state,
)
from covey.algorithms.accumulate import LARGEST_WEIGHT
from covey.algorithms.optimizers import SGD, Adam
from covey.algorithms.tensors import DTYPES, Layout, narrow

from .blobs import DIFF, F64, FULL, blob_of, flat, lanes_of, numbers

KINDS = sorted(DTYPES)
SUMMED = [name for name in KINDS if name != "BOOL"]


def random_blob(layout: Layout, seed: int) -> bytearray:
    random = np.random.default_rng(seed)
    values: dict[str, Any] = {}
    for spec in layout.specs:
        count = spec.elements * spec.type.lanes
        if spec.type.kind == "float":
            values[spec.name] = random.standard_normal(count) * 4
        else:
            low = 0 if spec.dtype.startswith(("U", "B")) else -50
            values[spec.name] = random.integers(low, 2 if spec.dtype == "BOOL" else 50, count)
    return blob_of(layout, values)


def sum_of(sums: Sums, layout: Layout, name: str = "x") -> F64:
    spec = layout.by_name[name]
    return sums.numbers(spec.start, spec.elements * spec.type.lanes).astype(np.float64)


def stepped(old: bytearray, layout: Layout, sums: Sums, rule: Any, **given: Any) -> bytearray:
    out = bytearray()
    apply(old, layout, sums, rule, out.extend, **given)
    return out


@contextmanager
def torch_threads(count: int) -> Generator[None]:
    """Give torch so many threads: it adds where it has one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# Summing ---------------------------------------------------------------------


@given(
    types=st.lists(
        st.tuples(st.sampled_from(KINDS), st.sampled_from([(), (0,), (1,), (7,), (3, 5)])),
        min_size=1, max_size=6,
    ),
    weights=st.lists(st.floats(0.0, 100.0), min_size=1, max_size=5),
    seed=st.integers(0, 2**32),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_every_type_is_summed_beside_every_other(
    types: list[tuple[str, tuple[int, ...]]], weights: list[float], seed: int
) -> None:
    layout = Layout.canonical(
        [(f"t{i}", DTYPES[name], shape) for i, (name, shape) in enumerate(types)], "torch"
    )
    blobs = [random_blob(layout, seed + i) for i in range(len(weights))]
    buffer = Buffer(layout)
    for blob, weight in zip(blobs, weights, strict=True):
        buffer.add(blob, weight, DIFF)
    sums = buffer.swap()
    for spec in layout.specs:
        each = [numbers(blob, layout, spec.name) for blob in blobs]
        if spec.type.kind == "bool":
            expected = each[-1]
        else:
            expected = sum((w * x for w, x in zip(weights, each, strict=True)), 0 * each[0])
        np.testing.assert_allclose(sum_of(sums, layout, spec.name), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", SUMMED)
@pytest.mark.parametrize("count", [65_536 + 3, 2 * 262_144 + 5])
def test_large_tensors_of_every_type_pass_through_many_blocks(name: str, count: int) -> None:
    layout = flat(count, name)
    blobs, weights = [random_blob(layout, i) for i in range(3)], (1.0, 0.25, 2.0)
    buffer = Buffer(layout)
    for blob, weight in zip(blobs, weights, strict=True):
        buffer.add(bytes(blob), weight, DIFF)
    each = [w * numbers(b, layout) for w, b in zip(weights, blobs, strict=True)]
    expected: F64 = np.sum(each, axis=0)
    np.testing.assert_allclose(sum_of(buffer.swap(), layout), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "exact"), [("F32", False), ("BF16", False), ("F64", True), ("I64", True)]
)
def test_wide_types_are_summed_in_float64(name: str, exact: bool) -> None:
    layout = flat(1, name)
    buffer = Buffer(layout)
    for value in (2.0**40, 1.0):
        buffer.add(blob_of(layout, {"x": [value]}), 1.0, DIFF)
    assert (sum_of(buffer.swap(), layout)[0] == 2.0**40 + 1) == exact


@pytest.mark.parametrize("name", ["I32", "U32", "I64"])
def test_integers_of_every_width_are_summed_exactly(name: str) -> None:
    layout = flat(1, name)
    buffer = Buffer(layout)
    for value in (2.0**30, 1.0):
        buffer.add(blob_of(layout, {"x": [value]}), 1.0, DIFF)
    assert sum_of(buffer.swap(), layout)[0] == 2.0**30 + 1


def test_an_update_is_of_the_newest_version_and_of_no_site_unless_it_is_said() -> None:
    layout = flat(1)
    good, bad = (blob_of(layout, {"x": [value]}) for value in (1.0, math.nan))
    buffer = Buffer(layout)
    buffer.add(good, 1.0, DIFF)
    buffer.add_all([Addend(good, 1.0)])
    assert buffer.tally == Tally(2, 2.0, 0)
    for refuse in (buffer.check, buffer.add):
        with pytest.raises(NonFiniteUpdate) as refused:
            refuse(bad, 1.0, DIFF)
        assert refused.value.site == ""


def test_the_largest_weight_is_taken_and_no_larger_one() -> None:
    layout = flat(1)
    buffer, zero = Buffer(layout), blob_of(layout, {"x": [0.0]})
    buffer.check(zero, LARGEST_WEIGHT, DIFF)
    with pytest.raises(BadUpdate, match="weight"):
        buffer.check(zero, math.nextafter(LARGEST_WEIGHT, math.inf), DIFF)


@given(order=st.permutations(range(6)), seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_the_order_of_adds_changes_rounding_only(order: list[int], seed: int) -> None:
    layout = flat(50)
    blobs = [random_blob(layout, seed + i) for i in range(6)]
    totals: list[F64] = []
    for turn in (range(6), order):
        buffer = Buffer(layout)
        for which in turn:
            buffer.add(blobs[which], 1.0 / (1 + which), DIFF)
        totals.append(sum_of(buffer.swap(), layout))
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-5, atol=1e-5)


def test_the_same_order_gives_the_same_bits() -> None:
    layout = flat(300_000)
    blobs = [random_blob(layout, i) for i in range(4)]
    totals: list[F64] = []
    for _ in range(2):
        buffer = Buffer(layout)
        for number, blob in enumerate(blobs):
            buffer.add(blob, 0.3 + number, DIFF)
        totals.append(sum_of(buffer.swap(), layout))
    np.testing.assert_array_equal(totals[0], totals[1])


def test_an_update_may_be_read_only_and_is_not_changed() -> None:
    layout = flat(200_000)
    update = bytes(random_blob(layout, 1))
    before = bytes(memoryview(update))
    buffer = Buffer(layout)
    for _ in range(3):
        buffer.add(memoryview(update), 0.5, DIFF)
    assert update == before
    np.testing.assert_allclose(
        sum_of(buffer.swap(), layout), 1.5 * numbers(update, layout), rtol=1e-6
    )


# Swapping --------------------------------------------------------------------


def test_adding_goes_on_while_a_step_has_the_sums() -> None:
    layout = flat(4)
    buffer = Buffer(layout)
    buffer.add(blob_of(layout, {"x": [1, 2, 3, 4]}), 1.0, DIFF, staleness=2)
    first = buffer.swap()
    assert len(buffer) == 0
    buffer.add(blob_of(layout, {"x": [10, 10, 10, 10]}), 0.5, DIFF, staleness=7)
    buffer.add(blob_of(layout, {"x": [10, 10, 10, 10]}), 0.5, DIFF, staleness=1)
    assert (first.tally, buffer.tally) == (Tally(1, 1.0, 2), Tally(2, 1.0, 7))
    np.testing.assert_array_equal(sum_of(first, layout), [1, 2, 3, 4])
    buffer.give_back(first)
    second = buffer.swap()
    assert second.stalenesses == [7, 1]
    np.testing.assert_array_equal(sum_of(second, layout), [10, 10, 10, 10])


def test_there_are_never_more_than_two_accumulators() -> None:
    layout = flat(4)
    buffer, seen = Buffer(layout), set[int]()
    for number in range(6):
        buffer.add(blob_of(layout, {"x": [number] * 4}), 1.0, DIFF)
        sums = buffer.swap()
        np.testing.assert_array_equal(sum_of(sums, layout), [number] * 4)
        seen.add(id(sums))
        with pytest.raises(SumsOutstanding, match="1 updates"):
            buffer.swap()
        buffer.give_back(sums)
    assert len(seen) == 2


def test_only_the_sums_that_were_handed_out_are_taken_back() -> None:
    layout = flat(4)
    buffer, other = Buffer(layout), Buffer(layout)
    with pytest.raises(SumsOutstanding, match="not those"):
        buffer.give_back(other.swap())
    sums = buffer.swap()
    buffer.give_back(sums)
    with pytest.raises(SumsOutstanding):
        buffer.give_back(sums)


def test_cleared_sums_are_overwritten() -> None:
    layout = flat(2)
    buffer = Buffer(layout)
    buffer.add(blob_of(layout, {"x": [5, 5]}), 1.0, DIFF)
    buffer.clear()
    assert buffer.tally == Tally(0, 0.0, 0)
    buffer.add(blob_of(layout, {"x": [1, 2]}), 1.0, DIFF)
    np.testing.assert_array_equal(sum_of(buffer.swap(), layout), [1, 2])


def test_it_can_be_looked_at() -> None:
    layout = flat(2)
    buffer = Buffer(layout)
    buffer.add(blob_of(layout, {"x": [5, 5]}), 0.5, DIFF)
    assert repr(buffer) == "<Buffer 1 updates, weight 0.5>"
    assert repr(buffer.swap()) == "<Sums of 1 updates, weight 0.5>"


# What is refused -------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in SUMMED if DTYPES[n].kind == "float"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 9_000, 70_000])
def test_an_update_that_is_not_finite_leaves_the_sums_untouched(
    name: str, value: float, place: int
) -> None:
    layout = Layout.canonical(
        [("a", DTYPES[name], (5_000,)), ("b", DTYPES[name], (70_000,)), ("n", DTYPES["I8"], (3,))],
        "torch",
    )
    good, bad = random_blob(layout, 1), random_blob(layout, 2)
    which, index = ("a", place) if place < 5_000 else ("b", place - 5_000)
    narrow(DTYPES[name], np.array([value]), lanes_of(bad, layout, which)[index : index + 1])
    buffer = Buffer(layout)
    buffer.add(good, 0.5, DIFF, staleness=1)
    with pytest.raises(NonFiniteUpdate, match="NaN or infinity in the update of site-2") as caught:
        buffer.add(bad, 0.5, DIFF, site="site-2", staleness=9)
    assert (caught.value.site, caught.value.tensor) == ("site-2", which)
    assert buffer.tally == Tally(1, 0.5, 1)
    sums = buffer.swap()
    for spec in layout.specs:
        expected = 0.5 * numbers(good, layout, spec.name)
        np.testing.assert_allclose(sum_of(sums, layout, spec.name), expected, rtol=1e-6)


@pytest.mark.parametrize(("name", "value"), [("F32", 3e38), ("BF16", 1e38), ("F64", 1e308)])
def test_numbers_that_a_sum_could_not_hold_are_refused(name: str, value: float) -> None:
    layout = flat(3, name)
    buffer = Buffer(layout)
    with pytest.raises(NonFiniteUpdate, match="too large to be summed in the update of s"):
        buffer.add(blob_of(layout, {"x": [0.0, -value, 0.0]}), 1.0, DIFF, site="s")
    buffer.add(blob_of(layout, {"x": [0.0, -value, 0.0]}), 1e-30, DIFF, site="s")
    assert len(buffer) == 1


def test_large_numbers_whose_squares_overflow_are_summed() -> None:
    layout = flat(3)
    buffer = Buffer(layout)
    for _ in range(2):
        buffer.add(blob_of(layout, {"x": [1e25, -1e30, 0.0]}), 1.0, DIFF)
    np.testing.assert_allclose(sum_of(buffer.swap(), layout), [2e25, -2e30, 0.0], rtol=1e-6)


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf, 1e40])
def test_weights_that_are_none_are_refused(weight: float) -> None:
    layout = flat(1)
    buffer = Buffer(layout)
    with pytest.raises(BadUpdate, match="s has a weight of"):
        buffer.add(blob_of(layout, {"x": [1.0]}), weight, DIFF, site="s")
    assert len(buffer) == 0


def test_the_other_kind_of_update_and_another_size_are_refused() -> None:
    layout = flat(3)
    buffer, update = Buffer(layout), blob_of(layout, {"x": [1, 2, 3]})
    with pytest.raises(BadUpdate, match="s sent a FULL update; this rule needs DIFF"):
        buffer.add(update, 1.0, FULL, site="s")
    with pytest.raises(BadUpdate, match="s sent 1 bytes"):
        buffer.add(b"x", 1.0, DIFF, site="s")


@pytest.mark.parametrize("bound", [None, math.inf, math.nan, 1e38])
def test_a_bound_that_is_unknown_or_too_large_does_not_spare_an_update_the_look(
    bound: float | None,
) -> None:
    layout = flat(3)
    buffer, update = Buffer(layout), blob_of(layout, {"x": [1, math.nan, 3]})
    with pytest.raises(NonFiniteUpdate):
        buffer.add(update, 1.0, DIFF, site="s", bound=bound)
    assert len(buffer) == 0


def test_a_known_bound_spares_the_look_at_the_numbers_and_no_other() -> None:
    layout = flat(3)
    buffer, update = Buffer(layout), blob_of(layout, {"x": [1, math.nan, 3]})
    buffer.add(update, 1.0, DIFF, bound=3.0)  # whoever gives a bound has looked
    assert len(buffer) == 1
    with pytest.raises(BadUpdate, match="1 bytes"):
        buffer.add(b"x", 1.0, DIFF, bound=3.0)
    with pytest.raises(BadUpdate, match="weight"):
        buffer.add(update, -1.0, DIFF, bound=3.0)
    with pytest.raises(NonFiniteUpdate):
        buffer.add(update, 3e32, DIFF, bound=3.0)


@given(
    st.lists(st.floats(0, 3, width=32), min_size=1, max_size=5),
    st.integers(0, 3),
    st.sampled_from([1, 7, (1 << 17) + 11]),
    st.booleans(),
)
@settings(deadline=None)
def test_several_updates_at_once_come_to_the_same_bits_as_one_after_the_other(
    weights: list[float], before: int, length: int, one_thread: bool
) -> None:
    layout = Layout.canonical(
        [("x", DTYPES["F32"], (length,)), ("h", DTYPES["BF16"], (length,)),
         ("n", DTYPES["I32"], (3,)), ("m", DTYPES["BOOL"], (2,))], "torch",
    )  # fmt: skip
    rng = np.random.default_rng(length + len(weights))
    updates = [
        blob_of(layout, {"x": rng.normal(size=length), "h": rng.normal(size=length),
                         "n": rng.integers(-9, 9, 3), "m": rng.integers(0, 2, 2)})
        for _ in range(before + len(weights))
    ]  # fmt: skip
    one, many = Buffer(layout), Buffer(layout)
    for update in updates[:before]:
        one.add(update, 0.3, DIFF)
        many.add(update, 0.3, DIFF)
    pairs = zip(updates[before:], weights, strict=True)
    addends = [Addend(update, weight, i) for i, (update, weight) in enumerate(pairs)]
    with torch_threads(1 if one_thread else 2):
        for each in addends:
            one.add(each.update, each.weight, DIFF, staleness=each.staleness)
        many.add_all(addends)
    assert one.tally == many.tally
    first, second = one.swap(), many.swap()
    for spec in layout.specs:
        a, b = (sums.numbers(spec.start, spec.elements) for sums in (first, second))
        assert a.tobytes() == b.tobytes()


# Stepping --------------------------------------------------------------------


def mixed() -> Layout:
    return Layout.canonical(
        [("w", DTYPES["F32"], (4,)), ("head", DTYPES["F32"], (2,)), ("h", DTYPES["BF16"], (3,)),
         ("steps", DTYPES["I64"], (2,)), ("mask", DTYPES["BOOL"], (3,)), ("b", DTYPES["U8"], (2,))],
        "torch",
    )  # fmt: skip


def test_a_step_treats_each_type_as_it_should() -> None:
    layout, rule = mixed(), FedBuff(optimizer=SGD(0.5), exclude_vars=["head"])
    answers = rule.answers(layout)
    old = blob_of(layout, {
        "w": [1, 2, 3, 4], "head": [7, 8], "h": [1, 1, 1], "steps": [100, 2**40],
        "mask": [0, 0, 1], "b": [250, 3],
    })  # fmt: skip
    buffer = Buffer(answers, rule.params_type)
    for weight, move, mask in ((0.5, 2.0, [0, 1, 0]), (1.5, 6.0, [1, 1, 0])):
        update = blob_of(answers, {
            "w": [move] * 4, "h": [move] * 3, "steps": [move, move], "mask": mask, "b": [move] * 2,
        })  # fmt: skip
        buffer.add(update, weight, DIFF)
    new = stepped(old, layout, buffer.swap(), rule)
    assert new[: layout.data_start] == layout.header
    step = 0.5 * (0.5 * 2 + 1.5 * 6) / 2  # learning rate x sum / count
    np.testing.assert_array_equal(numbers(new, layout, "w"), np.array([1, 2, 3, 4]) + step)
    np.testing.assert_array_equal(numbers(new, layout, "h"), [1 + step] * 3)
    np.testing.assert_array_equal(numbers(new, layout, "head"), [7, 8])
    np.testing.assert_array_equal(numbers(new, layout, "mask"), [1, 1, 0])  # the newest
    np.testing.assert_array_equal(lanes_of(new, layout, "steps"), [105, 2**40 + 5])  # their mean
    np.testing.assert_array_equal(lanes_of(new, layout, "b"), [255, 8])  # saturates


def test_integers_are_mixed_and_rounded_by_fedasync() -> None:
    layout, rule = flat(3, "I32"), FedAsync(alpha=0.25)
    buffer = Buffer(layout, rule.params_type)
    buffer.add(blob_of(layout, {"x": [10, 2, -7]}), 0.25, FULL)
    new = stepped(blob_of(layout, {"x": [0, 0, 1]}), layout, buffer.swap(), rule)
    np.testing.assert_array_equal(lanes_of(new, layout, "x"), [2, 0, -1])  # 2.5, 0.5: half to even


def test_a_step_of_updates_that_weigh_nothing_stays_where_it_is() -> None:
    layout = Layout.canonical([("x", DTYPES["F32"], (2,)), ("n", DTYPES["I32"], (1,))], "torch")
    old = blob_of(layout, {"x": [1, 2], "n": [3]})
    for rule in (FedBuff(), FedBuff(divide_by="weight"), FedAsync()):
        buffer = Buffer(layout, rule.params_type)
        buffer.add(blob_of(layout, {"x": [9, 9], "n": [9]}), 0.0, rule.params_type)
        assert stepped(old, layout, buffer.swap(), rule) == old


def test_a_step_reads_the_sums_and_changes_nothing_in_them() -> None:
    layout, rule = flat(100), FedBuff(optimizer=Adam())
    buffer, old = Buffer(layout), random_blob(layout, 1)
    buffer.add(random_blob(layout, 2), 1.0, DIFF)
    sums = buffer.swap()
    once = stepped(old, layout, sums, rule, state=new_state(layout, rule))
    assert stepped(old, layout, sums, rule, state=new_state(layout, rule)) == once != old


def test_a_model_that_would_leave_its_range_is_named() -> None:
    layout = Layout.canonical([("a", DTYPES["F16"], (2,)), ("b", DTYPES["F16"], (2,))], "torch")
    rule = FedBuff(optimizer=SGD(10.0))
    buffer = Buffer(layout)
    buffer.add(blob_of(layout, {"a": [1, 1], "b": [1, 60_000]}), 1.0, DIFF)
    with pytest.raises(NonFiniteModel, match="'b'") as caught:
        stepped(blob_of(layout, {"a": [0, 0], "b": [0, 0]}), layout, buffer.swap(), rule)
    assert caught.value.tensor == "b"


def test_sums_that_do_not_fit_the_rule_are_refused() -> None:
    layout, rule = flat(2), FedBuff()
    old = blob_of(layout, {"x": [0, 0]})
    with pytest.raises(BadSetting, match="none to step with"):
        stepped(old, layout, Buffer(layout).swap(), rule)

    def filled(layout: Layout, kind: Any) -> Sums:
        buffer = Buffer(layout, kind)
        buffer.add(random_blob(layout, 1), 1.0, kind)
        return buffer.swap()

    with pytest.raises(BadSetting, match="another layout"):
        stepped(old, layout, filled(flat(3), DIFF), rule)
    with pytest.raises(BadSetting, match="of FULL updates; the rule needs DIFF"):
        stepped(old, layout, filled(layout, FULL), rule)
    with pytest.raises(BadSetting, match="'momentum' is missing"):
        stepped(old, layout, filled(layout, DIFF), FedBuff(optimizer=Adam()))


def test_a_step_can_be_cancelled_between_chunks() -> None:
    layout = flat(1 << 20)
    buffer = Buffer(layout)
    buffer.add(random_blob(layout, 1), 1.0, DIFF)
    sums, written = buffer.swap(), list[int]()

    def cancel() -> None:
        if len(written) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(random_blob(layout, 2), layout, sums, FedBuff(),
              lambda data: written.append(len(data)), checkpoint=cancel)  # fmt: skip
    assert written == [layout.data_start, 1 << 20, 1 << 20]
