"""Sessions over a network that fails, in virtual time: a server and its sites.

Here: a seeded schedule of misfortunes over the real listener and dialers, and an account of what
was sent and what arrived. Not here: what must be true of it (`test_sessions.py`).

Theory of operation. Pipes are in memory (`tests.transport.sessions.pipes`): bytes are late, come
in pieces of any size, and are lost with their connection, half frames too. Each misfortune is one
of cut (all is lost, or a few bytes still arrive), vanish (one side alone is told, the other must
notice by itself) and blockade (nobody gets through for a while); with `restart` the server forgets
all sessions once.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random

from covey.actors.runtime.testing import simulate
from covey.transport import Envelope
from covey.transport.dialer import Dialer, Dialing
from covey.transport.doors.pipe import Pipe
from covey.transport.endpoint import DialerTLS, Endpoint
from covey.transport.listener import Listener, Listening
from covey.transport.sessions.link import SessionLink
from tests.transport.sessions.nodes import REGISTRY, Believing, bulk, control, number_of, terms
from tests.transport.sessions.pipes import MemoryPipe, Weather, pipe_pair

#: Numbers of bulk envelopes begin here, so that a number tells its lane.
BULK = 1_000_000

ENDPOINT = Endpoint("memory", 1, ("fast",), False)


@dataclass
class Thread:
    """One direction between two nodes: what was sent, and what arrived."""

    sent: list[int] = field(default_factory=list[int])
    arrived: list[int] = field(default_factory=list[int])

    def lane(self, numbers: list[int], is_bulk: bool) -> list[int]:
        return [number for number in numbers if (number >= BULK) == is_bulk]


@dataclass
class Account:
    """What became of a run.

    Attributes:
        threads: By the names of sender and receiver.
        lost: Links that were declared dead: whose, and why.
        struck: How often each misfortune has happened.
        connections: Connections that were made.
        restarted: Whether the server forgot its sessions.
    """

    seed: int
    threads: dict[tuple[str, str], Thread] = field(default_factory=dict[tuple[str, str], Thread])
    lost: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    struck: dict[str, int] = field(default_factory=dict[str, int])
    connections: int = 0
    restarted: bool = False

    def thread(self, sender: str, receiver: str) -> Thread:
        return self.threads.setdefault((sender, receiver), Thread())

    def strike(self, what: str) -> None:
        self.struck[what] = self.struck.get(what, 0) + 1


class World:
    """A server, its sites, and the network between them."""

    def __init__(self, seed: int, restart: bool) -> None:
        self.account = Account(seed)
        self._restart = restart
        self._random = random = Random(seed)
        slowest = random.choice([0.0, 0.01, 0.3])
        pieces, self._largest = random.choice([(50, 100), (5_000, 20_000), (256 << 10, 100_000)])
        self._weather = Weather(random, (0.0, slowest), pieces)
        self._sites = [f"site-{n}" for n in range(random.choice([1, 1, 2, 3]))]
        self._pipes: dict[str, MemoryPipe] = {}
        self._closed = False  # whether the network lets nobody through
        self._dialed = 0
        self._quiet_until = 0.0
        self._over = False
        self._dead: list[SessionLink] = []
        self._links: dict[str, SessionLink] = {}
        self._listener = self._listen()

    async def run(self) -> Account:
        """Let them talk, strike, and wait until everything has arrived that will."""
        dialers = [self._dial(site) for site in self._sites]
        tasks = [asyncio.create_task(dialer.run()) for dialer in dialers]
        try:
            await asyncio.gather(*(dialer.first for dialer in dialers))
            await self._talk()
            self._closed = False
            # The longest that anything may take: silence, then the longest pause between dials.
            await asyncio.sleep(120)
        finally:
            self._over = True
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._listener.close()
        return self.account

    async def _talk(self) -> None:
        random, loop = self._random, asyncio.get_running_loop()
        for step in range(random.randint(10, 60)):
            for _ in range(random.randint(0, 8)):
                self._say()
            if random.random() < 0.3 and loop.time() >= self._quiet_until:
                await self._misfortune()
            if self._restart and step == 8:
                await self._forget()
            await asyncio.sleep(random.choice([0.0, 0.0, 0.05, 1.0, 15.0]))

    def _say(self) -> None:
        """Send something over a random link, in either direction."""
        random = self._random
        site = random.choice(self._sites)
        links = self._links.get(site), self._servers.get(site)
        link = random.choice(links)
        if link is None or link.closed is not None:
            return
        thread = self.account.thread(link.name, link.peer)
        number, size = len(thread.sent), random.randint(0, self._largest)
        if random.random() < 0.5:
            link.send(control(number, size))
            thread.sent.append(number)
        else:
            link.send(bulk(BULK + number, size))
            thread.sent.append(BULK + number)

    async def _misfortune(self) -> None:
        random, strike = self._random, self.account.strike
        site = random.choice(self._sites)
        pipe = self._pipes.get(site)
        match random.choice(["cut", "cut", "truncate", "vanish", "vanish-far", "blockade"]):
            case "cut" if pipe is not None and pipe.over is None:
                strike("cut")
                pipe.cut()
            case "truncate" if pipe is not None and pipe.over is None:
                strike("truncate")
                pipe.cut(left=random.randint(1, 200))
            case "vanish" if pipe is not None and pipe.over is None:
                strike("vanish")
                pipe.vanish()
            case "vanish-far" if pipe is not None and pipe.over is None:
                strike("vanish-far")
                pipe.other.vanish()
            case "blockade":
                strike("blockade")
                self._closed = True
                for each in self._pipes.values():
                    if each.over is None:
                        each.cut()
                await asyncio.sleep(random.uniform(0, 60))
                self._closed = False
                # Everybody gets through before the next one, so that no lease ends.
                self._quiet_until = asyncio.get_running_loop().time() + 45
            case _:
                pass

    async def _forget(self) -> None:
        """The server starts anew and knows nobody."""
        self.account.strike("restart")
        self.account.restarted = True
        for pipe in self._pipes.values():
            pipe.cut()
        for link in list(self._listener.sessions.values()):
            self._dead.append(link)  # with its process: nobody there is told
            link.forget("the server has ended")
        self._listener = self._listen()

    # Nodes -------------------------------------------------------------------

    def _listen(self) -> Listener:
        self._servers: dict[str, SessionLink] = {}

        def opened(link: SessionLink) -> None:
            self._servers[link.peer] = link
            self._start(link)

        return Listener(Listening(terms("server"), REGISTRY, Believing(), opened))

    def _dial(self, site: str) -> Dialer:
        def opened(link: SessionLink) -> None:
            self._links[site] = link
            self._start(link)

        async def dial(door: str, endpoint: Endpoint, tls: DialerTLS | None) -> Pipe:
            await asyncio.sleep(self._random.uniform(0, 0.1))
            if self._closed:
                raise OSError("there is no way through")
            self._dialed += 1
            self.account.connections += 1
            near, far = pipe_pair(self._weather, self._dialed)
            self._pipes[site] = near
            self._listener.hold_soon(far)
            return near

        dialer = Dialer(Dialing(ENDPOINT, terms(site), REGISTRY, Believing(), opened, dial=dial))
        dialer._random = Random(self._random.random())
        return dialer

    def _start(self, link: SessionLink) -> None:
        thread = self.account.thread(link.peer, link.name)

        def receive(envelope: Envelope) -> None:
            thread.arrived.append(number_of(envelope))

        def lost(reason: str) -> None:
            # A welcome that got lost leaves a session that nobody goes on with.
            superseded = link.name == "server" and self._servers[link.peer] is not link
            if not self._over and link not in self._dead and not superseded:
                self.account.lost.append((link.name, reason))

        link.start(receive, lost)


def run(seed: int, *, restart: bool = False) -> Account:
    """One schedule, drawn from its seed."""
    return simulate(lambda: World(seed, restart).run(), seed=seed)
