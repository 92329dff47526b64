"""Dialer: door after door, for ever, with one session; in virtual time, and through a proxy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from covey.actors.runtime.testing import simulate
from covey.transport import LinkClosed
from covey.transport import dialer as dialer_module
from covey.transport.dialer import Dialer, Dialing, Unreached, dial
from covey.transport.doors.pipe import Pipe, Presented
from covey.transport.endpoint import DialerTLS, Endpoint
from covey.transport.errors import Refused
from covey.transport.listener import Listener, Listening
from covey.transport.sessions.handshake import Opened, introduce
from covey.transport.sessions.link import REPLACED, Patience, SessionLink
from tests.chaos import ChaosProxy, Ending, Passage
from tests.transport.sessions.nodes import REGISTRY, Believing, control, number_of, terms
from tests.transport.sessions.pipes import MemoryPipe, pipe_pair

DOORS = ("fast", "upgrade", "websocket")
ENDPOINT = Endpoint("memory", 1, DOORS, False)

News = list[tuple[str, dict[str, object]]]


class Refusing(Believing):
    """Refuses everybody, or nobody any more."""

    code: str | None = "identity"

    def name_of(self, presented: Presented, claimed: str) -> str | None:
        if self.code is not None:
            raise Refused("server", self.code, f"{claimed} is not let in")
        return claimed


@dataclass
class Scene:
    """A dialer, and a listener behind doors that the test opens and closes."""

    listener: Listener
    keeper: Refusing
    blocked: dict[str, Callable[[], Awaitable[Pipe]]] = field(
        default_factory=dict[str, Callable[[], Awaitable[Pipe]]]
    )
    #: When each door was tried.
    tried: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    pipes: list[MemoryPipe] = field(default_factory=list[MemoryPipe])
    links: list[SessionLink] = field(default_factory=list[SessionLink])
    lost: list[str] = field(default_factory=list[str])
    news: News = field(default_factory=News)

    async def dial(self, door: str, endpoint: Endpoint, tls: DialerTLS | None) -> Pipe:
        self.tried.append((door, asyncio.get_running_loop().time()))
        if door in self.blocked:
            return await self.blocked[door]()
        near, far = pipe_pair(number=len(self.pipes))
        self.pipes.append(near)
        self.listener.hold_soon(far)
        return near

    def opened(self, link: SessionLink) -> None:
        self.links.append(link)
        link.start(lambda envelope: None, self.lost.append)

    def dialer(self) -> Dialer:
        dialing = Dialing(
            ENDPOINT,
            terms("site-1"),
            REGISTRY,
            Believing(),
            self.opened,
            dial=self.dial,
            news=lambda event, fields: self.news.append((event, fields)),
        )
        dialer = Dialer(dialing)
        dialer._random = Random(0)
        return dialer

    def told(self, event: str) -> list[dict[str, object]]:
        return [fields for name, fields in self.news if name == event]


def play(act: Callable[[Scene, Dialer], Awaitable[None]], code: str | None = None) -> Scene:
    """Run a dialer in virtual time while `act` happens."""

    async def main() -> Scene:
        keeper = Refusing()
        keeper.code = code
        scene = Scene(listener(keeper), keeper)
        dialer = scene.dialer()
        running = asyncio.create_task(dialer.run())
        try:
            await act(scene, dialer)
        finally:
            running.cancel()
            await asyncio.wait([running])
            await scene.listener.close()
            if dialer.first.done():
                dialer.first.exception()
        return scene

    return simulate(main)


def listener(keeper: Believing | None = None) -> Listener:
    def opened(link: SessionLink) -> None:
        link.start(link.send, lambda reason: None)

    return Listener(Listening(terms("server"), REGISTRY, keeper or Believing(), opened))


async def refused() -> Pipe:
    raise ConnectionRefusedError(111, "Connection refused")


class BadKey(Exception):
    """As an identity has it for its files."""


async def no_key() -> Pipe:
    raise BadKey("key.pem is half written")


async def no_answer() -> Pipe:
    await asyncio.Event().wait()
    raise AssertionError


async def another_service() -> Pipe:
    raise LinkClosed("memory:1", "what answers there does not speak covey/1")


def test_doors_are_tried_in_order_and_a_silent_one_has_its_time() -> None:
    async def act(scene: Scene, dialer: Dialer) -> None:
        scene.blocked.update(fast=no_answer, upgrade=refused)
        await dialer.first
        assert scene.tried == [("fast", 0.0), ("upgrade", 2.5), ("websocket", 2.5)]

    scene = play(act)
    reasons = {fields["door"]: fields["reason"] for fields in scene.told("door.closed")}
    assert reasons == {"fast": "no answer in 2.5 s", "upgrade": "[Errno 111] Connection refused"}


def test_a_door_that_opens_and_then_says_nothing_has_its_time_too() -> None:
    async def act(scene: Scene, dialer: Dialer) -> None:
        dead: list[MemoryPipe] = []

        async def silent() -> Pipe:
            near, far = pipe_pair()
            dead.extend((near, far))
            return near

        scene.blocked["fast"] = silent
        await dialer.first
        assert scene.tried == [("fast", 0.0), ("upgrade", 2.5)]
        await asyncio.sleep(2)
        assert all(pipe.over is not None for pipe in dead)  # nothing is left of it

    play(act)


def test_why_a_door_is_closed_is_told_once_however_often_the_link_breaks() -> None:
    async def act(scene: Scene, dialer: Dialer) -> None:
        scene.blocked["fast"] = refused
        await dialer.first
        for _ in range(5):
            scene.pipes[-1].cut()
            await asyncio.sleep(10)
        assert scene.links[0].connections == 6
        scene.blocked["fast"] = another_service
        scene.pipes[-1].cut()
        await asyncio.sleep(10)
        del scene.blocked["fast"]
        scene.pipes[-1].cut()
        await asyncio.sleep(10)
        scene.blocked["fast"] = refused
        scene.pipes[-1].cut()
        await asyncio.sleep(10)

    scene = play(act)
    reasons = [str(fields["reason"]) for fields in scene.told("door.closed")]
    assert [reason[-22:] for reason in reasons] == [
        "111] Connection refused"[-22:],
        "does not speak covey/1"[-22:],
        "111] Connection refused"[-22:],
    ]
    assert len(scene.links) == 1


def test_it_dials_for_ever_with_longer_and_longer_pauses() -> None:
    async def act(scene: Scene, dialer: Dialer) -> None:
        scene.blocked.update(dict.fromkeys(DOORS, refused))
        await asyncio.sleep(600)
        rounds = [time for door, time in scene.tried if door == "fast"]
        pauses = [later - earlier for earlier, later in pairwise(rounds)]
        for number, pause in enumerate(pauses):
            longest = min(30.0, 0.1 * 2**number)
            assert longest / 2 <= pause <= longest * 1.001
        assert len({round(pause, 3) for pause in pauses[10:]}) > 5  # no two sites in step
        assert not dialer.first.done()
        scene.blocked.clear()
        await dialer.first

    scene = play(act)
    (unreached,) = scene.told("link.unreached")
    assert str(unreached["reason"]).startswith("memory:1 cannot be reached (fast: [Errno 111]")


@pytest.mark.parametrize("code", sorted(dialer_module.FINAL_CODES))
def test_a_final_refusal_ends_the_round_and_fails_the_first(code: str) -> None:
    async def act(scene: Scene, dialer: Dialer) -> None:
        with pytest.raises(Refused) as info:
            await dialer.first
        assert info.value.code == code
        assert [door for door, _ in scene.tried] == ["fast"]
        scene.keeper.code = None  # somebody has put it right
        await asyncio.sleep(31)
        assert len(scene.links) == 1

    scene = play(act, code)
    assert scene.told("link.refused")[0]["code"] == code


def test_what_is_wrong_on_this_side_ends_the_start() -> None:
    async def main() -> None:
        scene = Scene(listener(), Refusing())
        scene.blocked.update(dict.fromkeys(DOORS, no_key))
        with pytest.raises(BadKey, match="half written"):
            await scene.dialer().run()
        assert [door for door, _ in scene.tried] == list(DOORS)

    simulate(main)


def test_what_goes_wrong_on_this_side_later_is_told_and_tried_again() -> None:
    async def act(scene: Scene, dialer: Dialer) -> None:
        await dialer.first
        scene.blocked.update(dict.fromkeys(DOORS, no_key))
        scene.pipes[-1].cut()
        await asyncio.sleep(60)
        scene.blocked.clear()
        await asyncio.sleep(60)
        assert scene.links[0].connections == 2

    scene = play(act)
    (unreached,) = scene.told("link.unreached")
    assert "fast: BadKey: key.pem is half written" in str(unreached["reason"])


def test_a_host_that_has_no_name_is_a_host_that_is_not_reached() -> None:
    async def act(scene: Scene, dialer: Dialer) -> None:
        async def nameless() -> Pipe:
            raise UnicodeError("label empty or too long")

        scene.blocked.update(dict.fromkeys(DOORS, nameless))
        await asyncio.sleep(60)
        assert not dialer.first.done()

    assert "label empty" in str(play(act).told("link.unreached"))


def test_any_other_refusal_leads_to_the_next_door() -> None:
    async def act(scene: Scene, dialer: Dialer) -> None:
        await asyncio.sleep(0.01)
        assert [door for door, _ in scene.tried] == list(DOORS)
        assert not dialer.first.done()

    play(act, "busy")


def test_after_the_listener_has_forgotten_it_there_is_a_new_session_and_the_old_one_is_lost() -> (
    None
):
    async def act(scene: Scene, dialer: Dialer) -> None:
        await dialer.first
        scene.listener = listener()
        scene.pipes[-1].cut()
        await asyncio.sleep(1)
        assert scene.lost == ["server does not know the session any more"]
        old, new = scene.links
        assert old.closed is not None
        assert new.closed is None
        await asyncio.sleep(600)
        assert new.connections == 1  # nobody dials a second time for the same break
        assert len(scene.pipes) == 2

    play(act)


def test_a_session_that_ends_while_it_is_asked_for_is_followed_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def act(scene: Scene, dialer: Dialer) -> None:
        await dialer.first
        (old,) = scene.links
        old.send(control(1))
        await asyncio.sleep(1)

        async def too_late(*args: Any) -> Opened:
            opened = await introduce(*args)
            old.forget("its lease is over")
            return opened

        monkeypatch.setattr(dialer_module, "introduce", too_late)
        scene.pipes[-1].cut()
        await asyncio.sleep(5)
        _, new = scene.links
        assert new.session != old.session
        assert [link.session for link in scene.listener.sessions.values()] == [new.session]
        new.send(control(2))
        await asyncio.sleep(1)
        assert new.received == (1, 0)  # its echo
        assert scene.listener.sessions[new.session].duplicates == 0

    play(act)


def test_a_listener_that_comes_back_at_once_is_dialed_at_once() -> None:
    async def act(scene: Scene, dialer: Dialer) -> None:
        await dialer.first
        for _ in range(20):
            await asyncio.sleep(60)
            scene.pipes[-1].cut()
            await asyncio.sleep(0.5)
            assert scene.links[0].connection is not None
        assert scene.links[0].connections == 21

    play(act)


def test_a_listener_that_hangs_up_at_once_is_not_dialed_in_a_hurry() -> None:
    async def act(scene: Scene, dialer: Dialer) -> None:
        await dialer.first
        while asyncio.get_running_loop().time() < 60:
            if scene.pipes[-1].over is None:
                scene.pipes[-1].cut()
            await asyncio.sleep(0.01)
        assert scene.links[0].connections < 200

    play(act)


def test_a_link_that_its_system_closes_is_followed_by_a_new_session() -> None:
    async def act(scene: Scene, dialer: Dialer) -> None:
        await dialer.first
        scene.links[0].close("that is enough")
        await asyncio.sleep(5)
        assert len(scene.links) == 2
        assert scene.lost == []

    play(act)


def test_a_dialer_whose_place_another_took_says_so_and_takes_its_time() -> None:
    async def act(scene: Scene, dialer: Dialer) -> None:
        await dialer.first
        (link,) = scene.listener.sessions.values()
        link.parting = REPLACED
        link.close("replaced by a new link")
        await asyncio.sleep(14)
        assert len(scene.pipes) == 1
        await asyncio.sleep(17)
        assert len(scene.links) == 2

    scene = play(act)
    ended = {"code": "replaced", "reason": "replaced by a new link"}
    assert scene.told("link.ended") == [ended]


def test_a_dialer_that_is_cancelled_says_goodbye() -> None:
    async def main() -> None:
        scene = Scene(listener(), Refusing())
        dialer = scene.dialer()
        running = asyncio.create_task(dialer.run())
        await dialer.first
        (link,) = scene.listener.sessions.values()
        running.cancel()
        await asyncio.wait([running])
        await asyncio.sleep(1)
        assert link.closed == "site-1 has left"
        assert scene.listener.sessions == {}
        assert scene.pipes[0].over is not None

    simulate(main)


def test_a_dialer_that_is_stopped_keeps_its_session_and_dials_no_more() -> None:
    async def act(scene: Scene, dialer: Dialer) -> None:
        await dialer.first
        dialer.stop()
        (link,) = scene.links
        link.send(control(1))
        await asyncio.sleep(60)
        assert link.closed is None
        assert link.received == (1, 0)  # its echo
        scene.pipes[-1].cut()
        await asyncio.sleep(60)
        assert len(scene.pipes) == 1

    play(act)


def test_an_encrypted_address_without_a_context_cannot_be_dialed() -> None:
    async def main() -> None:
        with pytest.raises(LinkClosed, match="needs TLS"):
            await dial("fast", Endpoint.parse("https://localhost"), None)

    asyncio.run(main())


def test_unreached_names_each_door_and_why() -> None:
    error = Unreached("host:443", {"fast": "refused", "grpc": "silent"})
    assert str(error) == "host:443 cannot be reached (fast: refused; grpc: silent)"


@pytest.mark.parametrize("passage", [Passage.REFUSE, Passage.SWALLOW])
def test_doors_that_the_network_blocks_one_by_one_lead_to_the_next(passage: Passage) -> None:
    async def main() -> None:
        links: list[SessionLink] = []
        news: News = []
        server = listener()
        await server.open("127.0.0.1", 0)
        async with AsyncExitStack() as stack:
            doors = {
                door: await stack.enter_async_context(ChaosProxy(server.port)) for door in DOORS
            }

            async def through(door: str, endpoint: Endpoint, tls: DialerTLS | None) -> Pipe:
                there = Endpoint("127.0.0.1", doors[door].port, ("fast",), False)
                return await dial("fast", there, tls)

            dialing = Dialing(
                ENDPOINT,
                terms("site-1"),
                REGISTRY,
                Believing(),
                links.append,
                patience=Patience(ping_s=0.1, silent_s=2.0),
                door_s=0.3,
                retry_s=(0.01, 0.05),
                dial=through,
                news=lambda event, fields: news.append((event, fields)),
            )
            dialer = Dialer(dialing)
            running = asyncio.create_task(dialer.run())
            await dialer.first
            answers: asyncio.Queue[int] = asyncio.Queue()
            links[0].start(
                lambda envelope: answers.put_nowait(number_of(envelope)), lambda reason: None
            )
            for number, door in enumerate(DOORS):
                links[0].send(control(number))
                assert await answers.get() == number
                assert len(doors[door].crossings) == 1
                if door != DOORS[-1]:
                    doors[door].passage = passage
                    doors[door].end(Ending.RESET)
            closed = [fields["door"] for event, fields in news if event == "door.closed"]
            assert closed == list(DOORS[:-1])
            running.cancel()
            await asyncio.wait([running])
            await server.close()

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(bounded())
