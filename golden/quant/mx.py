"""MXINT8: blocks of 8-bit integers that share a power-of-two scale.

`encode` and `decode` are the format as published: OCP Microscaling Formats (MX) Specification v1.0, sections 5.2
(blocks of 32), 5.3.4 (INT8 elements with the implicit scale 2**-6), 5.4 (E8M0 scales) and 6.3 (conversion).
`quantise_mxint8` is the hardware's variant for weights: the block is a group of input channels x all taps, and
the shared exponent is a power-of-two scale code below a power-of-two scale of the output channel. Where the groups
are blocks and the exponents fit the window of codes, both stand for exactly the same weights.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.formats import S8, Int64Array, ScaleFormat, Uint8Array
from golden.quant.weights import Float64Array, QuantisedWeights, checked_weights, grouped, rounded

BLOCK = 32
ELEMENT_FRACTION_BITS = 6
E8M0_BIAS = 127
E8M0_NAN = 0xFF


@dataclass(frozen=True, eq=False)
class MxInt8:
    """Values in MXINT8: element * 2**-6 * 2**(scale - 127).

    Parameters
    ----------
    elements : int8 [..., L]
        Two's complement, in [-127, 127]; L is a multiple of 32.
    scales : uint8 [..., L / 32]
        E8M0 exponents with bias 127; 0xFF is NaN and makes the whole block NaN.
    """

    elements: NDArray[np.int8]
    scales: Uint8Array

    def decode(self) -> Float64Array:
        """The values [..., L] as float64, which holds every one exactly; NaN throughout a block whose scale is NaN."""
        exponents = np.repeat(self.scales.astype(np.int64) - E8M0_BIAS - ELEMENT_FRACTION_BITS, BLOCK, axis=-1)
        values = np.ldexp(self.elements.astype(np.float64), exponents)
        return np.where(np.repeat(self.scales == E8M0_NAN, BLOCK, axis=-1), np.nan, values)


def encode(values: ArrayLike) -> MxInt8:
    """Convert real values [..., L] to MXINT8, blocks of 32 along the last axis.

    The scale is the largest power of two not above the block's largest magnitude (the element's largest exponent
    is 0), clamped to E8M0's smallest, 2**-127. Elements are rounded to nearest, half to even. Where the specification
    leaves the choice:

    - the element -128 is not used, so the range is symmetric and -1.996 clamps to -127/64 as 1.996 does to 127/64;
    - a block with a NaN or an infinity gets the NaN scale, its elements are 0;
    - a block of zeros gets the smallest scale;
    - values beyond E8M0's largest scale 2**127 (float64 has them, float32 has not) also give the NaN scale.

    Raises
    ------
    ValueError
        If the last axis is not a positive multiple of 32.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim == 0 or x.shape[-1] == 0 or x.shape[-1] % BLOCK:
        raise ValueError(f"the last axis must be a positive multiple of the block size {BLOCK}, not of shape {x.shape}")
    blocks = x.reshape(*x.shape[:-1], -1, BLOCK)
    peaks = np.abs(blocks).max(axis=-1)
    legal = peaks < 2.0 ** (E8M0_BIAS + 1)  # false for NaN too
    exponents = np.maximum(floor_log2(np.where(legal, peaks, 0)), -E8M0_BIAS)
    scaled = np.ldexp(np.where(legal[..., None], blocks, 0), ELEMENT_FRACTION_BITS - exponents[..., None])
    elements = np.clip(np.rint(scaled), -S8.max, S8.max).astype(np.int8).reshape(x.shape)
    return MxInt8(elements, np.where(legal, exponents + E8M0_BIAS, E8M0_NAN).astype(np.uint8))


def floor_log2(x: Float64Array) -> Int64Array:
    """floor(log2(x)) of non-negative reals, exact; for 0 less than the exponent of any float64."""
    return np.where(x > 0, np.frexp(x)[1] - 1, -2000).astype(np.int64)


def quantise_mxint8(weights: ArrayLike, group: int, scale_format: ScaleFormat) -> QuantisedWeights:
    """Quantise weights [K, C, kh, kw] to s8 with one shared power-of-two exponent per group, as MXINT8 does.

    A group's exponent is floor(log2) of its largest magnitude. The channel scale is a power of two that gives the
    channel's largest exponent the largest power-of-two code. A window of n power-of-two codes spans n exponents;
    groups further below the largest than that get the smallest code and so lose low bits, not range.

    Raises
    ------
    ValueError
        If the weights are not finite numbers [K, C, kh, kw] or `group` is not positive.
    """
    w = checked_weights(weights, group, S8)
    codes = scale_format.power_of_two_codes
    exponents = floor_log2(np.abs(grouped(w, group)).max(axis=2))
    largest = exponents.max(axis=1)
    index = np.maximum(exponents - largest[:, None] + len(codes) - 1, 0)
    channel_scale = np.ldexp(1.0, np.maximum(largest, -1000) - ELEMENT_FRACTION_BITS - (len(codes) - 1))
    return rounded(w, codes[index], channel_scale, group, S8, scale_format)
