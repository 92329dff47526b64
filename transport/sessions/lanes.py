"""Lanes: what a session has sent, what of it is acknowledged, and what it has received.

Sans-IO. A session has two lanes in each direction. Control envelopes overtake bulk ones, so each
lane counts for itself: within a lane envelopes arrive in order, each exactly once, over any number
of connections, as long as both ends live.

Not here: bytes on a connection (`link.py`), what an acknowledgement looks like (`messages.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias

from ..envelope import Kind
from ..errors import RemoteProtocolError

#: Kinds that may be overtaken: parts of streams, and their ends, which must not overtake parts.
BULK: Final[frozenset[Kind]] = frozenset({Kind.CHUNK, Kind.END})

Pieces: TypeAlias = "Sequence[bytes | memoryview]"


class Lane:
    """One direction's numbers and copies of one kind of traffic, and the other's numbers.

    Attributes:
        sent: Number of the last envelope that was added, 0 before the first.
        acknowledged: Number of the last one that the peer has.
        received: Number of the last one that came from the peer.
        bytes: Bytes that are kept: not yet written, or not yet acknowledged.
        flying: Those of them that are written.
    """

    __slots__ = ("_flying", "_waiting", "acknowledged", "bytes", "flying", "received", "sent")

    def __init__(self) -> None:
        self.sent = self.acknowledged = self.received = self.bytes = self.flying = 0
        # Frames with their sizes: not yet written to this connection; written, but maybe lost.
        self._waiting: deque[tuple[Pieces, int]] = deque()
        self._flying: deque[tuple[Pieces, int]] = deque()

    def __len__(self) -> int:
        """Envelopes that are kept."""
        return len(self._waiting) + len(self._flying)

    @property
    def waiting(self) -> int:
        """Envelopes that are not yet written."""
        return len(self._waiting)

    def add(self, pieces: Pieces) -> None:
        """Keep the frame of the envelope numbered `sent + 1`."""
        size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        self._waiting.append((pieces, size))
        self.sent += 1
        self.bytes += size

    def take(self) -> tuple[Pieces, int] | None:
        """The next frame to be written, and its bytes; None if there is none."""
        if not self._waiting:
            return None
        frame = self._waiting.popleft()
        self._flying.append(frame)
        self.flying += frame[1]
        return frame

    def take_up_to(self, room: int, pieces: list[bytes | memoryview]) -> int:
        """Put the next frames to `pieces` until they have `room` bytes or more; how many bytes."""
        waiting, flying = self._waiting, self._flying
        taken = 0
        while taken < room and waiting:
            frame = waiting.popleft()
            flying.append(frame)
            pieces += frame[0]
            taken += frame[1]
        self.flying += taken
        return taken

    def acknowledge(self, number: int) -> None:
        """The peer has everything up to `number`.

        Raises:
            RemoteProtocolError: If that was never sent, or less than it has said before.
        """
        if not self.acknowledged <= number <= self.sent:
            expected = f"{self.acknowledged} to {self.sent}"
            raise RemoteProtocolError("acknowledgement", f"{number} is not from {expected}")
        for _ in range(number - self.acknowledged):
            # A peer that has a frame has had it written, on this connection or an earlier one.
            frames = self._flying or self._waiting
            size = frames.popleft()[1]
            self.bytes -= size
            self.flying -= size if frames is self._flying else 0
        self.acknowledged = number

    def rewind(self) -> None:
        """There is a new connection: write again what is not acknowledged."""
        self._flying.extend(self._waiting)
        self._waiting, self._flying = self._flying, self._waiting
        self._flying.clear()
        self.flying = 0

    def accept(self, number: int) -> bool:
        """Whether the envelope of a number is new; it counts as received then.

        Raises:
            RemoteProtocolError: If others before it are missing.
        """
        if number == self.received + 1:
            self.received = number
            return True
        if number <= self.received:
            return False
        raise RemoteProtocolError("sequence", f"{number} came after {self.received}")

    def clear(self) -> None:
        """Let go of all copies."""
        self._waiting.clear()
        self._flying.clear()
        self.bytes = self.flying = 0
