"""How fast actors take messages, against a bare `asyncio.Queue` actor in the same run.

Here: tell, and ask at 1 and 64 in flight, for `async def` and plain `def`
handlers; the rival is the plainest actor one can write, an `asyncio.Queue(64)`
with one consumer task, no deadlines, no supervision. Contenders alternate within
a run and medians are compared, in CPU seconds. Not here: links and codecs.

`run()` returns the results; run as a script, the file writes them as JSON lines.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import uvloop

from covey.actors.runtime import Actor, Message, System, handles

MESSAGES = 20_000
ROUNDS = 11
IN_FLIGHT = 64
QUEUE_CAPACITY = 64

# Its tell, its ask (an actor's has the default deadline) and its message.
Contender = tuple[Callable[[Any], Awaitable[Any]], Callable[[Any], Awaitable[Any]], Any]


@dataclass(frozen=True, slots=True)
class Add(Message["Counter", int]):
    """Handled by an `async def`."""

    number: int


@dataclass(frozen=True, slots=True)
class AddPlainly(Message["Counter", int]):
    """Handled by a plain `def`."""

    number: int


class Counter(Actor):
    """Adds numbers up."""

    def __init__(self) -> None:
        self.total = 0

    @handles
    async def add(self, message: Add) -> int:
        """Add, as a handler that might await."""
        self.total += message.number
        return self.total

    @handles
    def add_plainly(self, message: AddPlainly) -> int:
        """Add, as a handler that cannot."""
        self.total += message.number
        return self.total


class QueueActor:
    """The rival: one queue, one task."""

    def __init__(self) -> None:
        self.total = 0
        self._queue: asyncio.Queue[tuple[Add, asyncio.Future[int] | None]]
        self._queue = asyncio.Queue(QUEUE_CAPACITY)
        self.task = asyncio.create_task(self._run())

    async def tell(self, message: Add) -> None:
        """Hand a message over."""
        await self._queue.put((message, None))

    async def ask(self, message: Add) -> int:
        """Hand a message over and wait for the reply, for ever."""
        reply: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        await self._queue.put((message, reply))
        return await reply

    async def _run(self) -> None:
        while True:
            message, reply = await self._queue.get()
            total = await self._add(message)
            if reply is not None and not reply.done():
                reply.set_result(total)

    async def _add(self, message: Add) -> int:
        self.total += message.number
        return self.total


def run(messages: int = MESSAGES, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """One result per operation and contender: messages per CPU second, and times the queue's."""
    return uvloop.run(_run(messages, rounds))


async def _run(messages: int, rounds: int) -> list[dict[str, Any]]:
    rival = QueueActor()
    async with System("bench") as system:
        ref = await system.spawn(Counter, name="counter")
        contenders: dict[str, Contender] = {
            "queue": (rival.tell, rival.ask, Add(1)),
            "async def": (ref.tell, ref.ask, Add(1)),
            "def": (ref.tell, ref.ask, AddPlainly(1)),
        }
        seconds = await _measure(contenders, messages, rounds)
    rival.task.cancel()
    return _results(seconds, messages)


async def _measure(
    contenders: dict[str, Contender], messages: int, rounds: int
) -> dict[tuple[str, str], list[float]]:
    """CPU seconds of every round, the contenders taking turns."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, (tell, ask, message) in contenders.items():
            for operation, call, in_flight in (
                ("tell", tell, 1),
                ("ask, 1 in flight", ask, 1),
                (f"ask, {IN_FLIGHT} in flight", ask, IN_FLIGHT),
            ):
                took = await _time(call, message, messages, in_flight)
                seconds.setdefault((operation, name), []).append(took)
    return seconds


async def _time(
    call: Callable[[Any], Awaitable[Any]], message: Any, messages: int, in_flight: int
) -> float:
    async def caller() -> None:
        for _ in range(messages // in_flight):
            await call(message)

    began = time.process_time()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return time.process_time() - began


def _results(seconds: dict[tuple[str, str], list[float]], messages: int) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    for (operation, name), times in seconds.items():
        paired = zip(seconds[operation, "queue"], times, strict=True)
        results.append(
            {
                "benchmark": "mailbox",
                "operation": operation,
                "contender": name,
                "per_cpu_second": round(messages / statistics.median(times)),
                "times_queue": round(statistics.median(queue / own for queue, own in paired), 2),
            }
        )
    return results


def main() -> None:
    """Write one JSON line per result."""
    for result in run():
        print(json.dumps(result))


if __name__ == "__main__":
    main()
