"""FrameReader: the same envelopes however the bytes come."""

from __future__ import annotations

import os
import tracemalloc
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
)


@dataclass(frozen=True, slots=True)
class Chunk(Record, id=6001):
    name: str
    data: Body


CODEC = Codec(Registry(Chunk))
ENVELOPES = [
    Envelope(Kind.PING),
    Envelope(Kind.CHUNK, "a/b", "c/d", 5, Chunk("first", b"0123456789"), 10, "t", 1),
    Envelope(Kind.CHUNK, message=Chunk("empty", b"")),
    Envelope(Kind.CHUNK, message=Chunk("x" * 300, bytes(range(256)))),
    Envelope(Kind.GOAWAY, id=2**40),
]
STREAM = b"".join(bytes(part) for envelope in ENVELOPES for part in CODEC.encode(envelope))


def test_one_feed_gives_all() -> None:
    reader = FrameReader(CODEC)
    assert reader.feed(STREAM) == ENVELOPES
    assert reader.pending == 0
    reader.eof()


@pytest.mark.parametrize("size", [1, 2, 7, 23, 24, 25, 100])
def test_pieces_of_any_size_give_the_same(size: int) -> None:
    reader = FrameReader(CODEC)
    got: list[Envelope] = []
    for start in range(0, len(STREAM), size):
        got += reader.feed(STREAM[start : start + size])
    assert got == ENVELOPES
    reader.eof()


def test_a_split_at_every_boundary_gives_the_same() -> None:
    for cut in range(len(STREAM) + 1):
        reader = FrameReader(CODEC)
        assert reader.feed(STREAM[:cut]) + reader.feed(STREAM[cut:]) == ENVELOPES


@given(st.lists(st.integers(0, len(STREAM)), max_size=12), st.booleans())
def test_any_splits_give_the_same_and_the_buffer_may_be_used_again(
    cuts: list[int], empty: bool
) -> None:
    reader = FrameReader(CODEC)
    bounds = [0, *sorted(cuts), len(STREAM)]
    buffer = bytearray(len(STREAM))
    got: list[Envelope] = []
    for start, end in pairwise(bounds):
        buffer[: end - start] = STREAM[start:end]
        got += reader.feed(memoryview(buffer)[: end - start])
        buffer[:] = b"\xff" * len(buffer)
        if empty:
            assert reader.feed(b"") == []
    assert got == ENVELOPES


def test_the_end_of_the_stream_within_a_frame_is_an_error() -> None:
    for cut in range(1, len(STREAM)):
        reader = FrameReader(CODEC)
        reader.feed(STREAM[:cut])
        if reader.pending:
            with pytest.raises(DecodeError, match="ended after"):
                reader.eof()
            assert reader.pending == 0
        else:
            reader.eof()


def test_envelopes_before_a_bad_frame_are_given_then_the_error() -> None:
    reader = FrameReader(CODEC)
    assert reader.feed(STREAM + b"x" * 24) == ENVELOPES
    assert isinstance(reader.error, DecodeError)
    with pytest.raises(DecodeError):
        reader.feed(STREAM)
    with pytest.raises(DecodeError):
        reader.eof()


def test_a_bad_frame_alone_is_raised_at_once() -> None:
    reader = FrameReader(CODEC)
    with pytest.raises(DecodeError):
        reader.feed(b"x" * 24)


def test_a_frame_too_large_is_refused_at_its_header() -> None:
    header = bytearray(CODEC.encode(ENVELOPES[1])[0][:24])
    header[20:24] = (100 << 20).to_bytes(4, "big")
    for before in (0, 10):
        reader = FrameReader(CODEC)
        reader.feed(header[:before])
        with pytest.raises(DecodeError, match="past limits"):
            reader.feed(header[before:])
        assert reader.pending == 0


def test_a_body_in_pieces_is_stored_once() -> None:
    body = bytes(8 << 20)
    head, data = CODEC.encode(Envelope(Kind.CHUNK, message=Chunk("big", body)))
    reader = FrameReader(CODEC)
    tracemalloc.start()
    try:
        got = reader.feed(head)
        for start in range(0, len(data), 1 << 16):
            got += reader.feed(memoryview(data)[start : start + (1 << 16)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = got[0].message
    assert isinstance(message, Chunk)
    assert message.data == body
    assert memoryview(message.data).readonly
    assert peak < len(body) + (1 << 20)


def open_file() -> int:
    return os.open(os.devnull, os.O_RDONLY)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_descriptors_go_to_the_envelope_that_announces_them() -> None:
    fds = (open_file(), open_file())
    stream = b"".join(
        CODEC.encode(Envelope(Kind.PING))
        + CODEC.encode(Envelope(Kind.TELL, fds=fds))
        + CODEC.encode(Envelope(Kind.PING))
    )
    reader = FrameReader(CODEC)
    got = reader.feed(stream[:-40], fds) + reader.feed(stream[-40:])
    assert [envelope.fds for envelope in got] == [(), fds, ()]
    reader.close()
    for fd in fds:
        os.close(fd)


def test_descriptors_that_nobody_announces_are_an_error_and_closed() -> None:
    fd = open_file()
    reader = FrameReader(CODEC)
    assert reader.feed(STREAM, (fd,)) == ENVELOPES
    assert reader.error is not None
    reader.close()
    assert not is_open(fd)


def test_descriptors_of_a_bad_envelope_are_closed() -> None:
    fd = open_file()
    frame = bytearray(CODEC.encode(Envelope(Kind.TELL, fds=(fd,)))[0])
    frame[-1] = 0xC1
    reader = FrameReader(CODEC)
    with pytest.raises(DecodeError):
        reader.feed(frame, (fd,))
    reader.close()
    assert not is_open(fd)


def test_descriptors_announced_but_missing_are_an_error() -> None:
    fd = open_file()
    frame = CODEC.encode(Envelope(Kind.TELL, fds=(fd, fd)))[0]
    reader = FrameReader(CODEC)
    with pytest.raises(DecodeError, match="2 descriptors announced, 1 came"):
        reader.feed(frame, (fd,))
    reader.close()
    assert not is_open(fd)


LARGE = Envelope(Kind.CHUNK, message=Chunk("large", bytes(range(256)) * 600))
LARGE_STREAM = STREAM + b"".join(bytes(part) for part in CODEC.encode(LARGE)) + STREAM


@settings(deadline=None)
@given(st.lists(st.integers(50, 60_000), min_size=1, max_size=30))
def test_a_body_that_is_put_in_its_place_gives_the_same(sizes: list[int]) -> None:
    reader = FrameReader(CODEC)
    got: list[Envelope] = []
    rest = memoryview(LARGE_STREAM)
    direct = turn = 0
    while rest:
        size = sizes[turn % len(sizes)]
        turn += 1
        into = reader.destination()
        if into is None:
            got += reader.feed(rest[:size])
            rest = rest[size:]
            continue
        count = min(size, len(into), len(rest))
        into[:count] = rest[:count]
        rest = rest[count:]
        direct += count
        envelope = reader.filled(count)
        got += [] if envelope is None else [envelope]
    assert got == [*ENVELOPES, LARGE, *ENVELOPES]
    assert reader.pending == 0
    if max(sizes) < 10_000:
        assert direct > 100_000


def test_small_bodies_and_small_rests_have_no_destination() -> None:
    reader = FrameReader(CODEC)
    head, body = (bytes(part) for part in CODEC.encode(LARGE))
    assert reader.destination() is None
    reader.feed(head[:-1])
    assert reader.destination() is None
    reader.feed(head[-1:])
    into = reader.destination()
    assert into is not None
    assert len(into) == len(body)
    into[:] = body
    assert reader.filled(len(body) - 1000) is None
    assert reader.destination() is None
    assert reader.feed(body[-1000:]) == [LARGE]


@given(st.integers(1, len(STREAM)))
def test_one_at_a_time_gives_the_same_and_takes_nothing_beyond(size: int) -> None:
    reader = FrameReader(CODEC)
    got: list[Envelope] = []
    position = 0
    while position < len(STREAM):
        taken, envelope = reader.feed_one(memoryview(STREAM)[position : position + size])
        assert 0 < taken <= size
        position += taken
        if envelope is not None:
            got.append(envelope)
            assert reader.pending == 0
    assert got == ENVELOPES


def test_after_a_bad_frame_none_is_taken_one_at_a_time_either() -> None:
    reader = FrameReader(CODEC)
    for _ in range(2):
        with pytest.raises(DecodeError, match="begin an envelope"):
            reader.feed_one(memoryview(b"x" * 100))


def test_a_bad_frame_whose_body_was_put_in_its_place_is_told() -> None:
    frame = b"".join(CODEC.encode(LARGE))
    reader = FrameReader(Codec(Registry()))  # which knows no such record
    reader.feed(frame[:100])
    into = reader.destination()
    assert into is not None
    with pytest.raises(DecodeError, match="type id"):
        reader.filled(len(into))
    with pytest.raises(DecodeError, match="type id"):
        reader.feed(STREAM)
    assert reader.pending == 0


def test_another_codec_counts_from_the_next_frame_on() -> None:
    reader = FrameReader(CODEC)
    frame = b"".join(CODEC.encode(ENVELOPES[1]))
    assert reader.feed(frame) == [ENVELOPES[1]]
    reader.use(Codec(Registry(Chunk), Limits(body_bytes=5)))
    with pytest.raises(DecodeError, match="past limits"):
        reader.feed(frame)
