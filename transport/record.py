"""Record: the base class of everything that crosses a wire.

Here: the class, its wire id, and the two aliases a field may be annotated with (`Body`,
`Scalar`). Not here: how fields become bytes (`schema.py`) and which records a node accepts
(`registry.py`).
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, TypeAlias

#: The binary payload of a record: at most one such field per record. It travels beside the
#: msgpack part and is never copied through it; a receiver gets a read-only view or bytes.
Body: TypeAlias = memoryview | bytes

#: A value of free type that is still safe on the wire (a metric, a setting).
Scalar: TypeAlias = bool | int | float | str | None

#: Wire ids are u16; 0 says "this class is not sent by itself".
LARGEST_WIRE_ID: Final = 65535


class Record:
    """Base of every class whose instances cross a wire.

    Subclasses are frozen, slotted dataclasses and give their id in the class statement::

        @dataclass(frozen=True, slots=True)
        class Task(Record, id=210):
            round: int
            name: str = "train"

    A class without an id of its own can be a field of another record or a base class, but
    cannot be registered. `docs/wire.md` lists the id ranges; an id is never used again.

    Attributes:
        wire_id: The id given in the class statement, 0 without one. Never inherited.

    Raises:
        ValueError: At class creation, for an id outside 1-65535.
    """

    __slots__ = ()

    wire_id: ClassVar[int] = 0

    def __init_subclass__(cls, *, id: int | None = None, **kwargs: Any) -> None:
        """Note the id of the class statement."""
        super().__init_subclass__(**kwargs)
        if id is not None:
            if not 1 <= id <= LARGEST_WIRE_ID:
                raise ValueError(f"{cls.__qualname__}: wire id {id} is not in 1-{LARGEST_WIRE_ID}")
            cls.wire_id = id
        elif "wire_id" not in cls.__dict__:
            # dataclass(slots=True) builds the class a second time, without the keyword but
            # with the first one's namespace: an id found there is this class's own.
            cls.wire_id = 0
