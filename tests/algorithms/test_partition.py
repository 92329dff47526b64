"""The Dirichlet split: every sample once, deterministic, as skewed as asked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.algorithms import BadSetting, partition


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=200),
    num_sites=st.integers(1, 8),
    alpha=st.sampled_from([0.01, 0.1, 0.5, 1.0, 100.0, math.inf]),
    seed=st.integers(0, 2**70),
    min_size=st.integers(0, 4),
)
@settings(max_examples=150, deadline=None)
def test_every_sample_goes_to_exactly_one_site(
    labels: list[int], num_sites: int, alpha: float, seed: int, min_size: int
) -> None:
    if len(labels) < num_sites * min_size:
        with pytest.raises(BadSetting, match="too few"):
            partition(labels, num_sites, alpha, seed, min_size=min_size)
        return
    parts = partition(labels, num_sites, alpha, seed, min_size=min_size)
    assert len(parts) == num_sites
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert all(len(part) >= min_size for part in parts)
    assert all((np.diff(part) > 0).all() for part in parts)
    again = partition(np.array(labels), num_sites, alpha, seed, min_size=min_size)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_a_split_is_of_indices_and_repeats() -> None:
    labels = [0, 1, 2] * 6
    parts = partition(labels, 3, 0.5, 7)
    assert [part.tolist() for part in parts] == [
        part.tolist() for part in partition(labels, 3, alpha=0.5, seed=7)
    ]
    assert parts[0].dtype == np.int64


def test_the_seed_decides() -> None:
    labels = np.arange(1000) % 10
    one, two = partition(labels, 4, 0.5, 1), partition(labels, 4, 0.5, 2)
    assert any(not np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def skew(alpha: float) -> float:
    """Mean share of a site's most frequent label."""
    labels = np.arange(10_000) % 10
    parts = partition(labels, 10, alpha, 3, min_size=10)
    return float(np.mean([np.bincount(labels[part]).max() / len(part) for part in parts]))


def test_a_smaller_alpha_is_more_skewed() -> None:
    assert skew(0.05) > skew(0.5) > skew(100.0) >= skew(math.inf)
    assert skew(math.inf) == pytest.approx(0.1)


def test_labels_may_be_text() -> None:
    parts = partition(["cat", "dog"] * 50, 2, 1.0)
    assert sum(map(len, parts)) == 100


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        (([1, 2], 0), "num_sites"),
        (([1, 2], 1, 0.0), "alpha"),
        (([1, 2], 1, math.nan), "alpha"),
        (([[1, 2]], 1), "labels"),
        (([1, 2], 3), "min_size"),
    ],
)
def test_unusable_arguments_are_refused(arguments: tuple[Any, ...], setting: str) -> None:
    with pytest.raises(BadSetting, match=setting):
        partition(*arguments)
    with pytest.raises(BadSetting, match="min_size"):
        partition([1], 1, min_size=-1)
