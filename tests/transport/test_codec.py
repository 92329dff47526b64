"""Codec: the header, the meta part, and limits exact to the byte."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, replace
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from covey.transport import (
    Body,
    Codec,
    DecodeError,
    Envelope,
    Kind,
    Limits,
    LocalProtocolError,
    Record,
    Registry,
)

wire: Any = msgpack  # it has no types
packb = wire.packb


@dataclass(frozen=True, slots=True)
class Small(Record, id=4001):
    round: int
    name: str
    weight: float = 1.0
    last: bool | None = None


@dataclass(frozen=True, slots=True)
class Chunk(Record, id=4002):
    data: Body
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Lists(Record, id=4003):
    texts: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    table: tuple[tuple[int, ...], ...] = ()
    named: dict[str, int] | None = None
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Maybe(Record, id=4004):
    data: Body | None = None


@dataclass(frozen=True, slots=True)
class Tree(Record, id=4005):
    children: tuple[Tree, ...] = ()


FLAT = Registry(Small, Chunk, Lists, Maybe)
WITH_TREE = Registry(Small, Tree)
CODEC = Codec(FLAT)
ENVELOPE = Envelope(
    Kind.ASK, "site-1/trainer", "server/job", 7, Small(3, "train"), 30_000, "trace-1", 9
)


def parts_of(envelope: Envelope, codec: Codec = CODEC) -> tuple[bytes, bytes, bytes | memoryview]:
    head, *rest = codec.encode(envelope)
    return bytes(head[:24]), bytes(head[24:]), rest[0] if rest else b""


def again(envelope: Envelope, codec: Codec = CODEC) -> Envelope:
    return codec.decode(*parts_of(envelope, codec))


def with_meta(meta: bytes, type_id: int = 4001, codec: Codec = CODEC) -> Envelope:
    header = struct.pack(">2sBBBBHQII", b"cv", 1, 2, 0, 0, type_id, 0, len(meta), 0)
    return codec.decode(header, meta)


def meta_of(fields: Any = None, **parts: Any) -> bytes:
    values = {"id": 1, "to": "", "sender": "", "deadline_ms": None, "trace": None} | parts
    return bytes(packb([*values.values(), fields]))


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_comes_back_equal(kind: Kind) -> None:
    envelope = replace(ENVELOPE, kind=kind)
    assert again(envelope) == envelope
    assert again(Envelope(kind)) == Envelope(kind)


def test_a_body_passes_both_ways_as_the_same_object() -> None:
    codec = Codec(FLAT, Limits(body_bytes=64 << 20))
    data = memoryview(bytearray(64 << 20))
    head, body = codec.encode(Envelope(Kind.CHUNK, message=Chunk(data)))
    assert body is data
    message = codec.decode(head[:24], head[24:], body).message
    assert isinstance(message, Chunk)
    assert message.data is data


def test_an_empty_body_is_not_an_absent_one() -> None:
    for message in (Maybe(None), Maybe(b"")):
        assert again(Envelope(Kind.TELL, message=message)).message == message


def header_with(**changes: Any) -> bytes:
    values = {
        "magic": b"cv",
        "version": 1,
        "kind": 2,
        "flags": 0,
        "fds": 0,
        "type_id": 0,
        "sequence": 0,
        "meta": 7,
        "body": 0,
    } | changes
    return struct.pack(">2sBBBBHQII", *values.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"magic": b"cw"},
        {"version": 0},
        {"version": 2},
        {"kind": 0},
        {"kind": 18},
        {"kind": 255},
        {"flags": 2},
        {"flags": 3},
        {"flags": 0x80},
        {"body": 1},
        {"meta": (1 << 20) + 1},
        {"flags": 1, "body": (8 << 20) + 1},
        {"meta": 2**32 - 1},
        {"flags": 1, "body": 2**32 - 1},
        {"fds": 17},
    ],
)
def test_a_bad_header_is_refused_before_anything_else(changes: dict[str, Any]) -> None:
    with pytest.raises(DecodeError, match="header"):
        CODEC.read_header(header_with(**changes))


def test_a_header_at_its_limits_is_accepted() -> None:
    CODEC.read_header(header_with(meta=1 << 20, flags=1, body=8 << 20, fds=16))


def test_lengths_must_be_those_of_the_parts() -> None:
    header, meta, _ = parts_of(ENVELOPE)
    for bad in ((header[:-1], meta, b""), (header, meta + b"\x00", b""), (header, meta, b"x")):
        with pytest.raises(DecodeError):
            CODEC.decode(*bad)


def test_announced_descriptors_must_have_come() -> None:
    meta = meta_of()
    with pytest.raises(DecodeError, match="descriptors"):
        CODEC.decode(header_with(fds=1, meta=len(meta)), meta)


BAD_METAS: list[bytes] = [
    b"",
    b"\xc0",
    b"\xc1",
    bytes(packb([1, "", "", None, None])),
    bytes(packb([1, "", "", None, None, None, None])),
    bytes(packb("abcdef")),
    bytes(packb({"a": 1})),
    meta_of() + b"\x00",
    meta_of()[:-1],
    meta_of(id=-1),
    meta_of(id=2**63),
    meta_of(id=True),
    meta_of(id=None),
    meta_of(id=1.0),
    meta_of(to=None),
    meta_of(to=b"x"),
    meta_of(sender=3),
    meta_of(deadline_ms=-1),
    meta_of(deadline_ms=1.5),
    meta_of(deadline_ms=2**64 - 1),
    meta_of(deadline_ms=False),
    meta_of(trace=1),
    meta_of(to=wire.ExtType(1, b"")),
    meta_of(trace=wire.ExtType(1, b"x")),
    meta_of(trace=wire.Timestamp(1)),
    meta_of().replace(b"\xa0", b"\xa1\xff", 1),
    meta_of({1: 2}),
    meta_of({"x": 1}),
]


@pytest.mark.parametrize("meta", BAD_METAS)
@pytest.mark.parametrize("type_id", [0, 4001])
def test_a_bad_meta_is_refused(meta: bytes, type_id: int) -> None:
    with pytest.raises(DecodeError):
        with_meta(meta, type_id)


def test_fields_go_with_a_type_id_and_only_so() -> None:
    assert with_meta(meta_of(), 0) == Envelope(Kind.ASK, id=1)
    with pytest.raises(DecodeError, match="without a type id"):
        with_meta(meta_of({}), 0)
    with pytest.raises(DecodeError, match="map"):
        with_meta(meta_of(), 4001)
    with pytest.raises(DecodeError, match="9999"):
        with_meta(meta_of({}), 9999)


@pytest.mark.parametrize("pad", [0, 5000])
def test_a_key_twice_in_one_map_is_refused(pad: int) -> None:
    pairs = b"\xa5round\x01" * 2 + b"\xa4name" + packb("x" * pad)
    meta = b"\x96\x01\xa0\xa0\xc0\xc0" + b"\x83" + pairs
    with pytest.raises(DecodeError, match="twice"):
        with_meta(meta)


# Limits, exact to the unit.

LIMITS = Limits(
    meta_bytes=3000,
    body_bytes=100,
    str_bytes=50,
    bin_bytes=40,
    array_items=30,
    map_items=20,
    containers=25,
    fds=2,
)
STRICT = Codec(FLAT, LIMITS)
AT_AND_PAST: list[tuple[str, Lists, Lists]] = [
    ("str", Lists(("é" * 25,)), Lists(("é" * 25 + "x",))),
    ("bin", Lists(raw=b"x" * 40), Lists(raw=b"x" * 41)),
    ("array", Lists(numbers=(1,) * 30), Lists(numbers=(1,) * 31)),
    (
        "map",
        Lists(named={str(i): i for i in range(20)}),
        Lists(named={str(i): i for i in range(21)}),
    ),
    ("containers", Lists(table=((),) * 20), Lists(table=((),) * 21)),
]


@pytest.mark.parametrize(("name", "at", "past"), AT_AND_PAST)
def test_a_value_at_a_limit_passes_and_one_past_it_does_not(
    name: str, at: Lists, past: Lists
) -> None:
    assert again(Envelope(Kind.TELL, message=at), STRICT).message == at
    envelope = Envelope(Kind.TELL, message=past)
    with pytest.raises(LocalProtocolError):
        STRICT.encode(envelope)
    with pytest.raises(DecodeError):
        STRICT.decode(*parts_of(envelope))


def test_the_meta_and_body_limits_are_exact() -> None:
    base = len(parts_of(Envelope(Kind.TELL, message=Small(1, "")))[1])
    codec = Codec(FLAT, Limits(meta_bytes=base + 20, body_bytes=10))
    for length, fits in ((20, True), (21, False)):
        envelope = Envelope(Kind.TELL, message=Small(1, "x" * length))
        assert len(parts_of(envelope)[1]) == base + length
        if fits:
            assert again(envelope, codec) == envelope
        else:
            with pytest.raises(LocalProtocolError, match="Small"):
                codec.encode(envelope)
    assert again(Envelope(Kind.CHUNK, message=Chunk(b"x" * 10)), codec)
    with pytest.raises(LocalProtocolError, match="body"):
        codec.encode(Envelope(Kind.CHUNK, message=Chunk(b"x" * 11)))


def nested(depth: int) -> Tree:
    tree = Tree()
    for _ in range(depth - 1):
        tree = Tree((tree,))
    return tree


def test_depth_is_exact_for_a_record_that_contains_its_like() -> None:
    # The meta array, then a map and an array per tree.
    codec = Codec(WITH_TREE, Limits(depth=7))
    at, past = Envelope(Kind.TELL, message=nested(3)), Envelope(Kind.TELL, message=nested(4))
    assert again(at, codec) == at
    with pytest.raises(LocalProtocolError, match="deeper"):
        codec.encode(past)
    with pytest.raises(DecodeError, match="deep"):
        codec.decode(*parts_of(past, Codec(WITH_TREE)))


@pytest.mark.parametrize(
    "changes",
    [
        {"id": -1},
        {"id": 2**63},
        {"id": True},
        {"to": None},
        {"sender": b"x"},
        {"deadline_ms": -1},
        {"deadline_ms": 1.5},
        {"deadline_ms": 2**63},
        {"trace": 3},
        {"sequence": -1},
        {"sequence": 2**64},
        {"to": "\ud800"},
        {"fds": tuple(range(17))},
        {"message": Small(2**63, "x")},
        {"message": Small(-(2**63) - 1, "x")},
        {"message": Small(2**64, "x")},
        {"message": Small(1, "\udfff")},
        {"message": Small(1, "x" * 65_537)},
    ],
)
def test_what_the_peer_would_refuse_is_not_sent(changes: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        CODEC.encode(replace(ENVELOPE, **changes))
    assert again(ENVELOPE) == ENVELOPE  # a failed call leaves nothing behind


def test_numbers_at_their_ends_come_back_equal() -> None:
    for number in (-(2**63), 2**63 - 1, 2**32, -(2**31) - 1, 0xCF):
        envelope = replace(ENVELOPE, message=Small(number, "x"), sequence=2**64 - 1)
        assert again(envelope) == envelope
    envelope = replace(ENVELOPE, id=2**63 - 1, deadline_ms=2**63 - 1)
    assert again(envelope) == envelope


@pytest.mark.parametrize("pad", [0, 5000])
def test_an_int_past_63_bits_is_refused_wherever_it_stands(pad: int) -> None:
    text = "x" * pad
    for fields in ({"round": 2**63, "name": text}, {"round": 1, "name": text, "last": [2**64 - 1]}):
        with pytest.raises(DecodeError):
            with_meta(meta_of(fields))
    big = {"texts": [text], "numbers": [1, 2**63], "table": [], "named": None, "raw": b""}
    with pytest.raises(DecodeError, match="int past"):
        with_meta(meta_of(big), 4003)


def test_descriptors_are_counted_in_the_header_and_handed_over_beside_it() -> None:
    with open(os.devnull, "rb") as file:
        envelope = Envelope(Kind.TELL, fds=(file.fileno(),))
        header, meta, body = parts_of(envelope)
        assert header[5] == 1
        assert CODEC.decode(header, meta, body, envelope.fds) == envelope


def test_kind_numbers_never_change() -> None:
    names = "TELL ASK REPLY ERROR OPEN CREDIT CHUNK END CANCEL DOWN HELLO WELCOME GOAWAY PING"
    later = ["WATCH", "UNWATCH", "ROUTE"]
    numbered = {kind.name: kind.value for kind in Kind}
    assert numbered == {name: number for number, name in enumerate([*names.split(), *later], 1)}
