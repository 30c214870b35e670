"""Random layers and all that a run of them needs: the stimuli of the engine's tests and of the post-processor's bench.

Sizes are odd, tensors lie at unaligned addresses with gaps of noise between them, and a layer's part of the channel
lists, of the parameter memory and of the sample table begins anywhere. What must come out is computed here, by the
golden model, before any simulation starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.conv import bounds, conv
from golden.formats import FORMATS, S4, U4, Format, ScaleFormat, Tensor, Uint8Array
from golden.layer import Layer, LayerError, LayerImage, Placement, Transform, compile_layer, initial_memory, place, run
from golden.layout import load
from golden.ppu import FACTOR_BITS, PostParams
from hw.config import Config

__all__ = ["LayerCase", "array_steps", "chained_case", "difference", "layer_case", "random_layer", "random_post",
           "random_tensor"]

TRANSFORMS: tuple[Transform, ...] = ("none", "upsample", "space_to_depth")
GAP = 8     # tensors lie up to GAP - 1 nibbles apart
TENSORS = 4  # at most: two input segments, residual, output


@dataclass(frozen=True, eq=False)
class LayerCase:
    """A layer, how the engine is told to run it, and the whole activation memory before and after."""

    layer: Layer
    placement: Placement
    image: LayerImage
    before: Uint8Array
    after: Uint8Array


def random_tensor(rng: np.random.Generator, shape: Sequence[int], fmt: Format) -> Tensor:
    """A tensor of uniform values, often zero."""
    values = rng.integers(fmt.min, fmt.max + 1, shape)
    return Tensor(np.where(rng.random(shape) < rng.choice([0.0, 0.6]), 0, values), fmt)


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
        (a Format or None), `weights` and `codes`.
    """
    while True:
        if inputs is not None:
            shape = (sum(tensor.shape[0] for tensor in inputs), *inputs[0].shape[1:])
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
        if (channels + outputs * planes) * samples * height * width + TENSORS * GAP <= config.act_nibbles:
            break

    if inputs is None:
        cut = int(rng.integers(0, channels))
        segments = [cut, channels - cut] if cut else [channels]
        inputs = tuple(random_tensor(rng, (count, *shape[1:]), [U4, S4][rng.integers(2)]) for count in segments)
    kernel = fixed.get("kernel", [1, 3][rng.integers(2)])
    group = fixed.get("group", int(rng.integers(1, min(config.group, 9) + 1)))
    used = rng.random((1, channels, kernel, kernel)) < rng.choice([1.0, 0.6, 0.2])
    weights = fixed.get("weights", rng.integers(S4.min, S4.max + 1, (outputs, channels, kernel, kernel)) * used)
    scale = ScaleFormat(config.scale_exp_bits, config.scale_man_bits)
    codes = fixed.get("codes", rng.integers(0, scale.max_code + 1, (outputs, -(-channels // group))))
    formats = [tensor.fmt for tensor in inputs for _ in range(tensor.shape[0])]
    while bounds(weights, S4, formats, codes, group, scale).acc_bits > config.acc_bits:
        codes = codes // 2
    reach = int(np.abs(conv(inputs, weights, S4, codes, group, scale)).max())
    return Layer(
        name="random", inputs=inputs, weights=weights, w_fmt=S4, codes=codes.astype(np.uint8), group=group,
        post=random_post(rng, config, outputs, samples, reach.bit_length() + 1, out_fmt), out_fmt=out_fmt,
        residual=random_tensor(rng, (outputs, *shape[1:]), res_fmt) if res_fmt else None, transform=transform)


def layer_case(rng: np.random.Generator, config: Config, layer: Layer, *, placement: Placement | None = None,
               memory: Uint8Array | None = None, channels: Sequence[Sequence[int]] | None = None,
               first: Sequence[int] | None = None) -> LayerCase:
    """Place and compile a layer at random, and compute what memory must hold afterwards.

    Parameters
    ----------
    rng : Generator
    config : Config
    layer : Layer
    placement : Placement, optional
        Where the tensors lie, drawn unless given.
    memory : uint8 [act_nibbles], optional
        What memory holds beside the inputs, drawn unless given.
    channels : per array, a sequence of int, optional
        As of `golden.layer.compile_layer`; a random split in random order unless given.
    first : sequence of int, optional
        Where in the channel lists, the parameter memory and the sample table the layer's part begins.
    """
    in_channels = layer.in_shape[0]
    if placement is None:
        placement = place(layer, config, rng.integers(0, GAP, TENSORS).tolist())
    if memory is None:
        memory = rng.integers(0, 16, config.act_nibbles).astype(np.uint8)
    if channels is None:
        owner = rng.integers(0, config.arrays, in_channels)
        order = rng.permutation(in_channels) if rng.random() < 0.5 else np.arange(in_channels)
        channels = [[int(c) for c in order if owner[c] == array] for array in range(config.arrays)]
    if first is None:
        spare = _ends(layer, [config.list_depth, config.param_depth, config.samples], -1)
        first = [int(rng.integers(0, count + 1)) for count in spare]
    image = compile_layer(layer, config, placement, channels,
                          list_first=first[0], param_first=first[1], sample_first=first[2])
    before = initial_memory(layer, placement, memory)
    return LayerCase(layer, placement, image, before, run(layer, config, placement, before))


def _ends(layer: Layer, first: Sequence[int], sign: int = 1) -> list[int]:
    """`first` plus (or minus) the list entries, parameter words and samples that a layer takes."""
    in_channels, samples = layer.in_shape[:2]
    return [start + sign * size for start, size in zip(first, (in_channels, layer.post.M.size, samples), strict=True)]


def chained_case(rng: np.random.Generator, config: Config, previous: LayerCase, out_fmt: Format) -> LayerCase:
    """A layer that reads what another left in memory, and shares no list entry or parameter with it."""
    written = load(previous.after, previous.placement.out, previous.layer.out_fmt, previous.layer.out_shape)
    image = previous.image
    first = _ends(previous.layer, [image.list_first, image.param_first, image.fields["sample_first"]])
    while True:
        layer = random_layer(rng, config, inputs=(written,), outputs=int(rng.integers(1, 5)), out_fmt=out_fmt)
        try:
            placement = place(layer, config, [previous.placement.out, *rng.integers(0, GAP, 2).tolist()])
        except LayerError:      # the output does not fit behind its input
            continue
        if layer.residual is not None:      # whatever lies there is as good as any
            fmt, shape = layer.residual.fmt, layer.residual.shape
            layer = replace(layer, residual=load(previous.after, placement.residual, fmt, shape))
        return layer_case(rng, config, layer, placement=placement, memory=previous.after, first=first)


def array_steps(config: Config, image: LayerImage) -> list[int]:
    """Cycles in which each dense array multiplies: one per used kernel line, or per used tap with one multiplier."""
    def steps(taps: int) -> int:
        if config.dense_taps == 1:
            return taps.bit_count()
        return sum((taps >> 3 * line & 7) != 0 for line in range(3))

    tiles = image.fields["tiles"] * image.fields["k_tiles"]
    return [tiles * sum(steps(entry.taps) for entry in entries) for entries in image.lists]


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
            f"{layer.out_fmt.name} output, {residual} residual")
