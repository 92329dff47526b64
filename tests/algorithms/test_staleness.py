"""Staleness functions: a fresh update weighs exactly 1, and the formulas are the papers'."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.algorithms import (
    BadSetting,
    Constant,
    Exponential,
    Hinge,
    Normalised,
    Polynomial,
    Staleness,
    Threshold,
    staleness_of,
)
from covey.algorithms.staleness import weight_at

SMALL = st.floats(0.0, 50.0)
FUNCTIONS: st.SearchStrategy[Staleness] = st.one_of(
    st.just(Constant()),
    st.builds(Polynomial, SMALL),
    st.builds(Threshold, st.integers(0, 20), SMALL),
    st.builds(Exponential, st.floats(0.01, 1.0)),
    st.builds(Hinge, SMALL, SMALL),
)


@given(FUNCTIONS)
def test_a_fresh_update_weighs_exactly_one(function: Staleness) -> None:
    assert function(0) == 1.0


@given(FUNCTIONS, st.integers(0, 1000))
def test_a_weight_is_finite_and_not_negative(function: Staleness, tau: int) -> None:
    assert weight_at(function, tau) == function(tau)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (Constant(), [1, 1, 1, 1, 1, 1]),
        (Polynomial(), [1, 2**-0.5, 3**-0.5, 0.5, 5**-0.5, 6**-0.5]),
        (Polynomial(1.0), [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6]),
        (Threshold(2, 0.25), [1, 1, 1, 0.25, 0.25, 0.25]),
        (Exponential(0.5), [1, 0.5, 0.25, 0.125, 0.0625, 0.03125]),
        (Hinge(10.0, 2.0), [1, 1, 1, 1 / 11, 1 / 21, 1 / 31]),
        (Normalised(Polynomial(), 3), [2, 2 * 2**-0.5, 2 * 3**-0.5, 1, 2 * 5**-0.5, 2 * 6**-0.5]),
    ],
)
def test_the_first_weights(function: Staleness, expected: list[float]) -> None:
    assert [function(tau) for tau in range(6)] == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("constant", {}, Constant()),
        ("polynomial", {}, Polynomial(0.5)),
        ("polynomial", {"exponent": 1.0}, Polynomial(1.0)),
        ("threshold", {"cutoff": 3, "after": 0.1}, Threshold(3, 0.1)),
        ("exponential", {"base": 0.7}, Exponential(0.7)),
        ("hinge", {"a": 2.0, "b": 1.0}, Hinge(2.0, 1.0)),
    ],
)
def test_functions_are_found_by_name(
    name: str, settings: dict[str, float], expected: Staleness
) -> None:
    assert staleness_of(name, **settings) == expected


def test_any_callable_is_taken_as_it_is() -> None:
    function: Staleness = lambda tau: 1.0 + tau  # noqa: E731
    assert staleness_of(function) is function
    with pytest.raises(BadSetting, match="brings its own settings"):
        staleness_of(function, exponent=1.0)


@pytest.mark.parametrize(
    ("name", "settings", "match"),
    [
        ("polynomal", {}, "did you mean 'polynomial'"),
        ("", {}, "'constant', 'polynomial', 'threshold', 'exponential', 'hinge'"),
        ("polynomial", {"exponant": 1.0}, r"exponant: polynomial takes .*did you mean 'exponent'"),
        ("constant", {"base": 1.0}, "constant takes no settings"),
        ("threshold", {"cutoff": 1}, "threshold also needs after"),
    ],
)
def test_what_is_misspelt_is_told(name: str, settings: dict[str, float], match: str) -> None:
    with pytest.raises(BadSetting, match=match):
        staleness_of(name, **settings)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Polynomial(-0.1),
        lambda: Polynomial(math.nan),
        lambda: Threshold(-1, 1.0),
        lambda: Threshold(1, -1.0),
        lambda: Threshold(1, math.inf),
        lambda: Exponential(0.0),
        lambda: Exponential(1.1),
        lambda: Exponential(math.nan),
        lambda: Hinge(-1.0, 1.0),
        lambda: Hinge(1.0, -1.0),
        lambda: Normalised(Constant(), -1),
        lambda: Normalised(Threshold(1, 0.0), 5),
        lambda: Normalised(Polynomial(-1.0), 5),
        lambda: weight_at(lambda tau: -1.0, 3),
        lambda: weight_at(lambda tau: math.nan, 3),
        lambda: weight_at(lambda tau: math.inf, 3),
        lambda: weight_at(Constant(), -1),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(BadSetting):
        staleness_of(make())
