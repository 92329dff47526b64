"""Relays on real sockets: trees of them, between nodes that need not know it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from covey.actors.runtime import (
    Actor,
    Down,
    Message,
    Pull,
    Reason,
    Rejected,
    Stopped,
    System,
    Unreachable,
    handles,
    runtime_messages,
)
from covey.actors.runtime.message import Reachable
from covey.edge.relay import (
    ACTOR,
    CountTraffic,
    Relay,
    RelayStatistics,
    relay_messages,
    relay_system,
)
from covey.transport import Body, Envelope, Kind, Record, Registry
from covey.transport.opaque import Opaque


@dataclass(frozen=True, slots=True)
class Total(Record, id=1301):
    number: int


@dataclass(frozen=True, slots=True)
class Add(Message["Counter", Total], id=1300):
    number: int


@dataclass(frozen=True, slots=True)
class Part(Record, id=1302):
    index: int
    data: Body


@dataclass(frozen=True, slots=True)
class Read(Pull["Counter", Part], id=1303):
    parts: int
    size: int


class Counter(Actor):
    """Adds up, and streams."""

    def __init__(self) -> None:
        self.total = 0

    @handles
    def add(self, msg: Add) -> Total:
        if msg.number < 0:
            raise Rejected("negative", f"{msg.number} is below 0")
        self.total += msg.number
        return Total(self.total)

    @handles
    async def read(self, msg: Read) -> AsyncIterator[Part]:
        for index in range(msg.parts):
            yield Part(index, bytes([index % 256]) * msg.size)


class Watcher(Actor):
    """Keeps the deaths that it hears of."""

    def __init__(self, deaths: asyncio.Queue[Down]) -> None:
        self.deaths = deaths

    @handles
    def down(self, msg: Down) -> None:
        self.deaths.put_nowait(msg)


def registry() -> Registry:
    made = Registry(*runtime_messages(), *relay_messages(), Add, Total, Part, Read)
    made.freeze()
    return made


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await main

    asyncio.run(bounded())


def url(of: System) -> str:
    return f"covey+plain://127.0.0.1:{of.port}"


class Tree:
    """A server, two relays one below the other, and a site below each."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.server: System
        self.upper: System
        self.lower: System
        self.sites: list[System] = []

    async def grow(self) -> None:
        self.server = await self._enter(
            System("server", registry=registry(), listen="127.0.0.1:0", lease=20)
        )
        self.upper = await self.relay("relay-1", self.server)
        self.lower = await self.relay("relay-2", self.upper)
        for number, above in enumerate((self.upper, self.lower), 1):
            site = System(f"site-{number}", registry=registry(), connect=url(above), lease=20)
            self.sites.append(await self._enter(site))
        for system in (self.server, *self.sites):
            await system.spawn(Counter, name="counter")
        for system in self.sites:
            await known(system)

    async def relay(self, name: str, above: System) -> System:
        system = relay_system(name, connect=url(above), listen="127.0.0.1:0", lease=20)
        await self._enter(system)
        await system.spawn(Relay, name=ACTOR)
        return system

    async def _enter(self, system: System) -> System:
        await self._stack.enter_async_context(system)
        return system


async def known(site: System) -> None:
    """Have a site known beyond the relays: their word of it goes before its own."""
    await site.lookup("server/counter", Counter).ask(Add(0))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody tells."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def tree(stack: AsyncExitStack) -> Tree:
    grown = Tree(stack)
    await grown.grow()
    return grown


def test_asks_and_errors_pass_relays_in_both_directions() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            grown = await tree(stack)
            for number, site in enumerate(grown.sites, 1):
                up = site.lookup("server/counter", Counter)
                down = grown.server.lookup(f"site-{number}/counter", Counter)
                assert (await up.ask(Add(1))).number == number
                assert await down.ask(Add(7)) == Total(7)
                with pytest.raises(Rejected, match="below 0"):
                    await down.ask(Add(-1))

    run(main())


def test_streams_pass_relays_whole_and_in_order() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            grown = await tree(stack)
            there = grown.sites[1].lookup("server/counter", Counter)
            async with there.stream(Read(20, 1 << 18)) as parts:
                seen = [(part.index, bytes(part.data)[:1], len(part.data)) async for part in parts]
            assert seen == [(i, bytes([i]), 1 << 18) for i in range(20)]

    run(main())


def test_a_node_that_nobody_knows_is_unreachable_at_once() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            grown = await tree(stack)
            with pytest.raises(Unreachable, match="server hands on nothing"):
                await grown.sites[1].lookup("nobody/counter", Counter).ask(Add(1))
            with pytest.raises(Stopped, match="no such actor"):
                await grown.sites[1].lookup("server/nobody", Counter).ask(Add(1))
            with pytest.raises(Unreachable):
                grown.server.lookup("site-9/counter", Counter).tell(Add(1))

    run(main())


def test_a_relay_counts_what_passes() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            grown = await tree(stack)
            relay = grown.server.lookup(f"relay-1/{ACTOR}", Relay)
            before = await relay.ask(CountTraffic())
            assert (before.parent, before.children, before.behind) == ("server", 2, 1)
            await grown.sites[1].lookup("server/counter", Counter).ask(Add(1))
            after = await relay.ask(CountTraffic())
            assert after.forwarded == before.forwarded + 2
            assert isinstance(after, RelayStatistics)

    run(main())


def test_deaths_are_heard_through_relays() -> None:
    async def main() -> None:
        deaths: asyncio.Queue[Down] = asyncio.Queue()
        async with AsyncExitStack() as stack:
            grown = await tree(stack)
            site = grown.sites[1]
            watcher = await grown.server.spawn(lambda: Watcher(deaths), name="watcher")
            cell = grown.server.cells[watcher.address.name]
            there = grown.server.lookup("site-2/counter", Counter)
            grown.server.watch(cell, there)
            assert await there.ask(Add(1)) == Total(1)  # the watch has gone before it
            await site.stop(site.ref(site.cells["counter"]))
            assert (await deaths.get()).reason is Reason.STOPPED

    run(main())


def test_a_site_that_leaves_is_told_to_those_beyond_the_relays() -> None:
    async def main() -> None:
        deaths: asyncio.Queue[Down] = asyncio.Queue()
        async with AsyncExitStack() as stack:
            grown = await tree(stack)
            watcher = await grown.server.spawn(lambda: Watcher(deaths), name="watcher")
            cell = grown.server.cells[watcher.address.name]
            there = grown.server.lookup("site-2/counter", Counter)
            grown.server.watch(cell, there)
            assert await there.ask(Add(1)) == Total(1)
            await grown.sites[1].abort()
            assert (await deaths.get()).reason in (Reason.STOPPED, Reason.UNREACHABLE)

    run(main())


def test_links_that_break_on_either_side_of_a_relay_lose_nothing() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            grown = await tree(stack)
            there = grown.sites[1].lookup("server/counter", Counter)
            links: list[Any] = [
                grown.upper.border.links["server"],
                grown.lower.border.links["relay-1"],
                grown.sites[1].border.links["relay-2"],
            ]
            for link in links:
                asks = [there.ask(Add(1)) for _ in range(10)]
                link.connection.break_off("cut by the test")
                await asyncio.gather(*asks)
            assert await there.ask(Add(0)) == Total(30)
            assert all(link.connections > 1 for link in links)

    run(main())


def test_a_relay_that_is_started_anew_takes_its_place() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            server = System("server", registry=registry(), listen="127.0.0.1:0", lease=20)
            await stack.enter_async_context(server)
            await server.spawn(Counter, name="counter")
            first = relay_system("relay-1", connect=url(server), listen="127.0.0.1:0", lease=20)
            await first.__aenter__()
            await first.spawn(Relay, name=ACTOR)
            address = f"127.0.0.1:{first.port}"
            site = System(
                "site-1", registry=registry(), connect=f"covey+plain://{address}", lease=20
            )
            await stack.enter_async_context(site)
            assert await site.lookup("server/counter", Counter).ask(Add(1)) == Total(1)
            await first.abort()
            again = relay_system("relay-1", connect=url(server), listen=address, lease=20)
            await stack.enter_async_context(again)
            await again.spawn(Relay, name=ACTOR)
            await until(lambda: server.border.routes.peer_of("site-1") == "relay-1")
            await until(lambda: "relay-1" in site.border.links)
            assert await site.lookup("server/counter", Counter).ask(Add(1)) == Total(2)

    run(main())


def test_a_peer_that_carries_nobody_may_announce_nobody() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            server = System(
                "server", registry=registry(), listen="127.0.0.1:0", lease=20, carriers=()
            )
            await stack.enter_async_context(server)
            relay = relay_system("relay-1", connect=url(server), listen="127.0.0.1:0", lease=20)
            await stack.enter_async_context(relay)
            await relay.spawn(Relay, name=ACTOR)
            site = System("site-1", registry=registry(), connect=url(relay), lease=20)
            await stack.enter_async_context(site)
            assert server.wiring is not None
            counts = server.wiring.listeners[0].refusals.counts
            await until(lambda: counts["sender"] > 0)
            assert server.border.routes.peer_of("site-1") is None

    run(main())


def test_nodes_below_relays_do_not_reach_each_other_and_cut_nobody() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            grown = await tree(stack)
            third = System("site-3", registry=registry(), connect=url(grown.lower), lease=20)
            await stack.enter_async_context(third)
            await known(third)
            for other in ("site-2", "site-1"):
                with pytest.raises(Unreachable):
                    await third.lookup(f"{other}/counter", Counter).ask(Add(1))
            third.lookup("site-2/counter", Counter).tell(Add(1))
            for site in grown.sites:
                assert (await site.lookup("server/counter", Counter).ask(Add(0))).number == 0
            links: list[Any] = [*grown.server.border.links.values(), *third.border.links.values()]
            assert [link.connections for link in links] == [1] * len(links)

    run(main())


def test_a_relay_passes_nothing_on_that_nodes_say_to_each_other() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            grown = await tree(stack)
            site = grown.sites[1]
            hostile = Envelope(Kind.ROUTE, "server/x", "site-2", 0, Reachable(nodes=("server",)))
            site.border.links["relay-2"].send(hostile)
            await known(site)
            assert grown.server.border.routes.peer_of("server") is None
            relay = await site.lookup(f"relay-2/{ACTOR}", Relay).ask(CountTraffic())
            assert relay.refused == 1

    run(main())


def test_a_site_that_changes_relays_is_reached_the_new_way() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            grown = await tree(stack)
            for above, behind in ((grown.upper, "relay-1"), (grown.server, None)):
                site = System("site-2", registry=registry(), connect=url(above), lease=20)
                await stack.enter_async_context(site)
                await site.spawn(Counter, name="counter")
                await known(site)
                there = grown.server.lookup("site-2/counter", Counter)
                assert await there.ask(Add(5)) == Total(5)
                assert (grown.server.border.links.get("site-2") is None) == (behind is not None)
            links: list[Any] = [grown.server.border.links["relay-1"]]
            assert [link.connections for link in links] == [1]

    run(main())


def test_nobody_takes_the_name_of_a_node_or_of_its_parent() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            grown = await tree(stack)
            assert grown.upper.wiring is not None
            counts = grown.upper.wiring.listeners[0].refusals.counts
            for name in ("server", "relay-1"):
                thief = System(name, registry=registry(), connect=url(grown.upper), lease=20)
                await stack.enter_async_context(thief)
                await until(lambda: counts["name"] > 0)
                await thief.abort()
                counts.clear()
            await known(grown.sites[1])

    run(main())


def test_envelopes_of_a_node_that_is_gone_are_dropped_without_blame() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            grown = await tree(stack)
            link = grown.upper.border.links["server"]
            link.send(
                Envelope(
                    Kind.TELL,
                    "server/counter",
                    "site-9/ghost",
                    0,
                    Opaque(1300, {"number": 7}, None),
                )
            )
            await known(grown.sites[1])
            assert (await grown.sites[1].lookup("server/counter", Counter).ask(Add(0))).number == 0
            assert grown.server.wiring is not None
            assert grown.server.wiring.listeners[0].refusals.counts == {"unannounced": 1}

    run(main())
