"""A difference is what an update changes of the model it began from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from covey.algorithms import BadUpdate
from covey.algorithms.tensors import Layout, Packer, difference


def blob(state: Mapping[str, Any]) -> tuple[Layout, bytearray]:
    layout = Layout.of(state)
    return layout, Packer(layout).pack(state)


OLD = {
    "w": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "count": torch.tensor([7], dtype=torch.int64),
    "mask": torch.tensor([True, False]),
    "half": torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
    "double": torch.tensor([1.5], dtype=torch.float64),
}


def test_numbers_are_subtracted_and_flags_are_the_senders_own() -> None:
    new = {
        "w": OLD["w"] + 0.25,
        "count": torch.tensor([10], dtype=torch.int64),
        "mask": torch.tensor([False, False]),
        "half": torch.tensor([1.5, 1.0], dtype=torch.bfloat16),
        "double": torch.tensor([2.0], dtype=torch.float64),
    }
    layout, ours = blob(new)
    got = Packer(layout).unpack(difference(layout, ours, *blob(OLD))[0])
    assert torch.equal(got["w"], torch.full((2, 3), 0.25))
    assert got["count"].tolist() == [3]
    assert got["mask"].tolist() == [False, False]
    assert got["half"].tolist() == [0.5, -1.0]
    assert got["double"].tolist() == [0.5]


def test_a_part_of_the_model_is_found_where_it_lies() -> None:
    layout, ours = blob({"double": OLD["double"] * 2, "w": OLD["w"] * 2})
    got = Packer(layout).unpack(difference(layout, ours, *blob(OLD))[0])
    assert torch.equal(got["w"], OLD["w"])
    assert torch.equal(got["double"], OLD["double"])


def test_many_numbers_of_a_short_type_are_rounded_once() -> None:
    rng = np.random.default_rng(3)
    a, b = (torch.tensor(rng.normal(size=200_001)).to(torch.bfloat16) for _ in range(2))
    layout, ours = blob({"x": a})
    got = Packer(layout).unpack(difference(layout, ours, *blob({"x": b}))[0])["x"]
    assert torch.equal(got, (a.double() - b.double()).to(torch.bfloat16))


@pytest.mark.parametrize(
    "new", [{"v": torch.ones(2)}, {"double": torch.ones(2, dtype=torch.float64)}]
)
def test_what_the_model_has_not_is_named(new: dict[str, Any]) -> None:
    layout, ours = blob(new)
    with pytest.raises(BadUpdate, match=next(iter(new))):
        difference(layout, ours, *blob(OLD))
