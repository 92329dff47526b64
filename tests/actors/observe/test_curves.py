"""Curves are thinned without losing their extremes; scales and shares are right."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from covey.actors.observe.curves import (
    MOST_POINTS,
    Thinned,
    bands,
    bars,
    bounded,
    histogram,
    outermost,
    quantile,
    shares_by_speed,
    thin,
    ticks,
)

NUMBERS = st.floats(-1e300, 1e300)


@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=1, max_size=3000))
def test_a_thinned_curve_is_short_and_keeps_its_extremes_its_order_and_its_end(
    heights: list[float],
) -> None:
    points = [(float(x), y) for x, y in enumerate(heights)]
    thinned = thin(points)
    assert len(thinned) <= MOST_POINTS + 1
    places = [x for x, _ in thinned]
    assert places == sorted(set(places))
    assert places[-1] == points[-1][0]
    known = [y for y in heights if not math.isnan(y)]
    kept = [y for _, y in thinned if not math.isnan(y)]
    assert (min(known), max(known)) == (min(kept), max(kept)) if known else not kept


@given(st.integers(0, 5000))
def test_a_curve_that_comes_point_by_point_stays_short_and_even(count: int) -> None:
    curve = Thinned()
    for number in range(count):
        curve.add(number, -number)
    assert curve.count == count
    assert len(curve.points) == count or MOST_POINTS <= len(curve.points) < 2 * MOST_POINTS
    strides = {b[0] - a[0] for a, b in pairwise(curve.points)}
    assert len(strides) <= 1


@given(NUMBERS, NUMBERS)
def test_ticks_are_a_few_between_both_ends(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    assume(high - low > 1e-6 * max(abs(low), abs(high)) and high - low > 1e-290)
    found = ticks(low, high)
    slack = 1e-6 * (high - low)
    assert 2 <= len(found) <= 6
    assert found == sorted(set(found))
    assert low - slack <= found[0]
    assert found[-1] <= high + slack


def test_ticks_are_round_numbers() -> None:
    assert ticks(0.0, 1.0) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(-0.03, 1.03) == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    assert ticks(0.0, 97.0) == [0.0, 20.0, 40.0, 60.0, 80.0]


def test_a_band_is_the_spread_of_each_round_and_leaves_nan_out() -> None:
    values = [(0, float(value)) for value in range(101)] + [(1, 5.0), (1, math.nan), (2, math.nan)]
    first, second = bands(values)
    assert first == (0.0, 10.0, 50.0, 90.0)
    assert second == (1.0, 5.0, 5.0, 5.0)


def test_rounds_are_taken_together_where_there_are_too_many() -> None:
    assert len(bands([(round_, 1.0) for round_ in range(1000)])) <= 60
    together = bars({round_: [float(round_), 1.0] for round_ in range(120)})
    assert len(together) == 60
    assert together[0] == (0, 1, [0.5, 1.0])
    assert together[-1] == (118, 119, [118.5, 1.0])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 1))
def test_a_quantile_lies_within_the_values(values: list[float], share: float) -> None:
    values.sort()
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert values[0] - slack <= quantile(values, share) <= values[-1] + slack


def test_the_outermost_sites_have_at_least_half_of_the_most_answers() -> None:
    sites = [0, 0, 1, 1, 2, 2, 3]
    values = [1.0, 1.0, 5.0, math.nan, 3.0, 3.0, -9.0]
    assert outermost(sites, values) == (3, 1)
    assert outermost([*sites, 0, 0, 2, 2], [*values, 1.0, 1.0, 3.0, 3.0]) == (0, 2)
    assert outermost([0, 0], [1.0, 2.0]) is None


@given(st.dictionaries(st.integers(0, 5000), st.integers(1, 9), max_size=50))
def test_a_histogram_counts_everything_in_neighbouring_bins(counts: dict[int, int]) -> None:
    bins = histogram(counts)
    assert len(bins) <= 60
    assert sum(count for *_, count in bins) == sum(counts.values())
    for before, after in pairwise(bins):
        assert after[0] == before[1] + 1
    for number in counts:
        assert any(first <= number <= last for first, last, _ in bins)


def test_shares_go_from_the_fastest_tenth_to_the_slowest() -> None:
    sites = [(float(speed), 1 if speed < 50 else 3) for speed in range(100)]
    shares = shares_by_speed(reversed(sites))
    assert shares == pytest.approx([0.05] * 5 + [0.15] * 5)
    assert shares_by_speed([(2.0, 1), (1.0, 3)]) == [0.75, 0.25]
    assert shares_by_speed([]) == []


@given(st.lists(st.tuples(st.floats(0, 9), st.integers(1, 9)), min_size=1, max_size=60))
def test_shares_are_of_all_answers(sites: list[tuple[float, int]]) -> None:
    shares = shares_by_speed(sites)
    assert len(shares) == min(10, len(sites))
    assert sum(shares) == pytest.approx(1)


def test_infinity_is_bounded_and_nan_stays() -> None:
    assert bounded(math.inf) == 1e300
    assert bounded(-math.inf) == -1e300
    assert math.isnan(bounded(math.nan))
