"""Errors on their way over a link.

Here: an error's form on the wire, and the error that a form stands for; a peer
can make no other exception here than these. Not here: the errors (`errors.py`).
"""

from __future__ import annotations

from typing import Any, Final

from .errors import (
    ActorError,
    MailboxFull,
    ProtocolError,
    Rejected,
    RemoteError,
    Stopped,
    Unreachable,
)
from .message import Fault, type_name

# Enough for a traceback's last lines; an error must not fill a link.
TEXT_CHARACTERS: Final = 4096


def fault(error: BaseException) -> Fault:
    """An error's form on the wire."""
    match error:
        case Rejected():
            return Fault("rejected", "", error.code, error.text[:TEXT_CHARACTERS])
        case MailboxFull():
            return Fault("mailbox-full", error.address, number=error.capacity)
        case Stopped():
            return Fault("stopped", error.address, text=error.reason)
        case Unreachable():
            return Fault("unreachable", error.address, text=error.reason)
        case RemoteError():
            return Fault("failed", error.address, error.kind, error.text[:TEXT_CHARACTERS])
        case _:
            return Fault("protocol", "", type(error).__name__, str(error)[:TEXT_CHARACTERS])


def error_of(message: Any) -> ActorError:
    """The error that a fault stands for."""
    if not isinstance(message, Fault):
        return ProtocolError(f"an error envelope held a {type_name(message)}")
    match message.code:
        case "rejected":
            return Rejected(message.kind, message.text)
        case "mailbox-full":
            return MailboxFull(message.address, int(message.number))
        case "stopped":
            return Stopped(message.address, message.text)
        case "unreachable":
            return Unreachable(message.address, message.text)
        case "failed":
            return RemoteError(message.address, message.kind, message.text)
        case _:
            return ProtocolError(message.text)
