"""Channel-last memory layout, and the rearrangements of tensors and weights that the write-back can do.

The activation memory is modelled as a flat uint8 array with one nibble per element, indexed by nibble address. The
nibbles of one plane of one channel are contiguous, a batch of samples stacked inside.
"""

import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from golden.formats import Format, Int64Array, Tensor, Uint8Array, as_integers, from_planes, to_planes


def address(c: ArrayLike, plane: ArrayLike, n: ArrayLike, h: ArrayLike, w: ArrayLike, *,
            base: int, fmt: Format, shape: Sequence[int]) -> Int64Array:
    """Nibble addresses: base + w + W*(h + H*(n + N*(plane + planes*c))).

    Parameters
    ----------
    c, plane, n, h, w : integers [...]
        Channel, nibble plane, sample, line, column; broadcast against each other.
    base : int
        Address of the tensor's first nibble.
    fmt : Format
        The tensor's format.
    shape : (C, N, H, W)
        The tensor's shape.

    Raises
    ------
    TypeError, ValueError
        If an index is not an integer inside the shape, the base is negative or the shape is illegal.
    """
    channels, samples, height, width = _check_shape(shape)
    result = as_integers(c, 0, channels - 1, "channel")
    for index, size, name in ((plane, fmt.planes, "plane"), (n, samples, "sample"), (h, height, "line"),
                              (w, width, "column")):
        result = result * size + as_integers(index, 0, size - 1, name)
    return result + _check_base(base)


def store(memory: Uint8Array, base: int, tensor: Tensor) -> None:
    """Write a tensor's nibbles into `memory` (uint8 [nibbles], changed in place) from address `base` on.

    Raises
    ------
    TypeError, ValueError
        If the memory is not a row of uint8, or the tensor does not fit between `base` and its end.
    """
    nibbles = to_planes(tensor.values, tensor.fmt).swapaxes(0, 1).reshape(-1)
    _slice(memory, base, nibbles.size)[:] = nibbles


def load(memory: Uint8Array, base: int, fmt: Format, shape: Sequence[int]) -> Tensor:
    """Read a tensor of `shape` (C, N, H, W) from address `base` on; the inverse of `store`.

    Raises
    ------
    TypeError, ValueError
        If the memory is not a row of nibbles in uint8, the shape is illegal, or the tensor ends beyond the memory.
    """
    channels, *inner = _check_shape(shape)
    count = channels * fmt.planes * int(np.prod(inner))
    nibbles = _slice(memory, base, count).reshape(channels, fmt.planes, *inner)
    return Tensor(from_planes(nibbles.swapaxes(0, 1), fmt), fmt)


def upsample2(tensor: Tensor) -> Tensor:
    """Nearest-neighbour upsampling by 2: [C, N, H, W] to [C, N, 2H, 2W]."""
    return Tensor(tensor.values.repeat(2, axis=2).repeat(2, axis=3), tensor.fmt)


def space_to_depth(tensor: Tensor) -> Tensor:
    """Turn 2 x 2 pixels into channels: [C, N, H, W] to [4C, N, H/2, W/2].

    Pixel (h, w) of channel c becomes pixel (h >> 1, w >> 1) of channel 4*c + 2*(h & 1) + (w & 1).

    Raises
    ------
    ValueError
        If H or W is odd.
    """
    channels, samples, height, width = tensor.shape
    if height % 2 or width % 2:
        raise ValueError(f"space-to-depth needs even H and W, not {height} x {width}")
    blocks = tensor.values.reshape(channels, samples, height // 2, 2, width // 2, 2)
    values = blocks.transpose(0, 3, 5, 1, 2, 4).reshape(4 * channels, samples, height // 2, width // 2)
    return Tensor(values, tensor.fmt)


def depth_to_space(tensor: Tensor) -> Tensor:
    """Undo `space_to_depth`: [4C, N, H, W] to [C, N, 2H, 2W].

    Raises
    ------
    ValueError
        If the channels are no multiple of 4.
    """
    channels, samples, height, width = tensor.shape
    if channels % 4:
        raise ValueError(f"depth-to-space needs a multiple of 4 channels, not {channels}")
    blocks = tensor.values.reshape(channels // 4, 2, 2, samples, height, width)
    values = blocks.transpose(0, 3, 4, 1, 5, 2).reshape(channels // 4, samples, 2 * height, 2 * width)
    return Tensor(values, tensor.fmt)


def space_to_depth_weights(weights: ArrayLike) -> Int64Array:
    """Weights of a stride-2 convolution, rewritten for stride 1 over the space-to-depth tensor.

    1x1: output line h reads line 2*h, of the half with parity 0. 3x3: both convolutions have zero padding 1. In each
    direction tap r of output line h reads line 2*h + r - 1, which is line h + (r + 1 >> 1) - 1 of the half with parity
    r + 1 & 1; of 36 taps 9 are used. Input channel c becomes channels 4*c to 4*c + 3, so groups of G channels with
    their scale codes become groups of 4*G.

    Parameters
    ----------
    weights : integers [K, C, 3, 3] or [K, C, 1, 1]

    Returns
    -------
    int64 [K, 4C, 3, 3] or [K, 4C, 1, 1]

    Raises
    ------
    TypeError, ValueError
        If the weights are not integers or have another shape.
    """
    source = as_integers(weights, -128, 127, "weights")
    if source.ndim != 4 or source.shape[2:] not in ((1, 1), (3, 3)):
        raise ValueError(f"weights must have the shape [K, C, 3, 3] or [K, C, 1, 1], not {source.shape}")
    outputs, channels, size, _ = source.shape
    half = size // 2
    result = np.zeros((outputs, channels, 2, 2, size, size), dtype=np.int64)
    for r in range(size):
        for s in range(size):
            result[:, :, (r + half) & 1, (s + half) & 1, (r + half) >> 1, (s + half) >> 1] = source[:, :, r, s]
    return result.reshape(outputs, 4 * channels, size, size)


def _check_shape(shape: Sequence[int]) -> tuple[int, int, int, int]:
    sizes = [operator.index(size) for size in shape]
    if len(sizes) != 4 or min(sizes) < 1:
        raise ValueError(f"a tensor has the shape (C, N, H, W) with sizes of at least 1, not {tuple(sizes)}")
    channels, samples, height, width = sizes
    return channels, samples, height, width


def _check_base(base: int) -> int:
    if operator.index(base) < 0:
        raise ValueError(f"base must be an address of at least 0, not {base}")
    return operator.index(base)


def _slice(memory: Uint8Array, base: int, count: int) -> Uint8Array:
    """The view of memory[base : base + count], all of it inside the memory."""
    if memory.dtype != np.uint8 or memory.ndim != 1:
        raise TypeError(f"memory must be uint8 [nibbles], not {memory.dtype} {list(memory.shape)}")
    end = _check_base(base) + count
    if end > memory.size:
        raise ValueError(f"the tensor needs the addresses {base} to {end - 1}, the memory ends at {memory.size - 1}")
    return memory[base:end]
