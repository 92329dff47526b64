"""Golden envelopes: bytes of wire version 1 that are read, and written, the same for ever.

Each file in `golden/` holds one frame. To add a case, add it to `CASES` and run this file as a
script: it writes the files that are missing and never touches one that is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path

import pytest

from covey.transport import Body, Codec, Envelope, FrameReader, Kind, Record, Registry, Scalar

GOLDEN = Path(__file__).parent / "golden"


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 2


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: float


@dataclass(frozen=True, slots=True)
class Left(Record, id=60_001):
    a: int


@dataclass(frozen=True, slots=True)
class Right(Record, id=60_002):
    b: str


@dataclass(frozen=True, slots=True)
class Scalars(Record, id=60_003):
    flag: bool
    small: int
    large: int
    negative: int
    real: float
    text: str
    raw: bytes
    nothing: int | None
    colour: Colour
    level: Level
    free: Scalar = 1.5


@dataclass(frozen=True, slots=True)
class Nested(Record, id=60_004):
    numbers: tuple[int, ...]
    pair: tuple[str, float]
    table: dict[str, float]
    points: tuple[Point, ...]
    either: Left | Right
    perhaps: Left | Right | None = None


@dataclass(frozen=True, slots=True)
class Payload(Record, id=60_005):
    offset: int
    data: Body | None = None


CODEC = Codec(Registry(Left, Right, Scalars, Nested, Payload))
SCALARS = Scalars(
    True,
    7,
    2**63 - 1,
    -(2**63),
    0.1,
    "häßlich \U0001f426",
    b"\x00\xff",
    None,
    Colour.RED,
    Level.HIGH,
)
NESTED = Nested(
    numbers=(0, 127, 128, 255, 256, 65_535, 65_536, 2**32, -1, -32, -33, -128, -129, -(2**31)),
    pair=("loss", float("-inf")),
    table={"a": 1.0, "b": -0.0},
    points=(Point(1, 2.0), Point(3, 4.0)),
    either=Right("right"),
    perhaps=Left(1),
)
CASES: dict[str, Envelope] = {
    **{f"kind-{kind.name.lower()}": Envelope(kind) for kind in Kind},
    "addressed": Envelope(Kind.ASK, "site-1/trainer", "server/job-7", 42, Left(1), 30_000, "t-1"),
    "largest-numbers": Envelope(
        Kind.REPLY, id=2**63 - 1, deadline_ms=2**63 - 1, sequence=2**64 - 1
    ),
    "scalars": Envelope(Kind.TELL, message=SCALARS),
    "nested": Envelope(Kind.TELL, message=NESTED),
    "long": Envelope(
        Kind.TELL,
        "t" * 300,
        message=Nested(tuple(range(4000)), ("x" * 60_000, 0.5), {}, (), Left(0)),
    ),
    "body": Envelope(Kind.CHUNK, id=5, message=Payload(1 << 40, bytes(range(256)) * 3), sequence=1),
    "body-empty": Envelope(Kind.CHUNK, message=Payload(0, b"")),
    "body-absent": Envelope(Kind.CHUNK, message=Payload(0)),
    "descriptors": Envelope(Kind.TELL, fds=(10, 11)),
}


def frame_of(envelope: Envelope) -> bytes:
    return b"".join(bytes(part) for part in CODEC.encode(envelope))


@pytest.mark.parametrize("name", CASES)
def test_a_golden_frame_is_read_and_written_as_ever(name: str) -> None:
    frame = (GOLDEN / f"{name}.bin").read_bytes()
    assert frame_of(CASES[name]) == frame
    header, rest = frame[:24], frame[24:]
    values = CODEC.read_header(header)
    decoded = CODEC.decode(header, rest[: values[5]], rest[values[5] :], CASES[name].fds)
    assert decoded == CASES[name]
    assert frame_of(decoded) == frame


def test_a_stream_of_all_golden_frames_is_read_in_order() -> None:
    names = [name for name in CASES if not CASES[name].fds]
    stream = b"".join((GOLDEN / f"{name}.bin").read_bytes() for name in names)
    assert FrameReader(CODEC).feed(stream) == [CASES[name] for name in names]


def test_every_golden_file_has_its_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.bin")} == set(CASES)


def write_missing() -> list[str]:
    """Write the frames of new cases; `x` refuses a file that is there."""
    written: list[str] = []
    for name, envelope in CASES.items():
        path = GOLDEN / f"{name}.bin"
        if not path.exists():
            with path.open("xb") as file:
                file.write(frame_of(envelope))
            written.append(name)
    return written


if __name__ == "__main__":
    print("written:", ", ".join(write_missing()) or "nothing, all are there")  # noqa: T201
