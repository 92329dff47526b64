"""Streams within one system: credit, ends, errors, and who is told what."""

# ruff: noqa: PT012  # streams raise while they are read, inside their block

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

import pytest

from covey.actors.runtime import (
    Actor,
    AskTimeout,
    Mailbox,
    Message,
    ProtocolError,
    Pull,
    Rejected,
    RemoteError,
    Stopped,
    System,
    handles,
)
from covey.actors.runtime.testing import simulate


@dataclass(frozen=True, slots=True)
class Count(Pull["Source", int]):
    upto: int
    how: str = ""
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Unknown(Pull["Source", int]):
    pass


@dataclass(frozen=True, slots=True)
class Sleep(Message["Source", None]):
    seconds: float


class Source(Actor):
    def __init__(self, log: list[str]) -> None:
        self.log = log

    @handles
    async def count(self, message: Count) -> AsyncIterator[int]:
        try:
            for number in range(message.upto):
                await asyncio.sleep(message.pause_s)
                yield number
            if message.how == "fail":
                raise RuntimeError("broken")
            if message.how == "reject":
                raise Rejected("enough")
        finally:
            self.log.append("closed")

    @handles
    async def sleep(self, message: Sleep) -> None:
        await asyncio.sleep(message.seconds)


def test_several_streams_of_one_actor_run_at_the_same_time() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(partial(Source, []), name="source")

            async def read() -> list[int]:
                async with ref.stream(Count(5, pause_s=1)) as parts:
                    return [part async for part in parts]

            assert await asyncio.gather(*(read() for _ in range(10))) == [list(range(5))] * 10
            assert asyncio.get_running_loop().time() == pytest.approx(5)

    simulate(main)


def test_a_failing_producer_fails_its_consumer_and_its_actor() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(partial(Source, []), name="source")
            taken: list[int] = []
            with pytest.raises(RemoteError, match="broken"):
                async with ref.stream(Count(3, "fail")) as parts:
                    taken.extend([part async for part in parts])
            async with ref.stream(Count(3, "fail")) as parts:
                for expected in range(3):
                    assert await anext(parts) == expected
            await asyncio.sleep(1)
            assert system.statistics().actors[0].failures >= 1

    simulate(main)


def test_a_producer_may_reject_without_failing() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(partial(Source, []), name="source")
            with pytest.raises(Rejected, match="enough"):
                async with ref.stream(Count(1, "reject")) as parts:
                    async for _ in parts:
                        pass
            assert system.statistics().actors[0].failures == 0

    simulate(main)


def test_silence_past_the_timeout_is_an_ask_timeout() -> None:
    async def main() -> None:
        log: list[str] = []
        async with System("s") as system:
            ref = await system.spawn(partial(Source, log), name="source")
            with pytest.raises(AskTimeout):
                async with ref.stream(Count(3, pause_s=100), timeout=5) as parts:
                    await anext(parts)
            await asyncio.sleep(1)
            assert log == ["closed"]

    simulate(main)


def test_a_full_mailbox_makes_opening_a_stream_wait_up_to_its_timeout() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(partial(Source, []), name="source", mailbox=Mailbox(1))
            await ref.tell(Sleep(3))
            await asyncio.sleep(0.1)
            await ref.tell(Sleep(1))
            with pytest.raises(AskTimeout):
                async with ref.stream(Count(3), timeout=1):
                    pass
            async with ref.stream(Count(3), timeout=10) as parts:
                assert [part async for part in parts] == [0, 1, 2]

    simulate(main)


@pytest.mark.parametrize("when", ["queued", "unstarted", "running"])
def test_an_actor_that_ends_ends_its_streams(when: str) -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(partial(Source, []), name="source")
            if when == "queued":
                await ref.tell(Sleep(1))
            async with ref.stream(Count(10, pause_s=1), timeout=1000) as parts:
                if when != "unstarted":
                    await asyncio.sleep(0.5)
                stop = asyncio.ensure_future(system.stop(ref))
                with pytest.raises((Stopped, RemoteError)):
                    while True:
                        await anext(parts)
                await stop
            assert asyncio.get_running_loop().time() < 5

    simulate(main)


def test_a_consumer_that_leaves_before_its_turn_is_skipped() -> None:
    async def main() -> None:
        log: list[str] = []
        async with System("s") as system:
            ref = await system.spawn(partial(Source, log), name="source")
            await ref.tell(Sleep(5))
            await asyncio.sleep(1)
            async with ref.stream(Count(3)):
                pass
            await asyncio.sleep(10)
            assert log == []
            assert system.dead_letters.counts["asker gone"] == 1

    simulate(main)


def test_an_unknown_stream_is_refused() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(partial(Source, []), name="source")
            with pytest.raises(ProtocolError, match="no handler"):
                async with ref.stream(Unknown()) as parts:
                    await anext(parts)
            with pytest.raises(ValueError, match="credit"):
                ref.stream(Count(1), credit=0)

    simulate(main)


def test_draining_lets_a_stream_finish() -> None:
    async def main() -> None:
        async with System("s", grace=100) as system:
            ref = await system.spawn(partial(Source, []), name="source")

            async def read() -> list[int]:
                async with ref.stream(Count(5, pause_s=1)) as parts:
                    return [part async for part in parts]

            task = asyncio.ensure_future(read())
            await asyncio.sleep(0.5)
        assert await task == list(range(5))

    simulate(main)
