"""Weights that no mean can be made of are refused, and by name where one site is to blame."""

from __future__ import annotations

import pytest

from covey.algorithms import BadSetting, BadUpdate, Contribution, FedAvg, UpdateInfo, fold
from covey.algorithms.tensors import DTYPES, Layout, ParamsType

HUGE = 1.7e308


def test_a_weight_that_its_factor_makes_infinite_names_the_site() -> None:
    rule = FedAvg(aggregation_weights={"site-1": 10.0})
    with pytest.raises(BadUpdate, match="site-1 sent a weight of"):
        rule.weigh(UpdateInfo("site-1", HUGE))
    assert rule.weigh(UpdateInfo("site-2", HUGE)) == HUGE


def test_weights_whose_sum_is_infinite_are_refused_before_anything_is_written() -> None:
    layout = Layout.canonical([("w", DTYPES["F32"], (3,))], "numpy")
    blob = layout.header + bytes(layout.size - layout.data_start)
    updates = [Contribution(f"site-{i}", HUGE, ParamsType.FULL, blob) for i in (1, 2)]
    written: list[memoryview] = []
    with pytest.raises(BadSetting, match="sum of their weights is infinite"):
        fold(blob, layout, updates, FedAvg(), written.append)
    assert written == []
