"""Unpacking: msgpack from a peer, within limits.

Here: bytes to plain values (str, int, tuple, dict, ...) without ever holding much more memory
than the limits allow. Not here: what the values mean (`codec.py`, `schema.py`).

Theory of operation. The C unpacker checks each length against our limits, and hooks count the
containers and refuse double keys as each one *ends*. But it allocates an array or map when one
*begins*: a thousand headers of three bytes, each claiming 4,096 items, make it allocate 32 MiB
before any hook has run. So a part with many bytes that could be such headers is first scanned
for its depth, without allocating anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from .errors import DecodeError
from .limits import Limits

_WHERE: Final = "meta"


class Unpacking:
    """Decodes msgpack parts within limits; arrays become tuples.

    Args:
        limits: What is accepted.
    """

    __slots__ = ("_left", "_limits", "_unpack")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left = 0
        self._unpack = self._make_unpack(limits)

    def unpack(self, part: bytes | bytearray | memoryview) -> Any:
        """The one value that the part holds.

        Raises:
            DecodeError: If it is not well-formed msgpack of exactly one value, or a limit or
                a rule (string keys, no key twice, no extension types) is broken.
        """
        self._left = self._limits.containers
        try:
            return self._unpack(part)
        except DecodeError:
            raise
        except Exception as error:  # msgpack raises seven kinds, MemoryError among them
            raise DecodeError(_WHERE, f"not msgpack within the limits: {error}") from error

    def _make_unpack(self, limits: Limits) -> Callable[[bytes | bytearray | memoryview], Any]:
        def unpack(part: bytes | bytearray | memoryview) -> Any:
            return msgpack.unpackb(
                part,
                raw=False,
                use_list=False,
                strict_map_key=True,
                max_str_len=limits.str_bytes,
                max_bin_len=limits.bin_bytes,
                max_array_len=limits.array_items,
                max_map_len=limits.map_items,
                max_ext_len=0,
                list_hook=self._on_array,
                object_pairs_hook=self._on_map,
                ext_hook=_refuse_extension,
            )

        return unpack

    def _on_array(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        self._count()
        return items

    def _on_map(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        self._count()
        mapping = dict(pairs)
        if len(mapping) != len(pairs):
            raise DecodeError(_WHERE, "a key stands twice in one map")
        return mapping

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise DecodeError(_WHERE, f"more than {self._limits.containers} arrays and maps")


def _refuse_extension(code: int, data: bytes) -> Any:
    raise DecodeError(_WHERE, f"extension type {code}")
