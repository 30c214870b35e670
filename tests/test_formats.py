"""Number formats and scale codes, against ml_dtypes and against their definitions."""

import ml_dtypes
import numpy as np
import pytest

from golden.formats import (
    FORMATS,
    S4,
    S8,
    U4,
    U8,
    Format,
    ScaleFormat,
    Tensor,
    from_planes,
    pack_nibbles,
    plane_values,
    to_planes,
    unpack_nibbles,
)

UE4M3 = ScaleFormat()
WIDTHS = [(e, m) for e in range(1, 5) for m in range(4)]


def every_value(fmt):
    return np.arange(fmt.min, fmt.max + 1)


@pytest.mark.parametrize(("fmt", "low", "high", "planes"),
                         [(U4, 0, 15, 1), (S4, -8, 7, 1), (U8, 0, 255, 2), (S8, -128, 127, 2)])
def test_format_has_its_range_and_planes(fmt, low, high, planes):
    assert (fmt.min, fmt.max, fmt.planes) == (low, high, planes)
    assert FORMATS[fmt.name] is fmt


def test_format_refuses_other_widths_and_names():
    with pytest.raises(ValueError, match=r"4 or 8 bits .* not 6"):
        Format("u6", 6, False)
    with pytest.raises(ValueError, match="named 's8', not 'u8'"):
        Format("u8", 8, True)
    with pytest.raises(ValueError, match="planes 0 to 1, not 2"):
        U8.plane_signed(2)


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
def test_planes_are_the_nibbles_of_twos_complement(fmt):
    values = every_value(fmt)
    planes = to_planes(values, fmt)
    assert planes.dtype == np.uint8
    assert planes.shape == (fmt.planes, values.size)
    for value, nibbles in zip(values.tolist(), planes.T.tolist(), strict=True):
        digits = f"{value % (1 << fmt.bits):0{fmt.planes}x}"
        assert [int(digit, 16) for digit in reversed(digits)] == nibbles
    np.testing.assert_array_equal(from_planes(planes, fmt), values)


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
def test_plane_values_weighted_by_16_sum_to_the_value(fmt):
    values = every_value(fmt)
    seen = plane_values(to_planes(values, fmt), fmt)
    assert sum(int(16**p) * seen[p] for p in range(fmt.planes)).tolist() == values.tolist()
    assert [seen[p].min() for p in range(fmt.planes)] == [-8 if fmt.plane_signed(p) else 0 for p in range(fmt.planes)]


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
def test_values_outside_the_format_are_refused(fmt):
    for wrong in (fmt.min - 1, fmt.max + 1):
        with pytest.raises(ValueError, match=rf"must be in \[{fmt.min}, {fmt.max}\], found {wrong}"):
            to_planes([0, wrong], fmt)
        with pytest.raises(ValueError, match=f"found {wrong}"):
            Tensor(np.full((1, 1, 1, 1), wrong), fmt)


@pytest.mark.parametrize("values", [[1.0], [True], ["1"]])
def test_non_integers_are_refused(values):
    with pytest.raises(TypeError, match="must be integers"):
        to_planes(values, U4)


def test_unsigned_64_bit_values_do_not_wrap():
    with pytest.raises(ValueError, match="found 18446744073709551615"):
        to_planes(np.array([2**64 - 1], dtype=np.uint64), S4)


def test_planes_of_the_wrong_number_or_range_are_refused():
    with pytest.raises(ValueError, match="u8 needs 2 planes"):
        from_planes([[1, 2]], U8)
    with pytest.raises(ValueError, match="found 16"):
        from_planes([[16]], U4)


def test_tensor_is_a_read_only_copy():
    source = np.arange(8, dtype=np.int64).reshape(1, 2, 2, 2)
    tensor = Tensor(source, U4)
    source[:] = 0
    assert tensor.values.dtype == np.int64
    assert tensor.values.ravel().tolist() == list(range(8))
    with pytest.raises(ValueError, match="read-only"):
        tensor.values[0] = 1


@pytest.mark.parametrize("shape", [(), (4,), (1, 1, 1), (1, 1, 1, 1, 1), (1, 0, 1, 1)])
def test_tensor_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"shape \[C, N, H, W\]"):
        Tensor(np.zeros(shape, dtype=int), U4)


def test_tensor_refuses_a_format_name():
    with pytest.raises(TypeError, match="must be a Format, not 'u4'"):
        Tensor(np.zeros((1, 1, 1, 1), dtype=int), "u4")


def test_packing_puts_the_low_nibble_first():
    assert pack_nibbles([0x1, 0x2, 0x3]).tolist() == [0x21, 0x03]
    assert unpack_nibbles(b"\x21\x03", 3).tolist() == [1, 2, 3]


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16])
def test_unpacking_inverts_packing(count):
    nibbles = np.arange(count) % 16
    packed = pack_nibbles(nibbles)
    assert packed.shape == ((count + 1) // 2,)
    assert unpack_nibbles(packed, count).tolist() == nibbles.tolist()
    assert unpack_nibbles(packed.tobytes(), count).tolist() == nibbles.tolist()


def test_packing_refuses_wrong_shapes_ranges_and_counts():
    with pytest.raises(ValueError, match="found 16"):
        pack_nibbles([16])
    with pytest.raises(ValueError, match="one dimension"):
        pack_nibbles([[1]])
    with pytest.raises(ValueError, match="one dimension"):
        unpack_nibbles([[1]], 1)
    with pytest.raises(ValueError, match="found 256"):
        unpack_nibbles([256], 1)
    for count in (-1, 3):
        with pytest.raises(ValueError, match=rf"\[0, 2\].* not {count}"):
            unpack_nibbles(b"\x00", count)


def test_every_ue4m3_code_has_the_value_of_float8_e4m3fn():
    codes = np.arange(127, dtype=np.uint8)
    reference = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    np.testing.assert_array_equal(UE4M3.value(codes) * 2.0**UE4M3.unit_log2, reference)
    assert UE4M3.max_value * 2.0**UE4M3.unit_log2 == 448
    assert np.isnan(np.uint8(UE4M3.nan_code).view(ml_dtypes.float8_e4m3fn))


def test_encode_rounds_as_float8_e4m3fn_does():
    # Every code, every tie between neighbours, and the floats on both sides of it (ml_dtypes converts from float32).
    values = (UE4M3.value(np.arange(127)) * 2.0**UE4M3.unit_log2).astype(np.float32)
    ties = (values[1:] + values[:-1]) / 2
    scales = np.concatenate([values, ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(500))])
    reference = scales.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    np.testing.assert_array_equal(UE4M3.encode(scales * 2.0**-UE4M3.unit_log2), reference)


def test_the_nan_code_is_refused():
    with pytest.raises(ValueError, match="code 0x7f is NaN"):
        UE4M3.value([0, 127])


@pytest.mark.parametrize(("exp_bits", "man_bits"), WIDTHS)
def test_codes_of_every_width_follow_the_definition(exp_bits, man_bits):
    scale = ScaleFormat(exp_bits, man_bits)
    assert scale.bits == exp_bits + man_bits
    legal = (1 << scale.bits) - (1 if (exp_bits, man_bits) == (4, 3) else 0)
    values = []
    for code in range(legal):
        exponent, mantissa = code >> man_bits, code % (1 << man_bits)
        values.append(mantissa if exponent == 0 else (2**man_bits + mantissa) * 2 ** (exponent - 1))
    codes = np.arange(legal)
    assert scale.value(codes).tolist() == values == sorted(set(values))
    assert scale.max_code == legal - 1
    assert scale.max_value == values[-1]
    assert scale.encode(values).tolist() == codes.tolist()
    with pytest.raises(ValueError, match="scale code"):
        scale.value([legal])


@pytest.mark.parametrize(("exp_bits", "man_bits"), WIDTHS)
def test_power_of_two_codes_are_all_powers_up_to_the_largest_value(exp_bits, man_bits):
    scale = ScaleFormat(exp_bits, man_bits)
    codes = scale.power_of_two_codes
    assert scale.value(codes).tolist() == [2**i for i in range(scale.max_value.bit_length())]
    assert np.flatnonzero(scale.is_power_of_two(np.arange(scale.max_code + 1))).tolist() == codes.tolist()


def test_narrow_exponents_keep_the_values_of_small_codes():
    codes = np.arange(64)
    np.testing.assert_array_equal(ScaleFormat(3, 3).value(codes), UE4M3.value(codes))


def test_encode_clips_large_scales_only_when_asked():
    scale = ScaleFormat(3, 3)
    with pytest.raises(ValueError, match=r"at most 960 units of 2\*\*-9, found 960.5"):
        scale.encode(960.5)
    assert scale.encode([960.5, 1e30, 3.0], saturate=True).tolist() == [63, 63, 3]


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_encode_refuses_negative_and_non_finite_scales(wrong):
    with pytest.raises(ValueError, match="finite and not negative"):
        UE4M3.encode([1.0, wrong], saturate=True)


@pytest.mark.parametrize("widths", [(0, 3), (5, 3), (4, -1), (4, 4)])
def test_scale_format_refuses_other_widths(widths):
    with pytest.raises(ValueError, match=r"must be in \["):
        ScaleFormat(*widths)
    with pytest.raises(TypeError):
        ScaleFormat(4.0, 3)
