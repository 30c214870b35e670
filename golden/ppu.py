"""Post-processing: from accumulators to the next layer's activations, with the one rounding of a layer.

    y = clamp((acc * M[k] + B[k] + residual * R[k] + (1 << (S - 1))) >> S)      (no rounding term at S = 0)
    y = 0 where |y| < dead_zone

M, R and B are those of the sample's parameter block. The shift is arithmetic, so halves round up; ReLU is the
clamp of an unsigned output format.
"""

import operator
from dataclasses import dataclass

import numpy as np

from golden.formats import Format, Int64Array, Tensor, as_integers

FACTOR_BITS = 16
INT64_BITS = 64


@dataclass(frozen=True, eq=False)
class PostParams:
    """Parameters of one layer's post-processing: checked, copied and read-only.

    Parameters
    ----------
    M : s16 [blocks, K]
        Factor of the accumulator.
    R : s16 [blocks, K]
        Factor of the residual.
    B : s(acc_bits + 16) [blocks, K]
        Addend; `postprocess` checks the width.
    shift : int
        S, 0 to 63.
    dead_zone : int
        Results below this magnitude become 0; 0 to 255, off at 0 and 1.
    sample_block : integers [N]
        The block that each sample uses.

    Raises
    ------
    TypeError
        If a parameter is not an integer.
    ValueError
        If a parameter is out of range or the shapes do not agree.
    """

    M: Int64Array
    R: Int64Array
    B: Int64Array
    shift: int
    dead_zone: int
    sample_block: Int64Array

    def __post_init__(self) -> None:
        for name, bits in (("M", FACTOR_BITS), ("R", FACTOR_BITS), ("B", INT64_BITS)):
            self._freeze(name, -1 << (bits - 1), (1 << (bits - 1)) - 1)
        if self.M.ndim != 2 or self.M.size == 0 or not self.M.shape == self.R.shape == self.B.shape:
            raise ValueError(f"M, R and B must have one shape [blocks, K] with sizes of at least 1, "
                             f"not {self.M.shape}, {self.R.shape} and {self.B.shape}")
        self._freeze("sample_block", 0, self.M.shape[0] - 1)
        if self.sample_block.ndim != 1 or self.sample_block.size == 0:
            raise ValueError(f"sample_block must have the shape [N], N at least 1, not {self.sample_block.shape}")
        if not 0 <= operator.index(self.shift) <= 63:
            raise ValueError(f"shift must be in [0, 63], not {self.shift}")
        if not 0 <= operator.index(self.dead_zone) <= 255:
            raise ValueError(f"dead_zone must be in [0, 255], the magnitudes of 8-bit values, not {self.dead_zone}")

    def _freeze(self, name: str, low: int, high: int) -> None:
        array = as_integers(getattr(self, name), low, high, name)
        array.flags.writeable = False
        object.__setattr__(self, name, array)


def postprocess(acc: Int64Array, params: PostParams, out_fmt: Format, residual: Tensor | None = None, *,
                acc_bits: int) -> Tensor:
    """Scale, shift, clamp and dead-zone accumulators.

    Parameters
    ----------
    acc : s(acc_bits) [K, N, H, W]
        Accumulators, as `golden.conv.conv` returns them.
    params : PostParams
        For K output channels and N samples.
    out_fmt : Format
        Format of the result; its range is the clamp.
    residual : Tensor [K, N, H, W], optional
        Added with the factor R; without one, R has no effect.
    acc_bits : int
        Width of the main accumulators.

    Returns
    -------
    Tensor [K, N, H, W]

    Raises
    ------
    TypeError, ValueError
        If the accumulators or B do not fit their widths, or shapes do not agree.
    OverflowError
        If a sum could need more than 64 bits.
    """
    acc = as_integers(acc, *_signed_range(acc_bits), f"accumulators of {acc_bits} bits")
    expected = params.M.shape[1], params.sample_block.size
    if acc.ndim != 4 or acc.shape[:2] != expected:
        raise ValueError(f"accumulators must have the shape [K, N, H, W] with K, N = {expected} as in the parameters, "
                         f"not {acc.shape}")
    b_bits = acc_bits + FACTOR_BITS
    as_integers(params.B, *_signed_range(b_bits), f"B of acc_bits + {FACTOR_BITS} = {b_bits} bits")
    if residual is None:
        addend = np.zeros_like(acc)
    elif residual.shape == acc.shape:
        addend = residual.values
    else:
        raise ValueError(f"the residual must have the accumulators' shape {acc.shape}, not {residual.shape}")

    rounding = (1 << params.shift) >> 1
    largest = (_magnitude(acc) * _magnitude(params.M) + _magnitude(params.B)
               + _magnitude(addend) * _magnitude(params.R) + rounding)
    if largest >= 1 << (INT64_BITS - 1):
        raise OverflowError(f"sums could reach {largest}, more than {INT64_BITS} bits hold; use smaller M, B or shift")

    m, r, b = (block[params.sample_block].T[:, :, np.newaxis, np.newaxis] for block in (params.M, params.R, params.B))
    y = np.clip((acc * m + b + addend * r + rounding) >> params.shift, out_fmt.min, out_fmt.max)
    return Tensor(np.where(np.abs(y) < params.dead_zone, 0, y), out_fmt)


def _signed_range(bits: int) -> tuple[int, int]:
    return -1 << (operator.index(bits) - 1), (1 << (operator.index(bits) - 1)) - 1


def _magnitude(array: Int64Array) -> int:
    """The largest magnitude, as a Python int: that of -2**63 does not fit int64."""
    return max(int(array.max()), -int(array.min()))
