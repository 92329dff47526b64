"""Envelope: one message on its way, and the kinds there are.

Here: plain data. Not here: its bytes (`codec.py`), and what a kind makes an actor do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, unique

from .record import Record


@unique
class Kind(IntEnum):
    """What an envelope is for. The numbers are fixed for ever (`docs/wire.md`)."""

    TELL = 1
    ASK = 2
    REPLY = 3
    ERROR = 4
    OPEN = 5
    CREDIT = 6
    CHUNK = 7
    END = 8
    CANCEL = 9
    DOWN = 10
    HELLO = 11
    WELCOME = 12
    GOAWAY = 13
    PING = 14
    WATCH = 15
    UNWATCH = 16
    ROUTE = 17


@dataclass(slots=True)
class Envelope:
    """One message with its addressing, as a link carries it.

    Attributes:
        kind: What it is for.
        to: Address of the receiver, empty for the node itself.
        sender: Address of the sender. Never proof of who the peer is: that is the link's.
        id: Correlates a reply, error, chunk or cancel with its request; 0 for none.
        message: The payload, None for kinds that need none.
        deadline_ms: Time left for the answer in milliseconds, None for no deadline. Relative,
            because clocks differ.
        trace: Trace context handed on unread, None for none.
        sequence: Position in the session's stream of envelopes, 0 outside a session.
        fds: Open file descriptors that go along; only a link between processes of one host
            can carry them. `send` duplicates them: the sender keeps and closes its own, and
            the receiver owns, and must close, those it is handed.
    """

    kind: Kind
    to: str = ""
    sender: str = ""
    id: int = 0
    message: Record | None = None
    deadline_ms: int | None = None
    trace: str | None = None
    sequence: int = 0
    fds: tuple[int, ...] = ()
