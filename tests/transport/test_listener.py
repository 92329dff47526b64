"""Hostile peers at a listener, on real sockets and both loops: each gone, counted, and cheap."""

from __future__ import annotations

import asyncio
import gc
import os
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.transport import Envelope, Kind
from covey.transport import listener as listener_module
from covey.transport.admission import Caps, Refusals
from covey.transport.codec import MAGIC
from covey.transport.dialer import Dialer, Dialing
from covey.transport.doors.pipe import Presented
from covey.transport.endpoint import Endpoint
from covey.transport.errors import Refused
from covey.transport.listener import PREFACE, Listener, Listening
from covey.transport.sessions.handshake import HIGHEST, LOWEST, first_words_codec
from covey.transport.sessions.link import SessionLink
from covey.transport.sessions.messages import Bounds, Hello
from tests.transport.sessions.nodes import REGISTRY, Believing, control, number_of, settle, terms

Main = Callable[[], Coroutine[Any, Any, None]]
Runner = Callable[[Main], None]


def hello(node: str = "site-1") -> bytes:
    message = Hello(LOWEST, HIGHEST, node, b"n" * 32, Bounds(1 << 20, 8 << 20))
    pieces = first_words_codec().encode(Envelope(Kind.HELLO, message=message))
    return b"".join(bytes(piece) for piece in pieces)


class Choosing(Believing):
    """Lets sites in, and nobody else."""

    def name_of(self, presented: Presented, claimed: str) -> str | None:
        if not claimed.startswith("site"):
            raise Refused("server", "identity", f"{claimed} is unknown")
        if claimed == "site-odd":
            raise ArithmeticError("a secret")
        return claimed


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    """Runs a coroutine function on either loop, and finds every descriptor closed."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(main: Main) -> None:
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(nothing())  # the first loop of a process opens descriptors that stay
            loop.run(main())
            gc.collect()

    return runner


async def nothing() -> None:
    """A loop that is made."""


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "HANDSHAKE_S", 0.3)
    monkeypatch.setattr(listener_module, "FIRST_BYTES_S", 0.3)


@asynccontextmanager
async def listening(caps: Caps | None = None) -> AsyncGenerator[Listener, None]:
    """A listener with an honest site in session, which hears an echo when all is over."""
    links: list[SessionLink] = []

    def opened(link: SessionLink) -> None:
        link.start(link.send, lambda reason: None)

    listener = Listener(
        Listening(terms("server"), REGISTRY, Choosing(), opened, caps=caps or Caps())
    )
    await listener.open("127.0.0.1", 0)
    endpoint = Endpoint.parse(f"covey+plain://127.0.0.1:{listener.port}")
    dialer = Dialer(Dialing(endpoint, terms("site-0"), REGISTRY, Believing(), links.append))
    running = asyncio.create_task(dialer.run())
    try:
        await dialer.first
        await settle()
        before = descriptors()
        yield listener
        await settle()
        assert descriptors() == before
        assert len(listener.admission) == 0
        assert len(listener.standing) == 1
        assert not listener.unknown
        echoed = asyncio.get_running_loop().create_future()
        links[0].start(echoed.set_result, lambda reason: None)
        links[0].send(control(7))
        assert number_of(await echoed) == 7
        assert links[0].connections == 1
    finally:
        running.cancel()
        await asyncio.wait([running])
        await listener.close()


async def caller(
    port: int, host: str = "127.0.0.5"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0))


async def hung_up_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """What the listener said until it hung up."""
    said = bytearray()
    try:
        async with asyncio.timeout(10):
            while data := await reader.read(4096):
                said += data
    except ConnectionResetError:
        pass
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    return bytes(said)


async def silent(writer: asyncio.StreamWriter) -> None:
    """Says nothing."""


async def half_a_beginning(writer: asyncio.StreamWriter) -> None:
    writer.write(MAGIC[:1])


async def beginning(writer: asyncio.StreamWriter) -> None:
    writer.write(MAGIC)


async def dripping(writer: asyncio.StreamWriter) -> None:
    for byte in hello():
        writer.write(bytes([byte]))
        await asyncio.sleep(0.02)


async def all_but_one_byte(writer: asyncio.StreamWriter) -> None:
    writer.write(hello()[:-1])


async def garbage(writer: asyncio.StreamWriter) -> None:
    writer.write(MAGIC + bytes(100))


async def too_long(writer: asyncio.StreamWriter) -> None:
    writer.write(hello()[:16] + b"\xff\xff\xff\xff" + bytes(100_000))


async def preface(writer: asyncio.StreamWriter) -> None:
    writer.write(PREFACE)


async def stranger(writer: asyncio.StreamWriter) -> None:
    writer.write(hello("mallory"))


@pytest.mark.parametrize(
    ("behave", "counter", "told"),
    [
        (silent, "silent", b""),
        (half_a_beginning, "silent", b""),
        (beginning, "hello-late", b""),
        (dripping, "hello-late", b""),
        (all_but_one_byte, "hello-late", b""),
        (garbage, "protocol", b"begin an envelope"),
        (too_long, "protocol", b""),
        (preface, "door", b""),
        (stranger, "identity", b"mallory is unknown"),
    ],
)
def test_who_is_no_peer_is_gone_and_counted(
    behave: Callable[[asyncio.StreamWriter], Awaitable[None]],
    counter: str,
    told: bytes,
    run: Runner,
) -> None:
    async def main() -> None:
        async with listening() as listener:
            callers = [await caller(listener.port) for _ in range(5)]
            doing = [asyncio.ensure_future(behave(writer)) for _, writer in callers]
            said = await asyncio.gather(*(hung_up_on(*each) for each in callers))
            for task in doing:
                task.cancel()
            await asyncio.gather(*doing, return_exceptions=True)
            assert listener.refusals.counts == {counter: 5}
            assert all(told in each for each in said)

    run(main)


def test_who_leaves_in_the_middle_is_counted(run: Runner) -> None:
    async def main() -> None:
        async with listening() as listener:
            for data in (b"", MAGIC[:1], MAGIC, hello()[:-1]):
                reader, writer = await caller(listener.port)
                writer.write(data)
                writer.write_eof()
                await hung_up_on(reader, writer)
            assert listener.refusals.counts == {"left": 2}

    run(main)


def test_strangers_are_bounded_in_all_and_per_address(run: Runner) -> None:
    async def main() -> None:
        async with listening(Caps(strangers=6, strangers_per_address=3)) as listener:
            standing: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
            for host in ("127.0.0.5", "127.0.0.6"):
                for _ in range(3):
                    standing.append(await caller(listener.port, host))
                if host == "127.0.0.5":
                    assert await hung_up_on(*await caller(listener.port, host)) == b""
            assert await hung_up_on(*await caller(listener.port, "127.0.0.7")) == b""
            assert listener.refusals.counts == {"strangers-per-address": 1, "strangers": 1}
            await asyncio.gather(*(hung_up_on(*each) for each in standing))
            assert listener.refusals.counts["silent"] == 6

    run(main)


def test_an_honest_caller_comes_in_while_others_stand_at_the_door(run: Runner) -> None:
    async def main() -> None:
        async with listening() as listener:
            crowd = [await caller(listener.port, f"127.0.1.{n // 16}") for n in range(160)]
            reader, writer = await caller(listener.port, "127.0.0.9")
            writer.write(hello())
            assert await reader.readexactly(2) == MAGIC
            assert "site-1" in {link.peer for link in listener.sessions.values()}
            next(link for link in listener.sessions.values() if link.peer == "site-1").close()
            await hung_up_on(reader, writer)
            await asyncio.gather(*(hung_up_on(*each) for each in crowd))
            assert listener.refusals.counts == {"silent": 160}

    run(main)


def test_a_listener_that_closes_leaves_nobody_connected(run: Runner) -> None:
    async def close_in_company() -> int:
        listener = Listener(
            Listening(
                terms("server"), REGISTRY, Choosing(), lambda link: link.start(ignore, ignore)
            )
        )
        await listener.open("127.0.0.1", 0)
        callers = [await caller(listener.port) for _ in range(6)]
        for (_, writer), data in zip(callers, [b"", MAGIC, hello()] * 2, strict=True):
            writer.write(data)
        for reader, _ in (callers[2], callers[5]):
            assert await reader.readexactly(2) == MAGIC
        await listener.close()
        said = await asyncio.gather(*(hung_up_on(*each) for each in callers))
        assert all(b"server has closed" in each for each in (said[2], said[5]))
        await settle()
        return descriptors()

    async def main() -> None:
        assert await close_in_company() == await close_in_company()

    run(main)


def ignore(_: object) -> None:
    """Takes what is not looked at."""


def test_revoking_a_name_ends_its_sessions_and_no_other(run: Runner) -> None:
    async def main() -> None:
        async with listening() as listener:
            reader, writer = await caller(listener.port)
            writer.write(hello())
            await reader.readexactly(2)
            listener.revoke("site-1", "its key was stolen")
            said = await hung_up_on(reader, writer)
            assert b"revoked" in said
            assert b"its key was stolen" in said
            assert [link.peer for link in listener.sessions.values()] == ["site-0"]
            assert listener.refusals.counts == {"revoked": 1}

    run(main)


def test_a_doorkeeper_that_fails_is_told_without_details_and_counted(run: Runner) -> None:
    async def main() -> None:
        unheard: list[object] = []
        details: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: unheard.append(context))
        async with listening() as listener:
            listener.refusals = Refusals(lambda reason, count, detail: details.append(detail))
            reader, writer = await caller(listener.port)
            writer.write(hello("site-odd"))
            said = await hung_up_on(reader, writer)
            assert b"failed" in said
            assert b"secret" not in said
            assert listener.refusals.counts == {"failed": 1}
            assert "ArithmeticError" in details[0]
        gc.collect()
        assert not unheard

    run(main)


def test_a_listener_whose_port_is_taken_leaves_nothing_open(run: Runner) -> None:
    async def main() -> None:
        async with listening() as listener:
            second = Listener(Listening(terms("second"), REGISTRY, Choosing(), ignore))
            with pytest.raises(OSError, match="in use"):
                await second.open("127.0.0.1", listener.port)
            assert not second.factories
            assert not second.closers

    run(main)


async def throw(data: bytes, cuts: list[int]) -> Counter[str]:
    """Throw bytes at a listener, in pieces, and hang up."""
    async with listening() as listener:
        reader, writer = await caller(listener.port)
        start = 0
        for cut in [*sorted(cuts), len(data)]:
            writer.write(data[start:cut])
            await asyncio.sleep(0)
            start = max(start, cut)
        writer.write_eof()
        await hung_up_on(reader, writer)
        for link in list(listener.sessions.values()):
            if link.peer != "site-0":
                link.close()
        await settle()
        return listener.refusals.counts


THROWN = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(lambda rest: MAGIC + rest),
    st.binary(max_size=200).map(lambda rest: hello() + rest),
    st.binary(max_size=200).map(lambda rest: hello() + MAGIC + rest),
)


@settings(max_examples=8, deadline=None)
@given(THROWN, st.lists(st.integers(0, 300), max_size=5))
def test_whatever_is_thrown_at_a_listener_it_goes_on(data: bytes, cuts: list[int]) -> None:
    asyncio.run(throw(data, cuts))


@pytest.mark.soak
@settings(max_examples=5_000, deadline=None)
@given(THROWN, st.lists(st.integers(0, 300), max_size=5))
def test_whatever_is_thrown_at_a_listener_it_goes_on_for_long(data: bytes, cuts: list[int]) -> None:
    asyncio.run(throw(data, cuts))
