"""MXINT8 against its definition, and the hardware's variant against MXINT8."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden.conv import conv
from golden.formats import S8, U4, ScaleFormat, Tensor
from golden.quant.mx import BLOCK, E8M0_NAN, MxInt8, encode, quantise_mxint8

WIDE = ScaleFormat(4, 3)


def defined_block(values):
    """Scale exponent and elements of one block from the specification's words, in exact rational arithmetic."""
    exact = [Fraction(float(v)) for v in values]
    largest = max(abs(v) for v in exact)
    exponent = -127
    while exponent < 127 and Fraction(2) ** (exponent + 1) <= largest:
        exponent += 1
    # round() of a Fraction is to nearest, half to even
    return exponent, [min(max(round(v / Fraction(2) ** exponent * 64), -127), 127) for v in exact]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=BLOCK, max_size=BLOCK))
def test_encode_is_the_published_conversion(values):
    result = encode(values)
    exponent, elements = defined_block(values)
    assert int(result.scales[0]) - 127 == exponent
    assert result.elements.tolist() == elements


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-140, 120),
       shape=st.sampled_from([(32,), (3, 64), (2, 2, 96)]))
def test_gaussian_blocks_at_any_magnitude(seed, exponent, shape):
    values = np.ldexp(np.random.default_rng(seed).standard_normal(shape), exponent)
    result = encode(values)
    assert result.elements.shape == shape
    assert result.scales.shape == (*shape[:-1], shape[-1] // BLOCK)
    for block, scale, elements in zip(values.reshape(-1, BLOCK), result.scales.ravel(),
                                      result.elements.reshape(-1, BLOCK), strict=True):
        assert (int(scale) - 127, elements.tolist()) == defined_block(block)


def test_decode_agrees_with_ml_dtypes_scales_for_every_code_and_element():
    codes = np.arange(256, dtype=np.uint8)
    elements = np.resize(np.arange(-127, 128).astype(np.int8), (256, BLOCK * 8))
    decoded = MxInt8(elements, np.repeat(codes[:, None], 8, axis=1)).decode()
    scales = codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    np.testing.assert_array_equal(decoded, elements / 64 * scales[:, None])
    assert np.isnan(decoded[E8M0_NAN]).all()
    assert np.isfinite(decoded[:E8M0_NAN]).all()


def test_decoding_and_encoding_again_changes_nothing():
    rng = np.random.default_rng(1)
    elements = rng.integers(-127, 128, (40, BLOCK)).astype(np.int8)
    elements[:, 0] = rng.integers(64, 128, 40)  # the largest element uses its top bit, as encode makes it
    scales = rng.integers(0, 255, (40, 1)).astype(np.uint8)
    again = encode(MxInt8(elements, scales).decode())
    np.testing.assert_array_equal(again.elements, elements)
    np.testing.assert_array_equal(again.scales, scales)


def test_error_is_half_a_step_but_for_the_clamp():
    values = np.random.default_rng(2).standard_normal((100, BLOCK))
    result = encode(values)
    step = np.ldexp(1.0, result.scales.astype(int) - 127 - 6)
    clamped = np.abs(values) > 127.5 * step
    error = np.abs(result.decode() - values)
    assert (error[~clamped] <= (0.5 * np.broadcast_to(step, values.shape))[~clamped]).all()
    assert (error <= step).all()


@pytest.mark.parametrize(("value", "element", "exponent"), [
    (1.0, 64, 0), (-1.0, -64, 0), (127 / 64, 127, 0), (127.5 / 64, 127, 0), (1.9999, 127, 0), (-1.9999, -127, 0),
    (2.0, 64, 1), (2.0**127, 64, 127), (2.0**-127, 64, -127), (2.0**-128, 32, -127), (0.0, 0, -127),
    (3.0 * 2.0**-134, 2, -127), (1.0 * 2.0**-134, 0, -127),
])
def test_corner_values(value, element, exponent):
    result = encode([value] + [0.0] * (BLOCK - 1))
    assert (int(result.elements[0]), int(result.scales[0]) - 127) == (element, exponent)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**128, -(2.0**1000)])
def test_what_has_no_scale_makes_its_whole_block_nan_and_no_other(bad):
    values = np.ones((2, 2 * BLOCK))
    values[0, 40] = bad
    result = encode(values)
    assert result.scales.tolist() == [[127, E8M0_NAN], [127, 127]]
    assert (result.elements[0, BLOCK:] == 0).all()
    decoded = result.decode()
    assert np.isnan(decoded[0, BLOCK:]).all()
    assert (decoded[0, :BLOCK] == 1).all()
    assert (decoded[1] == 1).all()


@pytest.mark.parametrize("shape", [(0,), (31,), (4, 33), ()])
def test_incomplete_blocks_are_refused(shape):
    with pytest.raises(ValueError, match="positive multiple of the block size 32"):
        encode(np.zeros(shape))


def test_hardware_variant_equals_mxint8_where_groups_are_blocks():
    rng = np.random.default_rng(3)
    weights = rng.standard_normal((6, 4 * BLOCK)) * np.repeat(2.0 ** rng.integers(-6, 3, (6, 4)), BLOCK, axis=1)
    published = encode(weights)
    hardware = quantise_mxint8(weights[:, :, None, None], BLOCK, WIDE)
    np.testing.assert_array_equal(hardware.q[:, :, 0, 0], published.elements)
    np.testing.assert_array_equal(hardware.dequantise()[:, :, 0, 0], published.decode())


@pytest.mark.parametrize(("outputs", "inputs", "group"), [(3, 5, 2), (4, 16, 8), (1, 7, 16)])
def test_hardware_variant_equals_mxint8_of_each_vector(outputs, inputs, group):
    weights = np.random.default_rng(4).standard_normal((outputs, inputs, 3, 3))
    hardware = quantise_mxint8(weights, group, WIDE).dequantise()
    for k in range(outputs):
        for start in range(0, inputs, group):
            vector = weights[k, start:start + group].ravel()
            exponent = math.floor(math.log2(np.abs(vector).max()))
            expected = np.clip(np.rint(vector * 2.0 ** (6 - exponent)), -127, 127) * 2.0 ** (exponent - 6)
            np.testing.assert_array_equal(hardware[k, start:start + group].ravel(), expected)


def test_groups_below_the_window_lose_low_bits_only():
    narrow = ScaleFormat(1, 3)  # values 1, 2, 4, 8: four exponents
    weights = np.ones((1, 3, 1, 1))
    weights[0, :, 0, 0] = 1.0, 2.0**-3 * 1.5, 2.0**-5 * 1.5
    result = quantise_mxint8(weights, 1, narrow)
    assert narrow.value(result.codes).tolist() == [[8, 1, 1]]
    assert result.q.ravel().tolist() == [64, 96, 24]
    np.testing.assert_array_equal(result.dequantise(), weights)


def test_zero_groups_and_zero_channels_stay_zero():
    weights = np.ones((2, 4, 3, 3))
    weights[0] = 0
    weights[1, :2] = 0
    np.testing.assert_array_equal(quantise_mxint8(weights, 2, WIDE).dequantise(), weights)


def test_hardware_variant_runs_on_the_integer_accumulators():
    rng = np.random.default_rng(5)
    weights = quantise_mxint8(rng.standard_normal((4, 12, 1, 1)), 8, WIDE)
    assert weights.fmt == S8
    assert WIDE.is_power_of_two(weights.codes).all()
    inputs = Tensor(rng.integers(0, 16, (12, 1, 3, 5)), U4)
    acc = conv([inputs], weights.q, S8, weights.codes, 8, WIDE)
    expected = np.einsum("kc,cnhw->knhw", weights.dequantise()[:, :, 0, 0], inputs.values)
    np.testing.assert_allclose(acc * weights.channel_scale[:, None, None, None], expected, rtol=1e-12, atol=1e-12)
