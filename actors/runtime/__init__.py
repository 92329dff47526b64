"""The actor runtime: typed messages, bounded mailboxes, supervision, streams, links.

A dozen names; docs/semantics.md gives the ten contracts they keep. Standing on
`transport` alone, it knows nothing of tensors, jobs or federations.
"""

from __future__ import annotations

from .actor import Actor, handles
from .address import Address
from .context import Context
from .errors import (
    ActorError,
    ActorFailed,
    AskTimeout,
    MailboxFull,
    ProtocolError,
    Rejected,
    RemoteError,
    Stopped,
    Unreachable,
)
from .mailbox import Mailbox, Overflow
from .message import Down, Message, Pull, Reason
from .ref import Ref, broadcast
from .statistics import ActorStatistics, DeadLetter, SystemStatistics
from .stream import Stream
from .supervision import Restart
from .system import Event, System, runtime_messages

__all__ = [
    "Actor",
    "ActorError",
    "ActorFailed",
    "ActorStatistics",
    "Address",
    "AskTimeout",
    "Context",
    "DeadLetter",
    "Down",
    "Event",
    "Mailbox",
    "MailboxFull",
    "Message",
    "Overflow",
    "ProtocolError",
    "Pull",
    "Reason",
    "Ref",
    "Rejected",
    "RemoteError",
    "Restart",
    "Stopped",
    "Stream",
    "System",
    "SystemStatistics",
    "Unreachable",
    "broadcast",
    "handles",
    "runtime_messages",
]
