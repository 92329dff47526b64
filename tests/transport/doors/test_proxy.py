"""Doors through a forward proxy, with and without a password."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from covey.transport.dialer import dial
from covey.transport.doors.tcp import Head, Proxy, ProxyRefused, proxy_for
from covey.transport.endpoint import Endpoint
from covey.transport.errors import RemoteProtocolError

from .talk import both_loops, contexts, listener, listening, run, talk

#: A name that no resolver knows: only the proxy leads there.
HOST = "server.example"

doors = pytest.mark.parametrize("door", ["fast", "upgrade", "websocket"])


@asynccontextmanager
async def forward_proxy(port: int, user: str = "") -> AsyncGenerator[tuple[int, list[str]], None]:
    """A proxy that connects to a port of this host whatever it is asked for.

    Yields its port, and what it was asked for.
    """
    asked: list[str] = []
    running: set[asyncio.Task[None]] = set()
    wanted = "Basic " + base64.b64encode(user.encode()).decode() if user else ""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while some := await reader.read(1 << 16):
                writer.write(some)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *fields = head.split("\r\n")
        asked.append(first)
        if wanted and f"Proxy-Authorization: {wanted}" not in fields:
            body = b"<html>who are you?</html>"
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n")
            writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            writer.close()
            return
        beyond = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\nX-Proxy: yes\r\n\r\n")
        await asyncio.gather(copy(reader, beyond[1]), copy(beyond[0], writer))

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await serve(reader, writer)
        finally:
            running.discard(task)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        server.close()
        if running:
            await asyncio.wait(running)


@both_loops
@doors
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_a_session_goes_through_a_proxy_with_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: str, door: str, encrypted: bool
) -> None:
    async def main() -> None:
        tls, dialer_tls = contexts(tmp_path, encrypted)
        async with (
            listener(listening(tls)) as opened,
            forward_proxy(opened.port, "an:ö @/pass") as (port, asked),
        ):
            monkeypatch.setenv("HTTPS_PROXY", f"http://an:%C3%B6%20%40%2Fpass@127.0.0.1:{port}")
            url = f"{'https' if encrypted else 'http'}://{HOST}:8443"
            if door == "fast":
                url = f"{'covey' if encrypted else 'covey+plain'}://{HOST}:8443"
            async with talk(url, dialer_tls, doors=[door]) as site:
                bodies = [b"x" * n for n in range(0, 200_000, 10_000)]
                assert await site.ask(bodies) == list(enumerate(bodies))
            assert asked == [f"CONNECT {HOST}:8443 HTTP/1.1"]

    run(loop, main())


@both_loops
@doors
@pytest.mark.parametrize("login", ["", "an:wrong@", "someone@"])
def test_a_proxy_that_knows_another_password_is_named(
    monkeypatch: pytest.MonkeyPatch, loop: str, door: str, login: str
) -> None:
    async def main() -> None:
        async with forward_proxy(1, "an:secret") as (port, _):
            monkeypatch.setenv("HTTPS_PROXY", f"http://{login}127.0.0.1:{port}")
            endpoint = Endpoint.parse(f"http://{HOST}:80")
            with pytest.raises(ProxyRefused) as refused:
                await dial(door, endpoint, None)
            assert refused.value.status == 407
            assert f"the proxy 127.0.0.1:{port} does not connect to {HOST}:80" in str(refused.value)
            assert "password" in str(refused.value)
            assert "wrong" not in str(refused.value)

    run(loop, main())


@both_loops
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", ConnectionResetError),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", ProxyRefused),
        (b"HTTP/1.1 200 OK\r\n\r\nsurprise", RemoteProtocolError),
        (b"220 smtp.example ready\r\n\r\n", RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000, RemoteProtocolError),
    ],
)
def test_a_broken_proxy_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, loop: str, answer: bytes, error: type[Exception]
) -> None:
    async def main() -> None:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(speak, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{port}")
            with pytest.raises(error):
                await dial("fast", Endpoint.parse(f"http://{HOST}:80"), None)

    run(loop, main())


@both_loops
def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, loop: str) -> None:
    async def main() -> None:
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        with pytest.raises(OSError, match=f"the proxy 127.0.0.1:{port} cannot be reached"):
            await dial("fast", Endpoint.parse(f"http://{HOST}:80"), None)

    run(loop, main())


@pytest.mark.parametrize(
    ("url", "spared", "direct"),
    [
        ("https://server.example", "", False),
        ("https://server.example", "other.example,example", True),
        ("https://server.example", ".example", True),
        ("https://server.example", "*.example", True),
        ("https://server.example", "ver.example", False),
        ("https://server.example", "SERVER.example", True),
        ("https://server.example", " , ", False),
        ("https://server.example", "*", True),
        ("https://10.1.2.3", "10.0.0.0/8", True),
        ("https://10.1.2.3", "10.1.2.4", False),
        ("https://[fd00::1]", "fd00::/8", True),
        ("https://127.0.0.1", "", True),
        ("https://localhost", "", True),
    ],
)
def test_no_proxy_says_what_is_reached_directly(url: str, spared: str, direct: bool) -> None:
    environment = {"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": spared}
    proxy = proxy_for(Endpoint.parse(url), environment)
    assert (proxy is None) == direct
    assert proxy_for(Endpoint.parse(url), {}) is None


def test_a_proxy_shows_no_password() -> None:
    proxy = Proxy.parse("http://an:secret@proxy.example:3128")
    assert str(proxy) == "proxy.example:3128"
    assert proxy.authorization == "Basic " + base64.b64encode(b"an:secret").decode()
    assert proxy.authorization not in repr(proxy)
    assert str(Proxy.parse("http://[::1]:3128")) == "[::1]:3128"


@pytest.mark.parametrize(
    "url", ["https://proxy:1", "socks5://an:secret@proxy", "http://", "http://an:secret@proxy/path"]
)
def test_what_is_no_proxy_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="HTTPS_PROXY is not of the form") as refused:
        Proxy.parse(url)
    assert "secret" not in str(refused.value)


def test_a_head_is_read_when_all_of_it_is_there() -> None:
    whole = b"HTTP/1.1 101 Switching\r\nUpgrade: covey/1\r\n\r\n"
    assert all(Head.parse(whole[:n]) is None for n in range(len(whole)))
    assert Head.parse(whole) == Head(101, {"upgrade": "covey/1"}, followed=False)
    assert Head.parse(whole + b"x") == Head(101, {"upgrade": "covey/1"}, followed=True)
