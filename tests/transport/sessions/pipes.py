"""Pipes in memory, over a network that the test disturbs: no sockets, and virtual time.

Here: `MemoryPipe`, a pair of which is one connection, and what may befall it. Not here: who dials
and what is said.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from covey.transport.doors.pipe import UNWRITTEN_BYTES, Presented, Sink


@dataclass
class Weather:
    """How a network behaves; everything is drawn from one source."""

    random: Random = field(default_factory=lambda: Random(0))
    delay_s: tuple[float, float] = (0.0, 0.0)
    #: The largest piece that one read gives.
    piece_bytes: int = 256 << 10


class MemoryPipe:
    """One end of a connection; see `Pipe`."""

    other: MemoryPipe

    def __init__(self, weather: Weather, address: str) -> None:
        self.presented = Presented("memory", address)
        self.is_writable = True
        self.over: str | None = None
        #: Bytes that this end has written.
        self.written = 0
        self._weather = weather
        self._loop = asyncio.get_running_loop()
        self._sink: Sink | None = None
        self._paused = False
        self._closing = False
        self._silent = False
        self._untaken = 0  # written by this end, not yet handed to the other's sink
        self._under_way: deque[bytes] = deque()  # to this end
        self._come = bytearray()

    # What a connection does --------------------------------------------------

    def start(self, sink: Sink) -> None:
        assert self._sink is None
        self._sink = sink
        if self.over is not None:
            self._loop.call_soon(sink.ended, self.over)
        else:
            self._loop.call_soon(self._give)

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        if self.over is not None or self._closing:
            return
        data = b"".join(pieces)
        self.written += len(data)
        self._untaken += len(data)
        self.is_writable = self._untaken < UNWRITTEN_BYTES
        if not self._silent and data:
            self.other._under_way.append(data)
            self._loop.call_later(self._delay(), self.other._arrive)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._loop.call_soon(self._give)

    def close(self) -> None:
        if self.over is None and not self._closing:
            self._closing = True
            self._loop.call_later(1.0, self._finish)
            if not self._untaken:
                self._finish()

    def abort(self) -> None:
        self._finish("reset by the peer")

    # The network -------------------------------------------------------------

    def cut(self, left: int = 0) -> None:
        """Break the connection; `left` bytes of what is under way still arrive at each end."""
        for end in (self, self.other):
            rest = b"".join(end._under_way)[:left]
            end._under_way.clear()
            end._come += rest
            end._give()
        for end in (self, self.other):
            end._end("cut by the test")

    def vanish(self) -> None:
        """Let nothing through any more; this end alone is told."""
        self._silent = self.other._silent = True
        self._under_way.clear()
        self.other._under_way.clear()
        self._end("the network is gone")

    def _delay(self) -> float:
        shortest, longest = self._weather.delay_s
        return self._weather.random.uniform(shortest, longest)

    def _arrive(self) -> None:
        # Timers may fire in any order, bytes arrive in theirs.
        if self._under_way:
            self._come += self._under_way.popleft()
            self._give()

    def _give(self) -> None:
        while self._come and self._sink is not None and not self._paused and self.over is None:
            count = self._weather.random.randint(1, self._weather.piece_bytes)
            piece = bytes(self._come[:count])
            del self._come[:count]
            into = self._sink.destination()
            if into is None:
                self._sink.take(memoryview(piece))
            else:
                into[: len(piece)] = piece[: len(into)]
                self._come[:0] = piece[len(into) :]
                piece = piece[: len(into)]
                self._sink.filled(len(piece))
            self.other._taken(len(piece))

    def _taken(self, count: int) -> None:
        self._untaken -= count
        if self._closing and not self._untaken:
            self._finish()
        elif self.over is None and not self.is_writable and self._untaken < UNWRITTEN_BYTES // 2:
            self.is_writable = True
            if self._sink is not None:
                self._sink.writable()

    def _finish(self, reason: str = "closed by the peer") -> None:
        if self.over is None:
            self._end("closed")
            if not self._silent:
                self.other._end(reason)

    def _end(self, reason: str) -> None:
        if self.over is None:
            self.over = reason
            self.is_writable = False
            if self._sink is not None:
                self._loop.call_soon(self._sink.ended, reason)


def pipe_pair(weather: Weather | None = None, number: int = 0) -> tuple[MemoryPipe, MemoryPipe]:
    """Both ends of a connection: the dialer's, and the listener's."""
    weather = weather or Weather()
    near = MemoryPipe(weather, "memory:1")
    far = MemoryPipe(weather, f"10.0.{number >> 8}.{number & 255}:1")
    near.other, far.other = far, near
    return near, far
