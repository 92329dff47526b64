"""The buffered aggregator as training sees it: asked again and again over its crashes.

Here: updates that are done, what is asked of the aggregator, what its refusals mean. Not here:
what the aggregator does (`buffering.py`), what becomes of its answers (`asynchronous.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from ..runtime import AskTimeout, MailboxFull, Message, Ref, Rejected, RemoteError, Stopped
from ..runtime.context import Context
from .buffering import BufferedAggregator
from .employment import RETRY_S
from .leases import Lease
from .messages import (
    Advanced,
    Entered,
    Failure,
    Fill,
    Filled,
    Flush,
    Flushed,
    Follow,
    Leased,
    Update,
)

# Adding an update takes as long as it takes; the aggregator's end would end the wait.
FILL_TIMEOUT_S: Final = 600.0

T = TypeVar("T")


class Done(NamedTuple):
    """An update that is to be counted.

    Attributes:
        lease: What it was made under.
        update: The update.
        virtual_s: What the task took in virtual time; None in real time.
    """

    lease: Lease
    update: Update
    virtual_s: float | None = None


def refusal(entered: Entered) -> Failure | None:
    """Why an update does not count, if that is its site's affair."""
    if entered.verdict in ("accepted", "duplicate", "late"):
        return None
    kind = "Stale" if entered.verdict == "stale" else "BadUpdate"
    return Failure(kind, entered.text, fatal=False)


class Filling:
    """Asks of one aggregator.

    All raise `Rejected` once it is gone for good. Each can be asked again after a crash: a lease
    counts once, and so does a flush.
    """

    def __init__(self, ctx: Context, aggregator: Ref[BufferedAggregator]) -> None:
        """Ask `aggregator` for the actor of `ctx`."""
        self._ctx = ctx
        self._aggregator = aggregator
        self._flushes = 0

    async def fill(self, updates: Sequence[Done]) -> Filled:
        """Have updates added, in their order."""
        leased = (
            Leased(done.lease.site, done.lease.id, done.lease.version, done.update)
            for done in updates
        )
        return await self._ask(Fill(tuple(leased)))

    async def flush(self, known: int, *, last: bool = False, drop: bool = False) -> Flushed:
        """Have a version made of a part-filled buffer, or have it dropped.

        Args:
            known: The newest version that is known.
            last: Training is over.
            drop: Make no version.
        """
        self._flushes += 1
        return await self._ask(Flush(self._flushes, known, last, drop))

    async def follow(self, version: int) -> AsyncGenerator[Advanced, None]:
        """Every version after `version`, as it is made."""
        pause, longest = RETRY_S
        while True:
            try:
                news = self._aggregator.stream(Follow(version), timeout=FILL_TIMEOUT_S)
                async with news:
                    async for advanced in news:
                        version = advanced.version
                        pause = RETRY_S[0]
                        yield advanced
            except AskTimeout:
                continue  # there was none for long
            except RemoteError:
                await self._pause(pause)
                pause = min(longest, pause * 2)

    async def _ask(self, message: Message[Any, T]) -> T:
        pause, longest = RETRY_S
        while True:
            try:
                return await self._aggregator.ask(message, timeout=FILL_TIMEOUT_S)
            except Stopped as error:
                raise gone(error) from error
            except (AskTimeout, MailboxFull, RemoteError):
                await self._pause(pause)
                pause = min(longest, pause * 2)

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self._ctx.rng.uniform(0.5, 1.0))


def gone(error: Exception) -> Rejected:
    """What it means that an aggregator has crashed too often."""
    if isinstance(error, Rejected):
        return error
    return Rejected("aggregator", f"the aggregator is gone: {error}")
