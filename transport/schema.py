"""Schemas: a frozen dataclass compiled once to a pair of functions.

Here: which field types may cross a wire, and records as maps of exactly their fields. A schema
is found by reflection when a record is registered; packing and unpacking look up nothing.
Not here: single values (`converters.py`), which records are accepted (`registry.py`), bytes
(`codec.py`).
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import partial
from typing import Any, Final, Literal, Union

from . import converters
from .converters import Converter, Mismatch
from .errors import SchemaError
from .limits import Limits
from .record import Body, Record

_SUPPORTED: Final = (
    "supported are bool, int, float, str, bytes, None, StrEnum, IntEnum, Literal of str, "
    "tuple[X, ...], tuple[X, Y], dict[str, X], Mapping[str, X], frozen dataclasses, unions of "
    "scalars, unions of Records with ids, and one Body"
)

_SCALARS: Final[dict[object, Converter]] = {
    bool: converters.BOOL,
    int: converters.INT,
    float: converters.FLOAT,
    str: converters.STR,
    bytes: converters.BYTES,
    type(None): converters.NONE,
}

# As names, so that comparing does not narrow `Any` to containers of unknown things.
_DICT: Final[Any] = dict
_TUPLE: Final[Any] = tuple

#: The depth of a record that may contain itself; the decoder counts that of each value.
ENDLESS: Final = 1 << 20

#: The meta array and the record's own map stand around every field.
_DEEPEST_FIELD: Final = Limits().depth - 2

_ABSENT: Final = object()

# Field values are `Any` until their converter has looked at them.
_Put = Callable[[Any, Any], object]

#: Where dataclasses keep what they were made with; typeshed does not list it.
_PARAMETERS: Final = "__dataclass_params__"


@dataclass(frozen=True, slots=True)
class _FieldPlan:
    """One field, ready for the two loops."""

    name: str
    converter: Converter
    default: Callable[[], Any] | None

    def absent(self) -> Any:
        """The value for a field the peer did not send."""
        if self.default is None:
            raise Mismatch("a value", None).within(f".{self.name} (missing)")
        return self.default()


class RecordSchema:
    """How one dataclass crosses: a map of exactly its fields, and perhaps a body beside it.

    Attributes:
        cls: The dataclass.
        body: The name of its `Body` field, None without one.
        body_required: Whether that field refuses None.
        depth: Maps and arrays inside each other, its own map included.
            `ENDLESS` if a value of it may contain another.
    """

    __slots__ = (
        "_construct",
        "_dump_plan",
        "_load_plan",
        "_make",
        "_plans",
        "_put_body",
        "body",
        "body_required",
        "cls",
        "depth",
    )

    def __init__(self, cls: type[Any]) -> None:
        self.cls = cls
        self.body: str | None = None
        self.body_required = False
        self.depth = 1
        slots = _slots_to_fill(cls)
        # A frozen dataclass sets each field through object.__setattr__, at twice the cost of
        # the slot's own setter; where the constructor does nothing else, the slots are filled.
        self._construct = slots is None
        self._make: Callable[[], Any] = dict if slots is None else partial(object.__new__, cls)
        self._put_body: _Put | None = None
        self.fill([])

    def fill(self, plans: list[_FieldPlan]) -> None:
        """Set the fields; apart from the constructor because a record may contain itself."""
        self._plans = tuple(plans)
        self._dump_plan = tuple((p.name, p.converter.plain, p.converter.dump) for p in plans)
        self._load_plan = tuple(
            (p.name, p.converter.plain, p.converter.load, self._put(p.name)) for p in plans
        )
        depth = 1 + max((p.converter.depth for p in plans), default=0)
        self.depth = ENDLESS if max(depth, self.depth) >= ENDLESS else depth

    def set_body(self, name: str, required: bool) -> None:
        """Say which field is the body."""
        self.body = name
        self.body_required = required
        self._put_body = self._put(name)

    def dump(self, record: Any) -> dict[str, Any]:
        """The record's fields but for the body, as msgpack takes them.

        Raises:
            Mismatch: If a value is not of its field's type.
        """
        wire: dict[str, Any] = {}
        name = ""
        try:
            for name, plain, convert in self._dump_plan:
                value = getattr(record, name)
                wire[name] = value if type(value) in plain else convert(value)
        except Mismatch as error:
            raise error.within(f".{name}") from None
        return wire

    def dump_body(self, record: Any) -> Body | None:
        """The record's body, or None.

        Raises:
            Mismatch: If the field holds anything but bytes, a contiguous view, or an allowed None.
        """
        if self.body is None:
            return None
        body = getattr(record, self.body)
        if type(body) is bytes or (body is None and not self.body_required):
            return body
        if type(body) is memoryview and body.c_contiguous:
            # A frame counts bytes, so the view must too; this makes no copy.
            return body if body.itemsize == 1 and body.ndim == 1 else body.cast("B")
        raise Mismatch("bytes or a contiguous memoryview", body).within(f".{self.body}")

    def load(self, wire: Any, body: Body | None = None) -> Any:
        """The record of these fields.

        Raises:
            Mismatch: If fields are missing or unknown, of a wrong type, refused by the class
                itself, or the body is missing or unexpected.
        """
        if type(wire) is not _DICT:
            raise Mismatch("a map of fields", wire)
        record = self._make()
        name = ""
        try:
            for name, plain, convert, put in self._load_plan:
                value = wire[name]
                put(record, value if type(value) in plain else convert(value))
        except Mismatch as error:
            raise error.within(f".{name}") from None
        except KeyError:
            self._load_partial(record, wire)
        else:
            if len(wire) != len(self._load_plan):
                raise self._unknown(wire)
        if body is not None or self.body is not None:
            self._load_body(record, body)
        return self._call_class(record) if self._construct else record

    def _load_partial(self, record: Any, wire: dict[Any, Any]) -> None:
        """As `load`, for a map without some fields: these take their defaults."""
        found = 0
        for plan, (name, plain, convert, put) in zip(self._plans, self._load_plan, strict=True):
            value = wire.get(name, _ABSENT)
            if value is _ABSENT:
                put(record, plan.absent())
                continue
            found += 1
            try:
                put(record, value if type(value) in plain else convert(value))
            except Mismatch as error:
                raise error.within(f".{name}") from None
        if found != len(wire):
            raise self._unknown(wire)

    def _unknown(self, wire: dict[Any, Any]) -> Mismatch:
        names = {plan.name for plan in self._plans}
        return Mismatch("no other field", next(key for key in wire if key not in names))

    def _load_body(self, record: Any, body: Body | None) -> None:
        if self._put_body is None:
            raise Mismatch("no body", body)
        if body is None and self.body_required:
            raise Mismatch("a body", None).within(f".{self.body}")
        self._put_body(record, body)

    def _call_class(self, values: dict[str, Any]) -> Any:
        try:
            return self.cls(**values)
        except Exception as error:  # a check of the class itself, whatever it raises
            refused = Mismatch("a valid record", values)
            refused.why = f"refused by the class: {error}"
            raise refused from error

    def _put(self, name: str) -> _Put:
        """What sets a field of that which `_make` makes."""
        if self._construct:
            return lambda values, value: values.__setitem__(name, value)
        put: _Put = getattr(self.cls, name).__set__
        return put


def _slots_to_fill(cls: type[Any]) -> tuple[str, ...] | None:
    """The fields of a class whose constructor only fills slots, None for any other class."""
    if hasattr(cls, "__post_init__") or not _has_generated_constructor(cls):
        return None
    names = tuple(field.name for field in fields(cls)) if is_dataclass(cls) else ()
    slotted = all(isinstance(getattr(cls, n, None), types.MemberDescriptorType) for n in names)
    return names if slotted else None


def _has_generated_constructor(cls: type[Any]) -> bool:
    # What dataclasses generate is compiled from a string, unlike a constructor of the class.
    code = getattr(cls.__dict__.get("__init__"), "__code__", None)
    return code is not None and code.co_filename == "<string>"


class SchemaCompiler:
    """Compiles dataclasses to schemas, each once; one per registry."""

    __slots__ = ("_open", "_schemas")

    def __init__(self) -> None:
        self._schemas: dict[type[Any], RecordSchema] = {}
        self._open: set[type[Any]] = set()

    def compile(self, cls: type[Any]) -> RecordSchema:
        """The schema of a frozen dataclass.

        Raises:
            SchemaError: If it is none, or a field's type cannot cross a wire.
        """
        schema = self._schemas.get(cls)
        if schema is None:
            schema = self._schemas[cls] = RecordSchema(cls)
            self._open.add(cls)
            try:
                self._compile_fields(schema)
            except BaseException:
                del self._schemas[cls]
                raise
            finally:
                self._open.discard(cls)
        elif cls in self._open:
            schema.depth = ENDLESS
        return schema

    def _compile_fields(self, schema: RecordSchema) -> None:
        cls = schema.cls
        declared = _declared_fields(cls)
        hints = _hints(cls)
        plans: list[_FieldPlan] = []
        for field in declared:
            where = f"{cls.__qualname__}.{field.name}"
            hint = hints[field.name]
            if _is_body(hint):
                if schema.body is not None:
                    raise SchemaError(where, f"{schema.body} is the body already, and one is all")
                schema.set_body(field.name, required=type(None) not in _members(hint))
                continue
            converter = self._converter(hint, where)
            if _DEEPEST_FIELD < converter.depth < ENDLESS:
                raise SchemaError(where, f"it nests deeper than {_DEEPEST_FIELD}")
            plans.append(_FieldPlan(field.name, converter, _default(field)))
        schema.fill(plans)

    def _converter(self, hint: Any, where: str) -> Converter:
        scalar = _SCALARS.get(hint) if isinstance(hint, type) else None
        if scalar is not None:
            return scalar
        if hint is None:
            return converters.NONE
        if isinstance(hint, type) and typing.get_origin(hint) is None:
            return self._of_class(hint, where)
        return self._of_generic(hint, where)

    def _of_class(self, hint: type[Any], where: str) -> Converter:
        if issubclass(hint, (enum.StrEnum, enum.IntEnum)):
            return converters.of_enum(hint)
        if is_dataclass(hint):
            return self._of_record(hint, where)
        raise SchemaError(where, f"{hint!r} is not supported; {_SUPPORTED}")

    def _of_generic(self, hint: Any, where: str) -> Converter:
        origin = typing.get_origin(hint)
        arguments = typing.get_args(hint)
        if origin is Literal and all(isinstance(choice, str) for choice in arguments):
            return converters.of_literal(arguments)
        if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
            return converters.of_sequence(self._converter(arguments[0], where))
        if origin is tuple:
            return converters.of_fixed(tuple(self._converter(a, where) for a in arguments))
        if origin in (dict, Mapping) and arguments[0] is str:
            return converters.of_map(self._converter(arguments[1], where))
        if origin in (Union, types.UnionType):
            return self._of_union(arguments, where)
        raise SchemaError(where, f"{hint!r} is not supported; {_SUPPORTED}")

    def _of_record(self, cls: type[Any], where: str) -> Converter:
        schema = self.compile(cls)
        if schema.body is not None:
            raise SchemaError(where, f"{cls.__qualname__} has a body, so it cannot be a field")
        expected = f"a {cls.__qualname__}"

        def dump(value: Any) -> Any:
            if type(value) is not cls:
                raise Mismatch(expected, value)
            return schema.dump(value)

        kinds = frozenset({cls})
        wire: frozenset[type] = frozenset({dict})
        return Converter(expected, frozenset(), dump, schema.load, schema.depth, kinds, wire)

    def _of_union(self, arguments: tuple[Any, ...], where: str) -> Converter:
        records = tuple(a for a in arguments if isinstance(a, type) and issubclass(a, Record))
        if len(records) > 1:
            tagged = self._of_tagged(records, where)
            members = [self._converter(a, where) for a in arguments if a not in records]
            return self._joined([tagged, *members], where)
        return self._joined([self._converter(a, where) for a in arguments], where)

    def _joined(self, members: list[Converter], where: str) -> Converter:
        taken: set[type] = set()
        for member in members:
            # float also takes an int that is one, which an int beside it would claim: not both.
            wire = {float} if member is converters.FLOAT else member.wire
            if taken & wire:
                raise SchemaError(where, f"{member.expected} looks like another of the union")
            taken |= wire
        return members[0] if len(members) == 1 else converters.of_union(tuple(members))

    def _of_tagged(self, records: tuple[type[Record], ...], where: str) -> Converter:
        """A union of records: an array of the wire id and the fields."""
        by_class: dict[object, tuple[int, Converter]] = {
            cls: (cls.wire_id, self._of_record(cls, where)) for cls in records
        }
        by_id = dict(by_class.values())
        if 0 in by_id or len(by_id) != len(records):
            raise SchemaError(where, "the records of a union need wire ids of their own")
        expected = " or ".join(converter.expected for converter in by_id.values())

        def dump(value: Any) -> Any:
            kind: Any = value.__class__
            wire_id, converter = by_class.get(kind, (0, None))
            if converter is None:
                raise Mismatch(expected, value)
            return wire_id, converter.dump(value)

        def load(value: Any) -> Any:
            if type(value) is not _TUPLE or len(value) != 2 or type(value[0]) is not int:
                raise Mismatch(expected, value)
            converter = by_id.get(value[0])
            if converter is None:
                raise Mismatch(expected, value[0])
            return converter.load(value[1])

        depth = 1 + max(converter.depth for converter in by_id.values())
        wire: frozenset[type] = frozenset({tuple})
        return Converter(expected, frozenset(), dump, load, depth, frozenset(records), wire)


def _declared_fields(cls: type[Any]) -> tuple[Field[Any], ...]:
    if not is_dataclass(cls):
        raise SchemaError(cls.__qualname__, "it is not a dataclass")
    if not getattr(cls, _PARAMETERS).frozen:
        raise SchemaError(cls.__qualname__, "it is not frozen; use @dataclass(frozen=True)")
    declared = fields(cls)
    for field in declared:
        if not field.init:
            where = f"{cls.__qualname__}.{field.name}"
            raise SchemaError(where, "every field must be an argument of the constructor")
    return declared


def _hints(cls: type[Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except NameError as error:
        raise SchemaError(
            cls.__qualname__, f"an annotation is unknown at run time: {error}"
        ) from error


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_body(hint: Any) -> bool:
    return memoryview in _members(hint) and {*_members(hint)} <= {memoryview, bytes, type(None)}


def _default(field: Field[Any]) -> Callable[[], Any] | None:
    if field.default_factory is not MISSING:
        return field.default_factory
    if field.default is not MISSING:
        value = field.default
        return lambda: value
    return None
