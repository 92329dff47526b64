"""Codec: envelopes to bytes and back.

Here: the fixed header, the msgpack part, and the checks of both (`docs/wire.md` has the byte
tables). Sans-IO; a body passes through untouched in both directions.
Not here: where frames begin and end in a stream (`frames.py`), records (`registry.py`), limits of
msgpack (`unpacking.py`).
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from .converters import LARGEST_INT
from .envelope import Envelope, Kind
from .errors import DecodeError, LocalProtocolError
from .limits import Limits
from .record import Body, Record
from .registry import Registry
from .unpacking import Unpacking

MAGIC: Final = b"cv"
VERSION: Final = 1

#: magic, version, kind, flags, fd count, type id, sequence, meta length, body length.
_HEADER: Final = struct.Struct(">2sBBBBHQII")
HEADER_BYTES: Final = _HEADER.size

#: The only flag of version 1: the message has a body, though it may be empty.
_HAS_BODY: Final = 0x01

_KINDS: Final[dict[int, Kind]] = {kind.value: kind for kind in Kind}
_LARGEST_SEQUENCE: Final = 2**64 - 1

#: What the peer's bytes may stand in; they are read at once and never kept, a body apart.
Readable = bytes | bytearray | memoryview

#: type id, kind, has a body, fd count, sequence, meta length, body length: a header as checked.
Header = tuple[int, Kind, int, int, int, int, int]


class Codec:
    """Encodes and decodes the envelopes of one node; shared by its links, used by one thread.

    Args:
        registry: The records it knows.
        limits: What it takes from a peer, and what it refuses to send.
    """

    __slots__ = ("_packer", "_registry", "_unpacking", "_verify_bytes", "limits")

    def __init__(self, registry: Registry, limits: Limits | None = None) -> None:
        self.limits = limits if limits is not None else Limits()
        self._registry = registry
        self._unpacking = Unpacking(self.limits)
        self._packer = msgpack.Packer()
        limits = self.limits
        # A meta part this small cannot break any limit but depth.
        self._verify_bytes = min(
            limits.meta_bytes,
            limits.str_bytes,
            limits.bin_bytes,
            limits.array_items,
            limits.map_items,
            limits.containers,
        )

    def encode(self, envelope: Envelope) -> list[bytes | memoryview]:
        """The frame in one or two pieces: header and meta, then the body itself.

        Raises:
            LocalProtocolError: If a value is out of its range, or the peer's limits (taken to
                be ours) would refuse the frame.
        """
        message = envelope.message
        if message is None:
            type_id, fields, body = 0, None, None
        else:
            type_id, fields, body = self._registry.pack(message)
        try:
            meta: bytes = self._packer.pack(
                (
                    envelope.id,
                    envelope.to,
                    envelope.sender,
                    envelope.deadline_ms,
                    envelope.trace,
                    fields,
                )
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise LocalProtocolError(_label(envelope), str(error)) from error
        body_length = 0 if body is None else len(body)
        head = _HEADER.pack(
            MAGIC,
            VERSION,
            envelope.kind,
            0 if body is None else _HAS_BODY,
            len(envelope.fds),
            type_id,
            envelope.sequence,
            len(meta),
            body_length,
        )
        return [head + meta, body] if body_length and body is not None else [head + meta]

    def read_header(self, data: Readable, offset: int = 0) -> Header:
        """Check the 24 bytes of a header and give its values.

        Raises:
            DecodeError: If it is no header of this version, or announces more than the limits.
        """
        magic, version, kind_number, flags, fd_count, type_id, sequence, meta, body = (
            _HEADER.unpack_from(data, offset)
        )
        if magic != MAGIC or version != VERSION:
            raise DecodeError("header", f"it does not begin an envelope of version {VERSION}")
        kind = _KINDS.get(kind_number)
        if kind is None:
            raise DecodeError("header", f"kind {kind_number} is unknown")
        limits = self.limits
        if meta > limits.meta_bytes or body > limits.body_bytes or fd_count > limits.fds:
            raise DecodeError("header", f"meta {meta}, body {body}, fds {fd_count} past limits")
        if flags != _HAS_BODY and (flags or body):
            raise DecodeError("header", f"flags {flags:#x} with a body of {body} bytes")
        return type_id, kind, flags, fd_count, sequence, meta, body

    def decode(
        self,
        header: Readable,
        meta: Readable,
        body: Body = b"",
        fds: tuple[int, ...] = (),
    ) -> Envelope:
        """The envelope of one frame; the body becomes the record's field as it is.

        Raises:
            DecodeError: For anything that is not an envelope of this registry and limits.
        """
        if len(header) != HEADER_BYTES:
            raise DecodeError("header", f"{len(header)} bytes, not {HEADER_BYTES}")
        values = self.read_header(header)
        if values[5] != len(meta) or values[6] != len(body):
            raise DecodeError("header", "its lengths are not those of the parts")
        return self.decode_parts(values, meta, body, fds)

    def decode_parts(
        self, header: Header, meta: Readable, body: Body, fds: tuple[int, ...] = ()
    ) -> Envelope:
        """As `decode`, for a header from `read_header` and parts of its lengths."""
        type_id, kind, has_body, fd_count, sequence, _, _ = header
        parts = self._unpacking.unpack(meta)
        if type(parts) is not tuple or len(parts) != 6:
            raise DecodeError("meta", "it is not an array of six")
        id_, to, sender, deadline_ms, trace, fields = parts
        if type(to) is not str or type(sender) is not str:
            raise DecodeError("meta", "an address is not a str")
        if type(id_) is not int or not 0 <= id_ <= LARGEST_INT:
            raise DecodeError("meta", "the id is not an int from 0 to 2**63 - 1")
        if deadline_ms is not None and (
            type(deadline_ms) is not int or not 0 <= deadline_ms <= LARGEST_INT
        ):
            raise DecodeError("meta", "the deadline is not an int from 0 to 2**63 - 1")
        if trace is not None and type(trace) is not str:
            raise DecodeError("meta", "the trace is not a str")
        if len(fds) != fd_count:
            raise DecodeError("header", f"{fd_count} descriptors announced, {len(fds)} came")
        message: Record | None = None
        if type_id:
            message = self._registry.unpack(type_id, fields, body if has_body else None)
        elif fields is not None or has_body:
            raise DecodeError("meta", "fields or a body without a type id")
        return Envelope(kind, to, sender, id_, message, deadline_ms, trace, sequence, fds)


def _label(envelope: Envelope) -> Any:
    message = envelope.message
    return envelope.kind.name if message is None else type(message).__qualname__
