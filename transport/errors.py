"""Everything that can go wrong between two nodes, as one small tree.

Here: the exceptions this room raises, each with the fields a caller may act on. Whose fault it
is stands in the type: `LocalProtocolError` is a mistake on this side and costs only the call;
`RemoteProtocolError` is the peer's, and the link to it is closed.
Not here: errors of actors, jobs or tensors.
"""

from __future__ import annotations


class TransportError(Exception):
    """Root of every error raised by `covey.transport`."""


class SchemaError(TransportError, TypeError):
    """A record class cannot cross a wire; raised when it is registered.

    Attributes:
        where: The class, or `Class.field`.
        why: What is not supported and what is.
    """

    def __init__(self, where: str, why: str) -> None:
        super().__init__(where, why)
        self.where = where
        self.why = why

    def __str__(self) -> str:
        return f"{self.where} cannot be a wire type: {self.why}"


class LocalProtocolError(TransportError):
    """This side tried to send what the protocol does not allow; nothing was sent.

    Attributes:
        where: What was refused: `Record.field`, or a part of the envelope.
        why: The rule that it breaks.
    """

    def __init__(self, where: str, why: str) -> None:
        super().__init__(where, why)
        self.where = where
        self.why = why

    def __str__(self) -> str:
        return f"cannot send {self.where}: {self.why}"


class LinkFull(LocalProtocolError):
    """`send` was called far past the point where `full` said to await `ready()`.

    Attributes:
        peer: Who the link leads to.
        queued: What waits in the queue, in envelopes or bytes as `unit` says.
        bound: The most the queue takes.
        unit: `"envelopes"` or `"bytes"`.
    """

    def __init__(self, peer: str, queued: int, bound: int, unit: str) -> None:
        why = f"{queued} {unit} are queued, the bound is {bound}; await ready() when full"
        super().__init__(f"to {peer!r}", why)
        self.peer = peer
        self.queued = queued
        self.bound = bound
        self.unit = unit


class RemoteProtocolError(TransportError):
    """The peer broke the protocol; the link to it is closed.

    Attributes:
        where: The part of the frame, or `Record.field`.
        why: The rule that it breaks.
    """

    def __init__(self, where: str, why: str) -> None:
        super().__init__(where, why)
        self.where = where
        self.why = why

    def __str__(self) -> str:
        return f"peer sent a bad {self.where}: {self.why}"


class DecodeError(RemoteProtocolError):
    """Bytes that are not an envelope of this protocol, within its limits and its registry."""


class LinkClosed(TransportError):
    """The link has ended; nothing more can be sent or received over it.

    Attributes:
        peer: Who the link led to.
        reason: Why it ended, in words for a log.
    """

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(peer, reason)
        self.peer = peer
        self.reason = reason

    def __str__(self) -> str:
        return f"the link to {self.peer!r} is closed: {self.reason}"


class Refused(TransportError):
    """The other side does not open a session, or has ended it, and says why.

    Attributes:
        peer: Who refused, as far as is known: a name or an address.
        code: A word that a program can act on: `identity`, `revoked`, `version`, `limits`, ...
        text: A sentence for people.
    """

    def __init__(self, peer: str, code: str, text: str) -> None:
        super().__init__(peer, code, text)
        self.peer = peer
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return f"{self.peer} refuses ({self.code}): {self.text}"
