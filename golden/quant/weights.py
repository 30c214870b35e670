"""Weight quantisation: small integers, one scale code per group and one real scale per output channel.

    w[k, c, r, s]  ~=  q[k, c, r, s] * value(code[k, c // group]) * channel_scale[k]

A group is `group` consecutive input channels x all taps of one output channel: the vector that the hardware sums
locally before it multiplies by the code's integer value. The channel scale is not seen by the accumulators; it is
folded into the post-processor's multiplier. This two-level split (integer scale per vector, real scale per channel)
is that of VS-Quant (Dai et al., arXiv 2102.04503, section 4) with FP8 in place of integer vector scales.

The channel scale is chosen so that the largest group of each channel gets the largest legal code: all the other
groups lie below it, so the window's whole range is there for them and no scale is ever clipped from above.
"""

import operator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.formats import S4, S8, Format, Int64Array, ScaleFormat, Uint8Array, as_integers

Float64Array = NDArray[np.float64]
Method = Literal["minmax", "mse"]

SCALE_SHARES = np.linspace(0.4, 1.0, 61)    # of the scale that clips nothing, tried for the least error


@dataclass(frozen=True, eq=False)
class QuantisedWeights:
    """Integer weights with their scales; `dequantise` says what they stand for. Checked, copied and read-only.

    Parameters
    ----------
    q : integers [K, C, kh, kw]
        Signed weights in the symmetric range [-fmt.max, fmt.max].
    codes : integers [K, ceil(C / group)]
        Legal scale codes of `scale_format`, at most 8 bits wide.
    channel_scale : real numbers [K]
        Weight that q = 1 stands for at the integer scale value 1; positive.
    group : int
        Input channels per scale code; the last group may hold fewer.
    fmt : Format
        s4 or s8.
    scale_format : ScaleFormat
        What the codes mean.

    Raises
    ------
    TypeError
        If integers were expected and not given.
    ValueError
        If a shape or a value is not one of the above.
    """

    q: Int64Array
    codes: Uint8Array
    channel_scale: Float64Array
    group: int
    fmt: Format
    scale_format: ScaleFormat

    def __post_init__(self) -> None:
        _check_group(self.group)
        _check_weight_format(self.fmt)
        q = as_integers(self.q, -self.fmt.max, self.fmt.max, f"{self.fmt.name} weights")
        if q.ndim != 4 or q.size == 0:
            raise ValueError(f"weights have the shape [K, C, kh, kw] with sizes of at least 1, not {q.shape}")
        codes = as_integers(self.codes, 0, self.scale_format.max_code, "scale codes").astype(np.uint8)
        expected = (q.shape[0], -(-q.shape[1] // self.group))
        if codes.shape != expected:
            raise ValueError(f"{q.shape[0]} output and {q.shape[1]} input channels in groups of {self.group} have "
                             f"scale codes of shape {expected}, not {codes.shape}")
        channel_scale = np.array(self.channel_scale, dtype=np.float64)
        if channel_scale.shape != q.shape[:1]:
            raise ValueError(f"channel_scale has the shape {q.shape[:1]}, not {channel_scale.shape}")
        if not (np.isfinite(channel_scale) & (channel_scale > 0)).all():
            raise ValueError("channel scales must be finite and positive")
        for name, array in ("q", q), ("codes", codes), ("channel_scale", channel_scale):
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def steps(self) -> Float64Array:
        """The weight that q = 1 stands for, real [K, C]: value(code) * channel_scale."""
        steps = self.scale_format.value(self.codes) * self.channel_scale[:, None]
        return steps.repeat(self.group, axis=1)[:, : self.q.shape[1]]

    def dequantise(self) -> Float64Array:
        """The weights that the integers stand for, real [K, C, kh, kw]."""
        return self.q * self.steps()[:, :, None, None]


def quantise(weights: ArrayLike, group: int, scale_format: ScaleFormat, *, fmt: Format = S4,
             power_of_two: bool = False, method: Method = "minmax") -> QuantisedWeights:
    """Quantise weights with one scale code per output channel and group of input channels.

    Parameters
    ----------
    weights : real numbers [K, C, kh, kw]
    group : int
        Input channels per scale code, at least 1; C and more give one code per output channel.
    scale_format : ScaleFormat
        The window of scale codes. Code 0 (value 0) is not used: a group of zeros gets the value 1.
    fmt : Format
        s4: integers in [-7, 7], or s8: in [-127, 127].
    power_of_two : bool
        Use only codes whose value is a power of two.
    method : str
        ``minmax``: the smallest scale that clips no weight of the group, so that each weight is off by at most half
        a step. ``mse``: the scale with the smallest squared error of the group, found by trying every legal code
        against the channel scale of ``minmax``; it may clip.

    Raises
    ------
    ValueError
        If the weights are not finite numbers [K, C, kh, kw], or an option is not one of the above.
    """
    _check_method(method)
    w = checked_weights(weights, group, fmt)
    vectors = grouped(w, group)
    codes = scale_format.power_of_two_codes if power_of_two else np.arange(1, scale_format.max_code + 1)
    values = scale_format.value(codes)
    peaks = np.abs(vectors).max(axis=2)
    channel_scale = _positive(peaks.max(axis=1) / (fmt.max * values[-1]))
    if method == "minmax":
        needed = peaks / (fmt.max * channel_scale[:, None])
        needed *= 1 - 1e-12  # a scale that is legal but for a float's rounding must not move up to the next code
        best = np.searchsorted(values, needed)
    else:
        best = _least_error(vectors / channel_scale[:, None, None], values, fmt.max)
    return rounded(w, codes[best], channel_scale, group, fmt, scale_format)


def quantise_per_channel(weights: ArrayLike, group: int, scale_format: ScaleFormat, *, fmt: Format = S8,
                         method: Method = "minmax") -> QuantisedWeights:
    """Quantise weights with one real scale per output channel and no other: every code has the value 1.

    `group` only says how the hardware cuts its vectors. ``mse`` takes the scale with the least squared error of
    `SCALE_SHARES` of the min-max scale. Other parameters, ranges and errors are those of `quantise`.
    """
    w = checked_weights(weights, group, fmt)
    return _coded_one(w, real_scales(w.reshape(len(w), -1), fmt.max, method), group, fmt, scale_format)


def quantise_per_tensor(weights: ArrayLike, group: int, scale_format: ScaleFormat, *, fmt: Format = S8,
                        method: Method = "minmax") -> QuantisedWeights:
    """Quantise weights with one real scale for all of them; else as `quantise_per_channel`."""
    w = checked_weights(weights, group, fmt)
    scale = real_scales(w.reshape(1, -1), fmt.max, method)
    return _coded_one(w, np.repeat(scale, len(w)), group, fmt, scale_format)


def real_scales(vectors: Float64Array, limit: int, method: Method) -> Float64Array:
    """Scale [n] of each vector [n, length] for integers in [-limit, limit]: see `quantise_per_channel`."""
    widest = _positive(np.abs(vectors).max(axis=1) / limit)
    _check_method(method)
    if method == "minmax":
        return widest
    steps = widest * SCALE_SHARES[:, None]
    errors = [np.square(vectors - step[:, None] * np.clip(np.rint(vectors / step[:, None]), -limit, limit)).sum(axis=1)
              for step in steps]
    return np.take_along_axis(steps, np.argmin(errors, axis=0)[None], axis=0)[0]


def _coded_one(w: Float64Array, channel_scale: Float64Array, group: int, fmt: Format,
               scale_format: ScaleFormat) -> QuantisedWeights:
    codes = np.full((w.shape[0], -(-w.shape[1] // group)), scale_format.power_of_two_codes[0])
    return rounded(w, codes, channel_scale, group, fmt, scale_format)


def _check_method(method: str) -> None:
    if method not in get_args(Method):
        raise ValueError(f"method must be 'minmax' or 'mse', not {method!r}")


def _check_group(group: int) -> None:
    if operator.index(group) < 1:
        raise ValueError(f"group must be at least 1 input channel, not {group}")


def _check_weight_format(fmt: Format) -> None:
    if fmt not in (S4, S8):
        raise ValueError(f"weights are s4 or s8, not {getattr(fmt, 'name', fmt)}")


def checked_weights(weights: ArrayLike, group: int, fmt: Format) -> Float64Array:
    """Weights [K, C, kh, kw] as float64, after the checks that all quantisers share."""
    _check_group(group)
    _check_weight_format(fmt)
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim != 4 or w.size == 0:
        raise ValueError(f"weights have the shape [K, C, kh, kw] with sizes of at least 1, not {w.shape}")
    if not np.isfinite(w).all():
        raise ValueError("weights must be finite")
    return w


def grouped(w: Float64Array, group: int) -> Float64Array:
    """Weights [K, C, kh, kw] as vectors [K, groups, group * kh * kw]; a short last group is filled with zeros."""
    outputs, inputs = w.shape[:2]
    groups = -(-inputs // group)
    padded = np.pad(w, ((0, 0), (0, groups * group - inputs), (0, 0), (0, 0)))
    return padded.reshape(outputs, groups, -1)


def _positive(scale: Float64Array) -> Float64Array:
    """Scales with 1 in the place of 0: the scale of an output channel whose weights are all zero."""
    return np.where(scale > 0, scale, 1.0)


def _least_error(vectors: Float64Array, values: Int64Array, limit: int) -> Int64Array:
    """Index [K, groups] of the scale value with the least squared error.

    A larger value must be better by more than float rounding, so that codes do not depend on the order of sums.
    """
    best = np.zeros(vectors.shape[:2], dtype=np.int64)
    least = np.full(vectors.shape[:2], np.inf)
    margin = 1e-12 * np.square(vectors).sum(axis=2)
    for index, value in enumerate(values):
        error = np.square(vectors - value * np.clip(np.rint(vectors / value), -limit, limit)).sum(axis=2)
        better = error < least - margin
        best[better] = index
        least[better] = error[better]
    return best


def rounded(w: Float64Array, codes: Uint8Array, channel_scale: Float64Array, group: int, fmt: Format,
             scale_format: ScaleFormat) -> QuantisedWeights:
    """Round weights to the nearest multiple of their group's step (half to even), clipped to the symmetric range."""
    empty = QuantisedWeights(np.zeros(w.shape, dtype=np.int64), codes, channel_scale, group, fmt, scale_format)
    q = np.clip(np.rint(w / empty.steps()[:, :, None, None]), -fmt.max, fmt.max)
    return replace(empty, q=q.astype(np.int64))
