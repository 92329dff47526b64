"""Many state dicts of one layout as one whose tensors have a leading axis.

Here: `Stack`, which spreads a model for functions that train many sites in one call, and cuts what
they return into one update for each. Not here: the function, the call, who the sites are (actors).
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import BadUpdate
from .difference import subtract_rows
from .layout import Buffer, Layout, StateDict
from .state import Packer

_KEPT: Final = 32  # of layouts for different numbers of sites, each some 10 KB

Rows = npt.NDArray[np.uint8]


class Stack:
    """Spreads models of one layout, and cuts what comes back.

    Thread-safe.

    Args:
        layout: The model's layout.
        answers: The updates' layout: the same, or without some of its tensors.
        ignore: Names that a state dict may hold beyond it.
    """

    def __init__(self, layout: Layout, answers: Layout, ignore: Collection[str] = ()) -> None:
        self.layout = layout
        self.answers = answers
        self._ignore = frozenset(ignore)
        self._row = Packer(answers)

    def spread(self, model: Buffer, count: int) -> dict[str, Any]:
        """Tensors of shape (count, ...), writable, each site's part a copy of the model's."""
        packer = _packer(self.layout, count, self._ignore)
        memory = bytearray(packer.layout.size)
        memory[: packer.layout.data_start] = packer.layout.header
        for spec, wide in zip(self.layout.specs, packer.layout.specs, strict=True):
            one = np.frombuffer(model, np.uint8, spec.size, spec.start)
            many = np.frombuffer(memory, np.uint8, wide.size, wide.start)
            many.reshape(count, spec.size)[:] = one
        return packer.unpack(memory)

    def cut(self, state: StateDict, count: int) -> tuple[Rows, dict[int, BadUpdate]]:
        """One update a row, each a whole blob of the layout `answers`.

        Returns:
            The rows, and what is wrong with those that are not finite.

        Raises:
            BadUpdate: As `Packer.pack`, but for finiteness.
        """
        packer = _packer(self.answers, count, self._ignore)
        wide = packer.pack(state)
        rows: Rows = np.zeros((count, self.answers.size), np.uint8)
        rows[:, : self.answers.data_start] = np.frombuffer(self.answers.header, np.uint8)
        for spec, many in zip(self.answers.specs, packer.layout.specs, strict=True):
            part = np.frombuffer(wide, np.uint8, many.size, many.start)
            rows[:, spec.start : spec.end] = part.reshape(count, spec.size)
        return rows, {} if packer.finite(wide) else self._unfit(rows)

    def _unfit(self, rows: Rows) -> dict[int, BadUpdate]:
        unfit: dict[int, BadUpdate] = {}
        for i, row in enumerate(rows):
            try:
                self._row.check_finite(row.data)
            except BadUpdate as error:
                unfit[i] = error
        return unfit

    def subtract(self, rows: Rows, model: Buffer) -> list[float]:
        """Make differences to a model of updates that are models, in place.

        Returns:
            The bound of each row; see `difference`.
        """
        return subtract_rows(self.answers, rows, self.layout, model)


@lru_cache(maxsize=_KEPT)
def _packer(layout: Layout, count: int, ignore: frozenset[str]) -> Packer:
    """Of the layout with a leading axis."""
    wide = [(spec.name, spec.type, (count, *spec.shape)) for spec in layout.specs]
    return Packer(Layout.canonical(wide, layout.kind), ignore=ignore, finite=False)
