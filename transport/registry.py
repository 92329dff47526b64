"""Registry: the closed table of records a node accepts.

Here: wire id to class, and records to and from their fields. A type arrives as a number that
must stand in the table; no class is ever found by a name from the wire.
Not here: bytes (`codec.py`).
"""

from __future__ import annotations

from typing import Any

from .converters import Mismatch
from .errors import DecodeError, LocalProtocolError
from .record import Body, Record
from .schema import RecordSchema, SchemaCompiler


class Registry:
    """A closed table of record classes by wire id.

    Filled when a node is made, then frozen; shared by all its links.

    Args:
        classes: Records to add at once.

    Attributes:
        deepest: The most arrays and maps inside each other that any record of the table can
            make; `ENDLESS` with one that may contain itself.

    Raises:
        ValueError: As `add`.
        SchemaError: As `add`.
    """

    __slots__ = ("_by_class", "_by_id", "_compiler", "_frozen", "deepest")

    def __init__(self, *classes: type[Record]) -> None:
        self._by_id: dict[int, RecordSchema] = {}
        self._by_class: dict[type[Any], tuple[int, RecordSchema]] = {}
        self._compiler = SchemaCompiler()
        self._frozen = False
        self.deepest = 0
        self.add(*classes)

    def __repr__(self) -> str:
        state = "frozen" if self._frozen else "open"
        return f"<Registry of {len(self._by_id)} records, {state}>"

    def __contains__(self, cls: type[Any]) -> bool:
        return cls in self._by_class

    @property
    def classes(self) -> tuple[type[Record], ...]:
        """All classes, in the order of their ids."""
        return tuple(self._by_id[wire_id].cls for wire_id in sorted(self._by_id))

    def add(self, *classes: type[Record]) -> None:
        """Accept these records. Adding a class that is in the table already does nothing.

        Raises:
            ValueError: If a class has no id of its own, its id is taken, or the table is frozen.
            SchemaError: If a class is no frozen dataclass, or a field cannot cross a wire.
        """
        for cls in classes:
            if cls in self._by_class:
                continue
            self._check_new(cls)
            schema = self._compiler.compile(cls)
            self._by_id[cls.wire_id] = schema
            self._by_class[cls] = (cls.wire_id, schema)
            self.deepest = max(self.deepest, schema.depth)

    def extended(self, *classes: type[Record]) -> Registry:
        """A frozen registry of the same kind with these records, too.

        Raises:
            ValueError: As `add`.
        """
        both = type(self)(*classes, *self.classes)
        both.freeze()
        return both

    def freeze(self) -> None:
        """Close the table for ever; idempotent."""
        self._frozen = True

    def pack(self, record: Record) -> tuple[int, dict[str, Any], Body | None]:
        """The record's wire id, its fields as msgpack takes them, and its body.

        Raises:
            LocalProtocolError: If the class is not in the table, or a value is not of its
                field's type; names record and field.
        """
        entry = self._by_class.get(type(record))
        if entry is None:
            name = type(record).__qualname__
            raise LocalProtocolError(name, "the class is not in this node's registry")
        wire_id, schema = entry
        try:
            body = None if schema.body is None else schema.dump_body(record)
            return wire_id, schema.dump(record), body
        except Mismatch as error:
            where = schema.cls.__qualname__ + error.path
            raise LocalProtocolError(where, error.why) from None
        except RecursionError as error:
            raise LocalProtocolError(schema.cls.__qualname__, "it nests without end") from error

    def unpack(self, type_id: int, fields: object, body: Body | None) -> Record:
        """The record of this wire id with these fields.

        Raises:
            DecodeError: If the id is not in the table, or the fields are not exactly those of
                the class with values of their types; names record and field.
        """
        schema = self._by_id.get(type_id)
        if schema is None:
            raise DecodeError("type id", f"{type_id} is not in this node's registry")
        try:
            record: Record = schema.load(fields, body)
        except Mismatch as error:
            where = schema.cls.__qualname__ + error.path
            raise DecodeError(where, error.why) from error.__cause__
        except RecursionError as error:
            raise DecodeError(schema.cls.__qualname__, "it nests too deep") from error
        return record

    def _check_new(self, cls: type[Record]) -> None:
        if self._frozen:
            raise ValueError(f"{cls.__qualname__}: the registry is frozen; add records at start")
        if cls.wire_id == 0:
            raise ValueError(f"{cls.__qualname__} has no wire id; write `class X(Record, id=...)`")
        holder = self._by_id.get(cls.wire_id)
        if holder is not None:
            raise ValueError(
                f"wire id {cls.wire_id} of {cls.__qualname__} is taken by {holder.cls.__qualname__}"
            )
