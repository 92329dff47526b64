"""Element types: what safetensors calls them, how wide they are, and how to go to float64 and back.

Here: the closed table of element types, `widen` (exact, to float64) and `narrow` (one rounding,
half to even). Types that NumPy has no name for (bfloat16, the 8-bit floats) are handled through
integer views of their bits, so neither torch nor ml_dtypes is needed. Not here: names, shapes and
offsets (`layout.py`), state dicts (`state.py`).

Theory of operation of `narrow` for floats of 8 and 16 bits. Multiplied by a power of two, a
float32 has the target's exponent field, and the target's bits are the float32's upper ones, for
subnormals too: rounding is integer arithmetic on them. Going through float32 would round twice,
but that only matters if the float32 lies exactly between two targets while the float64 does not:
these are looked for, and moved off the tie by one bit.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

F64: TypeAlias = npt.NDArray[np.float64]
Lanes: TypeAlias = npt.NDArray[Any]  # an array of any dtype's `storage`

_F32_BIAS: Final = 127
_F32_FRACTION_BITS: Final = 23
_F32_INFINITY: Final = np.uint32(0x7F80_0000)
_F32_MAGNITUDE: Final = np.uint32(0x7FFF_FFFF)
_ONE: Final = np.uint32(1)
_MINUS_ONE: Final = np.uint32(0xFFFF_FFFF)  # added modulo 2**32
_NOWHERE: Final = np.empty(0, np.intp)
_FEW_LANES: Final = 1 << 16  # up to here a temporary array of bool stays in cache


@dataclass(frozen=True, slots=True)
class ShortFloat:
    """Bit layout of a float of 8 or 16 bits: sign, exponent, fraction.

    Attributes:
        fraction_bits: Stored bits of the significand.
        bias: Subtracted from the exponent field.
        largest: Magnitude bits of the largest finite value.
        overflow: Magnitude bits that anything larger becomes: infinity, or NaN without one.
        nan: Bits of the canonical NaN.
        signed_zero: Whether minus zero exists (in the "FNUZ" types its code is NaN).
    """

    fraction_bits: int
    bias: int
    largest: int
    overflow: int
    nan: int
    signed_zero: bool = True

    def magnitude(self, code: int) -> float:
        """The number whose magnitude bits are `code`, were every code finite."""
        exponent, fraction = divmod(code, 1 << self.fraction_bits)
        significand = fraction / (1 << self.fraction_bits) + (exponent > 0)
        return float(significand * 2.0 ** (max(exponent, 1) - self.bias))


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
        finite_mask: Bits that are all ones exactly in NaN and infinity; 0 where no bits are.
        short: Bit layout of a float of 8 or 16 bits.
    """

    name: str
    itemsize: int
    kind: Literal["bool", "int", "float"]
    storage: np.dtype[Any]
    numpy: np.dtype[Any] | None
    torch: str
    finite_mask: int = 0
    short: ShortFloat | None = None

    @property
    def lanes(self) -> int:
        """Numbers per element: 2 for complex types, else 1."""
        return self.itemsize // self.storage.itemsize


def _native(name: str, code: str, torch: str, finite_mask: int = 0) -> DType:
    dtype = np.dtype(code)
    kind: Literal["int", "float"] = "float" if dtype.kind == "f" else "int"
    return DType(name, dtype.itemsize, kind, dtype, dtype, torch, finite_mask)


def _short(name: str, torch: str, finite_mask: int, short: ShortFloat) -> DType:
    itemsize = 2 if name in ("F16", "BF16") else 1
    storage = np.dtype(f"<u{itemsize}")
    numpy = np.dtype("<f2") if name == "F16" else None
    return DType(name, itemsize, "float", storage, numpy, torch, finite_mask, short)


_ALL: Final = (
    DType("BOOL", 1, "bool", np.dtype("u1"), np.dtype("?"), "bool"),
    _native("U8", "u1", "uint8"),
    _native("I8", "i1", "int8"),
    _native("U16", "<u2", "uint16"),
    _native("I16", "<i2", "int16"),
    _native("U32", "<u4", "uint32"),
    _native("I32", "<i4", "int32"),
    _native("U64", "<u8", "uint64"),
    _native("I64", "<i8", "int64"),
    _native("F32", "<f4", "float32", 0x7F80_0000),
    _native("F64", "<f8", "float64", 0x7FF0_0000_0000_0000),
    DType("C64", 8, "float", np.dtype("<f4"), np.dtype("<c8"), "complex64", 0x7F80_0000),
    _short("F16", "float16", 0x7C00, ShortFloat(10, 15, 0x7BFF, 0x7C00, 0x7E00)),
    _short("BF16", "bfloat16", 0x7F80, ShortFloat(7, 127, 0x7F7F, 0x7F80, 0x7FC0)),
    _short("F8_E4M3", "float8_e4m3fn", 0x7F, ShortFloat(3, 7, 0x7E, 0x7F, 0x7F)),
    _short("F8_E5M2", "float8_e5m2", 0x7C, ShortFloat(2, 15, 0x7B, 0x7C, 0x7F)),
    _short("F8_E4M3FNUZ", "float8_e4m3fnuz", 0, ShortFloat(3, 8, 0x7F, 0x80, 0x80, False)),
    _short("F8_E5M2FNUZ", "float8_e5m2fnuz", 0, ShortFloat(2, 16, 0x7F, 0x80, 0x80, False)),
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
    """Reusable working memory for `widen` and `narrow`: 22 bytes per number.

    Args:
        lanes: Most numbers that will be converted in one call.
    """

    __slots__ = ("bits", "flags", "more_flags", "sign", "spare", "wide")

    def __init__(self, lanes: int) -> None:
        self.wide: F64 = np.empty(lanes, np.float64)
        self.bits: npt.NDArray[np.uint32] = np.empty(lanes, np.uint32)
        self.spare: npt.NDArray[np.uint32] = np.empty(lanes, np.uint32)
        self.sign: npt.NDArray[np.uint32] = np.empty(lanes, np.uint32)
        self.flags: npt.NDArray[np.bool_] = np.empty(lanes, np.bool_)
        self.more_flags: npt.NDArray[np.bool_] = np.empty(lanes, np.bool_)


def widen(dtype: DType, lanes: Lanes, out: F64, scratch: Scratch | None = None) -> None:
    """Write the numbers of `lanes` to `out` as float64.

    Exact for every type but 64-bit integers beyond 2**53, which are rounded. A signalling NaN may
    raise NumPy's warning of an invalid operation, unless the caller has turned that off.

    Args:
        dtype: Type of the elements.
        lanes: One-dimensional array of `dtype.storage`.
        out: Array of the same length.
        scratch: Working memory of at least that length; made when absent.
    """
    if dtype.short is None:
        np.copyto(out, lanes)
    elif dtype.numpy is not None:
        np.copyto(out, lanes.view(dtype.numpy))
    elif dtype.itemsize == 2:
        bits = (scratch or Scratch(len(lanes))).bits[: len(lanes)]
        np.left_shift(lanes, 16, out=bits, dtype=np.uint32)
        np.copyto(out, bits.view(np.float32))
    else:
        index = (scratch or Scratch(len(lanes))).wide[: len(lanes)].view(np.int64)
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
    if dtype.short is not None:
        _narrow_short(dtype.short, values, out, scratch or Scratch(len(values)))
    elif dtype.kind == "float":
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            np.copyto(out, values, casting="same_kind")
    elif dtype.kind == "int":
        _narrow_int(values, out)
    else:
        np.not_equal(values, 0.0, out=out.view(np.bool_))


def all_finite(dtype: DType, lanes: Lanes) -> bool:
    """Whether a one-dimensional array of `dtype.storage` holds neither NaN nor infinity."""
    if dtype.kind != "float" or not len(lanes):
        return True
    if dtype.short is None:
        if len(lanes) <= _FEW_LANES:
            return bool(np.count_nonzero(np.isfinite(lanes)) == len(lanes))  # cheaper than all()
        # Without a temporary: NaN propagates through both, and fails both comparisons.
        return bool(np.minimum.reduce(lanes) > -np.inf and np.maximum.reduce(lanes) < np.inf)
    if not dtype.finite_mask:
        return not bool(np.equal(lanes, dtype.short.nan).any())
    mask = dtype.storage.type(dtype.finite_mask)
    return bool(np.maximum.reduce(lanes & mask) < mask)


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


def _narrow_short(short: ShortFloat, values: F64, out: Lanes, scratch: Scratch) -> None:
    count = len(values)
    bits, sign = scratch.bits[:count], scratch.sign[:count]
    dropped = _F32_FRACTION_BITS - short.fraction_bits
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if short.bias != _F32_BIAS:
            np.multiply(values, 2.0 ** (short.bias - _F32_BIAS), out=values)
        np.copyto(bits.view(np.float32), values, casting="same_kind")
    np.right_shift(bits, 31, out=sign)
    np.bitwise_and(bits, _F32_MAGNITUDE, out=bits)
    nans = _places(np.greater(bits, _F32_INFINITY, out=scratch.flags[:count]))
    _leave_false_ties(dropped, values, bits, scratch)
    _drop_bits(dropped, bits, scratch.spare[:count])
    if count and np.maximum.reduce(bits) > short.largest:
        bits[bits > short.largest] = short.overflow
    _set_sign(short, bits, sign, out.itemsize * 8)
    np.copyto(out, bits, casting="unsafe")
    out[nans] = short.nan


def _places(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Where flags are set; nearly always nowhere, which is told apart cheaply."""
    return np.flatnonzero(flags) if flags.any() else _NOWHERE


def _leave_false_ties(
    dropped: int, values: F64, bits: npt.NDArray[np.uint32], scratch: Scratch
) -> None:
    """Move float32 bits that became a tie by rounding, to the side where the float64 lies."""
    count = len(bits)
    spare, ties = scratch.spare[:count], scratch.flags[:count]
    np.bitwise_and(bits, np.uint32((1 << dropped) - 1), out=spare)
    np.equal(spare, np.uint32(1 << (dropped - 1)), out=ties)
    if not ties.any():
        return
    exact, rounded = np.abs(values, out=values), scratch.wide[:count]
    np.copyto(rounded, bits.view(np.float32))
    np.bitwise_and(ties, np.not_equal(exact, rounded, out=scratch.more_flags[:count]), out=ties)
    false = _places(ties)
    bits[false] += np.where(exact[false] > rounded[false], _ONE, _MINUS_ONE)


def _drop_bits(dropped: int, bits: npt.NDArray[np.uint32], spare: npt.NDArray[np.uint32]) -> None:
    """Shift right by `dropped`, rounding half to even."""
    np.right_shift(bits, dropped, out=spare)
    np.bitwise_and(spare, _ONE, out=spare)
    np.add(spare, np.uint32((1 << (dropped - 1)) - 1), out=spare)
    np.add(bits, spare, out=bits)
    np.right_shift(bits, dropped, out=bits)


def _set_sign(
    short: ShortFloat, bits: npt.NDArray[np.uint32], sign: npt.NDArray[np.uint32], width: int
) -> None:
    if not short.signed_zero:
        np.bitwise_and(sign, bits != 0, out=sign)
    np.left_shift(sign, width - 1, out=sign)
    np.bitwise_or(bits, sign, out=bits)


@functools.cache
def _decoded(name: str) -> F64:
    """The float64 value of each of an 8-bit type's 256 codes."""
    short = DTYPES[name].short
    assert short is not None
    values: F64 = np.array([short.magnitude(code & 0x7F) for code in range(256)])
    values[0x80:] *= -1.0
    if not short.signed_zero:
        values[short.nan] = np.nan
        return values
    for first in (0, 0x80):
        values[first + short.largest + 1 : first + 0x80] = np.nan
        if short.overflow != short.nan:
            values[first + short.overflow] = np.copysign(np.inf, -first)
    return values
