"""The same runtime on real event loops, where time passes and nothing is shuffled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop

from covey.actors.runtime import (
    Actor,
    AskTimeout,
    Message,
    Pull,
    System,
    handles,
    runtime_messages,
)
from covey.transport import Codec, Registry, memory_pair


@dataclass(frozen=True, slots=True)
class Echo(Message["Server", "Echo"], id=1500):
    number: int
    turns: int = 0


@dataclass(frozen=True, slots=True)
class Hang(Message["Server", None], id=1501):
    pass


@dataclass(frozen=True, slots=True)
class Count(Pull["Server", Echo], id=1502):
    upto: int


class Server(Actor):
    def __init__(self) -> None:
        self.cancelled = 0

    @handles
    async def echo(self, message: Echo) -> Echo:
        async with asyncio.timeout(60):
            for _ in range(message.turns):
                await asyncio.sleep(0)
        return message

    @handles
    async def hang(self, message: Hang) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    @handles
    async def count(self, message: Count) -> AsyncIterator[Echo]:
        for number in range(message.upto):
            yield Echo(number)


REGISTRY = Registry(*runtime_messages(), Echo, Hang, Count)

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("remote", [False, True])
def test_asks_streams_cancellations_and_deadlines(run: Run, remote: bool) -> None:
    async def main() -> None:
        server = Server()
        async with System("a") as a, System("b") as b:
            ends = memory_pair("a", "b", codec_a=Codec(REGISTRY), codec_b=Codec(REGISTRY))
            a.attach(ends[0])
            b.attach(ends[1])
            ref = await b.spawn(lambda: server, name="server")
            if remote:
                ref = a.lookup("b/server", Server)

            async def caller(number: int) -> None:
                for turns in range(10):
                    assert await ref.ask(Echo(number, turns)) == Echo(number, turns)

            await asyncio.gather(*(caller(number) for number in range(20)))
            with pytest.raises(AskTimeout):
                await ref.ask(Hang(), timeout=0.01)
            asked = ref.ask(Hang())
            asked.cancel()
            assert await ref.ask(Echo(1)) == Echo(1)
            asked = ref.ask(Hang())
            while b.statistics().actors[0].current != "Hang":  # noqa: ASYNC110  # it is looked at
                await asyncio.sleep(0)
            asked.cancel()
            assert await ref.ask(Echo(2, 5)) == Echo(2, 5)
            async with ref.stream(Count(50), credit=3) as parts:
                assert [part.number async for part in parts] == list(range(50))
            # One of the three may have been withdrawn before its handler began.
            assert server.cancelled in (2, 3)
            assert b.statistics().actors[0].failures == 0

    run(main())
