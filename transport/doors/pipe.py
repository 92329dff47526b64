"""Pipe: a two-way run of bytes to one peer, through whichever door.

Here: what every door's pipe promises. Where one piece ends and the next begins says nothing:
frames are found in the bytes (`frames.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

#: Bytes that a pipe takes before it says that it is not writable: enough to keep the network busy,
#: little enough that what is urgent does not stand behind them for long.
UNWRITTEN_BYTES: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class Presented:
    """What a connection shows of who is at its other end.

    Attributes:
        door: The door's name: `fast`, `upgrade`, `websocket`, `grpc` or `unix`.
        address: The network address it comes from, or goes to.
        certificate: The peer's TLS certificate in DER, already verified against the authorities of
            this side; None where TLS showed none or ended before it came here.
        encrypted: Whether TLS ends at this very connection.
        forwarded: Whether a proxy says that it forwards for somebody else, who has another address.
    """

    door: str
    address: str
    certificate: bytes | None = None
    encrypted: bool = False
    forwarded: bool = False


class Sink(Protocol):
    """Who takes what comes through a pipe; all calls come in the loop, none may raise."""

    def destination(self) -> memoryview | None:
        """Memory that the next bytes belong in, if that is known: it saves a copy."""
        ...

    def filled(self, count: int) -> None:
        """`count` bytes have been put into the last `destination`."""
        ...

    def take(self, data: memoryview) -> None:
        """Bytes have come; they are used again after the call."""
        ...

    def writable(self) -> None:
        """The pipe takes more."""
        ...

    def ended(self, reason: str) -> None:
        """Nothing comes or goes any more; called once, also after `close`."""
        ...


class Pipe(Protocol):
    """Bytes to and from one peer; belongs to one loop."""

    @property
    def presented(self) -> Presented:
        """What is known of the peer."""
        ...

    @property
    def is_writable(self) -> bool:
        """Whether fewer than about `UNWRITTEN_BYTES` wait to be taken by the network."""
        ...

    def start(self, sink: Sink) -> None:
        """Begin to hand over what comes; called once. What has come before is kept till then."""
        ...

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Send bytes, in order; never waits. They must not change until they are gone.

        After the pipe's end it does nothing.
        """
        ...

    def pause(self) -> None:
        """Take nothing more from the network until `resume`."""
        ...

    def resume(self) -> None:
        """Go on after `pause`."""
        ...

    def close(self) -> None:
        """End once what was written is sent, in a second at the latest; idempotent."""
        ...

    def abort(self) -> None:
        """End now; idempotent."""
        ...
