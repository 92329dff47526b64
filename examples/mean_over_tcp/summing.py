"""Both actors and what they say to each other, as both programs import them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from covey.actors.runtime import Actor, Down, Message, Ref, handles, runtime_messages
from covey.transport import Record, Registry


@dataclass(frozen=True, slots=True)
class Sums(Record, id=1001):
    """What a site gives away of a column: how many values, and their sum."""

    count: int
    total: float


@dataclass(frozen=True, slots=True)
class SumUp(Message["Statistician", Sums], id=1000):
    """Asks a site for the sums of a column."""

    column: str


@dataclass(frozen=True, slots=True)
class Joined(Message["Collector", None], id=1002):
    """A site is there: the address of its actor."""

    address: str


def registry() -> Registry:
    """The messages that may cross the network; everything else is refused."""
    table = Registry(*runtime_messages(), Sums, SumUp, Joined)
    table.freeze()
    return table


class Collector(Actor):
    """Knows the sites that have joined."""

    def __init__(self, sites: asyncio.Queue[str]) -> None:
        self._sites = sites

    @handles
    def joined(self, msg: Joined) -> None:
        self._sites.put_nowait(msg.address)


class Statistician(Actor):
    """Sums up columns of a site's own cases, which stay where they are."""

    def __init__(
        self, rows: list[dict[str, str]], collector: Ref[Collector], over: asyncio.Event
    ) -> None:
        self._rows = rows
        self._collector = collector
        self._over = over

    async def started(self) -> None:
        self.ctx.watch(self._collector)
        await self._collector.tell(Joined(self.ctx.ref.text))

    @handles
    def sum_up(self, msg: SumUp) -> Sums:
        values = [float(row[msg.column]) for row in self._rows]
        return Sums(len(values), sum(values))

    @handles
    def down(self, msg: Down) -> None:
        """The server has left, or was out of reach for a whole lease."""
        self._over.set()
