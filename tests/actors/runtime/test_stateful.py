"""Mailbox and supervision against a model: any sequence of events, one simple account of it.

The actor handles a message when the test lets it; the model is a few lists.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from covey.actors.runtime import (
    Actor,
    ActorFailed,
    Mailbox,
    MailboxFull,
    Message,
    Overflow,
    RemoteError,
    Restart,
    Stopped,
    System,
    handles,
)
from covey.actors.runtime.testing import VirtualLoop

# Failures that the actor may have; the next one is its last.
LIMIT = 2
# Longer than any backoff below, shorter than anything else that has a time.
SETTLE_S = 0.1


@dataclass(frozen=True, slots=True)
class Job(Message["Gated", int]):
    number: int
    fails: bool


@dataclass
class World:
    """What the actor does and waits for, seen from outside its lives."""

    gate: asyncio.Future[None] | None = None
    done: list[int] = field(default_factory=list[int])


class Gated(Actor):
    """Handles a job once its gate opens."""

    def __init__(self, world: World) -> None:
        self.world = world

    @handles
    async def job(self, message: Job) -> int:
        self.world.gate = asyncio.get_running_loop().create_future()
        await self.world.gate
        if message.fails:
            raise RuntimeError
        self.world.done.append(message.number)
        return message.number


@dataclass
class Sent:
    """A message in the model, and the future of its sender or asker."""

    job: Job
    asked: bool
    future: asyncio.Future[Any]
    gone: bool = False


class MailboxMachine(RuleBasedStateMachine):
    """One actor with a drawn mailbox, and the model of it."""

    @initialize(capacity=st.integers(1, 5), overflow=st.sampled_from(Overflow))
    def start(self, capacity: int, overflow: Overflow) -> None:
        self.loop = VirtualLoop()
        self.capacity, self.overflow = capacity, overflow
        self.world = World()
        self.current: Sent | None = None
        self.queue: list[Sent] = []
        self.waiting: list[Sent] = []
        self.done: list[int] = []
        self.letters: Counter[str] = Counter()
        self.failures = 0
        self.dead = False
        self.number = 0
        self.sent: list[Sent] = []
        self.run(self.begin())

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        async def settled() -> None:
            await work
            await asyncio.sleep(SETTLE_S)

        self.loop.run_until_complete(settled())

    async def begin(self) -> None:
        self.system = System("s")
        await self.system.__aenter__()
        self.ref = await self.system.spawn(
            lambda: Gated(self.world),
            name="gated",
            mailbox=Mailbox(self.capacity, self.overflow),
            restart=Restart(limit=LIMIT, within=1e9, backoff=0.01, longest=0.05),
        )

    # What the test does, and what the model makes of it ---------------------

    @rule(asked=st.booleans(), fails=st.sampled_from([False, False, True]))
    def send(self, asked: bool, fails: bool) -> None:
        self.number += 1
        job = Job(self.number, fails)

        async def send() -> None:
            try:
                future: Any = self.ref.ask(job) if asked else self.ref.tell(job)
            except (MailboxFull, Stopped) as error:
                assert not asked
                future = self.loop.create_future()
                future.set_exception(error)
            self.sent.append(Sent(job, asked, future))
            self.accept(self.sent[-1])

        self.run(send())

    def accept(self, sent: Sent) -> None:
        if self.dead:
            self.ends_with(sent, Stopped)
        elif self.current is None:
            self.current = sent
        elif len(self.queue) < self.capacity and not self.waiting:
            self.queue.append(sent)
        elif self.overflow is Overflow.REJECT:
            self.ends_with(sent, MailboxFull)
        elif self.overflow is Overflow.DROP_OLDEST:
            oldest = self.queue.pop(0)
            if oldest.asked and not oldest.gone:
                self.ends_with(oldest, MailboxFull)
            self.letters["mailbox full"] += 1
            self.queue.append(sent)
        else:
            self.waiting.append(sent)

    def ends_with(self, sent: Sent, error: type[Exception]) -> None:
        assert isinstance(sent.future.exception(), error)

    @precondition(lambda self: self.current is not None)
    @rule()
    def open_gate(self) -> None:
        sent, self.current = self.current, None
        assert sent is not None
        assert self.world.gate is not None
        self.world.gate.set_result(None)
        self.run(asyncio.sleep(0))
        if not sent.job.fails:
            self.done.append(sent.job.number)
            if sent.asked:
                assert sent.future.result() == sent.job.number
        else:
            if sent.asked:
                self.ends_with(sent, RemoteError)
            self.fail()
        self.next_one()

    def fail(self) -> None:
        self.failures += 1
        if self.failures > LIMIT:
            self.dead = True
            for sent in self.queue:
                self.letters["actor stopped"] += 1
                if sent.asked and not sent.gone:
                    self.ends_with(sent, Stopped)
            for sent in self.waiting:
                self.letters["actor stopped"] += sent.asked
                if not sent.gone:
                    self.ends_with(sent, Stopped)
            self.queue, self.waiting = [], []

    def next_one(self) -> None:
        while self.current is None and (self.queue or self.waiting):
            if not self.queue:
                self.let_in()
                continue
            sent = self.queue.pop(0)
            if len(self.queue) <= self.capacity // 2:
                self.let_in()
            if sent.gone:
                self.letters["asker gone"] += 1
            else:
                self.current = sent

    def let_in(self) -> None:
        while self.waiting and len(self.queue) < self.capacity:
            sent = self.waiting.pop(0)
            if sent.asked or not sent.gone:
                self.queue.append(sent)

    @precondition(lambda self: any(sent.asked for sent in self.queue))
    @rule(data=st.data())
    def cancel_queued(self, data: st.DataObject) -> None:
        sent = data.draw(st.sampled_from([sent for sent in self.queue if sent.asked]))
        sent.gone = True
        sent.future.cancel()
        self.run(asyncio.sleep(0))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel_waiting(self, data: st.DataObject) -> None:
        sent = data.draw(st.sampled_from(self.waiting))
        sent.gone = True
        sent.future.cancel()
        self.run(asyncio.sleep(0))

    @precondition(lambda self: self.current is not None and self.current.asked)
    @rule()
    def cancel_current(self) -> None:
        assert self.current is not None
        self.current.future.cancel()
        self.letters["asker gone"] += 1
        self.current = None
        self.run(asyncio.sleep(0))
        self.next_one()

    @invariant()
    def the_account_is_true(self) -> None:
        assert self.world.done == self.done
        assert self.system.dead_letters.counts == +self.letters
        actors = self.system.statistics().actors
        if self.dead:
            assert actors == ()
            return
        (actor,) = actors
        assert actor.queued == len(self.queue) <= self.capacity
        assert actor.waiting == len(self.waiting)
        assert actor.failures == actor.restarts == self.failures
        assert (actor.current == "Job") is (self.current is not None)
        for sent in self.queue:
            assert sent.gone or sent.future.done() is not sent.asked

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return

        async def end() -> None:
            if self.world.gate is not None and not self.world.gate.done():
                self.world.gate.cancel()
            await self.system.abort()
            if self.dead:
                with pytest.raises(ActorFailed):
                    await self.system.__aexit__(None, None, None)

        self.run(end())
        for sent in self.sent:  # asyncio complains of errors that nobody looked at
            if sent.future.done() and not sent.future.cancelled():
                sent.future.exception()
        assert not asyncio.all_tasks(self.loop)
        self.loop.close()


MailboxMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestMailboxAgainstItsModel = MailboxMachine.TestCase
