"""Writes descriptors and what they point to, a layer or a transfer at a time; where tensors lie is for others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from golden.formats import Format, Int64Array, Tensor
from golden.layer import Entry, Layer, LayerError, LayerImage, Placement, TableEntry, compile_layer
from golden.machine import Machine
from golden.ppu import PostParams
from golden.program.descriptor import ALL_STEPS, BYTES, LIMITS, Opcode, encode
from golden.program.network import Conv, Node, Parameters, TensorShape, computed_shape, written_shape
from golden.program.pack import Packing, aligned

__all__ = ["Channel", "Emitter", "Place", "Run", "unlabelled"]

CENTRE_TAP = 1 << 4
TRANSFORM_CODES = {"none": 0, "upsample": 1, "space_to_depth": 2}

Channel = tuple[int, int]   # label index and slot


@dataclass(frozen=True)
class Place:
    """A tensor, or a band of lines of one, in activation memory, as it lies there: all nibbles one behind the other.

    Parameters
    ----------
    tensor : TensorShape
    base : int
        Nibble address.
    labels : sequence of (index, slot), or None
        Label of each channel; None: it has none, its channels are taken as dense.
    """

    tensor: TensorShape
    base: int
    labels: Sequence[Channel] | None = None

    @property
    def end(self) -> int:
        """Nibble after the last."""
        return self.base + self.tensor.nibbles

    def channels(self, first: int, end: int) -> "Place":
        """The channels from `first` to `end` of it."""
        channels, *inner = self.tensor.shape
        shape = TensorShape((end - first, inner[0], inner[1], inner[2]), self.tensor.fmt)
        labels = None if self.labels is None else self.labels[first:end]
        return Place(shape, self.base + first * self.tensor.nibbles // channels, labels)


@dataclass(frozen=True)
class Run:
    """What a LOAD or STORE moves: runs of whole beats.

    Parameters
    ----------
    offset, stride : int
        Bytes in the data region.
    chip_first, chip_stride : int
        Beats on chip.
    runs, beats : int
    """

    offset: int
    stride: int
    chip_first: int
    chip_stride: int
    runs: int
    beats: int


def unlabelled(machine: Machine) -> Channel:
    """The label of channels without labels: one that no program makes, so that it is dense as after a reset."""
    return machine.label_depth - 1, machine.label_slots - 1


class Emitter:
    """A program being written.

    Parameters
    ----------
    machine : Machine
    samples : int
        N.
    blocks : int
        Parameter blocks of a batch.
    """

    def __init__(self, machine: Machine, samples: int, blocks: int) -> None:
        self.machine, self.packing = machine, Packing.of(machine)
        self.samples, self.blocks = samples, blocks
        self._descriptors: list[tuple[Opcode, dict[str, int]]] = []
        self._payload = bytearray()
        self._offsets: dict[bytes, int] = {}
        self.layers: dict[int, str] = {}        # by descriptor, what its node is called
        # Since the last LOAD that waited: nibbles that layers and stores read or write, bytes that stores write.
        self._chip_used: list[tuple[int, int]] = []
        self._host_written: list[tuple[int, int]] = []

    def program(self) -> tuple[bytes, int]:
        """The program region, and the number of descriptors."""
        start = BYTES * len(self._descriptors)
        moved = ("table", "weights", "params")
        raw = b"".join(
            encode(opcode, **{name: value + start if name in moved else value for name, value in values.items()})
            for opcode, values in self._descriptors)
        return raw + bytes(self._payload), len(self._descriptors)

    def end(self) -> None:
        """END."""
        self._descriptors.append((Opcode.END, {}))

    def batch(self, offset: int) -> None:
        """BATCH, the table at `offset` of the data region."""
        self._descriptors.append((Opcode.BATCH, {"offset": offset, "samples": self.samples, "blocks": self.blocks}))

    def load(self, run: Run, mask: int) -> None:
        """LOAD. It waits only where something before it still uses what it writes, or makes what it reads."""
        chip, host = self._chip(run), self._host(run)
        wait = _meets(chip, self._chip_used) or _meets(host, self._host_written)
        if wait and mask == ALL_STEPS:      # in all steps nothing before it still runs
            self._chip_used.clear()
            self._host_written.clear()
        self._descriptors.append((Opcode.LOAD, vars(run) | {"mask": mask, "wait": int(wait)}))

    def store(self, run: Run, mask: int) -> None:
        """STORE."""
        self._chip_used.append(self._chip(run))
        self._host_written.append(self._host(run))
        self._descriptors.append((Opcode.STORE, vars(run) | {"mask": mask}))

    def _chip(self, run: Run) -> tuple[int, int]:
        last = run.chip_first + (run.runs - 1) * run.chip_stride + run.beats
        return run.chip_first * self.packing.beat_nibbles, last * self.packing.beat_nibbles

    def _host(self, run: Run) -> tuple[int, int]:
        return run.offset, run.offset + (run.runs - 1) * run.stride + run.beats * self.packing.beat_bytes

    def layer(self, node: Node, inputs: Sequence[Place], residual: Place | None, out: Place) -> None:
        """CONV or ELEMENTWISE, several where the parameters of all output channels do not fit at once.

        Raises
        ------
        LayerError
            If the configuration cannot run the layer; names it and the limit.
        golden.conv.AccumulatorOverflow
            If an accumulator could overflow.
        """
        for first, end in self.parts(node):
            self._part(node, first, end, inputs, residual, out)
        self._chip_used += [(place.base, place.end) for place in (*inputs, out, *([residual] if residual else []))]

    def parts(self, node: Node) -> list[tuple[int, int]]:
        """Output channels, first and end, of the descriptors that a node is split into: k-tiles, shared out evenly."""
        cols, most = self.machine.cols, self.machine.param_depth // 2
        step = most // self._blocks(node.post)
        if step < node.outputs:
            k_tiles, step = -(-node.outputs // cols), step // cols * cols
        if 0 < step < node.outputs:
            step = -(-k_tiles // -(-node.outputs // step)) * cols
        if step == 0:
            raise LayerError(f"layer {node.name!r}: {self.blocks} parameter blocks of one k-tile of {cols} channels; "
                             f"param_depth/2={most}")
        return [(first, min(first + step, node.outputs)) for first in range(0, node.outputs, step)]

    def _part(self, node: Node, first: int, end: int, inputs: Sequence[Place], residual: Place | None,
              out: Place) -> None:
        """The output channels from `first` to `end` of a layer."""
        machine, factor = self.machine, 4 if node.transform == "space_to_depth" else 1
        out = out.channels(factor * first, factor * end)
        residual = residual.channels(first, end) if residual else None
        post = Parameters(node.post.M[:, first:end], node.post.R[:, first:end], node.post.B[:, first:end],
                          node.post.shift, node.post.dead_zone)
        _, samples, height, width = computed_shape(node, inputs[0].tensor.shape)
        values = {"mask": node.mask} | self._result(node, end - first, samples, height, width, residual, out)
        values |= self._parameters(node, post)
        self._check(node, values)
        for number, place in enumerate(inputs):
            values |= {f"in{number}_base": place.base, f"in{number}_end": place.end}
        if isinstance(node, Conv):
            values |= self._convolution(node, first, end, post, inputs, residual, out)
        else:
            fmt, stride = inputs[0].tensor.fmt, int(np.prod(inputs[0].tensor.shape[1:]))
            parts = 4 if node.strided else 1
            if node.strided and width not in machine.strided_widths:
                raise LayerError(f"layer {node.name!r}: a result {width} pixels wide cannot be read with a stride; "
                                 f"widths that can are {', '.join(map(str, machine.strided_widths)) or 'none'}")
            values |= {"x_wide": fmt.planes - 1, "x_signed": int(fmt.signed), "x_channel": fmt.planes * stride,
                       "x_plane": stride, "x_strided": int(node.strided)}
            start = inputs[0].channels(first // parts, end // parts)
            values |= {"in0_base": start.base, "in0_end": start.end}
        self._check(node, values)
        self.layers[len(self._descriptors)] = node.name
        self._descriptors.append((Opcode.CONV if isinstance(node, Conv) else Opcode.ELEMENTWISE, values))

    def _check(self, node: Node, values: dict[str, int]) -> None:
        for name, limit in LIMITS.items():
            if name in values and not limit.low <= values[name] <= limit.high(self.machine):
                raise LayerError(f"layer {node.name!r}: {name} is {values[name]}; the configuration allows "
                                 f"{limit.low} to {limit.high(self.machine)} ({limit.text})")

    def _result(self, node: Node, outputs: int, samples: int, height: int, width: int, residual: Place | None,
                out: Place) -> dict[str, int]:
        pixels, fmt = samples * height * width, out.tensor.fmt
        cols = self.machine.cols
        k_tiles = -(-outputs // cols)
        out_pixels = out.tensor.nibbles // (out.tensor.shape[0] * fmt.planes)
        distance = fmt.planes * out_pixels * (4 if node.transform == "space_to_depth" else 1)
        values = {
            "transform": TRANSFORM_CODES[node.transform], "out_wide": fmt.planes - 1, "out_signed": int(fmt.signed),
            "width": width, "height": height, "pixels": pixels, "sample_pixels": height * width,
            "tiles": -(-pixels // self.machine.rows), "k_tiles": k_tiles, "last_cols": outputs - (k_tiles - 1) * cols,
            "shift": node.post.shift, "dead_zone": node.post.dead_zone, "out_base": out.base,
            "out_channel": distance, "out_plane": out_pixels, "out_end": out.end,
        }
        if residual is not None:
            fmt = residual.tensor.fmt
            values |= {"residual": 1, "res_wide": fmt.planes - 1, "res_signed": int(fmt.signed),
                       "res_base": residual.base, "res_channel": fmt.planes * pixels, "res_plane": pixels,
                       "res_end": residual.end}
        if node.detection is not None and out.labels is not None:
            first, slot = out.labels[0]
            values |= {"detect": 1, "balance": int(node.detection.balance), "bin_shift": node.detection.bin_shift,
                       "label_first": first, "label_slot": slot, "label_limit": node.detection.label_limit,
                       "dense_cost": node.detection.dense_cost}
        return values

    def _parameters(self, node: Node, post: Parameters) -> dict[str, int]:
        outputs, loaded = post.M.shape[1], self._blocks(post)
        if loaded * outputs > self.machine.param_depth // 2:
            raise LayerError(f"layer {node.name!r}: {loaded} parameter blocks of {outputs} words; "
                             f"param_depth/2={self.machine.param_depth // 2}")
        log2 = (aligned(outputs * self.packing.param_bytes) - 1).bit_length()
        raw = bytearray()
        for block in range(post.blocks):
            try:
                words = [self.packing.pack_param(int(post.M[block, k]), int(post.R[block, k]), int(post.B[block, k]))
                         for k in range(outputs)]
            except ValueError as error:
                raise LayerError(f"layer {node.name!r}: {error}") from None
            raw += b"".join(words).ljust(1 << log2, b"\0")
        return {"params": self._add(bytes(raw)), "outputs": outputs, "block_log2": log2,
                "one_block": int(post.blocks == 1)}

    def _blocks(self, post: Parameters) -> int:
        """Parameter blocks that a layer loads."""
        return 1 if post.blocks == 1 else self.blocks

    def _convolution(self, node: Conv, first: int, end: int, post: Parameters, inputs: Sequence[Place],
                     residual: Place | None, out: Place) -> dict[str, int]:
        machine, packing = self.machine, self.packing
        image = _image(node, first, end, post, inputs, residual, out, machine)
        table, weights, codes = image.table, image.weights, image.codes
        if not table:       # all weights are 0, but what runs has an entry: the centre tap, of kernel line 1, with 0
            table = [TableEntry(Entry(inputs[0].base, 0, 0, CENTRE_TAP, False, False, 0, True), False, 0, 0)]
            weights = np.zeros((len(weights), 2, *weights.shape[2:]), np.int64)
        labels = [unlabelled(machine) if place.labels is None else place.labels[channel]
                  for place in inputs for channel in range(place.tensor.shape[0])]
        table = [replace(item, label=labels[item.label][0], slot=labels[item.label][1]) for item in table]
        one_tap = node.kernel == 1
        return {
            "table": self._add(b"".join(map(packing.pack_entry, table))), "table_count": len(table),
            "weights": self._add(b"".join(packing.pack_ktile(tile, scales, one_tap)
                                          for tile, scales in zip(weights, codes, strict=True))),
            "words": weights.shape[1], "one_tap": int(one_tap), "groups": codes.shape[1],
            "even": int(image.fields["even"]), "upsampled": int(node.upsampled),
        }

    def _add(self, raw: bytes) -> int:
        """Offset of these bytes in the payload; what is there already is used again."""
        if raw not in self._offsets:
            self._offsets[raw] = len(self._payload)
            self._payload += raw.ljust(aligned(len(raw)), b"\0")
        return self._offsets[raw]


def _meets(interval: tuple[int, int], others: Sequence[tuple[int, int]]) -> bool:
    return any(interval[0] < end and first < interval[1] for first, end in others)


def _blank(shape: tuple[int, int, int, int], fmt: Format) -> Tensor:
    return Tensor(np.zeros(shape, np.int64), fmt)


def _image(node: Conv, first: int, end: int, post: Parameters, inputs: Sequence[Place], residual: Place | None,
           out: Place, machine: Machine) -> LayerImage:
    """Table, weights and codes of some output channels. The values of tensors play no part in them."""
    block: Int64Array = np.zeros(inputs[0].tensor.shape[1], np.int64)
    layer = Layer(
        node.name, tuple(_blank(place.tensor.shape, place.tensor.fmt) for place in inputs), node.weights[first:end],
        node.w_fmt, node.codes[first:end], node.group,
        PostParams(post.M[:1], post.R[:1], post.B[:1], post.shift, post.dead_zone, block), out.tensor.fmt,
        None if residual is None else _blank(residual.tensor.shape, residual.tensor.fmt), node.transform,
        node.upsampled)
    assert out.tensor.shape == written_shape((end - first, *layer.in_shape[1:]), node.transform)
    placement = Placement(tuple(place.base for place in inputs), residual.base if residual else 0, out.base,
                          max(place.end for place in (*inputs, out)))
    return compile_layer(layer, machine, placement)
