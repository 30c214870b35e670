"""One convolution layer: what it computes, where it lies in memory, and what the engine must be told to run it.

A `Layer` is numbers only. `place` gives it addresses, `run` computes what memory holds afterwards, and `compile_layer`
writes down the engine's configuration: channel lists, weight and scale words, parameters, geometry. The last is the
order in which the hardware works, `run` never sees it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from typing import Any, Literal

import numpy as np

from golden.conv import Bounds, conv, prove
from golden.detector import Detection
from golden.formats import S4, Format, Int64Array, ScaleFormat, Tensor, Uint8Array, to_planes
from golden.layout import load, space_to_depth, store, upsample2
from golden.machine import Machine
from golden.ppu import PostParams, postprocess

__all__ = ["Entry", "LabelPlace", "Layer", "LayerError", "LayerImage", "Placement", "TableEntry",
           "Transform", "compile_layer", "initial_memory", "one_tap", "place", "run"]

Transform = Literal["none", "upsample", "space_to_depth"]
KERNEL_LINES = 3
CENTRE_TAP = 4


class LayerError(ValueError):
    """A layer that a configuration cannot run; the message names the layer and the limit."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A stride-1 convolution with its post-processing.

    Parameters
    ----------
    name : str
    inputs : tuple of Tensor
        Segments [C_i, N, H, W], joined along C.
    weights : integers [K, C, k, k]
        k = 1 or 3.
    w_fmt : Format
    codes : integers [K, ceil(C / group)]
        Scale codes.
    group : int
        Channels per scale code.
    post : PostParams
    out_fmt : Format
    residual : Tensor or None
        [K, N, H, W], added before the write transform.
    transform : str
        How the result is rearranged on its way into memory.
    upsampled : bool
        The inputs are read with each pixel as 2x2 pixels: in memory they have half of the map's height and width.
    """

    name: str
    inputs: tuple[Tensor, ...]
    weights: Int64Array
    w_fmt: Format
    codes: Uint8Array
    group: int
    post: PostParams
    out_fmt: Format
    residual: Tensor | None = None
    transform: Transform = "none"
    upsampled: bool = False

    @property
    def in_shape(self) -> tuple[int, int, int, int]:
        """C, N, H, W of the joined input as the convolution sees it."""
        _, samples, height, width = self.inputs[0].shape
        factor = 1 + self.upsampled
        return sum(tensor.shape[0] for tensor in self.inputs), samples, factor * height, factor * width

    @property
    def four_bit(self) -> bool:
        """Whether it is one pass of s4 weights on 4-bit activations, which dense arrays can run."""
        return self.w_fmt == S4 and all(tensor.fmt.planes == 1 for tensor in self.inputs)

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        """Shape of the tensor that is written, after the transform."""
        outputs, (_, samples, height, width) = len(self.weights), self.in_shape
        if self.transform == "upsample":
            return outputs, samples, 2 * height, 2 * width
        if self.transform == "space_to_depth":
            return 4 * outputs, samples, height // 2, width // 2
        return outputs, samples, height, width


@dataclass(frozen=True)
class Placement:
    """Nibble addresses of a layer's tensors."""

    inputs: tuple[int, ...]
    residual: int
    out: int
    end: int


def place(layer: Layer, machine: Machine, gaps: Sequence[int] = (0, 0, 0, 0)) -> Placement:
    """Put the inputs, the residual and the output behind one another, `gaps` nibbles apart.

    Raises
    ------
    LayerError
        If they do not fit the activation memory.
    """
    def nibbles(shape: Sequence[int], fmt: Format) -> int:
        return fmt.planes * int(np.prod(shape))

    address, places = 0, []
    sizes = [nibbles(tensor.shape, tensor.fmt) for tensor in layer.inputs]
    sizes.append(nibbles(layer.residual.shape, layer.residual.fmt) if layer.residual else 0)
    sizes.append(nibbles(layer.out_shape, layer.out_fmt))
    for number, size in enumerate(sizes):
        address += gaps[number % len(gaps)]
        places.append(address)
        address += size
    if address > machine.act_nibbles:
        raise LayerError(f"layer {layer.name!r} needs {address} nibbles of activation memory for its inputs, residual "
                         f"and output; there are {machine.act_nibbles}")
    return Placement(tuple(places[:-2]), places[-2], places[-1], address)


def initial_memory(layer: Layer, placement: Placement, memory: Uint8Array) -> Uint8Array:
    """Return `memory` with the layer's inputs and residual in it."""
    memory = memory.copy()
    for base, tensor in zip(placement.inputs, layer.inputs, strict=True):
        store(memory, base, tensor)
    if layer.residual is not None:
        store(memory, placement.residual, layer.residual)
    return memory


def run(layer: Layer, machine: Machine, placement: Placement, memory: Uint8Array) -> Uint8Array:
    """Run the layer on a memory: the law that the engine obeys.

    Parameters
    ----------
    memory : uint8 [act_nibbles]
        One nibble each; the inputs and the residual are read from it.

    Returns
    -------
    uint8 [act_nibbles]
        The same with the output written, and nothing else changed.
    """
    scale = ScaleFormat(machine.scale_exp_bits, machine.scale_man_bits)
    inputs = [load(memory, base, tensor.fmt, tensor.shape)
              for base, tensor in zip(placement.inputs, layer.inputs, strict=True)]
    if layer.upsampled:
        inputs = [upsample2(tensor) for tensor in inputs]
    residual = None
    if layer.residual is not None:
        residual = load(memory, placement.residual, layer.residual.fmt, layer.residual.shape)
    acc = conv(inputs, layer.weights, layer.w_fmt, layer.codes, layer.group, scale)
    out = postprocess(acc, layer.post, layer.out_fmt, residual, acc_bits=machine.acc_bits)
    if layer.transform == "upsample":
        out = upsample2(out)
    elif layer.transform == "space_to_depth":
        out = space_to_depth(out)
    memory = memory.copy()
    store(memory, placement.out, out)
    return memory


@dataclass(frozen=True)
class Entry:
    """An entry of a channel list: docs/architecture.md, "Channel list"."""

    base: int
    weight: int
    group: int
    taps: int
    a_signed: bool
    w_signed: bool
    exponent: int
    last: bool


@dataclass(frozen=True)
class TableEntry:
    """An entry of the channel table: what to add up, on whichever array the label names."""

    entry: Entry
    dense_ok: bool
    label: int
    slot: int


@dataclass(frozen=True)
class LabelPlace:
    """Where a tensor's labels are: index of channel 0's label, and the tensor's slot."""

    first: int
    slot: int


@dataclass(frozen=True, eq=False)
class LayerImage:
    """What the engine is given to run a layer.

    Parameters
    ----------
    fields : dict
        Values of the engine's configuration port, by the names of `hw.interfaces.layer_layout`.
    table : list of TableEntry
        All channels and passes, in the order of the table.
    weights : u4 integers [k_tiles, words, 3, cols]
        Nibbles of the kernel-line words.
    taps : bool [words, 3]
        Taps that are used, and need loading.
    codes : integers [k_tiles, groups, lanes_per_scale, scale_units]
        Scale words: the code of column u * lanes_per_scale + i is unit u's in word i.
    params : integers [words, 3]
        M, R, B.
    sample_words : integers [N]
        First parameter word of each sample's block.
    bounds : Bounds
        Proof that no accumulator overflows.
    table_first, param_first : int
        Where in the channel table and in the parameter memory the layer's part begins.
    """

    fields: dict[str, Any]
    table: list[TableEntry]
    weights: Int64Array
    taps: np.ndarray[Any, np.dtype[np.bool_]]
    codes: Int64Array
    params: Int64Array
    sample_words: Int64Array
    bounds: Bounds
    table_first: int
    param_first: int


def one_tap(table: Sequence[TableEntry]) -> bool:
    """Whether each entry has one tap, as those of a 1x1 kernel have.

    Then a window costs a sparse array a cycle as it costs a dense one, and labels, which are made for the nonzeros of
    3x3 windows, would leave one kind of array idle: channels are dealt out evenly instead.
    """
    return all(item.entry.taps.bit_count() == 1 for item in table)


def compile_layer(layer: Layer, machine: Machine, placement: Placement,
                  order: Sequence[int] | None = None, *, in_labels: Sequence[LabelPlace] | None = None,
                  out_labels: LabelPlace | None = None, detection: Detection | None = None, step: int = 0,
                  table_first: int = 0, param_first: int = 0, sample_first: int = 0) -> LayerImage:
    """Write down what the engine must be told.

    Parameters
    ----------
    layer, machine, placement
    order : sequence of int
        Order of the channels in the table, each once; any order gives the same result. By default 0, 1, 2, ...
    in_labels : per input, LabelPlace
        By default all inputs share slot 0, one behind the other.
    out_labels : LabelPlace, optional
        Where the labels of the written tensor go; with `detection`.
    detection : Detection, optional
        How the written tensor is labelled; by default it is not.
    step : int
        Time step, 0 to 63, for the refresh policy.
    table_first, param_first, sample_first : int
        Where in the channel table, the parameter memory and the sample table the layer's part begins.

    Raises
    ------
    LayerError
        If the configuration cannot run the layer; says which limit.
    golden.conv.AccumulatorOverflow
        If an accumulator could overflow; says how many bits are needed.
    """
    def need(condition: bool, problem: str) -> None:
        if not condition:
            raise LayerError(f"layer {layer.name!r}: {problem}")

    in_channels, samples, height, width = layer.in_shape
    outputs, kernel = layer.weights.shape[0], layer.weights.shape[-1]
    k_tiles = -(-outputs // machine.cols)
    formats = [tensor.fmt for tensor in layer.inputs for _ in range(tensor.shape[0])]
    scale = ScaleFormat(machine.scale_exp_bits, machine.scale_man_bits)
    bounds = prove(layer.weights, layer.w_fmt, formats, layer.codes, layer.group, scale,
                   psum_bits=machine.psum_bits, acc_bits=machine.acc_bits, name=layer.name)

    need(layer.four_bit or machine.sparse > 0,
         f"{layer.w_fmt.name} weights on {'/'.join(tensor.fmt.name for tensor in layer.inputs)} activations need a "
         "sparse array, and this configuration has none; dense arrays run s4 weights on 4-bit activations")
    limit = (1 << machine.dim_bits) - 1
    need(max(height, width) <= limit,
         f"the map is {width} x {height} pixels; dim_bits={machine.dim_bits} allows {limit}")
    need(k_tiles < 1 << 10, f"{outputs} output channels make {k_tiles} k-tiles; there can be 1023")
    need(not layer.upsampled or width in machine.upsampled_widths,
         f"a map {width} pixels wide cannot be read upsampled; this configuration can read "
         f"{', '.join(map(str, machine.upsampled_widths)) or 'none'}")
    need(layer.transform != "space_to_depth" or height % 2 == width % 2 == 0,
         f"space_to_depth needs an even width and height, not {width} x {height}")
    need(layer.post.shift <= machine.shift_max, f"shift {layer.post.shift} is above {machine.shift_max}")
    need(placement.end <= machine.act_nibbles, f"its tensors end at nibble {placement.end} of {machine.act_nibbles}")

    # Kernel-line words: of each channel and weight plane, the lines from the first to the last that is used.
    planes = to_planes(layer.weights, layer.w_fmt).astype(np.int64)     # [planes, K, C, k, k]
    nibbles = np.zeros((*planes.shape[:3], KERNEL_LINES, KERNEL_LINES), np.int64)
    if kernel == 1:
        nibbles[..., 1, 1] = planes[..., 0, 0]
    else:
        nibbles[:] = planes
    used = (nibbles != 0).any(axis=1)                                   # [planes, C, line, tap]
    line_zero: dict[tuple[int, int], int] = {}                          # (plane, c) -> address of line 0's word
    words: list[tuple[int, int, int]] = []                              # (plane, c, line)
    for c in range(in_channels):
        for plane in range(len(planes)):
            lines = np.flatnonzero(used[plane, c].any(axis=-1))
            if len(lines):
                words += [(plane, c, 0)] * (int(lines[0]) - len(words))  # an address below 0 does not exist
                line_zero[plane, c] = len(words) - int(lines[0])
                words += [(plane, c, line) for line in range(lines[0], lines[-1] + 1)]
    need(len(words) <= machine.weight_depth,
         f"a k-tile has {len(words)} kernel lines; weight_depth={machine.weight_depth}")
    need(layer.codes.shape[1] <= machine.scale_depth,
         f"{layer.codes.shape[1]} groups; scale_depth={machine.scale_depth}")
    index = np.array(words, np.int64).reshape(-1, 3).T
    columns = k_tiles * machine.cols
    padded = np.zeros((len(planes), columns, *nibbles.shape[2:]), np.int64)
    padded[:, :outputs] = nibbles
    tiled = padded[index[0], :, index[1], index[2]]                     # [words, columns, tap]
    tiled = tiled.reshape(len(words), k_tiles, machine.cols, KERNEL_LINES).transpose(1, 0, 3, 2)
    in_units = machine.scale_units * machine.lanes_per_scale
    codes = np.zeros((layer.codes.shape[1], columns), np.int64)
    codes[:, :outputs] = layer.codes.T
    unit_codes = np.zeros((*codes.shape[:1], k_tiles, in_units), np.int64)
    unit_codes[..., :machine.cols] = codes.reshape(-1, k_tiles, machine.cols)
    unit_codes = unit_codes.reshape(-1, k_tiles, machine.scale_units, machine.lanes_per_scale).transpose(1, 0, 3, 2)

    # Channel table: runs of channels of one group, pass by pass.
    order = range(in_channels) if order is None else order
    if sorted(order) != list(range(in_channels)):
        raise ValueError(f"order must name each of 0..{in_channels - 1} once, not {list(order)}")
    bases, labels, channels_before = [], [], 0
    plane = samples * height * width // (4 if layer.upsampled else 1)
    for number, (base, tensor) in enumerate(zip(placement.inputs, layer.inputs, strict=True)):
        where = LabelPlace(channels_before, 0) if in_labels is None else in_labels[number]
        channels_before += tensor.shape[0]
        need(where.first + tensor.shape[0] <= machine.label_depth,
             f"labels of {tensor.shape[0]} channels from {where.first} on; label_depth={machine.label_depth}")
        for c in range(tensor.shape[0]):
            bases.append(base + c * tensor.fmt.planes * plane)
            labels.append((where.first + c, where.slot))
    table: list[TableEntry] = []
    for group, run_of in groupby(order, key=lambda c: c // layer.group):
        run_channels = list(run_of)
        for a_plane, w_plane in product(range(2), range(len(planes))):
            vector = [
                TableEntry(
                    Entry(bases[c] + a_plane * plane, line_zero[w_plane, c], group,
                          int((used[w_plane, c].reshape(-1) << np.arange(9)).sum()), formats[c].plane_signed(a_plane),
                          layer.w_fmt.plane_signed(w_plane), a_plane + w_plane, False),
                    layer.four_bit, *labels[c])
                for c in run_channels if a_plane < formats[c].planes and (w_plane, c) in line_zero
            ]
            table += vector[:-1]
            table += [replace(item, entry=replace(item.entry, last=True)) for item in vector[-1:]]
    need(table_first + len(table) <= machine.table_depth,
         f"{len(table)} entries of the channel table from {table_first} on; table_depth={machine.table_depth}")
    need(len(table) <= machine.list_depth,
         f"{len(table)} entries may go to one array; list_depth={machine.list_depth}")

    # Post-processor.
    blocks = layer.post.M.shape[0]
    need(param_first + blocks * outputs <= machine.param_depth,
         f"{blocks} parameter blocks of {outputs} words from {param_first} on; param_depth={machine.param_depth}")
    need(sample_first + samples <= machine.samples,
         f"{samples} samples from {sample_first} on; samples={machine.samples}")
    params = np.stack([layer.post.M, layer.post.R, layer.post.B], axis=-1).reshape(-1, 3)
    limit = 1 << (machine.bias_bits - 1)
    need(layer.post.B.min() >= -limit and layer.post.B.max() < limit, f"B exceeds {machine.bias_bits} bits")

    if detection is not None:
        if out_labels is None:
            raise ValueError("detection needs out_labels, the place of the labels")
        need(out_labels.first + layer.out_shape[0] <= machine.label_depth,
             f"labels of {layer.out_shape[0]} channels from {out_labels.first} on; label_depth={machine.label_depth}")
    out_pixels = int(np.prod(layer.out_shape[1:]))
    stride = layer.out_fmt.planes * out_pixels
    pixels = samples * height * width
    residual = layer.residual
    fields: dict[str, Any] = {
        "width": width,
        "height": height,
        "pixels": pixels,
        "sample_pixels": height * width,
        "tiles": -(-pixels // machine.rows),
        "k_tiles": k_tiles,
        "last_cols": outputs - (k_tiles - 1) * machine.cols,
        "table_first": table_first,
        "table_count": len(table),
        "out_base": placement.out,
        "out_channel": (4 * stride if layer.transform == "space_to_depth" else stride) % machine.act_nibbles,
        "out_plane": out_pixels % machine.act_nibbles,
        "out_format": {"wide": layer.out_fmt.planes - 1, "signed": layer.out_fmt.signed},
        "transform": layer.transform,
        "shift": layer.post.shift,
        "dead_zone": layer.post.dead_zone,
        "residual": residual is not None,
        "res_base": placement.residual % machine.act_nibbles,
        "res_channel": residual.fmt.planes * pixels if residual else 0,
        "res_plane": pixels if residual else 0,
        "res_format": {"wide": residual.fmt.planes - 1, "signed": residual.fmt.signed} if residual
        else {"wide": 0, "signed": 0},
        "sample_first": sample_first,
        "detect": detection is not None,
        "label_first": out_labels.first if out_labels else 0,
        "label_slot": out_labels.slot if out_labels else 0,
        "balance": detection.balance if detection else False,
        "label_limit": detection.label_limit if detection else 0,
        "dense_cost": detection.dense_cost if detection else 0,
        "bin_shift": detection.bin_shift if detection else 0,
        "step": step,
        "out_end": placement.out + layer.out_fmt.planes * int(np.prod(layer.out_shape)),
        "elementwise": False,
        "x_base": 0,
        "x_channel": 0,
        "x_plane": 0,
        "x_format": {"wide": 0, "signed": 0},
        "even": one_tap(table),
        "upsampled": layer.upsampled,
        "x_strided": False,
    }
    return LayerImage(
        fields=fields, table=table, weights=tiled, taps=used[index[0], index[1], index[2]], codes=unit_codes,
        params=params, sample_words=param_first + outputs * layer.post.sample_block, bounds=bounds,
        table_first=table_first, param_first=param_first)
