"""Updates as differences: what a client's training changed, made at the site.

A receiver that has gone on to newer versions need not keep the model that an update began from.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Final

from covey.algorithms.tensors import Layout, difference, header_size

from ..downloads.blobs import Blob

# Subtracting this much takes about a millisecond: below it a thread costs more than it frees.
_INLINE_BYTES: Final = 4 << 20
_HEAD_BYTES: Final = 9  # what `header_size` needs


async def changed(new: Blob, old: Blob) -> Blob:
    """A blob with `new` minus `old`; closes `new`.

    Raises:
        BadUpdate: A tensor of `new` is not in `old`.
    """
    with new:
        if new.size <= _INLINE_BYTES:
            return _subtract(new, old)
        return await asyncio.to_thread(_subtract, new, old)


def _subtract(new: Blob, old: Blob) -> Blob:
    ours, theirs = new.buffer, old.buffer
    return Blob.of_bytes(*difference(layout_of(ours), ours, layout_of(theirs), theirs))


def layout_of(data: memoryview) -> Layout:
    """The layout that a blob's bytes begin with; raises `BadHeader`."""
    head = bytes(data[: header_size(data[:_HEAD_BYTES])])
    return _parsed(head, data.nbytes)


@lru_cache(maxsize=16)
def _parsed(head: bytes, size: int) -> Layout:
    """Few layouts occur, each of them in thousands of updates."""
    return Layout.parse(head, size=size)
