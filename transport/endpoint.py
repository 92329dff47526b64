"""Endpoint: where to dial, through which doors, and with which TLS.

Here: URLs and what they mean. Not here: dialing (`dialer.py`).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import unquote, urlsplit

#: A TLS context of the dialer's side for a list of ALPN names.
DialerTLS: TypeAlias = "Callable[[Sequence[str]], ssl.SSLContext]"

#: The doors in the order in which they are tried: the first ones cost least.
DOORS: Final = ("fast", "upgrade", "websocket", "grpc")

#: By the scheme of a URL: the doors that it stands for, whether TLS is used, and the default port.
_SCHEMES: Final[dict[str, tuple[tuple[str, ...], bool, int]]] = {
    "https": (DOORS, True, 443),
    "http": (DOORS, False, 80),
    "covey": (("fast",), True, 443),
    "covey+plain": (("fast",), False, 80),
    "wss": (("websocket",), True, 443),
    "ws": (("websocket",), False, 80),
    "grpcs": (("grpc",), True, 443),
    "grpc": (("grpc",), False, 80),
    "unix": (("unix",), False, 0),
}

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A listener's address, as a dialer sees it.

    Attributes:
        host: Its name or address; the path of the socket for `unix`.
        port: Its TCP port.
        doors: The doors to be tried, in this order.
        encrypted: Whether TLS is used.
    """

    host: str
    port: int
    doors: tuple[str, ...]
    encrypted: bool

    def __str__(self) -> str:
        if self.doors == ("unix",):
            return f"unix:{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @classmethod
    def parse(cls, url: str, *, doors: Sequence[str] | None = None) -> Endpoint:
        """The endpoint of a URL such as `https://host:443`.

        `https` tries all doors one after the other, `covey` the fast one alone, `wss` WebSocket,
        `grpcs` gRPC; `http`, `covey+plain`, `ws` and `grpc` are the same without TLS, and
        `unix:/path` is a Unix socket.

        Args:
            url: The URL; it has a host, maybe a port, and nothing else.
            doors: Only these doors, in this order; None for all that the scheme stands for.

        Raises:
            ValueError: The URL is not of this form, or a door is unknown.
        """
        parts = urlsplit(url)
        found = _SCHEMES.get(parts.scheme)
        if found is None:
            raise ValueError(f"{url!r}: the scheme is none of {', '.join(_SCHEMES)}")
        known, encrypted, port = found
        wanted = known if doors is None else tuple(doors)
        for door in wanted:
            if door not in known:
                raise ValueError(f"{url!r} has no door {door!r}; it has {', '.join(known)}")
        if not wanted:
            raise ValueError(f"{url!r}: no door is left to be tried")
        if parts.scheme == "unix":
            if parts.netloc or not parts.path or parts.query or parts.fragment:
                raise ValueError(f"{url!r} is not of the form unix:/path")
            return cls(unquote(parts.path), 0, wanted, encrypted)
        if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(f"{url!r}: a host and a port are all that it may have")
        if not parts.hostname:
            raise ValueError(f"{url!r} names no host")
        try:
            own_port = parts.port
        except ValueError:
            raise ValueError(f"{url!r}: the port is no number from 1 to 65535") from None
        if own_port == 0:
            raise ValueError(f"{url!r}: nothing listens on port 0")
        return cls(parts.hostname, own_port or port, wanted, encrypted)

    @property
    def is_local(self) -> bool:
        """Whether it is certainly on this host."""
        return self.doors == ("unix",) or self.host in _LOOPBACK
