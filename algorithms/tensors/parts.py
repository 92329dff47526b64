"""A model file mapped in parts, so that it can be given back part by part.

Here: dividing a big model into mappings. Not here: whole mappings (`files.py`), who takes models
apart (`Packer.write` with `release`). Tensors of one mapping that are dropped one by one give
nothing back before the last is gone; pages that were written to are memory.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Any, Final

from .files import map_private
from .layout import Layout
from .state import Packer

#: Each part is one mapping and holds one descriptor, of which a process has 1,024; smaller parts
#: than these would not be felt.
_MOST_PARTS: Final = 32
_PART_BYTES: Final = 4 << 20


def unpack_private(fd: int, packer: Packer) -> dict[str, Any]:
    """Give the tensors of a model file as views onto private mappings of its parts.

    As `packer.unpack(map_private(fd))`, but what was written to a tensor is given back to the
    system when it and its neighbours of the same part, a 32nd of the model, are dropped.

    Args:
        fd: The file, whose layout must be the packer's; it may be closed afterwards.
        packer: Of the file's layout.

    Raises:
        BadHeader: The file's layout is not the packer's.
        OSError: It cannot be mapped.
    """
    layout = packer.layout
    if layout.size < 2 * _PART_BYTES:
        return packer.unpack(map_private(fd))
    packer.check_header(os.pread(fd, layout.data_start, 0), os.fstat(fd).st_size)
    state: dict[str, Any] = {}
    for first, last in _parts(layout):
        start, end = layout.specs[first].start, layout.specs[last - 1].end
        base = start - start % mmap.ALLOCATIONGRANULARITY
        region = mmap.mmap(
            fd, end - base, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=base
        )
        state |= packer.unpack_part(region, base, first, last)
    return state


def _parts(layout: Layout) -> Iterator[tuple[int, int]]:
    """Runs of neighbouring tensors: the number of the first, and the one after the last."""
    least = max(_PART_BYTES, layout.size // _MOST_PARTS)
    first = 0
    for number, spec in enumerate(layout.specs):
        if spec.end - layout.specs[first].start >= least:
            yield first, number + 1
            first = number + 1
    if first < len(layout.specs):
        yield first, len(layout.specs)
