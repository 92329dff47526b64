"""MemoryLink: order, batches, bounds and endings, with and without a codec."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from covey.transport import (
    Codec,
    Envelope,
    Kind,
    Limits,
    Link,
    LinkClosed,
    LinkFull,
    LocalProtocolError,
    MemoryLink,
    Record,
    Registry,
    memory_pair,
)


@dataclass(frozen=True, slots=True)
class Note(Record, id=8001):
    number: int
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unknown(Record, id=8002):
    number: int = 0


CODEC = Codec(Registry(Note))
BOTH = pytest.mark.parametrize("codec", [None, CODEC], ids=["object", "bytes"])


def note(number: int) -> Envelope:
    return Envelope(Kind.TELL, "b/x", "a/y", number, Note(number))


def ignore(_: Any) -> None:
    """A receiver that is not looked at."""


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def same_file(one: int, other: int) -> bool:
    return os.path.sameopenfile(one, other)


def pair(codec: Codec | None, **options: Any) -> tuple[MemoryLink, MemoryLink]:
    return memory_pair("a", "b", codec_a=codec, codec_b=codec, **options)


def run(main: Callable[[], Any]) -> None:
    asyncio.run(main())


@BOTH
def test_envelopes_arrive_in_order_in_both_directions(codec: Codec | None) -> None:
    async def main() -> None:
        a, b = pair(codec)
        to_a: list[Envelope] = []
        to_b: list[Envelope] = []
        a.start(to_a.append, ignore)
        b.start(to_b.append, ignore)
        for number in range(100):
            a.send(note(number))
            b.send(note(1000 + number))
        await turns()
        assert to_b == [note(number) for number in range(100)]
        assert to_a == [note(1000 + number) for number in range(100)]
        assert a.statistics().sent == b.statistics().received == 100
        assert (a.statistics().sent_bytes > 0) == (codec is not None)
        assert a.statistics().sent_bytes == b.statistics().received_bytes

    run(main)


def test_both_ends_are_links() -> None:
    links: tuple[Link, Link] = memory_pair("a", "b")
    assert (links[0].name, links[0].peer, links[1].name, links[1].peer) == ("a", "b", "b", "a")


@BOTH
def test_all_of_one_turn_is_delivered_in_one_callback(codec: Codec | None) -> None:
    async def main() -> None:
        a, b = pair(codec)
        loop = asyncio.get_running_loop()
        seen: list[str] = []
        b.start(lambda envelope: seen.append(str(envelope.id)), ignore)
        a.send(note(1))
        loop.call_soon(seen.append, "|")
        a.send(note(2))
        a.send(note(3))
        assert seen == []
        await turns()
        assert seen == ["1", "2", "3", "|"]

    run(main)


def test_the_same_message_is_handed_over_in_an_envelope_of_its_own() -> None:
    async def main() -> None:
        a, b = pair(None)
        got: list[Envelope] = []
        b.start(got.append, ignore)
        envelope = note(1)
        a.send(envelope)
        envelope.to = "elsewhere"
        await turns()
        assert got[0] is not envelope
        assert got[0].to == "b/x"
        assert got[0].message is envelope.message

    run(main)


@BOTH
def test_what_came_before_the_start_is_kept_and_delivered_first(codec: Codec | None) -> None:
    async def main() -> None:
        a, b = pair(codec)
        got: list[int] = []
        for number in range(3):
            a.send(note(number))
        await turns()
        b.start(lambda envelope: got.append(envelope.id), ignore)
        a.send(note(3))
        await turns()
        assert got == [0, 1, 2, 3]
        with pytest.raises(LocalProtocolError, match="started"):
            b.start(ignore, ignore)

    run(main)


@BOTH
def test_a_full_link_makes_ready_wait_and_refuses_far_past_it(codec: Codec | None) -> None:
    async def main() -> None:
        a, b = pair(codec, capacity=2)
        a.send(note(0))
        assert not a.full
        await a.ready()
        a.send(note(1))
        assert a.full
        waiters = [asyncio.create_task(a.ready()) for _ in range(3)]
        await turns()
        assert not any(waiter.done() for waiter in waiters)
        for number in range(2, 8):
            a.send(note(number))
        with pytest.raises(LinkFull) as caught:
            a.send(note(8))
        assert (caught.value.queued, caught.value.bound, caught.value.peer) == (8, 8, "b")
        waiters[0].cancel()
        got: list[Envelope] = []
        b.start(got.append, ignore)
        await asyncio.gather(*waiters[1:])
        assert [envelope.id for envelope in got] == list(range(8))
        assert not a.full

    run(main)


@BOTH
def test_closing_tells_the_other_end_after_the_last_envelope(codec: Codec | None) -> None:
    async def main() -> None:
        a, b = pair(codec)
        events: list[object] = []
        a.start(ignore, lambda reason: events.append(("a", reason)))
        b.start(lambda envelope: events.append(envelope.id), lambda reason: events.append(reason))
        a.send(note(1))
        a.close("done")
        a.close("again")
        with pytest.raises(LinkClosed, match="done"):
            a.send(note(2))
        with pytest.raises(LinkClosed):
            await a.ready()
        await turns()
        assert events == [1, "done"]
        with pytest.raises(LinkClosed, match="done"):
            b.send(note(3))
        assert b.statistics().closed == "done"
        assert "closed: done" in repr(a)

    run(main)


def test_closing_wakes_those_who_wait() -> None:
    async def main() -> None:
        a, b = pair(None, capacity=1)
        a.send(note(0))
        waiter = asyncio.create_task(a.ready())
        await turns()
        a.close()
        with pytest.raises(LinkClosed):
            await waiter
        other, _ = pair(None, capacity=1)
        assert not other.full
        b.close()

    run(main)


def test_an_end_before_the_start_is_told_at_the_start() -> None:
    async def main() -> None:
        a, b = pair(None)
        reasons: list[str] = []
        a.send(note(1))
        a.close("early")
        got: list[int] = []
        b.start(lambda envelope: got.append(envelope.id), reasons.append)
        await turns()
        assert (got, reasons) == ([1], ["early"])

    run(main)


def test_closing_within_a_batch_drops_the_rest_of_it() -> None:
    async def main() -> None:
        a, b = pair(None)
        got: list[int] = []

        def receive(envelope: Envelope) -> None:
            got.append(envelope.id)
            b.close("enough")

        b.start(receive, ignore)
        reasons: list[str] = []
        a.start(ignore, reasons.append)
        for number in range(3):
            a.send(note(number))
        await turns()
        assert (got, reasons) == ([0], ["enough"])

    run(main)


def test_an_envelope_that_cannot_be_encoded_is_refused_and_costs_nothing_else() -> None:
    async def main() -> None:
        a, b = pair(CODEC)
        got: list[int] = []
        b.start(lambda envelope: got.append(envelope.id), ignore)
        with pytest.raises(LocalProtocolError, match="Unknown"):
            a.send(Envelope(Kind.TELL, message=Unknown()))
        a.send(note(1))
        await turns()
        assert got == [1]

    run(main)


def test_what_the_other_side_cannot_decode_closes_both_ends() -> None:
    async def main() -> None:
        a, b = memory_pair(
            "a", "b", codec_a=CODEC, codec_b=Codec(Registry(Note), Limits(str_bytes=10))
        )
        reasons: list[str] = []
        a.start(ignore, lambda reason: reasons.append("a: " + reason))
        b.start(ignore, lambda reason: reasons.append("b: " + reason))
        a.send(Envelope(Kind.TELL, message=Note(1, ("x" * 11,))))
        a.send(note(2))
        await turns()
        assert len(reasons) == 2
        assert all("max_str_len" in reason for reason in reasons)
        for link in (a, b):
            with pytest.raises(LinkClosed):
                link.send(note(3))

    run(main)


def test_a_receiver_that_raises_closes_both_ends() -> None:
    async def main() -> None:
        errors: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        a, b = pair(None)
        reasons: list[str] = []
        a.start(ignore, reasons.append)

        def receive(envelope: Envelope) -> None:
            raise ZeroDivisionError

        b.start(receive, reasons.append)
        a.send(note(1))
        await turns()
        assert reasons == ["the receiver of this link raised"] * 2
        assert isinstance(errors[0]["exception"], ZeroDivisionError)

    run(main)


@BOTH
def test_descriptors_are_duplicated_and_those_undelivered_closed(codec: Codec | None) -> None:
    async def main() -> None:
        before = len(os.listdir("/proc/self/fd"))
        fd = os.open(os.devnull, os.O_RDONLY)
        a, b = pair(codec)
        got: list[Envelope] = []
        b.start(got.append, ignore)
        a.send(Envelope(Kind.TELL, fds=(fd,)))
        await turns()
        (received,) = got[0].fds
        assert received != fd
        assert same_file(received, fd)
        os.close(received)
        a.send(Envelope(Kind.TELL, fds=(fd, fd)))
        b.close()
        with pytest.raises(LocalProtocolError, match="descriptors"):
            pair(codec)[0].send(Envelope(Kind.TELL, fds=(fd, 10_000)))
        os.close(fd)
        assert len(os.listdir("/proc/self/fd")) == before

    run(main)


def test_descriptors_behind_a_fault_are_closed() -> None:
    async def main() -> None:
        before = len(os.listdir("/proc/self/fd"))
        fd = os.open(os.devnull, os.O_RDONLY)
        a, b = memory_pair("a", "b", codec_a=CODEC, codec_b=Codec(Registry()))
        b.start(ignore, ignore)
        a.send(Envelope(Kind.TELL, message=Note(1), fds=(fd,)))
        a.send(Envelope(Kind.TELL, fds=(fd,)))
        os.close(fd)
        await turns()
        assert b.statistics().closed is not None
        assert len(os.listdir("/proc/self/fd")) == before

    run(main)


def test_nothing_is_accepted_for_an_end_that_has_closed() -> None:
    async def main() -> None:
        a, b = pair(None)
        a.close("gone")
        with pytest.raises(LinkClosed, match="gone"):
            b.send(note(1))

    run(main)


def test_a_pair_needs_codecs_on_both_sides_or_none() -> None:
    with pytest.raises(ValueError, match="both"):
        memory_pair("a", "b", codec_a=CODEC)
    with pytest.raises(ValueError, match="capacity"):
        memory_pair("a", "b", capacity=0)


def test_ten_thousand_pairs_take_less_than_a_kibibyte_each() -> None:
    async def main() -> None:
        tracemalloc.start()
        try:
            pairs = [memory_pair("a", "b") for _ in range(10_000)]
            for a, b in pairs:
                a.start(ignore, ignore)
                b.start(ignore, ignore)
            size = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert size < 10_000 * 1024

    run(main)
