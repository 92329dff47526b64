"""Actors on other nodes: messages, errors, cancellation, watches and leases over links."""

# ruff: noqa: PT012  # streams raise while they are read, inside their block

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from covey.actors.runtime import (
    Actor,
    AskTimeout,
    Down,
    Mailbox,
    MailboxFull,
    Message,
    Overflow,
    ProtocolError,
    Pull,
    Reason,
    Ref,
    Rejected,
    RemoteError,
    Stopped,
    System,
    Unreachable,
    handles,
    runtime_messages,
)
from covey.actors.runtime.testing import SimulatedNetwork, simulate
from covey.transport import Codec, Envelope, Kind, LinkClosed, MemoryLink, Registry, memory_pair


@dataclass(frozen=True, slots=True)
class Add(Message["Counter", "Total"], id=1100):
    number: int


@dataclass(frozen=True, slots=True)
class Total(Message["Counter", None], id=1101):
    number: int


@dataclass(frozen=True, slots=True)
class Wait(Message["Counter", None], id=1102):
    seconds: float


@dataclass(frozen=True, slots=True)
class Fail(Message["Counter", None], id=1103):
    how: str


@dataclass(frozen=True, slots=True)
class Count(Pull["Counter", Total], id=1104):
    upto: int
    fail_at: int = -1


@dataclass(frozen=True, slots=True)
class Watch(Message["Watcher", None], id=1105):
    address: str


@dataclass(frozen=True, slots=True)
class Foreign(Message["Counter", None]):
    """Has no wire id."""


@dataclass(frozen=True, slots=True)
class Unregistered(Message["Counter", None], id=1199):
    pass


class Counter(Actor):
    def __init__(self, log: list[str] | None = None) -> None:
        self.total = 0
        self.log = log if log is not None else []

    @handles
    async def add(self, message: Add) -> Total:
        self.total += message.number
        return Total(self.total)

    @handles
    async def wait(self, message: Wait) -> None:
        try:
            await asyncio.sleep(message.seconds)
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        self.log.append("waited")

    @handles
    def fail(self, message: Fail) -> Any:
        if message.how == "reject":
            raise Rejected("no", "because")
        if message.how == "raise":
            raise RuntimeError("broken")
        return object()

    @handles
    async def count(self, message: Count) -> AsyncIterator[Total]:
        try:
            for number in range(message.upto):
                if number == message.fail_at:
                    raise RuntimeError("no more")
                self.log.append(f"send {number}")
                yield Total(number)
        finally:
            self.log.append("closed")


class Watcher(Actor):
    def __init__(self, downs: list[Down]) -> None:
        self.downs = downs

    @handles
    def watch(self, message: Watch) -> None:
        self.ctx.watch(self.ctx.system.lookup(message.address, Actor))

    @handles
    def down(self, message: Down) -> None:
        self.downs.append(message)


REGISTRY = Registry(*runtime_messages(), Add, Total, Wait, Fail, Count, Watch)

Body = Callable[[System, System, Ref[Counter], list[str]], Coroutine[Any, Any, None]]


def linked(body: Body, *, codec: bool = True, mailbox: Mailbox | None = None) -> None:
    """Run `body(a, b, ref, log)`, where `ref` leads from `a` to a counter on `b`."""

    async def main() -> None:
        log: list[str] = []
        async with System("a", lease=30) as a, System("b", lease=30) as b:
            attach(a, b, codec=codec)
            await b.spawn(partial(Counter, log), name="counter", mailbox=mailbox)
            await body(a, b, a.lookup("b/counter", Counter), log)

    simulate(main)


def attach(a: System, b: System, *, codec: bool = True) -> tuple[MemoryLink, MemoryLink]:
    codecs = (Codec(REGISTRY), Codec(REGISTRY)) if codec else (None, None)
    ends = memory_pair(a.name, b.name, codec_a=codecs[0], codec_b=codecs[1])
    a.attach(ends[0])
    b.attach(ends[1])
    return ends


@pytest.mark.parametrize("codec", [True, False])
def test_tell_and_ask_reach_an_actor_of_another_node(codec: bool) -> None:
    async def body(a: System, b: System, ref: Ref[Counter], log: list[str]) -> None:
        await ref.tell(Add(1))
        assert await ref.ask(Add(2)) == Total(3)
        assert a.statistics().asks == 0

    linked(body, codec=codec)


def test_errors_come_back_as_themselves() -> None:
    async def body(a: System, b: System, ref: Ref[Counter], log: list[str]) -> None:
        with pytest.raises(RemoteError, match="RuntimeError: broken") as failed:
            await ref.ask(Fail("raise"))
        assert failed.value.address == "b/counter"
        with pytest.raises(Rejected) as rejected:
            await ref.ask(Fail("reject"))
        assert (rejected.value.code, rejected.value.text) == ("no", "because")
        with pytest.raises(ProtocolError, match="no Record"):
            await ref.ask(Fail("object"))
        with pytest.raises(Stopped, match="no such actor"):
            await a.lookup("b/nobody", Counter).ask(Add(1))
        with pytest.raises(ProtocolError, match="no handler"):
            await ref.ask(Watch("x/y"))  # type: ignore[arg-type]  # pyright: ignore
        with pytest.raises(ProtocolError, match="registry"):
            await ref.ask(Unregistered())
        with pytest.raises(ProtocolError):
            ref.tell(Foreign())
        with pytest.raises(Unreachable):
            await a.lookup("c/counter", Counter).ask(Add(1))
        with pytest.raises(Unreachable):
            a.lookup("c/counter", Counter).tell(Add(1))
        assert await ref.ask(Add(0)) == Total(0)  # restarted by the failure

    linked(body)


def test_a_message_for_a_full_mailbox_is_refused_and_the_link_goes_on() -> None:
    async def body(a: System, b: System, ref: Ref[Counter], log: list[str]) -> None:
        other = await b.spawn(Counter, name="other")
        slow = ref.ask(Wait(5))
        await asyncio.sleep(1)
        await ref.tell(Add(1))
        with pytest.raises(MailboxFull):
            await ref.ask(Add(1))
        assert await a.lookup(other.text, Counter).ask(Add(1)) == Total(1)
        await slow
        assert b.dead_letters.counts["mailbox full"] == 1

    linked(body, mailbox=Mailbox(1))


def test_a_mailbox_that_drops_the_oldest_does_so_for_remote_senders_too() -> None:
    async def body(a: System, b: System, ref: Ref[Counter], log: list[str]) -> None:
        slow = ref.ask(Wait(5))
        await asyncio.sleep(1)
        for number in (1, 2, 4):
            await ref.tell(Add(number))
        await slow
        assert await ref.ask(Add(0)) == Total(4)

    linked(body, mailbox=Mailbox(1, Overflow.DROP_OLDEST))


@pytest.mark.parametrize("queued", [True, False])
def test_cancelling_a_remote_ask_withdraws_it_there(queued: bool) -> None:
    async def body(a: System, b: System, ref: Ref[Counter], log: list[str]) -> None:
        first = ref.ask(Wait(3)) if queued else None
        asked = ref.ask(Wait(100))
        await asyncio.sleep(1)
        asked.cancel()
        assert await ref.ask(Add(1)) == Total(1)
        if first is not None:
            await first
        assert log == (["waited"] if queued else ["cancelled"])
        assert b.dead_letters.counts["asker gone"] == 1

    linked(body)


def test_cancelling_an_ask_reaches_its_handler_over_a_later_link() -> None:
    async def body(a: System, b: System, ref: Ref[Counter], log: list[str]) -> None:
        asked = ref.ask(Wait(100))
        await asyncio.sleep(1)
        attach(a, b)  # in place of the link that it went over
        await asyncio.sleep(1)
        asked.cancel()
        assert await ref.ask(Add(1)) == Total(1)
        assert log == ["cancelled"]

    linked(body)


def test_a_remote_deadline_fires_here_and_stops_the_work_there() -> None:
    async def body(a: System, b: System, ref: Ref[Counter], log: list[str]) -> None:
        with pytest.raises(AskTimeout):
            await ref.ask(Wait(100), timeout=2)
        await asyncio.sleep(1)
        assert log == ["cancelled"]

    linked(body)


def test_a_remote_stream_keeps_order_credit_and_end() -> None:
    async def body(a: System, b: System, ref: Ref[Counter], log: list[str]) -> None:
        async with ref.stream(Count(20), credit=4) as parts:
            taken = 0
            async for part in parts:
                assert part == Total(taken)
                taken += 1
                await asyncio.sleep(1)
                assert len(log) - taken <= 4 + 1
        assert taken == 20
        assert log[-1] == "closed"

    linked(body)


def test_leaving_a_remote_stream_cancels_its_producer() -> None:
    async def body(a: System, b: System, ref: Ref[Counter], log: list[str]) -> None:
        async with ref.stream(Count(1000), credit=2) as parts:
            async for part in parts:
                if part.number == 3:
                    break
        await asyncio.sleep(1)
        assert log[-1] == "closed"
        assert b.statistics().actors[0].tasks == 0

    linked(body)


def test_a_remote_producer_that_fails_says_so_after_its_parts() -> None:
    async def body(a: System, b: System, ref: Ref[Counter], log: list[str]) -> None:
        numbers: list[int] = []
        with pytest.raises(RemoteError, match="no more"):
            async with ref.stream(Count(9, fail_at=3)) as parts:
                async for part in parts:
                    numbers.append(part.number)
        assert numbers == [0, 1, 2]
        with pytest.raises(Stopped):
            async with a.lookup("b/nobody", Counter).stream(Count(1)) as parts:
                async for _ in parts:
                    pass

    linked(body)


def test_a_lost_link_ends_streams_on_both_sides_and_no_actor_fails() -> None:
    async def main() -> None:
        log: list[str] = []
        async with System("a") as a, System("b") as b, SimulatedNetwork(seed=1) as network:
            network.wire("a", "b")
            network.join(a)
            network.join(b)
            await b.spawn(partial(Counter, log), name="counter")
            ref = a.lookup("b/counter", Counter)
            with pytest.raises(Unreachable, match="link was lost"):
                async with ref.stream(Count(1000), credit=2) as parts:
                    async for part in parts:
                        if part.number == 3:
                            network.lose("a", "b")
            await asyncio.sleep(3)
            assert log[-1] == "closed"
            assert b.statistics().actors[0].failures == 0
            assert await ref.ask(Add(1)) == Total(1)

    for _ in range(3):
        simulate(main)


def test_a_remote_watch_tells_of_the_end_once() -> None:
    async def body(a: System, b: System, ref: Ref[Counter], log: list[str]) -> None:
        downs: list[Down] = []
        watcher = await a.spawn(partial(Watcher, downs), name="w")
        await watcher.ask(Watch("b/counter"))
        await watcher.ask(Watch("b/counter"))
        await watcher.ask(Watch("b/nobody"))
        await asyncio.sleep(1)
        assert downs == [Down("b/nobody", Reason.STOPPED)]
        await b.stop(b.lookup("b/counter", Counter))
        await asyncio.sleep(1)
        assert downs[1:] == [Down("b/counter", Reason.STOPPED)]
        await watcher.ask(Watch("c/elsewhere"))
        await asyncio.sleep(1)
        assert downs[2].reason is Reason.UNREACHABLE

    linked(body)


def test_a_link_lost_for_a_whole_lease_counts_as_the_end() -> None:
    async def body(a: System, b: System, ref: Ref[Counter], log: list[str]) -> None:
        downs: list[Down] = []
        watcher = await a.spawn(partial(Watcher, downs), name="w")
        await watcher.ask(Watch("b/counter"))
        asked = ref.ask(Wait(1000), timeout=1000)
        await asyncio.sleep(1)
        b.border.links["a"].close("cut")
        await asyncio.sleep(29)
        assert downs == []
        await asyncio.sleep(2)
        assert [(down.address, down.reason) for down in downs] == [
            ("b/counter", Reason.UNREACHABLE)
        ]
        with pytest.raises(Unreachable, match="30 s"):
            await asked
        b.border.arrivals.lease_over("a")  # this end closed the link itself: it has no lease
        await asyncio.sleep(1)
        assert log == ["cancelled"]

    linked(body)


def test_a_link_that_comes_back_within_the_lease_keeps_watches_and_asks() -> None:
    async def body(a: System, b: System, ref: Ref[Counter], log: list[str]) -> None:
        downs: list[Down] = []
        watcher = await a.spawn(partial(Watcher, downs), name="w")
        await watcher.ask(Watch("b/counter"))
        asked = ref.ask(Wait(10), timeout=100)
        await asyncio.sleep(1)
        a.border.links["b"].close("cut")
        del a.border.links["b"]
        await asyncio.sleep(5)
        attach(a, b)
        await asked
        await asyncio.sleep(100)
        assert downs == []
        await b.stop(b.lookup("b/counter", Counter))
        await asyncio.sleep(1)
        assert [down.reason for down in downs] == [Reason.STOPPED]

    linked(body)


def test_the_end_of_one_lease_leaves_nodes_on_a_lease_of_their_own_alone() -> None:
    async def main() -> None:
        async with System("a", lease=30) as a, System("b") as b, System("c") as c:
            for other in (b, c):
                attach(a, other)
                await other.spawn(lambda: Counter([]), name="counter")
            downs: list[Down] = []
            watcher = await a.spawn(partial(Watcher, downs), name="w")
            await watcher.ask(Watch("b/counter"))
            await watcher.ask(Watch("c/counter"))
            await asyncio.sleep(1)
            b.border.links["a"].close("cut")
            await asyncio.sleep(20)
            c.border.links["a"].close("cut")
            asked = a.lookup("c/counter", Counter)
            await asyncio.sleep(15)
            assert [down.address for down in downs] == ["b/counter"]
            assert (a.reaches("b"), a.reaches("c")) == (False, True)
            attach(a, c)
            assert await asked.ask(Add(1)) == Total(1)
            await asyncio.sleep(100)
            assert [down.address for down in downs] == ["b/counter"]

    simulate(main)


def test_unwatch_reaches_the_other_node() -> None:
    async def body(a: System, b: System, ref: Ref[Counter], log: list[str]) -> None:
        downs: list[Down] = []
        watcher = await a.spawn(partial(Watcher, downs), name="w")
        await watcher.ask(Watch("b/counter"))
        await asyncio.sleep(1)
        assert b.cells["counter"].watchers
        await a.stop(watcher)  # its watches end with it
        await asyncio.sleep(1)
        assert not b.cells["counter"].watchers

    linked(body)


def test_a_peer_that_claims_another_name_is_cut_off() -> None:
    async def main() -> None:
        async with System("a", lease=5) as a:
            ours, theirs = memory_pair("a", "evil")
            a.attach(ours)
            lost: list[str] = []
            theirs.start(lambda envelope: None, lost.append)
            theirs.send(Envelope(Kind.TELL, "a/x", "good/actor"))
            await asyncio.sleep(1)
            assert "in the name of good/actor" in lost[0]
            with pytest.raises(LinkClosed):
                theirs.send(Envelope(Kind.PING))

    simulate(main)


def test_only_the_peer_that_was_asked_can_answer() -> None:
    async def body(a: System, b: System, ref: Ref[Counter], log: list[str]) -> None:
        ours, theirs = memory_pair("a", "evil")
        a.attach(ours)
        theirs.start(lambda envelope: None, lambda reason: None)
        asked = ref.ask(Wait(5))
        await asyncio.sleep(1)
        (number,) = a.border._asks
        for kind in (Kind.REPLY, Kind.ERROR, Kind.DOWN, Kind.END, Kind.CHUNK):
            theirs.send(Envelope(kind, "", "evil", number, Total(666)))
        await asyncio.sleep(1)
        assert not asked.done()
        await asked

    linked(body)


def test_odd_envelopes_become_dead_letters_and_nothing_else() -> None:
    async def body(a: System, b: System, ref: Ref[Counter], log: list[str]) -> None:
        link = a.border.links["b"]
        link.send(Envelope(Kind.HELLO, "b/counter", "a"))
        link.send(Envelope(Kind.TELL, "b/counter", "a"))
        link.send(Envelope(Kind.OPEN, "c/counter", "a", 5, Count(1)))
        link.send(Envelope(Kind.ASK, "b/counter", "a", 6))
        link.send(Envelope(Kind.CREDIT, "b/counter", "a", 77))
        link.send(Envelope(Kind.CANCEL, "b/counter", "a", 78))
        link.send(Envelope(Kind.UNWATCH, "b/counter", "a", 79))
        assert await ref.ask(Add(1)) == Total(1)
        counts = b.dead_letters.counts
        assert counts == {"kind HELLO": 1, "malformed": 2, "no such actor": 1}

    linked(body)


def test_a_system_that_closes_fails_its_remote_asks_and_ends_its_streams() -> None:
    async def main() -> None:
        log: list[str] = []
        async with System("b") as b:
            async with System("a", grace=1) as a:
                attach(a, b)
                await b.spawn(partial(Counter, log), name="counter")
                asked = a.lookup("b/counter", Counter).ask(Wait(100), timeout=1000)
                await asyncio.sleep(1)
            with pytest.raises(Stopped, match="a has closed"):
                await asked
            await asyncio.sleep(1)
            assert b.statistics().links[0].lost

    simulate(main)


def test_a_default_link_is_the_way_to_all_other_nodes() -> None:
    async def main() -> None:
        async with System("site") as site, System("server") as server:
            ours, theirs = memory_pair("site", "server")
            site.attach(ours, default=True)
            server.attach(theirs)
            with pytest.raises(Unreachable, match="server hands on nothing"):
                await site.lookup("other/actor", Counter).ask(Add(1))

    simulate(main)


def test_tell_waits_while_a_link_is_full() -> None:
    async def main() -> None:
        async with System("a") as a, System("b") as b:
            ours, theirs = memory_pair("a", "b", capacity=2)
            a.attach(ours)
            await b.spawn(Counter, name="counter")
            ref = a.lookup("b/counter", Counter)
            await ref.tell(Add(1))
            waiting = asyncio.ensure_future(ref.tell(Add(1)))
            await asyncio.sleep(1)
            assert not waiting.done()
            b.attach(theirs)
            await waiting
            assert await ref.ask(Add(1)) == Total(3)

    simulate(main)


def test_a_reply_of_a_former_life_is_not_taken_for_one_of_this() -> None:
    async def main() -> None:
        async with SimulatedNetwork(seed=1, registry=REGISTRY, reconnect=(0.1, 0.2)) as network:

            async def serve(system: System) -> None:
                await system.spawn(Counter, name="counter")

            async def nothing(system: System) -> None:
                del system

            await network.start("b", serve)
            site = await network.start("a", nothing, uplink="b")
            old = site.lookup("b/counter", Counter).ask(Add(1000), timeout=100)
            await network.crash("a")
            with pytest.raises(Stopped):
                await old
            await asyncio.sleep(1)
            site = await network.restart("a")
            assert (await site.lookup("b/counter", Counter).ask(Add(1))).number in (1, 1001)

    for _ in range(3):
        simulate(main)
