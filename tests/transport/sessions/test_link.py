"""SessionLink in virtual time: order, breaks, replay, bounds, silence, lease and end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import pytest

from covey.actors.runtime.testing import simulate
from covey.transport import Envelope, Kind, LinkClosed, LinkFull, LocalProtocolError
from covey.transport.sessions import link as link_module
from covey.transport.sessions.connection import Connection
from covey.transport.sessions.handshake import first_words_codec
from covey.transport.sessions.link import FLYING_BYTES, QUEUED_BYTES, Patience
from covey.transport.sessions.messages import Farewell, Received

from .nodes import CODEC, Item, Pair, bulk, control, end, number_of, pair, settle
from .pipes import Weather, pipe_pair

MIB = 1 << 20


def frame(envelope: Envelope, sequence: int) -> bytes:
    envelope.sequence = sequence
    return b"".join(CODEC.encode(envelope))


def test_both_directions_arrive_once_and_in_order() -> None:
    async def main() -> None:
        both, _ = pair(Weather(piece_bytes=100))
        for number in range(300):
            both.near.link.send(control(number, number))
            both.far.link.send(bulk(number, number))
        await asyncio.sleep(1)
        assert both.far.numbers == both.near.numbers == list(range(300))
        assert [len(bytes(e.message.data)) for e in both.far.got if isinstance(e.message, Item)]

    simulate(main)


def test_control_overtakes_bulk_and_neither_overtakes_itself() -> None:
    async def main() -> None:
        both, _ = pair(Weather(delay_s=(0.001, 0.001)))
        for number in range(40):
            both.near.link.send(bulk(number, 100_000))
        await settle()
        for number in range(100, 110):
            both.near.link.send(control(number))
        await asyncio.sleep(1)
        numbers = both.far.numbers
        assert [n for n in numbers if n < 100] == list(range(40))
        assert [n for n in numbers if n >= 100] == list(range(100, 110))
        assert numbers.index(109) < numbers.index(39)

    simulate(main)


def test_the_end_of_a_stream_does_not_overtake_its_chunks() -> None:
    async def main() -> None:
        both, _ = pair()
        for number in range(20):
            both.near.link.send(bulk(number, 100_000))
        both.near.link.send(Envelope(Kind.END, message=Item(20)))
        both.near.link.send(control(21))
        await asyncio.sleep(1)
        assert [n for n in both.far.numbers if n != 21] == list(range(21))
        assert both.far.numbers[0] == 21

    simulate(main)


def test_after_a_break_exactly_what_is_unacknowledged_is_sent_again() -> None:
    async def main() -> None:
        both, pipe = pair()
        for number in range(10):
            both.near.link.send(control(number))
        await asyncio.sleep(0.1)
        pipe.vanish()  # what follows is written to nobody
        for number in range(10, 15):
            both.near.link.send(control(number))
        await settle()
        again = both.join()
        both.near.link.send(control(15))
        await asyncio.sleep(1)
        assert both.far.numbers == list(range(16))
        assert both.far.link.duplicates == 0
        expected = sum(len(frame(control(n), n + 1)) for n in range(10, 16))
        assert again.written == expected
        assert both.near.broken == ["the network is gone"]
        assert both.near.lost == both.near.ended == []

    simulate(main)


def test_what_the_peer_had_but_not_acknowledged_is_dropped_when_it_comes_again() -> None:
    async def main() -> None:
        both, pipe = pair()
        near, far = both.near.link, both.far.link
        for number in range(10):
            near.send(control(number))
            near.send(bulk(number))
        await asyncio.sleep(0.1)
        pipe.cut()
        await settle()
        one, other = pipe_pair()
        near.adopt(Connection(one, first_words_codec()), (0, 0))  # as an old word of the peer says
        far.adopt(Connection(other, first_words_codec()), (0, 0))
        await asyncio.sleep(1)
        assert len(both.far.numbers) == 20
        assert far.duplicates == 20

    simulate(main)


@pytest.mark.parametrize("lane", [control, bulk])
def test_a_gap_breaks_the_connection_and_loses_nothing_before_it(
    lane: Callable[[int], Envelope],
) -> None:
    async def main() -> None:
        far = end("b", "a")
        one, other = pipe_pair()
        far.link.adopt(Connection(other, first_words_codec()), (0, 0))
        far.start()
        one.write([frame(lane(0), 1) + frame(lane(1), 2) + frame(lane(3), 4)])
        await asyncio.sleep(1)
        assert far.numbers == [0, 1]
        assert max(far.link.received) == 2
        assert far.broken == ["peer sent a bad sequence: 4 came after 2"]
        assert one.over is not None
        assert far.lost == []

    simulate(main)


@pytest.mark.parametrize(
    "envelope",
    [
        Envelope(Kind.TELL, message=Item(1)),
        Envelope(Kind.PING),
        Envelope(Kind.PING, message=Received(1, 0)),
        Envelope(Kind.PING, message=Received(0, 1)),
    ],
    ids=["without a number", "without a word", "control never sent", "bulk never sent"],
)
def test_what_no_peer_says_breaks_the_connection(envelope: Envelope) -> None:
    async def main() -> None:
        far = end("b", "a")
        one, other = pipe_pair()
        far.link.adopt(Connection(other, first_words_codec()), (0, 0))
        far.start()
        one.write(CODEC.encode(envelope))
        await asyncio.sleep(1)
        assert len(far.broken) == 1
        assert "bad" in far.broken[0]
        assert far.got == []

    simulate(main)


def test_garbage_breaks_the_connection_and_not_the_session() -> None:
    async def main() -> None:
        both, pipe = pair()
        pipe.write([b"cv" + bytes(30)])
        await asyncio.sleep(1)
        assert "begin an envelope" in both.far.broken[0]
        both.join()
        both.near.link.send(control(7))
        await asyncio.sleep(1)
        assert both.far.numbers == [7]

    simulate(main)


def test_a_full_link_makes_senders_wait_until_the_peer_has_taken_it() -> None:
    async def main() -> None:
        both, pipe = pair()
        await settle()
        link = both.near.link
        pipe.other.pause()
        for number in range(16):
            assert not link.full
            link.send(bulk(number, MIB))
        assert link.full
        waiting = asyncio.create_task(link.ready())
        await asyncio.sleep(1)
        assert not waiting.done()
        pipe.other.resume()
        await waiting
        assert not link.full
        await asyncio.sleep(20)
        assert both.far.numbers == list(range(16))
        assert link.statistics().queued_bytes == 0

    simulate(main)


def test_far_past_full_it_refuses_and_keeps_what_it_has() -> None:
    async def main() -> None:
        both, pipe = pair()
        await settle()
        link = both.near.link
        pipe.other.pause()
        kept = 0
        while link.statistics().queued_bytes < QUEUED_BYTES * 4:
            link.send(bulk(kept, MIB))
            kept += 1
        with pytest.raises(LinkFull, match="bytes"):
            link.send(bulk(kept, MIB))
        assert kept * MIB <= QUEUED_BYTES * 4 + 2 * MIB
        link.send(control(1000))  # the other lane still takes
        pipe.other.resume()
        await asyncio.sleep(30)
        assert sorted(both.far.numbers) == [*range(kept), 1000]

    simulate(main)


def test_many_small_envelopes_are_refused_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "QUEUED_ENVELOPES", 10)

    async def main() -> None:
        both, pipe = pair()
        pipe.vanish()
        for number in range(40):
            assert both.near.link.full == (number >= 10)
            both.near.link.send(control(number))
        with pytest.raises(LinkFull, match="40 envelopes"):
            both.near.link.send(control(40))

    simulate(main)


def test_a_peer_that_sends_and_does_not_read_makes_this_side_keep_little() -> None:
    async def main() -> None:
        both, pipe = pair()
        await settle()
        pipe.pause()
        for number in range(40):
            both.near.link.send(bulk(number, MIB))
            await asyncio.sleep(0.1)
        for number in range(2000):
            both.far.link.send(control(number, 1000))
        await asyncio.sleep(15)
        few = FLYING_BYTES // MIB
        assert both.far.numbers == list(range(few))  # since this side hears of none of it
        assert both.near.link.full
        assert pipe.other._untaken < 512 << 10
        pipe.resume()
        await asyncio.sleep(60)
        assert both.far.numbers == list(range(40))
        assert not both.near.link.full
        assert both.near.numbers == list(range(2000))

    simulate(main)


def test_a_link_that_ends_wakes_who_waits_for_room() -> None:
    async def main() -> None:
        both, pipe = pair()
        pipe.vanish()
        for number in range(17):
            both.near.link.send(bulk(number, MIB))
        waiting = asyncio.create_task(both.near.link.ready())
        await settle()
        both.near.link.close("enough")
        with pytest.raises(LinkClosed, match="enough"):
            await waiting

    simulate(main)


def test_close_offers_what_was_accepted_and_tells_the_peer() -> None:
    async def main() -> None:
        both, pipe = pair()
        for number in range(10):
            both.near.link.send(bulk(number, MIB))
        both.near.link.close("done for today")
        both.near.link.close("again")
        await asyncio.sleep(5)
        assert both.far.numbers == list(range(10))
        assert both.far.lost == both.far.ended == ["done for today"]
        assert both.near.lost == []
        assert both.near.ended == ["done for today"]
        assert pipe.over is not None
        for link in (both.near.link, both.far.link):
            with pytest.raises(LinkClosed):
                link.send(control(1))
            with pytest.raises(LinkClosed):
                await link.ready()

    simulate(main)


def test_a_dismissed_peer_gets_no_more_than_is_under_way() -> None:
    async def main() -> None:
        both, _ = pair()
        for number in range(10):
            both.near.link.send(bulk(number, MIB))
        both.near.link.dismiss("revoked", "its certificate was revoked")
        await asyncio.sleep(5)
        assert both.far.numbers == []
        assert both.far.lost == ["its certificate was revoked"]

    simulate(main)


def test_a_silent_connection_is_broken_off_and_the_session_goes_on() -> None:
    async def main() -> None:
        both, pipe = pair()
        pipe.vanish()  # the far end is not told
        assert both.far.link.connection is not None
        await asyncio.sleep(41)
        assert both.far.link.connection is None
        assert both.far.broken == ["a was silent for 30 s"]
        both.join()
        both.far.link.send(control(1))
        await asyncio.sleep(100)
        assert both.near.numbers == [1]
        assert both.near.link.closed is None

    simulate(main)


def test_pings_keep_an_idle_connection() -> None:
    async def main() -> None:
        both, _ = pair()
        await asyncio.sleep(3600)
        assert both.near.link.connections == both.far.link.connections == 1
        assert both.near.broken == both.far.broken == []

    simulate(main)


def test_the_end_of_the_lease_ends_the_link_and_tells_once() -> None:
    async def main() -> None:
        both, pipe = pair(patience=Patience(lease_s=50))
        pipe.cut()
        await asyncio.sleep(49)
        assert both.near.link.closed is None
        await asyncio.sleep(2)
        why = "no connection for 50 s: cut by the test"
        for each in (both.near, both.far):
            assert each.link.closed == why
            assert each.lost == each.ended == [why]

    simulate(main)


def test_a_connection_within_the_lease_begins_it_anew() -> None:
    async def main() -> None:
        both, pipe = pair(patience=Patience(lease_s=50))
        for _ in range(5):
            pipe.cut()
            await asyncio.sleep(40)
            pipe = both.join()
            await asyncio.sleep(20)
        assert both.near.link.closed is both.far.link.closed is None

    simulate(main)


def test_a_link_that_never_has_a_connection_ends_with_its_lease() -> None:
    async def main() -> None:
        alone = end("a", "b", Patience(lease_s=5))
        alone.start()
        alone.link.send(control(1))
        await asyncio.sleep(6)
        assert alone.lost == ["no connection for 5 s: it never had a connection"]

    simulate(main)


def test_a_new_connection_takes_the_place_of_one_that_still_lives() -> None:
    async def main() -> None:
        both, pipe = pair(Weather(delay_s=(0.001, 0.01)))
        for number in range(100):
            both.near.link.send(control(number, 1000))
            if number % 10 == 0:
                await asyncio.sleep(0.003)
                both.join(Weather(Random(number), delay_s=(0.001, 0.01)))
        await asyncio.sleep(5)
        assert both.far.numbers == list(range(100))
        assert both.far.broken == both.near.broken == []
        assert pipe.over is not None

    simulate(main)


def test_what_comes_before_start_is_kept_and_comes_first() -> None:
    async def main() -> None:
        both = Pair(end("a", "b"), end("b", "a"))
        both.join()
        both.near.start()
        for number in range(5):
            both.near.link.send(control(number))
        await asyncio.sleep(1)
        both.far.start()
        # Something that came in the very turn of `start` must not overtake.
        both.far.link.arrived([_numbered(control(5), 6)])
        assert both.far.numbers == []
        await asyncio.sleep(1)
        assert both.far.numbers == list(range(6))
        with pytest.raises(LocalProtocolError, match="started already"):
            both.far.start()

    simulate(main)


def _numbered(envelope: Envelope, sequence: int) -> Envelope:
    envelope.sequence = sequence
    return envelope


def test_a_receiver_that_raises_ends_the_link() -> None:
    @dataclass
    class Flaw(Exception):
        pass

    async def main() -> None:
        both = Pair(end("a", "b"), end("b", "a"))
        both.join()
        both.near.start()

        def receive(envelope: Envelope) -> None:
            raise Flaw

        both.far.start(receive)
        with pytest.raises(Flaw):
            both.far.link.arrived([_numbered(control(0), 1)])
        assert both.far.lost == ["the receiver of this link raised"]

    simulate(main)


def test_a_receiver_that_closes_the_link_gets_nothing_more() -> None:
    async def main() -> None:
        both = Pair(end("a", "b"), end("b", "a"))
        both.join()
        both.near.start()
        got: list[int] = []

        def receive(envelope: Envelope) -> None:
            got.append(number_of(envelope))
            if len(got) == 3:
                both.far.link.close("enough")

        both.far.start(receive)
        for number in range(10):
            both.near.link.send(control(number))
        await asyncio.sleep(1)
        assert got == [0, 1, 2]
        assert both.near.lost == ["enough"]

    simulate(main)


def test_what_cannot_be_sent_costs_the_call_alone() -> None:
    async def main() -> None:
        both, _ = pair()
        with pytest.raises(LocalProtocolError, match="descriptors"):
            both.near.link.send(Envelope(Kind.TELL, fds=(0,)))
        with pytest.raises(LocalProtocolError, match="body"):
            both.near.link.send(control(0, 9 * MIB))
        both.near.link.send(control(1))
        await asyncio.sleep(1)
        assert both.far.numbers == [1]

    simulate(main)


def test_the_rate_holds_bulk_back_and_lets_control_through() -> None:
    async def main() -> None:
        both, _ = pair(bytes_per_s=100_000.0)
        for number in range(100):
            both.near.link.send(bulk(number, 10_000))
        both.near.link.send(control(1000))
        await asyncio.sleep(0.5)
        assert 1000 in both.far.numbers
        assert 4 <= len(both.far.numbers) <= 7
        await asyncio.sleep(9)
        assert len(both.far.numbers) < 101
        await asyncio.sleep(1)
        assert len(both.far.numbers) == 101
        await asyncio.sleep(30)  # idle time saves up no more than a tenth of a second
        for number in range(20):
            both.near.link.send(bulk(number, 10_000))
        await asyncio.sleep(1.7)
        assert len(both.far.numbers) < 121
        await asyncio.sleep(0.4)
        assert len(both.far.numbers) == 121

    simulate(main)


def test_statistics_count_over_all_connections() -> None:
    async def main() -> None:
        both, pipe = pair()
        sizes = 0
        for number in range(30):
            both.near.link.send(control(number, 1000))
            sizes += len(frame(control(number, 1000), number + 1))
            if number % 10 == 9:
                await asyncio.sleep(0.1)
                if number == 9:
                    pipe.cut()
                    await settle()
                both.join()
        await asyncio.sleep(0.1)
        sent, got = both.near.link.statistics(), both.far.link.statistics()
        assert (sent.sent, got.received, sent.sent_bytes) == (30, 30, sizes)
        assert got.received_bytes == sizes
        await asyncio.sleep(15)
        assert both.near.link.statistics().queued == 0
        assert both.near.link.statistics().queued_bytes == 0
        both.far.link.close()
        assert both.far.link.statistics().received_bytes >= sizes
        assert "closed" in repr(both.far.link)

    simulate(main)


@pytest.mark.parametrize("kind", [Kind.TELL, Kind.GOAWAY])
def test_what_comes_together_with_the_end_is_passed_over(kind: Kind) -> None:
    async def main() -> None:
        alone = end("a", "b")
        alone.start(lambda _: alone.link.close())
        one, _ = pipe_pair()
        alone.link.adopt(Connection(one, first_words_codec()), (0, 0))
        alone.link.send(control(1))
        await settle()
        last = control(1) if kind is Kind.TELL else Envelope(kind, message=Farewell("closed", ""))
        last.sequence = 1 if kind is Kind.TELL else 0
        alone.link.arrived([last, Envelope(Kind.PING, message=Received(1, 0)), control(2)])
        assert len(alone.ended) == 1

    simulate(main)
