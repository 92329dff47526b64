"""What can be seen from outside: events, traces, dead letters, statistics, and codec checks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from covey.actors.runtime import (
    Actor,
    Event,
    Message,
    ProtocolError,
    Pull,
    RemoteError,
    System,
    handles,
    runtime_messages,
)
from covey.actors.runtime.testing import EventHash, simulate
from covey.transport import Codec, Registry, memory_pair


@dataclass(frozen=True, slots=True)
class Relay(Message["Node", "Answer"], id=1200):
    to: str


@dataclass(frozen=True, slots=True)
class Answer(Message["Node", None], id=1201):
    text: str


@dataclass(frozen=True, slots=True)
class Parts(Pull["Node", Answer], id=1202):
    pass


@dataclass(frozen=True, slots=True)
class Local(Message["Node", object]):
    thing: object


@dataclass(frozen=True, slots=True)
class Odd(Message["Node", object], id=1203):
    how: str


@dataclass(frozen=True, slots=True)
class Wait(Message["Node", None], id=1204):
    seconds: float


@dataclass(frozen=True, slots=True)
class Stray(Message["Node", None], id=1205):
    pass


class Node(Actor):
    @handles
    async def relay(self, message: Relay) -> Answer:
        if not message.to:
            return Answer("end")
        first, _, rest = message.to.partition(",")
        return await self.ctx.system.lookup(first, Node).ask(Relay(rest))

    @handles
    async def parts(self, message: Parts) -> AsyncIterator[Answer]:
        yield Answer("part")

    @handles
    def local(self, message: Local) -> object:
        return message.thing

    @handles
    def odd(self, message: Odd) -> object:
        return {"unregistered": Stray(), "object": object(), "none": None}[message.how]

    @handles
    async def wait(self, message: Wait) -> None:
        await asyncio.sleep(message.seconds)


REGISTRY = Registry(*runtime_messages(), Relay, Answer, Parts, Odd, Wait)


def test_an_observer_sees_messages_enqueued_started_and_ended() -> None:
    async def main() -> list[Event]:
        events: list[Event] = []
        async with System("s", observer=events.append) as system:
            ref = await system.spawn(Node, name="n")
            await ref.ask(Wait(2))
            await ref.tell(Answer("nobody handles it"))
        return events

    events = simulate(main)
    assert [(event.stage, event.message, event.time) for event in events] == [
        ("enqueue", "Wait", 0.0),
        ("start", "Wait", 0.0),
        ("end", "Wait", 2.0),
        ("enqueue", "Answer", 2.0),
    ]
    assert {event.address for event in events} == {"s/n"}
    assert len({event.trace for event in events}) == 2


def test_a_trace_follows_from_message_to_message_and_over_links() -> None:
    async def main() -> list[Event]:
        events: list[Event] = []
        async with (
            System("a", observer=events.append) as a,
            System("b", observer=events.append) as b,
        ):
            ends = memory_pair("a", "b", codec_a=Codec(REGISTRY), codec_b=Codec(REGISTRY))
            a.attach(ends[0])
            b.attach(ends[1])
            first = await a.spawn(Node, name="first")
            await a.spawn(Node, name="second")
            await b.spawn(Node, name="third")
            assert await first.ask(Relay("a/second,b/third")) == Answer("end")
            await first.ask(Relay(""))
            async with a.lookup("b/third", Node).stream(Parts()) as parts:
                assert [part async for part in parts] == [Answer("part")]
        return events

    events = simulate(main)
    traces = list(dict.fromkeys(event.trace for event in events))
    assert len(traces) == 3
    chain = [event for event in events if event.trace == traces[0]]
    assert {event.address for event in chain} == {"a/first", "a/second", "b/third"}
    assert [event.address for event in chain if event.stage == "end"] == [
        "b/third",
        "a/second",
        "a/first",
    ]


def test_dead_letters_are_counted_and_the_last_of_them_kept() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(Node, name="n")
            for _ in range(300):
                await ref.tell(Stray())
            await ref.ask(Wait(0))
            assert system.dead_letters.counts == {"no handler": 300}
            assert len(system.dead_letters.last) == 256
            letter = system.dead_letters.last[-1]
            assert (letter.address, letter.message) == ("s/n", "Stray")
            assert system.statistics().dead_letters == {"no handler": 300}

    simulate(main)


def test_statistics_show_what_is_alive_and_for_how_long() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(Node, name="n")
            asyncio.get_running_loop().call_later(3, lambda: ref.ask(Wait(10)))
            await asyncio.sleep(4)
            await ref.tell(Answer("queued"))
            await asyncio.sleep(2)
            snapshot = system.statistics()
            (actor,) = snapshot.actors
            assert (actor.address, actor.kind) == ("s/n", "Node")
            assert (actor.queued, actor.waiting, actor.tasks) == (1, 0, 0)
            assert (actor.handled, actor.restarts, actor.failures) == (1, 0, 0)
            assert actor.current == "Wait"
            assert actor.current_age_s == pytest.approx(3)
            assert (snapshot.name, snapshot.asks, snapshot.links) == ("s", 1, ())
            await asyncio.sleep(10)
            (actor,) = system.statistics().actors
            assert (actor.current, actor.current_age_s, actor.queued) == (None, 0.0, 0)
            assert "1 actors" in repr(system)
            assert "s/n" in repr(system.cells["n"])
            assert repr(ref) == "<ref s/n>"

    simulate(main)


def test_the_age_of_a_message_told_counts_from_its_own_begin() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(Node, name="n")
            await ref.tell(Wait(10))
            await ref.tell(Wait(10))
            await asyncio.sleep(12)
            assert system.statistics().actors[0].current_age_s == pytest.approx(2)

    simulate(main)


def test_links_are_counted() -> None:
    async def main() -> None:
        async with System("a") as a, System("b") as b:
            ends = memory_pair("a", "b")
            a.attach(ends[0])
            b.attach(ends[1])
            await b.spawn(Node, name="n")
            await a.lookup("b/n", Node).ask(Relay(""))
            (link,) = a.statistics().links
            assert (link.peer, link.sent, link.received, link.lost) == ("b", 1, 1, False)

    simulate(main)


def test_checking_sends_local_messages_and_replies_through_the_codec() -> None:
    async def main() -> None:
        async with System("s", registry=REGISTRY, check_codec=True) as system:
            ref = await system.spawn(Node, name="n")
            assert await ref.ask(Relay("")) == Answer("end")
            assert await ref.ask(Odd("none")) is None
            async with ref.stream(Parts()) as parts:
                assert [part async for part in parts] == [Answer("part")]
            thing = object()
            assert await ref.ask(Local(thing)) is thing  # no wire id: it stays in one system
            for how in ("unregistered", "object"):
                with pytest.raises(ProtocolError, match=r"registry|no Record"):
                    await ref.ask(Odd(how))
            with pytest.raises(ProtocolError, match="registry"):
                ref.tell(Stray())
            wrong: Any = 7
            with pytest.raises(ProtocolError, match="to"):
                await ref.ask(Relay(wrong))
            assert system.statistics().actors[0].failures == 0

    simulate(main)


def test_checking_needs_a_registry() -> None:
    with pytest.raises(ValueError, match="registry"):
        System("s", check_codec=True)


def test_observed_and_plain_systems_give_the_same_answers() -> None:
    async def run(system: System) -> list[object]:
        async with system:
            ref = await system.spawn(Node, name="n")
            await system.spawn(Node, name="m")
            with pytest.raises(RemoteError):
                await ref.ask(Odd("missing"))
            return [
                await ref.ask(Relay("s/m")),
                system.statistics().actors[0].failures,
                sum(actor.handled for actor in system.statistics().actors),
            ]

    plain = simulate(lambda: run(System("s")))
    observed = simulate(lambda: run(System("s", observer=EventHash())))
    assert plain == observed == [Answer("end"), 1, 3]
