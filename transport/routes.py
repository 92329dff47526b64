"""Routes: what a listener serves over HTTP, and the bounds on whoever asks.

Here: a table that rooms above fill. Not here: serving it (`web.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from aiohttp import web

#: Answers a request of a caller, whose name is proven; it is empty where the path is open to all.
Handler: TypeAlias = "Callable[[web.Request, str], Awaitable[web.StreamResponse]]"


@dataclass(frozen=True, slots=True)
class WebLimits:
    """Bounds on what comes over HTTP.

    Attributes:
        head_s: Seconds for the head of a request, from its first byte, and for the first byte.
        head_bytes: Bytes of it.
        headers: Header fields in it.
        body_bytes_per_s: How fast a body comes at least, on average over `body_s`.
        body_s: Seconds over which that is measured.
        unread_s: Seconds for which an answer may stand unread.
        idle_s: Seconds until a connection without a request is closed.
        request_bytes: Bytes of a body that is read as a whole; handlers that read theirs bit by
            bit bound it themselves.
    """

    head_s: float = 5.0
    head_bytes: int = 16 << 10
    headers: int = 64
    body_bytes_per_s: float = 8 << 10
    body_s: float = 10.0
    unread_s: float = 10.0
    idle_s: float = 15.0
    request_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Route:
    """One path.

    Attributes:
        method: The HTTP method.
        path: The path; `{name}` in it matches one segment, which `request.match_info` has.
        handler: Answers.
        open: Whether it answers callers of whom nothing is known.
        allowed: Whether it answers a caller of this name.
    """

    method: str
    path: str
    handler: Handler
    open: bool
    allowed: Callable[[str], bool]


class Routes:
    """The paths of one listener, beside those that every listener has.

    Every listener has the doors (`/covey/v1/websocket`, `/covey/v1/stream`), whose callers say who
    they are in their first words, `/healthz`, open to all, and `/metrics`.

    Args:
        open_metrics: Whether `/metrics` answers callers of whom nothing is known.
    """

    def __init__(self, *, open_metrics: bool = False) -> None:
        self.open_metrics = open_metrics
        self._routes: dict[tuple[str, str], Route] = {}

    def __iter__(self) -> Iterator[Route]:
        """All that was added."""
        return iter(self._routes.values())

    def add(
        self,
        method: str,
        path: str,
        handler: Handler,
        *,
        open: bool = False,
        allowed: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """Serve a path, from the listener's opening on.

        A caller is who its TLS certificate says (`Doorkeeper.name_of`). Whoever shows none is
        answered 403, and so is whoever is not `allowed`.

        Args:
            method: The HTTP method.
            path: The path; `{name}` in it matches one segment, which `request.match_info` has.
            handler: Answers.
            open: Whether it answers callers of whom nothing is known; it has no name of them then.
            allowed: Whether it answers a caller of this name.

        Raises:
            ValueError: The path is served already.
        """
        key = (method.upper(), path)
        if key in self._routes:
            raise ValueError(f"{method} {path} is served already")
        self._routes[key] = Route(key[0], path, handler, open, allowed)
