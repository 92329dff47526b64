"""Unpacking: msgpack from a peer, within limits.

Here: bytes to plain values (str, int, tuple, dict, ...) without ever holding much more memory
than the limits allow. Not here: what the values mean (`codec.py`, `schema.py`).

Theory of operation. The C unpacker checks each length against our limits, and hooks count the
containers and refuse double keys as each one *ends*. But it allocates an array or map when one
*begins*: a thousand headers of three bytes, each claiming 4,096 items, make it allocate 32 MiB
before any hook has run. So a part with many bytes that could be such headers is first scanned
for its depth, which allocates nothing. A small part needs neither the scan nor the count: it
has not the bytes to break a limit.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from .errors import DecodeError
from .limits import Limits

# msgpack has no types: values are `Any` until a schema has looked at them. Its defaults since 1.0
# are ours: strings are UTF-8 (raw=False), keys of maps are strings (strict_map_key=True).
_msgpack: Any = msgpack
_unpackb: Callable[..., Any] = _msgpack.unpackb

#: What the peer's bytes may stand in; they are read at once and never kept, a body apart.
Readable = bytes | bytearray | memoryview

_WHERE: Final = "meta"

#: The largest int on the wire. The upper half of msgpack's unsigned range is left out, since
#: NumPy, SQLite and most languages have no such integer.
LARGEST_INT: Final = 2**63 - 1

#: What every int of that half begins with, so that a part without this byte has none.
UINT64: Final = 0xCF

#: A part of this size allocates 3 MiB at the very most (a header of three bytes claims as many
#: items as the part has bytes).
_SMALL_BYTES: Final = 1024

#: Arrays and maps that may be allocated before a scan is worth it: 64 of 32 KiB are 2 MiB.
_UNSCANNED_HEADERS: Final = 64

#: First bytes of arrays and maps with a length of 16 or 32 bits.
_LONG_HEADERS: Final = (b"\xdc", b"\xdd", b"\xde", b"\xdf")


def small_bytes(limits: Limits) -> int:
    """The size up to which a part cannot break a limit, but for depth."""
    return min(
        _SMALL_BYTES,
        limits.meta_bytes,
        limits.str_bytes,
        limits.bin_bytes,
        limits.array_items,
        limits.map_items,
        limits.containers,
    )


class Unpacking:
    """Decodes msgpack parts within limits; arrays become tuples.

    Args:
        limits: What is accepted.
    """

    __slots__ = ("_left", "_limits", "_small_bytes")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left = 0
        self._small_bytes = small_bytes(limits)

    def unpack(self, part: Readable) -> Any:
        """The one value that the part holds.

        Raises:
            DecodeError: If it is not well-formed msgpack of exactly one value, or a limit or
                a rule (string keys, no key twice, no extension types) is broken. Depth is
                limited by the caller's schema, or `nests_deeper`.
        """
        if type(part) is not bytes:
            part = bytes(part)
        try:
            if len(part) > self._small_bytes:
                value = self._unpack_large(part)
            else:
                # Without lengths given, msgpack allows as many items as the part has bytes.
                value = _unpackb(
                    part,
                    use_list=False,
                    max_ext_len=0,
                    object_pairs_hook=_unique,
                    ext_hook=_refuse_extension,
                )
        except DecodeError:
            raise
        except Exception as error:  # msgpack raises seven kinds, MemoryError among them
            why = str(error) or type(error).__name__
            raise DecodeError(_WHERE, f"not msgpack within the limits: {why}") from error
        if UINT64 in part and _holds_long_int(value):
            raise DecodeError(_WHERE, f"an int past {LARGEST_INT}")
        return value

    def _unpack_large(self, part: bytes) -> Any:
        if sum(map(part.count, _LONG_HEADERS)) > _UNSCANNED_HEADERS:
            scan(part, self._limits)
        self._left = self._limits.containers
        limits = self._limits
        return _unpackb(
            part,
            use_list=False,
            max_str_len=limits.str_bytes,
            max_bin_len=limits.bin_bytes,
            max_array_len=limits.array_items,
            max_map_len=limits.map_items,
            max_ext_len=0,
            list_hook=self._on_array,
            object_pairs_hook=self._on_map,
            ext_hook=_refuse_extension,
        )

    def _on_array(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        self._count()
        return items

    def _on_map(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        self._count()
        return _unique(pairs)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise DecodeError(_WHERE, f"more than {self._limits.containers} arrays and maps")


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise DecodeError(_WHERE, "a key stands twice in one map")
    return mapping


def _refuse_extension(code: int, data: bytes) -> Any:
    raise DecodeError(_WHERE, f"extension type {code}")


def _holds_long_int(value: object) -> bool:
    left: list[Any] = [value]
    while left:
        item = left.pop()
        if type(item) is int:
            if item > LARGEST_INT:
                return True
        elif isinstance(item, (tuple, dict)):
            left.extend(_items_of(item))
    return False


def nests_deeper(value: object, depth: int) -> bool:
    """Whether a decoded value has more than `depth` arrays and maps inside each other."""
    level = _containers((value,))
    for _ in range(depth):
        if not level:
            return False
        level = [inner for outer in level for inner in _containers(outer)]
    return bool(level)


def _containers(items: Any) -> list[Any]:
    return [value for value in _items_of(items) if isinstance(value, (tuple, dict))]


def _items_of(container: Any) -> Any:
    return container.values() if type(container) is _DICT else container


# As a name, so that comparing does not narrow `Any` to a dict of unknown things.
_DICT: Final[Any] = dict

# The scan.

#: Items of one byte: small ints, nil, bools.
_ONE_BYTE: Final = re.compile(rb"[\x00-\x7f\xc0\xc2\xc3\xe0-\xff]+")

#: Bytes after the first one of an item, where that says all: short strings and numbers.
_PAYLOAD: Final = {
    **{0xA0 + length: length for length in range(32)},
    0xCA: 4,
    0xCB: 8,
    0xCC: 1,
    0xCD: 2,
    0xCE: 4,
    0xCF: 8,
    0xD0: 1,
    0xD1: 2,
    0xD2: 4,
    0xD3: 8,
}

#: Runs of equal items, which are passed in one step: by first byte, how to find and count them.
_RUNS: Final = {
    **dict.fromkeys((*range(128), 192, 194, 195, *range(224, 256)), (_ONE_BYTE, 1)),
    **{
        first: (
            re.compile(b"(?:%b.{%d})+" % (re.escape(bytes([first])), size), re.DOTALL),
            1 + size,
        )
        for first, size in _PAYLOAD.items()
    },
}

#: Bytes of the length that follows the first byte of strings and binaries.
_LENGTH: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}

#: The same for arrays and maps, with the items of one entry.
_ENTRIES: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def scan(part: bytes, limits: Limits) -> None:
    """Walk over a msgpack part without decoding it.

    What is malformed otherwise is left for the unpacker to say.

    Raises:
        DecodeError: If more arrays and maps stand inside each other, or more in all, than the
            limits allow.
    """
    left = [1]  # items still to come, of each container we are in
    containers = position = 0
    while left and position < len(part):
        run, size = _run_at(part, position)
        if run:
            run = min(run, left[-1])
            position += run * size
            left[-1] -= run
        else:
            left[-1] -= 1
            position, items = _step_at(part, position)
            if items is not None:
                containers += 1
                left.append(items)
                if len(left) - 1 > limits.depth or containers > limits.containers:
                    raise DecodeError(_WHERE, "more arrays and maps than the limits, or deeper")
        while left and left[-1] <= 0:
            left.pop()


def _run_at(part: bytes, position: int) -> tuple[int, int]:
    """How many items of one size begin here, and the size."""
    run = _RUNS.get(part[position])
    if run is None:
        return 0, 0
    pattern, size = run
    match = pattern.match(part, position)
    return ((match.end() - position) // size if match else 0), size


def _step_at(part: bytes, position: int) -> tuple[int, int | None]:
    """Where the item that begins here ends; for an array or map, where its first inner item is.

    The second value is the number of inner items, None if it is no array or map.
    """
    first = part[position]
    position += 1
    if first in _LENGTH:
        after = position + _LENGTH[first]
        return after + int.from_bytes(part[position:after], "big"), None
    if first in _ENTRIES:
        size, each = _ENTRIES[first]
        after = position + size
        return after, int.from_bytes(part[position:after], "big") * each
    if 0x80 <= first <= 0x8F:
        return position, (first & 0x0F) * 2
    if 0x90 <= first <= 0x9F:
        return position, first & 0x0F
    return len(part), None  # cut off, or an extension: the unpacker refuses the part
