"""The runtime at the size it is for: a thousand actors that crash, twice the same."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from covey.actors.runtime import (
    Actor,
    ActorError,
    Down,
    Message,
    Ref,
    Restart,
    System,
    broadcast,
    handles,
    runtime_messages,
)
from covey.actors.runtime.testing import EventHash, SimulatedNetwork, simulate
from covey.transport import Registry

CRASHES = 0.05
DEADLINE_S = 90.0


@dataclass(frozen=True, slots=True)
class Update(Message["Server", None], id=1401):
    site: str
    round: int


@dataclass(frozen=True, slots=True)
class Train(Message["Trainer", Update], id=1400):
    round: int


@dataclass(frozen=True, slots=True)
class Submit(Message["Server", None], id=1402):
    site: str
    round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Watch(Message["Server", None]):
    address: str


def chance(what: str, where: str) -> float:
    """A number from 0 to 1 that does not depend on who draws first."""
    return zlib.crc32(f"{what} {where}".encode()) / 2**32


class Trainer(Actor):
    """Trains for up to 100 s, of which the asker waits 90; crashes in 5 % of its rounds."""

    @handles
    async def train(self, message: Train) -> Update:
        where = f"{self.ctx.address.name}/{message.round}"
        await asyncio.sleep(1 + 99 * chance("long", where) * (chance("slow", where) ** 0.25))
        if chance("crash", where) < CRASHES:
            raise RuntimeError("crashed in training")
        return Update(self.ctx.address.name, message.round)


class Server(Actor):
    """Counts what it hears: ends, and submissions by site and round, each once."""

    def __init__(self) -> None:
        self.downs: list[str] = []
        self.submitted: Counter[tuple[str, int]] = Counter()

    @handles
    def watch(self, message: Watch) -> None:
        self.ctx.watch(self.ctx.system.lookup(message.address, Actor))

    @handles
    def down(self, message: Down) -> None:
        self.downs.append(message.address)

    @handles
    def submit(self, message: Submit) -> None:
        self.submitted[message.site, message.round] += 1


@dataclass
class Account:
    """What came of all rounds, in one comparable piece."""

    outcomes: Counter[str] = field(default_factory=Counter[str])
    downs: int = 0
    handled: int = 0
    seconds: float = 0.0
    events: str = ""


async def federation(actors: int, rounds: int, observe: bool) -> Account:
    """Rounds of training on one system, each round waiting for all its trainers."""
    account = Account()
    events = EventHash()
    async with System("sim", seed=1, observer=events if observe else None) as system:
        server = Server()
        watcher = await system.spawn(lambda: server, name="server")
        refs: list[Ref[Trainer]] = []
        for number in range(actors):
            restart = Restart(limit=2, within=1200)
            refs.append(await system.spawn(Trainer, name=f"t{number}", restart=restart))
            await watcher.ask(Watch(f"sim/t{number}"))
        for round_ in range(rounds):
            results = await broadcast(refs, Train(round_), timeout=DEADLINE_S)
            account.outcomes.update(type(result).__name__ for result in results.values())
            refs = [ref for ref in refs if ref.text not in server.downs]
        account.downs = len(server.downs)
        account.handled = sum(actor.handled for actor in system.statistics().actors)
        account.seconds = asyncio.get_running_loop().time()
        account.events = events.hexdigest()
    return account


def test_a_thousand_actors_crash_their_way_through_twenty_rounds_twice_alike() -> None:
    first = simulate(partial(federation, 1000, 20, True), seed=1)
    assert sum(first.outcomes.values()) > 19_000
    assert set(first.outcomes) == {"Update", "RemoteError", "AskTimeout"}
    assert first.outcomes["Update"] > 17_000
    assert first.downs > 0
    assert first.seconds < 20 * DEADLINE_S + 60
    assert simulate(partial(federation, 1000, 20, True), seed=1) == first


def test_other_seeds_take_other_ways() -> None:
    hashes = {simulate(partial(federation, 20, 3, True), seed=seed).events for seed in range(4)}
    assert len(hashes) == 4


def test_an_observer_changes_nothing_that_actors_see() -> None:
    """Unobserved systems take shorter ways through the code; the outcome must not tell."""
    plain = simulate(partial(federation, 100, 5, False), jitter=False)
    observed = simulate(partial(federation, 100, 5, True), jitter=False)
    assert plain.outcomes == observed.outcomes
    assert (plain.downs, plain.handled) == (observed.downs, observed.handled)
    assert plain.seconds == pytest.approx(observed.seconds, abs=1)


# A swarm of seeds over a bad network --------------------------------------------

REGISTRY = Registry(*runtime_messages(), Train, Update, Submit)
SITES = 5
ROUNDS = 6


async def swarm(seed: int) -> tuple[Counter[tuple[str, int]], list[str], list[tuple[str, int]]]:
    """Sites submit over links that break; a submission that is not confirmed is repeated."""
    server = Server()
    confirmed: list[tuple[str, int]] = []
    letters: list[str] = []

    async def serve(system: System) -> None:
        await system.spawn(lambda: server, name="server")

    async def enrol(system: System) -> None:
        del system

    async with SimulatedNetwork(
        seed=seed, registry=REGISTRY, delay=lambda rng: rng.expovariate(2.0)
    ) as network:
        await network.start("server", serve)
        names = [f"site-{number}" for number in range(SITES)]
        for name in names:
            await network.start(name, enrol, uplink="server")
        sites = [asyncio.ensure_future(site(network, name, confirmed)) for name in names]
        chaos = asyncio.ensure_future(misfortunes(network, names, seed))
        await all_of(sites)
        chaos.cancel()
        await asyncio.wait([chaos])
        letters.extend(network.system("server").dead_letters.counts)
    return server.submitted, letters, confirmed


async def all_of(tasks: list[asyncio.Task[None]]) -> None:
    async with asyncio.timeout(10_000):
        await asyncio.gather(*tasks)


async def site(network: SimulatedNetwork, name: str, confirmed: list[tuple[str, int]]) -> None:
    for round_ in range(ROUNDS):
        for attempt in range(1000):
            try:
                system = network.system(name)
                ref = system.lookup("server/server", Server)
                await ref.ask(Submit(name, round_, attempt), timeout=20)
            except (ActorError, KeyError):
                await asyncio.sleep(1)
            else:
                confirmed.append((name, round_))
                break


async def misfortunes(network: SimulatedNetwork, names: list[str], seed: int) -> None:
    rng = System("chaos", seed=seed).rng
    while True:
        await asyncio.sleep(rng.uniform(0.5, 5))
        name = rng.choice(names)
        match rng.randrange(4):
            case 0:
                network.lose(name, "server")
            case 1:
                network.partition([name], ["server"])
            case 2:
                network.heal()
            case _:
                await network.crash(name)
                await asyncio.sleep(rng.uniform(0, 3))
                await network.restart(name)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_confirmed_has_been_handled_under_any_misfortune(seed: int) -> None:
    submitted, letters, confirmed = simulate(partial(swarm, seed), seed=seed)
    expected = [(f"site-{number}", round_) for number in range(SITES) for round_ in range(ROUNDS)]
    assert sorted(confirmed) == expected
    assert set(expected) == set(submitted)  # handled at least once; the key makes it once
    assert set(letters) <= {"link lost", "asker gone", "deadline passed"}


def test_a_swarm_takes_the_same_way_twice() -> None:
    assert simulate(partial(swarm, 3), seed=3) == simulate(partial(swarm, 3), seed=3)


@pytest.mark.parametrize("seed", range(5))
def test_a_crash_in_the_middle_of_everything_leaves_nothing_waiting(seed: int) -> None:
    async def main() -> None:
        async with System("s", seed=seed, grace=1) as system:
            refs = [await system.spawn(Trainer, name=f"t{number}") for number in range(50)]
            asks: list[Awaitable[Any]] = [ref.ask(Train(0), timeout=80) for ref in refs]
            await asyncio.sleep(system.rng.uniform(0, 60))
            await system.abort()
            results = await asyncio.gather(*asks, return_exceptions=True)
            assert all(isinstance(result, (Update, ActorError)) for result in results)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    simulate(main, seed=seed)
