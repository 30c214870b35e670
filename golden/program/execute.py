"""What a CONV or ELEMENTWISE descriptor computes, from the bytes that it names and nothing else.

The accumulators come from table entries, weight words and codes as the arrays take them, not from `golden.conv`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from golden.formats import FORMATS, Format, Int64Array, ScaleFormat, Tensor, Uint8Array, from_planes, to_planes
from golden.layer import Entry
from golden.layout import space_to_depth, upsample2
from golden.machine import Machine
from golden.ppu import PostParams, postprocess
from golden.program.descriptor import Descriptor
from golden.program.pack import Packing

__all__ = ["Result", "UndefinedResult", "accumulate", "compute", "elementwise_input", "tensor_format",
           "weight_tiles"]

KERNEL_LINES = 3
CENTRE_TAP = 1 << 4
NONE, UPSAMPLE, SPACE_TO_DEPTH = range(3)


class UndefinedResult(Exception):
    """A descriptor passes the checks, but what the hardware would compute of it is not defined."""


@dataclass(frozen=True, eq=False)
class Result:
    """What a layer writes.

    Parameters
    ----------
    addresses : integers [nibbles]
        Of the activation memory, each once.
    nibbles : uint8 [nibbles]
    nonzeros : integers [channels]
        Values that are not zero, before upsampling, of each channel that is written.
    """

    addresses: Int64Array
    nibbles: Uint8Array
    nonzeros: Int64Array


def tensor_format(wide: int, signed: int) -> Format:
    """The format that two bits of a descriptor name."""
    return FORMATS[f"{'s' if signed else 'u'}{8 if wide else 4}"]


def _need(condition: bool, problem: str) -> None:
    if not condition:
        raise UndefinedResult(problem)


def _shape(item: Descriptor, machine: Machine, samples: int) -> tuple[int, int, int, int]:
    """K, N, H, W of the accumulators; the sizes of the descriptor must agree with each other and with the batch."""
    height, width, pixels = item["height"], item["width"], item["pixels"]
    outputs = item["outputs"]
    _need(item["sample_pixels"] == height * width, f"sample_pixels={item['sample_pixels']} of {width} x {height}")
    _need(pixels == samples * height * width, f"pixels={pixels} of {samples} samples of {width} x {height}")
    _need(item["tiles"] == -(-pixels // machine.rows), f"tiles={item['tiles']} of {pixels} pixels")
    columns = (item["k_tiles"] - 1) * machine.cols + item["last_cols"]
    _need(columns == outputs, f"k_tiles and last_cols make {columns} channels, outputs={outputs}")
    return outputs, samples, height, width


def _plane(memory: Uint8Array, base: int, pixels: int, signed: bool) -> Int64Array:
    """Nibbles as a multiplier sees them; addresses wrap."""
    nibbles = memory[(base + np.arange(pixels)) % memory.size].astype(np.int64)
    return np.where(nibbles & 8, nibbles - 16, nibbles) if signed else nibbles


def _vectors(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    vector: list[Entry] = []
    for entry in entries:
        vector.append(entry)
        if entry.last:
            yield vector
            vector = []
    _need(not vector, "the last entry of the channel table does not end a vector")


def accumulate(machine: Machine, item: Descriptor, samples: int, entries: Sequence[Entry], dead: Sequence[bool],
               tiles: Sequence[tuple[Int64Array, Int64Array]], memory: Uint8Array) -> Int64Array:
    """Accumulators of a convolution.

    Parameters
    ----------
    machine : Machine
    item : Descriptor
        A CONV.
    samples : int
        N.
    entries : sequence of Entry
        Of the channel table.
    dead : per entry, bool
        Its channel's label says that it is zero: left out.
    tiles : per k-tile, (weights [words, 3, cols], codes [groups, cols])
    memory : uint8 [act_nibbles]

    Returns
    -------
    int64 [K, N, H, W]

    Raises
    ------
    UndefinedResult
        If sizes do not agree, or an entry names what the descriptor did not load.
    """
    outputs, _, height, width = _shape(item, machine, samples)
    scale = ScaleFormat(machine.scale_exp_bits, machine.scale_man_bits)
    weights = np.concatenate([tile[0] for tile in tiles], axis=2)[..., :outputs]    # [words, 3, K]
    codes = np.concatenate([tile[1] for tile in tiles], axis=1)[:, :outputs]        # [groups, K]
    try:
        scales = scale.value(codes)
    except ValueError as error:
        raise UndefinedResult(str(error)) from None
    pixels, factor = item["pixels"], 1 + item["upsampled"]
    psum = 1 << machine.psum_bits - 1
    acc = np.zeros((outputs, pixels), np.int64)
    alive = dict(zip(map(id, entries), np.logical_not(dead), strict=True))
    for vector in _vectors(entries):
        first = vector[0]
        _need(all((entry.group, entry.exponent) == (first.group, first.exponent) for entry in vector),
              "the entries of a vector differ in group or exponent")
        _need(first.group < len(codes), f"an entry names group {first.group} of {len(codes)}")
        columns, rows = [], []
        for entry in vector:
            _need(entry.taps != 0, "an entry has no taps")
            _need(not (item["one_tap"] and entry.taps != CENTRE_TAP), "an entry names a tap that is not stored")
            if not alive[id(entry)]:
                continue
            image = _plane(memory, entry.base, pixels // factor ** 2, entry.a_signed)
            image = image.reshape(samples, height // factor, width // factor).repeat(factor, 1).repeat(factor, 2)
            padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
            for tap in range(KERNEL_LINES ** 2):
                if entry.taps >> tap & 1:
                    line, across = divmod(tap, KERNEL_LINES)
                    _need(entry.weight + line < len(weights), f"an entry names weight word {entry.weight + line} of "
                                                              f"{len(weights)}")
                    row = weights[entry.weight + line, across]
                    rows.append(np.where(row & 8, row - 16, row) if entry.w_signed else row)
                    columns.append(padded[:, line:line + height, across:across + width].reshape(-1))
        if not rows:
            continue
        local = np.stack(rows, axis=1) @ np.stack(columns)
        _need(bool((local >= -psum).all() and (local < psum).all()), "a local accumulator overflows")
        acc += (local * scales[first.group][:, None]) << (4 * first.exponent)
    return acc.reshape(outputs, samples, height, width)


def elementwise_input(machine: Machine, item: Descriptor, samples: int, memory: Uint8Array) -> Int64Array:
    """x of an ELEMENTWISE, int64 [K, N, H, W]; raises as `accumulate`."""
    outputs, _, height, width = _shape(item, machine, samples)
    fmt = tensor_format(item["x_wide"], item["x_signed"])
    if not item["x_strided"]:
        return _read(memory, item["in0_base"], item["x_channel"], item["x_plane"], fmt,
                     (outputs, samples, height, width))
    x = _read(memory, item["in0_base"], item["x_channel"], item["x_plane"], fmt,
              (-(-outputs // 4), samples, 2 * height, 2 * width))
    return space_to_depth(Tensor(x, fmt)).values[:outputs]


def _read(memory: Uint8Array, base: int, channel: int, plane: int, fmt: Format,
          shape: tuple[int, int, int, int]) -> Int64Array:
    pixels = shape[1] * shape[2] * shape[3]
    planes = np.arange(fmt.planes)[:, None, None] * plane
    places = base + planes + np.arange(shape[0])[:, None] * channel + np.arange(pixels)
    return from_planes(memory[places % memory.size], fmt).reshape(shape)


def compute(machine: Machine, item: Descriptor, acc: Int64Array, params: Int64Array,
            sample_block: Sequence[int], memory: Uint8Array) -> Result:
    """Post-process accumulators, or the x of an ELEMENTWISE.

    Parameters
    ----------
    machine : Machine
    item : Descriptor
        CONV or ELEMENTWISE.
    acc : integers [K, N, H, W]
    params : integers [blocks, K, 3]
        M, R, B.
    sample_block : sequence of int
        The block of each sample.
    memory : uint8 [act_nibbles]
        The residual is read from it.

    Raises
    ------
    UndefinedResult
        If an accumulator overflows, a transform does not fit the map or a nibble is written twice.
    """
    fmt = tensor_format(item["out_wide"], item["out_signed"])
    outputs, samples, height, width = acc.shape
    residual = None
    if item["residual"]:
        res_fmt = tensor_format(item["res_wide"], item["res_signed"])
        residual = Tensor(_read(memory, item["res_base"], item["res_channel"], item["res_plane"], res_fmt,
                                (outputs, samples, height, width)), res_fmt)
    post = PostParams(params[..., 0], params[..., 1], params[..., 2], item["shift"], item["dead_zone"],
                      np.array(sample_block))
    try:
        out = postprocess(acc, post, fmt, residual, acc_bits=machine.acc_bits)
    except (ValueError, OverflowError) as error:
        raise UndefinedResult(str(error)) from None
    transform = item["transform"]
    if transform == SPACE_TO_DEPTH:
        _need(height % 2 == width % 2 == 0, f"space-to-depth of {width} x {height} pixels")
        out = space_to_depth(out)
    channels = len(out.values)
    nonzeros = np.count_nonzero(out.values.reshape(channels, -1), axis=1)
    if transform == UPSAMPLE:
        out = upsample2(out)
    nibbles = to_planes(out.values, fmt).reshape(fmt.planes, channels, -1)
    if transform == SPACE_TO_DEPTH:
        number, part = np.divmod(np.arange(channels), 4)
        # Channel 4*k + 2*odd_line + odd_column: the hardware halves and quarters the distance.
        starts = number * item["out_channel"] + (part >> 1) * (item["out_channel"] >> 1) \
            + (part & 1) * (item["out_channel"] >> 2)
    else:
        starts = np.arange(channels) * item["out_channel"]
    places = (item["out_base"] + np.arange(fmt.planes)[:, None, None] * item["out_plane"] + starts[:, None]
              + np.arange(nibbles.shape[-1])) % machine.act_nibbles
    addresses = places.reshape(-1)
    _need(np.unique(addresses).size == addresses.size, "a nibble is written more than once")
    return Result(addresses, nibbles.reshape(-1), nonzeros)


def weight_tiles(packing: Packing, item: Descriptor, program: bytes) -> list[tuple[Int64Array, Int64Array]]:
    """Weights and codes of each k-tile of a CONV, as `Packing.unpack_ktile` gives them."""
    words, one_tap, groups = item["words"], bool(item["one_tap"]), item["groups"]
    size = packing.ktile_bytes(words, one_tap, groups)
    starts = range(item["weights"], item["weights"] + item["k_tiles"] * size, size)
    return [packing.unpack_ktile(program[start:start + size], words, one_tap, groups) for start in starts]
