"""Hostile input: little memory, one kind of error."""

from __future__ import annotations

import random
import struct
import tracemalloc
from dataclasses import dataclass

import pytest

from covey.transport import (
    Body,
    Codec,
    DecodeError,
    Envelope,
    FrameReader,
    Kind,
    Limits,
    Record,
    Registry,
    TransportError,
)
from covey.transport.unpacking import Unpacking, scan


@dataclass(frozen=True, slots=True)
class Inner:
    key: str
    value: float


@dataclass(frozen=True, slots=True)
class Mixed(Record, id=5001):
    round: int
    name: str
    weights: dict[str, float]
    inner: tuple[Inner, ...]
    data: Body
    maybe: int | None = None


CODEC = Codec(Registry(Mixed))
FRAME = b"".join(
    CODEC.encode(
        Envelope(
            Kind.ASK,
            "site-1/x",
            "server/y",
            3,
            Mixed(1, "train", {"a": 0.5, "b": 1.5}, (Inner("k", 2.5),), b"0123456789", 4),
            1000,
            "trace",
            5,
        )
    )
)

MEBIBYTE = 1 << 20
EMPTY_MAPS = b"\xdc\x10\x00" + b"\x80" * 4096
HOSTILE: dict[str, bytes] = {
    "a million empty maps": b"\xdd\x00\x0f\xff\xf0" + b"\x80" * (MEBIBYTE - 5),
    "empty maps within the array limit": b"\xdc\x00\xff" + EMPTY_MAPS * 255,
    "claims 2**32 - 1 items": b"\xdd\xff\xff\xff\xff",
    "claims 2**32 - 1 entries": b"\xdf\xff\xff\xff\xff",
    "a thousand claims of 4096 items": b"\xdc\x10\x00" * 1000,
    "a thousand claims of 1024 entries": b"\xde\x04\x00\xa1x" * 1000,
    "claims behind a mebibyte of text": b"\xdc\x10\x00" + b"\xa1x" * 4000 + b"\xdc\x10\x00" * 3000,
    "claims among decoys": (b"\xdc\x10\x00" + b"\xa2\xdc\xdd") * 5000,
    "nested small arrays": b"\x91" * MEBIBYTE,
    "nested small maps": b"\x81\xa1x" * (MEBIBYTE // 3),
    "a deep but legal depth of msgpack": b"\x91" * 1000 + b"\xc0",
    "long text": b"\xdb\x00\x0f\x00\x00" + b"x" * (MEBIBYTE - MEBIBYTE // 16),
    "short texts": (b"\xdc\x10\x00" + b"\xa1\x7f" * 4096) * 127,
    "short texts in arrays": b"\xdc\x00\x7f" + (b"\xdc\x10\x00" + b"\xa1\x7f" * 4096) * 127,
    "ints": b"\xdc\x00\x71" + (b"\xdc\x10\x00" + b"\xcd\x7f\x01" * 4096) * 85,
    "nils": b"\xdc\x00\xff" + (b"\xdc\x10\x00" + b"\xc0" * 4096) * 255,
    "extensions": b"\xdc\x10\x00" + b"\xd4\x01\x00" * 4096,
    "a timestamp past all time": b"\xc7\x0c\xff" + b"\xff" * 12,
    "invalid utf-8": b"\x92\xa2\xc3\x28\xc0",
    "never used": b"\xc1" * 5000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_msgpack_is_refused_with_bounded_memory(name: str) -> None:
    meta = HOSTILE[name][:MEBIBYTE]
    header = struct.pack(">2sBBBBHQII", b"cv", 1, 2, 0, 0, 5001, 0, len(meta), 0)
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            CODEC.decode(header, meta)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Two-byte texts are the worst that a limit does not stop: 23 times their size.
    worst = 26 if "short texts" in name else 14
    assert peak < worst * MEBIBYTE


def test_container_bombs_stop_early() -> None:
    unpacking = Unpacking(Limits())
    for name in HOSTILE:
        if "claim" in name or "maps" in name or "nested" in name:
            tracemalloc.start()
            try:
                with pytest.raises(DecodeError):
                    unpacking.unpack(HOSTILE[name][:MEBIBYTE])
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert peak < 5 * MEBIBYTE, name


def test_large_honest_input_passes_the_scan() -> None:
    unpacking = Unpacking(Limits())
    codec = Codec(Registry(Mixed))
    many = tuple(Inner(f"k{i}", i * 1.1) for i in range(4000))
    message = Mixed(1, "n", {chr(0x700 + i): i / 7 for i in range(1000)}, many, b"")
    head, *_ = codec.encode(Envelope(Kind.TELL, message=message))
    meta = bytes(head[24:])
    assert sum(meta.count(bytes([b])) for b in (0xDC, 0xDD, 0xDE, 0xDF)) > 64
    assert unpacking.unpack(meta)
    assert codec.decode(head[:24], meta).message == message


@pytest.mark.parametrize("depth", [1, 2, 16, 17, 40])
@pytest.mark.parametrize("shape", ["small", "array16", "array32", "map16", "map32", "siblings"])
def test_the_scan_counts_depth_as_the_decoder_does(shape: str, depth: int) -> None:
    opening = {
        "small": b"\x91",
        "array16": b"\xdc\x00\x01",
        "array32": b"\xdd\x00\x00\x00\x01",
        "map16": b"\xde\x00\x01\xa1k",
        "map32": b"\xdf\x00\x00\x00\x01\xa1k",
        "siblings": b"\x98\xc0\x05\xcb12345678\xa3\xdc\xdd\xde\xc4\x02\xdc\xdc\xc3\xd9\x01x",
    }[shape]
    part = opening * depth + b"\xc0"
    if depth > 16:
        with pytest.raises(DecodeError, match="deeper"):
            scan(part, Limits())
    else:
        scan(part, Limits())


def outcome(frame: bytes) -> str:
    """Feed a frame: an envelope or a transport error, and nothing else."""
    reader = FrameReader(CODEC)
    try:
        envelopes = reader.feed(frame)
        reader.eof()
    except TransportError as error:
        return type(error).__name__
    assert all(type(envelope) is Envelope for envelope in envelopes)
    return "envelope"


def test_any_change_of_one_byte_gives_an_envelope_or_a_transport_error() -> None:
    seen: set[str] = set()
    for position in range(len(FRAME)):
        for value in range(256):
            changed = bytearray(FRAME)
            changed[position] = value
            seen.add(outcome(bytes(changed)))
    assert seen == {"envelope", "DecodeError"}


def test_any_truncation_insertion_or_deletion_gives_the_same() -> None:
    generator = random.Random(20_240_601)
    for position in range(len(FRAME)):
        assert outcome(FRAME[:position]) == ("DecodeError" if position else "envelope")
        outcome(FRAME[:position] + FRAME[position + 1 :])
        outcome(FRAME[:position] + generator.randbytes(1) + FRAME[position:])


def test_random_changes_of_many_bytes_give_the_same() -> None:
    generator = random.Random(7)
    for _ in range(20_000):
        changed = bytearray(FRAME)
        for _ in range(generator.randint(1, 8)):
            changed[generator.randrange(24, len(FRAME))] = generator.randrange(256)
        outcome(bytes(changed))


def test_random_bytes_after_a_good_header_give_the_same() -> None:
    generator = random.Random(11)
    for _ in range(20_000):
        meta = generator.randbytes(generator.randint(0, 40))
        header = struct.pack(">2sBBBBHQII", b"cv", 1, 2, 0, 0, 5001, 0, len(meta), 0)
        outcome(header + meta)
