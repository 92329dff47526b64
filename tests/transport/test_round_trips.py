"""Any value of any supported type comes back equal, and of the same type."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, Literal

from hypothesis import given
from hypothesis import strategies as st

from covey.transport import Body, Codec, Envelope, FrameReader, Kind, Record, Registry, Scalar


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@dataclass(frozen=True)
class Point:
    x: int
    y: float | None = None


@dataclass(frozen=True, slots=True)
class Left(Record, id=7001):
    a: int


@dataclass(frozen=True, slots=True)
class Right(Record, id=7002):
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Tree(Record, id=7003):
    name: str
    children: tuple[Tree, ...] = ()


@dataclass(frozen=True, slots=True)
class Everything(Record, id=7000):
    flag: bool
    whole: int
    real: float
    text: str
    raw: bytes
    nothing: None
    perhaps: int | None
    colour: Colour
    level: Level
    mode: Literal["fast", "slow"]
    many: tuple[int, ...]
    pair: tuple[str, float]
    table: dict[str, float]
    mapping: Mapping[str, tuple[bool, ...]]
    either: Left | Right | None
    free: Scalar
    point: Point
    tree: Tree
    body: Body | None


CODEC = Codec(Registry(Everything))
WHOLE = st.integers(-(2**63), 2**63 - 1)
REAL = st.floats(allow_nan=False)
TEXT = st.text(max_size=20)
POINT = st.builds(Point, WHOLE, st.none() | REAL)
TREE = st.recursive(
    st.builds(Tree, TEXT),
    lambda inner: st.builds(Tree, TEXT, st.lists(inner, max_size=3).map(tuple)),
    max_leaves=4,
)
EVERYTHING = st.builds(
    Everything,
    flag=st.booleans(),
    whole=WHOLE,
    real=REAL,
    text=TEXT,
    raw=st.binary(max_size=20),
    nothing=st.none(),
    perhaps=st.none() | WHOLE,
    colour=st.sampled_from(Colour),
    level=st.sampled_from(Level),
    mode=st.sampled_from(["fast", "slow"]),
    many=st.lists(WHOLE, max_size=5).map(tuple),
    pair=st.tuples(TEXT, REAL),
    table=st.dictionaries(TEXT, REAL, max_size=4),
    mapping=st.dictionaries(TEXT, st.lists(st.booleans(), max_size=3).map(tuple), max_size=3),
    either=st.none()
    | st.builds(Left, WHOLE)
    | st.builds(Right, st.lists(POINT, max_size=3).map(tuple)),
    free=st.none() | st.booleans() | WHOLE | REAL | TEXT,
    point=POINT,
    tree=TREE,
    body=st.none() | st.binary(max_size=300),
)
COUNT = st.integers(0, 2**63 - 1)
ENVELOPE = st.builds(
    Envelope,
    kind=st.sampled_from(Kind),
    to=TEXT,
    sender=TEXT,
    id=COUNT,
    message=st.none() | EVERYTHING,
    deadline_ms=st.none() | COUNT,
    trace=st.none() | TEXT,
    sequence=st.integers(0, 2**64 - 1),
)


def shape(value: Any) -> Any:
    """A value with all the types in it, since 1 == True == 1.0."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value), [shape(getattr(value, f.name)) for f in dataclasses.fields(value)]
    if isinstance(value, tuple):
        items: tuple[Any, ...] = value  # pyright: ignore[reportUnknownVariableType]
        return tuple, [shape(item) for item in items]
    if isinstance(value, dict):
        table: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
        return dict, [(key, shape(item)) for key, item in table.items()]
    return type(value), value


@given(ENVELOPE)
def test_any_envelope_comes_back_equal_in_value_and_type(envelope: Envelope) -> None:
    stream = b"".join(CODEC.encode(envelope))
    reader = FrameReader(CODEC)
    (back,) = reader.feed(stream)
    assert back == envelope
    assert shape(back) == shape(envelope)
    assert b"".join(CODEC.encode(back)) == stream


@given(st.lists(ENVELOPE, max_size=5), st.integers(1, 400))
def test_any_stream_of_envelopes_in_pieces_comes_back_in_order(
    envelopes: list[Envelope], size: int
) -> None:
    stream = b"".join(bytes(part) for envelope in envelopes for part in CODEC.encode(envelope))
    reader = FrameReader(CODEC)
    got: list[Envelope] = []
    for start in range(0, len(stream), size):
        got += reader.feed(stream[start : start + size])
    reader.eof()
    assert got == envelopes


def test_floats_that_are_no_numbers_come_back_so() -> None:
    point = Point(1, math.nan)
    (back,) = FrameReader(CODEC).feed(
        b"".join(CODEC.encode(Envelope(Kind.TELL, message=everything_with(point))))
    )
    assert isinstance(back.message, Everything)
    assert back.message.point.y is not None
    assert math.isnan(back.message.point.y)


def everything_with(point: Point) -> Everything:
    return Everything(
        flag=True,
        whole=1,
        real=1.0,
        text="",
        raw=b"",
        nothing=None,
        perhaps=None,
        colour=Colour.RED,
        level=Level.LOW,
        mode="fast",
        many=(),
        pair=("", 0.0),
        table={},
        mapping={},
        either=None,
        free=None,
        point=point,
        tree=Tree(""),
        body=None,
    )
