"""Where every tensor of a model lies in a safetensors blob, and whether a blob may be trusted.

Here: `Layout` (made from a state dict, or parsed from a blob's first bytes after checks of our
own), its canonical order, and the comparison of two layouts. Not here: the tensors' bytes
(`state.py`), files (`files.py`).

A blob is an 8-byte little-endian header length, a JSON header, spaces, and the tensors' bytes. We
write the widest elements first, so that every tensor is aligned to its own element, and start the
data at a multiple of 64 bytes, so that a mapped blob can be used in place by any vector unit.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import mmap
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from ..errors import BadHeader, BadUpdate, ManifestMismatch
from .dtypes import DTYPES, DType, dtype_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

Kind: TypeAlias = Literal["torch", "numpy"]
StateDict: TypeAlias = "Mapping[str, torch.Tensor | npt.NDArray[Any] | np.generic]"
Buffer: TypeAlias = bytes | bytearray | memoryview | mmap.mmap

LENGTH_BYTES: Final = 8  # the format's own: header length as u64, little-endian
ALIGNMENT_BYTES: Final = 64  # one cache line and one AVX-512 register
HEADER_BYTES: Final = 1 << 20  # room for some 10,000 tensors; larger only where more are expected
HEADER_BYTES_PER_TENSOR: Final = 512  # the longest name, 8 dimensions and two offsets fit
METADATA_BYTES: Final = 4096  # we need a dozen; safetensors itself takes 20 MB without a word
MAX_TENSORS: Final = 65_536
MAX_DIMENSIONS: Final = 8
MAX_SIZE_BYTES: Final = 1 << 50  # far above any model; keeps every sum below 2**63

_NAME: Final = re.compile(r"[A-Za-z0-9_.\-]{1,256}")
_FORMATS: Final[dict[Kind, str]] = {"torch": "pt", "numpy": "np"}
_NUMPY_FORMATS: Final = frozenset({"np", "numpy", "tf", "flax", "jax"})


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a blob.

    Attributes:
        name: The variable's name.
        dtype: Element type as the header names it, such as "F32".
        shape: Dimensions; () for a scalar.
        start: Offset of its first byte from the start of the blob (header included).
        end: Offset after its last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def type(self) -> DType:
        """The element type."""
        return DTYPES[self.dtype]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def numbers_shape(self) -> tuple[int, ...]:
        """Dimensions of its numbers: the tensor's, and for complex ones 2 behind them."""
        lanes = self.type.lanes
        return self.shape if lanes == 1 else (*self.shape, lanes)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    def describe(self) -> str:
        """Type and shape for a message, such as "F32 [3, 4]"."""
        return f"{self.dtype} {list(self.shape)}"


class Layout:
    """The tensors of a blob and where they lie. Immutable.

    Attributes:
        specs: The tensors in the order of their bytes; without holes or overlaps.
        kind: Whether the model is one of torch tensors or of NumPy arrays.
        header: The blob's first `data_start` bytes, length and padding included.
        data_start: Offset of the first tensor byte; a multiple of 64 in blobs that we write.
        size: Bytes of the whole blob.
    """

    __slots__ = ("__dict__", "data_start", "header", "kind", "size", "specs")

    def __init__(self, specs: tuple[TensorSpec, ...], kind: Kind, header: bytes) -> None:
        """Hold what `of` or `parse` has made; use one of these."""
        self.specs = specs
        self.kind: Kind = kind
        self.header = header
        self.data_start = len(header)
        self.size = specs[-1].end if specs else len(header)

    @classmethod
    def of(cls, state: StateDict) -> Layout:
        """Lay out a state dict in canonical order: widest elements first, then as given.

        Raises:
            BadUpdate: A name, element type or shape that cannot be stored; nothing to store; or
                more tensors than `MAX_TENSORS`.
        """
        kind: Kind = "numpy"
        tensors: list[tuple[str, DType, tuple[int, ...]]] = []
        for name, value in state.items():
            dtype, is_torch = _dtype_of(name, value)
            kind = "torch" if is_torch else kind
            tensors.append((name, dtype, tuple(value.shape)))
        return cls.canonical(tensors, kind)

    @classmethod
    def canonical(cls, tensors: Iterable[tuple[str, DType, tuple[int, ...]]], kind: Kind) -> Layout:
        """Lay out named types and shapes; as `of` for callers that hold no tensors.

        Raises:
            BadUpdate: As for `of`.
        """
        given = list(tensors)
        if not given:
            raise BadUpdate("", "a model must have at least one tensor")
        if len(given) > MAX_TENSORS:
            raise BadUpdate("", f"{len(given)} tensors; at most {MAX_TENSORS} are supported")
        for name, dtype, shape in given:
            _check_storable(name, dtype, shape)
        given.sort(key=lambda tensor: -tensor[1].itemsize)
        header = _write_header(given, kind)
        specs: list[TensorSpec] = []
        position = len(header)
        for name, dtype, shape in given:
            end = position + math.prod(shape) * dtype.itemsize
            specs.append(TensorSpec(name, dtype.name, shape, position, end))
            position = end
        return cls(tuple(specs), kind, header)

    @classmethod
    def parse(
        cls, head: Buffer, *, size: int | None = None, expected_tensors: int | None = None
    ) -> Layout:
        """Read the layout of a blob from its first bytes, trusting none of them.

        Args:
            head: The blob, or at least its header (`header_size` tells how much that is).
            size: Bytes of the whole blob; `len(head)` when absent.
            expected_tensors: Raises the header limit of 1 MiB to 512 bytes per tensor.

        Raises:
            BadHeader: The header is too long, malformed, names a tensor oddly or twice, uses an
                unknown element type, or its tensors do not cover the blob exactly.
        """
        view = memoryview(head).cast("B")
        data_start = header_size(view, expected_tensors=expected_tensors)
        if len(view) < data_start:
            raise BadHeader(f"cut off: header ends at byte {data_start}, {len(view)} given")
        header = bytes(view[:data_start])
        total = len(view) if size is None else size
        entries, kind = _read_entries(header[LENGTH_BYTES:])
        specs = sorted(
            (_read_spec(name, entry, data_start) for name, entry in entries.items()),
            key=lambda spec: (spec.start, spec.end),
        )
        _check_covers(specs, data_start, total)
        if kind == "numpy" and any(spec.type.numpy is None for spec in specs):
            kind = "torch"
        return cls(tuple(specs), kind, header)

    @functools.cached_property
    def by_name(self) -> Mapping[str, TensorSpec]:
        """The tensors by name."""
        return {spec.name: spec for spec in self.specs}

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the header, in hex: equal exactly if blobs agree in every offset."""
        return hashlib.sha256(self.header).hexdigest()

    @property
    def data_size(self) -> int:
        """Bytes of all tensors together."""
        return self.size - self.data_start

    def without(self, names: Collection[str]) -> Layout:
        """The canonical layout of what remains when some tensors are left out.

        Raises:
            BadUpdate: Nothing remains, or a name is not one of this layout.
        """
        if not names:
            return self
        left_out = frozenset(names)
        for name in sorted(left_out - self.by_name.keys()):
            raise BadUpdate(name, "excluded, but not a variable of the model")
        kept = [(s.name, s.type, s.shape) for s in self.specs if s.name not in left_out]
        return Layout.canonical(kept, self.kind)

    def check(self, expected: Layout) -> None:
        """Compare names, element types and shapes with those expected; order is free.

        Raises:
            ManifestMismatch: Names the first tensor that is missing, differs or is unexpected.
        """
        if self.header == expected.header:
            return
        for spec in expected.specs:
            own = self.by_name.get(spec.name)
            if own is None:
                raise ManifestMismatch(spec.name, spec.describe(), "absent")
            if (own.dtype, own.shape) != (spec.dtype, spec.shape):
                raise ManifestMismatch(spec.name, spec.describe(), own.describe())
        for spec in self.specs:
            if spec.name not in expected.by_name:
                raise ManifestMismatch(spec.name, "absent", spec.describe())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.header == other.header

    def __hash__(self) -> int:
        return hash(self.header)

    def __repr__(self) -> str:
        return f"<Layout {len(self.specs)} tensors, {self.size} bytes, {self.kind}>"


def header_size(head: Buffer, *, expected_tensors: int | None = None) -> int:
    """How many bytes of a blob `Layout.parse` needs, told by its first 9.

    Raises:
        BadHeader: Shorter than 9 bytes, header beyond the limit, or not begun by a brace.
    """
    view = memoryview(head).cast("B")
    if len(view) <= LENGTH_BYTES:
        raise BadHeader(f"only {len(view)} bytes")
    length = int.from_bytes(view[:LENGTH_BYTES], "little")
    limit = max(HEADER_BYTES, HEADER_BYTES_PER_TENSOR * min(expected_tensors or 0, MAX_TENSORS))
    if length > limit:
        raise BadHeader(f"{length} bytes long, limit {limit}")
    if length < 2 or view[LENGTH_BYTES] != ord("{"):
        raise BadHeader("does not begin with '{'")
    return LENGTH_BYTES + length


def _dtype_of(name: str, value: Any) -> tuple[DType, bool]:
    """The element type of a tensor or array, and whether it is a tensor."""
    native = getattr(value, "dtype", None)
    found = None if native is None else dtype_of(native)
    if found is None:
        what = type(value).__name__ if native is None else f"of element type {native}"
        raise BadUpdate(name, f"{what}, which is not a tensor or array that can be stored")
    return found, type(native).__module__ == "torch"


def _check_storable(name: str, dtype: DType, shape: tuple[int, ...]) -> None:
    if not _NAME.fullmatch(name):
        raise BadUpdate(name, "names are 1-256 characters of A-Z a-z 0-9 _ . -")
    if len(shape) > MAX_DIMENSIONS:
        raise BadUpdate(name, f"{len(shape)} dimensions; at most {MAX_DIMENSIONS} are supported")
    if _extent(shape) * dtype.itemsize > MAX_SIZE_BYTES:
        raise BadUpdate(name, "larger than any blob can be")


def _extent(shape: tuple[int, ...]) -> int:
    """Product of the dimensions that are not zero: array libraries overflow on it even if empty."""
    return math.prod(dimension or 1 for dimension in shape)


def _write_header(tensors: list[tuple[str, DType, tuple[int, ...]]], kind: Kind) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": _FORMATS[kind]}}
    position = 0
    for name, dtype, shape in tensors:
        end = position + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": dtype.name, "shape": shape, "data_offsets": (position, end)}
        position = end
    if len(entries) != len(tensors) + 1:
        raise BadUpdate("", "two tensors of the same name")
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % ALIGNMENT_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _read_entries(text: bytes) -> tuple[dict[str, object], Kind]:
    """Decode the JSON of a header into its tensors' entries and the model's kind."""
    if text.count(b"{") > MAX_TENSORS + METADATA_BYTES or text.count(b"[") > 2 * MAX_TENSORS:
        raise BadHeader(f"more brackets than {MAX_TENSORS} tensors need")
    try:
        decoded: object = json.loads(
            text.decode("ascii" if text.isascii() else "utf-8"),
            object_pairs_hook=_refuse_duplicates,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
    except (ValueError, RecursionError) as error:
        raise BadHeader(f"not plain JSON ({type(error).__name__})") from None
    entries = cast("dict[str, object]", decoded)  # begins with a brace: an object or an error
    kind = _read_kind(entries.pop("__metadata__", None))
    if not entries:
        raise BadHeader("no tensors")
    return entries, kind


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadHeader("a key occurs twice")
    return found


def _refuse_number(text: str) -> object:
    raise BadHeader(f"{text[:20]} is not an integer")


def _read_kind(metadata: object) -> Kind:
    """The kind of model; torch if the file does not say, as safetensors.torch writes none."""
    if metadata is None:
        return "torch"
    if not isinstance(metadata, dict):
        raise BadHeader("__metadata__ is not an object")
    pairs = cast("dict[str, object]", metadata)
    size = 0
    for key, value in pairs.items():
        if not isinstance(value, str):
            raise BadHeader("__metadata__ holds something else than text")
        size += len(key) + len(value)
    if size > METADATA_BYTES:
        raise BadHeader(f"__metadata__ of {size} characters, limit {METADATA_BYTES}")
    return "numpy" if pairs.get("format") in _NUMPY_FORMATS else "torch"


def _read_spec(name: str, entry: object, data_start: int) -> TensorSpec:
    if not _NAME.fullmatch(name):
        raise BadHeader(f"tensor name {name[:40]!r}")
    if not isinstance(entry, dict):
        raise BadHeader(f"tensor {name!r} is not an object")
    fields = cast("dict[str, object]", entry)
    if fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise BadHeader(f"tensor {name!r} has other fields than dtype, shape and data_offsets")
    dtype = fields["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise BadHeader(f"tensor {name!r} has element type {str(dtype)[:20]!r}")
    shape = _read_integers(name, fields["shape"], MAX_DIMENSIONS)
    offsets = _read_integers(name, fields["data_offsets"], 2)
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise BadHeader(f"tensor {name!r} has offsets {list(offsets)}")
    if _extent(shape) > MAX_SIZE_BYTES:
        raise BadHeader(f"tensor {name!r} is larger than any blob can be")
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if size != offsets[1] - offsets[0]:
        raise BadHeader(f"tensor {name!r} is {size} bytes by shape, not {offsets[1] - offsets[0]}")
    return TensorSpec(name, dtype, shape, data_start + offsets[0], data_start + offsets[1])


def _read_integers(name: str, value: object, most: int) -> tuple[int, ...]:
    """A list of at most `most` integers, each of them one that a blob could need."""
    if not isinstance(value, list) or len(cast("list[object]", value)) > most:
        raise BadHeader(f"tensor {name!r} has a shape or offsets of the wrong form")
    numbers = cast("list[object]", value)
    for number in numbers:
        # `type(...) is`: True is an int to isinstance.
        if type(number) is not int or not 0 <= number <= MAX_SIZE_BYTES:
            raise BadHeader(f"tensor {name!r} has a dimension or offset of {str(number)[:20]}")
    return tuple(cast("list[int]", numbers))


def _check_covers(specs: list[TensorSpec], data_start: int, size: int) -> None:
    """The tensors must follow each other without hole or overlap up to the blob's last byte."""
    position = data_start
    for spec in specs:
        if spec.start != position:
            what = "a hole before" if spec.start > position else "an overlap at"
            raise BadHeader(f"{what} tensor {spec.name!r}")
        position = spec.end
    if position != size:
        raise BadHeader(f"tensors end at byte {position}, the blob at {size}")
