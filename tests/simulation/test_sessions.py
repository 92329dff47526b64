"""Sessions lose nothing, double nothing and declare nobody dead, whatever the network does."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from covey.transport.sessions.lanes import Lane
from covey.transport.sessions.link import SessionLink

from .sessions import Account, run

SUITE = range(50)
SOAK = range(50, 10_050)


drawn = cache(run)


def check(seed: int) -> Account:
    return verify(drawn(seed))


def verify(account: Account) -> Account:
    seed = account.seed
    assert account.lost == [], f"seed {seed}: declared dead"
    for (sender, receiver), thread in account.threads.items():
        for is_bulk in (False, True):
            sent, arrived = thread.lane(thread.sent, is_bulk), thread.lane(thread.arrived, is_bulk)
            assert arrived == sent, f"seed {seed}: {sender} to {receiver}, bulk {is_bulk}"
    return account


def check_restart(seed: int) -> Account:
    account = drawn(seed, restart=True)
    why = "does not know the session any more"
    assert all(why in reason for _, reason in account.lost), f"seed {seed}: {account.lost}"
    for (sender, receiver), thread in account.threads.items():
        most = max(Counter(thread.arrived).values(), default=0)
        assert most <= 1, f"seed {seed}: {sender} to {receiver}, something came twice"
        for is_bulk in (False, True):
            arrived = thread.lane(thread.arrived, is_bulk)
            assert arrived == sorted(arrived), f"seed {seed}: {sender} to {receiver}, order"
        assert set(thread.arrived) <= set(thread.sent)
    return account


@pytest.mark.parametrize("seed", SUITE)
def test_every_envelope_arrives_once_whatever_befalls_the_network(seed: int) -> None:
    check(seed)


@pytest.mark.parametrize("seed", SUITE)
def test_after_a_restart_every_envelope_arrives_once_at_most(seed: int) -> None:
    check_restart(seed)


@pytest.mark.soak
@pytest.mark.parametrize("first", SOAK[::500])
def test_every_envelope_arrives_once_in_ten_thousand_networks(first: int) -> None:
    for seed in range(first, first + 500):
        check_restart(seed) if seed % 5 == 0 else check(seed)
        drawn.cache_clear()


def test_the_suite_meets_every_misfortune() -> None:
    struck: Counter[str] = Counter()
    connections = sent = losses = 0
    for seed in SUITE:
        account = check(seed)
        struck.update(account.struck)
        connections += account.connections
        sent += sum(len(thread.sent) for thread in account.threads.values())
        losses += len(check_restart(seed).lost)
    assert set(struck) == {"cut", "truncate", "vanish", "vanish-far", "blockade"}
    assert min(struck.values()) > 10
    assert connections > 200
    assert sent > 3000
    assert losses > 20


@pytest.mark.parametrize("fault", ["rewind", "accept"])
def test_lanes_that_do_not_repeat_or_do_not_compare_are_found_out(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "rewind":
        monkeypatch.setattr(Lane, "rewind", lambda self: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    else:
        monkeypatch.setattr(SessionLink, "received", (0, 0))
        monkeypatch.setattr(Lane, "accept", lambda self, number: True)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]

    def found(seed: int) -> bool:
        try:
            verify(run(seed))
        except AssertionError:
            return True
        return False

    assert any(found(seed) for seed in SUITE)


@pytest.mark.parametrize("seed", SUITE[::10])
def test_a_seed_takes_the_same_way_twice(seed: int) -> None:
    assert run(seed) == drawn(seed)
