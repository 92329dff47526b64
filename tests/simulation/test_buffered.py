"""Without rounds, too, a faulty federation loses no update and counts none twice."""

from __future__ import annotations

from collections import Counter

import pytest

from covey.actors.observe.events import EventKind
from covey.actors.roles.buffering import BufferedAggregator
from covey.actors.roles.messages import Leased

from .buffered import run, taken, violations
from .federation import Account

SUITE = range(50)
SOAK = range(50, 1050)


def check(seed: int) -> Account:
    account = run(seed)
    assert violations(account) == [], f"seed {seed}: {account.scenario}"
    return account


@pytest.mark.parametrize("seed", SUITE)
def test_every_update_counts_once_under_any_misfortune(seed: int) -> None:
    check(seed)


@pytest.mark.soak
@pytest.mark.parametrize("first", SOAK[::50])
def test_every_update_counts_once_in_a_thousand_federations(first: int) -> None:
    for seed in range(first, first + 50):
        check(seed)


@pytest.mark.parametrize("seed", SUITE[::25])
def test_a_seed_takes_the_same_way_twice(seed: int) -> None:
    first, second = run(seed), run(seed)
    assert first.events_hash == second.events_hash
    assert first.model == second.model


def test_without_its_duplicate_check_the_aggregator_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(self: BufferedAggregator, each: Leased) -> bool:
        return False

    monkeypatch.setattr(BufferedAggregator, "_is_repetition", never)
    assert any(violations(run(seed)) for seed in SUITE)


def test_the_suite_meets_crashes_staleness_and_late_answers() -> None:
    struck: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    stale = late = updates = 0
    for seed in SUITE[:25]:
        account = run(seed)
        struck.update(account.struck)
        updates += len(taken(account))
        for event in account.events:
            stale += event.data.get("staleness", 0) > 0 and event.kind is EventKind.SITE_FINISHED
            late += event.data.get("kind") == "LeaseOver"
        ends[account.events[-1].data["status"]] += 1
    assert struck["aggregator"] > 10
    assert min(stale, late) > 5
    assert updates > 200
    assert ends["completed"] > 5
