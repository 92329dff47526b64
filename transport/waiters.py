"""Waiters: tasks that wait until a link has room.

Here: the list of them and its waking. Not here: when there is room (each link knows).
"""

from __future__ import annotations

import asyncio


class Waiters:
    """Tasks waiting for one condition of one link; woken together, they look again."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: dict[asyncio.Future[None], None] = {}

    async def wait(self) -> None:
        """Wait for the next `wake`; a cancelled wait leaves nothing behind."""
        future = asyncio.get_running_loop().create_future()
        self._futures[future] = None
        try:
            await future
        finally:
            self._futures.pop(future, None)

    def wake(self) -> None:
        """Wake all, in the order they came."""
        futures, self._futures = self._futures, {}
        for future in futures:
            if not future.done():
                future.set_result(None)
