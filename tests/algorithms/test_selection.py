"""Which version is best, and which way a metric points."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.algorithms import BadSetting, BestModel, mean_metrics, mode_of

ANY = st.floats(allow_nan=True, allow_infinity=True)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("accuracy", "max"),
        ("val_acc", "max"),
        ("auc", "max"),
        ("f1", "max"),
        ("lossless", "max"),
        ("loss", "min"),
        ("val_loss", "min"),
        ("valLoss", "min"),
        ("test/RMSE", "min"),
        ("mean squared error", "min"),
        ("neg_mean_squared_error", "max"),
        ("negative_log_likelihood_loss", "min"),
        ("perplexity", "min"),
        ("", "max"),
    ],
)
def test_the_direction_is_told_by_the_words_of_the_name(name: str, mode: str) -> None:
    assert mode_of(name) == mode


def test_a_given_direction_wins_and_an_unknown_one_is_refused() -> None:
    assert mode_of("loss", "max") == "max"
    assert mode_of("accuracy", "min") == "min"
    with pytest.raises(BadSetting, match="'up' is none of"):
        mode_of("loss", "up")
    with pytest.raises(BadSetting):
        BestModel("loss", "up")


@given(values=st.lists(ANY, max_size=20), mode=st.sampled_from(["min", "max"]))
def test_the_best_version_is_the_first_best_finite_value(values: list[float], mode: str) -> None:
    best = BestModel("m", mode)
    taken = [i for i, value in enumerate(values) if best.offer(i, {"m": value})]
    finite = [(value, i) for i, value in enumerate(values) if math.isfinite(value)]
    if not finite:
        assert best.version is best.value is None
        return
    expected = (min if mode == "min" else max)(value for value, _ in finite)
    assert best.value == expected
    assert best.version == next(i for value, i in finite if value == expected) == taken[-1]


def test_nan_is_never_the_best() -> None:
    best = BestModel("loss")
    assert not best.offer(0, {"loss": math.nan})
    assert best.offer(1, {"loss": 3.0})
    assert not best.offer(2, {"loss": math.nan})
    assert not best.offer(3, {"loss": -math.inf})
    assert not best.offer(4, {"accuracy": 1.0})
    assert (best.version, best.value) == (1, 3.0)


def test_selection_goes_on_where_it_was() -> None:
    best = BestModel("accuracy", "auto", version=4, value=0.8)
    assert best.mode == "max"
    assert not best.offer(5, {"accuracy": 0.8})
    assert best.offer(6, {"accuracy": 0.81})


def test_metrics_are_averaged_over_the_sites_that_reported_them() -> None:
    reports = [({"a": 1.0, "b": 2.0}, 1.0), ({"a": 4.0}, 2.0), ({"b": 3.0}, 0.0)]
    assert mean_metrics(reports) == {"a": 3.0, "b": 2.0}
    assert mean_metrics([]) == {}
    assert mean_metrics([({"a": 1.0}, 0.0), ({"a": 2.0}, 0.0)]) == {"a": 1.5}
    assert math.isnan(mean_metrics([({"a": 1.0}, 1.0), ({"a": math.nan}, 1.0)])["a"])
