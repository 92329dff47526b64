"""FastPipe: pieces that are joined, bodies that are read in place, and ends of every kind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from covey.transport.doors.fast import FastPipe, dial_fast, joined, read_buffer
from covey.transport.endpoint import Endpoint

Runner = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    """Runs a coroutine function on either loop."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await main()

        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(bounded())

    return runner


@given(st.lists(st.one_of(st.binary(max_size=50), st.integers(0, 80_000).map(bytes)), max_size=12))
def test_joined_pieces_are_the_same_bytes_in_fewer_pieces(pieces: list[bytes]) -> None:
    together = joined(pieces)
    assert b"".join(together) == b"".join(pieces)
    assert len(together) <= len(pieces)
    # No two small ones stand side by side, and large ones are not copied.
    small = [
        len(piece) < 32 << 10 or not any(piece is each for each in pieces) for piece in together
    ]
    assert not any(one and other for one, other in pairwise(small))
    for piece in pieces:
        assert len(piece) < 32 << 10 or any(piece is each for each in together)


def test_all_connections_of_a_loop_share_one_read_buffer() -> None:
    async def main() -> memoryview:
        loop = asyncio.get_running_loop()
        assert read_buffer(loop) is read_buffer(loop)
        return read_buffer(loop)

    assert asyncio.run(main()) is not asyncio.run(main())


class Taking:
    """A sink that keeps what comes, the first bytes by `take`, the rest in place."""

    def __init__(self, in_place: int = 0) -> None:
        self.data = bytearray()
        self.place = memoryview(bytearray(in_place))
        self.filled_bytes = 0
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.writable_again = asyncio.Event()
        self.came = asyncio.Event()

    def destination(self) -> memoryview | None:
        rest = self.place[self.filled_bytes :]
        return rest if rest and self.data else None

    def filled(self, count: int) -> None:
        self.filled_bytes += count

    def take(self, data: memoryview) -> None:
        self.data += data
        self.came.set()

    def writable(self) -> None:
        self.writable_again.set()

    def ended(self, reason: str) -> None:
        self.over.set_result(reason)


class Peers:
    """Two ends of a connection."""

    def __init__(self) -> None:
        self.made: asyncio.Future[FastPipe] = asyncio.get_running_loop().create_future()

    async def meet(self) -> tuple[FastPipe, FastPipe]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: FastPipe(self.made.set_result), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        near = await dial_fast(Endpoint("127.0.0.1", port, ("fast",), False), None)
        far = await self.made
        server.close()
        return near, far


def test_a_body_is_read_in_its_place_and_what_follows_is_taken(run: Runner) -> None:
    async def main() -> None:
        near, far = await Peers().meet()
        sink, other = Taking(1 << 20), Taking()
        far.start(sink)
        near.start(other)
        near.write([b"x"])
        await sink.came.wait()
        body = bytes(range(256)) * 4096
        near.write([body, b"and more"])
        near.close()
        assert await sink.over == "closed by the peer"
        assert bytes(sink.place) == body
        assert bytes(sink.data) == b"x" + b"and more"
        await other.over
        assert (near.is_writable, far.is_writable) == (False, False)

    run(main)


def test_a_pipe_that_is_full_says_so_and_says_when_it_is_not(run: Runner) -> None:
    async def main() -> None:
        near, far = await Peers().meet()
        sink, other = Taking(), Taking()
        near.start(other)
        written = 0
        while near.is_writable:
            near.write([bytes(1 << 20)])
            written += 1 << 20
        other.writable_again.clear()
        far.start(sink)
        await other.writable_again.wait()
        assert near.is_writable
        near.close()
        await sink.over
        assert len(sink.data) == written
        await other.over

    run(main)


def test_after_its_end_a_pipe_does_nothing_and_tells_whoever_comes_late(run: Runner) -> None:
    async def main() -> None:
        near, far = await Peers().meet()
        sink, late = Taking(), Taking()
        far.start(sink)
        near.abort()
        await sink.over
        near.start(late)
        assert await late.over == "closed by the peer"
        for pipe in (near, far):
            pipe.write([b"late"])
            pipe.pause()
            pipe.resume()
            pipe.close()
            pipe.abort()

    run(main)


def test_writing_to_a_connection_that_has_failed_logs_nothing(
    run: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        near, far = await Peers().meet()
        sink, other = Taking(), Taking()
        near.start(sink)
        far.start(other)
        near.abort()
        for _ in range(20):
            near.write([b"to nobody"])
        assert not near.is_writable
        far.abort()
        await asyncio.gather(sink.over, other.over)

    run(main)
    assert caplog.records == []


def test_a_port_where_nobody_listens_is_an_error_of_the_system(run: Runner) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        with pytest.raises(OSError, match=r".+"):
            await dial_fast(Endpoint("127.0.0.1", port, ("fast",), False), None)

    run(main)
