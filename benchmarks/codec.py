"""The codec: envelopes to bytes and back, beside what msgpack alone costs for the same values."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]

from covey.actors.downloads.blobs import BlobRef
from covey.actors.roles.messages import Assign, Submit, Update, role_messages
from covey.actors.runtime import runtime_messages
from covey.transport import Codec, Envelope, FrameReader, Kind, Registry
from covey.transport.codec import HEADER_BYTES

from .results import Row

_msgpack: Any = msgpack
_TURNS = 7


def run(folder: Path, quick: bool) -> list[Row]:
    """Microseconds of CPU time per envelope, the contenders taking turns."""
    del folder
    registry = Registry(*runtime_messages(), *role_messages())
    registry.freeze()
    codec = Codec(registry)
    calls = 2_000 if quick else 10_000
    rows: list[Row] = []
    for name, envelope in _envelopes().items():
        took, size = _time(codec, envelope, calls)
        for way, raw in (("encode", "pack"), ("decode", "unpack")):
            note = f"{took[way] / took[raw]:.1f} x msgpack alone; {size} bytes"
            rows.append(Row(f"{way} {name}", f"{took[way] * 1e6:.1f} us", note, "", took[way]))
    return rows


def _time(codec: Codec, envelope: Envelope, calls: int) -> tuple[dict[str, float], int]:
    """CPU seconds of each contender on one envelope, and the size of its frame."""
    frame = b"".join(codec.encode(envelope))
    meta = frame[HEADER_BYTES:]
    plain, reader = _msgpack.unpackb(meta), FrameReader(codec)
    contenders: dict[str, Callable[[], object]] = {
        "encode": lambda: codec.encode(envelope),
        "decode": lambda: reader.feed(frame),
        "pack": lambda: _msgpack.packb(plain),
        "unpack": lambda: _msgpack.unpackb(meta),
    }
    return _take_turns(contenders, calls), len(frame)


def _envelopes() -> dict[str, Envelope]:
    """A task to a trainer, and a result with metrics."""
    blob = BlobRef(bytes(32), 16_000)
    to, sender = "site-1/trainer-20260101T000000Z-abcdef", "server/job-20260101T000000Z-abcdef"
    update = Update(blob, metrics={"accuracy": 0.9, "loss": 0.1}, seconds=1.5, evaluates=True)
    return {
        "a task": Envelope(
            Kind.ASK,
            to,
            sender,
            7,
            Assign("20260101T000000Z-abcdef", "train", 3, 4, 10, blob),
            30_000,
        ),
        "a result": Envelope(
            Kind.ASK, sender, to, 8, Submit("site-1", "train", 3, 1, update), 30_000
        ),
    }


def _take_turns(contenders: dict[str, Callable[[], object]], calls: int) -> dict[str, float]:
    """CPU seconds of one call, the median of some turns."""
    took: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(_TURNS):
        for name, call in contenders.items():
            began = time.process_time()
            for _ in range(calls):
                call()
            took[name].append((time.process_time() - began) / calls)
    return {name: statistics.median(times) for name, times in took.items()}
