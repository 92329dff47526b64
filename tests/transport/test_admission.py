"""Admission counts strangers exactly; Refusals counts all and says little."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from covey.transport.admission import Admission, Caps, Refusals


@given(
    st.integers(0, 6),
    st.integers(0, 4),
    st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=60),
)
def test_no_more_stand_at_the_door_than_may(
    strangers: int, per_address: int, steps: list[tuple[bool, str]]
) -> None:
    admission = Admission(Caps(strangers, per_address))
    inside: Counter[str] = Counter()
    for enters, address in steps:
        if not enters:
            if inside[address]:
                admission.leave(address)
                inside[address] -= 1
        else:
            refused = admission.enter(address)
            if inside.total() >= strangers:
                assert refused == "strangers"
            elif inside[address] >= per_address:
                assert refused == "strangers-per-address"
            else:
                assert refused is None
                inside[address] += 1
        assert len(admission) == inside.total()


def test_addresses_that_have_left_cost_nothing() -> None:
    admission = Admission(Caps())
    for number in range(1000):
        assert admission.enter(f"10.0.0.{number}") is None
        admission.leave(f"10.0.0.{number}")
    for number in range(1000):
        assert admission.enter("full") == (None if number < 16 else "strangers-per-address")
    assert set(admission._by_address) == {"full"}


def test_all_refusals_are_counted_and_powers_of_two_are_told() -> None:
    told: list[tuple[str, int, str]] = []
    refusals = Refusals(lambda reason, count, detail: told.append((reason, count, detail)))
    for number in range(1, 1001):
        refusals.add("silent", f"peer {number}")
    refusals.add("alpn", "another")
    assert refusals.counts == {"silent": 1000, "alpn": 1}
    powers = [2**n for n in range(10)]
    assert told == [*(("silent", n, f"peer {n}") for n in powers), ("alpn", 1, "another")]
