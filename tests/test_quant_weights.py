"""The weight quantiser against its error bound, a definition in loops and exactly representable weights."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden.formats import S4, S8, U4, ScaleFormat
from golden.quant.weights import QuantisedWeights, quantise, quantise_per_channel

WINDOWS = [ScaleFormat(1, 3), ScaleFormat(2, 3), ScaleFormat(4, 3), ScaleFormat(3, 0), ScaleFormat(2, 1)]
SHAPES = [(1, 1, 1, 1), (3, 5, 3, 3), (7, 17, 1, 1), (4, 16, 3, 3)]


def weights_of(shape, seed=0):
    """Gaussian weights whose output and input channels differ in size by orders of magnitude."""
    rng = np.random.default_rng(seed)
    outputs, inputs = rng.lognormal(0, 2, shape[0]), rng.lognormal(0, 1, shape[1])
    return rng.standard_normal(shape) * outputs[:, None, None, None] * inputs[None, :, None, None]


def loop_quantise(weights, group, scale_format, limit, power_of_two, method):
    """The definition, one group and one weight at a time; its own code table, Python's own rounding."""
    man = scale_format.man_bits
    table = []
    for code in range(1, scale_format.max_code + 1):
        exponent, mantissa = divmod(code, 1 << man)
        value = mantissa if exponent == 0 else ((1 << man) + mantissa) << (exponent - 1)
        if not power_of_two or math.log2(value).is_integer():
            table.append((code, value))
    outputs, inputs, height, width = weights.shape
    dequantised, codes = np.zeros(weights.shape), []
    for k in range(outputs):
        channel_scale = max(abs(weights[k]).max() / (limit * table[-1][1]), 0) or 1.0
        codes.append([])
        for start in range(0, inputs, group):
            members = [(c, r, s) for c in range(start, min(start + group, inputs))
                       for r in range(height) for s in range(width)]

            def rounded(step, k=k, members=members):
                return [step * min(max(round(float(weights[k][m]) / step), -limit), limit) for m in members]

            if method == "minmax":
                peak = max(abs(weights[k][m]) for m in members)
                choice = next(entry for entry in table if entry[1] * channel_scale * limit >= peak * (1 - 1e-12))
            else:
                choice, least = table[0], math.inf
                margin = 1e-12 * sum(weights[k][m] ** 2 for m in members)
                for entry in table:
                    error = sum((weights[k][m] - y) ** 2
                                for m, y in zip(members, rounded(entry[1] * channel_scale), strict=True))
                    if error < least - margin:
                        choice, least = entry, error
            codes[-1].append(choice[0])
            for m, y in zip(members, rounded(choice[1] * channel_scale), strict=True):
                dequantised[k][m] = y
    return dequantised, np.array(codes)


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("scale_format", WINDOWS, ids=str)
@pytest.mark.parametrize(("shape", "group"), [((3, 5, 3, 3), 2), ((7, 17, 1, 1), 8), ((2, 3, 3, 3), 9)])
def test_equals_the_definition_in_loops(shape, group, scale_format, power_of_two, method):
    weights = weights_of(shape)
    result = quantise(weights, group, scale_format, power_of_two=power_of_two, method=method)
    dequantised, codes = loop_quantise(weights, group, scale_format, 7, power_of_two, method)
    np.testing.assert_array_equal(result.codes, codes)
    np.testing.assert_allclose(result.dequantise(), dequantised, rtol=1e-12, atol=0)


@pytest.mark.parametrize("fmt", [S4, S8])
@pytest.mark.parametrize("scale_format", WINDOWS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("group", [1, 3, 8, 100])
@pytest.mark.parametrize("power_of_two", [False, True])
def test_minmax_is_off_by_at_most_half_a_step(shape, group, scale_format, fmt, power_of_two):
    weights = weights_of(shape, seed=group)
    result = quantise(weights, group, scale_format, fmt=fmt, power_of_two=power_of_two)
    error = np.abs(result.dequantise() - weights)
    assert (error <= result.steps()[:, :, None, None] * (0.5 + 1e-9)).all()
    assert np.abs(result.q).max() == fmt.max
    assert result.codes.shape == (shape[0], math.ceil(shape[1] / group))
    if power_of_two:
        assert scale_format.is_power_of_two(result.codes).all()


def test_minmax_step_is_the_smallest_that_does_not_clip():
    result = quantise(weights_of((9, 24, 3, 3)), 8, ScaleFormat(4, 3))
    needed = np.abs(weights_of((9, 24, 3, 3))).reshape(9, 3, -1).max(axis=2) / 7
    one_less = result.scale_format.value(result.codes - 1) * result.channel_scale[:, None]
    assert (one_less < needed).all()


@pytest.mark.parametrize("scale_format", WINDOWS, ids=str)
def test_largest_group_of_each_channel_gets_the_largest_code(scale_format):
    weights = weights_of((9, 24, 3, 3))
    result = quantise(weights, 4, scale_format)
    largest = np.abs(weights).reshape(9, 6, -1).max(axis=2).argmax(axis=1)
    assert (result.codes[np.arange(9), largest] == scale_format.max_code).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), group=st.integers(1, 9), outputs=st.integers(1, 5), inputs=st.integers(1, 11),
       scale_format=st.sampled_from(WINDOWS), method=st.sampled_from(["minmax", "mse"]))
def test_representable_weights_come_back_exactly(seed, group, outputs, inputs, scale_format, method):
    rng = np.random.default_rng(seed)
    groups = -(-inputs // group)
    q = rng.integers(-7, 8, (outputs, inputs, 3, 3))
    q[:, ::group, 1, 1] = 7  # each group uses the whole range, so that its code is the only right one
    codes = rng.integers(1, scale_format.max_code + 1, (outputs, groups))
    codes[np.arange(outputs), rng.integers(0, groups, outputs)] = scale_format.max_code
    source = QuantisedWeights(q, codes, rng.lognormal(0, 3, outputs), group, S4, scale_format)
    result = quantise(source.dequantise(), group, scale_format, method=method)
    np.testing.assert_allclose(result.dequantise(), source.dequantise(), rtol=1e-12, atol=0)
    if method == "minmax":
        np.testing.assert_array_equal(result.q, q)
        np.testing.assert_array_equal(result.codes, codes)


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("group", [1, 5, 8])
def test_mse_is_never_worse_than_minmax_in_any_group(group, power_of_two):
    weights = weights_of((8, 20, 3, 3))
    errors = {}
    for method in ("minmax", "mse"):
        result = quantise(weights, group, ScaleFormat(3, 3), power_of_two=power_of_two, method=method)
        squared = np.square(result.dequantise() - weights).sum(axis=(2, 3))
        errors[method] = np.add.reduceat(squared, np.arange(0, 20, group), axis=1)
    assert (errors["mse"] <= errors["minmax"] * (1 + 1e-9)).all()
    assert errors["mse"].sum() < 0.98 * errors["minmax"].sum()


def test_a_narrow_window_gives_codes_of_every_wider_one():
    narrow = quantise(weights_of((4, 16, 3, 3)), 8, ScaleFormat(1, 3))
    for exp_bits in (2, 3, 4):
        np.testing.assert_array_equal(narrow.scale_format.value(narrow.codes),
                                      ScaleFormat(exp_bits, 3).value(narrow.codes))


def test_zero_channels_and_zero_groups_stay_zero():
    weights = weights_of((3, 8, 3, 3))
    weights[1] = 0
    weights[2, :4] = 0
    for method in ("minmax", "mse"):
        result = quantise(weights, 4, ScaleFormat(2, 3), method=method)
        assert (result.dequantise()[1] == 0).all()
        assert (result.dequantise()[2, :4] == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fmt", [S4, S8])
def test_per_channel_uses_value_one_and_half_a_step(shape, fmt):
    weights = weights_of(shape)
    result = quantise_per_channel(weights, 3, ScaleFormat(3, 3), fmt=fmt)
    assert (result.scale_format.value(result.codes) == 1).all()
    np.testing.assert_allclose(result.channel_scale, np.abs(weights).max(axis=(1, 2, 3)) / fmt.max)
    assert (np.abs(result.dequantise() - weights) <= result.channel_scale[:, None, None, None] * (0.5 + 1e-9)).all()


def test_results_cannot_be_changed():
    result = quantise(weights_of((3, 5, 3, 3)), 2, ScaleFormat())
    with pytest.raises(ValueError, match="read-only"):
        result.q[0, 0, 0, 0] = 1


@pytest.mark.parametrize(("change", "message"), [
    ({"weights": np.zeros((3, 3))}, r"\[K, C, kh, kw\].*\(3, 3\)"),
    ({"weights": np.full((1, 1, 3, 3), np.nan)}, "finite"),
    ({"group": 0}, "group must be at least 1"),
    ({"fmt": U4}, "s4 or s8, not u4"),
    ({"method": "best"}, "'minmax' or 'mse', not 'best'"),
])
def test_illegal_arguments_are_named(change, message):
    arguments = {"weights": np.ones((2, 4, 3, 3)), "group": 2, "scale_format": ScaleFormat()} | change
    with pytest.raises(ValueError, match=message):
        quantise(**arguments)


@pytest.mark.parametrize(("change", "message"), [
    ({"q": np.full((2, 4, 3, 3), -8)}, r"\[-7, 7\], found -8"),
    ({"q": np.zeros((2, 4), int)}, r"not \(2, 4\)"),
    ({"codes": np.zeros((2, 3), int)}, r"shape \(2, 2\), not \(2, 3\)"),
    ({"codes": np.full((2, 2), 0x7F)}, r"\[0, 126\], found 127"),
    ({"channel_scale": np.ones(3)}, r"\(2,\), not \(3,\)"),
    ({"channel_scale": np.array([1.0, 0.0])}, "positive"),
    ({"fmt": U4}, "s4 or s8"),
])
def test_illegal_results_cannot_be_made(change, message):
    fields = {"q": np.zeros((2, 4, 3, 3), int), "codes": np.ones((2, 2), int), "channel_scale": np.ones(2), "group": 2,
              "fmt": S4, "scale_format": ScaleFormat()} | change
    with pytest.raises(ValueError, match=message):
        QuantisedWeights(**fields)
