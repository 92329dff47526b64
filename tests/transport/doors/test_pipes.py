"""What every pipe promises, through each door over TCP, on real sockets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from covey.transport.dialer import dial
from covey.transport.doors.pipe import UNWRITTEN_BYTES, Pipe
from covey.transport.doors.websocket import LARGEST_MESSAGE_BYTES, PATH
from covey.transport.endpoint import Endpoint
from covey.transport.listener import Listener, Listening

from .talk import both_loops, contexts, listening, run

#: What the dialer says first: on plaintext it tells the door.
HELLO = b"cv1-hi"

doors = pytest.mark.parametrize("door", ["fast", "upgrade", "websocket"])
encryption = pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])


class Bytes:
    """A sink that keeps all that comes."""

    def __init__(self, pipe: Pipe, stop_at: int | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.pipe = pipe
        self.came = bytearray()
        self.ends: list[str] = []
        self.over: asyncio.Future[str] = loop.create_future()
        self.changed = asyncio.Event()
        self.writables = 0
        self._stop_at = stop_at
        pipe.start(self)

    def destination(self) -> memoryview | None:
        return None

    def filled(self, count: int) -> None:
        raise AssertionError

    def take(self, data: memoryview) -> None:
        self.came += data
        self.changed.set()
        if self._stop_at is not None and len(self.came) >= self._stop_at:
            self.pipe.pause()
            self._stop_at = None

    def writable(self) -> None:
        self.writables += 1
        self.changed.set()

    def ended(self, reason: str) -> None:
        self.ends.append(reason)
        self.over.set_result(reason)

    async def until(self, count: int) -> bytes:
        """The first bytes, once so many have come."""
        while len(self.came) < count:
            self.changed.clear()
            await self.changed.wait()
        return bytes(self.came[:count])


class Collecting(Listener):
    """Gives the pipes of its doors to the test instead of opening sessions."""

    def __init__(self, made: Listening) -> None:
        super().__init__(made)
        self.pipes: asyncio.Queue[Pipe] = asyncio.Queue()

    def hold_soon(self, pipe: Pipe) -> None:
        self.pipes.put_nowait(pipe)


@asynccontextmanager
async def pair(
    door: str, folder: Path, encrypted: bool = False
) -> AsyncGenerator[tuple[Pipe, Pipe], None]:
    """Both ends of a connection: the dialer's, which has said "hi", and the listener's."""
    tls, dialer_tls = contexts(folder, encrypted)
    opened = Collecting(listening(tls))
    await opened.open("127.0.0.1", 0)
    scheme = {"fast": "covey" if encrypted else "covey+plain"}.get(
        door, "https" if encrypted else "http"
    )
    endpoint = Endpoint.parse(f"{scheme}://127.0.0.1:{opened.port}", doors=[door])
    near = await dial(door, endpoint, dialer_tls)
    near.write([HELLO])
    far = await opened.pipes.get()
    try:
        yield near, far
    finally:
        near.abort()
        far.abort()
        await opened.close()


@both_loops
@doors
@encryption
def test_bytes_arrive_in_order_both_ways(
    tmp_path: Path, loop: str, door: str, encrypted: bool
) -> None:
    chance = random.Random(7)
    pieces = [chance.randbytes(int(10 ** chance.uniform(0, 6))) for _ in range(60)]
    whole = b"".join(pieces)

    async def send(sink: Bytes) -> None:
        for start in range(0, len(pieces), 3):
            while not sink.pipe.is_writable:
                sink.changed.clear()
                await sink.changed.wait()
            sink.pipe.write([memoryview(piece) for piece in pieces[start : start + 3]])

    async def main() -> None:
        async with pair(door, tmp_path, encrypted) as (near, far):
            here, there = Bytes(near), Bytes(far)
            await asyncio.gather(send(here), send(there))
            assert await there.until(len(whole) + 6) == HELLO + whole
            assert await here.until(len(whole)) == whole
            for pipe in (near, far):
                assert pipe.presented.encrypted == encrypted
                assert pipe.presented.door == door
                assert (pipe.presented.certificate is not None) == encrypted

    run(loop, main())


@both_loops
@doors
def test_what_comes_before_the_start_is_kept(tmp_path: Path, loop: str, door: str) -> None:
    async def main() -> None:
        async with pair(door, tmp_path) as (near, far):
            far.write([b"early"])
            there = Bytes(far)
            assert await there.until(6) == HELLO
            here = Bytes(near)
            assert await here.until(5) == b"early"

    run(loop, main())


@both_loops
@doors
@encryption
def test_a_receiver_that_pauses_makes_the_sender_wait(
    tmp_path: Path, loop: str, door: str, encrypted: bool
) -> None:
    async def main() -> None:
        async with pair(door, tmp_path, encrypted) as (near, far):
            here, there = Bytes(near), Bytes(far, stop_at=1_000_000)
            sent = 0
            block = bytes(64 << 10)
            while near.is_writable and sent < 200 << 20:
                near.write([block])
                sent += len(block)
                here.changed.clear()
                if not near.is_writable:  # until kernels and TLS hold all they can
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.5):
                            await here.changed.wait()
            assert not near.is_writable
            # What has not come is the sender's bound, and what kernels and TLS hold.
            assert sent - len(there.came) < 32 << 20
            before = here.writables
            far.resume()
            assert len(await there.until(sent + 6)) == sent + 6
            assert near.is_writable
            assert here.writables > before

    run(loop, main())


@both_loops
@doors
@encryption
def test_closing_delivers_what_was_written(
    tmp_path: Path, loop: str, door: str, encrypted: bool
) -> None:
    async def main() -> None:
        async with pair(door, tmp_path, encrypted) as (near, far):
            here, there = Bytes(near), Bytes(far)
            await there.until(6)  # asyncio's TLS drops what is unsent if more comes while it closes
            far.write([b"x" * (UNWRITTEN_BYTES * 3)])
            far.close()
            far.close()
            far.write([b"too late"])
            assert len(await here.until(UNWRITTEN_BYTES * 3)) == UNWRITTEN_BYTES * 3
            await here.over
            await there.over
            assert len(here.came) == UNWRITTEN_BYTES * 3
            assert len(here.ends) == len(there.ends) == 1
            assert not near.is_writable
            assert not far.is_writable
            near.write([b"nobody hears"])
            near.close()
            near.abort()

    run(loop, main())


@both_loops
@doors
def test_closing_waits_for_no_peer_that_takes_nothing(tmp_path: Path, loop: str, door: str) -> None:
    async def main() -> None:
        async with pair(door, tmp_path) as (near, far):
            there = Bytes(far)
            near.pause()
            for _ in range(100):
                far.write([bytes(1 << 20)])
            far.close()
            await there.over
            assert len(there.ends) == 1

    run(loop, main())


@both_loops
@doors
def test_aborting_ends_both_sides(tmp_path: Path, loop: str, door: str) -> None:
    async def main() -> None:
        async with pair(door, tmp_path) as (near, far):
            here, there = Bytes(near), Bytes(far)
            here.pipe.pause()
            near.abort()
            near.abort()
            await here.over
            await there.over
            assert len(here.ends) == len(there.ends) == 1

    run(loop, main())


@both_loops
@pytest.mark.parametrize("size", [1, 7, 5000])
def test_where_a_message_ends_means_nothing(tmp_path: Path, loop: str, size: int) -> None:
    whole = bytes(range(256)) * 20

    async def main() -> None:
        opened = Collecting(listening())
        await opened.open("127.0.0.1", 0)
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://127.0.0.1:{opened.port}{PATH}") as socket,
        ):
            there = Bytes(await opened.pipes.get())
            for start in range(0, len(whole), size):
                await socket.send_bytes(whole[start : start + size])
                if start % 100 == 0:
                    await socket.ping()
            assert await there.until(len(whole)) == whole
        await there.over
        await opened.close()

    run(loop, main())


@both_loops
@pytest.mark.parametrize("kind", ["text", "large"])
def test_a_message_of_another_kind_ends_the_pipe(loop: str, kind: str) -> None:
    async def main() -> str:
        opened = Collecting(listening())
        await opened.open("127.0.0.1", 0)
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://127.0.0.1:{opened.port}{PATH}") as socket,
        ):
            there = Bytes(await opened.pipes.get())
            if kind == "text":
                await socket.send_str("hello")
            else:
                await socket.send_bytes(bytes(LARGEST_MESSAGE_BYTES + 1))
            reason = await there.over
        await opened.close()
        return reason

    assert ("text" in run(loop, main())) == (kind == "text")
