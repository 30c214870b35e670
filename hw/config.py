"""The one configuration object, from which every block and every golden computation takes its sizes.

Each constant that follows from others stands beside the check that keeps it legal, and every refusal names
the value, the legal set and the reason.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from operator import index
from typing import Any

__all__ = ["PRESETS", "Config", "ConfigError", "preset"]

TAPS = 9            # a 3x3 kernel; a 1x1 kernel is the centre tap
LINE_TAPS = 3       # taps of one kernel line: what one window word and one weight word hold
BANKS = 8           # banks of the activation memory: an unaligned run begins in one and touches at most seven more
LABEL_BIN_BITS = 5  # a label's coarse count of nonzeros, and a bin of the detector's histogram
MULT_BITS = 16      # M and R of the post-processor, signed
PRODUCT_MAX = 15 * 15   # the largest nibble product, u4 x u4 in a pass of 8-bit data


class ConfigError(ValueError):
    """A configuration that cannot be built."""


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def _ceil_power_of_two(value: int) -> int:
    return 1 << (value - 1).bit_length()


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _bits(values: int) -> int:
    """Width of an unsigned field that counts `values` different values, at least one bit."""
    return max(1, (values - 1).bit_length())


@dataclass(frozen=True)
class Config:
    """What the generator builds.

    Parameters
    ----------
    name : str
        Name of the configuration, for reports only.
    rows : int
        Output pixels that one array computes in parallel.
    cols : int
        Output channels that one array computes in parallel.
    dense : int
        Dense arrays. All arrays work on the same tile, on disjoint channel lists.
    sparse : int
        Sparse arrays.
    fifo_depth : int
        Windows that a row of a sparse array may lag behind the fastest row.
    dense_taps : int
        Multipliers in front of each accumulator of a dense array: 3 (a kernel line per cycle) or 1.
    lanes_per_scale : int
        Lanes (output channels) of a row that share one scale unit, at least 2. A vector drains in this many cycles.
    group : int
        Largest group of channels that shares a weight scale and that the local accumulator holds whatever the
        data are. Larger groups run where the layer's own weights prove that they fit.
    scale_exp_bits : int
        Exponent bits of a weight scale code; 4 is the FP8 format UE4M3. Each bit less halves the window's octaves and
        spares as many accumulator bits; the quantiser keeps to the window.
    scale_man_bits : int
        Mantissa bits of a weight scale code.
    acc_bits : int
        Width of a main accumulator, signed.
    act_nibbles : int
        Activation memory, in nibbles.
    read_ports : int
        Read ports of the activation memory; each costs a copy of it.
    window_width : int
        Maps up to this width are read a whole 3x3 window at a time, wider ones a kernel line at a time.
    weight_depth : int
        Kernel-line words (3 x cols nibbles) of one k-tile; the memory holds two k-tiles.
    scale_depth : int
        Groups of channels with a scale code of one k-tile; the memory holds two k-tiles.
    param_depth : int
        Post-processor parameter words (one per output channel and parameter block).
    table_depth : int
        Entries of the channel table, from which the scheduler makes the arrays' lists.
    list_depth : int
        Entries of an array's channel list.
    label_depth : int
        Labels of channels, of all tensors together; the table exists twice.
    label_slots : int
        Tensors that have labels of their own.
    samples : int
        Largest batch.
    dim_bits : int
        Width of a map's width and height.
    fetch_depth : int
        Windows that a fetcher holds ahead of its array.
    bus_bits : int
        Width of a beat of the load and read ports, and of the AXI master's data.
    axi_addr_bits : int
        Width of the AXI master's addresses.
    axi_burst : int
        Beats of the AXI master's longest burst.
    axi_outstanding : int
        Bursts that the AXI master may have outstanding, in each direction.
    """

    name: str = "default"
    rows: int = 16
    cols: int = 16
    dense: int = 1
    sparse: int = 1
    fifo_depth: int = 32
    dense_taps: int = 3
    lanes_per_scale: int = 4
    group: int = 16
    scale_exp_bits: int = 2
    scale_man_bits: int = 3
    acc_bits: int = 24
    act_nibbles: int = 1 << 18
    read_ports: int = 2
    window_width: int = 16
    weight_depth: int = 512
    scale_depth: int = 64
    param_depth: int = 1024
    table_depth: int = 512
    list_depth: int = 256
    label_depth: int = 1024
    label_slots: int = 32
    samples: int = 64
    dim_bits: int = 8
    fetch_depth: int = 8
    bus_bits: int = 64
    axi_addr_bits: int = 32
    axi_burst: int = 64
    axi_outstanding: int = 4

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name == "name":
                continue
            value = getattr(self, field.name)
            try:
                object.__setattr__(self, field.name, index(value))
            except TypeError:
                raise ConfigError(f"{field.name}={value!r} is not legal: it must be an integer") from None
        self._range("rows", 2, 128, "one row has no neighbour to share a window with")
        self._range("cols", 2, 128, "a scale unit serves several columns")
        self._range("dense", 0, 8, "each array needs its share of the memory ports")
        self._range("sparse", 0, 8, "each array needs its share of the memory ports")
        self._require(self.arrays >= 1, "dense", "at least 1 while sparse is 0", "an engine needs an array")
        self._range("fifo_depth", 1, 64, "rows of a sparse array buffer their windows")
        self._require(self.dense_taps in (1, 3), "dense_taps", "1 or 3",
                      "an array takes one tap or one kernel line per cycle")
        self._range("lanes_per_scale", 2, self.cols, "the accumulators of a scale unit go round")
        self._range("group", 1, 64, "the local accumulator is sized for it")
        self._range("scale_exp_bits", 1, 4, "UE4M3 is the widest scale format")
        self._range("scale_man_bits", 3, 3, "scale codes are FP8 bytes with three bits of mantissa")
        least = self.psum_bits + self.scale_value_bits
        self._range("acc_bits", least, 40, f"it must hold one scaled vector: psum_bits={self.psum_bits} plus "
                                           f"{self.scale_value_bits} bits of scale value")
        self._require(self.bus_bits in (64, 128), "bus_bits", "64 or 128", "beats are AXI data words")
        self._require(_power_of_two(self.act_nibbles) and self.row_nibbles <= self.act_nibbles <= 1 << 24,
                      "act_nibbles", f"a power of two from {self.row_nibbles} to {1 << 24}",
                      "addresses wrap, and one row of all banks is the least")
        self._range("read_ports", 1, min(4, self.arrays + 1),
                    "each port is a copy of the activation memory, for an array or for the residual")
        self._range("window_width", 0, 64, "a read spans two lines more than the tile")
        for name in ("weight_depth", "scale_depth", "param_depth", "table_depth", "list_depth", "label_depth",
                     "label_slots", "samples"):
            value = getattr(self, name)
            self._require(_power_of_two(value) and 2 <= value <= 1 << 16, name, "a power of two from 2 to 65536",
                          "its address is a bit field")
        self._range("dim_bits", 2, 12, "maps are up to 4095 pixels wide")
        self._range("fetch_depth", 7, 64, "a window takes seven cycles, so fewer slots starve the array")
        self._range("axi_addr_bits", 32, 64, "AXI interconnects take 32 to 64 bits")
        self._require(_power_of_two(self.axi_burst) and self.axi_burst <= 256, "axi_burst",
                      "a power of two from 1 to 256", "AXI4 has no longer bursts, and none may cross 4 KiB")
        self._range("axi_outstanding", 1, 16, "each burst that is under way takes a register")
        self._require(self.table_bits <= self.bus_bits, "bus_bits", f"at least {self.table_bits} with these memories",
                      "an entry of the channel table is loaded in one beat")

    def _require(self, condition: bool, name: str, legal: str, reason: str) -> None:
        if not condition:
            raise ConfigError(f"{name}={getattr(self, name)} is not legal: it must be {legal} ({reason})")

    def _range(self, name: str, low: int, high: int, reason: str) -> None:
        legal = f"{low}" if low == high else f"from {low} to {high}"
        self._require(low <= getattr(self, name) <= high, name, legal, reason)

    @property
    def config_hash(self) -> int:
        """32 bits that tell configurations apart, whatever their names: a program is made for one of them."""
        parameters = {name: value for name, value in asdict(self).items() if name != "name"}
        return int(hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:8], 16)

    # Arrays.

    @property
    def arrays(self) -> int:
        """Arrays of both kinds."""
        return self.dense + self.sparse

    @property
    def peak_macs(self) -> int:
        """Multiply-accumulates per cycle with every multiplier busy."""
        return self.rows * self.cols * (self.dense * self.dense_taps + self.sparse)

    @property
    def scale_units(self) -> int:
        """Scale units of a row."""
        return _ceil_div(self.cols, self.lanes_per_scale)

    @property
    def psum_bits(self) -> int:
        """Width of a local accumulator, signed: holds any vector of `group` channels."""
        return (self.group * TAPS * PRODUCT_MAX).bit_length() + 1

    @property
    def code_bits(self) -> int:
        """Width of a scale code."""
        return self.scale_exp_bits + self.scale_man_bits

    @property
    def scale_shift_max(self) -> int:
        """Largest left shift that a scale code asks for."""
        return (1 << self.scale_exp_bits) - 2

    @property
    def scale_value_bits(self) -> int:
        """Width of the largest scale value, unsigned."""
        return self.scale_man_bits + 1 + self.scale_shift_max

    # Activation memory.

    @property
    def bus_nibbles(self) -> int:
        """Nibbles of a beat."""
        return self.bus_bits // 4

    @property
    def window(self) -> int:
        """Nibbles that an array is given at a time: rows + 2 of one line, up to two lines further on."""
        return self.rows + 2 + 2 * self.window_width

    @property
    def run(self) -> int:
        """Contiguous nibbles, at any address, that a read port gives per cycle: as many as any of its users takes."""
        return max(self.window, self.bus_nibbles, *(self._strided(width) for width in self.strided_widths))

    @property
    def write_nibbles(self) -> int:
        """Contiguous nibbles, at any address, that the write port takes per cycle: results of a tile, or a beat."""
        return max(self.rows + self.rows % 2, self.bus_nibbles)

    @property
    def bank_nibbles(self) -> int:
        """Nibbles of a bank's word: an unaligned run must fit the banks."""
        return _ceil_power_of_two(_ceil_div(max(self.window, self.bus_nibbles) - 1, BANKS - 1))

    @property
    def row_nibbles(self) -> int:
        """Nibbles of one word of all banks."""
        return BANKS * self.bank_nibbles

    @property
    def upsampled_widths(self) -> tuple[int, ...]:
        """Widths of maps that a convolution can read upsampled: a tile begins where a whole pixel does."""
        if not _power_of_two(self.rows):
            return ()
        widths = (1 << log2 for log2 in range(1, self.window_width.bit_length()))
        return tuple(width for width in widths if 4 * width >= self.rows)

    @property
    def strided_widths(self) -> tuple[int, ...]:
        """Widths of results that an element-wise layer can make of every second pixel and line of its input.

        A tile is whole lines of the result, a run holds all the lines of the input that it comes from, and a k-tile has
        whole channels of the input, of which each makes four.
        """
        if not _power_of_two(self.rows) or self.cols % 4:
            return ()
        widths = (1 << log2 for log2 in range(1, self.rows.bit_length()))
        return tuple(width for width in widths if self._strided(width) <= (BANKS - 1) * self.bank_nibbles + 1)

    def _strided(self, width: int) -> int:
        """Nibbles from the first to the last one that a tile of strided results of this width is made of."""
        return 4 * self.rows - 2 * width - 1

    @property
    def addr_bits(self) -> int:
        """Width of a nibble address."""
        return _bits(self.act_nibbles)

    # Weight memory.

    @property
    def tap_beats(self) -> int:
        """Beats that hold one tap of a weight word (cols nibbles)."""
        return _ceil_div(4 * self.cols, self.bus_bits)

    @property
    def scale_beats(self) -> int:
        """Beats that hold one scale word (a code byte for each scale unit)."""
        return _ceil_div(8 * self.scale_units, self.bus_bits)

    @property
    def weight_bits(self) -> int:
        """Width of the address of a weight word within a half."""
        return _bits(self.weight_depth)

    @property
    def group_bits(self) -> int:
        """Width of the address of a scale word within a half."""
        return _bits(self.scale_depth)

    @property
    def scale_bits(self) -> int:
        """Width of the address of a scale word within a half: a group has one for each lane of a scale unit."""
        return self.group_bits + _bits(self.lanes_per_scale)

    @property
    def tap_words(self) -> int:
        """Tap words (cols nibbles) of one k-tile in a row of a sparse array."""
        return LINE_TAPS * self.weight_depth

    @property
    def entry_bits(self) -> int:
        """Width of a channel list entry."""
        return self.addr_bits + self.weight_bits + self.group_bits + TAPS + 5

    @property
    def label_bits(self) -> int:
        """Width of the index of a label."""
        return _bits(self.label_depth)

    @property
    def slot_bits(self) -> int:
        """Width of the number of a tensor with labels."""
        return _bits(self.label_slots)

    @property
    def table_bits(self) -> int:
        """Width of an entry of the channel table."""
        return self.entry_bits + 1 + self.label_bits + self.slot_bits

    # Post-processor.

    @property
    def bias_bits(self) -> int:
        """Width of the parameter B, signed: as wide as acc * M."""
        return self.acc_bits + MULT_BITS

    @property
    def param_bits(self) -> int:
        """Width of a parameter word."""
        return 2 * MULT_BITS + self.bias_bits

    @property
    def param_beats(self) -> int:
        """Beats that hold one parameter word."""
        return _ceil_div(self.param_bits, self.bus_bits)

    @property
    def shift_max(self) -> int:
        """Largest shift S of the post-processor."""
        return self.bias_bits - 1

    @cached_property
    def memories(self) -> dict[str, dict[str, int]]:
        """Depth, width and copies of each memory, for the manifest."""
        def memory(depth: int, width: int, copies: int) -> dict[str, int]:
            return {"depth": depth, "width": width, "copies": copies, "bits": depth * width * copies}

        return {
            "activations": memory(self.act_nibbles // self.row_nibbles, 4 * self.row_nibbles, self.read_ports),
            "weights": memory(2 * self.weight_depth, LINE_TAPS * self.tap_beats * self.bus_bits, self.dense),
            "row_weights": memory(2 * self.tap_words, 4 * self.cols, self.sparse * self.rows),
            "row_queues": memory(_ceil_power_of_two(self.fifo_depth), 5 * TAPS + 5 + self.group_bits + self.weight_bits,
                                 self.sparse * self.rows),
            "scales": memory(2 << self.scale_bits, self.scale_beats * self.bus_bits,
                             self.dense + self.sparse * self.rows),
            "table": memory(self.table_depth, self.table_bits, 1),
            "lists": memory(self.list_depth, self.entry_bits, self.arrays),
            "labels": memory(2 * self.label_depth, 2 + LABEL_BIN_BITS, 2),
            "counts": memory(self.label_depth, self.addr_bits + 1, 1),
            "params": memory(self.param_depth, self.param_beats * self.bus_bits, 1),
            "samples": memory(self.samples, _bits(self.param_depth), 1),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the parameters and the constants that follow from them, in a fixed order."""
        derived = ("peak_macs", "scale_units", "psum_bits", "code_bits", "window", "run", "write_nibbles",
                   "bank_nibbles", "row_nibbles", "addr_bits", "tap_beats", "scale_beats", "entry_bits", "bias_bits",
                   "param_beats", "shift_max")
        return {"parameters": asdict(self), "config_hash": self.config_hash,
                "derived": {name: getattr(self, name) for name in derived}}


_DEFAULT = Config()

PRESETS: dict[str, Config] = {
    "default": _DEFAULT,
    # Small enough that every bench elaborates and runs in seconds.
    "tiny": replace(_DEFAULT, name="tiny", rows=4, cols=4, act_nibbles=1 << 13, weight_depth=128, scale_depth=32,
                    param_depth=64, table_depth=64,
                    list_depth=64, label_depth=128, label_slots=4, samples=8, dim_bits=6, window_width=6),
    # For an ECP5-85F. It fits by its counts; it has not been placed yet, see "What it costs" in the README.
    "ecp5": replace(_DEFAULT, name="ecp5", rows=8, cols=16, act_nibbles=1 << 16,
                    weight_depth=256),
    # For the EDM networks of the paper: 32x32 maps, up to 512 channels in.
    "edm": replace(_DEFAULT, name="edm", rows=32, cols=32, act_nibbles=1 << 20, scale_exp_bits=4, acc_bits=36,
                   weight_depth=2048, param_depth=2048, table_depth=1024, list_depth=1024, bus_bits=128,
                   window_width=32),
}


def preset(name: str) -> Config:
    """Return the preset called `name`.

    Raises
    ------
    ConfigError
        There is no such preset; the message lists those that exist.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigError(f"preset={name} is not legal: it must be one of {', '.join(PRESETS)}") from None
