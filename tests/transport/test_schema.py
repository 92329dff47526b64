"""Schemas: what may be a field, and what a field refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, Literal

import pytest

from covey.transport import (
    Body,
    DecodeError,
    LocalProtocolError,
    Record,
    Registry,
    Scalar,
    SchemaError,
)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 5


@dataclass(frozen=True, slots=True)
class Left(Record, id=2001):
    a: int


@dataclass(frozen=True, slots=True)
class Right(Record, id=2002):
    a: int
    b: str = ""


@dataclass(frozen=True, slots=True)
class Tree(Record, id=2003):
    name: str
    children: tuple[Tree, ...] = ()


@dataclass(frozen=True, slots=True)
class Everything(Record, id=2000):
    flag: bool
    whole: int
    real: float
    text: str
    raw: bytes
    nothing: None
    perhaps: int | None
    perhaps_real: float | None
    colour: Colour
    level: Level
    mode: Literal["fast", "slow"]
    many: tuple[int, ...]
    pair: tuple[str, float]
    points: tuple[Point, ...]
    table: dict[str, float]
    mapping: Mapping[str, tuple[Point, ...]]
    either: Left | Right
    maybe_either: Left | Right | None
    free: Scalar
    free_table: dict[str, Scalar]
    point: Point
    maybe_point: Point | None
    count: int = 7
    tags: tuple[str, ...] = field(default_factory=tuple)


EVERYTHING = Everything(
    flag=True,
    whole=-(2**63),
    real=float("inf"),
    text="héllo",
    raw=b"\x00\xff",
    nothing=None,
    perhaps=None,
    perhaps_real=1.5,
    colour=Colour.BLUE,
    level=Level.HIGH,
    mode="slow",
    many=(1, 2, 2**63 - 1),
    pair=("a", 0.5),
    points=(Point(1), Point(2, 3)),
    table={"loss": 0.1},
    mapping={"k": (Point(1),)},
    either=Right(1, "b"),
    maybe_either=Left(2),
    free=3,
    free_table={"a": None, "b": True, "c": 1, "d": 2.5, "e": "x"},
    point=Point(9),
    maybe_point=None,
)


@dataclass(frozen=True, slots=True)
class Checked(Record, id=2004):
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


@dataclass(frozen=True, slots=True)
class WithBody(Record, id=2005):
    name: str
    data: Body
    offset: int = 0


@dataclass(frozen=True, slots=True)
class WithOptionalBody(Record, id=2006):
    data: Body | None = None


@dataclass(frozen=True, slots=True)
class Nothing(Record, id=2007):
    pass


@dataclass(frozen=True, slots=True)
class Real(Record, id=2008):
    value: float


@dataclass(frozen=True, slots=True, init=False)
class OwnConstructor(Record, id=2010):
    value: int

    def __init__(self, value: int) -> None:
        object.__setattr__(self, "value", value * 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeywordsOnly(Record, id=2011):
    b: int
    a: int = 1


REGISTRY = Registry(
    Everything,
    Left,
    Right,
    Tree,
    Checked,
    WithBody,
    WithOptionalBody,
    Nothing,
    Real,
    OwnConstructor,
    KeywordsOnly,
)


def again(record: Record) -> Record:
    return REGISTRY.unpack(*REGISTRY.pack(record))


def fields_of(record: Record) -> dict[str, Any]:
    return REGISTRY.pack(record)[1]


def test_every_supported_type_comes_back_equal() -> None:
    back = again(EVERYTHING)
    assert back == EVERYTHING
    assert isinstance(back, Everything)
    for each in dataclasses.fields(Everything):
        assert type(getattr(back, each.name)) is type(getattr(EVERYTHING, each.name)), each.name


def test_missing_fields_take_their_defaults() -> None:
    wire = fields_of(EVERYTHING)
    del wire["count"], wire["tags"]
    assert REGISTRY.unpack(2000, wire, None) == EVERYTHING


def test_a_missing_field_without_default_is_refused_by_name() -> None:
    with pytest.raises(DecodeError, match=r"Left\.a \(missing\)"):
        REGISTRY.unpack(2001, {}, None)


def test_an_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(DecodeError, match="'zz'"):
        REGISTRY.unpack(2001, {"a": 1, "zz": 2}, None)
    with pytest.raises(DecodeError, match="'zz'"):
        REGISTRY.unpack(2002, {"a": 1, "zz": 2}, None)


BAD_VALUES: list[tuple[str, Any, str]] = [
    ("flag", 1, r"\.flag"),
    ("whole", True, r"\.whole"),
    ("whole", 1.0, r"\.whole"),
    ("real", True, r"\.real"),
    ("real", "1", r"\.real"),
    ("real", 2**53 + 1, r"\.real"),
    ("text", b"x", r"\.text"),
    ("raw", "x", r"\.raw"),
    ("nothing", 0, r"\.nothing"),
    ("perhaps", "x", r"\.perhaps"),
    ("colour", "green", r"\.colour"),
    ("colour", ("red",), r"\.colour"),
    ("level", 3, r"\.level"),
    ("level", True, r"\.level"),
    ("mode", "middle", r"\.mode"),
    ("mode", {}, r"\.mode"),
    ("many", 5, r"\.many"),
    ("many", (1, "x"), r"\.many\[1\]"),
    ("pair", ("a",), r"\.pair"),
    ("pair", ("a", "b"), r"\.pair\[1\]"),
    ("points", ({"x": 1}, {"x": "1"}), r"\.points\[1\]\.x"),
    ("table", {"a": "b"}, r"\.table\['a'\]"),
    ("table", {b"a": 1.0}, r"\.table"),
    ("table", (1,), r"\.table"),
    ("mapping", {"k": ({"x": None},)}, r"\.mapping\['k'\]\[0\]\.x"),
    ("either", {"a": 1}, r"\.either"),
    ("either", (2003, {"a": 1}), r"\.either"),
    ("either", (True, {"a": 1}), r"\.either"),
    ("either", (2001, {"a": "1"}), r"\.either\.a"),
    ("free", (1,), r"\.free"),
    ("free", b"x", r"\.free"),
    ("free_table", {"a": {}}, r"\.free_table\['a'\]"),
    ("point", None, r"\.point"),
    ("point", 3, r"\.point"),
    ("many", 2**70, r"\.many"),
    ("text", None, r"\.text"),
]


@pytest.mark.parametrize(("name", "value", "where"), BAD_VALUES)
def test_a_wrong_wire_value_is_refused_by_record_and_field(
    name: str, value: Any, where: str
) -> None:
    wire = fields_of(EVERYTHING)
    wire[name] = value
    with pytest.raises(DecodeError, match="Everything" + where):
        REGISTRY.unpack(2000, wire, None)


@pytest.mark.parametrize("fields", [None, 1, "x", (), [], b""])
def test_fields_that_are_no_map_are_refused(fields: Any) -> None:
    with pytest.raises(DecodeError, match="map"):
        REGISTRY.unpack(2001, fields, None)


BAD_FIELDS: list[tuple[str, Any]] = [
    ("flag", 1),
    ("whole", "1"),
    ("real", "x"),
    ("text", b"x"),
    ("colour", "red"),
    ("mode", "other"),
    ("many", [1]),
    ("many", (1, "2")),
    ("pair", ("a", "b")),
    ("points", ((1, 2),)),
    ("table", {1: 1.0}),
    ("table", {"a": "b"}),
    ("table", 3),
    ("either", Point(1)),
    ("point", Left(1)),
]


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS)
def test_a_wrong_field_is_refused_before_it_is_sent(name: str, value: Any) -> None:
    bad = dataclasses.replace(EVERYTHING, **{name: value})
    with pytest.raises(LocalProtocolError, match=rf"Everything\.{name}"):
        REGISTRY.pack(bad)


def test_an_exact_int_becomes_the_float_of_a_float_field() -> None:
    assert type(getattr(REGISTRY.unpack(2008, {"value": 3}, None), "value")) is float  # noqa: B009
    assert type(fields_of(Real(2))["value"]) is float


def test_a_check_of_the_class_itself_is_a_decode_error() -> None:
    assert again(Checked(1, 2)) == Checked(1, 2)
    with pytest.raises(DecodeError, match="low is above high"):
        REGISTRY.unpack(2004, {"low": 2, "high": 1}, None)


def test_a_constructor_of_the_class_itself_is_called() -> None:
    assert getattr(REGISTRY.unpack(2010, {"value": 4}, None), "value") == 8  # noqa: B009


def test_fields_may_be_keywords_only_and_none_at_all() -> None:
    assert again(KeywordsOnly(b=3)) == KeywordsOnly(b=3)
    assert again(Nothing()) == Nothing()


def test_a_record_may_contain_its_like() -> None:
    tree = Tree("a", (Tree("b"), Tree("c", (Tree("d"),))))
    assert again(tree) == tree


def test_endless_nesting_is_refused_with_a_typed_error() -> None:
    tree = Tree("leaf")
    for _ in range(5000):
        tree = Tree("x", (tree,))
    with pytest.raises(LocalProtocolError, match="nests"):
        REGISTRY.pack(tree)


def test_a_body_passes_as_the_same_object() -> None:
    data = memoryview(bytearray(b"abc"))
    type_id, wire, body = REGISTRY.pack(WithBody("n", data, 3))
    assert body is data
    assert "data" not in wire
    back = REGISTRY.unpack(type_id, wire, body)
    assert isinstance(back, WithBody)
    assert back.data is data
    assert back.offset == 3


def test_a_body_of_wide_items_is_counted_in_bytes() -> None:
    import array

    view = memoryview(array.array("d", [1.0, 2.0]))
    body = REGISTRY.pack(WithBody("n", view))[2]
    assert body is not None
    assert len(body) == 16


def test_a_body_must_be_there_only_where_it_is_required() -> None:
    assert again(WithOptionalBody()) == WithOptionalBody()
    assert again(WithOptionalBody(b"")) == WithOptionalBody(b"")
    with pytest.raises(DecodeError, match=r"WithBody\.data"):
        REGISTRY.unpack(2005, {"name": "n", "offset": 0}, None)
    with pytest.raises(DecodeError, match="no body"):
        REGISTRY.unpack(2001, {"a": 1}, b"x")


@pytest.mark.parametrize("body", [None, "text", bytearray(b"x"), memoryview(b"abcd")[::2]])
def test_a_body_of_another_kind_is_refused(body: Any) -> None:
    with pytest.raises(LocalProtocolError, match=r"WithBody\.data"):
        REGISTRY.pack(WithBody("n", body))


@dataclass
class NotFrozen(Record, id=2100):
    a: int


@dataclass(frozen=True)
class Listed(Record, id=2101):
    a: list[int]


@dataclass(frozen=True)
class Untyped(Record, id=2102):
    a: Any


@dataclass(frozen=True)
class TwoBodies(Record, id=2103):
    a: Body
    b: Body


@dataclass(frozen=True)
class BodyInside(Record, id=2104):
    a: WithBody


@dataclass(frozen=True)
class Ambiguous(Record, id=2105):
    a: dict[str, int] | Point


@dataclass(frozen=True)
class UnionWithoutIds(Record, id=2106):
    a: Left | IdLess


@dataclass(frozen=True)
class IdLess(Record):
    a: int


@dataclass(frozen=True)
class IntKeys(Record, id=2107):
    a: dict[int, str]


@dataclass(frozen=True)
class NumberLiteral(Record, id=2108):
    a: Literal[1, 2]


@dataclass(frozen=True)
class Hidden(Record, id=2109):
    a: int = field(init=False, default=3)


@dataclass(frozen=True)
class Bare(Record, id=2110):
    a: tuple  # type: ignore[type-arg] # pyright: ignore[reportMissingTypeArgument, reportUnknownVariableType]


@dataclass(frozen=True)
class Deep(Record, id=2111):
    a: tuple[
        tuple[tuple[tuple[tuple[tuple[tuple[tuple[Deeper, ...], ...], ...], ...], ...], ...], ...],
        ...,
    ]


@dataclass(frozen=True)
class Deeper:
    a: tuple[tuple[tuple[tuple[tuple[tuple[tuple[int, ...], ...], ...], ...], ...], ...], ...]


@dataclass(frozen=True)
class EnumOrText(Record, id=2112):
    a: Colour | str


class Plain(Record, id=2113):
    pass


@pytest.mark.parametrize(
    "cls",
    [
        NotFrozen,
        Listed,
        Untyped,
        TwoBodies,
        BodyInside,
        Ambiguous,
        UnionWithoutIds,
        IntKeys,
        NumberLiteral,
        Hidden,
        Bare,
        Deep,
        EnumOrText,
        Plain,
    ],
)
def test_a_class_that_cannot_cross_is_refused_by_name(cls: type[Record]) -> None:
    with pytest.raises(SchemaError, match=cls.__name__):
        Registry(cls)


def test_an_annotation_unknown_at_run_time_is_refused() -> None:
    @dataclass(frozen=True)
    class Inner(Record):
        a: int

    @dataclass(frozen=True)
    class Local(Record, id=2114):
        a: Inner

    with pytest.raises(SchemaError, match="unknown at run time"):
        Registry(Local)
