"""Stacks: a model spread for many sites, and cut into one update for each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.algorithms.errors import BadUpdate
from covey.algorithms.tensors import DTYPES, Layout, Packer, Stack, difference

from .blobs import blob_of, lanes_of

LAYOUT = Layout.canonical(
    [
        ("w", DTYPES["F32"], (2, 3)),
        ("n", DTYPES["I64"], ()),
        ("half", DTYPES["BF16"], (5,)),
        ("wide", DTYPES["F64"], (2,)),
        ("mask", DTYPES["BOOL"], (3,)),
        ("none", DTYPES["F32"], (0, 4)),
    ],
    "torch",
)
VALUES: dict[str, Any] = {
    "w": np.arange(6.0),
    "n": [41],
    "half": [0.5, 1.0, -2.0, 8.0, 0.25],
    "wide": [1e-3, 7.0],
    "mask": [1, 0, 1],
    "none": [],
}
MODEL = blob_of(LAYOUT, VALUES)
PLAIN = LAYOUT.without(("half",))


@given(st.integers(1, 40))
def test_every_site_gets_a_copy_of_its_own_and_gives_it_back_unchanged(count: int) -> None:
    stack = Stack(LAYOUT, LAYOUT)
    params = stack.spread(MODEL, count)
    assert {name: tuple(value.shape) for name, value in params.items()} == {
        spec.name: (count, *spec.shape) for spec in LAYOUT.specs
    }
    rows, unfit = stack.cut(params, count)
    assert unfit == {}
    assert [row.tobytes() for row in rows] == [bytes(MODEL)] * count


@given(st.integers(2, 9), st.data())
def test_what_one_site_changes_is_in_its_own_update_alone(count: int, data: st.DataObject) -> None:
    stack, which = Stack(LAYOUT, LAYOUT), data.draw(st.integers(0, count - 1))
    params = stack.spread(MODEL, count)
    params["half"][which] += 1
    params["w"][which, 1, 2] = 100.0
    rows, _ = stack.cut(params, count)
    changed = blob_of(
        LAYOUT, VALUES | {"half": np.array(VALUES["half"]) + 1, "w": [0, 1, 2, 3, 4, 100]}
    )
    expected = [bytes(changed if i == which else MODEL) for i in range(count)]
    assert [row.tobytes() for row in rows] == expected


def test_differences_of_rows_are_those_of_single_updates() -> None:
    stack, count = Stack(LAYOUT, LAYOUT), 3
    params = stack.spread(MODEL, count)
    for i in range(count):
        for name in ("w", "half", "wide", "n"):
            params[name][i] += i
        params["mask"][i] = i == 1
    rows, _ = stack.cut(params, count)
    single = [difference(LAYOUT, row.tobytes(), LAYOUT, MODEL)[0] for row in rows]
    stack.subtract(rows, MODEL)
    assert [row.tobytes() for row in rows] == [bytes(each) for each in single]
    assert list(lanes_of(rows[2].tobytes(), LAYOUT, "w")) == [2.0] * 6


def test_tensors_that_are_left_out_may_come_and_are_not_in_updates() -> None:
    stack = Stack(LAYOUT, PLAIN, ("half",))
    rows, _ = stack.cut(stack.spread(MODEL, 2), 2)
    assert rows.shape == (2, PLAIN.size)
    stack.subtract(rows, MODEL)
    assert not lanes_of(rows[1].tobytes(), PLAIN, "wide").any()


def test_numpy_models_are_stacked_as_arrays() -> None:
    layout = Layout.canonical([("w", DTYPES["F32"], (3,))], "numpy")
    stack = Stack(layout, layout)
    params = stack.spread(blob_of(layout, {"w": [1, 2, 3]}), 2)
    params["w"] *= np.array([[1], [10]], np.float32)
    rows, _ = stack.cut(params, 2)
    assert list(Packer(layout).unpack(bytearray(rows[1].tobytes()))["w"]) == [10, 20, 30]


def test_a_site_whose_numbers_are_not_finite_is_told_apart_from_the_others() -> None:
    stack = Stack(LAYOUT, LAYOUT)
    params = stack.spread(MODEL, 4)
    params["wide"][2, 1] = float("nan")
    _, unfit = stack.cut(params, 4)
    assert list(unfit) == [2]
    assert unfit[2].tensor == "wide"


def test_tensors_without_their_axis_of_sites_are_refused_by_name() -> None:
    stack = Stack(LAYOUT, LAYOUT)
    params = stack.spread(MODEL, 4)
    params["wide"] = params["wide"][0]
    with pytest.raises(BadUpdate, match=r"wide.*has shape \[2\], expected \[4, 2\]"):
        stack.cut(params, 4)
    del params["wide"]
    with pytest.raises(BadUpdate, match=r"wide.*is missing"):
        stack.cut(params, 4)
