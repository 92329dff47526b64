"""Transport: bytes, addresses and links between nodes; no actor, no tensor.

Records declare what may cross a wire, a `Registry` closes the table of them, a `Codec` turns
envelopes into bytes within `Limits`, and a `Link` carries envelopes in order: `MemoryLink`
within a loop, `SocketLink` between processes of one host, `BlockingLink` for plain scripts.
Stands on the standard library and msgpack only.
"""

from __future__ import annotations

from .blocking import BlockingLink
from .codec import Codec
from .envelope import Envelope, Kind
from .errors import (
    DecodeError,
    LinkClosed,
    LinkFull,
    LocalProtocolError,
    Refused,
    RemoteProtocolError,
    SchemaError,
    TransportError,
)
from .frames import FrameReader
from .limits import Limits
from .link import Link, LinkStatistics
from .memory import MemoryLink, memory_pair
from .record import Body, Record, Scalar
from .registry import Registry
from .sockets import SocketLink

__all__ = [
    "BlockingLink",
    "Body",
    "Codec",
    "DecodeError",
    "Envelope",
    "FrameReader",
    "Kind",
    "Limits",
    "Link",
    "LinkClosed",
    "LinkFull",
    "LinkStatistics",
    "LocalProtocolError",
    "MemoryLink",
    "Record",
    "Refused",
    "Registry",
    "RemoteProtocolError",
    "Scalar",
    "SchemaError",
    "SocketLink",
    "TransportError",
    "memory_pair",
]
