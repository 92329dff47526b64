"""Sessions over WebSocket and over an HTTP Upgrade, on real sockets."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from covey.actors.runtime.loopback import LOOPBACK
from covey.transport import Envelope, Kind
from covey.transport.dialer import dial
from covey.transport.endpoint import Endpoint
from covey.transport.errors import LinkClosed, TransportError
from covey.transport.sessions.handshake import HIGHEST, LOWEST, first_words_codec, nonce
from covey.transport.sessions.messages import Bounds, Hello

from .talk import (
    both_loops,
    contexts,
    listener,
    listening,
    run,
    talk,
)

doors = pytest.mark.parametrize("door", ["websocket", "upgrade"])
encryption = pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])


@both_loops
@doors
@encryption
def test_small_and_large_envelopes_come_back_whole_and_in_order(
    tmp_path: Path, loop: str, door: str, encrypted: bool
) -> None:
    bodies = [bytes([n % 251]) * n for n in range(300)]
    bodies += [bytes([n]) * (1_000_000 + n) for n in range(6)]

    async def main() -> list[tuple[int, bytes]]:
        tls, dialer_tls = contexts(tmp_path, encrypted)
        async with listener(listening(tls)) as opened:
            url = f"{'https' if encrypted else 'http'}://127.0.0.1:{opened.port}"
            async with talk(url, dialer_tls, doors=[door]) as site:
                answers = await site.ask(bodies)
                assert site.link.connection is not None
                presented = site.link.connection.presented
                assert (presented.door, presented.encrypted) == (door, encrypted)
                assert not opened.refusals.counts
            return answers

    assert run(loop, main()) == list(enumerate(bodies))


@both_loops
@doors
def test_nothing_is_lost_when_the_connection_breaks(loop: str, door: str) -> None:
    async def main() -> tuple[list[tuple[int, bytes]], int]:
        async with (
            listener(listening()) as opened,
            talk(f"http://127.0.0.1:{opened.port}", doors=[door]) as site,
        ):
            site.cut_at = (100, 700)
            answers = await site.ask([b"x" * 10_000] * 1000)
            return list(answers), site.link.connections

    answers, connections = run(loop, main())
    assert answers == [(number, b"x" * 10_000) for number in range(1000)]
    assert connections > 1


@both_loops
@doors
@encryption
def test_a_site_hears_why_its_session_ends(
    tmp_path: Path, loop: str, door: str, encrypted: bool
) -> None:
    async def main() -> None:
        tls, dialer_tls = contexts(tmp_path, encrypted)
        async with listener(listening(tls)) as opened:
            url = f"{'https' if encrypted else 'http'}://127.0.0.1:{opened.port}"
            async with talk(url, dialer_tls, doors=[door]) as site:
                await opened.close()
                assert await site.lost == "server has closed"

    run(loop, main())


@both_loops
@doors
def test_what_does_not_know_the_door_is_named(loop: str, door: str) -> None:
    async def main() -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nhere")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(LinkClosed, match="404"):
                await dial(door, Endpoint.parse(f"http://127.0.0.1:{port}"), None)

    run(loop, main())


@both_loops
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 101 X\r\n" + b"A: " + b"a" * (20 << 10), "head is over"),
        (b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\n\r\n", "answers 101"),
        (b"HTTP/1.1 101 X\r\nUpgrade: covey/1\r\n\r\nxyz", "before it was spoken to"),
        (b"HTTP/1.1 101 X\r\n", "hung up"),
    ],
)
def test_a_wrong_answer_to_an_upgrade_is_told_in_words(loop: str, answer: bytes, why: str) -> None:
    async def main() -> None:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(speak, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(TransportError, match=why):
                await dial("upgrade", Endpoint.parse(f"http://127.0.0.1:{port}"), None)

    run(loop, main())


def hello() -> bytes:
    message = Hello(LOWEST, HIGHEST, "site-1", nonce(), Bounds(1 << 16, 1 << 20))
    pieces = first_words_codec().encode(Envelope(Kind.HELLO, message=message))
    return b"".join(pieces)


@pytest.mark.parametrize("field", ["", "Forwarded", "X-Forwarded-For"])
def test_who_is_forwarded_by_a_proxy_is_not_taken_to_be_on_this_host(field: str) -> None:
    """A field that is empty stands for none."""
    fields = {field: "for=192.0.2.7"} if field else {}

    async def main() -> None:
        async with listener(replace(listening(), keeper=LOOPBACK)) as opened:
            reader, writer = await asyncio.open_connection("127.0.0.1", opened.port)
            head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            upgrade = "Host: a\r\nConnection: Upgrade\r\nUpgrade: covey/1\r\n"
            writer.write(f"GET /covey/v1/stream HTTP/1.1\r\n{upgrade}{head}\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            writer.write(hello())
            upgraded = await reader.read(1000)
            writer.close()
            await writer.wait_closed()
            url = f"http://127.0.0.1:{opened.port}/covey/v1/websocket"
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(url, headers=fields) as socket,
            ):
                await socket.send_bytes(hello())
                said = await socket.receive_bytes()
            for answer in (upgraded, said):
                assert (b"comes through a proxy" in answer) is bool(field)
            assert opened.refusals.counts == ({"forwarded": 2} if field else {})

    run("asyncio", main())
