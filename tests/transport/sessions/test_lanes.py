"""Lane against a plain list, and Rate by arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from covey.transport import RemoteProtocolError
from covey.transport.sessions.lanes import Lane
from covey.transport.sessions.link import Rate


class Conversation(RuleBasedStateMachine):
    """A sender's lane and a receiver's; the model is the list of all that was sent.

    What the sender has written to the connection lies in a list, from which the receiver takes.
    A break empties it: what was under way is lost.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sender, self.receiver = Lane(), Lane()
        self.everything: list[bytes] = []
        self.arrived: list[bytes] = []
        self.under_way: list[tuple[int, bytes]] = []
        self.written = 0  # number of the last that was written to this connection

    @rule(size=st.integers(0, 50))
    def send(self, size: int) -> None:
        frame = bytes([len(self.everything) % 256]) * size
        self.everything.append(frame)
        self.sender.add([frame[: size // 2], frame[size // 2 :]])

    @rule()
    def write(self) -> None:
        taken = self.sender.take()
        assert (taken is None) == (self.written == len(self.everything))
        if taken is not None:
            frame = b"".join(taken[0])
            assert len(frame) == taken[1]
            self.written += 1
            self.under_way.append((self.written, frame))

    @precondition(lambda self: self.under_way)
    @rule(count=st.integers(1, 5))
    def arrive(self, count: int) -> None:
        for number, frame in self.under_way[:count]:
            if self.receiver.accept(number):
                self.arrived.append(frame)
        del self.under_way[:count]

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(self.sender.acknowledged, self.receiver.received))
        self.sender.acknowledge(number)
        self.written = max(self.written, number)  # what the peer has is not written again

    @rule(data=st.data())
    def break_and_go_on(self, data: st.DataObject) -> None:
        self.arrive(data.draw(st.integers(0, 10)))
        self.under_way.clear()
        self.sender.acknowledge(self.receiver.received)
        self.sender.rewind()
        self.written = self.sender.acknowledged

    @rule()
    def break_and_go_on_by_an_old_word(self) -> None:
        self.under_way.clear()
        self.sender.rewind()
        self.written = self.sender.acknowledged

    @rule(beyond=st.integers(1, 5))
    def claim_what_was_never_sent(self, beyond: int) -> None:
        with pytest.raises(RemoteProtocolError, match="acknowledgement"):
            self.sender.acknowledge(len(self.everything) + beyond)

    @precondition(lambda self: self.sender.acknowledged)
    @rule()
    def take_an_acknowledgement_back(self) -> None:
        with pytest.raises(RemoteProtocolError, match="acknowledgement"):
            self.sender.acknowledge(self.sender.acknowledged - 1)

    @rule(beyond=st.integers(2, 5))
    def leave_one_out(self, beyond: int) -> None:
        with pytest.raises(RemoteProtocolError, match="sequence"):
            self.receiver.accept(self.receiver.received + beyond)

    @invariant()
    def what_arrived_is_the_beginning_of_what_was_sent(self) -> None:
        assert self.arrived == self.everything[: len(self.arrived)]
        assert self.receiver.received == len(self.arrived)

    @invariant()
    def what_is_kept_is_what_is_not_acknowledged(self) -> None:
        lane = self.sender
        kept = self.everything[lane.acknowledged :]
        assert len(lane) == len(kept)
        assert lane.bytes == sum(map(len, kept))
        assert lane.sent == len(self.everything)
        assert lane.waiting == lane.sent - max(self.written, lane.acknowledged)

    def teardown(self) -> None:
        """In the end everything can be made to arrive."""
        self.under_way.clear()
        self.sender.rewind()
        number = self.sender.acknowledged
        while (taken := self.sender.take()) is not None:
            number += 1
            if self.receiver.accept(number):
                self.arrived.append(b"".join(taken[0]))
        assert self.arrived == self.everything
        self.sender.clear()
        assert (len(self.sender), self.sender.bytes) == (0, 0)


Conversation.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_a_lane_is_a_list_of_which_nothing_is_lost_or_doubled = Conversation.TestCase


@given(
    st.floats(1.0, 1e9),
    st.lists(st.tuples(st.floats(0, 2), st.integers(1, 10**6)), min_size=1, max_size=50),
)
def test_a_rate_lets_no_more_through_than_time_and_one_burst(
    bytes_per_s: float, steps: list[tuple[float, int]]
) -> None:
    rate = Rate(bytes_per_s)
    now = written = 0.0
    for wait, size in steps:
        now += wait
        if rate.pause(now) == 0.0:
            # What it has let through before this is covered by the time that has passed.
            assert written <= bytes_per_s * (now + 0.1) * (1 + 1e-9) + 1.0
            rate.spend(size)
            written += size


@given(st.floats(1.0, 1e9), st.lists(st.integers(1, 10**6), min_size=1, max_size=50))
def test_whoever_waits_as_long_as_it_says_may_write(bytes_per_s: float, sizes: list[int]) -> None:
    rate = Rate(bytes_per_s)
    now = 0.0
    for size in sizes:
        now += rate.pause(now)
        assert rate.pause(now) == 0.0
        rate.spend(size)
    assert now <= sum(sizes) / bytes_per_s


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_is_positive(rate: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Rate(rate)
