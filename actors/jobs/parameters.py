"""The global model as the functions of one process see it: read once a round, lent to each.

Every call gets parameters of its own. For small torch models, making eight views
and packing eight tensors costs more than the whole message path, so memory is
lent again once nobody holds it any more: reference counts tell. What a function
keeps, or has changed beyond its numbers, is never lent again.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter, methodcaller
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

from covey.algorithms.tensors import Layout, Packer, read_layout, unpack_private
from covey.algorithms.tensors.control import has_control

from ..downloads.blobs import Blob

_PLACE: Final = methodcaller("data_ptr")
Params: TypeAlias = "dict[str, Any]"

# Above this, copying the numbers costs more than making views, and lent memory would be felt.
_LENT_BYTES: Final = 256 << 10
# Above this a private mapping of the file costs less than a copy, unless all of it is changed.
_READ_BYTES: Final = 4 << 20
# Calls that run at the same time are few: those in threads, and async ones.
_POOL: Final = 16
# What is counted for a tensor that the loan's tuple alone holds.
_ALONE: Final = next(map(sys.getrefcount, (object(),)))
_GRADIENT: Final = attrgetter("requires_grad", "grad")
_NO_GRADIENT: Final = (False, None)


@dataclass(slots=True)
class _Loan:
    """Memory lent to a call: the blob, its tensors, and where their numbers lie."""

    memory: bytearray
    names: tuple[str, ...]
    tensors: tuple[Any, ...]
    places: tuple[int, ...]

    def params(self) -> Params:
        """The tensors by name, in a dict of the caller's own."""
        return dict(zip(self.names, self.tensors, strict=True))

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Whether `params` are just this loan's tensors, still on its memory."""
        if len(params) != len(self.names):
            return False
        for name, tensor, place in zip(self.names, self.tensors, self.places, strict=True):
            value: Any = params.get(name)
            if value is not tensor or value.data_ptr() != place:
                return False
        return True

    def is_free(self) -> bool:
        """Whether nobody holds a tensor, or could tell that it is lent again."""
        tensors, count = self.tensors, len(self.tensors)
        # Mapped, not looped over: this stands before every call of a function.
        return (
            sum(map(sys.getrefcount, tensors)) == count * _ALONE
            and list(map(_GRADIENT, tensors)) == [_NO_GRADIENT] * count
            and tuple(map(_PLACE, tensors)) == self.places
        )


class Parameters:
    """Lends the global model to functions and packs what they return."""

    def __init__(self, exclude: tuple[str, ...]) -> None:
        """Leave `exclude` out of updates."""
        self.exclude = exclude
        self._key: tuple[str, int] | None = None
        self._bytes = b""
        self._file: BinaryIO | None = None  # of a large model, in place of its bytes
        self._layout: Layout | None = None
        self._loans: deque[_Loan] = deque(maxlen=_POOL)
        self._lends = False
        #: Whether control variates travel with the model.
        self.has_control = False
        self._packer: Packer
        self._updates: Packer

    def lend(self, path: str, round: int) -> tuple[Params, object]:
        """A private, writable copy of the model's tensors, and a token for `pack`."""
        if self._key != (path, round):
            self._read(path)
            self._key = (path, round)
        if self._file is not None:
            return unpack_private(self._file.fileno(), self._packer), None
        if not self._lends:
            return self._packer.unpack(bytearray(self._bytes)), None
        loan = self._loans.pop() if self._loans else None  # the one in cache
        if loan is None or not loan.is_free():
            loan = self._make_loan()
        else:
            loan.memory[:] = self._bytes
        return loan.params(), loan

    def pack(self, params: Mapping[str, Any], token: object) -> Blob:
        """An update's blob; raises `BadUpdate` for parameters that do not fit."""
        if not isinstance(token, _Loan):
            return Blob.of_bytes(self._updates.pack(params))
        self._loans.append(token)
        if not self.exclude and token.holds(params) and self._packer.finite(token.memory):
            return Blob.of_bytes(bytes(token.memory))
        return Blob.of_bytes(self._updates.pack(params))

    def close(self) -> None:
        """Forget the model; what was lent stays valid."""
        self._key, self._bytes = None, b""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self, path: str) -> None:
        self.close()
        if Path(path).stat().st_size > _READ_BYTES:
            # Pages that a call does not write to are shared with all others.
            self._file = Path(path).open("rb")  # noqa: SIM115 - until the next model
            layout = read_layout(self._file.fileno())
        else:
            self._bytes = Path(path).read_bytes()
            layout = Layout.parse(self._bytes, size=len(self._bytes))
        if layout != self._layout:
            self._layout = layout
            self._packer = Packer(layout)
            self._updates = Packer(layout.without(self.exclude), ignore=self.exclude)
            self._lends = layout.kind == "torch" and layout.size <= _LENT_BYTES
            self._loans.clear()
            self.has_control = has_control(layout)

    def _make_loan(self) -> _Loan:
        memory = bytearray(self._bytes)
        params = self._packer.unpack(memory)
        tensors = tuple(params.values())
        places = tuple(tensor.data_ptr() for tensor in tensors)
        return _Loan(memory, tuple(params), tensors, places)
