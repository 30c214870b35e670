"""Random layers and all that a run of them needs: the stimuli of the engine's tests and of the post-processor's bench.

Sizes are odd, tensors lie at unaligned addresses with gaps of noise between them, and a layer's part of the channel
table, of the parameter memory, of the sample table and of the labels begins anywhere. What must come out is computed
here, by the golden model, before any simulation starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.conv import bounds, conv
from golden.detector import Detection, Labels, balance_detection, classify, threshold_detection
from golden.formats import FORMATS, S4, S8, U4, Format, Int64Array, ScaleFormat, Tensor, Uint8Array
from golden.layer import (
    Entry,
    LabelPlace,
    Layer,
    LayerError,
    LayerImage,
    Placement,
    Transform,
    compile_layer,
    initial_memory,
    place,
    run,
)
from golden.layout import load, upsample2
from golden.ppu import FACTOR_BITS, PostParams
from golden.scheduler import schedule
from golden.work import image_work, tap_counts
from hw.config import LINE_TAPS, Config

__all__ = ["Labelled", "LayerCase", "array_steps", "chained_case", "difference", "layer_case", "output_nonzeros",
           "random_detection", "random_labels", "random_layer", "random_post", "random_tensor"]

TRANSFORMS: tuple[Transform, ...] = ("none", "upsample", "space_to_depth")
GAP = 8     # tensors lie up to GAP - 1 nibbles apart
TENSORS = 4  # at most: two input segments, residual, output


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labels, and where they are."""

    place: LabelPlace
    labels: Labels


@dataclass(frozen=True, eq=False)
class LayerCase:
    """A layer, how the engine is told to run it, and the whole activation memory before and after.

    Parameters
    ----------
    layer, placement, image, before, after
    inputs : tuple of Labelled
        The labels of each input.
    output : Labelled
        The labels of the output, made anew by the layer or, without detection, left as they were.
    labels_before : Labels
        The labels of the output before the layer.
    """

    layer: Layer
    placement: Placement
    image: LayerImage
    before: Uint8Array
    after: Uint8Array
    inputs: tuple[Labelled, ...]
    output: Labelled
    labels_before: Labels

    def lists(self, config: Config) -> list[list[Entry]]:
        """Each array's channel list."""
        channels = {(item.place.slot, item.place.first + c): (bool(sparse), bool(dead), int(count_bin))
                    for item in self.inputs for c, (sparse, dead, count_bin)
                    in enumerate(zip(item.labels.sparse, item.labels.dead, item.labels.bin, strict=True))}
        table = self.image.table
        return schedule(table, [channels[entry.slot, entry.label] for entry in table], config,
                        even=self.image.fields["even"])


def random_tensor(rng: np.random.Generator, shape: Sequence[int], fmt: Format) -> Tensor:
    """A tensor of uniform values, often zero, and of channels that are zero."""
    values = rng.integers(fmt.min, fmt.max + 1, shape)
    zero = (rng.random(shape) < rng.choice([0.0, 0.6, 0.9])) | (rng.random((shape[0], 1, 1, 1)) < 0.15)
    return Tensor(np.where(zero, 0, values), fmt)


def random_post(rng: np.random.Generator, config: Config, outputs: int, samples: int, reach_bits: int,
                out_fmt: Format, shift: int | None = None) -> PostParams:
    """Parameters that spread accumulators of about `reach_bits` bits over the output's range and somewhat beyond."""
    def signed(bits: int, size: tuple[int, ...]) -> NDArray[np.int64]:
        return rng.integers(-1 << (bits - 1), 1 << (bits - 1), size)

    size = int(rng.integers(1, 3)), outputs
    m_bits = int(rng.integers(2, FACTOR_BITS + 1))
    if shift is None:
        shift = int(np.clip(reach_bits + m_bits - out_fmt.bits - rng.integers(0, 4), 0, config.shift_max))
    top_bits = min(shift + out_fmt.bits, config.bias_bits - 1)      # of results before the shift
    return PostParams(
        M=signed(m_bits, size),
        R=signed(int(np.clip(top_bits - 8, 2, FACTOR_BITS)), size),
        B=signed(top_bits, size) // 2 + (0 if out_fmt.signed else 1 << top_bits - 2),
        shift=shift,
        dead_zone=int(rng.choice([0, 0, 1, 2, 3, 4, 5, out_fmt.max, 255])),
        sample_block=rng.integers(0, size[0], samples),
    )


def random_labels(rng: np.random.Generator, tensor: Tensor) -> Labels:
    """Any legal labels: only what is zero may be dead."""
    channels = tensor.shape[0]
    zero = ~tensor.values.reshape(channels, -1).any(axis=1)
    return Labels(rng.random(channels) < rng.choice([0.1, 0.5, 0.9]), zero & (rng.random(channels) < 0.7),
                  rng.integers(0, 32, channels))


def random_detection(rng: np.random.Generator, config: Config, pixels: int) -> Detection:
    """Either mode."""
    if rng.random() < 0.5:
        return threshold_detection(pixels, rng.random())
    return balance_detection(pixels, config.dense, config.sparse, config.dense_taps)


def random_layer(rng: np.random.Generator, config: Config, *, inputs: tuple[Tensor, ...] | None = None,
                 **fixed: Any) -> Layer:
    """Draw a layer that fits the activation memory and overflows nothing.

    Parameters
    ----------
    rng : Generator
    config : Config
    inputs : tuple of Tensor, optional
        The input, drawn unless given.
    **fixed
        What shall not be drawn: `shape` (C, N, H, W), `outputs`, `kernel`, `group`, `transform`, `out_fmt`, `residual`
        (a Format or None), `in_fmts` (to be drawn from), `w_fmt`, `weights`, `codes`, `upsampled`. Unless the formats
        are given, some layers have 8-bit ones where the configuration has a sparse array.
    """
    wide = config.sparse > 0 and rng.random() < 0.3
    in_fmts = fixed.get("in_fmts", list(FORMATS.values()) if wide else [U4, S4])
    w_fmt = fixed.get("w_fmt", [S4, S8][rng.integers(2)] if wide else S4)
    while True:
        if inputs is not None:
            _, samples, height, width = inputs[0].shape
            factor = 2 if fixed.get("upsampled", False) else 1
            shape = (sum(tensor.shape[0] for tensor in inputs), samples, factor * height, factor * width)
        else:
            even = int(rng.integers(1, 3))
            drawn = [int(rng.integers(1, most)) for most in (12, 4, 8 // even, 10 // even)]
            shape = fixed.get("shape", (*drawn[:2], even * drawn[2], even * drawn[3]))
        channels, samples, height, width = shape
        outputs = fixed.get("outputs", int(rng.integers(1, 12)))
        legal = TRANSFORMS if height % 2 == width % 2 == 0 else TRANSFORMS[:2]
        transform = fixed.get("transform", legal[rng.integers(len(legal))])
        out_fmt = fixed.get("out_fmt", list(FORMATS.values())[rng.integers(4)])
        res_fmt = fixed.get("residual", [None, *FORMATS.values()][rng.integers(5)])
        planes = out_fmt.planes * (4 if transform == "upsample" else 1) + (res_fmt.planes if res_fmt else 0)
        in_planes = max(fmt.planes for fmt in in_fmts)
        if (channels * in_planes + outputs * planes) * samples * height * width + TENSORS * GAP <= config.act_nibbles:
            break

    upsampled = fixed.get("upsampled", inputs is None and height % 2 == 0 and width in config.upsampled_widths
                          and rng.random() < 0.5)
    factor = 2 if upsampled else 1
    if inputs is None:
        cut = int(rng.integers(0, channels))
        segments = [cut, channels - cut] if cut else [channels]
        inputs = tuple(random_tensor(rng, (count, samples, height // factor, width // factor),
                                     in_fmts[rng.integers(len(in_fmts))]) for count in segments)
    kernel = fixed.get("kernel", [1, 3][rng.integers(2)])
    group = fixed.get("group", int(rng.integers(1, min(config.group, 9) + 1)))
    used = rng.random((1, channels, kernel, kernel)) < rng.choice([1.0, 0.6, 0.2])
    weights = fixed.get("weights", rng.integers(w_fmt.min, w_fmt.max + 1, (outputs, channels, kernel, kernel)) * used)
    scale = ScaleFormat(config.scale_exp_bits, config.scale_man_bits)
    codes = fixed.get("codes", rng.integers(0, scale.max_code + 1, (outputs, -(-channels // group))))
    formats = [tensor.fmt for tensor in inputs for _ in range(tensor.shape[0])]
    while bounds(weights, w_fmt, formats, codes, group, scale).acc_bits > config.acc_bits:
        codes = codes // 2
    seen = [upsample2(tensor) for tensor in inputs] if upsampled else inputs
    reach = int(np.abs(conv(seen, weights, w_fmt, codes, group, scale)).max())
    return Layer(
        name="random", inputs=inputs, weights=weights, w_fmt=w_fmt, codes=codes.astype(np.uint8), group=group,
        post=random_post(rng, config, outputs, samples, reach.bit_length() + 1, out_fmt), out_fmt=out_fmt,
        residual=random_tensor(rng, (outputs, *shape[1:]), res_fmt) if res_fmt else None, transform=transform,
        upsampled=upsampled)


def layer_case(rng: np.random.Generator, config: Config, layer: Layer, *, placement: Placement | None = None,
               memory: Uint8Array | None = None, order: Sequence[int] | None = None,
               first: Sequence[int] | None = None, inputs: Sequence[Labelled] | None = None,
               detect: bool | None = None) -> LayerCase:
    """Place and compile a layer at random, and compute what memory and labels must be afterwards.

    The labels are those of a policy that makes them anew every time.

    Parameters
    ----------
    rng : Generator
    config : Config
    layer : Layer
    placement : Placement, optional
        Where the tensors lie, drawn unless given.
    memory : uint8 [act_nibbles], optional
        What memory holds beside the inputs, drawn unless given.
    order : sequence of int, optional
        Order of the channels in the table, drawn unless given.
    first : sequence of int, optional
        Where in the channel table, the parameter memory and the sample table the layer's part begins.
    inputs : per input, Labelled, optional
        The labels of the inputs, drawn unless given.
    detect : bool, optional
        Label the output; drawn unless given.
    """
    if detect is None:
        detect = rng.random() < 0.7
    if placement is None:
        placement = place(layer, config, rng.integers(0, GAP, TENSORS).tolist())
    if memory is None:
        memory = rng.integers(0, 16, config.act_nibbles).astype(np.uint8)
    if order is None:
        order = (rng.permutation if rng.random() < 0.5 else np.arange)(layer.in_shape[0]).tolist()
    if first is None:
        most = layer.in_shape[0] * layer.w_fmt.planes * max(tensor.fmt.planes for tensor in layer.inputs)
        first = [int(rng.integers(0, max(0, depth - size) + 1)) for depth, size in (
            (config.table_depth, most), (config.param_depth, layer.post.M.size),
            (config.samples, layer.in_shape[1]))]
    before = initial_memory(layer, placement, memory)

    if inputs is None:
        taken, inputs = 0, []
        for number, tensor in enumerate(layer.inputs):
            where = LabelPlace(taken + int(rng.integers(4)), int(rng.integers(1 + number)))
            taken = where.first + tensor.shape[0]
            inputs.append(Labelled(where, random_labels(rng, tensor)))
    taken = max(item.place.first + len(item.labels.dead) for item in inputs)
    slot = (max(item.place.slot for item in inputs) + int(rng.integers(1, config.label_slots - 1))) % config.label_slots
    channels = layer.out_shape[0]
    if taken + channels > config.label_depth:   # there is room below, for the inputs' labels are the latest
        taken = 0
    out_place = LabelPlace(taken, slot)
    detection = random_detection(rng, config, int(np.prod(layer.in_shape[1:]))) if detect else None
    image = compile_layer(
        layer, config, placement, order, in_labels=[item.place for item in inputs], out_labels=out_place,
        detection=detection, table_first=first[0], param_first=first[1], sample_first=first[2])
    after = run(layer, config, placement, before)
    labels_before = Labels(rng.random(channels) < 0.5, np.zeros(channels, np.bool_), rng.integers(0, 32, channels))
    labels = classify(output_nonzeros(layer, placement, after), detection) if detection else labels_before
    return LayerCase(layer, placement, image, before, after, tuple(inputs), Labelled(out_place, labels), labels_before)


def output_nonzeros(layer: Layer, placement: Placement, memory: Uint8Array) -> Int64Array:
    """Nonzeros of each channel of a layer's output as the detector counts them: of an upsampled pixel, one."""
    values = load(memory, placement.out, layer.out_fmt, layer.out_shape).values
    nonzeros = np.count_nonzero(values, axis=(1, 2, 3))
    return nonzeros // 4 if layer.transform == "upsample" else nonzeros


def chained_case(rng: np.random.Generator, config: Config, previous: LayerCase, out_fmt: Format,
                 **fixed: Any) -> LayerCase:
    """A layer that reads what another left in memory, by the labels that it made, shares nothing else, and labels."""
    written = load(previous.after, previous.placement.out, previous.layer.out_fmt, previous.layer.out_shape)
    image = previous.image
    first = [image.table_first + len(image.table), image.param_first + previous.layer.post.M.size,
             image.fields["sample_first"] + previous.layer.in_shape[1]]
    while True:
        layer = random_layer(rng, config, inputs=(written,), outputs=int(rng.integers(1, 5)), out_fmt=out_fmt, **fixed)
        try:
            placement = place(layer, config, [previous.placement.out, *rng.integers(0, GAP, 2).tolist()])
        except LayerError:      # the output does not fit behind its input
            continue
        if layer.residual is not None:      # whatever lies there is as good as any
            fmt, shape = layer.residual.fmt, layer.residual.shape
            layer = replace(layer, residual=load(previous.after, placement.residual, fmt, shape))
        return layer_case(rng, config, layer, placement=placement, memory=previous.after, first=first,
                          inputs=[previous.output], detect=True)


def array_steps(config: Config, case: LayerCase) -> list[int]:
    """Steps of all rows of each array.

    A row of a dense array makes one per used kernel line, or per used tap with one multiplier; one of a sparse array
    one per nonzero, or one where a whole tile has none.
    """
    def dense_steps(taps: int) -> int:
        if config.dense_taps == 1:
            return taps.bit_count()
        return sum((taps >> 3 * line & 7) != 0 for line in range(LINE_TAPS))

    fields, lists = case.image.fields, case.lists(config)
    work = image_work(case.layer, case.image, case.before, lists)
    steps = []
    for array, entries in enumerate(lists):
        if array < config.dense or not entries:
            per_ktile = config.rows * fields["tiles"] * sum(dense_steps(entry.taps) for entry in entries)
        else:
            listed = work.lists[array].position
            nonzeros = tap_counts(work.nonzero[listed], work.taps[listed]).sum(axis=0, dtype=np.int64)
            beyond = fields["tiles"] * config.rows - fields["pixels"]   # rows of the last tile without a pixel
            per_ktile = int(nonzeros.sum() + np.count_nonzero(nonzeros == 0)) + beyond
        steps.append(fields["k_tiles"] * per_ktile)
    return steps


def difference(case: LayerCase, memory: Uint8Array) -> str:
    """Where the memory after a run differs from the golden model, in words; empty if nowhere."""
    wrong = np.flatnonzero(memory != case.after)
    if not wrong.size:
        return ""
    layer, first = case.layer, int(wrong[0])
    where = "of the output" if case.placement.out <= first < case.placement.end else "outside the output"
    residual = layer.residual.fmt.name if layer.residual else "no"
    return (f"{wrong.size} nibbles differ; the first, {first - case.placement.out} {where}, is {memory[first]} and "
            f"should be {case.after[first]}; input {layer.in_shape}, weights {layer.weights.shape}, {layer.transform}, "
            f"upsampled {layer.upsampled}, {layer.out_fmt.name} output, {residual} residual")
