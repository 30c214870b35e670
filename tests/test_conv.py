"""The exact convolution against independent ones, and the overflow proof against real sums."""

import itertools

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from golden.conv import AccumulatorOverflow, bounds, conv, prove
from golden.formats import FORMATS, S4, S8, U4, U8, ScaleFormat, Tensor
from golden.layout import space_to_depth, space_to_depth_weights

UE4M3 = ScaleFormat()


def plain_convolution(x, weights):
    """int64 convolution as a loop over taps: [C, N, H, W], [K, C, k, k] -> [K, N, H, W]."""
    kernel, (height, width) = weights.shape[-1], x.shape[2:]
    pad = kernel // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    result = np.zeros((weights.shape[0], *x.shape[1:]), dtype=np.int64)
    for r, s in itertools.product(range(kernel), range(kernel)):
        result += np.einsum("kc,cnhw->knhw", weights[:, :, r, s], padded[:, :, r:r + height, s:s + width])
    return result


def fold(weights, codes, group, scale):
    """Integer weights times their scales' integer values, channel by channel."""
    folded = np.array(weights)
    for k, c in np.ndindex(folded.shape[:2]):
        folded[k, c] *= int(scale.value(codes[k, c // group]))
    return folded


class Layer:
    """A random layer: input segments with a format and a number of channels each, weights and codes."""

    def __init__(self, seed, segments, w_fmt, *, outputs=3, kernel=3, group=4, size=(2, 5, 7), scale=UE4M3):
        random = np.random.default_rng(seed)
        self.inputs = [Tensor(random.integers(fmt.min, fmt.max + 1, (count, *size)), fmt) for fmt, count in segments]
        self.in_formats = [fmt for fmt, count in segments for _ in range(count)]
        channels = len(self.in_formats)
        self.weights = random.integers(w_fmt.min, w_fmt.max + 1, (outputs, channels, kernel, kernel))
        self.codes = random.integers(0, scale.max_code + 1, (outputs, -(-channels // group))).astype(np.uint8)
        self.w_fmt, self.group, self.scale = w_fmt, group, scale

    @property
    def x(self):
        return np.concatenate([tensor.values for tensor in self.inputs])

    @property
    def arguments(self):
        return self.weights, self.w_fmt, self.in_formats, self.codes, self.group, self.scale

    def conv(self):
        return conv(self.inputs, self.weights, self.w_fmt, self.codes, self.group, self.scale)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("w_fmt", [S4, S8], ids=["w-s4", "w-s8"])
@pytest.mark.parametrize("a_fmt", FORMATS.values(), ids=FORMATS)
def test_conv_equals_plain_convolution_with_folded_scales(a_fmt, w_fmt, kernel):
    layer = Layer(1, [(a_fmt, 7)], w_fmt, kernel=kernel)
    folded = fold(layer.weights, layer.codes, layer.group, layer.scale)
    result = layer.conv()
    assert result.dtype == np.int64
    np.testing.assert_array_equal(result, plain_convolution(layer.x, folded))


@pytest.mark.parametrize("segments", [[(U4, 3), (U4, 5)], [(U4, 3), (S8, 5)], [(S8, 6), (U8, 1), (S4, 2)]])
@pytest.mark.parametrize("group", [1, 4, 64])
def test_segments_of_any_format_join_along_channels(segments, group):
    layer = Layer(2, segments, S8, group=group)
    folded = fold(layer.weights, layer.codes, group, layer.scale)
    np.testing.assert_array_equal(layer.conv(), plain_convolution(layer.x, folded))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_conv_is_exact_for_any_layer(data):
    fmt = st.sampled_from(list(FORMATS.values()))
    layer = Layer(data.draw(st.integers(0, 2**32)),
                  data.draw(st.lists(st.tuples(fmt, st.integers(1, 5)), min_size=1, max_size=3)),
                  data.draw(st.sampled_from([S4, S8])), outputs=data.draw(st.integers(1, 4)),
                  kernel=data.draw(st.sampled_from([1, 3])), group=data.draw(st.integers(1, 6)),
                  size=data.draw(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))),
                  scale=ScaleFormat(data.draw(st.integers(1, 4)), data.draw(st.integers(0, 3))))
    folded = fold(layer.weights, layer.codes, layer.group, layer.scale)
    np.testing.assert_array_equal(layer.conv(), plain_convolution(layer.x, folded))


@pytest.mark.parametrize("kernel", [1, 3])
def test_conv_times_the_unit_is_the_convolution_of_dequantised_weights(kernel):
    layer = Layer(3, [(U4, 5)], S4, kernel=kernel)
    real_scales = layer.scale.value(layer.codes) * 2.0**-9
    real_weights = layer.weights * real_scales[:, np.arange(5) // layer.group, np.newaxis, np.newaxis]
    result = layer.conv() * 2.0**layer.scale.unit_log2
    for k, n in np.ndindex(result.shape[:2]):
        expected = sum(scipy.signal.correlate(layer.x[c, n].astype(float), real_weights[k, c], mode="same",
                                              method="direct") for c in range(5))
        np.testing.assert_allclose(result[k, n], expected, rtol=1e-12, atol=1e-9)


def test_stride_2_layers_run_over_space_to_depth_with_four_times_the_group():
    layer = Layer(4, [(U4, 6)], S4, size=(2, 4, 6))
    deep = conv([space_to_depth(layer.inputs[0])], space_to_depth_weights(layer.weights), S4, layer.codes,
                4 * layer.group, layer.scale)
    np.testing.assert_array_equal(deep, layer.conv()[:, :, ::2, ::2])


def test_wide_layers_stay_exact_at_the_largest_values():
    # One vector's sum of low nibbles is 80001 * 15 * 15: odd and above 2**24, so that a float32 would round it.
    channels = 80001
    x = Tensor(np.full((channels, 1, 1, 1), 255), U8)
    result = conv([x], np.full((1, channels, 1, 1), 127), S8, [[7]], channels, UE4M3)
    assert result.item() == channels * 255 * 127 * 7
    result = conv([x], np.full((1, channels, 1, 1), -128), S8, [[126]], channels, UE4M3)
    assert result.item() == -channels * 255 * 128 * 229376


def test_conv_refuses_layers_beyond_its_exactness():
    # 2**20 channels times 128 * 255 * 229376 reach 2**52.8.
    channels = 1 << 20
    x = Tensor(np.zeros((channels, 1, 1, 1), dtype=int), U8)
    with pytest.raises(AccumulatorOverflow, match=r"golden model in float64.* acc needs 54 bits"):
        conv([x], np.full((1, channels, 1, 1), -128), S8, np.full((1, 1), 126), channels, UE4M3)


def reference_bounds(layer):
    """By enumeration: for each vector and output channel, the worst sums over all nibbles, zero included."""
    psums, accs = [0], [0]
    outputs, channels = layer.weights.shape[:2]
    for k in range(outputs):
        acc_low = acc_high = 0
        for start in range(0, channels, layer.group):
            for a_plane, w_plane in itertools.product(range(2), range(layer.w_fmt.planes)):
                low = high = 0
                for member in range(start, min(start + layer.group, channels)):
                    fmt = layer.in_formats[member]
                    if a_plane >= fmt.planes:
                        continue
                    nibbles = range(-8, 8) if fmt.signed and a_plane == fmt.planes - 1 else range(16)
                    for weight in layer.weights[k, member].ravel().tolist():
                        w = weight >> 4 if w_plane else weight & 15 if layer.w_fmt is S8 else weight
                        products = [a * w for a in nibbles]
                        low, high = low + min(products), high + max(products)
                psums += [low, high]
                factor = int(layer.scale.value(layer.codes[k, start // layer.group])) * 16 ** (a_plane + w_plane)
                acc_low, acc_high = acc_low + low * factor, acc_high + high * factor
        accs += [acc_low, acc_high]
    return min(psums), max(psums), min(accs), max(accs)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("w_fmt", [S4, S8], ids=["w-s4", "w-s8"])
def test_bounds_are_the_sums_of_the_worst_nibbles(seed, w_fmt):
    layer = Layer(seed, [(U4, 3), (S8, 2), (S4, 1), (U8, 1)], w_fmt)
    found = bounds(*layer.arguments)
    assert (found.psum_min, found.psum_max, found.acc_min, found.acc_max) == reference_bounds(layer)


@pytest.mark.parametrize("a_fmt", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("seed", range(3))
def test_an_adversarial_input_reaches_the_bounds(seed, a_fmt):
    # With 4-bit weights the accumulator's bounds are results of real inputs: the worst activation for every weight.
    layer = Layer(seed, [(a_fmt, 7)], S4)
    found = bounds(*layer.arguments)
    centres = []
    for sign in (1, -1):
        worst = np.where(sign * layer.weights > 0, a_fmt.max, a_fmt.min)
        for k in range(layer.weights.shape[0]):
            x = Tensor(worst[k][:, np.newaxis], a_fmt)
            centres.append(conv([x], layer.weights, S4, layer.codes, layer.group, UE4M3)[k, 0, 1, 1])
    assert (min(centres), max(centres)) == (found.acc_min, found.acc_max)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_sum_of_any_terms_in_any_order_leaves_the_bounds(data):
    seed = data.draw(st.integers(0, 2**32))
    random = np.random.default_rng(seed)
    fmt = st.sampled_from(list(FORMATS.values()))
    layer = Layer(seed, data.draw(st.lists(st.tuples(fmt, st.integers(1, 4)), min_size=1, max_size=2)),
                  data.draw(st.sampled_from([S4, S8])), outputs=2, group=data.draw(st.integers(1, 4)), size=(1, 3, 3))
    found = bounds(*layer.arguments)
    for k in range(2):
        terms, vectors = [], {}
        for c, in_fmt in enumerate(layer.in_formats):
            for tap, a_plane, w_plane in np.ndindex(9, in_fmt.planes, layer.w_fmt.planes):
                a, w = int(layer.x[c, 0].ravel()[tap]), int(layer.weights[k, c].ravel()[tap])
                a = a >> 4 if a_plane else a & 15 if in_fmt.bits == 8 else a
                w = w >> 4 if w_plane else w & 15 if layer.w_fmt is S8 else w
                factor = int(UE4M3.value(layer.codes[k, c // layer.group])) << 4 * (a_plane + w_plane)
                terms.append(a * w * factor)
                vectors.setdefault((c // layer.group, a_plane, w_plane), []).append(a * w)
        partial = np.cumsum(random.permutation(terms))
        assert found.acc_min <= partial.min() <= partial.max() <= found.acc_max
        for vector in vectors.values():
            partial = np.cumsum(random.permutation(vector))
            assert found.psum_min <= partial.min() <= partial.max() <= found.psum_max


@pytest.mark.parametrize(("weight", "a_fmt", "psum_bits"), [
    (-8, U4, 8),   # 15 * -8 = -120 >= -128
    (7, U4, 8),    # 105 <= 127
    (-8, S4, 8),   # -8 * -8 = 64 > 63
    (-1, S4, 5),   # 8 > 7
    (1, S4, 4),    # -8
    (0, S4, 1),
])
def test_widths_are_those_of_twos_complement(weight, a_fmt, psum_bits):
    found = bounds([[[[weight]]]], S4, [a_fmt], [[1]], 1, UE4M3)
    assert (found.psum_bits, found.acc_bits) == (psum_bits, psum_bits)


def test_proof_names_the_layer_the_accumulator_and_the_bits():
    layer = Layer(5, [(U4, 8)], S4)
    found = bounds(*layer.arguments)
    widths = {"psum_bits": found.psum_bits, "acc_bits": found.acc_bits}
    assert prove(*layer.arguments, **widths, name="down.0") == found
    for accumulator in ("psum", "acc"):
        needed = widths[f"{accumulator}_bits"]
        narrow = {**widths, f"{accumulator}_bits": needed - 1}
        message = f"'down.0': {accumulator} needs {needed} bits .* has {needed - 1};"
        with pytest.raises(AccumulatorOverflow, match=message):
            prove(*layer.arguments, **narrow, name="down.0")


def replaced(**changes):
    arguments = {"inputs": [Tensor(np.zeros((5, 1, 3, 3), dtype=int), U4)], "w_fmt": S4, "group": 4, "scale": UE4M3,
                 "weights": np.zeros((2, 5, 3, 3), dtype=int), "codes": np.zeros((2, 2), dtype=int)}
    return {**arguments, **changes}


@pytest.mark.parametrize(("changes", "message"), [
    ({"inputs": []}, "at least one input"),
    ({"inputs": [Tensor(np.zeros((4, 1, 3, 3), dtype=int), U4), Tensor(np.zeros((1, 1, 3, 2), dtype=int), U4)]},
     "same N, H, W"),
    ({"weights": np.zeros((2, 4, 3, 3), dtype=int)}, r"shape \[K, 5, k, k\]"),
    ({"weights": np.zeros((2, 5, 2, 2), dtype=int)}, "k = 1 or 3"),
    ({"weights": np.zeros((2, 5, 1, 3), dtype=int)}, "k = 1 or 3"),
    ({"weights": np.zeros((0, 5, 3, 3), dtype=int)}, r"shape \[K, 5, k, k\]"),
    ({"weights": np.full((2, 5, 3, 3), 8)}, r"must be in \[-8, 7\], found 8"),
    ({"w_fmt": U4}, "s4 or s8, not u4"),
    ({"codes": np.zeros((2, 1), dtype=int)}, r"= \(2, 2\), not \(2, 1\)"),
    ({"codes": np.full((2, 2), 127)}, "NaN"),
    ({"group": 0}, "at least 1 channel, not 0"),
])
def test_illegal_layers_are_refused(changes, message):
    conv(**replaced())
    with pytest.raises(ValueError, match=message):
        conv(**replaced(**changes))


def test_weights_that_are_not_integers_are_refused():
    with pytest.raises(TypeError, match="must be integers, not float64"):
        conv(**replaced(weights=np.zeros((2, 5, 3, 3))))
