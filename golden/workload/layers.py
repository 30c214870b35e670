"""Integer layers of the trained network on real activations: what the hardware runs, and what it should come close to.

A layer's real activations at a time step are quantised with one scale per tensor and time step (the temporal parallel
quantiser of DilateQuant, arXiv 2409.14307, section 4.2), its weights with one scale code per output channel and group.
All that is real-valued is folded into the post-processor's parameters, for each output channel k and class:

    y / s_out = acc * gain + offset + residual * s_res / s_out
    gain      = channel_scale * s_in * factor / s_out         factor, shift: modulation by time step and class
    offset    = (bias * factor + shift) / s_out               (1 and 0 where a layer has none)

each times 2**S, rounded: M, B and R.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from golden.formats import S8, U4, Format, Int64Array, ScaleFormat, Tensor
from golden.layer import Layer, Transform
from golden.layout import space_to_depth, space_to_depth_weights
from golden.ppu import FACTOR_BITS, PostParams
from golden.quant.weights import Float64Array, Method, QuantisedWeights, quantise, quantise_per_channel
from golden.workload.sampler import SIGMA_MAX, STEPS, Trajectory, sample, sigma_schedule
from golden.workload.unet import (
    CLASSES,
    DEFAULT_MODEL,
    MODELS,
    NETWORK,
    Activations,
    Float32Array,
    ModelInfo,
    Node,
    Weights,
    embedding,
    load,
    modulation,
)

LAYERS = tuple(node.name for node in NETWORK)
EIGHT_BIT_WEIGHTS = ("conv_in", "conv_out")
SIGNED_TENSORS = ("x", "F", "u3.skip", "u1.skip")
NARROW_SCALES = ScaleFormat(exp_bits=1, man_bits=3)
SMALLEST_LARGEST_FACTOR = 16


@dataclass(frozen=True)
class Workload:
    """What to sample and how to quantise it.

    Parameters
    ----------
    model : str
        One of `golden.workload.unet.MODELS`, with ReLU.
    samples : int
        Digits in the batch, of the classes 0, 1, ..., 9, 0, ...
    seed : int
        Of the initial noise.
    sigma_max : float
        Noise level of step 0.
    steps : int
        Noise levels.
    group : int
        Input channels per scale code.
    scale_format : ScaleFormat
        Window of the scale codes. The default, UE1M3, has the values 0 to 15; its codes are the lowest of every wider
        window, so they run on any hardware with three mantissa bits. Against UE4M3 it loses less than 0.05 dB of weight
        precision and needs 13 to 14 accumulator bits less. In a layer with a residual, where R bounds S, it also
        leaves M bits enough, as wide windows do not.
    method : str
        As of `golden.quant.weights.quantise`.

    Raises
    ------
    ValueError
        If `model`, `samples`, `sigma_max` or `steps` is illegal.
    """

    model: str = DEFAULT_MODEL
    samples: int = CLASSES
    seed: int = 0
    sigma_max: float = SIGMA_MAX
    steps: int = STEPS
    group: int = 8
    scale_format: ScaleFormat = NARROW_SCALES
    method: Method = "mse"

    def __post_init__(self) -> None:
        load(self.model)
        if self.info.activation != "relu":
            raise ValueError(f"model {self.model} has {self.info.activation}; the integer layers have ReLU")
        sigma_schedule(self.steps, self.sigma_max)
        if operator.index(self.samples) < 1:
            raise ValueError(f"samples must be at least 1, not {self.samples}")

    @property
    def info(self) -> ModelInfo:
        """Of the model."""
        return MODELS[self.model]

    @cached_property
    def trajectory(self) -> Trajectory:
        """The float sampling run whose activations the layers see and are calibrated on."""
        labels = np.arange(self.samples) % CLASSES
        return sample(load(self.model), labels, steps=self.steps, sigma_max=self.sigma_max, seed=self.seed,
                      info=self.info)


@dataclass(frozen=True, eq=False)
class RealLayer:
    """One integer layer of the network and what its numbers stand for.

    Parameters
    ----------
    layer : Layer
        What the hardware computes. Its inputs are as they are in memory: of an upsampled tensor the large one, of the
        input of `down` the space-to-depth one, for which the weights of `down` are rewritten, their groups four times
        as long. The post-processor has one parameter block per class in layers with modulation, else one for all; the
        output is u4 after ReLU, s8 elsewhere.
    step : int
        Time step, 0 to 17.
    scale_format : ScaleFormat
        What the layer's scale codes mean.
    channel_scale : float64 [K]
        As of `golden.quant.weights.QuantisedWeights`.
    in_scale, out_scale : float
        The activation that 1 stands for in the inputs and in the output.
    reference : float64 [K, N, H, W]
        The float network's activation at the layer's output before the write transform, in units of `out_scale`.
    """

    layer: Layer
    step: int
    scale_format: ScaleFormat
    channel_scale: Float64Array
    in_scale: float
    out_scale: float
    reference: Float64Array

    @property
    def quantised(self) -> QuantisedWeights:
        """The layer's weights with all their scales."""
        layer = self.layer
        return QuantisedWeights(layer.weights, layer.codes, self.channel_scale, layer.group, layer.w_fmt,
                                self.scale_format)


DEFAULT = Workload()


def real_layer(name: str, step: int, workload: Workload = DEFAULT) -> RealLayer:
    """The integer layer `name` at time step `step` of a workload.

    Parameters
    ----------
    name : str
        One of `LAYERS`.
    step : int
        0 (noise) to the workload's last (image).
    workload : Workload
        Sampled when first used, in a fraction of a second, and kept with its activations as long as the object.

    Raises
    ------
    ValueError
        If there is no such layer or step, or the scale window leaves M too few bits beside R in this layer.
    """
    if name not in LAYERS:
        raise ValueError(f"there is no layer {name!r}, only {', '.join(LAYERS)}")
    if not 0 <= operator.index(step) < workload.steps:
        raise ValueError(f"step must be in [0, {workload.steps - 1}], not {step}")
    node = NETWORK[LAYERS.index(name)]
    model = load(workload.model)
    run = workload.trajectory
    tensors = run.activations[step]

    s_in, s_out = _scale(tensors, node.inputs[0]), _scale(tensors, node.output)
    inputs = tuple(_quantised(tensors, name, s_in) for name in node.inputs)
    weights = _weights(model, node, workload)
    if node.stride == 2:
        inputs = tuple(space_to_depth(tensor) for tensor in inputs)
        weights = replace(weights, q=space_to_depth_weights(weights.q), group=4 * weights.group)
    residual, s_res = None, 0.0
    if node.residual is not None:
        s_res = _scale(tensors, node.residual)
        residual = _quantised(tensors, node.residual, s_res)

    factor, shift, sample_block = _modulation(model, node, float(run.sigmas[step]), run.labels)
    gain = weights.channel_scale * s_in / s_out * factor
    offset = (model[f"{name}.bias"] * factor + shift) / s_out
    reference = tensors[node.output].astype(np.float64) / s_out
    if node.upsample:
        reference = reference[:, :, ::2, ::2]
    post = _post_params(name, gain, offset, s_res / s_out, sample_block)
    layer = Layer(name, inputs, weights.q, weights.fmt, weights.codes, weights.group, post, _format(node.output),
                  residual, _transform(node))
    return RealLayer(layer, step, weights.scale_format, weights.channel_scale, s_in, s_out, reference)


def activation_scale(values: Float32Array, fmt: Format) -> float:
    """The step with the least squared error of quantising values [...], of 61 from 40 to 100 % of the min-max step."""
    largest = float(np.abs(values).max())
    if largest == 0:
        return 1.0
    steps = largest / fmt.max * np.linspace(0.4, 1.0, 61)
    errors = [np.square(step * _rounded(values, step, fmt) - values).mean() for step in steps]
    return float(steps[np.argmin(errors)])


def _rounded(values: Float32Array, step: float, fmt: Format) -> Float64Array:
    return np.clip(np.rint(values.astype(np.float64) / step), fmt.min, fmt.max)


def _format(tensor: str) -> Format:
    return S8 if tensor in SIGNED_TENSORS else U4


def _scale(tensors: Activations, name: str) -> float:
    """The scale of a tensor; those that are concatenated anywhere have one scale, for a layer has one M for both."""
    sharing: Sequence[str] = next((node.inputs for node in NETWORK if len(node.inputs) > 1 and name in node.inputs),
                                  (name,))
    return activation_scale(np.concatenate([tensors[shared].ravel() for shared in sharing]), _format(name))


def _quantised(tensors: Activations, name: str, scale: float) -> Tensor:
    fmt = _format(name)
    return Tensor(_rounded(tensors[name], scale, fmt).astype(np.int64), fmt)


def _weights(model: Weights, node: Node, workload: Workload) -> QuantisedWeights:
    values = model[f"{node.name}.weight"]
    if node.name in EIGHT_BIT_WEIGHTS:
        return quantise_per_channel(values, workload.group, workload.scale_format)
    return quantise(values, workload.group, workload.scale_format, method=workload.method)


def _modulation(model: Weights, node: Node, sigma: float,
                labels: Int64Array) -> tuple[Float64Array, Float64Array, Int64Array]:
    """Factor and shift [blocks, K], and the block of each sample [N]: a block per class, or one for all."""
    if node.modulation is None:
        outputs = model[f"{node.name}.bias"].size
        return np.ones((1, outputs)), np.zeros((1, outputs)), np.zeros(labels.size, dtype=np.int64)
    classes, sample_block = np.unique(labels, return_inverse=True)
    factor, shift = modulation(model, node.modulation, embedding(model, sigma, classes))
    return factor.T.astype(np.float64), shift.T.astype(np.float64), sample_block


def _post_params(name: str, gain: Float64Array, offset: Float64Array, residual_gain: float,
                 sample_block: Int64Array) -> PostParams:
    """Integer parameters with the largest S at which every M and R, after rounding, fits 16 bits."""
    limit = (1 << (FACTOR_BITS - 1)) - 1
    shift = int(np.floor(np.log2(limit / max(np.abs(gain).max(), residual_gain))))
    m, r, b = (np.rint(np.ldexp(value, shift)).astype(np.int64)
               for value in (gain, np.full_like(gain, residual_gain), offset))
    if np.abs(m).max() < SMALLEST_LARGEST_FACTOR:
        raise ValueError(f"layer {name!r}: at S = {shift}, the most that R allows, no |M| is above {np.abs(m).max()} "
                         f"and {SMALLEST_LARGEST_FACTOR} is the least; use a narrower scale window (fewer exp_bits)")
    return PostParams(M=m, R=r, B=b, shift=shift, dead_zone=0, sample_block=sample_block)


def _transform(node: Node) -> Transform:
    if node.upsample:
        return "upsample"
    read_with_stride = any(node.output in reader.inputs and reader.stride == 2 for reader in NETWORK)
    return "space_to_depth" if read_with_stride else "none"
