"""A result counts once for its lease, and only while the lease runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from covey.actors.roles.leases import REMEMBERED, Lease, Leases


def test_a_lease_names_its_site_its_version_and_its_end() -> None:
    leases = Leases(10.0)
    lease = leases.grant("a", 3, 5.0)
    assert (lease.site, lease.version, lease.began, lease.until) == ("a", 3, 5.0, 15.0)
    assert leases.of("a") is leases.get(lease.id) is lease
    assert (len(leases), list(leases.running)) == (1, [lease])


def test_a_site_has_one_task_at_a_time() -> None:
    leases = Leases(math.inf)
    leases.grant("a", 0, 0.0)
    with pytest.raises(ValueError, match="a has a task"):
        leases.grant("a", 0, 0.0)


def test_a_result_counts_once_and_a_repetition_is_told_from_a_stale_one() -> None:
    leases = Leases(10.0)
    lease = leases.grant("a", 0, 0.0)
    assert leases.standing("a", lease.id) == "accepted"
    assert leases.settle(lease.id) is lease
    assert leases.settle(lease.id) is None
    assert leases.standing("a", lease.id) == "duplicate"
    assert leases.standing("a", lease.id + 1) == "stale"


def test_a_result_in_the_name_of_another_site_is_refused() -> None:
    leases = Leases(10.0)
    lease = leases.grant("a", 0, 0.0)
    assert leases.standing("b", lease.id) == "stale"


def test_a_lease_ends_at_its_time_and_what_comes_then_is_stale() -> None:
    leases = Leases(10.0)
    first, second = leases.grant("a", 0, 0.0), leases.grant("b", 0, 4.0)
    assert leases.expire(9.999) == []
    assert leases.expire(10.0) == [first]
    assert leases.standing("a", first.id) == "stale"
    assert leases.expire(14.0) == [second]
    assert len(leases) == 0


def test_the_end_of_a_settled_lease_is_no_news() -> None:
    leases = Leases(10.0)
    leases.settle(leases.grant("a", 0, 0.0).id)
    again = leases.grant("a", 1, 5.0)
    assert leases.expire(10.0) == []
    assert leases.expire(15.0) == [again]


def test_a_lease_that_is_revoked_frees_its_site() -> None:
    leases = Leases(10.0)
    lease = leases.grant("a", 0, 0.0)
    assert leases.revoke("a") is lease
    assert leases.revoke("a") is None
    assert leases.grant("a", 0, 1.0).id > lease.id


def test_a_lease_whose_clock_is_stopped_does_not_end() -> None:
    leases = Leases(10.0)
    lease = leases.grant("a", 0, 0.0)
    leases.stop_clock(lease.id)
    assert leases.expire(100.0) == []
    assert leases.standing("a", lease.id) == "accepted"
    assert leases.settle(lease.id) is not None


def test_few_settled_leases_are_remembered() -> None:
    leases = Leases(math.inf)
    for _ in range(REMEMBERED + 1):
        leases.settle(leases.grant("a", 0, 0.0).id)
    assert leases.standing("a", 1) == "stale"
    assert leases.standing("a", 2) == "duplicate"


@dataclass
class Model:
    """What has been done with leases, in the plainest form."""

    running: dict[int, Lease] = field(default_factory=dict[int, Lease])
    settled: set[int] = field(default_factory=set[int])
    ended: set[int] = field(default_factory=set[int])


class LeasesKeepTheirWord(RuleBasedStateMachine):
    """Any order of grants, results, deaths and time."""

    def __init__(self) -> None:
        super().__init__()
        self.leases = Leases(10.0)
        self.model = Model()
        self.now = 0.0
        self.most = 0

    @rule(site=st.sampled_from("abcd"), version=st.integers(0, 3))
    def grant(self, site: str, version: int) -> None:
        if self.leases.of(site) is None:
            lease = self.leases.grant(site, version, self.now)
            assert lease.id > self.most
            self.most = lease.id
            self.model.running[lease.id] = lease

    @precondition(lambda self: self.most)
    @rule(data=st.data())
    def result(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(1, self.most))
        lease = self.model.running.pop(number, None)
        site = lease.site if lease is not None else "a"
        standing = self.leases.standing(site, number)
        if lease is not None:
            assert standing == "accepted"
            assert self.leases.settle(number) == lease
            self.model.settled.add(number)
        else:
            assert standing == ("duplicate" if number in self.model.settled else "stale")

    @rule(site=st.sampled_from("abcd"))
    def death(self, site: str) -> None:
        lease = self.leases.revoke(site)
        if lease is not None:
            del self.model.running[lease.id]
            self.model.ended.add(lease.id)

    @rule(seconds=st.floats(0.0, 12.0))
    def time(self, seconds: float) -> None:
        self.now += seconds
        ended = self.leases.expire(self.now)
        late = [each for each in self.model.running.values() if each.until <= self.now]
        assert sorted(ended, key=lambda lease: lease.id) == sorted(late, key=lambda lease: lease.id)
        for lease in ended:
            del self.model.running[lease.id]
            self.model.ended.add(lease.id)

    @invariant()
    def who_has_what_is_known(self) -> None:
        assert list(self.leases.running) == list(self.model.running.values())


TestLeasesKeepTheirWord = LeasesKeepTheirWord.TestCase
TestLeasesKeepTheirWord.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
