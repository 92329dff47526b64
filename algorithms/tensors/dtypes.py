"""Element types: what safetensors calls them, how wide they are, and how to go to float64 and back.

Here: the closed table of element types, `widen` (exact, to float64) and `narrow` (one rounding,
half to even). Types that NumPy has no name for (bfloat16, the 8-bit floats) are handled through
integer views of their bits, so neither torch nor ml_dtypes is needed. Not here: names, shapes and
offsets (`layout.py`), state dicts (`state.py`).

Theory of operation of `narrow` for short floats. For x with exponent e and a target with m
fraction bits, adding C = 1.5 * 2**(e + 52 - m) in float64 pushes everything below the target's
last bit out of the significand, and the processor rounds it half to even, once; subtracting C
is exact. Below the target's smallest normal exponent e is held at that exponent, which is what
subnormals are. The result has at most 8 significant bits, so it is exact in float32 and its upper
16 bits name it; a table of 65,536 entries turns these into 8-bit codes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

F64: TypeAlias = npt.NDArray[np.float64]
Lanes: TypeAlias = npt.NDArray[Any]  # an array of any dtype's `storage`

_EXPONENT_MASK: Final = 0x7FF0_0000_0000_0000
_F64_BIAS: Final = 1023
_FEW_LANES: Final = 1 << 16  # up to here a temporary array of bool stays in cache


@dataclass(frozen=True, slots=True)
class Minifloat:
    """Bit layout of a float that NumPy cannot compute with.

    Attributes:
        fraction_bits: Stored bits of the significand.
        min_exponent: Exponent of the smallest normal number.
        max_finite: Largest finite value.
        infinity: Magnitude bits of infinity, or None if the type has none.
        nan: Bits of the canonical NaN.
        signed_zero: Whether minus zero exists (in the "FNUZ" types its code is NaN).
    """

    fraction_bits: int
    min_exponent: int
    max_finite: float
    infinity: int | None
    nan: int
    signed_zero: bool = True


@dataclass(frozen=True, slots=True)
class DType:
    """One element type of a safetensors file.

    Attributes:
        name: Name in the file's header, such as "BF16".
        itemsize: Bytes per element.
        kind: How the type behaves under averaging. Complex numbers are two float lanes.
        storage: NumPy dtype of one lane's bits. For the short floats an unsigned integer.
        numpy: NumPy dtype of an array of this type, or None if NumPy has none.
        torch: Attribute of the `torch` module that names the type.
        finite_mask: Bits that are all ones exactly in NaN and infinity; 0 for other kinds.
        overflow: A float64 of at least this magnitude is not finite (or, for integers, is
            saturated) once narrowed.
        mini: Bit layout, for the floats NumPy cannot compute with.
    """

    name: str
    itemsize: int
    kind: Literal["bool", "int", "float"]
    storage: np.dtype[Any]
    numpy: np.dtype[Any] | None
    torch: str
    finite_mask: int
    overflow: float
    mini: Minifloat | None = None

    @property
    def lanes(self) -> int:
        """Numbers per element: 2 for complex types, else 1."""
        return self.itemsize // self.storage.itemsize


def _integer(name: str, code: str, torch: str) -> DType:
    dtype = np.dtype(code)
    limit = float(np.iinfo(dtype).max)
    return DType(name, dtype.itemsize, "int", dtype, dtype, torch, 0, limit)


def _mini(name: str, torch: str, mini: Minifloat, itemsize: int, finite_mask: int) -> DType:
    storage = np.dtype(f"<u{itemsize}")
    # Half a step above the largest finite value. (Of F8_E4M3 that very tie, 464, still rounds to
    # 448; a bound one float64 too strict there is of no consequence.)
    top = int(np.floor(np.log2(mini.max_finite)))
    overflow = mini.max_finite + 2.0 ** (top - mini.fraction_bits - 1)
    return DType(name, itemsize, "float", storage, None, torch, finite_mask, overflow, mini)


def _native(name: str, code: str, torch: str, mask: int, overflow: float) -> DType:
    dtype = np.dtype(code)
    return DType(name, dtype.itemsize, "float", dtype, dtype, torch, mask, overflow)


_F32_OVERFLOW: Final = (2.0 - 2.0**-24) * 2.0**127  # first float64 that rounds to infinity

_ALL: Final = (
    DType("BOOL", 1, "bool", np.dtype("u1"), np.dtype("?"), "bool", 0, np.inf),
    _integer("U8", "u1", "uint8"),
    _integer("I8", "i1", "int8"),
    _integer("U16", "<u2", "uint16"),
    _integer("I16", "<i2", "int16"),
    _integer("U32", "<u4", "uint32"),
    _integer("I32", "<i4", "int32"),
    _integer("U64", "<u8", "uint64"),
    _integer("I64", "<i8", "int64"),
    _native("F16", "<f2", "float16", 0x7C00, 65520.0),
    _native("F32", "<f4", "float32", 0x7F80_0000, _F32_OVERFLOW),
    _native("F64", "<f8", "float64", 0x7FF0_0000_0000_0000, np.inf),
    DType(
        "C64", 8, "float", np.dtype("<f4"), np.dtype("<c8"), "complex64", 0x7F80_0000, _F32_OVERFLOW
    ),
    _mini(
        "BF16",
        "bfloat16",
        Minifloat(7, -126, (2.0 - 2.0**-7) * 2.0**127, 0x7F80, 0x7FC0),
        2,
        0x7F80,
    ),
    _mini("F8_E4M3", "float8_e4m3fn", Minifloat(3, -6, 448.0, None, 0x7F), 1, 0x7F),
    _mini("F8_E5M2", "float8_e5m2", Minifloat(2, -14, 57344.0, 0x7C, 0x7F), 1, 0x7C),
    _mini("F8_E4M3FNUZ", "float8_e4m3fnuz", Minifloat(3, -7, 240.0, None, 0x80, False), 1, 0),
    _mini("F8_E5M2FNUZ", "float8_e5m2fnuz", Minifloat(2, -15, 57344.0, None, 0x80, False), 1, 0),
)

DTYPES: Final[dict[str, DType]] = {dtype.name: dtype for dtype in _ALL}
"""Every accepted element type by its name in a safetensors header.

Left out on purpose: types narrower than a byte (F4, F6) and the bare exponent type F8_E8M0,
which are containers of quantised weights and mean nothing when averaged."""

_BY_TORCH: Final = {f"torch.{dtype.torch}": dtype for dtype in _ALL}
_BY_NUMPY: Final = {dtype.numpy: dtype for dtype in _ALL if dtype.numpy is not None}


@functools.lru_cache(maxsize=64)
def dtype_of(native: Any) -> DType | None:
    """The element type of a tensor's or array's `dtype`, or None if it cannot be stored.

    Any: torch's are told by name, so that torch need not be imported.
    """
    return _BY_TORCH.get(str(native)) or _BY_NUMPY.get(native)


class Scratch:
    """Reusable working memory for `widen` and `narrow`: 12 bytes per lane.

    Args:
        lanes: Most numbers that will be converted in one call.
    """

    __slots__ = ("narrow", "wide")

    def __init__(self, lanes: int) -> None:
        self.wide: npt.NDArray[np.uint64] = np.empty(lanes, np.uint64)
        self.narrow: npt.NDArray[np.uint32] = np.empty(lanes, np.uint32)


def widen(dtype: DType, lanes: Lanes, out: F64, scratch: Scratch | None = None) -> None:
    """Write the numbers of `lanes` to `out` as float64.

    Exact for every type but 64-bit integers beyond 2**53, which are rounded.

    Args:
        dtype: Type of the elements.
        lanes: One-dimensional array of `dtype.storage`.
        out: Array of the same length.
        scratch: Working memory of at least that length; made when absent.
    """
    if dtype.mini is None:
        np.copyto(out, lanes)
        return
    scratch = scratch or Scratch(len(lanes))
    count = len(lanes)
    if dtype.itemsize == 2:
        bits = scratch.narrow[:count]
        np.left_shift(lanes, 16, out=bits, dtype=np.uint32)
        np.copyto(out, bits.view(np.float32))
        return
    index = scratch.wide[:count].view(np.int64)
    np.copyto(index, lanes)
    _decoded(dtype.name).take(index, out=out, mode="clip")


def narrow(dtype: DType, values: F64, out: Lanes, scratch: Scratch | None = None) -> None:
    """Round float64 numbers to `dtype`, once, half to even.

    Integers saturate at the ends of their range and NaN becomes 0; floats overflow as the type
    does (to infinity, or to NaN where it has none).

    Args:
        dtype: Type to round to.
        values: Float64 numbers; destroyed.
        out: One-dimensional array of `dtype.storage`, same length.
        scratch: Working memory of at least that length; made when absent.
    """
    if dtype.kind == "float":
        if dtype.mini is None:
            _narrow_native(values, out)
        else:
            _narrow_mini(dtype, dtype.mini, values, out, scratch or Scratch(len(values)))
    elif dtype.kind == "int":
        _narrow_int(values, out)
    else:
        np.not_equal(values, 0.0, out=out.view(np.bool_))


def all_finite(dtype: DType, lanes: Lanes) -> bool:
    """Whether a one-dimensional array of `dtype.storage` holds neither NaN nor infinity."""
    if dtype.kind != "float" or not len(lanes):
        return True
    if lanes.dtype.kind == "f" and dtype.itemsize != 2:
        if len(lanes) <= _FEW_LANES:
            return bool(np.isfinite(lanes).all())
        # Without a temporary: NaN propagates through both, and fails both comparisons.
        return bool(np.minimum.reduce(lanes) > -np.inf and np.maximum.reduce(lanes) < np.inf)
    if not dtype.finite_mask:
        return not bool(np.equal(lanes, 0x80).any())
    bits = lanes.view(f"u{dtype.itemsize}")
    mask = bits.dtype.type(dtype.finite_mask)
    return bool(np.maximum.reduce(bits & mask) < mask)


def _narrow_native(values: F64, out: Lanes) -> None:
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        np.copyto(out, values, casting="same_kind")


def _narrow_int(values: F64, out: Lanes) -> None:
    info = np.iinfo(out.dtype)
    low, high = float(info.min), float(info.max)
    np.rint(values, out=values)
    above: npt.NDArray[np.intp] | None = None
    if int(high) > info.max:  # 64-bit: the largest integer is no float64, and high is one above
        above = np.flatnonzero(values >= high)
        high = float(np.nextafter(high, 0.0))
    np.clip(values, low, high, out=values)
    with np.errstate(invalid="ignore"):
        np.copyto(out, values, casting="unsafe")
    if above is not None and len(above):
        out[above] = info.max
    if np.isnan(values).any():
        out[np.isnan(values)] = 0


def _narrow_mini(dtype: DType, mini: Minifloat, values: F64, out: Lanes, scratch: Scratch) -> None:
    count = len(values)
    short = _quantise(mini, values, scratch)
    np.right_shift(short, 16, out=short)
    if dtype.itemsize == 2:
        np.copyto(out, short, casting="unsafe")
        return
    index = scratch.wide[:count].view(np.int64)
    np.copyto(index, short)
    _encoded(dtype.name).take(index, out=out, mode="clip")


def _quantise(mini: Minifloat, values: F64, scratch: Scratch) -> npt.NDArray[np.uint32]:
    """Round in place to the type's grid; give the float32 bits of the result."""
    count = len(values)
    steps = scratch.wide[:count]
    top = int(np.log2(mini.max_finite)) + 1
    np.bitwise_and(values.view(np.uint64), np.uint64(_EXPONENT_MASK), out=steps)
    np.clip(
        steps,
        np.uint64((mini.min_exponent + _F64_BIAS) << 52),
        np.uint64((top + _F64_BIAS) << 52),
        out=steps,
    )
    np.add(steps, np.uint64(((52 - mini.fraction_bits) << 52) + (1 << 51)), out=steps)
    pushed = steps.view(np.float64)
    short = scratch.narrow[:count].view(np.float32)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        np.copyto(short, values, casting="same_kind")  # keeps the sign of what becomes zero
        np.add(values, pushed, out=values)
        np.subtract(values, pushed, out=values)
        np.copysign(values, short, out=short, casting="same_kind")
    return short.view(np.uint32)


@functools.cache
def _decoded(name: str) -> F64:
    """The float64 value of each of an 8-bit type's 256 codes."""
    mini = DTYPES[name].mini
    assert mini is not None
    codes = np.arange(256)
    sign = np.where(codes & 0x80, -1.0, 1.0)
    exponent = (codes & 0x7F) >> mini.fraction_bits
    fraction = (codes & ((1 << mini.fraction_bits) - 1)) / 2.0**mini.fraction_bits
    normal = exponent > 0
    scale = 2.0 ** (np.maximum(exponent, 1) - 1 + mini.min_exponent)
    values: F64 = sign * scale * (normal + fraction)
    if mini.infinity is not None:
        values[(codes & 0x7F) == mini.infinity] = np.inf
        values[codes == mini.infinity | 0x80] = -np.inf
        values[(codes & 0x7F) > mini.infinity] = np.nan
    elif mini.signed_zero:
        values[(codes & 0x7F) == mini.nan] = np.nan
    else:
        values[mini.nan] = np.nan
    return values


@functools.cache
def _encoded(name: str) -> npt.NDArray[np.uint8]:
    """The 8-bit code of each float32 that is on the type's grid, by its upper 16 bits."""
    mini = DTYPES[name].mini
    assert mini is not None
    bits = np.arange(1 << 16, dtype=np.uint32)
    floats = (bits << np.uint32(16)).view(np.float32)
    sign = ((bits >> 8) & 0x80).astype(np.uint8) if mini.signed_zero else np.uint8(0)
    table = np.full(1 << 16, mini.nan, np.uint8) | sign
    overflow = mini.nan if mini.infinity is None else mini.infinity
    table = np.where(np.abs(floats) > mini.max_finite, np.uint8(overflow) | sign, table)
    table = np.where(np.isnan(floats), np.uint8(mini.nan) | sign, table)
    values = _decoded(name)
    for code in np.flatnonzero(np.isfinite(values)):
        table[int(values[code : code + 1].astype(np.float32).view(np.uint32)[0] >> 16)] = code
    table[1 << 15] = 0x80 if mini.signed_zero else 0
    return table.astype(np.uint8)
