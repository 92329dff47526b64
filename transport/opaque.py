"""Records that are handed on unread.

Here: what a relay keeps of messages of others, within the same limits as any decoder. Not here:
handing them on (`covey.edge`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .record import Body, Record
from .registry import Registry


@dataclass(frozen=True, slots=True)
class Opaque(Record):
    """A message of a kind that this node does not know.

    Attributes:
        type_id: Its wire id.
        fields: Its fields, as msgpack has them.
        body: Its body, if it has one.
    """

    type_id: int
    fields: Any
    body: Body | None


class OpaqueRegistry(Registry):
    """A registry of a node that hands on messages of any kind; it reads those that it has."""

    __slots__ = ()

    def pack(self, record: Record) -> tuple[int, dict[str, Any], Body | None]:
        """See `Registry.pack`; what came unread goes as it came."""
        if isinstance(record, Opaque):
            return record.type_id, record.fields, record.body
        return super().pack(record)

    def unpack(self, type_id: int, fields: object, body: Body | None) -> Record:
        """See `Registry.unpack`; what is not in the table stays unread."""
        if type_id in self._by_id:
            return super().unpack(type_id, fields, body)
        return Opaque(type_id, fields, body)
