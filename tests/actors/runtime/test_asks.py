"""Asks: cancellation wherever the request is, deadlines, answers at once, asking oneself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

import pytest

from covey.actors.runtime import (
    Actor,
    ActorError,
    AskTimeout,
    Message,
    ProtocolError,
    Ref,
    RemoteError,
    Stopped,
    System,
    broadcast,
    handles,
)
from covey.actors.runtime.testing import simulate

color: ContextVar[str] = ContextVar("color", default="none")


@dataclass(frozen=True, slots=True)
class Wait(Message["Server", str]):
    seconds: float
    text: str = "done"


@dataclass(frozen=True, slots=True)
class Plain(Message["Server", int]):
    number: int


@dataclass(frozen=True, slots=True)
class Via(Message["Server", int]):
    """Ask `nodes` one behind the other; the last one answers how many there were."""

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AskSelf(Message["Server", int]):
    how: str


@dataclass(frozen=True, slots=True)
class Paint(Message["Server", str]):
    color: str


@dataclass(frozen=True, slots=True)
class Limit(Message["Server", str]):
    seconds: float


@dataclass(frozen=True, slots=True)
class AwaitCancelled(Message["Server", None]):
    pass


@dataclass(frozen=True, slots=True)
class Unknown(Message["Server", None]):
    pass


class Server(Actor):
    def __init__(self) -> None:
        self.log: list[str] = []

    @handles
    async def wait(self, message: Wait) -> str:
        try:
            await asyncio.sleep(message.seconds)
        except asyncio.CancelledError:
            self.log.append(f"cancelled {message.text}")
            raise
        self.log.append(message.text)
        return message.text

    @handles
    def plain(self, message: Plain) -> int:
        if message.number < 0:
            raise ValueError("negative")
        return message.number + 1

    @handles
    async def via(self, message: Via) -> int:
        if not message.nodes:
            return 0
        first, *rest = message.nodes
        return 1 + await self.ctx.system.lookup(first, Server).ask(Via(tuple(rest)))

    @handles
    async def ask_self(self, message: AskSelf) -> int:
        me: Ref[Server] = self.ctx.ref
        ask: Awaitable[int] = me.ask(Plain(1))
        if message.how == "wait_for":
            ask = asyncio.wait_for(ask, 1000)
        return await ask

    @handles
    async def paint(self, message: Paint) -> str:
        before = color.get()
        color.set(message.color)
        return before

    @handles
    async def limit(self, message: Limit) -> str:
        try:
            async with asyncio.timeout(message.seconds):
                await asyncio.sleep(1000)
        except TimeoutError:
            return "timed out"
        return "never"

    @handles
    async def await_cancelled(self, message: AwaitCancelled) -> None:
        task = asyncio.ensure_future(asyncio.sleep(10))
        task.cancel()
        await task


def test_cancelling_a_queued_ask_withdraws_it() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(Server, name="a")
            first = ref.ask(Wait(5))
            queued = ref.ask(Wait(5, "queued"))
            await asyncio.sleep(1)
            queued.cancel()
            await first
            assert asyncio.get_running_loop().time() == pytest.approx(5)
            assert await ref.ask(Wait(0, "next")) == "next"
            assert system.dead_letters.counts["asker gone"] == 1
            assert system.statistics().asks == 0

    simulate(main)


def test_cancelling_an_ask_cancels_the_handler_at_work_on_it() -> None:
    async def main() -> None:
        server = Server()
        async with System("s") as system:
            ref = await system.spawn(lambda: server, name="a")
            for pause in (0.5, 1.0):
                asked = ref.ask(Wait(100, "long"))
                await asyncio.sleep(pause)
                asked.cancel()
                assert await ref.ask(Wait(0, "next")) == "next"
            assert server.log == ["cancelled long", "next"] * 2
            actor = system.statistics().actors[0]
            assert (actor.failures, actor.restarts) == (0, 0)

    simulate(main)


def test_cancelling_at_once_reaches_a_handler_that_has_just_begun() -> None:
    async def main() -> None:
        server = Server()
        async with System("s") as system:
            ref = await system.spawn(lambda: server, name="a")
            await ref.ask(Plain(1))
            asked = ref.ask(Wait(100, "long"))  # its first step is taken already
            asked.cancel()
            assert await ref.ask(Wait(0, "next")) == "next"
        assert server.log == ["cancelled long", "next"]

    for seed in range(5):
        simulate(main, seed=seed)


def test_a_deadline_fires_within_the_resolution_of_the_sweep() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with System("s") as system:
            ref = await system.spawn(Server, name="a")
            asks = [ref.ask(Wait(1000), timeout=1 + number / 100) for number in range(50)]
            for number, ask in enumerate(asks):
                with pytest.raises(AskTimeout) as timeout:
                    await ask
                assert loop.time() - (1 + number / 100) < 0.03
                assert timeout.value.message == "Wait"
                assert timeout.value.address == "s/a"
            assert system.statistics().asks == 0

    simulate(main)


def test_a_deadline_cancels_the_handler() -> None:
    async def main() -> None:
        server = Server()
        async with System("s") as system:
            ref = await system.spawn(lambda: server, name="a")
            with pytest.raises(AskTimeout):
                await ref.ask(Wait(100, "long"), timeout=2)
            assert await ref.ask(Plain(1)) == 2
            assert server.log == ["cancelled long"]

    simulate(main)


@pytest.mark.parametrize("how", ["directly", "wait_for"])
def test_a_handler_that_awaits_its_own_actor_raises_at_once(how: str) -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(Server, name="a")
            for _ in range(2):  # by the worker, and on the asker's stack
                with pytest.raises(RemoteError, match="asks its own actor") as failed:
                    await ref.ask(AskSelf(how))
                assert isinstance(failed.value.__cause__, ProtocolError)
                await asyncio.sleep(1)
            assert asyncio.get_running_loop().time() < 3

    simulate(main)


def test_a_long_chain_of_idle_actors_answers_without_deep_recursion() -> None:
    async def main() -> None:
        async with System("s") as system:
            names = [f"a{number}" for number in range(400)]
            refs = [await system.spawn(Server, name=name) for name in names]
            await asyncio.sleep(0.1)
            nodes = tuple(f"s/{name}" for name in names[1:])
            assert await refs[0].ask(Via(nodes)) == 399

    simulate(main)


def test_a_caller_in_a_tight_loop_lets_others_run() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(Server, name="a")
            others = 0

            async def other() -> None:
                nonlocal others
                while True:
                    others += 1
                    await asyncio.sleep(0)

            task = asyncio.ensure_future(other())
            for number in range(1000):
                assert await ref.ask(Plain(number)) == number + 1
            task.cancel()
            assert others > 20

    simulate(main, jitter=False)


def test_a_handler_runs_in_its_actors_context_not_its_askers() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(Server, name="a")
            assert await ref.ask(Paint("red")) == "none"
            color.set("blue")
            assert await ref.ask(Paint("green")) == "red"
            assert color.get() == "blue"

    simulate(main)


def test_a_timeout_inside_a_handler_is_the_handlers_own() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(Server, name="a")
            for _ in range(3):
                assert await ref.ask(Limit(2)) == "timed out"
            assert system.statistics().actors[0].failures == 0

    simulate(main)


def test_a_cancellation_that_a_handler_lets_out_is_its_failure() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(Server, name="a")
            with pytest.raises(RemoteError, match="Interrupted"):
                await ref.ask(AwaitCancelled())
            assert await ref.ask(Plain(1)) == 2
            assert system.statistics().actors[0].restarts == 1

    simulate(main)


def test_an_unknown_message_is_refused() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(Server, name="a")
            with pytest.raises(ProtocolError, match="no handler for Unknown"):
                await ref.ask(Unknown())
            await ref.tell(Unknown())
            assert await ref.ask(Plain(1)) == 2
            assert system.dead_letters.counts["no handler"] == 2

    simulate(main)


def test_broadcast_gathers_replies_and_errors_in_order() -> None:
    async def main() -> None:
        async with System("s") as system:
            refs = [await system.spawn(Server, name=f"a{number}") for number in range(3)]
            await system.stop(refs[1])
            results = await broadcast(refs, Wait(1, "hello"))
            assert list(results) == refs
            assert results[refs[0]] == results[refs[2]] == "hello"
            assert isinstance(results[refs[1]], Stopped)
            assert asyncio.get_running_loop().time() == pytest.approx(1)
            assert await broadcast([], Plain(1)) == {}
            failed = await broadcast(refs[:1], Plain(-1))
            assert isinstance(failed[refs[0]], ActorError)

    simulate(main)


def test_cancelling_a_broadcast_withdraws_all_of_it() -> None:
    async def main() -> None:
        servers = [Server() for _ in range(3)]
        async with System("s") as system:
            refs = [
                await system.spawn(partial(servers.__getitem__, number), name=f"a{number}")
                for number in range(3)
            ]
            task = asyncio.ensure_future(broadcast(refs, Wait(100, "long")))
            await asyncio.sleep(1)
            task.cancel()
            await asyncio.sleep(1)
            assert [server.log for server in servers] == [["cancelled long"]] * 3

    simulate(main)


def test_an_ask_without_end_is_still_failed_when_its_system_ends() -> None:
    async def main() -> None:
        system = System("s", grace=1)
        async with system:
            ref = await system.spawn(Server, name="a")
            asked = ref.ask(Wait(1e9), timeout=float("inf"))
        with pytest.raises(Stopped):
            await asked

    simulate(main)
