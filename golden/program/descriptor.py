"""Descriptors: the one table of their fields, from which encoder, decoder, checks, documentation and hardware follow.

`FIELDS` says where each field lies, `LIMITS` which values it may have, `ALIGNED` what must be a multiple of 16. All is
plain data; a bit of a descriptor that no field of its opcode covers is reserved and must be 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from operator import index

from golden.machine import Machine

__all__ = ["ALIGNED", "ALIGNMENT", "ALL_STEPS", "BYTES", "FIELDS", "LIMITS", "REGIONS", "WORDS", "Descriptor",
           "DescriptorError", "ErrorCode", "Field", "Limit", "Opcode", "OpcodeError", "Region", "decode",
           "encode", "reserved_bits"]

WORDS = 32                  # of 32 bits in a descriptor
BYTES = 4 * WORDS
ALIGNMENT = 16              # of offsets and strides in host memory, in bytes
ALL_STEPS = (1 << 64) - 1   # execute mask of a descriptor that runs in every time step


class Opcode(IntEnum):
    """What a descriptor does: w0 [7:0]."""

    END = 1
    BATCH = 2
    LOAD = 3
    STORE = 4
    CONV = 5
    ELEMENTWISE = 6


class ErrorCode(IntEnum):
    """Register ERROR [7:0]; 0 is no error. 1 to 7 are found before anything of the descriptor is done."""

    OPCODE = 1
    RESERVED = 2
    SIZE = 3
    RANGE = 4
    OVERLAP = 5
    NO_END = 6
    BATCH = 7
    GUARD = 8
    BUS_READ = 9
    BUS_WRITE = 10
    WATCHDOG = 11


@dataclass(frozen=True)
class Field:
    """A field of a descriptor: an unsigned number.

    Parameters
    ----------
    name : str
        Of a layer's fields those of `hw.interfaces.layer_layout`, where it has them.
    word : int
        The 32-bit word that holds the lowest bit.
    lsb : int
        Its place in the word.
    bits : int
        Only the execute mask goes on into the next word.
    meaning : str
    """

    name: str
    word: int
    lsb: int
    bits: int
    meaning: str

    @property
    def first_bit(self) -> int:
        """Place of the lowest bit in the descriptor of 1024 bits."""
        return 32 * self.word + self.lsb


_OPCODE = (
    Field("opcode", 0, 0, 8, "what to do"),
    Field("mask", 2, 0, 64, "bit s: run in time step s; ignored by END"),
)

_TRANSFER = (
    Field("offset", 4, 0, 32, "in the data region, bytes, of the first run"),
    Field("stride", 5, 0, 32, "from run to run in the data region, bytes"),
    Field("chip_first", 6, 0, 32, "first beat on chip"),
    Field("chip_stride", 7, 0, 32, "from run to run on chip, beats"),
    Field("runs", 8, 0, 32, "number of runs"),
    Field("beats", 9, 0, 32, "beats of a run"),
)

_RESULT = (
    Field("detect", 0, 8, 1, "label the written tensor"),
    Field("balance", 0, 9, 1, "labels by balanced cut, else by threshold"),
    Field("residual", 0, 10, 1, "add a residual"),
    Field("one_block", 0, 11, 1, "all samples use parameter block 0, whatever the batch table says"),
    Field("transform", 0, 12, 2, "0 none, 1 upsample, 2 space-to-depth"),
    Field("out_wide", 0, 14, 1, "8-bit result"),
    Field("out_signed", 0, 15, 1, "signed result"),
    Field("res_wide", 0, 16, 1, "8-bit residual"),
    Field("res_signed", 0, 17, 1, "signed residual"),
)

_GEOMETRY = (
    Field("width", 4, 0, 12, "of the computed map, pixels"),
    Field("height", 4, 16, 12, "of the computed map, lines"),
    Field("pixels", 5, 0, 32, "N*H*W"),
    Field("sample_pixels", 6, 0, 32, "H*W"),
    Field("tiles", 7, 0, 32, "ceil(pixels / rows)"),
    Field("k_tiles", 8, 0, 10, "ceil(K / cols)"),
    Field("last_cols", 8, 16, 8, "output channels of the last k-tile"),
    Field("shift", 9, 0, 8, "S of the post-processor"),
    Field("dead_zone", 9, 8, 8, "results of smaller magnitude become 0"),
    Field("bin_shift", 9, 16, 8, "of the detector"),
    Field("out_base", 10, 0, 32, "nibble address of the result"),
    Field("out_channel", 11, 0, 32, "from output channel to output channel, nibbles"),
    Field("out_plane", 12, 0, 32, "from low to high plane, nibbles"),
    Field("out_end", 13, 0, 32, "nibble after the last one that may be written"),
    Field("res_base", 14, 0, 32, "nibble address of the residual; w14 to w17 are 0 without one"),
    Field("res_channel", 15, 0, 32, "as out_channel"),
    Field("res_plane", 16, 0, 32, "as out_plane"),
    Field("res_end", 17, 0, 32, "nibble after the residual"),
    Field("in0_base", 18, 0, 32, "first nibble of the input, or of its first segment"),
    Field("in0_end", 19, 0, 32, "nibble after it"),
)

_LABELS = (
    Field("label_first", 22, 0, 16, "index of the label of the written tensor's channel 0"),
    Field("label_slot", 22, 16, 16, "label slot of the written tensor"),
    Field("label_limit", 23, 0, 32, "of the detector, `threshold`"),
    Field("dense_cost", 24, 0, 32, "of the detector, `balance`"),
)

_PARAMETERS = (
    Field("params", 29, 0, 32, "offset of parameter block 0 in the program region"),
    Field("outputs", 30, 0, 16, "K, parameter words of a block"),
    Field("block_log2", 30, 16, 5, "log2 of the bytes from block to block"),
)

FIELDS: Mapping[Opcode, tuple[Field, ...]] = {
    Opcode.END: _OPCODE,
    Opcode.BATCH: (
        *_OPCODE,
        Field("offset", 4, 0, 32, "of the batch table in the data region, bytes"),
        Field("samples", 5, 0, 16, "N"),
        Field("blocks", 5, 16, 16, "B, parameter blocks of this batch"),
    ),
    Opcode.LOAD: (*_OPCODE, Field("wait", 0, 8, 1, "first wait for all earlier layers and stores"), *_TRANSFER),
    Opcode.STORE: (*_OPCODE, *_TRANSFER),
    Opcode.CONV: (
        *_OPCODE, *_RESULT,
        Field("even", 0, 20, 1, "deal channels out evenly to all arrays, whatever their labels"),
        Field("upsampled", 0, 21, 1, "read each pixel of the inputs as 2x2 pixels"),
        *_GEOMETRY,
        Field("in1_base", 20, 0, 32, "first nibble of the second segment; w20 and w21 are 0 without one"),
        Field("in1_end", 21, 0, 32, "nibble after it"),
        *_LABELS,
        Field("table", 25, 0, 32, "offset of the channel table in the program region"),
        Field("table_count", 26, 0, 32, "entries of it, a beat each"),
        Field("weights", 27, 0, 32, "offset of k-tile 0's weights in the program region"),
        Field("words", 28, 0, 16, "weight words of a k-tile"),
        Field("one_tap", 28, 16, 1, "only the centre tap of each word is stored, else all three"),
        Field("groups", 28, 20, 12, "groups with scale codes of a k-tile"),
        *_PARAMETERS,
    ),
    Opcode.ELEMENTWISE: (
        *_OPCODE, *_RESULT,
        Field("x_wide", 0, 18, 1, "8-bit input"),
        Field("x_signed", 0, 19, 1, "signed input"),
        Field("x_strided", 0, 22, 1, "read every second pixel of every second line: channel 4*k + 2*r + s of the "
                                     "result is made of input channel k, from line r and pixel s on"),
        *_GEOMETRY,
        Field("x_channel", 20, 0, 32, "from input channel to input channel, nibbles"),
        Field("x_plane", 21, 0, 32, "from low to high plane of the input, nibbles"),
        *_LABELS, *_PARAMETERS,
    ),
}


@dataclass(frozen=True)
class Limit:
    """Smallest and largest legal value of a field, for error SIZE.

    Parameters
    ----------
    low : int
    high : callable
        From a configuration.
    text : str
        What `high` is, for the documentation.
    """

    low: int
    high: Callable[[Machine], int]
    text: str


_STRIDE = Limit(0, lambda c: c.act_nibbles - 1, "act_nibbles - 1")
_BEATS = Limit(1, lambda c: 4 * c.act_nibbles // c.bus_bits, "beats of the activation memory")
_COUNT = Limit(0, lambda c: 2 * c.act_nibbles - 1, "2*act_nibbles - 1")
_SIDE = Limit(1, lambda c: (1 << c.dim_bits) - 1, "2^dim_bits - 1")
_PIXELS = Limit(1, lambda c: c.act_nibbles, "act_nibbles")

# By field, in every opcode that has it. A field that is not here may have any value.
LIMITS: Mapping[str, Limit] = {
    "samples": Limit(1, lambda c: c.samples // 2, "samples/2"),
    "blocks": Limit(1, lambda c: 0xFFFF, "65535"),
    "runs": _BEATS,
    "beats": _BEATS,
    "width": _SIDE,
    "height": _SIDE,
    "pixels": _PIXELS,
    "sample_pixels": _PIXELS,
    "tiles": Limit(1, lambda c: -(-c.act_nibbles // c.rows), "ceil(act_nibbles / rows)"),
    "k_tiles": Limit(1, lambda c: 1023, "1023"),
    "last_cols": Limit(1, lambda c: c.cols, "cols"),
    "shift": Limit(0, lambda c: c.shift_max, "shift_max"),
    "bin_shift": Limit(0, lambda c: (c.act_nibbles - 1).bit_length(), "log2(act_nibbles)"),
    "out_channel": _STRIDE,
    "out_plane": _STRIDE,
    "res_channel": _STRIDE,
    "res_plane": _STRIDE,
    "x_channel": _STRIDE,
    "x_plane": _STRIDE,
    "label_first": Limit(0, lambda c: c.label_depth - 1, "label_depth - 1"),
    "label_slot": Limit(0, lambda c: c.label_slots - 1, "label_slots - 1"),
    "label_limit": _COUNT,
    "dense_cost": _COUNT,
    "table_count": Limit(1, lambda c: min(c.table_depth // 2, c.list_depth), "min(table_depth/2, list_depth)"),
    "words": Limit(1, lambda c: c.weight_depth, "weight_depth"),
    "groups": Limit(1, lambda c: c.scale_depth, "scale_depth"),
    "outputs": Limit(1, lambda c: c.param_depth // 2, "param_depth/2"),
}

# Fields that are multiples of 16, and 1 << block_log2 is one: else RESERVED. So is transform 3.
ALIGNED = ("offset", "stride", "table", "weights", "params")
BLOCK_LOG2_LEAST = 4
TRANSFORMS = 3


@dataclass(frozen=True)
class Region:
    """A region of activation memory that a layer names by two fields: for RANGE and OVERLAP."""

    base: str
    end: str
    written: bool


REGIONS: Mapping[Opcode, tuple[Region, ...]] = {
    Opcode.CONV: (Region("out_base", "out_end", True), Region("res_base", "res_end", False),
                  Region("in0_base", "in0_end", False), Region("in1_base", "in1_end", False)),
    Opcode.ELEMENTWISE: (Region("out_base", "out_end", True), Region("res_base", "res_end", False),
                         Region("in0_base", "in0_end", False)),
}


class DescriptorError(ValueError):
    """A descriptor that cannot be written down."""


class OpcodeError(ValueError):
    """Bytes that are no descriptor: there is no such opcode."""


@dataclass(frozen=True)
class Descriptor:
    """A decoded descriptor.

    Parameters
    ----------
    opcode : Opcode
    values : mapping
        Each field's value but the opcode's, by name.
    """

    opcode: Opcode
    values: Mapping[str, int]

    def __getitem__(self, name: str) -> int:
        return self.values[name]

    def get(self, name: str) -> int:
        """Value of a field, 0 if the opcode has no such field."""
        return self.values.get(name, 0)


def encode(opcode: Opcode, /, **values: int) -> bytes:
    """Write down a descriptor: 128 bytes, little-endian.

    Parameters
    ----------
    opcode : Opcode
    **values : int
        By field; fields that are not given are 0, the execute mask all ones.

    Raises
    ------
    DescriptorError
        If the opcode has no such field, or a value does not fit it. Whether a descriptor is legal is not asked.
    """
    fields = {field.name: field for field in FIELDS[opcode]}
    if unknown := sorted(set(values) - set(fields) | set(values) & {"opcode"}):
        raise DescriptorError(f"{opcode.name} has no field {', '.join(unknown)}; it has "
                              f"{', '.join(name for name in fields if name != 'opcode')}")
    bits = 0
    for name, value in ({"mask": ALL_STEPS} | values | {"opcode": opcode}).items():
        field = fields[name]
        if not 0 <= index(value) < 1 << field.bits:
            raise DescriptorError(f"{opcode.name} {name}={value} is not legal: it must be from 0 to "
                                  f"{(1 << field.bits) - 1}, it has {field.bits} bits")
        bits |= index(value) << field.first_bit
    return bits.to_bytes(BYTES, "little")


def decode(raw: bytes) -> Descriptor:
    """Read a descriptor; reserved bits are passed over, see `reserved_bits`.

    Raises
    ------
    OpcodeError
        If there is no such opcode.
    ValueError
        If these are not 128 bytes.
    """
    bits = _bits(raw)
    try:
        opcode = Opcode(bits & 0xFF)
    except ValueError:
        legal = ", ".join(f"{item} {item.name}" for item in Opcode)
        raise OpcodeError(f"opcode {bits & 0xFF} does not exist; there are {legal}") from None
    return Descriptor(opcode, {field.name: bits >> field.first_bit & (1 << field.bits) - 1
                               for field in FIELDS[opcode] if field.name != "opcode"})


def reserved_bits(raw: bytes, opcode: Opcode) -> int:
    """The bits of a descriptor that are set and reserved, as a number of 1024 bits; 0 in a legal one."""
    used = 0
    for field in FIELDS[opcode]:
        used |= (1 << field.bits) - 1 << field.first_bit
    return _bits(raw) & ~used


def _bits(raw: bytes) -> int:
    if len(raw) != BYTES:
        raise ValueError(f"a descriptor has {BYTES} bytes, not {len(raw)}")
    return int.from_bytes(raw, "little")
