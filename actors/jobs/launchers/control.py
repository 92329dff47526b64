"""The language between a launcher and its template process.

Here: the messages, and sending and receiving them with descriptors. Not here: what either side
does (`template.py`, `fork.py`).

A SOCK_SEQPACKET socket pair keeps message boundaries, so there is no framing, and nothing here
needs more than the standard library: the template can start to import at once. Both ends are
this package in processes of this user; nothing from elsewhere ever arrives here.
"""

from __future__ import annotations

import dataclasses
import json
import socket
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

_MESSAGE_BYTES: Final = 64 << 10  # hundreds of module names; less than the socket's own buffer
_MAX_FDS: Final = 2


@dataclass(frozen=True, slots=True)
class Preload:
    """To the template: import these. Answered by `Loaded`."""

    modules: list[str]


@dataclass(frozen=True, slots=True)
class Fork:
    """To the template: fork a client; its link and its output go along as descriptors.

    Answered by `Forked` or `Refused`, later by `Exited`.
    """

    client: int


@dataclass(frozen=True, slots=True)
class Kill:
    """To the template: kill a client and its whole process group, if it still runs."""

    client: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """From the template: a `Preload` is done.

    Attributes:
        modules: What was asked for.
        seconds: How long it took.
        failed: Modules that could not be imported, with the reason. Not an error here: the
            script meets it at its own line.
        unsafe: A module whose import makes forking unsafe, None if there is none. The template
            does not fork after that.
        why: What that module did.
    """

    modules: list[str]
    seconds: float
    failed: dict[str, str] = field(default_factory=dict[str, str])
    unsafe: str | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Forked:
    """From the template: a client runs."""

    client: int
    pid: int


@dataclass(frozen=True, slots=True)
class Refused:
    """From the template: a client could not be forked."""

    client: int
    why: str


@dataclass(frozen=True, slots=True)
class Exited:
    """From the template: a client has ended and been reaped.

    Attributes:
        client: Which.
        returncode: Its exit code, or minus the signal that ended it.
    """

    client: int
    returncode: int


Message: TypeAlias = Preload | Fork | Kill | Loaded | Forked | Refused | Exited

_TYPES: Final[dict[str, type[Message]]] = {
    cls.__name__: cls for cls in (Preload, Fork, Kill, Loaded, Forked, Refused, Exited)
}


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair of control sockets."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, message: Message, fds: tuple[int, ...] = ()) -> None:
    """Send a message with duplicates of `fds`.

    Raises:
        OSError: If the other side is gone, or (non-blocking) its queue is full.
    """
    data = json.dumps([type(message).__name__, dataclasses.asdict(message)]).encode()
    socket.send_fds(sock, [data], fds)


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """Receive a message and its descriptors, which the caller owns; None at end of file.

    Raises:
        OSError: As `recv`; BlockingIOError if nothing is there (non-blocking).
    """
    data, fds, _, _ = socket.recv_fds(sock, _MESSAGE_BYTES, _MAX_FDS)
    if not data:
        return None
    name: str
    fields: dict[str, Any]  # Any: JSON
    name, fields = json.loads(data)
    return _TYPES[name](**fields), fds
