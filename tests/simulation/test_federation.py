"""A faulty federation loses no update and counts none twice, whatever the seed."""

from __future__ import annotations

from collections import Counter

import pytest

from covey.actors.observe.events import EventKind
from covey.actors.roles.aggregator import Aggregator
from covey.actors.roles.messages import Contribute

from .arithmetic import TROUBLES, oracle
from .federation import FAULTS, Account, Scenario, run
from .verdict import Reading, violations

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
        account = check(seed)
        if seed % 10 == 0:
            assert run(seed).events_hash == account.events_hash


@pytest.mark.parametrize("seed", SUITE[::10])
def test_a_seed_takes_the_same_way_twice(seed: int) -> None:
    first, second = run(seed), run(seed)
    assert first.events_hash == second.events_hash
    assert first.model == second.model
    assert (first.struck, first.messages, first.seconds) == (
        second.struck,
        second.messages,
        second.seconds,
    )


def test_without_its_duplicate_check_the_aggregator_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(self: Aggregator, msg: Contribute) -> bool:
        return False

    monkeypatch.setattr(Aggregator, "_is_repetition", never)
    found = (violations(run(seed)) for seed in SUITE)
    assert any("counted 2 times" in text for texts in found for text in texts)


def test_the_suite_meets_every_fault_and_every_end() -> None:
    struck: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    repeated = refused = 0
    troubles: set[str] = set()
    for seed in SUITE:
        account = run(seed)
        reading = Reading.of(account.events)
        struck.update(account.struck)
        troubles.update(account.ledger.troubles.values())
        taken = sum(reading.accepted.values())
        bad = sum(kind == "BadUpdate" for _, _, kind in reading.failed) - len(reading.spoiled)
        repeated += account.messages["Submit"] > taken + len(reading.failed)
        refused += bad
        assert reading.end is not None
        ends[reading.end.data["status"]] += 1
        assert account.events[0].kind is EventKind.RUN_STARTED
    assert set(FAULTS) <= set(struck)
    assert troubles == set(TROUBLES)
    assert struck["envelopes lost"] > 500
    assert repeated > 5
    assert refused > 5
    assert min(ends[status] for status in ("completed", "failed", "aborted")) > 0
    assert sum(Scenario.draw(seed).calm for seed in SUITE) > 5


def test_the_oracle_tells_one_lost_and_one_doubled_update() -> None:
    whole = oracle(3, [[0, 1, 2], [0, 2]])
    assert whole != oracle(3, [[0, 1, 2], [0]])
    assert whole != oracle(3, [[0, 1, 2], [0, 2, 2]])
    assert whole != oracle(3, [[0, 1], [0, 2]])
    assert whole != oracle(3, [[0, 1, 2], [0, 1]])
