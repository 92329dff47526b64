"""A simulated network: links between systems of one loop, with seeded misfortune.

Here: delay, loss of a link, partitions, and the crash and restart of a node, all
drawn from a seed. A link keeps what `transport.Link` promises: order per
direction, each envelope at most once. Not here: virtual time (`clock.py`), which
this needs only to be fast.

What a loss is: everything under way on the link is gone; each end notices after
a time of its own, and what it sends until then is gone too. After that the child
dials again, unless a partition keeps the two apart or a node is down.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Final, TypeAlias

from covey.transport import (
    Codec,
    Envelope,
    LinkClosed,
    LinkFull,
    LinkStatistics,
    LocalProtocolError,
    Registry,
)
from covey.transport.link import OVERRUN

from .system import System
from .wire import decode, encode

#: Seconds, drawn anew for each envelope, loss or reconnection: a range or a function.
Draw: TypeAlias = tuple[float, float] | Callable[[random.Random], float]

#: Envelopes under way in one direction before that end is `full`; `send` refuses at four
#: times that.
CAPACITY: Final = 4096

# Payload of the last item of a direction: its sender closed the link, and why.
_Item: TypeAlias = "tuple[float, Envelope | bytes | str]"


class SimulatedLink:
    """One end of a simulated link; see `transport.Link` for the contract."""

    def __init__(self, name: str, peer: str, network: SimulatedNetwork, rng: random.Random) -> None:
        """Made by `SimulatedNetwork`, in pairs."""
        self.name = name
        self.peer = peer
        self.other: SimulatedLink = self
        self._network = network
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._flying: deque[_Item] = deque()  # towards this end, by time of arrival
        self._timer: asyncio.TimerHandle | None = None
        self._receive: Callable[[Envelope], None] | None = None
        self._lost: Callable[[str], None] | None = None
        self._closed: str | None = None
        self._cut = False
        self._room: dict[asyncio.Future[None], None] = {}
        self._sent = 0
        self._received = 0

    def __repr__(self) -> str:
        state = self._closed or ("cut" if self._cut else "open")
        return f"<SimulatedLink {self.name} -> {self.peer}, {len(self._flying)} coming, {state}>"

    @property
    def leased(self) -> bool:
        """It is lost as soon as it breaks."""
        return False

    @property
    def full(self) -> bool:
        """Whether so much is under way that a sender should await `ready`."""
        return len(self.other._flying) >= CAPACITY

    def start(self, receive: Callable[[Envelope], None], lost: Callable[[str], None]) -> None:
        """Begin delivery; see `Link.start`."""
        if self._receive is not None:
            raise LocalProtocolError(f"to {self.peer!r}", "the link has been started already")
        self._receive, self._lost = receive, lost
        self._schedule()

    def send(self, envelope: Envelope) -> None:
        """Let an envelope fly to the other end; see `Link.send`."""
        if self._closed is not None:
            raise LinkClosed(self.peer, self._closed)
        if len(self.other._flying) >= CAPACITY * OVERRUN:
            raise LinkFull(self.peer, len(self.other._flying), CAPACITY * OVERRUN, "envelopes")
        codec = self._network.codec
        item = envelope if codec is None else encode(codec, envelope)
        self._sent += 1
        self.other._fly(item)

    async def ready(self) -> None:
        """Wait until the link is not full; see `Link.ready`."""
        while self._closed is None and self.full:
            future = self._loop.create_future()
            self._room[future] = None
            try:
                await future
            finally:
                self._room.pop(future, None)
        if self._closed is not None:
            raise LinkClosed(self.peer, self._closed)

    def close(self, reason: str = "") -> None:
        """End the link; the other end hears of it after the last envelope. Idempotent."""
        if self._closed is None:
            self._end(reason or "closed by this side")
            self.other._fly(reason or f"closed by {self.name}")

    def statistics(self) -> LinkStatistics:
        """Counts up to now."""
        return LinkStatistics(
            self._sent, self._received, len(self.other._flying), closed=self._closed
        )

    def cut(self) -> None:
        """Lose all that flies towards this end, now and later."""
        self._cut = True
        self._flying.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._wake(self.other)

    def notice(self, reason: str) -> None:
        """Let this end learn that the link is lost."""
        if self._closed is None:
            self._end(reason)
            if self._lost is not None:
                self._lost(reason)

    def _fly(self, item: Envelope | bytes | str) -> None:
        if self._cut:
            return
        arrival = self._loop.time() + draw(self._network.delay, self._rng)
        if self._flying:  # in order: nothing arrives before what was sent before it
            arrival = max(arrival, self._flying[-1][0])
        self._flying.append((arrival, item))
        if len(self._flying) == 1:
            self._schedule()

    def _schedule(self) -> None:
        if self._flying and self._receive is not None:
            self._timer = self._loop.call_at(self._flying[0][0], self._arrive)

    def _arrive(self) -> None:
        """Hand over all that has arrived by now."""
        now = self._loop.time()
        while self._flying and self._flying[0][0] <= now + 1e-6:
            self._take(self._flying.popleft()[1])
        self._wake(self.other)
        self._schedule()

    def _take(self, item: Envelope | bytes | str) -> None:
        if isinstance(item, str):
            self.notice(item)
        elif self._closed is None and self._receive is not None:
            codec = self._network.codec
            envelope = item
            if isinstance(envelope, bytes):
                assert codec is not None
                envelope = decode(codec, envelope)
            self._received += 1
            self._receive(envelope)

    def _end(self, reason: str) -> None:
        self._closed = reason
        self._wake(self)

    def _wake(self, end: SimulatedLink) -> None:
        for future in end._room:
            if not future.done():
                future.set_result(None)


class _Wire:
    """Two nodes that keep a link while both are up; the child dials."""

    def __init__(self, child: str, parent: str, rng: random.Random) -> None:
        self.child = child
        self.parent = parent
        self.rng = rng
        self.ends: tuple[SimulatedLink, SimulatedLink] | None = None
        self.timers: list[asyncio.TimerHandle] = []

    def touches(self, *nodes: str) -> bool:
        return self.child in nodes or self.parent in nodes


class SimulatedNetwork:
    """Nodes and the wires between them; `async with` it ends all that it started.

    Args:
        seed: All delays and times are drawn from it, for each wire from its own stream.
        delay: Seconds an envelope flies.
        notice: Seconds until one end of a lost link learns of the loss.
        reconnect: Seconds from a loss to the next link, None for never.
        registry: If given, each envelope goes through its codec's bytes.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        delay: Draw = (0.001, 0.050),
        notice: Draw = (0.0, 1.0),
        reconnect: Draw | None = (0.1, 2.0),
        registry: Registry | None = None,
    ) -> None:
        self.delay = delay
        self.codec = None if registry is None else Codec(registry)
        self._seed = seed
        self._notice = notice
        self._reconnect = reconnect
        self._systems: dict[str, System] = {}
        self._starts: dict[str, Callable[[], Awaitable[System]]] = {}
        self._wires: list[_Wire] = []
        self._apart: list[tuple[frozenset[str], frozenset[str]]] = []
        self._closed = False

    async def __aenter__(self) -> SimulatedNetwork:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in reversed(list(self._starts)):
            system = self._systems.get(name)
            if system is not None:
                await system.__aexit__(kind, error, trace)
        self.close()

    def close(self) -> None:
        """Stop all timers; links stay as they are."""
        self._closed = True
        for wire in self._wires:
            self._forget_timers(wire)

    # Nodes and wires -------------------------------------------------------

    def join(self, system: System) -> None:
        """Add a running system as the node of its name; wires to it come alive at once."""
        self._systems[system.name] = system
        for wire in self._wires:
            if wire.touches(system.name):
                self._dial(wire)

    def wire(self, child: str, parent: str) -> None:
        """Let `child` keep a link to `parent`, its default for nodes it has no other link to."""
        rng = random.Random(f"{self._seed}/{child}/{parent}")
        wire = _Wire(child, parent, rng)
        self._wires.append(wire)
        self._dial(wire)

    async def start(
        self,
        name: str,
        setup: Callable[[System], Awaitable[Any]],
        *,
        uplink: str | None = None,
        make: Callable[[], System] | None = None,
    ) -> System:
        """Start a node that this network ends, crashes and restarts.

        Args:
            name: The node's name.
            setup: Spawns its actors; called again at every restart.
            uplink: The node it dials.
            make: Makes its system, if it needs more than a name and a seed.
        """

        async def start() -> System:
            system = System(name, seed=self._seed) if make is None else make()
            await system.__aenter__()
            self.join(system)
            await setup(system)
            return system

        self._starts[name] = start
        if uplink is not None:
            self.wire(name, uplink)
        return await start()

    def system(self, name: str) -> System:
        """The system that is this node now; `KeyError` while it is down."""
        return self._systems[name]

    # Misfortune ------------------------------------------------------------

    def lose(self, a: str, b: str) -> None:
        """Break the link between two nodes."""
        for wire in self._wires:
            if wire.touches(a) and wire.touches(b):
                self._break(wire, "the connection broke")

    def partition(self, some: Iterable[str], others: Iterable[str]) -> None:
        """Break all links between two groups of nodes, and let none come back until `heal`."""
        self._apart.append((frozenset(some), frozenset(others)))
        for wire in self._wires:
            if self._parted(wire):
                self._break(wire, "the network is partitioned")

    def heal(self) -> None:
        """End all partitions; the nodes dial again."""
        self._apart.clear()
        for wire in self._wires:
            if wire.ends is None:
                self._redial(wire)

    async def crash(self, name: str) -> None:
        """End a node as `kill -9` would: its peers notice, it says no goodbye and runs no hook."""
        system = self._systems.pop(name)
        for wire in self._wires:
            if wire.touches(name):
                self._break(wire, f"{name} crashed")
        await system.abort()

    async def restart(self, name: str) -> System:
        """Start a node that `start` had started and `crash` has ended."""
        return await self._starts[name]()

    # Links -----------------------------------------------------------------

    def _parted(self, wire: _Wire) -> bool:
        child, parent = wire.child, wire.parent
        return any(
            (child in some and parent in others) or (parent in some and child in others)
            for some, others in self._apart
        )

    def _dial(self, wire: _Wire) -> None:
        child, parent = self._systems.get(wire.child), self._systems.get(wire.parent)
        if self._closed or child is None or parent is None or self._parted(wire):
            return
        if wire.ends is not None:
            return
        down = SimulatedLink(wire.parent, wire.child, self, wire.rng)
        up = SimulatedLink(wire.child, wire.parent, self, wire.rng)
        down.other, up.other = up, down
        wire.ends = (up, down)
        parent.attach(down)
        child.attach(up, default=True)

    def _break(self, wire: _Wire, reason: str) -> None:
        ends, wire.ends = wire.ends, None
        if ends is not None:
            for end in ends:
                end.cut()
            for end in ends:
                if end.name in self._systems:
                    self._later(wire, self._notice, end.notice, reason)
        self._redial(wire)

    def _redial(self, wire: _Wire) -> None:
        if self._reconnect is not None:
            self._later(wire, self._reconnect, self._dial, wire)

    def _later(self, wire: _Wire, when: Draw, call: Callable[..., None], *args: Any) -> None:
        if not self._closed:
            loop = asyncio.get_running_loop()
            wire.timers = [timer for timer in wire.timers if timer.when() >= loop.time()]
            wire.timers.append(loop.call_later(draw(when, wire.rng), call, *args))

    def _forget_timers(self, wire: _Wire) -> None:
        for timer in wire.timers:
            timer.cancel()
        wire.timers.clear()


def draw(of: Draw, rng: random.Random) -> float:
    """Draw seconds from a range or a function, never negative."""
    if callable(of):
        return max(0.0, of(rng))
    return rng.uniform(*of)
