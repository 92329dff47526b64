"""SocketLink and BlockingLink over real socket pairs, on asyncio and on uvloop."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop

from covey.transport import (
    BlockingLink,
    Body,
    Codec,
    DecodeError,
    Envelope,
    Kind,
    Limits,
    Link,
    LinkClosed,
    LinkFull,
    LocalProtocolError,
    Record,
    Registry,
    RemoteProtocolError,
    SocketLink,
)

Main = Callable[[], Coroutine[Any, Any, None]]
Runner = Callable[[Main], None]


@dataclass(frozen=True, slots=True)
class Note(Record, id=9001):
    number: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class Chunk(Record, id=9002):
    data: Body


CODEC = Codec(Registry(Note, Chunk))


def note(number: int, text: str = "") -> Envelope:
    return Envelope(Kind.TELL, "b/x", "a/y", number, Note(number, text))


def frame_of(envelope: Envelope) -> bytes:
    return b"".join(CODEC.encode(envelope))


def ignore(_: Any) -> None:
    """A receiver that is not looked at."""


async def nothing() -> None:
    """A loop that is made and closed."""


def on_asyncio(main: Main) -> None:
    asyncio.run(main())


def on_uvloop(main: Main) -> None:
    uvloop.run(main())


@pytest.fixture(params=[on_asyncio, on_uvloop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Runs a coroutine function on either loop and checks that no descriptor is left."""
    runner: Runner = request.param
    runner(nothing)  # the first loop of a process opens descriptors that stay
    before = len(os.listdir("/proc/self/fd"))
    yield runner
    assert len(os.listdir("/proc/self/fd")) == before


class Inbox:
    """What a link hands over, to be awaited."""

    def __init__(self, link: SocketLink) -> None:
        self.envelopes: asyncio.Queue[Envelope] = asyncio.Queue()
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        link.start(self.envelopes.put_nowait, self.lost.set_result)

    async def next(self) -> Envelope:
        return await asyncio.wait_for(self.envelopes.get(), 10)

    async def ended(self) -> str:
        return await asyncio.wait_for(self.lost, 10)


def link_pair(**options: Any) -> tuple[SocketLink, SocketLink]:
    left, right = socket.socketpair()
    return (
        SocketLink(left, CODEC, "b", name="a", **options),
        SocketLink(right, CODEC, "a", name="b", **options),
    )


def open_file() -> int:
    return os.open(os.devnull, os.O_RDONLY)


def same_file(one: int, other: int) -> bool:
    return os.path.sameopenfile(one, other)


def test_envelopes_arrive_in_order_in_both_directions(run: Runner) -> None:
    async def main() -> None:
        a, b = link_pair()
        as_link: Link = a
        assert (as_link.name, as_link.peer) == ("a", "b")
        inbox_a, inbox_b = Inbox(a), Inbox(b)
        for number in range(500):
            a.send(note(number))
            b.send(note(1000 + number))
        assert [await inbox_b.next() for _ in range(500)] == [note(n) for n in range(500)]
        assert [await inbox_a.next() for _ in range(500)] == [note(1000 + n) for n in range(500)]
        assert a.statistics().sent_bytes == b.statistics().received_bytes
        assert a.statistics().queued == a.statistics().queued_bytes == 0
        a.close("done")
        assert await inbox_b.ended() == "closed by the peer"
        with pytest.raises(LinkClosed, match="done"):
            a.send(note(1))
        with pytest.raises(LinkClosed, match="closed by the peer"):
            b.send(note(1))
        a.close()
        b.close()

    run(main)


def test_a_large_body_crosses_while_the_loop_runs(run: Runner) -> None:
    async def main() -> None:
        a, b = link_pair()
        inbox = Inbox(b)
        data = os.urandom(8 << 20)
        for _ in range(2):
            await a.ready()
            a.send(Envelope(Kind.CHUNK, message=Chunk(data)))
        assert a.full
        await a.ready()
        for _ in range(2):
            message = (await inbox.next()).message
            assert isinstance(message, Chunk)
            assert message.data == data
        a.close()
        b.close()

    run(main)


def test_what_comes_before_the_start_waits(run: Runner) -> None:
    async def main() -> None:
        a, b = link_pair()
        a.send(note(1))
        await asyncio.sleep(0)
        inbox = Inbox(b)
        assert (await inbox.next()).id == 1
        with pytest.raises(LocalProtocolError, match="started"):
            b.start(ignore, ignore)
        a.close()
        b.close()
        with pytest.raises(LinkClosed):
            a.start(ignore, ignore)

    run(main)


def test_what_is_queued_is_offered_once_more_at_the_close(run: Runner) -> None:
    async def main() -> None:
        a, b = link_pair()
        inbox = Inbox(b)
        a.send(note(1))
        a.close()
        assert (await inbox.next()).id == 1
        await inbox.ended()

    run(main)


def test_descriptors_arrive_with_their_envelopes(run: Runner) -> None:
    async def main() -> None:
        a, b = link_pair()
        inbox = Inbox(b)
        sent: list[int] = []
        for number in range(60):
            fds: tuple[int, ...] = ()
            if number % 3 == 0:
                fd = os.memfd_create(f"m{number}")
                os.write(fd, str(number).encode())
                fds = (fd, fd)
                sent.append(fd)
            body = Chunk(bytes(number * 1000))
            a.send(Envelope(Kind.TELL, id=number, message=body, fds=fds))
        for fd in sent:
            os.close(fd)  # the link has copies
        for number in range(60):
            envelope = await inbox.next()
            assert envelope.id == number
            assert len(envelope.fds) == (2 if number % 3 == 0 else 0)
            for fd in envelope.fds:
                assert os.pread(fd, 10, 0) == str(number).encode()
                assert not os.get_inheritable(fd)
                os.close(fd)
        a.close()
        b.close()

    run(main)


def test_descriptors_never_taken_or_never_sent_are_closed(run: Runner) -> None:
    async def main() -> None:
        a, b = link_pair()
        fd = open_file()
        a.send(Envelope(Kind.TELL, fds=(fd,)))
        await asyncio.sleep(0)  # it lies in the socket, and b never reads
        a.send(Envelope(Kind.TELL, fds=(fd,)))
        with pytest.raises(LocalProtocolError, match="descriptors"):
            a.send(Envelope(Kind.TELL, fds=(10_000,)))
        os.close(fd)
        b.close()
        a.close()

    run(main)


def test_a_full_link_makes_ready_wait_and_refuses_far_past_it(run: Runner) -> None:
    async def main() -> None:
        a, b = link_pair(max_queued_bytes=1 << 19)  # the socket itself takes some 200 KiB
        data = bytes(1 << 20)
        a.send(Envelope(Kind.CHUNK, message=Chunk(data)))
        assert a.full
        waiter = asyncio.create_task(a.ready())
        await asyncio.sleep(0)
        assert not waiter.done()
        for _ in range(2):
            a.send(Envelope(Kind.CHUNK, message=Chunk(data)))
        with pytest.raises(LinkFull, match="bytes"):
            a.send(Envelope(Kind.CHUNK, message=Chunk(data)))
        inbox = Inbox(b)
        await asyncio.wait_for(waiter, 10)
        assert not a.full
        for _ in range(3):
            await inbox.next()
        a.close()
        b.close()

    run(main)


def test_closing_wakes_those_who_wait(run: Runner) -> None:
    async def main() -> None:
        a, b = link_pair(max_queued_bytes=1)
        a.send(Envelope(Kind.CHUNK, message=Chunk(bytes(4 << 20))))
        waiter = asyncio.create_task(a.ready())
        await asyncio.sleep(0)
        a.close()
        with pytest.raises(LinkClosed):
            await waiter
        b.close()

    run(main)


def test_the_end_of_the_stream_within_a_frame_is_told(run: Runner) -> None:
    async def main() -> None:
        left, right = socket.socketpair()
        link = SocketLink(left, CODEC, "b")
        inbox = Inbox(link)
        frame = frame_of(note(1))
        right.sendall(frame + frame[:-3])
        right.close()
        assert (await inbox.next()).id == 1
        assert "ended after" in await inbox.ended()

    run(main)


def test_a_bad_frame_closes_the_link_after_the_good_ones(run: Runner) -> None:
    async def main() -> None:
        left, right = socket.socketpair()
        link = SocketLink(left, CODEC, "b")
        inbox = Inbox(link)
        right.sendall(frame_of(note(1)) + b"x" * 24)
        assert (await inbox.next()).id == 1
        assert "bad header" in await inbox.ended()
        with pytest.raises(LinkClosed, match="bad header"):
            link.send(note(2))
        right.settimeout(10)
        assert right.recv(1) == b""
        right.close()

    run(main)


def test_stray_descriptors_close_the_link(run: Runner) -> None:
    async def main() -> None:
        left, right = socket.socketpair()
        inbox = Inbox(SocketLink(left, CODEC, "b"))
        fd = open_file()
        socket.send_fds(right, [frame_of(note(1))], [fd])
        os.close(fd)
        assert "descriptors" in await inbox.ended()
        right.close()

    run(main)


def test_the_last_words_of_a_peer_that_has_gone_are_read(run: Runner) -> None:
    async def main() -> None:
        left, right = socket.socketpair()
        link = SocketLink(left, CODEC, "b")
        right.sendall(frame_of(note(7)))
        right.close()
        link.send(note(1))
        await asyncio.sleep(0)  # the write fails before anything is read
        with pytest.raises(LinkClosed):
            link.send(note(2))
        with pytest.raises(LinkClosed):
            await link.ready()
        inbox = Inbox(link)
        assert (await inbox.next()).id == 7
        assert "closed by the peer" in await inbox.ended()

    run(main)


def test_a_write_that_fails_after_the_start_ends_the_link(run: Runner) -> None:
    async def main() -> None:
        left, right = socket.socketpair()
        link = SocketLink(left, CODEC, "b")
        inbox = Inbox(link)
        right.shutdown(socket.SHUT_RD)
        right.sendall(frame_of(note(7)))
        link.send(note(1))
        assert (await inbox.next()).id == 7
        assert "closed by the peer" in await inbox.ended()
        right.close()

    run(main)


def test_a_receiver_that_raises_closes_the_link(run: Runner) -> None:
    async def main() -> None:
        errors: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        a, b = link_pair()
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def receive(envelope: Envelope) -> None:
            raise ZeroDivisionError

        b.start(receive, lost.set_result)
        fd = open_file()
        a.send(note(1))
        a.send(Envelope(Kind.TELL, fds=(fd,)))
        os.close(fd)
        assert await asyncio.wait_for(lost, 10) == "the receiver of this link raised"
        assert isinstance(errors[0]["exception"], ZeroDivisionError)
        a.close()

    run(main)


def test_closing_within_a_batch_drops_the_rest_of_it(run: Runner) -> None:
    async def main() -> None:
        a, b = link_pair()
        got: list[int] = []

        def receive(envelope: Envelope) -> None:
            got.append(envelope.id)
            b.close("enough")

        b.start(receive, ignore)
        inbox = Inbox(a)
        for number in range(3):
            a.send(note(number))
        assert "closed by the peer" in await inbox.ended()
        assert got == [0]

    run(main)


def test_only_unix_stream_sockets_are_taken() -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET) as sock, pytest.raises(ValueError, match="Unix"):
            SocketLink(sock, CODEC, "b")

    asyncio.run(main())


def test_a_link_shows_its_counts() -> None:
    async def main() -> None:
        a, b = link_pair()
        assert "0 sent" in repr(a)
        a.close("done")
        b.close()
        assert "closed: done" in repr(a)

    asyncio.run(main())


# The blocking side.


def test_a_script_and_a_loop_talk(run: Runner) -> None:
    async def main() -> None:
        left, right = socket.socketpair()
        link = SocketLink(left, CODEC, "script")
        inbox = Inbox(link)

        def script() -> None:
            with BlockingLink(right, CODEC, "trainer") as trainer:
                while (envelope := trainer.receive(10)).kind is not Kind.GOAWAY:
                    trainer.send(envelope)
                    for fd in envelope.fds:
                        os.close(fd)

        thread = asyncio.create_task(asyncio.to_thread(script))
        fd = open_file()
        data = os.urandom(5 << 20)
        link.send(note(1))
        link.send(Envelope(Kind.TELL, fds=(fd,)))
        link.send(Envelope(Kind.CHUNK, message=Chunk(data)))
        assert await inbox.next() == note(1)
        (received,) = (await inbox.next()).fds
        assert same_file(received, fd)
        os.close(received)
        os.close(fd)
        message = (await inbox.next()).message
        assert isinstance(message, Chunk)
        assert message.data == data
        link.send(Envelope(Kind.GOAWAY))
        await thread
        await inbox.ended()

    run(main)


def blocking_pair() -> tuple[BlockingLink, BlockingLink]:
    left, right = socket.socketpair()
    return BlockingLink(left, CODEC, "b"), BlockingLink(right, CODEC, "a")


def test_receive_gives_up_in_time_and_the_link_goes_on() -> None:
    a, b = blocking_pair()
    with pytest.raises(TimeoutError, match="'b'"):
        a.receive(0)
    with pytest.raises(TimeoutError):
        a.receive(0.001)
    b.send(note(1))
    b.send(note(2))
    assert [a.receive(0).id, a.receive().id] == [1, 2]
    a.close()
    b.close()


def test_the_end_of_the_stream_is_a_closed_link() -> None:
    a, b = blocking_pair()
    b.send(note(1))
    b.close()
    assert a.receive().id == 1
    for _ in range(2):
        with pytest.raises(LinkClosed, match="closed by the peer"):
            a.receive()
    with pytest.raises(LinkClosed):
        a.send(note(1))
    with pytest.raises(LinkClosed, match="closed by this side"):
        b.receive()
    assert "closed" in repr(a)
    a.close()


def test_a_write_to_a_peer_that_has_gone_leaves_its_last_words() -> None:
    a, b = blocking_pair()
    b.send(note(1))
    b.close()
    with pytest.raises(LinkClosed):
        a.send(note(2))
    assert a.receive().id == 1
    with pytest.raises(LinkClosed):
        a.receive()
    a.close()


def test_bad_bytes_close_the_blocking_link() -> None:
    left, right = socket.socketpair()
    link = BlockingLink(left, CODEC, "b")
    right.sendall(b"x" * 24)
    with pytest.raises(DecodeError):
        link.receive()
    with pytest.raises(LinkClosed, match="bad header"):
        link.receive()
    right.close()


def test_good_envelopes_before_bad_bytes_are_received_first() -> None:
    left, right = socket.socketpair()
    link = BlockingLink(left, CODEC, "b")
    right.sendall(frame_of(note(1)) + b"x" * 24)
    assert link.receive().id == 1
    with pytest.raises(RemoteProtocolError):
        link.receive(0)
    right.close()
    link.close()


def test_the_end_within_a_frame_is_the_peers_fault() -> None:
    left, right = socket.socketpair()
    link = BlockingLink(left, CODEC, "b")
    right.sendall(frame_of(note(1))[:-1])
    right.close()
    with pytest.raises(DecodeError, match="ended after"):
        link.receive()
    link.close()


def test_an_envelope_that_cannot_be_sent_leaves_the_link_as_it_was() -> None:
    a, b = blocking_pair()
    with pytest.raises(LocalProtocolError):
        a.send(Envelope(Kind.TELL, fds=(10_000,)))
    with pytest.raises(LocalProtocolError):
        a.send(Envelope(Kind.TELL, id=-1))
    a.send(note(1))
    assert b.receive().id == 1
    a.close()
    b.close()


def test_closing_from_another_thread_wakes_a_receive() -> None:
    a, b = blocking_pair()
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            a.receive()
        except LinkClosed as error:
            failures.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    a.close("stopped")
    thread.join(10)
    assert len(failures) == 1
    b.close()


def test_threads_may_send_at_once_and_no_frame_is_torn() -> None:
    a, b = blocking_pair()

    def send_all(first: int) -> None:
        for number in range(100):
            a.send(note(first + number, "x" * 3000))

    threads = [threading.Thread(target=send_all, args=(first,)) for first in (0, 1000, 2000, 3000)]
    for thread in threads:
        thread.start()
    got = [b.receive(10) for _ in range(400)]
    for thread in threads:
        thread.join(10)
    for first in (0, 1000, 2000, 3000):
        ids = [envelope.id for envelope in got if first <= envelope.id < first + 1000]
        assert ids == list(range(first, first + 100))
    a.close()
    b.close()


def test_descriptors_of_envelopes_never_received_are_closed_with_the_link() -> None:
    before = len(os.listdir("/proc/self/fd"))
    a, b = blocking_pair()
    fd = open_file()
    b.send(note(1))
    b.send(Envelope(Kind.TELL, fds=(fd,)))
    os.close(fd)
    assert a.receive().id == 1
    a.close()
    b.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_limits_of_the_blocking_link_are_its_codecs() -> None:
    left, right = socket.socketpair()
    a = BlockingLink(left, CODEC, "b")
    b = BlockingLink(right, Codec(Registry(Note), Limits(meta_bytes=100)), "a")
    a.send(note(1, "x" * 200))
    with pytest.raises(DecodeError, match="past limits"):
        b.receive()
    a.close()
    b.close()
