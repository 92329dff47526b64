"""Codec: envelopes to bytes and back.

Here: the fixed header, the msgpack part, and the checks of both (`docs/wire.md` has the byte
tables). Sans-IO; a body passes through untouched in both directions.
Not here: where frames begin and end in a stream (`frames.py`), records (`registry.py`), limits of
msgpack (`unpacking.py`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from .envelope import Envelope, Kind
from .errors import DecodeError, LocalProtocolError
from .limits import Limits
from .record import Body, Record
from .registry import Registry
from .unpacking import LARGEST_INT, UINT64, Readable, Unpacking, nests_deeper, small_bytes

# msgpack has no types.
_msgpack: Any = msgpack

MAGIC: Final = b"cv"
VERSION: Final = 1

_START: Final = MAGIC + bytes([VERSION])

#: magic and version, kind, flags, fd count, type id, sequence, meta length, body length.
_HEADER: Final = struct.Struct(">3sBBBHQII")
HEADER_BYTES: Final = _HEADER.size

#: The only flag of version 1: the message has a body, though it may be empty.
_HAS_BODY: Final = 0x01

_pack_header: Final = _HEADER.pack
_unpack_header: Final = _HEADER.unpack_from

_KINDS: Final[dict[int, Kind]] = {kind.value: kind for kind in Kind}
#: id, to, sender, deadline_ms, trace, fields.
_META_ITEMS: Final = 6

# As names, so that comparing does not narrow `Any` to a tuple of unknown things.
_TUPLE: Final[Any] = tuple

#: type id, kind, has a body, fd count, sequence, meta length, body length: a header as checked.
Header = tuple[int, Kind, int, int, int, int, int]


class Codec:
    """Encodes and decodes the envelopes of one node; shared by its links, used by one thread.

    Args:
        registry: The records it knows.
        limits: What it takes from a peer, and what it refuses to send.
    """

    __slots__ = (
        "_body_bytes",
        "_deepest",
        "_meta_bytes",
        "_pack",
        "_pack_record",
        "_registry",
        "_small_bytes",
        "_unpack",
        "_unpack_record",
        "limits",
    )

    def __init__(self, registry: Registry, limits: Limits | None = None) -> None:
        self.limits = limits if limits is not None else Limits()
        self._registry = registry
        self._meta_bytes = self.limits.meta_bytes
        self._body_bytes = self.limits.body_bytes
        self._small_bytes = small_bytes(self.limits)
        self._deepest = self.limits.depth - 1  # of a record: the meta array is around it
        # Bound once: each saves a look-up per envelope.
        self._pack: Callable[[object], bytes] = _msgpack.Packer().pack
        self._unpack = Unpacking(self.limits).unpack
        self._pack_record = registry.pack
        self._unpack_record = registry.unpack

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
            type_id, fields, body = self._pack_record(message)
        id_, to, sender = envelope.id, envelope.to, envelope.sender
        deadline_ms, trace, fds = envelope.deadline_ms, envelope.trace, envelope.fds
        parts = (id_, to, sender, deadline_ms, trace, fields)
        if (
            type(to) is not str
            or type(sender) is not str
            or type(id_) is not int
            or not 0 <= id_ <= LARGEST_INT
            or not (trace is None or type(trace) is str)
            or not (deadline_ms is None or _is_count(deadline_ms))
        ):
            raise LocalProtocolError(_label(envelope), _meta_fault(parts))
        try:
            meta = self._pack(parts)
            head = _pack_header(
                _START,
                envelope.kind._value_,  # half the cost of `value` and of the enum itself
                0 if body is None else _HAS_BODY,
                len(fds),
                type_id,
                envelope.sequence,
                len(meta),
                0 if body is None else len(body),
            )
        except (TypeError, ValueError, OverflowError, struct.error) as error:
            raise LocalProtocolError(_label(envelope), str(error)) from error
        if body or fds:
            self._check_beside(envelope, body)
        if (
            len(meta) > self._small_bytes
            or UINT64 in meta
            or self._registry.deepest > self._deepest
        ):
            self._check_meta(envelope, meta)
        return [head + meta, body] if body else [head + meta]

    def read_header(self, data: Readable, offset: int = 0) -> Header:
        """Check the 24 bytes of a header and give its values.

        Raises:
            DecodeError: If it is no header of this version, or announces more than the limits.
        """
        start, kind_number, flags, fd_count, type_id, sequence, meta, body = _unpack_header(
            data, offset
        )
        if start != _START:
            raise DecodeError("header", f"it does not begin an envelope of version {VERSION}")
        kind = _KINDS.get(kind_number)
        if kind is None:
            raise DecodeError("header", f"kind {kind_number} is unknown")
        if meta > self._meta_bytes or body > self._body_bytes or fd_count > self.limits.fds:
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
        parts = self._unpack(meta)
        if type(parts) is not _TUPLE or len(parts) != _META_ITEMS:
            raise DecodeError("meta", "it is not an array of six")
        id_, to, sender, deadline_ms, trace, fields = parts
        if (
            type(to) is not str
            or type(sender) is not str
            or type(id_) is not int
            or not 0 <= id_ <= LARGEST_INT
            or not (trace is None or type(trace) is str)
            or not (deadline_ms is None or _is_count(deadline_ms))
        ):
            raise DecodeError("meta", _meta_fault(parts))
        if len(fds) != fd_count:
            raise DecodeError("header", f"{fd_count} descriptors announced, {len(fds)} came")
        message: Record | None = None
        if type_id:
            if self._registry.deepest > self._deepest and nests_deeper(parts, self.limits.depth):
                raise DecodeError("meta", f"more than {self.limits.depth} arrays and maps deep")
            message = self._unpack_record(type_id, fields, body if has_body else None)
        elif fields is not None or has_body:
            raise DecodeError("meta", "fields or a body without a type id")
        return Envelope(kind, to, sender, id_, message, deadline_ms, trace, sequence, fds)

    def _check_beside(self, envelope: Envelope, body: Body | None) -> None:
        """Refuse what the peer would: better an error for the caller than a closed link."""
        limits = self.limits
        if body is not None and len(body) > limits.body_bytes:
            why = f"its body takes {len(body)} bytes, more than {limits.body_bytes}"
            raise LocalProtocolError(_label(envelope), why)
        if len(envelope.fds) > limits.fds:
            why = f"{len(envelope.fds)} descriptors are more than {limits.fds}"
            raise LocalProtocolError(_label(envelope), why)

    def _check_meta(self, envelope: Envelope, meta: bytes) -> None:
        limits = self.limits
        if len(meta) > limits.meta_bytes:
            why = f"its fields take {len(meta)} bytes, more than {limits.meta_bytes}"
            raise LocalProtocolError(_label(envelope), why)
        try:
            deep = nests_deeper(self._unpack(meta), limits.depth)
        except DecodeError as error:
            raise LocalProtocolError(_label(envelope), error.why) from error
        if deep:
            why = f"it nests deeper than {limits.depth} arrays and maps"
            raise LocalProtocolError(_label(envelope), why)


def _label(envelope: Envelope) -> Any:
    message = envelope.message
    return envelope.kind.name if message is None else type(message).__qualname__


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_INT


def _meta_fault(parts: tuple[Any, ...]) -> str:
    id_, to, sender, deadline_ms, trace, _ = parts
    for name, value in (("to", to), ("sender", sender), ("trace", trace)):
        if type(value) is not str and (name != "trace" or value is not None):
            return f"{name} is a {type(value).__name__}, not a str"
    name = "id" if deadline_ms is None or type(id_) is not int else "deadline_ms"
    return f"{name} is not an int from 0 to 2**63 - 1"
