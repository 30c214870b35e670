"""Descriptors and payloads of programs: encoding, packing, and every error, each deserved by a program."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden.detector import Detection
from golden.formats import S8, U4, ScaleFormat, Tensor
from golden.layer import Entry, TableEntry
from golden.program.checks import Surroundings, check
from golden.program.descriptor import (
    ALL_STEPS,
    BYTES,
    FIELDS,
    LIMITS,
    DescriptorError,
    ErrorCode,
    Opcode,
    OpcodeError,
    decode,
    encode,
    reserved_bits,
)
from golden.program.document import markdown
from golden.program.emit import Emitter, Run
from golden.program.execute import UndefinedResult
from golden.program.labels import LabelTable
from golden.program.pack import Packing, pack_batch, pack_tensor, unpack_tensor
from golden.program.simulator import Outcome, Simulator
from hw.config import Config, preset
from hw.interfaces import param_layout, table_layout

TINY = preset("tiny")
CONFIGS = [TINY, preset("default"), preset("edm"), replace(TINY, cols=5, lanes_per_scale=2, bus_bits=128),
           replace(TINY, cols=19, lanes_per_scale=2, label_slots=2, scale_depth=2)]


@st.composite
def descriptors(draw: st.DrawFn) -> tuple[Opcode, dict[str, int]]:
    opcode = draw(st.sampled_from(list(Opcode)))
    return opcode, {field.name: draw(st.integers(0, (1 << field.bits) - 1)) for field in FIELDS[opcode]
                    if field.name != "opcode"}


@given(descriptors())
def test_decode_undoes_encode(drawn) -> None:
    opcode, values = drawn
    raw = encode(opcode, **values)
    assert len(raw) == BYTES and reserved_bits(raw, opcode) == 0
    item = decode(raw)
    assert (item.opcode, dict(item.values)) == (opcode, values)


@given(st.binary(min_size=BYTES, max_size=BYTES), st.sampled_from(list(Opcode)))
def test_fields_and_reserved_bits_are_all_bits(raw: bytes, opcode: Opcode) -> None:
    raw = bytes([opcode]) + raw[1:]
    rest = int.from_bytes(raw, "little") & ~reserved_bits(raw, opcode)
    assert encode(opcode, **decode(raw).values) == rest.to_bytes(BYTES, "little")


@pytest.mark.parametrize("opcode", Opcode)
def test_fields_do_not_overlap(opcode: Opcode) -> None:
    bits = [field.first_bit + bit for field in FIELDS[opcode] for bit in range(field.bits)]
    assert len(bits) == len(set(bits)) and max(bits) < 8 * BYTES
    assert all(field.lsb + field.bits <= 32 or field.name == "mask" for field in FIELDS[opcode])


def test_every_limit_is_of_a_field_and_fits_it() -> None:
    fields = {field.name: field for opcode in Opcode for field in FIELDS[opcode]}
    for config in CONFIGS:
        for name, limit in LIMITS.items():
            assert 0 <= limit.low <= limit.high(config) < 1 << fields[name].bits, name


def test_encode_refuses() -> None:
    with pytest.raises(DescriptorError, match=r"LOAD has no field width; it has mask, wait, offset, stride"):
        encode(Opcode.LOAD, width=3)
    with pytest.raises(DescriptorError, match=r"CONV width=4096 is not legal: it must be from 0 to 4095, it has 12"):
        encode(Opcode.CONV, width=4096)
    with pytest.raises(DescriptorError, match="END has no field opcode"):
        encode(Opcode.END, **{"opcode": 3})
    with pytest.raises(OpcodeError, match="opcode 7 does not exist; there are 1 END, 2 BATCH"):
        decode(bytes([7]) + bytes(127))
    with pytest.raises(ValueError, match="a descriptor has 128 bytes, not 127"):
        decode(bytes(127))


def test_the_documentation_has_the_tables() -> None:
    """`python -m golden.program fields` makes them."""
    text = (Path(__file__).parents[1] / "docs" / "program.md").read_text()
    assert markdown() in text


# Payloads.

@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.cols}x{config.bus_bits}")
def test_packing_is_that_of_the_hardware(config: Config) -> None:
    """Table entries and parameters as hw.interfaces lays them out; sizes as the configuration says."""
    packing, rng = Packing.of(config), np.random.default_rng(3)
    for _ in range(50):
        members = {name: int(rng.integers(0, 1 << bits)) for name, bits in packing.entry_members}
        entry = {name: members[name] for name in ("base", "weight", "group", "taps", "a_signed", "w_signed",
                                                  "exponent", "last")}
        layout = {name: members[name] for name in ("dense_ok", "label", "slot")}
        expected = table_layout(config).const(layout | {"entry": entry}).as_value().value
        item = TableEntry(Entry(**entry), **layout)
        raw = packing.pack_entry(item)
        assert int.from_bytes(raw, "little") == expected
        assert packing.unpack_entry(raw) == item
        m, r = (int(value) for value in rng.integers(-1 << 15, 1 << 15, 2))
        b = int(rng.integers(-1 << config.bias_bits - 1, 1 << config.bias_bits - 1))
        raw = packing.pack_param(m, r, b)
        assert int.from_bytes(raw, "little") == param_layout(config).const({"m": m, "r": r, "b": b}).as_value().value
        assert packing.unpack_param(raw) == (m, r, b)
        assert len(raw) == config.param_beats * config.bus_bits // 8
    assert packing.tap_bytes == config.tap_beats * config.bus_bits // 8
    assert packing.scale_bytes == config.scale_beats * config.bus_bits // 8


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.cols}x{config.bus_bits}")
@pytest.mark.parametrize("one_tap", [False, True])
def test_ktiles(config: Config, one_tap: bool) -> None:
    """Each tap begins with a beat, column 0 in its low nibble; then words of codes, column u*lanes + i in word i."""
    packing, rng = Packing.of(config), np.random.default_rng(4)
    weights = rng.integers(0, 16, (5, 3, config.cols))
    codes = np.zeros((2, config.lanes_per_scale, config.scale_units), np.int64)
    columns = rng.integers(0, 1 << config.code_bits, (2, config.cols))
    for column in range(config.cols):
        codes[:, column % config.lanes_per_scale, column // config.lanes_per_scale] = columns[:, column]
    raw = packing.pack_ktile(weights, codes, one_tap)
    assert len(raw) == packing.ktile_bytes(5, one_tap, 2)
    taps = [1] if one_tap else [0, 1, 2]
    for word in range(5):
        for place, tap in enumerate(taps):
            start = (word * len(taps) + place) * packing.tap_bytes
            number = int.from_bytes(raw[start:start + packing.tap_bytes], "little")
            assert [number >> 4 * k & 15 for k in range(config.cols)] == weights[word, tap].tolist()
    start = 5 * len(taps) * packing.tap_bytes
    for word, expected in enumerate(codes.reshape(-1, config.scale_units)):
        assert list(raw[start + word * packing.scale_bytes:][:config.scale_units]) == expected.tolist()
    kept = np.where(np.isin(np.arange(3), taps)[:, None], weights, 0)
    back, back_codes = packing.unpack_ktile(raw, 5, one_tap, 2)
    np.testing.assert_array_equal(back, kept)
    # Lane i of unit u is column u*lanes + i in the hardware, where the last unit may have lanes without a column.
    np.testing.assert_array_equal(back_codes, columns)


def test_what_does_not_fit_is_not_packed() -> None:
    packing = Packing.of(TINY)
    with pytest.raises(ValueError, match="table entry: base=8192 does not fit 13 bits"):
        packing.pack_entry(TableEntry(Entry(8192, 0, 0, 0, False, False, 0, False), False, 0, 0))
    with pytest.raises(ValueError, match="parameter M=32768 does not fit 16 bits, signed"):
        packing.pack_param(32768, 0, 0)
    with pytest.raises(ValueError, match="samples must name one of 2 blocks"):
        pack_batch(64, [5, 6], [0, 2])
    with pytest.raises(ValueError, match="2 blocks for 1 samples"):
        pack_batch(64, [5, 6], [0])


def test_tensors_in_host_memory() -> None:
    values = np.arange(-30, 30).reshape(5, 2, 2, 3)
    tensor = Tensor(values, S8)
    raw = pack_tensor(tensor)
    assert len(raw) == 64      # 60 bytes, padded
    assert raw[0] & 15 == -30 & 15 and raw[6] & 15 == (-30 >> 4) & 15     # low plane of 12 nibbles, then the high one
    np.testing.assert_array_equal(unpack_tensor(raw, S8, values.shape).values, values)


# Errors. One program of all opcodes that is legal, and changes to it.

BEAT = 8
PROGRAM = BYTES * 8
TABLE, WEIGHTS, PARAMS = PROGRAM, PROGRAM + 16, PROGRAM + 64
CONV = {"width": 4, "height": 2, "pixels": 8, "sample_pixels": 8, "tiles": 2, "k_tiles": 1, "last_cols": 2,
        "out_base": 64, "out_channel": 8, "out_plane": 8, "out_end": 80, "in0_base": 0, "in0_end": 8,
        "table": TABLE, "table_count": 1, "weights": WEIGHTS, "words": 2, "one_tap": 1, "groups": 1,
        "params": PARAMS, "outputs": 2, "block_log2": 5}
ELEMENTWISE = {name: CONV[name] for name in CONV if name not in ("table", "table_count", "weights", "words", "one_tap",
                                                                 "groups")}
ELEMENTWISE |= {"in0_base": 64, "in0_end": 80, "x_channel": 8, "x_plane": 8, "out_base": 96, "out_end": 112}
LEGAL: list[tuple[Opcode, dict[str, int]]] = [
    (Opcode.BATCH, {"offset": 0, "samples": 1, "blocks": 1}),
    (Opcode.LOAD, {"offset": 16, "runs": 1, "beats": 1}),
    (Opcode.CONV, CONV),
    (Opcode.ELEMENTWISE, ELEMENTWISE),
    (Opcode.STORE, {"offset": 32, "chip_first": 4, "runs": 2, "beats": 1, "stride": 16, "chip_stride": 2}),
    (Opcode.END, {}),
]
DATA_SIZE = 64


def payload(config: Config = TINY) -> bytes:
    """A channel whose centre tap has the weights 2 and 3, scale code 1; y = 4*acc + 1 >> 2."""
    packing = Packing.of(config)
    table = packing.pack_entry(TableEntry(Entry(0, 0, 0, 0b10000, False, True, 0, True), True, 5, 0))
    weights = np.zeros((2, 3, 4), np.int64)
    weights[1, 1, :2] = 2, 3
    codes = np.zeros((1, 4, 1), np.int64)
    codes[0, :2, 0] = 1
    tile = packing.pack_ktile(weights, codes, True)
    assert len(tile) == 48
    return table.ljust(16, b"\0") + tile + packing.pack_param(4, 0, 1) * 2


def build(program: list[tuple[Opcode, dict[str, int]]]) -> bytes:
    return b"".join(encode(opcode, **values) for opcode, values in program).ljust(PROGRAM, b"\0") + payload()


def simulator(code: bytes, config: Config = TINY) -> Simulator:
    data = bytearray(DATA_SIZE)
    data[:16] = pack_batch(64, [0], [0])
    data[16:20] = bytes.fromhex("21436500")
    made = Simulator(config, code, data)
    made.memory[:] = np.random.default_rng(6).integers(0, 16, config.act_nibbles)
    return made


def test_the_legal_program_does_what_it_says() -> None:
    made = simulator(build(LEGAL))
    outcome = made.run(len(LEGAL))
    assert (outcome.error, outcome.index) == (None, 5)
    x = np.array([1, 2, 3, 4, 5, 6, 0, 0])
    acc = np.minimum(np.stack([2 * x * ScaleFormat(2, 3).value(1), 3 * x]) * 4 + 1, 15)
    np.testing.assert_array_equal(made.memory[64:80], acc.reshape(-1))
    second = np.minimum(4 * acc.reshape(-1) + 1, 15)
    np.testing.assert_array_equal(made.memory[96:112], second)
    np.testing.assert_array_equal(unpack_tensor(made.data[32:40], U4, (1, 1, 1, 16)).values.reshape(-1),
                                  made.memory[64:80])
    assert made.data[48:56] == pack_tensor(Tensor(second.reshape(1, 1, 1, 16), U4))[:8]
    assert outcome.traffic.read == 6 * BYTES + 16 + 8 + 8 + 48 + 64
    assert outcome.traffic.written == 16


def changed(index: int, **values: int) -> bytes:
    program = [(opcode, dict(fields)) for opcode, fields in LEGAL]
    program[index][1].update(values)
    return build(program)


def raw_bit(index: int, bit: int) -> bytes:
    code = bytearray(build(LEGAL))
    code[BYTES * index + bit // 8] ^= 1 << bit % 8
    return bytes(code)


def without(index: int) -> bytes:
    return build(LEGAL[:index] + LEGAL[index + 1:])


# What is done to the program; the error, and at which descriptor.
ERRORS: dict[str, tuple[bytes, ErrorCode, int]] = {
    "opcode 7": (bytes([7]) + build(LEGAL)[1:], ErrorCode.OPCODE, 0),
    "opcode 0": (build(LEGAL)[:BYTES * 3] + b"\0" + build(LEGAL)[BYTES * 3 + 1:], ErrorCode.OPCODE, 3),
    "opcode 69": (raw_bit(2, 6), ErrorCode.OPCODE, 2),
    "w1": (raw_bit(5, 32), ErrorCode.RESERVED, 5),
    "flag of another opcode": (raw_bit(2, 18), ErrorCode.RESERVED, 2),
    "last word": (raw_bit(2, 1023), ErrorCode.RESERVED, 2),
    "elementwise with a table": (raw_bit(3, 32 * 26), ErrorCode.RESERVED, 3),
    "offset of a load": (changed(1, offset=24), ErrorCode.RESERVED, 1),
    "stride of a store": (changed(4, stride=8), ErrorCode.RESERVED, 4),
    "offset of the batch": (changed(0, offset=8), ErrorCode.RESERVED, 0),
    "offset of a table": (changed(2, table=TABLE + 8), ErrorCode.RESERVED, 2),
    "offset of weights": (changed(2, weights=WEIGHTS + 8), ErrorCode.RESERVED, 2),
    "offset of parameters": (changed(3, params=PARAMS + 8), ErrorCode.RESERVED, 3),
    "distance of blocks": (changed(2, block_log2=3), ErrorCode.RESERVED, 2),
    "transform 3": (changed(2, transform=3), ErrorCode.RESERVED, 2),
    "no samples": (changed(0, samples=0), ErrorCode.SIZE, 0),
    "no blocks": (changed(0, blocks=0), ErrorCode.SIZE, 0),
    "many samples": (changed(0, samples=5), ErrorCode.SIZE, 0),
    "no runs": (changed(1, runs=0), ErrorCode.SIZE, 1),
    "many beats": (changed(4, beats=513), ErrorCode.SIZE, 4),
    "width 0": (changed(2, width=0), ErrorCode.SIZE, 2),
    "height 64": (changed(3, height=64), ErrorCode.SIZE, 3),
    "pixels": (changed(2, pixels=8193), ErrorCode.SIZE, 2),
    "tiles": (changed(2, tiles=2049), ErrorCode.SIZE, 2),
    "k_tiles": (changed(2, k_tiles=0), ErrorCode.SIZE, 2),
    "last_cols": (changed(2, last_cols=5), ErrorCode.SIZE, 2),
    "shift": (changed(2, shift=40), ErrorCode.SIZE, 2),
    "bin_shift": (changed(2, bin_shift=14), ErrorCode.SIZE, 2),
    "no table": (changed(2, table_count=0), ErrorCode.SIZE, 2),
    "long table": (changed(2, table_count=33), ErrorCode.SIZE, 2),
    "no words": (changed(2, words=0), ErrorCode.SIZE, 2),
    "many words": (changed(2, words=129), ErrorCode.SIZE, 2),
    "no groups": (changed(2, groups=0), ErrorCode.SIZE, 2),
    "many groups": (changed(2, groups=33), ErrorCode.SIZE, 2),
    "many outputs": (changed(3, outputs=33), ErrorCode.SIZE, 3),
    "distance of channels": (changed(2, out_channel=8192), ErrorCode.SIZE, 2),
    "label slot": (changed(2, label_slot=4), ErrorCode.SIZE, 2),
    "labels": (changed(2, label_first=127, detect=1), ErrorCode.SIZE, 2),
    "upsampled to a width that is not": (changed(2, upsampled=1, width=8, height=2), ErrorCode.SIZE, 2),
    "upsampled to an odd height": (changed(2, upsampled=1, width=4, height=1), ErrorCode.SIZE, 2),
    "strided to a width that is not": (changed(3, x_strided=1, width=8, height=2), ErrorCode.SIZE, 3),
    "output beyond memory": (changed(2, out_end=8193), ErrorCode.RANGE, 2),
    "output ends before it begins": (changed(2, out_base=81), ErrorCode.RANGE, 2),
    "residual beyond memory": (changed(3, res_end=8193), ErrorCode.RANGE, 3),
    "second segment backwards": (changed(2, in1_base=40), ErrorCode.RANGE, 2),
    "batch beyond the region": (changed(0, offset=64), ErrorCode.RANGE, 0),
    "batch with its last beat beyond the region": (changed(0, offset=48, samples=2), ErrorCode.RANGE, 0),
    "load beyond the region": (changed(1, offset=64), ErrorCode.RANGE, 1),
    "load beyond memory": (changed(1, chip_first=512), ErrorCode.RANGE, 1),
    "last run beyond the region": (changed(4, stride=32), ErrorCode.RANGE, 4),
    "last run beyond memory": (changed(4, chip_stride=509), ErrorCode.RANGE, 4),
    "stride that would wrap": (changed(4, stride=0xFFFFFFF0), ErrorCode.RANGE, 4),
    "table beyond the region": (changed(2, table=PARAMS + 64), ErrorCode.RANGE, 2),
    "weights beyond the region": (changed(2, weights=PARAMS + 32), ErrorCode.RANGE, 2),
    "parameters beyond the region": (changed(2, params=PARAMS + 16), ErrorCode.RANGE, 2),
    "output on input": (changed(2, in0_end=65), ErrorCode.OVERLAP, 2),
    "output on second segment": (changed(2, in1_base=79, in1_end=90), ErrorCode.OVERLAP, 2),
    "output on residual": (changed(3, res_base=90, res_end=97), ErrorCode.OVERLAP, 3),
    "in place": (changed(3, out_base=64, out_end=80), ErrorCode.OVERLAP, 3),
    "no end": (without(5), ErrorCode.NO_END, 5),
    "no batch": (without(0), ErrorCode.BATCH, 1),
    "more blocks than samples": (changed(0, blocks=2), ErrorCode.BATCH, 0),
    "sample of no block": (changed(0, samples=2), ErrorCode.BATCH, 0),
    "guard below": (changed(2, out_base=65), ErrorCode.GUARD, 2),
    "guard above": (changed(3, out_end=111), ErrorCode.GUARD, 3),
    # Of several errors the first in the order of their codes.
    "reserved before size": (changed(1, offset=24, runs=0), ErrorCode.RESERVED, 1),
    "size before range": (changed(2, width=0, out_end=9000), ErrorCode.SIZE, 2),
    "range before overlap": (changed(2, in0_end=9000), ErrorCode.RANGE, 2),
}


def run_to(code: bytes, count: int) -> tuple[Simulator, Outcome]:
    made = simulator(code)
    return made, made.run(count)


@pytest.mark.parametrize("name", ERRORS)
def test_every_error(name: str) -> None:
    """It is reported with its index, and nothing of the refused descriptor has been done."""
    code, error, index = ERRORS[name]
    count = 5 if error is ErrorCode.NO_END else len(LEGAL)
    made, outcome = run_to(code, count)
    assert (outcome.error, outcome.index) == (error, index), outcome
    assert outcome.problem
    # The same program with END in the descriptor's place.
    cut = code[:BYTES * index] + encode(Opcode.END) + code[BYTES * (index + 1):]
    expected, legal = run_to(cut, len(LEGAL))
    assert legal.error is None
    np.testing.assert_array_equal(made.memory, expected.memory)
    assert made.data == expected.data
    assert made.labels.read(5, 0) == expected.labels.read(5, 0)
    regions = decode(code[BYTES * index:BYTES * (index + 1)]).values if error is ErrorCode.GUARD else {}
    assert outcome.unspecified == (regions.get("out_base", 0), regions.get("out_end", 0))


def test_every_code_that_a_program_can_deserve_is_reached() -> None:
    assert {error for _, error, _ in ERRORS.values()} == set(ErrorCode) - {
        ErrorCode.BUS_READ, ErrorCode.BUS_WRITE, ErrorCode.WATCHDOG}


@pytest.mark.parametrize(("one_block", "error"), [(0, ErrorCode.RANGE), (1, None)])
def test_one_block_is_block_0_whatever_the_batch_says(one_block: int, error: ErrorCode | None) -> None:
    """The batch names block 9, which the program does not have."""
    program = [(opcode, fields | ({"one_block": one_block} if "params" in fields else {})) for opcode, fields in LEGAL]
    made = simulator(build(program))
    made.data[:16] = pack_batch(64, [9], [0])
    outcome = made.run(len(LEGAL))
    assert outcome.error is error
    if error is None:
        other = simulator(build(LEGAL))
        other.run(len(LEGAL))
        np.testing.assert_array_equal(made.memory, other.memory)
        assert outcome.traffic.params == 64


def test_one_block_takes_the_place_of_one() -> None:
    """17 words of two blocks are too many for a half of 32, of one block they are not."""
    around = Surroundings(TINY, 1 << 20, 1 << 20, (0, 1))
    fields = CONV | {"outputs": 17, "table": 1 << 12, "weights": 1 << 12, "params": 1 << 12}
    assert check(encode(Opcode.CONV, **fields), around) is ErrorCode.SIZE
    assert check(encode(Opcode.CONV, **fields, one_block=1), around) is None
    assert check(encode(Opcode.CONV, **fields, one_block=1), replace(around, blocks=None)) is ErrorCode.BATCH


def test_limits_are_reached_but_not_passed() -> None:
    """A legal value at each end is not an error of its own."""
    for index, (opcode, _) in enumerate(LEGAL):
        for field in FIELDS[opcode]:
            if field.name in LIMITS:
                limit = LIMITS[field.name]
                for value, legal in ((limit.low, True), (limit.high(TINY), True), (limit.low - 1, False),
                                     (limit.high(TINY) + 1, False)):
                    if 0 <= value < 1 << field.bits:
                        try:
                            _, outcome = run_to(changed(index, **{field.name: value}), len(LEGAL))
                            refused = outcome.error is ErrorCode.SIZE
                        except UndefinedResult:
                            refused = False
                        assert refused != legal, (opcode, field.name, value)


def test_empty_programs_and_programs_beyond_their_region() -> None:
    made, outcome = run_to(build(LEGAL), 0)
    assert (outcome.error, outcome.index) == (ErrorCode.NO_END, 0)
    made.program = made.program[:BYTES * 2 + 100]
    outcome = made.run(len(LEGAL))
    assert (outcome.error, outcome.index) == (ErrorCode.RANGE, 2)


def test_masked_descriptors_are_passed_over_unseen() -> None:
    """Whatever is wrong with them; but for END, which has no mask."""
    code = bytearray(changed(2, mask=~(1 << 5) & (1 << 64) - 1, width=0))
    made = simulator(bytes(code))
    before = made.memory[64:80].copy()
    assert made.run(len(LEGAL), step=5).error is None
    np.testing.assert_array_equal(made.memory[64:80], before)
    assert made.run(len(LEGAL), step=6).error is ErrorCode.SIZE
    code[BYTES * 2] = 77
    made.program = bytes(code)
    assert made.run(len(LEGAL), step=5).error is None
    assert simulator(changed(5, mask=0)).run(len(LEGAL)).error is None
    with pytest.raises(ValueError, match="step=64 is not legal: it must be from 0 to 63"):
        made.run(len(LEGAL), step=64)


@pytest.mark.parametrize(("index", "values", "message"), [
    (2, {"tiles": 3}, r"descriptor 2: tiles=3 of 8 pixels"),
    (2, {"sample_pixels": 4}, r"descriptor 2: sample_pixels=4 of 4 x 2"),
    (3, {"pixels": 4}, r"descriptor 3: pixels=4 of 1 samples of 4 x 2"),
    (2, {"outputs": 1}, r"descriptor 2: k_tiles and last_cols make 2 channels, outputs=1"),
    (2, {"out_channel": 4}, "descriptor 2: a nibble is written more than once"),
    (2, {"transform": 2, "height": 1, "width": 8}, "descriptor 2: space-to-depth of 8 x 1 pixels"),
])
def test_what_the_hardware_cannot_check_is_undefined(index: int, values: dict[str, int], message: str) -> None:
    with pytest.raises(UndefinedResult, match=message):
        run_to(changed(index, **values), len(LEGAL))


@pytest.mark.parametrize(("members", "message"), [
    ({"weight": 1}, "an entry names weight word 2 of 2"), ({"group": 1}, "an entry names group 1 of 1"),
    ({"taps": 1}, "an entry names a tap that is not stored"), ({"taps": 0}, "an entry has no taps"),
    ({"last": False}, "the last entry of the channel table does not end a vector"),
    ({"exponent": 1}, "an entry with unsigned weights or an exponent has dense_ok"),
    ({"w_signed": False}, "an entry with unsigned weights or an exponent has dense_ok"),
])
def test_entries_that_name_what_is_not_there(members: dict[str, int], message: str) -> None:
    packing, code = Packing.of(TINY), bytearray(build(LEGAL))
    item = packing.unpack_entry(code[TABLE:TABLE + BEAT])
    code[TABLE:TABLE + BEAT] = packing.pack_entry(replace(item, entry=replace(item.entry, **members)))
    with pytest.raises(UndefinedResult, match=f"descriptor 2: {message}"):
        run_to(bytes(code), len(LEGAL))


def test_dead_labels_leave_channels_out() -> None:
    """An elementwise layer that makes zeros labels them dead; a table that names those labels adds nothing."""
    program = [(opcode, dict(values)) for opcode, values in LEGAL]
    detect = ELEMENTWISE | {"detect": 1, "label_first": 5, "dead_zone": 255}
    program.insert(3, (Opcode.ELEMENTWISE, detect))
    program.insert(4, (Opcode.CONV, CONV))
    made = simulator(build(program[:6] + program[7:]))
    assert made.run(7).error is None
    assert made.labels.read(5, 0) == (False, True, 0)
    np.testing.assert_array_equal(made.memory[64:80], 1)     # B alone: (0 + 1) >> 0


def test_a_slot_turns_to_the_other_copy_of_the_labels() -> None:
    """And `sparse` stays as it was in time steps without refresh, `dead` and the bin are always new."""
    table, detection = LabelTable(8, 2), Detection(False, 4, 0, 1)
    table.detect(3, 1, np.array([2, 9]), detection, True)
    assert [table.read(index, 1) for index in (2, 3, 4)] == [(False, False, 0), (True, False, 1), (False, False, 4)]
    assert table.read(3, 0) == (False, False, 0)
    table.detect(3, 1, np.array([70, 0]), detection, False)
    assert [table.read(index, 1) for index in (3, 4)] == [(True, False, 31), (False, True, 0)]
    assert table.read(3, 0) == (True, False, 31)      # slot 0 never turned


@pytest.mark.parametrize(("destination", "source", "mask", "waits"), [
    (0, 512, ALL_STEPS, [True, False]), (8, 0, ALL_STEPS, [False, False]), (8, 256, ALL_STEPS, [True, False]),
    (0, 512, 1, [True, True]), (8, 256, 1, [True, True])])
def test_loads_wait_for_stores(destination: int, source: int, mask: int, waits: list[bool]) -> None:
    """A store of the beats 0 to 3 to byte 256; loads into them or from there wait, once where all steps have waited."""
    emitter = Emitter(TINY, 1, 1)
    emitter.store(Run(256, 0, 0, 0, 1, 4), ALL_STEPS)
    for _ in range(2):
        emitter.load(Run(source, 0, destination, 0, 1, 4), mask)
    code, count = emitter.program()
    items = [decode(code[BYTES * number:BYTES * (number + 1)]) for number in range(count)]
    assert [bool(item["wait"]) for item in items[1:]] == waits
