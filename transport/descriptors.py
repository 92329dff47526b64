"""Descriptors: open files that travel beside the bytes of a Unix socket.

Here: SCM_RIGHTS, in and out, and the ownership of copies. Not here: which envelope a descriptor
belongs to (`frames.py`).
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterable
from typing import Final

from .errors import LocalProtocolError, RemoteProtocolError

#: The most that Linux passes in one call (SCM_MAX_FD); a sender cannot exceed it.
_MOST_AT_ONCE: Final = 253
_INT_BYTES: Final = array.array("i").itemsize
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_MOST_AT_ONCE * _INT_BYTES)

#: Received descriptors must not leak into processes started later; 0 where the flag is missing.
_CLOEXEC: Final[int] = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

Ancillary = list[tuple[int, int, bytes]]


def duplicate(fds: Iterable[int], limit: int) -> tuple[int, ...]:
    """Copies of these descriptors, which the caller owns; all or none.

    Raises:
        LocalProtocolError: If one is not open, the process has no more, or there are more than
            `limit`.
    """
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(os.dup(fd))
    except OSError as error:
        close_all(copies)
        raise LocalProtocolError("descriptors", str(error)) from error
    if len(copies) > limit:
        close_all(copies)
        raise LocalProtocolError("descriptors", f"{len(copies)} are more than {limit}")
    return tuple(copies)


def close_all(fds: Iterable[int]) -> None:
    """Close each."""
    for fd in fds:
        os.close(fd)


def ancillary(fds: tuple[int, ...]) -> Ancillary:
    """What `sendmsg` takes to send these along."""
    if not fds:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())]


def receive_into(
    sock: socket.socket, buffer: bytearray, flags: int = 0
) -> tuple[int, tuple[int, ...]]:
    """Receive bytes and the descriptors that came with them, which the caller owns.

    Returns:
        The number of bytes in `buffer`, 0 at end of file, and the descriptors.

    Raises:
        OSError: As `socket.recvmsg_into`.
        RemoteProtocolError: If descriptors were lost (this process has no more of them).
    """
    count, messages, came, _ = sock.recvmsg_into([buffer], _ANCILLARY_BYTES, flags | _CLOEXEC)
    if not messages and not came & socket.MSG_CTRUNC:
        return count, ()
    fds = array.array("i")
    for level, kind, data in messages:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _INT_BYTES])
    if came & socket.MSG_CTRUNC:
        close_all(fds)
        raise RemoteProtocolError("descriptors", "some were lost: this process can open no more")
    if not _CLOEXEC:
        for fd in fds:
            os.set_inheritable(fd, False)
    return count, tuple(fds)
