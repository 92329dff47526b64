"""A TCP proxy that makes a network worse: late, slow, cut, half-open, blocked.

Here: `ChaosProxy`, for tests over real sockets. Not here: networks in memory
(`tests.transport.sessions.pipes`), the kernel's own means.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Final, TypeAlias

_READ_BYTES: Final = 16 << 10

#: Pieces that are under way in one direction.
_UNDER_WAY: Final = 64

_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)


class Ending(Enum):
    """How a connection ends."""

    FIN = "fin"
    RESET = "reset"
    FREEZE = "freeze"  # nobody is told: nothing passes any more


class Passage(Enum):
    """What becomes of a new connection."""

    OPEN = "open"
    REFUSE = "refuse"  # reset at once
    SWALLOW = "swallow"  # accepted, and never answered


@dataclass(frozen=True, slots=True)
class Conditions:
    """The state of the network.

    Attributes:
        latency_s: How late everything is, each way.
        jitter_s: How much later it may be.
        bytes_per_s: Bytes that pass per second, each way; None for all that come.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float | None = None


#: Draws, for a new connection, after how many bytes in either direction it ends, and how.
Fate: TypeAlias = "Callable[[Random], tuple[int, Ending] | None]"


def forever(random: Random) -> tuple[int, Ending] | None:
    """The fate of connections that last."""
    del random
    return None


class ChaosProxy:
    """Hands on what comes to another port, as well as its conditions let it.

    Args:
        port: Where it leads, on 127.0.0.1.
        seed: Of everything that is drawn.
        conditions: The state of the network.
        fate: Draws how connections end.

    Attributes:
        crossings: Connections that stand.
        accepted: Connections that have come, in all.
        ended: How often each ending came by fate or by call.
        passage: What becomes of new connections.
    """

    def __init__(
        self,
        port: int,
        *,
        seed: int = 0,
        conditions: Conditions | None = None,
        fate: Fate = forever,
    ) -> None:
        self._to = port
        self.random = Random(seed)
        self.conditions = conditions or Conditions()
        self.fate = fate
        self.crossings: list[Crossing] = []
        self.accepted = 0
        self.ended: Counter[Ending] = Counter()
        self.passage = Passage.OPEN
        self._came = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> ChaosProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.sleep(0)  # transports that were aborted are gone after a turn

    async def has_accepted(self, count: int) -> None:
        """Wait until so many connections have come."""
        while self.accepted < count:
            self._came.clear()
            await self._came.wait()

    def end(self, ending: Ending) -> None:
        """End all connections that stand."""
        for crossing in list(self.crossings):
            crossing.end(ending)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A plain function, so that the task is this proxy's own.
        self.accepted += 1
        self._came.set()
        if self.passage is Passage.REFUSE:
            reset(writer)
            return
        task = asyncio.get_running_loop().create_task(self._cross(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _cross(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.passage is Passage.SWALLOW:
                while await reader.read(_READ_BYTES):
                    pass
                return
            theirs, ours = await asyncio.open_connection("127.0.0.1", self._to)
            crossing = Crossing(self, writer, ours)
            self.crossings.append(crossing)
            try:
                await crossing.run(reader, theirs)
            finally:
                self.crossings.remove(crossing)
        except OSError:
            pass  # the listener is away: so is this
        finally:
            await finish(writer)


class Crossing:
    """One connection through the proxy."""

    def __init__(
        self, proxy: ChaosProxy, near: asyncio.StreamWriter, far: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._near, self._far = near, far
        self._fate = proxy.fate(proxy.random)
        self._frozen = False
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, reader: asyncio.StreamReader, theirs: asyncio.StreamReader) -> None:
        """Hand on in both directions until either ends."""
        try:
            for source, target in ((reader, self._far), (theirs, self._near)):
                queue = asyncio.Queue[tuple[float, bytes]](_UNDER_WAY)
                self._tasks.append(asyncio.ensure_future(self._read(source, queue)))
                self._tasks.append(asyncio.ensure_future(self._write(queue, target)))
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for writer in (self._near, self._far):
                await finish(writer)

    def end(self, ending: Ending) -> None:
        """End it, and count that."""
        if self._frozen:
            return
        self._proxy.ended[ending] += 1
        self._frozen = True
        if ending is Ending.RESET:
            reset(self._near)
            reset(self._far)
        elif ending is Ending.FIN:
            self._near.close()
            self._far.close()

    async def _read(
        self, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        clock = asyncio.get_running_loop().time
        due = 0.0
        while data := await reader.read(_READ_BYTES):
            now, network = clock(), self._proxy.conditions
            late = network.latency_s + network.jitter_s * self._proxy.random.random()
            due = max(due, now + late)  # nothing overtakes
            if network.bytes_per_s is not None:
                due += len(data) / network.bytes_per_s
            await queue.put((due, data))
        # What is under way still arrives.
        await queue.put((due, b""))
        await asyncio.Event().wait()

    async def _write(
        self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        clock, fate = asyncio.get_running_loop().time, self._fate
        left = None if fate is None else fate[0]
        while True:
            due, data = await queue.get()
            if (pause := due - clock()) > 0:
                await asyncio.sleep(pause)
            if self._frozen:
                continue
            if not data:
                return
            if left is not None:
                data, left = data[:left], left - len(data)
            writer.write(data)
            if fate is not None and left is not None and left <= 0:
                self.end(fate[1])
            await writer.drain()


async def finish(writer: asyncio.StreamWriter) -> None:
    """Close, and let what was written leave, for a second at most."""
    try:
        writer.close()
        async with asyncio.timeout(1):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        pass
    finally:
        writer.transport.abort()


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection without a goodbye."""
    if not writer.is_closing():
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        writer.transport.abort()
