"""Number formats: activations and weights as nibble planes, and the codes of weight scales.

A 4-bit value is one nibble. An 8-bit value is two: the low one unsigned with weight 1, the high one with
weight 16 and the sign, if there is one. Multipliers only ever see nibbles, so precision is a matter of how many
planes are multiplied.
"""

import operator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

Int64Array = NDArray[np.int64]
Uint8Array = NDArray[np.uint8]

NIBBLE_BITS = 4


def as_integers(values: ArrayLike, low: int, high: int, name: str) -> Int64Array:
    """`values` as a new int64 array, refused unless all are integers in [low, high].

    Raises
    ------
    TypeError
        If the values are not integers (booleans and whole floats are not).
    ValueError
        If a value is outside [low, high].
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, not {array.dtype}")
    if array.size:
        lowest, highest = int(array.min()), int(array.max())
        if lowest < low or highest > high:
            wrong = lowest if lowest < low else highest
            raise ValueError(f"{name} must be in [{low}, {high}], found {wrong}")
    return array.astype(np.int64, order="C")


@dataclass(frozen=True)
class Format:
    """An integer format made of whole nibbles.

    Parameters
    ----------
    name : str
        The name used in configurations and programs: u4, s4, u8 or s8.
    bits : int
        Width in bits, 4 or 8.
    signed : bool
        Two's complement if true.
    """

    name: str
    bits: int
    signed: bool

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"a format has 4 or 8 bits (one or two nibbles), not {self.bits!r}")
        expected = f"{'s' if self.signed else 'u'}{self.bits}"
        if self.name != expected:
            raise ValueError(f"a {'signed' if self.signed else 'unsigned'} {self.bits}-bit format "
                             f"is named {expected!r}, not {self.name!r}")

    @property
    def planes(self) -> int:
        """Number of nibble planes."""
        return self.bits // NIBBLE_BITS

    @property
    def min(self) -> int:
        """Smallest value."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def max(self) -> int:
        """Largest value."""
        return (1 << (self.bits - self.signed)) - 1

    def plane_signed(self, plane: int) -> bool:
        """Whether the nibbles of a plane are two's complement: only those of the highest plane can be."""
        if not 0 <= operator.index(plane) < self.planes:
            raise ValueError(f"{self.name} has the planes 0 to {self.planes - 1}, not {plane}")
        return self.signed and plane == self.planes - 1


U4 = Format("u4", 4, False)
S4 = Format("s4", 4, True)
U8 = Format("u8", 8, False)
S8 = Format("s8", 8, True)
FORMATS = {fmt.name: fmt for fmt in (U4, S4, U8, S8)}


@dataclass(frozen=True, eq=False)
class Tensor:
    """An activation tensor: checked, copied and read-only.

    Parameters
    ----------
    values : integers [C, N, H, W]
        Channel, sample, line, column; every size at least 1, every value in the range of `fmt`. Kept as int64.
    fmt : Format
        The format of the values.

    Raises
    ------
    TypeError
        If the values are not integers or `fmt` is not a `Format`.
    ValueError
        If the shape is not [C, N, H, W], a size is 0 or a value does not fit the format.
    """

    values: Int64Array
    fmt: Format

    def __post_init__(self) -> None:
        if not isinstance(self.fmt, Format):
            raise TypeError(f"fmt must be a Format, not {self.fmt!r}")
        values = as_integers(self.values, self.fmt.min, self.fmt.max, f"{self.fmt.name} values")
        if values.ndim != 4 or values.size == 0:
            raise ValueError(f"a tensor has the shape [C, N, H, W] with sizes of at least 1, not {values.shape}")
        values.flags.writeable = False
        object.__setattr__(self, "values", values)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(C, N, H, W)."""
        channels, samples, height, width = self.values.shape
        return channels, samples, height, width


def to_planes(values: ArrayLike, fmt: Format) -> Uint8Array:
    """Split integers [...] into nibbles [planes, ...], low plane first; each nibble is its bit pattern, 0 to 15.

    Raises
    ------
    TypeError, ValueError
        If a value is not an integer or does not fit `fmt`.
    """
    array = as_integers(values, fmt.min, fmt.max, f"{fmt.name} values")
    return np.stack([(array >> (NIBBLE_BITS * plane)) & 15 for plane in range(fmt.planes)]).astype(np.uint8)


def plane_values(planes: ArrayLike, fmt: Format) -> Int64Array:
    """What a multiplier sees: nibbles [planes, ...] as int64, in [-8, 7] in a signed plane, else in [0, 15].

    The value of a tensor is the sum over its planes of `plane_values << 4 * plane`.

    Raises
    ------
    TypeError, ValueError
        If there are not `fmt.planes` planes of integers in [0, 15].
    """
    array = as_integers(planes, 0, 15, "nibbles")
    if array.ndim == 0 or array.shape[0] != fmt.planes:
        raise ValueError(f"{fmt.name} needs {fmt.planes} planes on the first axis, not the shape {array.shape}")
    for plane in range(fmt.planes):
        if fmt.plane_signed(plane):
            array[plane] = (array[plane] ^ 8) - 8
    return array


def from_planes(planes: ArrayLike, fmt: Format) -> Int64Array:
    """Join nibbles [planes, ...] into int64 values [...]; the inverse of `to_planes`.

    Raises
    ------
    TypeError, ValueError
        If there are not `fmt.planes` planes of integers in [0, 15].
    """
    weights = 1 << (NIBBLE_BITS * np.arange(fmt.planes))
    return np.tensordot(weights, plane_values(planes, fmt), axes=1)


def pack_nibbles(nibbles: ArrayLike) -> Uint8Array:
    """Pack nibbles [count] into bytes [ceil(count / 2)], low nibble first; an odd count ends with a zero nibble.

    Raises
    ------
    TypeError, ValueError
        If the nibbles are not one row of integers in [0, 15].
    """
    array = as_integers(nibbles, 0, 15, "nibbles").astype(np.uint8)
    if array.ndim != 1:
        raise ValueError(f"nibbles must have one dimension, not the shape {array.shape}")
    pairs = np.pad(array, (0, array.size % 2)).reshape(-1, 2)
    return (pairs[:, 0] | (pairs[:, 1] << NIBBLE_BITS)).astype(np.uint8)


def unpack_nibbles(data: bytes | ArrayLike, count: int) -> Uint8Array:
    """The first `count` nibbles of packed bytes; the inverse of `pack_nibbles`.

    Raises
    ------
    TypeError, ValueError
        If the data are not one row of bytes or hold fewer than `count` nibbles.
    """
    raw = np.frombuffer(data, np.uint8) if isinstance(data, (bytes, bytearray, memoryview)) else data
    array = as_integers(raw, 0, 255, "bytes").astype(np.uint8)
    if array.ndim != 1:
        raise ValueError(f"bytes must have one dimension, not the shape {array.shape}")
    if not 0 <= operator.index(count) <= 2 * array.size:
        raise ValueError(f"count must be in [0, {2 * array.size}], the nibbles in {array.size} bytes, not {count}")
    return np.stack([array & 15, array >> NIBBLE_BITS], axis=1).reshape(-1)[:count]


@dataclass(frozen=True)
class ScaleFormat:
    """Codes of weight scales: unsigned floating point UE(e)M(m), whose values are small integers.

    A code is the exponent field above the mantissa field. With mantissa m its value is m at exponent 0 (subnormal) and
    (2**man_bits + m) << (exponent - 1) otherwise, in units of 2**`unit_log2`. Larger codes have larger values. With
    the default widths this is the positive half of OCP FP8 E4M3 (no infinity; all ones is NaN) in units of 2**-9.
    Fewer exponent bits cut the window of large scales away and leave the small codes' values as they are.

    Parameters
    ----------
    exp_bits : int
        Width of the exponent field, 1 to 4.
    man_bits : int
        Width of the mantissa field, 0 to 3.
    """

    exp_bits: int = 4
    man_bits: int = 3

    def __post_init__(self) -> None:
        if not 1 <= operator.index(self.exp_bits) <= 4:
            raise ValueError(f"exp_bits must be in [1, 4], not {self.exp_bits}: beyond FP8 E4M3 only accumulators grow")
        if not 0 <= operator.index(self.man_bits) <= 3:
            raise ValueError(f"man_bits must be in [0, 3], not {self.man_bits}: a code must fit a byte")

    @property
    def bits(self) -> int:
        """Width of a code."""
        return self.exp_bits + self.man_bits

    @property
    def unit_log2(self) -> int:
        """log2 of the real scale that integer value 1 stands for (E4M3 has the exponent bias 7)."""
        return -6 - self.man_bits

    @property
    def nan_code(self) -> int | None:
        """The code that is not a number: all ones in UE4M3, None in all other widths."""
        return 0x7F if (self.exp_bits, self.man_bits) == (4, 3) else None

    @property
    def max_code(self) -> int:
        """The largest legal code; all codes from 0 to it are legal."""
        return (1 << self.bits) - 1 - (self.nan_code is not None)

    @property
    def max_value(self) -> int:
        """The largest integer value."""
        return int(self._values[-1])

    @property
    def power_of_two_codes(self) -> Uint8Array:
        """Codes of the values 1, 2, 4, ... in this order: entry i has the value 2**i.

        Up to 2**(man_bits - 1) they are subnormals (exponent 0, one mantissa bit), then those with mantissa 0.
        """
        codes = np.arange(self.max_code + 1, dtype=np.uint8)
        return codes[self.is_power_of_two(codes)]

    @cached_property
    def _values(self) -> Int64Array:
        codes = np.arange(self.max_code + 1, dtype=np.int64)
        exponent, mantissa = codes >> self.man_bits, codes & ((1 << self.man_bits) - 1)
        normal = ((1 << self.man_bits) + mantissa) << np.maximum(exponent - 1, 0)
        return np.where(exponent == 0, mantissa, normal)

    def value(self, codes: ArrayLike) -> Int64Array:
        """Integer values [...] of codes [...].

        Raises
        ------
        TypeError, ValueError
            If a code is not an integer in [0, max_code]; the NaN code is not.
        """
        array = np.asarray(codes)
        if self.nan_code is not None and array.dtype.kind in "iu" and (array == self.nan_code).any():
            raise ValueError(f"scale code {self.nan_code:#x} is NaN, legal codes are 0 to {self.max_code:#x}")
        return self._values[as_integers(array, 0, self.max_code, "scale codes")]

    def is_power_of_two(self, codes: ArrayLike) -> NDArray[np.bool_]:
        """Whether the values of codes [...] are powers of two, subnormal ones included; zero is not.

        Raises
        ------
        TypeError, ValueError
            As `value`.
        """
        values = self.value(codes)
        return np.equal(np.bitwise_count(values), 1)

    def encode(self, x: ArrayLike, *, saturate: bool = False) -> Uint8Array:
        """The codes [...] nearest to real scales [...]; of two that are equally near, the even code.

        Parameters
        ----------
        x : real numbers [...]
            Scales in units of 2**`unit_log2`, that is on the scale of `value`: encode(value(codes)) == codes.
        saturate : bool
            Give the largest code for scales above `max_value`, instead of an error.

        Raises
        ------
        ValueError
            If a scale is negative, not finite, or above `max_value` without `saturate`.
        """
        scales = np.asarray(x, dtype=np.float64)
        if not np.isfinite(scales).all() or (scales < 0).any():
            raise ValueError("scales must be finite and not negative")
        if saturate:
            scales = np.minimum(scales, self.max_value)
        elif (scales > self.max_value).any():
            raise ValueError(f"scales must be at most {self.max_value} units of 2**{self.unit_log2}, found "
                             f"{scales.max():g}; saturate=True clips them")
        above = np.searchsorted(self._values, scales)
        below = np.maximum(above - 1, 0)
        twice_middle = self._values[below] + self._values[above]
        tie_to_above = (2 * scales == twice_middle) & (above % 2 == 0)
        return np.where((2 * scales > twice_middle) | tie_to_above, above, below).astype(np.uint8)
