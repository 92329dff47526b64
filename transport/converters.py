"""Converters: one field type to its wire form and back.

Here: scalars, enums, literals, tuples, maps and unions. A converter checks exact types in both
directions, so that a value which would be refused by the peer is refused before it is sent.
Nothing is looked up by name and nothing is converted silently, but for an int in a float field
when it is exactly that float. Not here: records and how types are found (`schema.py`), the range
of ints (`unpacking.py`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

# A wire value is whatever msgpack made of the peer's bytes, and a dumped value whatever a
# caller put into a field: both are `Any` until a converter has looked at them.
Convert = Callable[[Any], Any]

_NONE: Final = type(None)

#: Every int up to here is exactly a float.
_EXACT_IN_FLOAT: Final = 2**53

# As names, so that comparing does not narrow `Any` to containers of unknown things.
_DICT: Final[Any] = dict
_TUPLE: Final[Any] = tuple


class Mismatch(Exception):
    """A value is not of its field's type; carries the path as it unwinds.

    Internal to this room: the registry turns it into `DecodeError` or `LocalProtocolError`.
    """

    def __init__(self, expected: str, value: object) -> None:
        super().__init__(expected)
        self.why = f"expected {expected}, got {_describe(value)}"
        self.path = ""

    def within(self, step: str) -> Mismatch:
        """Put an outer step (`.field`, `[3]`) before the path."""
        self.path = step + self.path
        return self


def _describe(value: object) -> str:
    """A value for an error text, never more than a line of it."""
    if isinstance(value, (list, tuple, dict)):
        return f"{type(value).__name__} of {len(value)}"  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"int of {value.bit_length()} bits"
    text = repr(value[:40] if isinstance(value, str) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True, slots=True)
class Converter:
    """How one type crosses.

    Attributes:
        expected: The type in words, for errors.
        plain: Exact types that are their own wire form, in both directions: such a value needs
            no call at all.
        dump: From any other field value to its wire form; raises `Mismatch`.
        load: From any other wire value to the field value; raises `Mismatch`.
        depth: Arrays and maps inside each other in the wire form.
        python: Exact types a field value may have, for the choice within a union.
        wire: Exact types a wire value may have, likewise.
    """

    expected: str
    plain: frozenset[type]
    dump: Convert
    load: Convert
    depth: int
    python: frozenset[type]
    wire: frozenset[type]


def _refuse(expected: str) -> Convert:
    def refuse(value: Any) -> Any:
        raise Mismatch(expected, value)

    return refuse


def _scalar(expected: str, kind: type) -> Converter:
    kinds = frozenset({kind})
    return Converter(expected, kinds, _refuse(expected), _refuse(expected), 0, kinds, kinds)


def _float(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int and abs(value) <= _EXACT_IN_FLOAT:
        return float(value)
    raise Mismatch("a float", value)


BOOL: Final = _scalar("a bool", bool)
STR: Final = _scalar("a str", str)
BYTES: Final = _scalar("bytes", bytes)
NONE: Final = _scalar("None", _NONE)
INT: Final = _scalar("an int", int)
FLOAT: Final = Converter(
    "a float",
    frozenset({float}),
    _float,
    _float,
    0,
    frozenset({float, int}),
    frozenset({float, int}),
)


def of_enum(kind: type[enum.Enum]) -> Converter:
    """A `StrEnum` or `IntEnum`, by value."""
    by_value: dict[object, enum.Enum] = {member.value: member for member in kind}
    value_type = str if issubclass(kind, str) else int
    expected = f"a {kind.__name__}"

    def dump(member: Any) -> Any:
        if type(member) is not kind:
            raise Mismatch(expected, member)
        return member.value

    def load(value: Any) -> Any:
        member = by_value.get(value) if type(value) is value_type else None
        if member is None:
            raise Mismatch(expected, value)
        return member

    return Converter(
        expected, frozenset(), dump, load, 0, frozenset({kind}), frozenset({value_type})
    )


def of_literal(choices: Iterable[str]) -> Converter:
    """One of a few strings."""
    allowed = frozenset(choices)
    expected = "one of " + ", ".join(map(repr, sorted(allowed)))

    def check(value: Any) -> Any:
        if type(value) is str and value in allowed:
            return value
        raise Mismatch(expected, value)

    kinds: frozenset[type] = frozenset({str})
    return Converter(expected, frozenset(), check, check, 0, kinds, kinds)


def _each(values: Any, plain: frozenset[type], convert: Convert) -> tuple[Any, ...]:
    """Convert every item; the failing index goes into the path."""
    items: list[Any] = []
    try:
        for value in values:
            items.append(value if type(value) in plain else convert(value))
    except Mismatch as error:
        raise error.within(f"[{len(items)}]") from None
    return tuple(items)


def of_sequence(item: Converter) -> Converter:
    """`tuple[X, ...]`: an array of any length."""
    plain = item.plain
    expected = f"a tuple, each item {item.expected}"

    def convert_with(convert: Convert) -> Convert:
        def each(values: Any) -> Any:
            if type(values) is not _TUPLE:
                raise Mismatch(expected, values)
            if plain.issuperset(map(type, values)):
                return values
            return _each(values, plain, convert)

        return each

    kinds: frozenset[type] = frozenset({tuple})
    dump, load = convert_with(item.dump), convert_with(item.load)
    return Converter(expected, frozenset(), dump, load, item.depth + 1, kinds, kinds)


def of_fixed(items: tuple[Converter, ...]) -> Converter:
    """`tuple[X, Y]`: an array of exactly these."""
    expected = f"a tuple of {len(items)}"

    def convert_with(converts: tuple[Convert, ...]) -> Convert:
        def each(values: Any) -> Any:
            if type(values) is not _TUPLE or len(values) != len(items):
                raise Mismatch(expected, values)
            done: list[Any] = []
            try:
                for value, item, convert in zip(values, items, converts, strict=True):
                    done.append(value if type(value) in item.plain else convert(value))
            except Mismatch as error:
                raise error.within(f"[{len(done)}]") from None
            return tuple(done)

        return each

    depth = 1 + max((item.depth for item in items), default=0)
    kinds: frozenset[type] = frozenset({tuple})
    dump = convert_with(tuple(item.dump for item in items))
    load = convert_with(tuple(item.load for item in items))
    return Converter(expected, frozenset(), dump, load, depth, kinds, kinds)


def of_map(item: Converter) -> Converter:
    """`dict[str, X]` or `Mapping[str, X]`: a map with string keys, loaded as a dict."""
    plain = item.plain
    expected = f"a dict from str, each value {item.expected}"

    def convert_all(values: Mapping[Any, Any], convert: Convert) -> dict[str, Any]:
        done: dict[str, Any] = {}
        for key, value in values.items():
            if type(key) is not str:
                raise Mismatch("a str as key", key)
            try:
                done[key] = value if type(value) in plain else convert(value)
            except Mismatch as error:
                raise error.within(f"[{_describe(key)}]") from None
        return done

    def dump(values: Any) -> Any:
        if not isinstance(values, Mapping):
            raise Mismatch(expected, values)
        return convert_all(values, item.dump)  # pyright: ignore[reportUnknownArgumentType]

    def load(values: Any) -> Any:
        if type(values) is not _DICT:
            raise Mismatch(expected, values)
        return convert_all(values, item.load)  # pyright: ignore[reportUnknownArgumentType]

    kinds: frozenset[type] = frozenset({dict})
    return Converter(expected, frozenset(), dump, load, item.depth + 1, kinds, kinds)


def of_union(members: tuple[Converter, ...]) -> Converter:
    """A union whose members have different exact types, on both sides."""
    dumps: dict[object, Convert] = {}
    loads: dict[object, Convert] = {}
    # An exact float before the ints which a float field would also take.
    for member in sorted(members, key=lambda member: len(member.wire)):
        for kind in member.python - member.plain:
            dumps.setdefault(kind, member.dump)
        for kind in member.wire - member.plain:
            loads.setdefault(kind, member.load)
    plain = frozenset[type]().union(*(member.plain for member in members))
    expected = " or ".join(member.expected for member in members)
    refuse = _refuse(expected)

    def dump(value: Any) -> Any:
        kind: Any = value.__class__
        return dumps.get(kind, refuse)(value)

    def load(value: Any) -> Any:
        kind: Any = value.__class__
        return loads.get(kind, refuse)(value)

    return Converter(
        expected,
        plain,
        dump,
        load,
        max(member.depth for member in members),
        frozenset[type]().union(*(member.python for member in members)),
        frozenset[type]().union(*(member.wire for member in members)),
    )
