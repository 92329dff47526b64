"""Sessions over real sockets and a network that cuts: every envelope once, on both loops."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import uvloop

from covey.transport import Envelope
from covey.transport.dialer import Dialer, Dialing
from covey.transport.endpoint import Endpoint
from covey.transport.listener import Listener, Listening
from covey.transport.sessions import link as link_module
from covey.transport.sessions.connection import Connection
from covey.transport.sessions.link import Patience, SessionLink
from tests.chaos import ChaosProxy, Conditions, Ending, Passage

from .nodes import REGISTRY, Believing, Item, bulk, control, terms

Runner = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]

QUICK = Patience(lease_s=60, ping_s=0.1, silent_s=0.5)


@pytest.fixture(autouse=True)
def small_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    """Senders wait for the network, so that cuts fall everywhere in what they send."""
    monkeypatch.setattr(link_module, "QUEUED_BYTES", 300_000)
    monkeypatch.setattr(link_module, "ACKNOWLEDGED_BYTES", 50_000)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    """Runs a coroutine function on either loop."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(main())

    return runner


@dataclass
class Side:
    """What one side has sent, and what has come to it."""

    link: SessionLink
    lost: list[str]
    got: list[tuple[int, int]]
    came: asyncio.Event
    sent: int = 0

    @classmethod
    def of(cls, link: SessionLink) -> Side:
        side = cls(link, [], [], asyncio.Event())

        def receive(envelope: Envelope) -> None:
            assert isinstance(envelope.message, Item)
            number = envelope.message.number
            assert bytes(envelope.message.data) == body(number)
            side.got.append((number % 2, number))
            side.came.set()

        link.start(receive, side.lost.append)
        return side

    async def talk(self, until: Callable[[], bool]) -> None:
        """Send control and bulk in turn, as fast as the link takes it."""
        while not until():
            make = bulk if self.sent % 2 else control
            envelope = make(self.sent)
            envelope.message = Item(self.sent, body(self.sent))
            self.link.send(envelope)
            self.sent += 1
            await self.link.ready()

    async def say(self, count: int) -> None:
        """Send so many."""
        await self.talk(lambda: self.sent >= count)

    async def has_all(self, count: int) -> None:
        while len(self.got) < count:
            self.came.clear()
            await self.came.wait()
        for lane in (0, 1):
            numbers = [number for which, number in self.got if which == lane]
            assert numbers == list(range(lane, count, 2))


def body(number: int) -> bytes:
    """Bytes that tell their number; most are short, some fill several reads."""
    return number.to_bytes(4, "big") * Random(number).choice([0, 10, 100, 1_000, 20_000])


@dataclass
class Federation:
    """A listener, a proxy before it, and a site that dials through that."""

    listener: Listener
    proxy: ChaosProxy
    site: Side
    server: Side


@asynccontextmanager
async def federation(proxy_for: Callable[[int], ChaosProxy]) -> AsyncGenerator[Federation, None]:
    servers: list[Side] = []
    sites: list[Side] = []
    listening = Listening(
        terms("server"),
        REGISTRY,
        Believing(),
        lambda link: servers.append(Side.of(link)),
        patience=QUICK,
    )
    listener = Listener(listening)
    await listener.open("127.0.0.1", 0)
    async with proxy_for(listener.port) as proxy:
        dialing = Dialing(
            Endpoint.parse(f"covey+plain://127.0.0.1:{proxy.port}"),
            terms("site"),
            REGISTRY,
            Believing(),
            lambda link: sites.append(Side.of(link)),
            patience=QUICK,
            retry_s=(0.001, 0.02),
            door_s=1.0,
        )
        dialer = Dialer(dialing)
        running = asyncio.create_task(dialer.run())
        try:
            await dialer.first
            while not servers:  # noqa: ASYNC110  # the listener is to have heard of it, too
                await asyncio.sleep(0.001)
            yield Federation(listener, proxy, sites[0], servers[0])
            assert (len(sites), len(servers)) == (1, 1)
        finally:
            running.cancel()
            await asyncio.wait([running])
            await listener.close()


def draw(random: Random) -> tuple[int, Ending]:
    ending = random.choices([Ending.FIN, Ending.RESET, Ending.FREEZE], [48, 48, 4])[0]
    return random.randint(200, random.choice([2_000, 100_000])), ending


async def cut_many_times(cuts: int, conditions: Conditions, seed: int) -> None:
    def proxy_for(port: int) -> ChaosProxy:
        return ChaosProxy(port, seed=seed, conditions=conditions)

    async with asyncio.timeout(60 + cuts), federation(proxy_for) as both:
        proxy, ends = both.proxy, (both.site, both.server)

        def enough() -> bool:
            return proxy.ended.total() >= cuts

        def fate(random: Random) -> tuple[int, Ending] | None:
            return None if enough() else draw(random)

        proxy.fate = fate
        proxy.end(Ending.RESET)
        await asyncio.gather(*(end.talk(enough) for end in ends))
        await asyncio.gather(both.site.has_all(ends[1].sent), both.server.has_all(ends[0].sent))
        assert both.site.lost == both.server.lost == []
        assert both.site.link.connections > cuts / 2


@pytest.mark.parametrize("seed", range(2))
def test_a_link_cut_fifty_times_loses_and_doubles_nothing(seed: int, run: Runner) -> None:
    conditions = [Conditions(), Conditions(latency_s=0.001, jitter_s=0.004)][seed]
    run(lambda: cut_many_times(50, conditions, seed))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
def test_a_link_cut_a_thousand_times_loses_and_doubles_nothing(seed: int, run: Runner) -> None:
    conditions = Conditions(latency_s=0.002 * seed, jitter_s=0.005)
    run(lambda: cut_many_times(1000, conditions, seed))


def test_a_slow_network_delays_and_breaks_nothing(run: Runner) -> None:
    async def main() -> None:
        network = Conditions(latency_s=0.02, jitter_s=0.02, bytes_per_s=2e6)
        async with federation(lambda port: ChaosProxy(port, conditions=network)) as both:
            ends = both.site, both.server
            talking = [end.say(100) for end in ends]
            await asyncio.gather(*talking, *(end.has_all(100) for end in ends))
            assert both.site.link.connections == 1

    run(main)


@pytest.mark.parametrize("passage", [Passage.REFUSE, Passage.SWALLOW])
def test_a_blockade_delays_and_loses_nothing(passage: Passage, run: Runner) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), federation(ChaosProxy) as both:
            proxy = both.proxy
            proxy.passage = passage
            proxy.end(Ending.RESET)
            ends = both.site, both.server
            talking = [asyncio.create_task(end.say(50)) for end in ends]
            await proxy.has_accepted(3)
            proxy.passage = Passage.OPEN
            await asyncio.gather(*talking, *(end.has_all(50) for end in ends))

    run(main)


def test_a_site_that_is_stopped_for_a_while_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 200

    async def main() -> None:
        links: list[SessionLink] = []
        here = asyncio.Event()
        broken = asyncio.Event()
        numbers: list[int] = []
        some, everything = asyncio.Event(), asyncio.Event()

        def receive(envelope: Envelope) -> None:
            assert isinstance(envelope.message, Item)
            numbers.append(envelope.message.number)
            if len(numbers) >= count // 4:
                some.set()
            if len(numbers) >= count:
                everything.set()

        def opened(link: SessionLink) -> None:
            links.append(link)
            link.start(receive, lambda reason: None)
            disconnected = link.disconnected

            def watched(connection: Connection, reason: str) -> None:
                disconnected(connection, reason)
                broken.set()

            monkeypatch.setattr(link, "disconnected", watched)
            here.set()

        listener = Listener(
            Listening(terms("server"), REGISTRY, Believing(), opened, patience=QUICK)
        )
        await listener.open("127.0.0.1", 0)
        site = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.transport.sessions.echo", str(listener.port),
            cwd=Path(__file__).parents[3], stdin=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            await here.wait()
            for number in range(count // 2):
                links[0].send(control(number))
            await some.wait()
            os.kill(site.pid, signal.SIGSTOP)
            for number in range(count // 2, count):
                links[0].send(control(number))
            await broken.wait()
            os.kill(site.pid, signal.SIGCONT)
            await everything.wait()
        finally:
            os.kill(site.pid, signal.SIGCONT)
            assert site.stdin is not None
            site.stdin.close()  # it ends with its input
            await site.wait()
            await listener.close()
        assert numbers == list(range(count))
        assert len(links) == 1
        assert links[0].connections > 1

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(bounded())
