"""The buffered aggregator: the actor that takes updates as they come and makes versions of them.

Each update is added whole to a sum as large as the model, so that memory does not grow with
their number. A step takes the sum away and works on it in a thread: what comes meanwhile is
added to another sum, and no update waits for a step.

What has been taken outlives a crash of the actor: `Intake` is handed from life to life. Every
lease counts once.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from covey.algorithms import (
    Addend,
    AlgorithmError,
    AsynchronousAggregation,
    BadSetting,
    Buffer,
    Sums,
    TooStale,
    UpdateInfo,
    apply,
    new_state,
)
from covey.algorithms.tensors import Layout, ParamsType

from ..downloads.blobs import Blob, BlobRef, Blobs
from ..downloads.errors import BlobError
from ..jobs.checkpoint import Checkpoint
from ..runtime import Actor, Message, Rejected, handles
from .aggregator import INLINE_BYTES, check_update, write_all
from .messages import Advanced, Entered, Fill, Filled, Flush, Flushed, Follow, Leased

# Leases that are remembered once they have counted: an update is sent again within seconds.
REMEMBERED: Final = 4096
# Versions that a follower who comes back can still be told of.
TOLD: Final = 64


@dataclass(frozen=True, slots=True)
class StepDue(Message["BufferedAggregator", None]):
    """To itself: so much time has passed that a step is due, whatever there is."""


@dataclass(frozen=True, slots=True)
class Made(Message["BufferedAggregator", None]):
    """To itself: the thread has made a version."""

    advanced: Advanced


@dataclass(frozen=True, slots=True)
class BufferPlan:
    """What a buffered aggregator is started with.

    Attributes:
        rule: How updates are weighed and what becomes of their sum.
        size: Updates that make a version.
        period_s: Seconds after which whatever there is makes one, None for never.
        last: The version after which none is made.
        layout: The model's layout.
        blobs: Where updates are found and versions are left.
        checkpoint: Where versions are written.
    """

    rule: AsynchronousAggregation
    size: int
    period_s: float | None
    last: int
    layout: Layout
    blobs: Blobs
    checkpoint: Checkpoint
    answers: Layout = field(init=False)

    def __post_init__(self) -> None:
        """Look up what every update is held against."""
        object.__setattr__(self, "answers", self.rule.answers(self.layout))


@dataclass(slots=True)
class Adding:
    """Updates that go into the sum together.

    Attributes:
        leases: Theirs.
        addends: The updates, each found fit.
        thread: The end of the thread that adds them, None before there is one.
    """

    leases: list[int] = field(default_factory=list[int])
    addends: list[Addend] = field(default_factory=list[Addend])
    thread: asyncio.Future[None] | None = None


class Intake:
    """What an aggregator has taken and made, beyond any one of its lives.

    Attributes:
        version: The newest version.
        steps: Versions made or being made.
        counted: Leases whose update is in a sum or in a version, and its staleness; the latest.
        stalenesses: Of the updates in the sum.
        adding: The updates that are being added now.
        lost: Updates that had counted and are in no version.
        made: The latest versions, oldest first.
        making: The version being made in a thread.
        flushed: The number of the last flush, and its answer.
        closed: Whether nothing is taken any more.
    """

    def __init__(self, plan: BufferPlan, version: int) -> None:
        """Go on from a version that is on disk."""
        self.version = self.steps = version
        self.old = Blob.of_file(plan.checkpoint.path(version)).buffer
        self.buffer = Buffer(plan.answers, plan.rule.params_type)
        self.state = new_state(plan.layout, plan.rule)
        plan.checkpoint.load_arrays(version, self.state)
        self.counted: dict[int, int] = {}
        self.stalenesses: list[int] = []
        self.adding: Adding | None = None
        self.lost = 0
        self.made: deque[Advanced] = deque(maxlen=TOLD)
        self.making: asyncio.Future[Advanced] | None = None
        self.flushed: tuple[int, Flushed] | None = None
        self.closed = False

    def count(self, adding: Adding) -> None:
        """Updates are in the sum."""
        self.adding = None
        stalenesses = [addend.staleness for addend in adding.addends]
        self.stalenesses += stalenesses
        self.counted.update(zip(adding.leases, stalenesses, strict=True))
        while len(self.counted) > REMEMBERED:
            del self.counted[next(iter(self.counted))]

    def drop(self) -> int:
        """Forget what is in the sum; returns how many updates that were."""
        count = len(self.stalenesses)
        self.stalenesses = []
        self.buffer.clear()
        return count


class BufferedAggregator(Actor):
    """Adds updates to a buffer and makes a version of each full one."""

    def __init__(self, plan: BufferPlan, intake: Intake) -> None:
        """Go on with what earlier lives have taken."""
        self._plan = plan
        self._intake = intake
        self._news: asyncio.Event = asyncio.Event()

    async def started(self) -> None:
        """Go on where the last life ended."""
        intake, plan = self._intake, self._plan
        await self._end_adding()
        if intake.making is not None:
            self._await_making(intake.making)
        else:
            self._step_if_full()
        if plan.period_s is not None:
            self.ctx.every(plan.period_s, StepDue())

    async def _end_adding(self) -> None:
        """Where the last life, or its asker, left in the middle of an addition: see what came."""
        intake, adding = self._intake, self._intake.adding
        if adding is None:
            return
        thread = adding.thread
        if thread is not None:
            await asyncio.wait([thread])
        if thread is not None and not thread.cancelled() and thread.exception() is None:
            intake.count(adding)
        else:
            # A sum cannot be taken apart.
            intake.adding = None
            intake.lost += intake.drop()

    # Updates ---------------------------------------------------------------

    @handles
    async def fill(self, msg: Fill) -> Filled:
        """Take updates, but for those that have counted, are too stale, or do not fit.

        Those that make no version yet are added together.
        """
        await self._end_adding()
        intake = self._intake
        entered: list[Entered] = []
        made: list[Advanced] = []
        adding = Adding()
        for each in msg.updates:
            entered.append(await self._enter(each, adding))
            if len(intake.stalenesses) + len(adding.leases) >= self._plan.size:
                await self._add(adding)
                adding = Adding()
                advanced = self._step_if_full()
                if advanced is not None:
                    made.append(advanced)
        await self._add(adding)
        room = max(1, self._plan.size - len(intake.stalenesses))
        return Filled(tuple(entered), intake.steps, room, tuple(made))

    async def _enter(self, each: Leased, adding: Adding) -> Entered:
        """Have an update added with others if it is fit for it."""
        intake, plan = self._intake, self._plan
        if self._is_repetition(each):
            return Entered("duplicate", "", intake.counted[each.lease])
        if plan.rule.one_by_one and intake.making is not None:
            await self._end_making(intake.making)
        if intake.closed or intake.steps >= plan.last:
            return Entered("late", "the last version is made")
        staleness = intake.steps - each.version
        try:
            weight = plan.rule.weigh(UpdateInfo(each.site, each.update.weight, staleness))
            blob = check_update(plan.blobs, plan.answers, each.update)
            await self._check(each, blob, weight)
        except TooStale as error:
            return Entered("stale", str(error), staleness)
        except BadSetting as error:  # the rule's own fault, and no site's
            raise Rejected(error.setting, str(error)) from error
        except (AlgorithmError, BlobError) as error:
            return Entered("refused", str(error), staleness)
        adding.leases.append(each.lease)
        adding.addends.append(Addend(blob.buffer, weight, staleness))
        return Entered("accepted", "", staleness)

    def _is_repetition(self, each: Leased) -> bool:
        return each.lease in self._intake.counted

    async def _check(self, each: Leased, blob: Blob, weight: float) -> None:
        kind = ParamsType(each.update.params_type)
        check = partial(
            self._intake.buffer.check, blob.buffer, weight, kind, site=each.site, bound=blob.bound
        )
        if blob.size <= INLINE_BYTES or blob.bound is not None:
            check()
        else:
            await asyncio.get_running_loop().run_in_executor(None, check)

    async def _add(self, adding: Adding) -> None:
        if not adding.leases:
            return
        intake = self._intake
        add = partial(intake.buffer.add_all, adding.addends)
        intake.adding = adding
        if self._plan.answers.size * len(adding.leases) <= INLINE_BYTES:
            add()
        else:
            adding.thread = asyncio.get_running_loop().run_in_executor(None, add)
            await asyncio.shield(adding.thread)  # which goes on, and is waited for, if this ends
        intake.count(adding)

    # Steps -----------------------------------------------------------------

    @handles
    async def due(self, msg: StepDue) -> None:
        """Step by the clock (FedFix), whatever there is."""
        await self._end_adding()
        if self._intake.stalenesses:
            self._step()

    @handles
    async def flush(self, msg: Flush) -> Flushed:
        """Make a version of a part-filled buffer, or drop what is in it; once for its number."""
        intake = self._intake
        if intake.flushed is not None and intake.flushed[0] == msg.number:
            return intake.flushed[1]
        await self._end_adding()
        intake.closed = intake.closed or msg.last
        if intake.making is not None:
            await self._end_making(intake.making)
        count = len(intake.stalenesses)
        if msg.drop:
            intake.drop()
        else:
            self._step()
            if intake.making is not None:
                await self._end_making(intake.making)
        flushed = Flushed(count, tuple(_after(msg.known, intake.made)))
        intake.flushed = (msg.number, flushed)
        return flushed

    async def _end_making(self, making: asyncio.Future[Advanced]) -> None:
        """Wait for a version that a thread makes."""
        await asyncio.wait([making])  # not cancelled with this wait
        self._end_of(making.result())

    def _step_if_full(self) -> Advanced | None:
        if len(self._intake.stalenesses) >= self._plan.size:
            return self._step()
        return None

    def _step(self) -> Advanced | None:
        """Make a version of what is there; returned if it is there at once."""
        intake = self._intake
        if not intake.stalenesses or intake.making is not None:
            return None
        intake.steps += 1
        stalenesses, intake.stalenesses = tuple(intake.stalenesses), []
        lost, intake.lost = intake.lost, 0  # here, not in the thread: more may be lost meanwhile
        make = partial(self._make, intake.steps, intake.buffer.swap(), stalenesses, lost)
        if self._plan.layout.size <= INLINE_BYTES:
            return self._made(make())
        intake.making = asyncio.get_running_loop().run_in_executor(None, make)
        self._await_making(intake.making)
        return None

    def _await_making(self, making: asyncio.Future[Advanced]) -> None:
        # Not the thread's own future: it is to outlive this life, if need be.
        def made(result: Advanced | Exception) -> Made:
            if isinstance(result, Exception):
                raise result
            return Made(result)

        self.ctx.run(asyncio.shield(making), made)

    def _make(self, version: int, sums: Sums, stalenesses: tuple[int, ...], lost: int) -> Advanced:
        """Write a version; what goes wrong is told, not raised."""
        plan, intake, began = self._plan, self._intake, time.perf_counter()
        nothing = BlobRef(b"", 0)
        try:
            with plan.checkpoint.writing(version) as fd:
                write = partial(write_all, fd)
                apply(
                    intake.old,
                    plan.layout,
                    sums,
                    plan.rule,
                    write,
                    state=intake.state,
                    number=version,
                )
            plan.checkpoint.save_arrays(version, intake.state)
            blob = Blob.of_file(plan.checkpoint.path(version))
        except OSError as error:
            why = f"cannot write {plan.checkpoint.path(version)}: {os.strerror(error.errno or 0)}"
            return Advanced(version, nothing, stalenesses, error=why)
        except (AlgorithmError, BlobError) as error:
            return Advanced(version, nothing, stalenesses, error=str(error))
        except Exception as error:  # of a user's own rule or optimizer
            why = f"making version {version} raised {type(error).__name__}: {error}"
            return Advanced(version, nothing, stalenesses, error=why)
        finally:
            intake.buffer.give_back(sums)
        intake.old = blob.buffer
        model = BlobRef(plan.blobs.register(blob), blob.size)
        return Advanced(version, model, stalenesses, lost, time.perf_counter() - began)

    def _made(self, advanced: Advanced) -> Advanced:
        self._intake.version = advanced.version
        self._intake.made.append(advanced)
        self._news.set()
        return advanced

    @handles
    async def made(self, msg: Made) -> None:
        """A version is there; more updates than make one may have come meanwhile."""
        await self._end_adding()
        self._end_of(msg.advanced)
        if not msg.advanced.error:
            self._step_if_full()

    def _end_of(self, advanced: Advanced) -> None:
        """A thread has made a version, as is heard once or twice."""
        if advanced.version > self._intake.version:
            self._intake.making = None
            self._made(advanced)

    # News ------------------------------------------------------------------

    @handles
    async def follow(self, msg: Follow) -> AsyncGenerator[Advanced, None]:
        """Every version from here on."""
        version = msg.version
        while True:
            self._news.clear()
            for advanced in _after(version, self._intake.made):
                yield advanced
                version = advanced.version
            await self._news.wait()


def _after(version: int, made: Iterable[Advanced]) -> list[Advanced]:
    return [advanced for advanced in made if advanced.version > version]
