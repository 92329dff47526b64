"""When a round is over, whether it can still succeed, and what its metrics are."""

from __future__ import annotations

import pytest

from covey.actors.roles.messages import Failure, Update
from covey.actors.roles.rounds import Round

SITES = ("site-1", "site-2", "site-3")
FAILURE = Failure("ValueError", "no")


def update(weight: float = 1.0, **metrics: float) -> Update:
    return Update(None, weight=weight, metrics=metrics)


def test_a_round_settles_with_its_last_answer() -> None:
    work = Round.of("train", 0, 2, SITES)
    for site in SITES:
        assert not work.settled
        work.finish(site, update())
    assert work.settled
    assert work.met


@pytest.mark.parametrize(("minimum", "hopeless"), [(3, True), (2, False)])
def test_a_round_is_hopeless_as_soon_as_too_few_are_left(minimum: int, hopeless: bool) -> None:
    work = Round.of("train", 0, minimum, SITES)
    assert work.fail("site-1", FAILURE)
    assert work.hopeless is hopeless
    assert work.settled is hopeless
    assert not work.fail("site-1", FAILURE)  # counts once


def test_a_round_of_nobody_is_not_met() -> None:
    work = Round.of("evaluate", 3, 0, ())
    assert work.settled
    assert not work.met


def test_a_site_that_comes_back_is_waited_for_again() -> None:
    work = Round.of("train", 0, 1, SITES[:1])
    work.fail("site-1", FAILURE)
    work.reopen("site-1")
    assert not work.settled
    work.finish("site-1", update())
    assert work.met
    assert not work.failed


def test_an_update_that_turns_out_unfit_no_longer_counts() -> None:
    work = Round.of("train", 0, 2, SITES[:2])
    for site in SITES[:2]:
        work.finish(site, update())
    work.spoil("site-2", FAILURE)
    assert not work.met
    assert list(work.failed) == ["site-2"]


def test_metrics_are_weighted_means_whatever_the_order_of_answers() -> None:
    means: set[float] = set()
    for order in (SITES, SITES[::-1]):
        work = Round.of("train", 0, 1, SITES)
        for site in order:
            number = int(site[-1])
            work.finish(site, update(number, loss=0.1 * number))
        means.add(work.metrics()["loss"])
    (mean,) = means  # to the last bit
    assert mean == pytest.approx((0.1 + 0.4 + 0.9) / 6)
