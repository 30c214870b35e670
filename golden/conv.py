"""Exact integer convolution as the arrays compute it, and the proof that no accumulator overflows.

A vector is the work between two drains of a lane: one group of input channels, all taps, in one pass. A pass
multiplies one plane of the activations with one plane of the weights.

    local = sum over the vector's channels and taps of a * w
    acc  += local * scale value of (output channel, group) << 4 * (activation plane + weight plane)

Everything is exact, so the order of vectors, and any split of them between arrays, gives the same `acc`.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.formats import NIBBLE_BITS, Format, Int64Array, ScaleFormat, Tensor, plane_values, to_planes

FLOAT_EXACT_BITS = 53


class AccumulatorOverflow(OverflowError):
    """A layer's weights could overflow an accumulator."""


@dataclass(frozen=True)
class Bounds:
    """Ranges of a layer's sums over all legal activations, all subsets of the terms and all orders of addition.

    All four are reached by some partial sum of the arithmetic, except that with two weight planes `acc_*` may be
    a little wide: it lets the passes of one activation nibble take their extremes at different nibbles.

    Parameters
    ----------
    psum_min, psum_max : int
        Range of the local sums of all vectors; psum_min <= 0 <= psum_max.
    acc_min, acc_max : int
        Range of the main accumulators of all output channels; acc_min <= 0 <= acc_max.
    """

    psum_min: int
    psum_max: int
    acc_min: int
    acc_max: int

    @property
    def psum_bits(self) -> int:
        """Width of the signed local accumulator that holds every local sum."""
        return _signed_bits(self.psum_min, self.psum_max)

    @property
    def acc_bits(self) -> int:
        """Width of the signed main accumulator that holds every partial sum."""
        return _signed_bits(self.acc_min, self.acc_max)


def conv(inputs: Sequence[Tensor], weights: ArrayLike, w_fmt: Format, codes: ArrayLike, group: int,
         scale: ScaleFormat) -> Int64Array:
    """Convolve with stride 1 and zero padding that keeps H and W.

    Parameters
    ----------
    inputs : sequence of Tensor
        Segments, joined along C; the same N, H, W each, formats may differ.
    weights : integers [K, C, k, k]
        k = 1 or 3; C channels in all segments together.
    w_fmt : Format
        Format of the weights, s4 or s8.
    codes : integers [K, ceil(C / group)]
        Scale codes; channel c has the one of group c // group.
    group : int
        Channels per group, at least 1.
    scale : ScaleFormat
        Format of the codes.

    Returns
    -------
    int64 [K, N, H, W]
        The accumulators, in units of 2**scale.unit_log2.

    Raises
    ------
    TypeError, ValueError
        If shapes, ranges or formats are illegal.
    AccumulatorOverflow
        If the weights are so large that this model could not compute exactly.
    """
    if not inputs:
        raise ValueError("a convolution needs at least one input tensor")
    inner = inputs[0].shape[1:]
    for tensor in inputs:
        if tensor.shape[1:] != inner:
            raise ValueError(f"all inputs must have the same N, H, W, found {inner} and {tensor.shape[1:]}")
    in_formats = [tensor.fmt for tensor in inputs for _ in range(tensor.shape[0])]
    prove(weights, w_fmt, in_formats, codes, group, scale,
          psum_bits=FLOAT_EXACT_BITS, acc_bits=FLOAT_EXACT_BITS, name="golden model in float64")
    w_planes, scales = _check(weights, w_fmt, len(in_formats), codes, group, scale)

    # Matrix products of floats run on BLAS, and are exact because every partial sum was just proved to be.
    outputs, kernel = w_planes.shape[1], w_planes.shape[-1]
    acc = np.zeros((outputs, int(np.prod(inner))))
    activations = _padded_planes(inputs, kernel // 2)
    for index, start in enumerate(range(0, len(in_formats), group)):
        channels = slice(start, min(start + group, len(in_formats)))
        for a_plane in range(max(fmt.planes for fmt in in_formats[channels])):
            columns = _im2col(activations[a_plane, channels], kernel)
            for w_plane, plane in enumerate(w_planes):
                local = plane[:, channels].reshape(outputs, -1).astype(np.float64) @ columns
                local *= (scales[:, index] << NIBBLE_BITS * (a_plane + w_plane))[:, np.newaxis]
                acc += local
    return acc.astype(np.int64).reshape(outputs, *inner)


def bounds(weights: ArrayLike, w_fmt: Format, in_formats: Sequence[Format], codes: ArrayLike, group: int,
           scale: ScaleFormat) -> Bounds:
    """The ranges that the sums of a layer can take, from its real weights.

    A product a * w of nibbles ranges over [lo, hi] as `a` runs through the legal nibbles of its plane. 0 is one of
    them, so the sum of these intervals contains the sum of any subset of the products, in any order.

    Parameters
    ----------
    weights, w_fmt, codes, group, scale
        As of `conv`.
    in_formats : sequence of Format [C]
        The format of each input channel.

    Raises
    ------
    TypeError, ValueError
        If shapes, ranges or formats are illegal.
    """
    w_planes, scales = _check(weights, w_fmt, len(in_formats), codes, group, scale)
    group_starts = np.arange(0, len(in_formats), group)
    psum_min = psum_max = 0
    acc_min = np.zeros(scales.shape[0], dtype=np.int64)
    acc_max = acc_min.copy()
    for a_plane in range(max(fmt.planes for fmt in in_formats)):
        ends = np.array([_nibble_range(fmt, a_plane) for fmt in in_formats])
        for w_plane, plane in enumerate(w_planes):
            products = ends.T[:, np.newaxis, :, np.newaxis, np.newaxis] * plane
            low = products.min(axis=0).sum(axis=(2, 3))
            high = products.max(axis=0).sum(axis=(2, 3))
            low = np.add.reduceat(low, group_starts, axis=1)
            high = np.add.reduceat(high, group_starts, axis=1)
            psum_min, psum_max = min(psum_min, int(low.min())), max(psum_max, int(high.max()))
            exponent = NIBBLE_BITS * (a_plane + w_plane)
            acc_min += (low * scales).sum(axis=1) << exponent
            acc_max += (high * scales).sum(axis=1) << exponent
    return Bounds(psum_min, psum_max, int(acc_min.min()), int(acc_max.max()))


def prove(weights: ArrayLike, w_fmt: Format, in_formats: Sequence[Format], codes: ArrayLike, group: int,
          scale: ScaleFormat, *, psum_bits: int, acc_bits: int, name: str) -> Bounds:
    """Prove that a layer overflows no accumulator of the given widths, whatever its activations.

    Parameters
    ----------
    weights, w_fmt, in_formats, codes, group, scale
        As of `bounds`.
    psum_bits, acc_bits : int
        Widths of the signed local and main accumulators.
    name : str
        The layer's name, for the error.

    Returns
    -------
    Bounds
        What was proved.

    Raises
    ------
    TypeError, ValueError
        If shapes, ranges or formats are illegal.
    AccumulatorOverflow
        If an accumulator is too narrow; says which, and how many bits it needs.
    """
    result = bounds(weights, w_fmt, in_formats, codes, group, scale)
    for accumulator, low, high, needed, present, remedy in (
            ("psum", result.psum_min, result.psum_max, result.psum_bits, psum_bits, "a smaller group"),
            ("acc", result.acc_min, result.acc_max, result.acc_bits, acc_bits, "smaller scale codes")):
        if needed > operator.index(present):
            raise AccumulatorOverflow(f"layer {name!r}: {accumulator} needs {needed} bits for sums in [{low}, {high}], "
                                      f"it has {present}; widen it or use {remedy}")
    return result


def _signed_bits(low: int, high: int) -> int:
    """Width of the narrowest two's complement number that holds low <= 0 and high >= 0."""
    return max(high, -low - 1).bit_length() + 1


def _nibble_range(fmt: Format, plane: int) -> tuple[int, int]:
    """Smallest and largest nibble in a plane; (0, 0) in a plane that the format does not have."""
    if plane >= fmt.planes:
        return 0, 0
    return (-8, 7) if fmt.plane_signed(plane) else (0, 15)


def _check(weights: ArrayLike, w_fmt: Format, channels: int, codes: ArrayLike, group: int,
           scale: ScaleFormat) -> tuple[Int64Array, Int64Array]:
    """Check a layer; weight planes as seen by multipliers [planes, K, C, k, k] and scale values [K, groups]."""
    if not w_fmt.signed:
        raise ValueError(f"weights must be s4 or s8, not {w_fmt.name}")
    if operator.index(group) < 1:
        raise ValueError(f"group must be at least 1 channel, not {group}")
    w_planes = plane_values(to_planes(weights, w_fmt), w_fmt)
    shape = w_planes.shape[1:]
    if len(shape) != 4 or 0 in shape or shape[1] != channels or shape[2:] not in ((1, 1), (3, 3)):
        raise ValueError(f"weights must have the shape [K, {channels}, k, k] with k = 1 or 3, not {shape}")
    scales = scale.value(codes)
    expected = (shape[0], -(-channels // group))
    if scales.shape != expected:
        raise ValueError(f"codes must have the shape [K, ceil(C / group)] = {expected}, not {scales.shape}")
    return w_planes, scales


def _padded_planes(inputs: Sequence[Tensor], padding: int) -> NDArray[np.float64]:
    """All nibbles as multipliers see them, [planes, C, N, H + 2*padding, W + 2*padding]; 0 where there is none."""
    channels = sum(tensor.shape[0] for tensor in inputs)
    _, samples, height, width = inputs[0].shape
    result = np.zeros((max(tensor.fmt.planes for tensor in inputs), channels, samples,
                       height + 2 * padding, width + 2 * padding))
    start = 0
    for tensor in inputs:
        end = start + tensor.shape[0]
        result[:tensor.fmt.planes, start:end, :, padding:padding + height, padding:padding + width] = (
            plane_values(to_planes(tensor.values, tensor.fmt), tensor.fmt))
        start = end
    return result


def _im2col(padded: NDArray[np.float64], kernel: int) -> NDArray[np.float64]:
    """The window of every pixel: [C, N, H + k - 1, W + k - 1] to [C*k*k, N*H*W]."""
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(2, 3))
    return windows.transpose(0, 4, 5, 1, 2, 3).reshape(padded.shape[0] * kernel * kernel, -1)
