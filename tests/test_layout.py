"""Channel-last addresses, and the rearrangements for upsampling and stride 2."""

import itertools

import numpy as np
import pytest

from golden.formats import FORMATS, S4, S8, U4, U8, Tensor, to_planes
from golden.layout import address, depth_to_space, load, space_to_depth, space_to_depth_weights, store, upsample2

SHAPES = [(1, 1, 1, 1), (3, 2, 5, 7), (2, 3, 1, 9), (5, 1, 4, 4)]


def random_tensor(shape, fmt, seed=0):
    return Tensor(np.random.default_rng(seed).integers(fmt.min, fmt.max + 1, shape), fmt)


def strided_convolution(x, weights):
    """Stride 2, padding 0 or 1, by the definition: a sum over taps of the pixels in reach."""
    samples, height, width = x.shape[1:]
    taps, half = range(weights.shape[2]), weights.shape[2] // 2
    result = np.zeros((weights.shape[0], samples, height // 2, width // 2), dtype=np.int64)
    for n, h, w, r, s in itertools.product(range(samples), range(height // 2), range(width // 2), taps, taps):
        line, column = 2 * h + r - half, 2 * w + s - half
        if 0 <= line < height and 0 <= column < width:
            result[:, n, h, w] += weights[:, :, r, s] @ x[:, n, line, column]
    return result


def padded_convolution(x, weights):
    """Stride 1, as wide as its input, as a sum of shifted planes, one for each tap."""
    height, width = x.shape[2:]
    size = weights.shape[2]
    border = (size // 2, size // 2)
    padded = np.pad(x, ((0, 0), (0, 0), border, border))
    return sum(np.tensordot(weights[:, :, r, s], padded[:, :, r:r + height, s:s + width], axes=1)
               for r, s in itertools.product(range(size), range(size)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
def test_addresses_are_a_bijection_in_channel_last_order(shape, fmt):
    channels, samples, height, width = shape
    indices = np.array(list(itertools.product(range(channels), range(fmt.planes), range(samples), range(height),
                                              range(width))))
    addresses = address(*indices.T, base=11, fmt=fmt, shape=shape)
    assert addresses.tolist() == list(range(11, 11 + len(indices)))


def test_address_is_the_documented_formula():
    c, plane, n, h, w, (_, samples, height, width) = 2, 1, 1, 3, 4, (3, 2, 5, 7)
    expected = 100 + w + width * (h + height * (n + samples * (plane + 2 * c)))
    assert address(c, plane, n, h, w, base=100, fmt=U8, shape=(3, 2, 5, 7)) == expected


@pytest.mark.parametrize("axis", range(5))
def test_address_refuses_indices_outside_the_tensor(axis):
    name, size = (("channel", 3), ("plane", 2), ("sample", 4), ("line", 5), ("column", 7))[axis]
    for wrong in (-1, size):
        index = [0, 0, 0, 0, 0]
        index[axis] = wrong
        with pytest.raises(ValueError, match=rf"{name} must be in \[0, {size - 1}\], found {wrong}"):
            address(*index, base=0, fmt=S8, shape=(3, 4, 5, 7))


def test_address_refuses_illegal_bases_and_shapes():
    with pytest.raises(ValueError, match="at least 0, not -1"):
        address(0, 0, 0, 0, 0, base=-1, fmt=U4, shape=(1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"shape \(C, N, H, W\)"):
        address(0, 0, 0, 0, 0, base=0, fmt=U4, shape=(1, 1, 1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
def test_store_puts_every_nibble_at_its_address_and_nothing_else(shape, fmt):
    tensor = random_tensor(shape, fmt)
    count = tensor.values.size * fmt.planes
    memory = np.full(5 + count + 3, 0xEE, dtype=np.uint8)
    store(memory, 5, tensor)
    planes = to_planes(tensor.values, fmt)
    for plane, c, n, h, w in np.ndindex(planes.shape):
        assert memory[address(c, plane, n, h, w, base=5, fmt=fmt, shape=shape)] == planes[plane, c, n, h, w]
    assert (memory[:5] == 0xEE).all()
    assert (memory[5 + count:] == 0xEE).all()
    back = load(memory, 5, fmt, shape)
    assert back.fmt is fmt
    np.testing.assert_array_equal(back.values, tensor.values)


def test_concatenation_is_storing_one_behind_the_other():
    a, b = random_tensor((3, 2, 5, 7), U8, 1), random_tensor((2, 2, 5, 7), U8, 2)
    memory = np.zeros(5 * 2 * 2 * 5 * 7, dtype=np.uint8)
    store(memory, 0, a)
    store(memory, 3 * 2 * 2 * 5 * 7, b)
    np.testing.assert_array_equal(load(memory, 0, U8, (5, 2, 5, 7)).values, np.concatenate([a.values, b.values]))


def test_store_and_load_refuse_to_leave_the_memory():
    tensor = random_tensor((1, 1, 2, 2), U8)
    memory = np.zeros(9, dtype=np.uint8)
    store(memory, 1, tensor)
    with pytest.raises(ValueError, match="addresses 2 to 9, the memory ends at 8"):
        store(memory, 2, tensor)
    with pytest.raises(ValueError, match="addresses 2 to 9, the memory ends at 8"):
        load(memory, 2, U8, tensor.shape)
    with pytest.raises(ValueError, match="at least 0, not -1"):
        store(memory, -1, tensor)
    with pytest.raises(TypeError, match="must be uint8"):
        store(memory.astype(np.int8), 0, tensor)


def test_load_refuses_what_is_not_a_nibble():
    # As the low nibble of a byte, 16 would pass for a high nibble of 1.
    with pytest.raises(ValueError, match=r"nibbles must be in \[0, 15\], found 16"):
        load(np.array([16, 0], dtype=np.uint8), 0, U8, (1, 1, 1, 1))


def test_upsample_repeats_every_pixel():
    tensor = random_tensor((2, 3, 3, 5), S4)
    upsampled = upsample2(tensor)
    assert upsampled.fmt is S4
    assert upsampled.shape == (2, 3, 6, 10)
    for c, n, h, w in np.ndindex(upsampled.shape):
        assert upsampled.values[c, n, h, w] == tensor.values[c, n, h // 2, w // 2]


def test_space_to_depth_moves_every_pixel_to_its_channel():
    tensor = random_tensor((3, 2, 4, 6), S8)
    deep = space_to_depth(tensor)
    assert deep.fmt is S8
    assert deep.shape == (12, 2, 2, 3)
    for c, n, h, w in np.ndindex(tensor.shape):
        assert deep.values[4 * c + 2 * (h & 1) + (w & 1), n, h >> 1, w >> 1] == tensor.values[c, n, h, w]


@pytest.mark.parametrize("size", [(3, 4), (4, 3)])
def test_space_to_depth_refuses_odd_sizes(size):
    with pytest.raises(ValueError, match=f"even H and W, not {size[0]} x {size[1]}"):
        space_to_depth(random_tensor((1, 1, *size), U4))


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (3, 2, 4, 6), (2, 1, 10, 2)])
def test_stride_2_equals_stride_1_over_space_to_depth(shape, size):
    tensor = random_tensor(shape, U4)
    weights = np.random.default_rng(1).integers(-7, 8, (5, shape[0], size, size))
    rewritten = space_to_depth_weights(weights)
    assert rewritten.shape == (5, 4 * shape[0], size, size)
    np.testing.assert_array_equal(padded_convolution(space_to_depth(tensor).values, rewritten),
                                  strided_convolution(tensor.values, weights))


def test_depth_to_space_undoes_space_to_depth():
    tensor = random_tensor((3, 2, 4, 6), U4)
    np.testing.assert_array_equal(depth_to_space(space_to_depth(tensor)).values, tensor.values)
    with pytest.raises(ValueError, match="multiple of 4 channels, not 3"):
        depth_to_space(tensor)


def test_space_to_depth_weights_refuses_other_kernels():
    with pytest.raises(ValueError, match=r"\[K, C, 1, 1\], not \(1, 1, 2, 2\)"):
        space_to_depth_weights(np.zeros((1, 1, 2, 2), dtype=int))
