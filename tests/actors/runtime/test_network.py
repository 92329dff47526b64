"""The simulated network: order, delay, loss, partition, crash and restart, all from a seed."""

# ruff: noqa: PT012  # a loop is what raises

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

import pytest

from covey.actors.runtime import (
    Actor,
    AskTimeout,
    Message,
    Stopped,
    System,
    Unreachable,
    handles,
    runtime_messages,
)
from covey.actors.runtime.testing import EventHash, SimulatedNetwork, simulate
from covey.transport import Envelope, Kind, LinkClosed, LinkFull, LocalProtocolError, Registry


@dataclass(frozen=True, slots=True)
class Put(Message["Store", "Size"], id=1300):
    number: int


@dataclass(frozen=True, slots=True)
class Size(Message["Store", None], id=1301):
    number: int


class Store(Actor):
    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers

    @handles
    def put(self, message: Put) -> Size:
        self.numbers.append(message.number)
        return Size(len(self.numbers))


REGISTRY = Registry(*runtime_messages(), Put, Size)


async def pair(network: SimulatedNetwork, numbers: list[int]) -> tuple[System, System]:
    """A server with a store and a site that dials it."""

    async def serve(system: System) -> None:
        await system.spawn(partial(Store, numbers), name="store")

    async def nothing(system: System) -> None:
        del system

    server = await network.start("server", serve)
    return server, await network.start("site", nothing, uplink="server")


@pytest.mark.parametrize("registry", [None, REGISTRY])
def test_envelopes_arrive_in_order_after_a_delay(registry: Registry | None) -> None:
    async def main() -> None:
        numbers: list[int] = []
        network = SimulatedNetwork(seed=1, delay=(1.0, 2.0), registry=registry)
        async with network:
            _, site = await pair(network, numbers)
            ref = site.lookup("server/store", Store)
            for number in range(50):
                await ref.tell(Put(number))
                await asyncio.sleep(0.1)
            assert len(numbers) < 50
            await asyncio.sleep(2)
            assert numbers == list(range(50))
            began = asyncio.get_running_loop().time()
            await ref.ask(Put(50))
            assert 2.0 <= asyncio.get_running_loop().time() - began <= 4.0

    simulate(main)


def test_a_lost_link_loses_what_is_under_way_and_comes_back() -> None:
    async def main() -> None:
        numbers: list[int] = []
        network = SimulatedNetwork(seed=2, delay=(1, 1), notice=(0.5, 1), reconnect=(5, 6))
        async with network:
            _, site = await pair(network, numbers)
            ref = site.lookup("server/store", Store)
            await ref.tell(Put(1))
            await asyncio.sleep(2)
            await ref.tell(Put(2))
            network.lose("site", "server")
            await ref.tell(Put(3))  # accepted: nobody has noticed yet
            await asyncio.sleep(2)
            with pytest.raises(Unreachable):
                ref.tell(Put(4))
            await asyncio.sleep(5)
            await ref.ask(Put(5))
            assert numbers == [1, 5]

    simulate(main)


def test_a_network_without_reconnection_stays_broken() -> None:
    async def main() -> None:
        async with SimulatedNetwork(seed=3, reconnect=None) as network:
            _, site = await pair(network, [])
            network.lose("server", "site")
            await asyncio.sleep(1000)
            with pytest.raises(Unreachable):
                site.lookup("server/store", Store).tell(Put(1))

    simulate(main)


def test_a_partition_holds_until_it_is_healed() -> None:
    async def main() -> None:
        async with SimulatedNetwork(seed=4) as network:
            _, site = await pair(network, [])
            ref = site.lookup("server/store", Store)
            network.partition(["site"], ["server", "elsewhere"])
            with pytest.raises(AskTimeout):
                await ref.ask(Put(1), timeout=0.001)
            await asyncio.sleep(100)
            with pytest.raises(Unreachable):
                await ref.ask(Put(1))
            network.heal()
            await asyncio.sleep(5)
            assert await ref.ask(Put(2)) == Size(1)

    simulate(main)


def test_a_crashed_node_forgets_its_actors_and_a_restart_begins_anew() -> None:
    async def main() -> None:
        numbers: list[int] = []
        async with SimulatedNetwork(seed=5) as network:
            server, site = await pair(network, numbers)
            ref = site.lookup("server/store", Store)
            await ref.ask(Put(1))
            await network.crash("server")
            with pytest.raises(KeyError):
                network.system("server")
            with pytest.raises(Stopped):
                await server.spawn(partial(Store, []), name="other")
            await asyncio.sleep(5)
            with pytest.raises(Unreachable):
                await ref.ask(Put(2))
            assert await network.restart("server") is network.system("server")
            await asyncio.sleep(5)
            assert await ref.ask(Put(3)) == Size(2)

    simulate(main)


def test_systems_made_elsewhere_can_join() -> None:
    async def main() -> None:
        async with SimulatedNetwork(seed=6) as network, System("a") as a, System("b") as b:
            network.wire("a", "b")
            network.join(a)
            network.join(b)
            await b.spawn(partial(Store, []), name="store")
            assert await a.lookup("b/store", Store).ask(Put(1)) == Size(1)

    simulate(main)


def test_a_link_keeps_the_contract_of_links() -> None:
    async def main() -> None:
        async with SimulatedNetwork(seed=7, delay=lambda rng: rng.expovariate(1.0)) as network:
            _, site = await pair(network, [])
            link = site.border.links["server"]
            assert (link.name, link.peer) == ("site", "server")
            with pytest.raises(LocalProtocolError):
                link.start(lambda envelope: None, lambda reason: None)
            while not link.full:
                link.send(Envelope(Kind.PING))
            await asyncio.wait_for(link.ready(), 1000)
            with pytest.raises(LinkFull):
                while True:
                    link.send(Envelope(Kind.PING))
            assert link.statistics().queued > 4096
            waiting = asyncio.ensure_future(link.ready())
            await asyncio.sleep(0)
            link.close()
            with pytest.raises(LinkClosed):
                await waiting
            with pytest.raises(LinkClosed):
                link.send(Envelope(Kind.PING))
            assert link.statistics().closed == "closed by this side"
            assert "closed" in repr(link)

    simulate(main)


def test_the_same_seed_is_the_same_network_and_another_is_not() -> None:
    async def main(seed: int) -> str:
        events = EventHash()
        async with SimulatedNetwork(seed=seed) as network:

            async def serve(system: System) -> None:
                await system.spawn(partial(Store, []), name="store")

            async def nothing(system: System) -> None:
                del system

            await network.start("server", serve, make=lambda: System("server", observer=events))
            sites = [
                await network.start(f"site-{number}", nothing, uplink="server")
                for number in range(5)
            ]

            async def talk(site: System) -> None:
                for number in range(20):
                    try:
                        await site.lookup("server/store", Store).ask(Put(number), timeout=3)
                    except (AskTimeout, Unreachable):
                        await asyncio.sleep(1)

            talks = [asyncio.ensure_future(talk(site)) for site in sites]
            await asyncio.sleep(0.5)
            network.lose("site-1", "server")
            network.partition(["site-2", "site-3"], ["server"])
            await asyncio.sleep(3)
            network.heal()
            await asyncio.gather(*talks)
        return events.hexdigest()

    hashes = [simulate(partial(main, seed), seed=seed) for seed in (1, 1, 2)]
    assert hashes[0] == hashes[1] != hashes[2]
