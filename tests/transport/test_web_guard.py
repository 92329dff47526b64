"""Callers over HTTP that are silent, drip, send half, or let their answer stand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from covey.transport.admission import Caps
from covey.transport.listener import Listener, Listening
from covey.transport.routes import Routes, WebLimits

from .doors.talk import both_loops, contexts, listener, listening, run

#: Short enough for a test, long enough for whatever is sent in one go.
SHORT_S = 0.3
HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"\r\n\r\nok\n"


async def length(request: web.Request, caller: str) -> web.StreamResponse:
    return web.Response(text=str(len(await request.read())))


async def flood(request: web.Request, caller: str) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * (1 << 20))


def strict(**bounds: float) -> Listening:
    routes = Routes()
    routes.add("PUT", "/length", length, open=True)
    routes.add("GET", "/flood", flood, open=True)
    lasting = dict.fromkeys(("head_s", "body_s", "unread_s", "idle_s"), 50.0)
    return replace(listening(), routes=routes, web_limits=WebLimits(**{**lasting, **bounds}))  # type: ignore[arg-type]


async def connection(opened: Listener) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", opened.port)


async def until_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """What comes until the listener ends the connection."""
    came = b""
    try:
        while some := await reader.read(1 << 16):
            came += some
    except ConnectionResetError:
        pass
    writer.close()
    return came


async def drip(writer: asyncio.StreamWriter, first: bytes, drop: bytes) -> None:
    """Send a little again and again until cancelled."""
    writer.write(first)
    while True:
        await asyncio.sleep(0.02)
        writer.write(drop)


@both_loops
@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (b"GET /healthz HTTP/1.1\r\nX: ", b""),
        (b"GET /healthz HTTP/1.1\r\nX: ", b"x"),
        (b"G", b""),
        (HEALTHZ + b"GET /healthz HTTP/1.1\r\n", b"X: 1\r\n"),
    ],
    ids=["half", "dripping", "one byte", "dripping second"],
)
def test_a_head_that_does_not_end_is_cut_off(loop: str, first: bytes, drop: bytes) -> None:
    async def main() -> None:
        async with listener(strict(head_s=SHORT_S)) as opened:
            reader, writer = await connection(opened)
            dripping = asyncio.create_task(drip(writer, first, drop))
            came = await until_closed(reader, writer)
            dripping.cancel()
            assert came.endswith(OK) == (HEALTHZ in first)
            assert opened.refusals.counts == {"head-late": 1}
            assert not len(opened.admission)

    run(loop, main())


@both_loops
@pytest.mark.parametrize("crlf", [b"\r\n", b"\r\n\r\n"])
def test_empty_lines_are_no_head(loop: str, crlf: bytes) -> None:
    async def main() -> None:
        async with listener(strict(head_s=SHORT_S, body_s=SHORT_S)) as opened:
            reader, writer = await connection(opened)
            dripping = asyncio.create_task(drip(writer, b"", crlf))
            assert b"200" not in await until_closed(reader, writer)
            dripping.cancel()
            assert sum(opened.refusals.counts.values()) == 1

    run(loop, main())


@both_loops
def test_a_second_request_has_its_own_deadline(loop: str) -> None:
    async def main() -> None:
        async with listener(strict(head_s=SHORT_S)) as opened:
            reader, writer = await connection(opened)
            for _ in range(3):
                writer.write(HEALTHZ)
                await reader.readuntil(OK)
            writer.write(b"GET /heal")
            assert await until_closed(reader, writer) == b""
            assert opened.refusals.counts == {"head-late": 1}

    run(loop, main())


@both_loops
def test_half_of_a_request_that_came_with_another_is_no_request(loop: str) -> None:
    async def main() -> None:
        async with listener(strict(idle_s=SHORT_S)) as opened:
            reader, writer = await connection(opened)
            writer.write(HEALTHZ + b"GET /heal")
            assert (await until_closed(reader, writer)).endswith(OK)
            assert not len(opened.admission)

    run(loop, main())


@both_loops
def test_a_head_in_pieces_is_a_head(loop: str) -> None:
    async def main() -> None:
        async with listener(strict()) as opened:
            reader, writer = await connection(opened)
            for _ in range(2):
                for byte in HEALTHZ:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0)
                await reader.readuntil(OK)
            writer.close()
            assert not opened.refusals.counts

    run(loop, main())


@both_loops
def test_a_head_without_end_is_cut_off_by_its_size(loop: str) -> None:
    async def main() -> None:
        async with listener(strict()) as opened:
            reader, writer = await connection(opened)
            writer.write(b"GET / HTTP/1.1\r\n" + b"X: 0123456789\r\n" * 2000)
            await until_closed(reader, writer)
            assert opened.refusals.counts == {"head-large": 1}

    run(loop, main())


@both_loops
@pytest.mark.parametrize("drop", [b"", b"x"], ids=["stalled", "dripping"])
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_a_body_that_does_not_come_is_cut_off(
    tmp_path: Path, loop: str, drop: bytes, encrypted: bool
) -> None:
    async def main() -> None:
        tls, dialer_tls = contexts(tmp_path, encrypted)
        async with listener(replace(strict(body_s=SHORT_S), tls=tls)) as opened:
            reader, writer = await asyncio.open_connection(
                "localhost" if encrypted else "127.0.0.1",
                opened.port,
                ssl=None if dialer_tls is None else dialer_tls(["http/1.1"]),
            )
            head = b"PUT /length HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx"
            dripping = asyncio.create_task(drip(writer, head, drop))
            assert await until_closed(reader, writer) == b""
            dripping.cancel()
            assert opened.refusals.counts == {"body-slow": 1}
            assert not len(opened.admission)

    run(loop, main())


@both_loops
def test_a_slow_body_that_comes_fast_enough_is_taken(loop: str) -> None:
    async def main() -> None:
        async with listener(strict(body_s=0.1, body_bytes_per_s=100)) as opened:
            reader, writer = await connection(opened)
            writer.write(b"PUT /length HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
            for _ in range(10):
                await asyncio.sleep(0.05)
                writer.write(b"x" * 10_000)
            await reader.readuntil(b"\r\n\r\n100000")
            writer.close()
            assert not opened.refusals.counts

    run(loop, main())


@both_loops
def test_an_answer_that_is_not_taken_is_cut_off(loop: str) -> None:
    async def main() -> None:
        refused = asyncio.Event()

        def news(event: str, fields: dict[str, object]) -> None:
            refused.set()

        async with listener(replace(strict(unread_s=SHORT_S), news=news)) as opened:
            reader, writer = await connection(opened)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n")
            await refused.wait()
            assert opened.refusals.counts == {"answer-unread": 1}
            writer.transport.abort()
            await until_closed(reader, writer)

    run(loop, main())


@both_loops
def test_whoever_asks_for_nothing_is_cut_off(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        tls, dialer_tls = contexts(tmp_path, True)
        assert dialer_tls is not None
        async with listener(replace(strict(head_s=SHORT_S), tls=tls)) as opened:
            reader, writer = await asyncio.open_connection(
                "localhost", opened.port, ssl=dialer_tls(["http/1.1"])
            )
            assert await until_closed(reader, writer) == b""
            assert opened.refusals.counts == {"silent": 1}
            assert not len(opened.admission)

    run(loop, main())


@both_loops
def test_a_connection_without_requests_is_closed_in_peace(loop: str) -> None:
    async def main() -> None:
        async with listener(strict(idle_s=SHORT_S)) as opened:
            reader, writer = await connection(opened)
            writer.write(HEALTHZ)
            assert (await until_closed(reader, writer)).endswith(OK)
            assert not opened.refusals.counts
            assert not len(opened.admission)

    run(loop, main())


@both_loops
@pytest.mark.parametrize(
    "request_",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n : x\r\n\r\n",
    ],
)
def test_malformed_requests_are_counted_and_not_logged(
    loop: str, request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with listener(strict()) as opened:
            for _ in range(3):
                reader, writer = await connection(opened)
                writer.write(request_)
                assert b"400" in await until_closed(reader, writer)
            assert opened.refusals.counts == {"malformed": 3}

    run(loop, main())
    assert not caplog.records


@both_loops
def test_callers_without_a_name_are_strangers_and_bounded(loop: str) -> None:
    async def main() -> None:
        bounded = replace(strict(), caps=Caps(strangers_per_address=2))
        async with listener(bounded) as opened:
            pairs: Sequence[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = [
                await connection(opened) for _ in range(2)
            ]
            for reader, writer in pairs:
                writer.write(HEALTHZ)
                await reader.readuntil(OK)
            assert len(opened.admission) == 2
            reader, writer = await connection(opened)
            assert await until_closed(reader, writer) == b""
            assert opened.refusals.counts == {"strangers-per-address": 1}
            for _, writer in pairs:
                writer.close()
            for reader, writer in pairs:
                await until_closed(reader, writer)
            while len(opened.admission):  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
            reader, writer = await connection(opened)
            writer.write(HEALTHZ)
            await reader.readuntil(OK)
            writer.close()

    run(loop, main())


@both_loops
def test_a_listener_closes_though_callers_stay(loop: str) -> None:
    asked = asyncio.Event()

    async def hang(request: web.Request, caller: str) -> web.StreamResponse:
        asked.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def main() -> None:
        made = strict()
        made.routes.add("GET", "/hang", hang, open=True)
        async with listener(made) as opened:
            idle, hung = await connection(opened), await connection(opened)
            idle[1].write(HEALTHZ)
            await idle[0].readuntil(OK)
            hung[1].write(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
            await asked.wait()
            await opened.close()
            for reader, writer in (idle, hung):
                assert await until_closed(reader, writer) == b""
            assert not len(opened.admission)

    run(loop, main())
