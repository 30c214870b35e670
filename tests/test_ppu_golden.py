"""The post-processor's formula, against the same in rational arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from golden.formats import FORMATS, S8, U4, U8, Tensor
from golden.ppu import PostParams, postprocess


def params(**changes):
    arguments = {"M": [[1, 1]], "R": [[0, 0]], "B": [[0, 0]], "shift": 0, "dead_zone": 0, "sample_block": [0]}
    return PostParams(**{**arguments, **changes})


def pixel(acc, m=1, r=0, b=0, shift=0, dead_zone=0, fmt=S8, residual=None, acc_bits=32):
    """One accumulator through the post-processor."""
    one = params(M=[[m]], R=[[r]], B=[[b]], shift=shift, dead_zone=dead_zone)
    tensor = None if residual is None else Tensor(np.full((1, 1, 1, 1), residual), S8)
    return postprocess(np.full((1, 1, 1, 1), acc), one, fmt, tensor, acc_bits=acc_bits).values.item()


def reference(acc, m, r, b, shift, dead_zone, fmt, residual):
    """Round half up of a fraction, then clamp, then dead zone."""
    y = math.floor(Fraction(acc * m + b + residual * r, 2**shift) + (Fraction(1, 2) if shift else 0))
    y = sorted((fmt.min, y, fmt.max))[1]
    return 0 if abs(y) < dead_zone else y


def signed(bits):
    return st.integers(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


@settings(max_examples=500, deadline=None)
@given(acc=signed(32), m=signed(16), r=signed(16), b=signed(48), shift=st.integers(0, 63),
       dead_zone=st.integers(0, 255), fmt=st.sampled_from(list(FORMATS.values())), residual=st.integers(-128, 127))
@example(acc=-(2**31), m=-(2**15), r=-(2**15), b=2**47 - 1, shift=63, dead_zone=0, fmt=U8, residual=-128)
def test_formula_equals_rational_arithmetic(acc, m, r, b, shift, dead_zone, fmt, residual):
    found = pixel(acc, m, r, b, shift, dead_zone, fmt, residual)
    assert found == reference(acc, m, r, b, shift, dead_zone, fmt, residual)


@settings(max_examples=200, deadline=None)
@given(acc=st.integers(-3000, 3000), m=st.integers(-9, 9), b=st.integers(-3000, 3000), shift=st.integers(0, 9),
       dead_zone=st.integers(0, 20), fmt=st.sampled_from(list(FORMATS.values())))
def test_formula_is_exact_inside_the_clamps(acc, m, b, shift, dead_zone, fmt):
    assert pixel(acc, m, 0, b, shift, dead_zone, fmt) == reference(acc, m, 0, b, shift, dead_zone, fmt, 0)


@pytest.mark.parametrize(("acc", "shift", "expected"), [(3, 1, 2), (-3, 1, -1), (-1, 1, 0), (1, 2, 0), (2, 2, 1),
                                                        (-2, 2, 0), (-5, 0, -5)])
def test_halves_round_up(acc, shift, expected):
    assert pixel(acc, shift=shift) == expected


@pytest.mark.parametrize(("fmt", "low", "high"), [("u4", 0, 15), ("s4", -8, 7), ("u8", 0, 255), ("s8", -128, 127)])
def test_results_clamp_to_the_output_format(fmt, low, high):
    assert pixel(-1000, fmt=FORMATS[fmt]) == low
    assert pixel(1000, fmt=FORMATS[fmt]) == high


def test_dead_zone_clears_magnitudes_below_it_and_keeps_those_at_it():
    assert [pixel(y, dead_zone=3) for y in range(-4, 5)] == [-4, -3, 0, 0, 0, 0, 0, 3, 4]


def test_each_sample_uses_its_own_block_and_each_channel_its_own_word():
    random = np.random.default_rng(0)
    blocks, outputs, samples = 3, 4, 5
    m, r, b = random.integers(-99, 99, (3, blocks, outputs))
    table = np.array([2, 0, 0, 1, 2])
    acc = random.integers(-999, 999, (outputs, samples, 3, 2))
    residual = Tensor(random.integers(-128, 128, acc.shape), S8)
    drawn = params(M=m, R=r, B=b, shift=9, dead_zone=2, sample_block=table)
    result = postprocess(acc, drawn, S8, residual, acc_bits=20)
    assert result.fmt is S8
    for k, n, h, w in np.ndindex(acc.shape):
        word = int(m[table[n], k]), int(r[table[n], k]), int(b[table[n], k])
        assert result.values[k, n, h, w] == reference(int(acc[k, n, h, w]), *word, 9, 2, S8,
                                                      int(residual.values[k, n, h, w]))


def test_without_a_residual_r_has_no_effect():
    assert pixel(5, r=1000) == 5
    assert pixel(5, r=10, residual=3) == 35


def test_sums_that_could_pass_64_bits_are_refused():
    # The largest 40-bit layer stays far below; a 63-bit B beside the rounding term of shift 63 does not.
    assert pixel(2**39 - 1, m=-(2**15), b=-(2**55), shift=54, acc_bits=40) == -3
    with pytest.raises(OverflowError, match="sums could reach 13835058055282163711"):
        pixel(0, b=2**63 - 1, shift=63, acc_bits=48)


@pytest.mark.parametrize("acc", [-(2**19) - 1, 2**19])
def test_accumulators_beyond_their_width_are_refused(acc):
    with pytest.raises(ValueError, match=rf"accumulators of 20 bits must be in \[-524288, 524287\], found {acc}"):
        pixel(acc, acc_bits=20)


@pytest.mark.parametrize("b", [-(2**35) - 1, 2**35])
def test_b_beyond_its_width_is_refused(b):
    with pytest.raises(ValueError, match=f"B of acc_bits \\+ 16 = 36 bits .* found {b}"):
        pixel(0, b=b, acc_bits=20)


@pytest.mark.parametrize(("changes", "message"), [
    ({"M": [[1, 32768]]}, r"M must be in \[-32768, 32767\], found 32768"),
    ({"R": [[-32769, 1]]}, "R must be in .* found -32769"),
    ({"B": [[0]]}, "one shape"),
    ({"M": [1, 1], "R": [1, 1], "B": [1, 1]}, "one shape"),
    ({"shift": 64}, r"shift must be in \[0, 63\], not 64"),
    ({"shift": -1}, "not -1"),
    ({"dead_zone": 256}, r"dead_zone must be in \[0, 255\].* not 256"),
    ({"sample_block": [1]}, r"sample_block must be in \[0, 0\], found 1"),
    ({"sample_block": [[0]]}, r"shape \[N\]"),
])
def test_illegal_parameters_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        params(**changes)


@pytest.mark.parametrize("changes", [{"M": [[1.0, 1.0]]}, {"shift": 1.0}, {"dead_zone": "1"}])
def test_parameters_that_are_not_integers_are_refused(changes):
    with pytest.raises(TypeError):
        params(**changes)


def test_shapes_that_do_not_agree_are_refused():
    with pytest.raises(ValueError, match=r"K, N = \(2, 1\)"):
        postprocess(np.zeros((2, 2, 1, 1), dtype=int), params(), U4, acc_bits=20)
    with pytest.raises(ValueError, match="residual must have the accumulators' shape"):
        postprocess(np.zeros((2, 1, 1, 1), dtype=int), params(), U4, Tensor(np.zeros((1, 1, 1, 1), dtype=int), U4),
                    acc_bits=20)
