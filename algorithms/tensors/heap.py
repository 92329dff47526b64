"""Asking the C allocator for memory that it keeps.

Here: glibc's `malloc_trim`. Not here: when (`Packer.write`). Once a large block has been freed,
glibc takes blocks of that size from its heap, which it shortens at its end only: tensors that are
freed one by one, the first one first, would give nothing back before the last.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Glibc's function; None where the C library has none, such as musl and macOS."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return found


def trim_heap() -> None:
    """Give the whole pages that the C allocator has free back to the system."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)
