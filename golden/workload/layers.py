"""Integer layers of the trained network on real activations: what the hardware runs, and what it should come close to.

A layer's real activations at a time step are quantised with one scale per tensor and time step (the temporal parallel
quantiser of DilateQuant, arXiv 2409.14307, section 4.2), its weights with one scale code per output channel and group.
All that is real-valued, modulation by time step and class included, is folded into the post-processor's parameters
(`golden.graph.integer`). There is a parameter block for each time step and class: block step * 10 + class.
"""

import operator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from golden.formats import ScaleFormat, Tensor
from golden.graph.calibrate import affine
from golden.graph.graph import Node
from golden.graph.integer import Quantisation, in_memory, parameters, selected
from golden.layer import Layer, Transform
from golden.layout import space_to_depth
from golden.ppu import PostParams
from golden.quant.activations import Calibration
from golden.quant.model import QuantisedModel
from golden.quant.recipe import Recipe, quantise_model
from golden.quant.weights import Float64Array, QuantisedWeights
from golden.workload.sampler import SIGMA_MAX, STEPS, Trajectory, sample, sigma_schedule
from golden.workload.unet import (
    CLASSES,
    DATA,
    DEFAULT_MODEL,
    GRAPH,
    MODELS,
    NETWORK,
    ModelInfo,
    embedding,
    load,
    modulation,
)

LAYERS = tuple(node.name for node in NETWORK)


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
    recipe : Recipe
        How the model is quantised. The default's scale codes have the window UE1M3, the values 0 to 15; they are the
        lowest of every wider window, so they run on any hardware with three mantissa bits. Against UE4M3 it loses less
        than 0.05 dB of weight precision and needs 13 to 14 accumulator bits less. In a layer with a residual, where R
        bounds S, it also leaves M bits enough, as wide windows do not.
    quantised : QuantisedModel or path of one, optional
        A network that is quantised already. Model, steps and sigma_max are then those that it was made for, and need
        not be given; the recipe plays no part.

    Raises
    ------
    ValueError
        If `model`, `samples`, `sigma_max` or `steps` is illegal, or does not agree with `quantised`.
    OSError
        If the file cannot be read.
    """

    model: str = DEFAULT_MODEL
    samples: int = CLASSES
    seed: int = 0
    sigma_max: float = SIGMA_MAX
    steps: int = STEPS
    recipe: Recipe = field(default_factory=Recipe)
    quantised: QuantisedModel | Path | str | None = None

    def __post_init__(self) -> None:
        if self.quantised is not None:
            self._take(QuantisedModel.load(self.quantised) if isinstance(self.quantised, (Path, str))
                       else self.quantised)
        load(self.model)
        if self.info.activation != "relu":
            raise ValueError(f"model {self.model} has {self.info.activation}; the integer layers have ReLU")
        sigma_schedule(self.steps, self.sigma_max)
        if operator.index(self.samples) < 1:
            raise ValueError(f"samples must be at least 1, not {self.samples}")

    def _take(self, quantised: QuantisedModel) -> None:
        """Take over what a quantised model says."""
        if quantised.model not in MODELS:
            raise ValueError(f"the quantised network was made of the model {quantised.model!r}; there is "
                             f"{', '.join(MODELS)}")
        sigmas = quantised.sigmas
        made = {"model": quantised.model, "steps": quantised.steps, "sigma_max": float(sigmas[0])}
        for name, value in made.items():
            given, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            if isinstance(value, float) and np.isclose(given, value, rtol=1e-6):
                continue        # the schedule's own rounding
            if given not in (value, default):
                raise ValueError(f"{name}={given} is not legal: the quantised network was made for {value}")
            object.__setattr__(self, name, value)
        object.__setattr__(self, "quantised", quantised)
        if not np.allclose(sigmas, sigma_schedule(self.steps, self.sigma_max), rtol=1e-6):
            raise ValueError("the quantised network was made for other noise levels than those of the sampler")

    @property
    def info(self) -> ModelInfo:
        """Of the model."""
        return MODELS[self.model]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.info.image_size, self.info.image_size

    @cached_property
    def trajectory(self) -> Trajectory:
        """The float sampling run whose activations the layers see and are calibrated on."""
        labels = np.arange(self.samples) % CLASSES
        return sample(load(self.model), labels, steps=self.steps, sigma_max=self.sigma_max, seed=self.seed,
                      info=self.info)

    @cached_property
    def network(self) -> QuantisedModel:
        """The quantised network: the one that was given, or one calibrated on the trajectory."""
        if isinstance(self.quantised, QuantisedModel):
            return self.quantised
        return quantise_model(load(self.model), self.recipe, Calibration(self.model, self.trajectory))

    @cached_property
    def quantisation(self) -> Quantisation:
        """The network's numbers, with a parameter block for each time step and class: block step * 10 + class."""
        network, rest = self.network, self.network.rest
        e = embedding(rest, network.sigmas.repeat(CLASSES), np.tile(np.arange(CLASSES), network.steps))
        factors, shifts = affine(GRAPH, rest, {name: len(weights.q) for name, weights in network.weights.items()},
                                 network.steps * CLASSES, lambda name: modulation(rest, name, e))
        scales = {name: scale.repeat(CLASSES) for name, scale in network.scales.items()}
        return Quantisation(network.weights, network.formats, scales, factors, shifts)


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


def trained(model: str, steps: int, sigma_max: float) -> QuantisedModel | None:
    """The quantised network in `golden/data` that learned from this model, if there is one for these noise levels."""
    path = DATA / f"{model}_int4.npz"
    network = QuantisedModel.load(path) if path.exists() else None
    if network is None or network.steps != steps or not np.isclose(network.sigmas[0], sigma_max, rtol=1e-6):
        return None
    return network


def real_layer(name: str, step: int, workload: Workload = DEFAULT) -> RealLayer:
    """The integer layer `name` at time step `step` of a workload.

    Parameters
    ----------
    name : str
        One of `LAYERS`.
    step : int
        0 (noise) to the workload's last (image).
    workload : Workload
        Sampled and calibrated when first used, and kept with its activations as long as the object.

    Raises
    ------
    ValueError
        If there is no such layer or step, or the scale window leaves M too few bits beside R in this layer.
    """
    if name not in LAYERS:
        raise ValueError(f"there is no layer {name!r}, only {', '.join(LAYERS)}")
    check_step(step, workload)
    node, network, run = NETWORK[LAYERS.index(name)], workload.network, workload.trajectory
    tensors = run.activations[step]
    inputs = tuple(quantised_tensor(name, step, workload) for name in node.inputs)
    if node.stride == 2:
        inputs = tuple(space_to_depth(tensor) for tensor in inputs)
    residual = None if node.residual is None else quantised_tensor(node.residual, step, workload)
    classes, sample_block = np.unique(run.labels, return_inverse=True)
    post = selected(parameters(node, workload.quantisation), [step * CLASSES + label for label in classes])
    in_scale, out_scale = (float(network.scales[tensor][step]) for tensor in (node.inputs[0], node.output))
    reference = tensors[node.output].astype(np.float64) / out_scale
    if node.upsample:
        reference = reference[:, :, ::2, ::2]
    weights = in_memory(node, network.weights[name])
    layer = Layer(name, inputs, weights.q, weights.fmt, weights.codes, weights.group,
                  PostParams(post.M, post.R, post.B, post.shift, post.dead_zone,
                             sample_block if post.blocks > 1 else 0 * sample_block),
                  network.formats[node.output], residual, _transform(node))
    return RealLayer(layer, step, weights.scale_format, weights.channel_scale, in_scale, out_scale, reference)


def check_step(step: int, workload: Workload) -> None:
    """Raise ValueError if the workload has no such time step."""
    if not 0 <= operator.index(step) < workload.steps:
        raise ValueError(f"step must be in [0, {workload.steps - 1}], not {step}")


def quantised_tensor(name: str, step: int, workload: Workload) -> Tensor:
    """What the float network computed as a tensor at a time step, in the quantised network's integers."""
    fmt, scale = workload.network.formats[name], workload.network.scales[name][step]
    values = workload.trajectory.activations[step][name].astype(np.float64)
    return Tensor(np.clip(np.rint(values / scale), fmt.min, fmt.max).astype(np.int64), fmt)


def _transform(node: Node) -> Transform:
    if node.upsample:
        return "upsample"
    return "space_to_depth" if node.output in GRAPH.strided else "none"
