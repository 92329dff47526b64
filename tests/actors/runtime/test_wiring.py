"""Systems that reach each other over real sockets: nothing but the address differs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop

from covey.actors.runtime import (
    Actor,
    Down,
    Message,
    Pull,
    Reason,
    Rejected,
    RemoteError,
    System,
    broadcast,
    handles,
    runtime_messages,
)
from covey.actors.runtime.wiring import Wire, address_of
from covey.transport import Body, Record, Refused, Registry


@dataclass(frozen=True, slots=True)
class Total(Record, id=1201):
    number: int


@dataclass(frozen=True, slots=True)
class Add(Message["Counter", Total], id=1200):
    number: int


@dataclass(frozen=True, slots=True)
class Part(Record, id=1202):
    index: int
    data: Body


@dataclass(frozen=True, slots=True)
class Read(Pull["Counter", Part], id=1203):
    parts: int
    size: int


@dataclass(frozen=True, slots=True)
class Work(Message["Slow", Total], id=1204):
    number: int


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


class Slow(Actor):
    """Answers when the test says so."""

    def __init__(self, begun: asyncio.Event, go: asyncio.Event) -> None:
        self.begun, self.go = begun, go

    @handles
    async def work(self, msg: Work) -> Total:
        self.begun.set()
        await self.go.wait()
        return Total(msg.number)


class Watcher(Actor):
    """Keeps the deaths that it hears of."""

    def __init__(self, deaths: asyncio.Queue[Down]) -> None:
        self.deaths = deaths

    @handles
    def down(self, msg: Down) -> None:
        self.deaths.put_nowait(msg)


def registry() -> Registry:
    made = Registry(*runtime_messages(), Add, Total, Part, Read, Work)
    made.freeze()
    return made


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run on a loop of the kind under test."""
    asyncio.run(_bounded(main))


async def _bounded(main: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(60):
        await main


Runner = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def on_loop(request: pytest.FixtureRequest) -> Runner:
    if request.param == "asyncio":
        return run

    def run_uvloop(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_bounded(main))

    return run_uvloop


def parent(**options: Any) -> System:
    return System("server", registry=registry(), listen="127.0.0.1:0", **options)


def child(name: str, of: System, scheme: str = "covey+plain", **options: Any) -> System:
    url = f"{scheme}://127.0.0.1:{of.port}"
    return System(name, registry=registry(), connect=url, **options)


def test_asks_answers_and_errors_cross_the_network_in_both_directions(on_loop: Runner) -> None:
    async def main() -> None:
        async with parent() as server, child("site-1", server) as site:
            await server.spawn(Counter, name="counter")
            await site.spawn(Counter, name="counter")
            there = site.lookup("server/counter", Counter)
            here = server.lookup("site-1/counter", Counter)
            assert await there.ask(Add(2)) == Total(2)
            assert await here.ask(Add(3)) == Total(3)
            with pytest.raises(Rejected, match="below 0"):
                await there.ask(Add(-1))

    on_loop(main())


def test_a_broadcast_reaches_all_sites(on_loop: Runner) -> None:
    async def main() -> None:
        async with (
            parent() as server,
            child("site-1", server) as first,
            child("site-2", server) as second,
        ):
            for site in (first, second):
                await site.spawn(Counter, name="counter")
            refs = [server.lookup(f"{site.name}/counter", Counter) for site in (first, second)]
            answers = await broadcast(refs, Add(5))
            assert list(answers.values()) == [Total(5), Total(5)]

    on_loop(main())


def test_a_stream_of_large_parts_arrives_whole_and_in_order(on_loop: Runner) -> None:
    async def main() -> None:
        async with parent() as server, child("site-1", server) as site:
            await server.spawn(Counter, name="counter")
            there = site.lookup("server/counter", Counter)
            seen = 0
            async with there.stream(Read(40, 1 << 20)) as parts:
                async for part in parts:
                    assert part.index == seen
                    assert bytes(part.data) == bytes([seen % 256]) * (1 << 20)
                    seen += 1
            assert seen == 40

    on_loop(main())


def test_a_connection_that_breaks_is_no_death_and_loses_nothing(on_loop: Runner) -> None:
    async def main() -> None:
        deaths: asyncio.Queue[Down] = asyncio.Queue()
        async with parent() as server, child("site-1", server) as site:
            await server.spawn(Counter, name="counter")
            watcher = await site.spawn(lambda: Watcher(deaths), name="watcher")
            there = site.lookup("server/counter", Counter)
            cell = site.cells[watcher.address.name]
            site.watch(cell, there)
            link: Any = site.border.links["server"]
            for _ in range(4):
                asks = [there.ask(Add(1)) for _ in range(20)]
                link.connection.break_off("cut by the test")
                await asyncio.gather(*asks)
            assert await there.ask(Add(0)) == Total(80)
            assert deaths.empty()
            assert link.connections > 1

    on_loop(main())


def test_a_parent_that_leaves_says_so_and_its_watchers_hear_it(on_loop: Runner) -> None:
    async def main() -> None:
        deaths: asyncio.Queue[Down] = asyncio.Queue()
        server = parent()
        await server.__aenter__()
        async with child("site-1", server) as site:
            await server.spawn(Counter, name="counter")
            watcher = await site.spawn(lambda: Watcher(deaths), name="watcher")
            site.watch(site.cells[watcher.address.name], site.lookup("server/counter", Counter))
            assert await site.lookup("server/counter", Counter).ask(Add(1)) == Total(1)
            await server.__aexit__(None, None, None)
            down = await deaths.get()
            assert down.address == "server/counter"
            assert down.reason in (Reason.STOPPED, Reason.UNREACHABLE)

    on_loop(main())


def test_a_site_that_is_at_work_when_it_exits_answers(on_loop: Runner) -> None:
    async def main() -> None:
        begun, go = asyncio.Event(), asyncio.Event()
        async with parent() as server:
            site = child("site-1", server)
            await site.__aenter__()
            await site.spawn(lambda: Slow(begun, go), name="slow")
            answer = server.lookup("site-1/slow", Slow).ask(Work(7))
            await begun.wait()
            leaving = asyncio.create_task(site.__aexit__(None, None, None))
            await asyncio.sleep(0)  # it drains
            go.set()
            assert await answer == Total(7)
            await leaving

    on_loop(main())


def test_a_child_that_comes_back_takes_its_own_place(on_loop: Runner) -> None:
    async def main() -> None:
        async with parent() as server:
            for total in (4, 7):
                async with child("site-1", server) as site:
                    await site.spawn(Counter, name="counter")
                    here = server.lookup("site-1/counter", Counter)
                    assert await here.ask(Add(total)) == Total(total)

    on_loop(main())


def test_a_child_whose_place_another_takes_is_told_so() -> None:
    async def main() -> None:
        deaths: asyncio.Queue[Down] = asyncio.Queue()
        async with parent() as server, child("site-1", server) as first:
            await server.spawn(Counter, name="counter")
            watcher = await first.spawn(lambda: Watcher(deaths), name="watcher")
            first.watch(first.cells[watcher.address.name], first.lookup("server/counter", Counter))
            link: Any = first.border.links["server"]
            async with child("site-1", server) as second:
                await second.lookup("server/counter", Counter).ask(Add(1))
                assert (await deaths.get()).reason is Reason.UNREACHABLE
                assert link.ended_with == "replaced"

    run(main())


def test_a_peer_with_smaller_limits_is_sent_nothing_larger() -> None:
    from covey.transport import Limits

    async def main() -> None:
        small = Wire(limits=Limits(body_bytes=1 << 16))
        async with parent() as server, child("site-1", server, wire=small) as site:
            await server.spawn(Counter, name="counter")
            there = site.lookup("server/counter", Counter)
            async with there.stream(Read(1, 1 << 16)) as parts:
                assert [len(part.data) async for part in parts] == [1 << 16]
            with pytest.raises(RemoteError, match="more than 65536"):
                async with there.stream(Read(1, (1 << 16) + 1)) as parts:
                    [part async for part in parts]

    run(main())


def test_a_listener_that_refuses_ends_the_start() -> None:
    async def main() -> None:
        async with parent() as server:
            assert server.wiring is not None
            (listener,) = server.wiring.listeners
            site = child("site-1", server)

            def nobody(*args: Any) -> str:
                raise Refused("server", "identity", "site-1 is not of this federation")

            keeper: Any = listener._listening.keeper
            try:
                keeper.name_of = nobody
                with pytest.raises(Refused, match="not of this federation"):
                    await site.__aenter__()
            finally:
                del keeper.name_of
            assert listener.refusals.counts == {"identity": 1}

    run(main())


def test_files_that_are_wrong_end_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_key(*args: Any) -> None:
        raise RuntimeError("key.pem is half written")

    async def main() -> None:
        async with parent() as server:
            monkeypatch.setattr("covey.transport.dialer.dial", no_key)
            with pytest.raises(RuntimeError, match="half written"):
                await child("site-1", server).__aenter__()

    run(main())


def test_addresses_to_listen_on() -> None:
    assert address_of(":443") == ("", 443)
    assert address_of("127.0.0.1:0") == ("127.0.0.1", 0)
    assert address_of("[::1]:8000") == ("::1", 8000)
    for bad in ("443", "host:", "host:port", ":70000"):
        with pytest.raises(ValueError, match="host:port"):
            address_of(bad)


def test_a_system_that_listens_nowhere_has_no_port() -> None:
    with pytest.raises(RuntimeError, match="listens nowhere"):
        System("alone").port  # noqa: B018


def test_a_network_needs_a_registry() -> None:
    with pytest.raises(ValueError, match="needs a registry"):
        System("server", listen=":0")


def test_a_second_address_serves_what_the_first_does_not() -> None:
    from aiohttp import ClientSession, web

    from covey.actors.runtime.wiring import Listen
    from covey.transport.routes import Routes

    async def answer(request: web.Request, caller: str) -> web.Response:
        return web.Response(text="for administrators")

    async def main() -> None:
        routes = Routes()
        routes.add("GET", "/admin", answer, open=True)
        listen = [Listen("127.0.0.1:0"), Listen("127.0.0.1:0", routes=routes)]
        async with System("server", registry=registry(), listen=listen) as server:
            assert server.wiring is not None
            first, second = (listener.port for listener in server.wiring.listeners)
            assert server.port == first
            async with ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{second}/admin") as there:
                    assert (there.status, await there.text()) == (200, "for administrators")
                async with session.get(f"http://127.0.0.1:{first}/admin") as here:
                    assert here.status in (403, 404)
                async with session.get(f"http://127.0.0.1:{first}/healthz") as health:
                    assert health.status == 200

    run(main())


def test_whose_peers_speak_for_others_is_for_the_listener_that_let_them_in() -> None:
    from covey.actors.runtime.loopback import Loopback
    from covey.actors.runtime.wiring import Listen

    class Trusting(Loopback):
        def carries(self, peer: str) -> bool:
            return True

    class Strict(Loopback):
        def carries(self, peer: str) -> bool:
            return False

    async def main() -> None:
        listen = [Listen("127.0.0.1:0"), Listen("127.0.0.1:0", identity=Trusting())]
        made = registry()
        async with System("server", registry=made, listen=listen, identity=Strict()) as server:
            assert server.wiring is not None
            await server.spawn(Counter, name="counter")
            async with AsyncExitStack() as stack:
                for name, listener in zip(("site", "relay"), server.wiring.listeners, strict=True):
                    url = f"covey+plain://127.0.0.1:{listener.port}"
                    node = await stack.enter_async_context(System(name, registry=made, connect=url))
                    await node.lookup("server/counter", Counter).ask(Add(1))
                assert [server.carries(name) for name in ("site", "relay")] == [False, True]

    run(main())


def test_a_node_that_is_revoked_loses_its_session_and_its_watchers_hear_it() -> None:
    async def main() -> None:
        deaths: asyncio.Queue[Down] = asyncio.Queue()
        async with parent() as server, child("site-1", server) as site:
            await site.spawn(Counter, name="counter")
            watcher = await server.spawn(lambda: Watcher(deaths), name="watcher")
            there = server.lookup("site-1/counter", Counter)
            server.watch(server.cells[watcher.address.name], there)
            assert await there.ask(Add(1)) == Total(1)
            assert server.wiring is not None
            keeper: Any = server.wiring.listeners[0]._listening.keeper
            keeper.name_of = _revoked
            try:
                server.revoke("site-1", "its key was stolen")
                assert (await deaths.get()).reason is Reason.UNREACHABLE
            finally:
                del keeper.name_of

    run(main())


def _revoked(*args: Any) -> str:
    raise Refused("server", "revoked", "its key was stolen")


def test_a_start_that_waits_says_for_whom_and_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("covey.actors.runtime.wiring.TELL_S", 0.01)

    async def main() -> None:
        nobody = socket.create_server(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        nobody.close()
        site = System("site-1", registry=registry(), connect=f"ws://127.0.0.1:{port}")
        starting = asyncio.ensure_future(site.__aenter__())
        while "Connect call failed" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert f"127.0.0.1:{port}" in caplog.text
        assert "websocket: " in caplog.text

    run(main())
