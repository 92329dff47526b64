"""Faces of virtual time for tests: run a program in it, and compare two runs.

Here: `simulate` and `EventHash`; `VirtualLoop` and `SimulatedNetwork` are
re-exported, so that a test needs one import. Not here: the loop (`clock.py`) and
the network (`network.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .clock import VirtualLoop
from .errors import Deadlock
from .network import SimulatedNetwork
from .system import Event

__all__ = ["Deadlock", "EventHash", "SimulatedNetwork", "VirtualLoop", "simulate"]

T = TypeVar("T")


def simulate(
    main: Callable[[], Coroutine[Any, Any, T]], *, seed: int = 0, jitter: bool = True
) -> T:
    """Run `main()` in virtual time and return its result.

    The same program and seed take the same steps, in this process or another one,
    as long as they draw randomness from sources seeded by themselves, iterate over
    no sets, and use no threads.

    Args:
        main: Called once in the new loop, like the coroutine function of `asyncio.run`.
        seed: Seeds the scheduler's jitter; a failure carries it as a note.
        jitter: Whether to shuffle callbacks that are ready at the same time.

    Raises:
        Deadlock: If everything waits and nothing is scheduled.
    """
    loop = VirtualLoop(jitter=random.Random(seed) if jitter else None)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        try:
            return runner.run(main())
        except BaseException as error:
            error.add_note(f"in simulate(..., seed={seed}) at {loop.time():g} virtual seconds")
            raise


class EventHash:
    """An observer that folds all events of its systems into one stable hash.

    Two runs with equal hashes handled the same messages in the same order at the
    same times. Give one to `System(observer=...)`; several systems may share it.
    """

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=16)
        self.events = 0

    def __call__(self, event: Event) -> None:
        """Fold one event in."""
        line = f"{event.stage} {event.address} {event.message} {event.trace} {event.time:.6f}\n"
        self._digest.update(line.encode())
        self.events += 1

    def hexdigest(self) -> str:
        """The hash of all events up to now."""
        return self._digest.hexdigest()
