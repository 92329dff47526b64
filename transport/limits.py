"""Limits: the most a decoder takes from a peer.

Here: the numbers, each with its reason. Not here: their enforcement (`codec.py`, `unpacking.py`,
`frames.py`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one envelope may hold; the same numbers bind the encoder and the decoder.

    A value at a limit is accepted, one past it is refused. Counts are of one envelope.

    Attributes:
        meta_bytes: The msgpack part. 1 MiB: the worst accepted input of this size (two-byte
            strings) takes about twenty times as much memory once decoded.
        body_bytes: The payload beside it. 8 MiB: a chunk and slack; bigger things are pulled.
        str_bytes: One string, in UTF-8.
        bin_bytes: One `bytes` value inside the msgpack part.
        array_items: One array.
        map_items: One map; every map is also a record or a dict with string keys.
        containers: Arrays and maps in all: a byte can claim one, and each costs 50-230 bytes.
        depth: Arrays and maps inside each other, counting the meta array itself.
        fds: File descriptors of one envelope (Linux passes at most 253 at once).
    """

    meta_bytes: int = 1 << 20
    body_bytes: int = 8 << 20
    str_bytes: int = 64 << 10
    bin_bytes: int = 1 << 20
    array_items: int = 4096
    map_items: int = 1024
    containers: int = 20_000
    depth: int = 16
    fds: int = 16
