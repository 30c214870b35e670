"""Layouts of what travels between the blocks. Bit positions follow from the order of the members, LSB first."""

from typing import Any

from amaranth.hdl import signed, unsigned
from amaranth.lib import data, enum

from .config import LABEL_BIN_BITS, LINE_TAPS, MULT_BITS, TAPS, Config

STEP_BITS = 6

__all__ = ["Refresh", "Space", "Transform", "entry_layout", "format_layout", "label_layout", "layer_layout",
           "load_layout", "mask_layout", "param_layout", "policy_layout", "request_layout", "table_layout",
           "upsample_patterns", "window_layout", "write_layout"]


class Space(enum.Enum, shape=3):
    """Where a loaded beat goes. The address counts beats; fields below are listed from the LSB."""

    ACTIVATION = 0  # beat of the activation memory
    WEIGHT = 1      # beat of the tap (a power of two of them), tap 0..2 (two bits), word
    SCALE = 2       # beat of the word (a power of two of them), lane of the scale units (the same, at least 2), group
    PARAM = 3       # beat of the word (a power of two of them), word
    TABLE = 4       # entry
    SAMPLE = 5      # sample; the data are the address of its first parameter word
    LABEL = 6       # index, slot; the data are a label, see `label_layout`


class Transform(enum.Enum, shape=2):
    """What happens to a map on its way into memory."""

    NONE = 0
    UPSAMPLE = 1        # 2x nearest
    SPACE_TO_DEPTH = 2  # 2x2 pixels become channels 4*k + 2*(h & 1) + (w & 1)


def format_layout() -> data.StructLayout:
    """Number format of a tensor: u4, s4, u8 or s8.

    Members
    -------
    wide : 1 bit
        Two nibble planes per channel.
    signed : 1 bit
        Two's complement.
    """
    return data.StructLayout({"wide": 1, "signed": 1})


def layer_layout(config: Config) -> data.StructLayout:
    """One convolution layer, as the engine's configuration port takes it.

    Members
    -------
    width, height : dim_bits
        Of the map that the convolution reads and computes (before the write transform).
    pixels : addr_bits + 1
        N*H*W.
    sample_pixels : addr_bits + 1
        H*W.
    tiles : addr_bits
        ceil(pixels / rows).
    k_tiles : 10 bits
        ceil(K / cols).
    last_cols : bits of cols
        Output channels of the last k-tile, 1..cols.
    table_first, table_count : bits of table_depth (count one more)
        Where the layer's part of the channel table begins, and how many entries it has.
    out_base, out_channel, out_plane : addr_bits
        Nibble address of the written tensor, its distance from channel to channel and from plane to plane.
    out_format : format_layout
    transform : Transform
    shift : bits of shift_max
        S of the post-processor.
    dead_zone : 8 bits
        Results of smaller magnitude become 0.
    residual : 1 bit
        Add a tensor of the shape of the result (before the write transform).
    res_base, res_channel, res_plane : addr_bits
        As out_*.
    res_format : format_layout
    sample_first : bits of samples
        Where the layer's part of the sample table begins.
    detect : 1 bit
        Label the written tensor.
    label_first, label_slot : label_bits, slot_bits
        Index of the label of the written tensor's channel 0, and the tensor's slot.
    balance, label_limit, dense_cost, bin_shift :
        How to label, see `hw.detector`.
    step : 6 bits
        Time step, for the refresh policy.
    out_end : addr_bits + 1
        Nibble address after the last one that may be written; a write outside out_base..out_end is suppressed.
    elementwise : 1 bit
        The post-processor works alone, on a tensor of the shape of the result (before the write transform) in the place
        of accumulators; `table_count` is 0.
    x_base, x_channel, x_plane : addr_bits
        As out_*, of that tensor.
    x_format : format_layout
    even : 1 bit
        Deal channels out evenly to all arrays, whatever their labels say (but for dead ones, and for those that dense
        arrays cannot run). For layers of one tap per channel: a window costs either kind of array one cycle.
    upsampled : 1 bit
        The input is read with each pixel as 2x2 pixels; `width` is one of `upsampled_widths`, `height` even.
    x_strided : 1 bit
        x has four times the pixels and a quarter of the channels: channel 4*k + 2*r + s of the result is made of every
        second pixel of every second line of channel k, from line r and pixel s on; `width` is one of `strided_widths`.
    """
    addr = unsigned(config.addr_bits)
    table_bits = (config.table_depth - 1).bit_length()
    return data.StructLayout({
        "width": config.dim_bits,
        "height": config.dim_bits,
        "pixels": config.addr_bits + 1,
        "sample_pixels": config.addr_bits + 1,
        "tiles": addr,
        "k_tiles": 10,
        "last_cols": config.cols.bit_length(),
        "table_first": table_bits,
        "table_count": table_bits + 1,
        "out_base": addr,
        "out_channel": addr,
        "out_plane": addr,
        "out_format": format_layout(),
        "transform": Transform,
        "shift": config.shift_max.bit_length(),
        "dead_zone": 8,
        "residual": 1,
        "res_base": addr,
        "res_channel": addr,
        "res_plane": addr,
        "res_format": format_layout(),
        "sample_first": (config.samples - 1).bit_length(),
        "detect": 1,
        "label_first": config.label_bits,
        "label_slot": config.slot_bits,
        "balance": 1,
        "label_limit": config.addr_bits + 1,
        "dense_cost": config.addr_bits + 1,
        "bin_shift": config.addr_bits.bit_length(),
        "step": STEP_BITS,
        "out_end": config.addr_bits + 1,
        "elementwise": 1,
        "x_base": addr,
        "x_channel": addr,
        "x_plane": addr,
        "x_format": format_layout(),
        "even": 1,
        "upsampled": 1,
        "x_strided": 1,
    })


def entry_layout(config: Config) -> data.StructLayout:
    """One entry of a channel list: docs/architecture.md, "Channel list"."""
    return data.StructLayout({
        "base": config.addr_bits,
        "weight": config.weight_bits,
        "group": config.group_bits,
        "taps": TAPS,
        "a_signed": 1,
        "w_signed": 1,
        "exponent": 2,
        "last": 1,
    })


def table_layout(config: Config) -> data.StructLayout:
    """One entry of the channel table: an entry of a list for whichever array the channel's label names, and:

    Members
    -------
    last : 1 bit
        The vector ends here when all its channels are on one array.
    dense_ok : 1 bit
        A dense array may run it.
    label, slot : label_bits, slot_bits
        Index of the channel's label, and slot of its tensor.
    """
    return data.StructLayout(
        {"entry": entry_layout(config), "dense_ok": 1, "label": config.label_bits, "slot": config.slot_bits})


def label_layout() -> data.StructLayout:
    """Label of a channel.

    Members
    -------
    sparse : 1 bit
        For a sparse array, else for a dense one. Any value gives the same result.
    dead : 1 bit
        The channel is zero, and left out. Only true if it really is.
    bin : 5 bits
        Number of nonzeros, in units of 1 << bin_shift; shares the work among several sparse arrays.
    """
    return data.StructLayout({"sparse": 1, "dead": 1, "bin": LABEL_BIN_BITS})


class Refresh(enum.Enum, shape=2):
    """In which time steps labels are made anew. In the others only `dead` is."""

    EVERY = 0
    EVERY_N = 1     # the first, and every n-th after it
    MASK = 2        # those whose bit is set
    FROZEN = 3      # none


def policy_layout() -> data.StructLayout:
    """Refresh policy.

    Members
    -------
    refresh : Refresh
    n : 8 bits
        For EVERY_N, at least 1.
    mask : 64 bits
        For MASK, bit s for time step s.
    """
    return data.StructLayout({"refresh": Refresh, "n": 8, "mask": 1 << STEP_BITS})


def param_layout(config: Config) -> data.StructLayout:
    """The post-processor's parameters of one output channel: y = clamp((acc*M + B + residual*R + half) >> S)."""
    return data.StructLayout({"m": signed(MULT_BITS), "r": signed(MULT_BITS), "b": signed(config.bias_bits)})


def load_layout(config: Config) -> data.StructLayout:
    """One beat on its way into a memory.

    Members
    -------
    data : bus_bits
    address : 24 bits
        In beats of the space, see `Space`.
    space : Space
    commit : 1 bit
        For WEIGHT and SCALE: the k-tile is complete with this beat; the next one goes to the other half.
    """
    return data.StructLayout({"data": config.bus_bits, "address": 24, "space": Space, "commit": 1})


def mask_layout(config: Config) -> data.StructLayout:
    """Rows of a tile whose neighbour lies inside the image.

    Members
    -------
    left, right : rows bits
        One pixel to the left, to the right.
    lines : 3 x rows bits
        One line up, on the same line, one line down; a row beyond the last pixel has none.
    """
    return data.StructLayout({
        "left": config.rows, "right": config.rows, "lines": data.ArrayLayout(config.rows, LINE_TAPS),
    })


def _window_members(config: Config) -> dict[str, Any]:
    """What a window carries from the address generator to its array."""
    return {
        "mask": mask_layout(config),
        "taps": TAPS,
        "a_signed": 1,
        "w_signed": 1,
        "exponent": 2,
        "last": 1,
        "tile_last": 1,
        "ktile_last": 1,
        "half": 1,
        "group": config.group_bits,
        "weight": config.weight_bits,
    }


def request_layout(config: Config) -> data.StructLayout:
    """One channel of one tile, or one kernel line of it, to be read.

    Members
    -------
    mask : mask_layout
    taps : 9 bits
        Taps that are used, of the lines that this read serves.
    a_signed, w_signed : 1 bit
        The nibbles are signed.
    exponent : 2 bits
        Shift of the pass, in nibbles.
    last, tile_last, ktile_last : 1 bit
        This window ends a vector, the tile, the k-tile.
    half : 1 bit
        Half of the weight memory that holds the k-tile.
    group : group_bits
        Scale words of the vector.
    weight : weight_bits
        Address of kernel line 0's weight word within the half.
    addr : addr_bits
        Nibble address of the left neighbour of row 0, or where upsampled of the run, see `upsample_patterns`.
    pattern : bits of the number of patterns
        0: as it is in memory; else one more than the place in `upsample_patterns`. Where there are none it is missing.
    """
    patterns = len(upsample_patterns(config))
    return data.StructLayout(_window_members(config) | {"addr": config.addr_bits}
                             | ({"pattern": range(patterns + 1)} if patterns else {}))


def upsample_patterns(config: Config) -> list[tuple[int, int]]:
    """Ways in which a run of pixels becomes a window of an upsampled map: the map's width W; does the tile begin in an
    odd line.

    Pixel x of line y, over all samples, is pixel x // 2 of line y // 2 of the map in memory, whose lines have W / 2
    pixels. The run begins with the one that is shown left of and above the tile's first pixel.
    """
    return [(width, odd) for width in config.upsampled_widths for odd in range(2 if width >= config.rows else 1)]


def window_layout(config: Config) -> data.StructLayout:
    """One channel of one tile, or one kernel line of it, read; members as `request_layout`, and:

    Members
    -------
    nibbles : `window` nibbles
        Row r's taps of kernel line l are nibbles r, r+1 and r+2 from l * pitch on. The pitch is the map's width where a
        whole window is read at a time, and 0 where a line is.
    """
    return data.StructLayout(_window_members(config) | {"nibbles": data.ArrayLayout(4, config.window)})


def write_layout(config: Config) -> data.StructLayout:
    """One write to the activation memory.

    Members
    -------
    addr : addr_bits
        Nibble address of the run's first nibble.
    data : write_nibbles nibbles
    mask : write_nibbles bits
        Nibbles to write.
    """
    return data.StructLayout({
        "addr": config.addr_bits, "data": data.ArrayLayout(4, config.write_nibbles), "mask": config.write_nibbles,
    })
