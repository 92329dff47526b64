"""Dialing: a TCP connection with TLS on it, through a forward proxy where one is named.

Here: what every door over TCP begins with. Not here: what is said over the connection (`fast.py`,
`upgrade.py`, `websocket.py`), which door is tried when (`dialer.py`).

`HTTPS_PROXY=http://user:password@host:port` sends what leaves this host through a proxy, by
CONNECT, whatever the door; `NO_PROXY` lists hosts, domains and networks that are dialed directly.
Loopback is never sent to a proxy, which would take it for its own.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from ..endpoint import DialerTLS, Endpoint
from ..errors import RemoteProtocolError, TransportError

#: Seconds for TLS; asyncio would wait for a minute.
HANDSHAKE_S: Final = 5.0

#: Bytes of the head of an answer over HTTP, and seconds until it is there.
HEAD_BYTES: Final = 16 << 10
HEAD_S: Final = 5.0

_HEAD_ENDS: Final = b"\r\n\r\n"

P = TypeVar("P", bound=asyncio.BaseProtocol)


class ProxyRefused(TransportError):
    """The forward proxy does not connect to the endpoint.

    Attributes:
        proxy: The proxy, as `host:port`.
        endpoint: What was to be reached.
        status: Its answer; 407 asks for another name or password.
    """

    def __init__(self, proxy: str, endpoint: str, status: int) -> None:
        super().__init__(proxy, endpoint, status)
        self.proxy = proxy
        self.endpoint = endpoint
        self.status = status

    def __str__(self) -> str:
        why = f"does not connect to {self.endpoint}: it answers {self.status}"
        if self.status == 407:
            why += "; HTTPS_PROXY needs its user and password"
        return f"the proxy {self.proxy} {why}"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A forward proxy.

    Attributes:
        host: Its name or address.
        port: Its TCP port.
        authorization: What it is told of who asks, empty for nothing.
    """

    host: str
    port: int
    authorization: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """The proxy of a URL such as `http://user:password@host:port`; `http://` may be left out.

        Raises:
            ValueError: The URL is not of this form. It is not repeated: it may hold a password.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError("HTTPS_PROXY is not of the form http://user:password@host:port")
        authorization = ""
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = "Basic " + base64.b64encode(pair.encode()).decode()
        return cls(parts.hostname, parts.port or 80, authorization)


def proxy_for(endpoint: Endpoint, environment: Mapping[str, str]) -> Proxy | None:
    """The forward proxy through which an endpoint is reached, None for a direct connection.

    Raises:
        ValueError: `HTTPS_PROXY` names no proxy.
    """
    url = environment.get("https_proxy") or environment.get("HTTPS_PROXY")
    if not url or endpoint.is_local:
        return None
    spared = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    for entry in spared.split(","):
        if _covers(entry.strip().lower(), endpoint.host.lower()):
            return None
    return Proxy.parse(url)


def _covers(entry: str, host: str) -> bool:
    """Whether an entry of `NO_PROXY` is for a host: `*`, a domain, an address or a network."""
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        domain = entry.removeprefix("*").lstrip(".")
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer over HTTP/1.1.

    Attributes:
        status: Its status.
        fields: Its header fields; names in lower case.
        followed: Whether something came behind it.
    """

    status: int
    fields: dict[str, str]
    followed: bool

    @classmethod
    def parse(cls, data: bytes | bytearray) -> Head | None:
        """The head that `data` begins with; None while its end has not come.

        Raises:
            RemoteProtocolError: It is no head, or a too large one.
        """
        end = data.find(_HEAD_ENDS)
        if (end if end >= 0 else len(data)) > HEAD_BYTES:
            raise RemoteProtocolError("answer", f"its head is over {HEAD_BYTES} bytes")
        if end < 0:
            return None
        first, *rest = bytes(data[:end]).decode("latin-1").split("\r\n")
        words = first.split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
            raise RemoteProtocolError("answer", "it does not speak HTTP/1.1")
        pairs = (line.partition(":") for line in rest)
        fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
        return cls(int(words[1]), fields, followed=end + len(_HEAD_ENDS) < len(data))


async def connect(
    endpoint: Endpoint,
    tls: DialerTLS | None,
    protocols: Sequence[str],
    factory: Callable[[], P],
) -> tuple[asyncio.Transport, P]:
    """Connect, by the proxy that the environment names if any, with TLS if the endpoint has it.

    Args:
        endpoint: Where to.
        tls: Makes the TLS context.
        protocols: What is offered by ALPN.
        factory: Makes the protocol.

    Raises:
        OSError: There is no connection, or no TLS on it.
        ProxyRefused: The proxy does not let it through.
        RemoteProtocolError: The proxy does not speak HTTP.
    """
    loop = asyncio.get_running_loop()
    context = tls(protocols) if tls is not None and endpoint.encrypted else None
    name = endpoint.host if context is not None else None
    late = HANDSHAKE_S if context is not None else None
    try:
        proxy = proxy_for(endpoint, os.environ)
    except ValueError as error:
        raise OSError(str(error)) from None
    if proxy is None:
        return await loop.create_connection(
            factory,
            endpoint.host,
            endpoint.port,
            ssl=context,
            server_hostname=name,
            ssl_handshake_timeout=late,
        )
    sock = await open_socket(endpoint, proxy)
    try:
        return await loop.create_connection(
            factory, sock=sock, ssl=context, server_hostname=name, ssl_handshake_timeout=late
        )
    except BaseException:
        sock.close()
        raise


async def open_socket(endpoint: Endpoint, proxy: Proxy) -> socket.socket:
    """A socket that a proxy has connected to an endpoint; the caller closes it.

    Raises:
        OSError: The proxy cannot be reached, or is silent.
        ProxyRefused: It does not connect.
        RemoteProtocolError: It does not speak HTTP.
    """
    sock = await _reach(proxy)
    try:
        async with asyncio.timeout(HEAD_S):
            head = await _ask(sock, endpoint, proxy)
        if head.status != 200:
            raise ProxyRefused(str(proxy), str(endpoint), head.status)
        if head.followed:  # whoever listens waits for our first word
            raise RemoteProtocolError("answer", f"{proxy} says more than that it is connected")
    except BaseException:
        sock.close()
        raise
    return sock


async def _reach(proxy: Proxy) -> socket.socket:
    """A socket to a proxy, by the first of its addresses that answers."""
    loop = asyncio.get_running_loop()
    failed = OSError(f"the proxy {proxy} has no address")
    for family, kind, number, _, address in await loop.getaddrinfo(
        proxy.host, proxy.port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, number)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, address)
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise
            failed = OSError(f"the proxy {proxy} cannot be reached: {error}")
        else:
            return sock
    raise failed


async def _ask(sock: socket.socket, endpoint: Endpoint, proxy: Proxy) -> Head:
    """Ask a proxy to connect; its answer."""
    loop = asyncio.get_running_loop()
    lines = [f"CONNECT {endpoint} HTTP/1.1", f"Host: {endpoint}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    await loop.sock_sendall(sock, "\r\n".join([*lines, "", ""]).encode())
    answer = bytearray()
    while (head := Head.parse(answer)) is None:
        some = await loop.sock_recv(sock, HEAD_BYTES)
        if not some:
            raise ConnectionResetError(f"the proxy {proxy} hung up")
        answer += some
    return head
