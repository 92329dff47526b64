"""What the runtime itself puts in an actor's mailbox; signals overtake all messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Signals that concern any life of an actor, not only the one that asked for them.
ANY_LIFE = 0


@dataclass(frozen=True, slots=True)
class Stop:
    """End now, leaving what is queued as dead letters."""

    reason: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A timer, a child task or a death watch has a message for the actor's life `generation`."""

    message: Any
    generation: int


@dataclass(frozen=True, slots=True)
class Crash:
    """Something the actor answers for has failed: a child task, a child, an ask served at once."""

    error: BaseException
    generation: int
