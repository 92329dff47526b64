"""Stop conditions and patience."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.algorithms import BadSetting, Patience, StopCondition


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("accuracy >= 0.9", StopCondition("accuracy", ">=", 0.9)),
        ("loss<1e-3", StopCondition("loss", "<", 1e-3)),
        ("  val/loss  <=  .5 ", StopCondition("val/loss", "<=", 0.5)),
        ("a.b-c > -2", StopCondition("a.b-c", ">", -2.0)),
        ("epoch == 10", StopCondition("epoch", "==", 10.0)),
        ("mean squared error < inf", StopCondition("mean squared error", "<", math.inf)),
    ],
)
def test_conditions_are_read(text: str, condition: StopCondition) -> None:
    assert StopCondition.parse(text) == condition
    assert StopCondition.parse(str(condition)) == condition


@pytest.mark.parametrize(
    "text",
    ["", "accuracy", "accuracy >=", ">= 0.9", "accuracy => 0.9", "accuracy >= high", "a > 1 > 0",
     "accuracy >= nan", "accuracy != 1", "1 < accuracy", "__import__('os') > 1", "a >= 0.9 or b"],
)  # fmt: skip
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(BadSetting, match="stop_cond"):
        StopCondition.parse(text)


@given(text=st.text(max_size=30))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    try:
        condition = StopCondition.parse(text)
    except BadSetting:
        return
    assert not math.isnan(condition.threshold)


def test_conditions_compare() -> None:
    condition = StopCondition.parse("accuracy >= 0.9")
    assert condition.met({"accuracy": 0.9, "loss": 1.0})
    assert not condition.met({"accuracy": 0.89})
    assert not condition.met({"loss": 1.0})
    assert StopCondition.parse("loss < 0.1").met({"loss": 0.0})


@pytest.mark.parametrize("comparison", [">=", "<=", ">", "<", "=="])
def test_nan_meets_no_condition(comparison: str) -> None:
    assert not StopCondition.parse(f"loss {comparison} 0").met({"loss": math.nan})


def test_patience_ends_after_the_given_versions_without_improvement() -> None:
    patience = Patience(2, "loss")
    answers = [patience.observe({"loss": v}) for v in (3.0, 2.0, 2.0, 1.9, 5.0, math.nan)]
    assert answers == [False, False, False, False, False, True]
    assert (patience.best, patience.waited) == (1.9, 2)


def test_improvement_must_exceed_the_smallest_that_counts() -> None:
    patience = Patience(1, "accuracy", min_delta=0.1)
    assert not patience.observe({"accuracy": 0.5})
    assert patience.observe({"accuracy": 0.55})
    assert not patience.observe({"accuracy": 0.7})
    assert patience.observe({})


def test_patience_goes_on_where_it_was() -> None:
    assert Patience(3, "loss", best=1.0, waited=2).observe({"loss": 1.0})


@pytest.mark.parametrize(
    ("rounds", "mode", "min_delta"),
    [(0, "auto", 0.0), (1, "up", 0.0), (1, "min", -1.0), (1, "min", math.nan)],
)
def test_unusable_patience_is_refused(rounds: int, mode: str, min_delta: float) -> None:
    with pytest.raises(BadSetting):
        Patience(rounds, "loss", mode, min_delta)
