"""Mailboxes: bounds, overflow policies, and who is let in when there is room."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from covey.actors.runtime import (
    Actor,
    Mailbox,
    MailboxFull,
    Message,
    Overflow,
    Ref,
    Stopped,
    System,
    handles,
)
from covey.actors.runtime.testing import simulate


@dataclass(frozen=True, slots=True)
class Item(Message["Slow", int]):
    number: int


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Heavy(Message["Slow", None]):
    pass


class Slow(Actor):
    """Takes a second for each message."""

    def __init__(self, seen: list[int]) -> None:
        self.seen = seen

    @handles
    async def item(self, message: Item) -> int:
        await asyncio.sleep(1)
        self.seen.append(message.number)
        return message.number


def with_slow(
    body: Callable[[System, Ref[Slow], list[int]], Coroutine[Any, Any, None]], mailbox: Mailbox
) -> None:
    """Run `body` with a slow actor at work on item 0, its mailbox empty."""

    async def main() -> None:
        seen: list[int] = []
        async with System("s", grace=1000) as system:
            ref = await system.spawn(partial(Slow, seen), name="slow", mailbox=mailbox)
            await ref.tell(Item(0))
            await asyncio.sleep(0.1)
            await body(system, ref, seen)

    simulate(main)


def test_a_full_mailbox_makes_tell_wait() -> None:
    async def body(system: System, ref: Ref[Slow], seen: list[int]) -> None:
        await ref.tell(Item(1))
        waiting = asyncio.ensure_future(ref.tell(Item(2)))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        assert system.statistics().actors[0].waiting == 1
        await asyncio.sleep(0.5)
        assert waiting.done()

    with_slow(body, Mailbox(1))


def test_the_default_mailbox_holds_256_messages() -> None:
    async def body(system: System, ref: Ref[Slow], seen: list[int]) -> None:
        for number in range(1, 257):
            ref.tell(Item(number))
        assert system.statistics().actors[0].waiting == 0
        ref.tell(Item(257))
        assert system.statistics().actors[0].waiting == 1

    with_slow(body, Mailbox())


def test_an_ask_waits_for_the_told_message_at_work() -> None:
    async def body(system: System, ref: Ref[Slow], seen: list[int]) -> None:
        assert await ref.ask(Item(1)) == 1
        await ref.tell(Item(2))
        await asyncio.sleep(0.1)
        assert await ref.ask(Item(3)) == 3
        assert seen == [0, 1, 2, 3]

    with_slow(body, Mailbox())


def test_a_waiting_tell_that_is_cancelled_withdraws_its_message() -> None:
    async def body(system: System, ref: Ref[Slow], seen: list[int]) -> None:
        await ref.tell(Item(1))
        waiting = asyncio.ensure_future(ref.tell(Item(2)))
        await asyncio.sleep(0)
        waiting.cancel()
        assert await ref.ask(Item(3)) == 3
        assert seen == [0, 1, 3]

    with_slow(body, Mailbox(1))


def test_a_tell_that_nobody_awaits_still_enters() -> None:
    async def body(system: System, ref: Ref[Slow], seen: list[int]) -> None:
        for number in range(1, 6):
            ref.tell(Item(number))
        await asyncio.sleep(10)
        assert seen == [0, 1, 2, 3, 4, 5]

    with_slow(body, Mailbox(2))


def test_reject_refuses_at_once() -> None:
    async def body(system: System, ref: Ref[Slow], seen: list[int]) -> None:
        await ref.tell(Item(1))
        with pytest.raises(MailboxFull) as refused:
            ref.tell(Item(2))
        assert refused.value.capacity == 1
        with pytest.raises(MailboxFull):
            await ref.ask(Item(3))
        await asyncio.sleep(5)
        assert seen == [0, 1]

    with_slow(body, Mailbox(1, Overflow.REJECT))


def test_drop_oldest_keeps_the_latest() -> None:
    async def body(system: System, ref: Ref[Slow], seen: list[int]) -> None:
        dropped = ref.ask(Item(1))
        for number in range(2, 6):
            await ref.tell(Item(number))
        with pytest.raises(MailboxFull):
            await dropped
        await asyncio.sleep(5)
        assert seen == [0, 4, 5]
        assert system.dead_letters.counts["mailbox full"] == 3

    with_slow(body, Mailbox(2, Overflow.DROP_OLDEST))


def test_stopping_fails_those_who_wait_for_room() -> None:
    async def body(system: System, ref: Ref[Slow], seen: list[int]) -> None:
        await ref.tell(Item(1))
        waiting = asyncio.ensure_future(ref.tell(Item(2)))
        asked = ref.ask(Item(3))
        await system.stop(ref)
        with pytest.raises(Stopped):
            await waiting
        with pytest.raises(Stopped):
            await asked
        assert seen == [0]

    with_slow(body, Mailbox(1))


def test_what_a_stopped_actor_has_not_handled_is_let_go() -> None:
    async def body(system: System, ref: Ref[Slow], seen: list[int]) -> None:
        queued, waiting = Heavy(), Heavy()
        kept = [weakref.ref(queued), weakref.ref(waiting)]
        ref.tell(queued)
        ref.tell(waiting)
        del queued, waiting
        await system.stop(ref)
        gc.collect()
        assert [message() for message in kept] == [None, None]

    with_slow(body, Mailbox(1))


def test_an_actor_cancelled_before_its_first_turn_takes_nothing() -> None:
    async def main() -> None:
        async with System("s") as system:
            ref = await system.spawn(partial(Slow, []), name="slow")
            task = system.cells["slow"].worker.task
            task.cancel()
            await asyncio.wait([task])
            with pytest.raises(Stopped):
                ref.tell(Item(1))

    simulate(main)


def test_a_mailbox_that_nothing_has_come_to_has_no_depth() -> None:
    async def main() -> None:
        async with System("s") as system:
            await system.spawn(partial(Slow, []), name="slow")
            actor = system.statistics().actors[0]
            assert (actor.queued, actor.peak) == (0, 0)

    simulate(main)


def test_the_deepest_mailbox_met_is_kept() -> None:
    async def body(system: System, ref: Ref[Slow], seen: list[int]) -> None:
        for number in range(1, 8):
            await ref.tell(Item(number))
        await asyncio.sleep(20)
        actor = system.statistics().actors[0]
        assert (actor.queued, actor.peak) == (0, 7)

    with_slow(body, Mailbox(10))


def test_a_mailbox_holds_at_least_one_message() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Mailbox(0)
