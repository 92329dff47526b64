"""What actors say to each other.

A message is a frozen, slotted dataclass whose bases name its receiver and its
reply: `class Train(Message["Trainer", Update], id=101)`. The type checkers then
reject a message sent to the wrong actor and infer the type of its reply; the
receiver may be a forward reference. `id` is the number that stands for the
class on the wire (docs/wire.md); messages that stay in one system need none.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from covey.transport import Record

if TYPE_CHECKING:
    from .actor import Actor  # noqa: F401  # named in the bases of `Down`

To = TypeVar("To", contravariant=True)
Reply = TypeVar("Reply", covariant=True)
Part = TypeVar("Part", covariant=True)


class Message(Record, Generic[To, Reply]):
    """Base of messages to actors of kind `To`, answered by a `Reply` (None for news)."""

    __slots__ = ()


class Pull(Record, Generic[To, Part]):
    """Base of stream requests to actors of kind `To`, answered by a stream of `Part`."""

    __slots__ = ()


class Reason(StrEnum):
    """Why a watched actor is gone."""

    STOPPED = "stopped"  # it ended by itself, was stopped, or never was there
    FAILED = "failed"  # it spent its restart budget
    UNREACHABLE = "unreachable"  # the link to its node stayed lost for a whole lease


@dataclass(frozen=True, slots=True)
class Down(Message["Actor", None], id=21):
    """Tells a watcher, exactly once per watch, that an actor is gone.

    `address` is `node/name`; `detail` says more to people (the last failure).
    """

    address: str
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Fault(Record, id=22):
    """An error's form on the wire: its place in the error tree and its fields."""

    code: str
    address: str
    kind: str = ""
    text: str = ""
    number: float = 0.0


@dataclass(frozen=True, slots=True)
class Credit(Record, id=23):
    """Grants a stream's producer `parts` more parts."""

    parts: int


def type_name(message: Any) -> str:
    """The message's class name, for logs and errors."""
    return type(message).__name__


@dataclass(frozen=True, slots=True)
class Reachable(Record, id=24):
    """Tells a peer which nodes are reached through the sender.

    Attributes:
        nodes: They are reached from now on. For one that was before: it has come back in a new
            session, and what was under way to it is lost.
        gone: They are not any more; the sender has waited for their leases.
    """

    nodes: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
