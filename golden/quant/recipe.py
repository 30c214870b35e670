"""How to quantise a model after its training, and doing so: from float weights to a `QuantisedModel`."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from golden.formats import S4, S8, Format, ScaleFormat
from golden.graph.calibrate import NARROW_SCALES
from golden.graph.forward import Float32Array, Weights
from golden.quant.activations import Calibration, activation_formats, activation_scales
from golden.quant.dilate import Granularity, dilated, dilated_inputs, dilated_rest, divisors
from golden.quant.layerwise import BiasCorrection, correct
from golden.quant.model import QuantisedModel
from golden.quant.mx import BLOCK, encode, quantise_mxint8
from golden.quant.weights import (
    Float64Array,
    Method,
    QuantisedWeights,
    quantise,
    quantise_per_channel,
    quantise_per_tensor,
)
from golden.workload.unet import MODELS, NETWORK, OUTPUT

__all__ = ["FIRST_AND_LAST", "SKIPS", "Recipe", "Scales", "WeightRule", "quantise_model"]

Scales = Literal["tensor", "channel", "fp8", "power_of_two", "mxint8"]

FP8_SCALES = ScaleFormat(exp_bits=4, man_bits=3)
FIRST_AND_LAST = tuple(node.name for node in NETWORK if node.weight_bits == 8)
SKIPS = tuple(node.name for node in NETWORK if not node.relu and node.output != OUTPUT)


@dataclass(frozen=True)
class WeightRule:
    """How a layer's weights are quantised.

    Parameters
    ----------
    fmt : Format
        s4 or s8.
    scales : str
        ``tensor``, ``channel``: one real scale for all weights, or per output channel. ``fp8``: that, and a scale code
        per output channel and group. ``power_of_two``: the same with codes of powers of two only. ``mxint8``: s8 with a
        shared power-of-two exponent per output channel and group.
    group : int
        Input channels x all taps per code.
    scale_format : ScaleFormat
        Window of the codes.
    method : str
        "minmax" or "mse": see `golden.quant.weights.quantise`.

    Raises
    ------
    ValueError
        If an option is not one of the above.
    """

    fmt: Format = S4
    scales: Scales = "fp8"
    group: int = 8
    scale_format: ScaleFormat = FP8_SCALES
    method: Method = "mse"

    def __post_init__(self) -> None:
        if self.scales not in get_args(Scales):
            raise ValueError(f"scales={self.scales!r} is not legal: it must be one of {', '.join(get_args(Scales))}")
        if self.scales == "mxint8" and self.fmt != S8:
            raise ValueError(f"mxint8 has s8 elements, not {self.fmt.name}")

    @property
    def granularity(self) -> Granularity:
        """Which weights share a scale."""
        return self.scales if self.scales in ("tensor", "channel") else "group"

    def apply(self, weights: Float32Array | Float64Array) -> QuantisedWeights:
        """Quantise weights [K, C, kh, kw]. Raises as `golden.quant.weights.quantise`."""
        group = min(self.group, weights.shape[1])
        if self.scales == "mxint8":
            return quantise_mxint8(weights, group, self.scale_format)
        if self.scales == "tensor":
            return quantise_per_tensor(weights, group, self.scale_format, fmt=self.fmt, method=self.method)
        if self.scales == "channel":
            return quantise_per_channel(weights, group, self.scale_format, fmt=self.fmt, method=self.method)
        return quantise(weights, group, self.scale_format, fmt=self.fmt, method=self.method,
                        power_of_two=self.scales == "power_of_two")


INT8 = WeightRule(S8, "channel", method="minmax")


@dataclass(frozen=True)
class Recipe:
    """How a model is quantised. The default is what the accelerator runs best: INT4 but for the first and last layer.

    Parameters
    ----------
    weights : WeightRule
        Of most layers.
    sensitive : WeightRule
        Of the layers in `sensitive_layers`.
    sensitive_layers : tuple of str
    activation_bits : int
        4 or 8, of tensors after the activation function.
    signed_bits : int
        4 or 8, of the network's input and result and of the skips.
    temporal : bool
        Activation scales per time step, else one per tensor.
    power_of_two_activations : bool
        Activation scales are powers of two.
    mxint8_embedding : bool
        The linear layers of the embedding in MXINT8 (their results are folded into M and B, so this saves storage on
        the host and nothing else).
    dilate : bool
        Weight dilation, see `golden.quant.dilate`; with ReLU only.
    feedback : bool
        Round the weights with error feedback, see `golden.quant.feedback`.
    bias : str
        Bias correction, "none", "mean" or "active", see `golden.quant.layerwise`.
    """

    weights: WeightRule = WeightRule(scale_format=NARROW_SCALES)
    sensitive: WeightRule = INT8
    sensitive_layers: tuple[str, ...] = FIRST_AND_LAST
    activation_bits: int = 4
    signed_bits: int = 8
    temporal: bool = True
    power_of_two_activations: bool = False
    mxint8_embedding: bool = False
    dilate: bool = False
    feedback: bool = False
    bias: BiasCorrection = "none"

    def __post_init__(self) -> None:
        unknown = set(self.sensitive_layers) - {node.name for node in NETWORK}
        if unknown:
            raise ValueError(f"there are no layers {', '.join(sorted(unknown))}")
        for name in ("activation_bits", "signed_bits"):
            if getattr(self, name) not in (4, 8):
                raise ValueError(f"{name} must be 4 or 8, not {getattr(self, name)}")

    def rule(self, layer: str) -> WeightRule:
        """How a layer's weights are quantised."""
        return self.sensitive if layer in self.sensitive_layers else self.weights


def quantise_model(weights: Weights, recipe: Recipe, calibration: Calibration) -> QuantisedModel:
    """Quantise a float model.

    Parameters
    ----------
    weights : mapping
        From `golden.workload.unet.load`.
    recipe : Recipe
    calibration : Calibration
        The same model's own samples; with their noise levels.

    Raises
    ------
    ValueError
        If dilation is asked for of a model that has not ReLU.
    """
    activation = MODELS[calibration.model].activation
    if recipe.dilate and activation != "relu":
        raise ValueError(f"weight dilation needs ReLU; model {calibration.model} has {activation}")
    activations = calibration.run.activations
    layers = {f"{node.name}.weight" for node in NETWORK}
    rest: Weights = {name: array for name, array in weights.items() if name not in layers}
    if recipe.mxint8_embedding:
        rest = _embedding_in_mxint8(rest)
    quantised = {}
    if recipe.dilate:
        granularity = {node.name: recipe.rule(node.name).granularity for node in NETWORK}
        divisor = divisors(weights, granularity, recipe.weights.group)
        rest = dilated_rest(rest, divisor)
        activations = [{name: (values / divisor[name][:, None, None, None]).astype(np.float32)
                        for name, values in tensors.items()} for tensors in activations]
        for node in NETWORK:
            made = recipe.rule(node.name).apply(dilated_inputs(weights, node, divisor))
            quantised[node.name] = replace(made, channel_scale=made.channel_scale / divisor[node.output])
        weights = dilated(weights, divisor)
    else:
        quantised = {node.name: recipe.rule(node.name).apply(weights[f"{node.name}.weight"]) for node in NETWORK}
    formats = activation_formats(recipe.activation_bits, activation, recipe.signed_bits)
    scales = activation_scales(activations, formats, temporal=recipe.temporal,
                               power_of_two=recipe.power_of_two_activations)
    model = QuantisedModel(calibration.model, calibration.run.sigmas, quantised, rest, formats, scales)
    if recipe.feedback or recipe.bias != "none":
        model = correct(model, weights, activations, calibration.run.labels, feedback=recipe.feedback,
                        bias=recipe.bias)
    return model


def _embedding_in_mxint8(rest: Weights) -> dict[str, Float32Array]:
    """The matrices of the embedding rounded to MXINT8, blocks of 32 along the inputs; a short block ends in zeros."""
    result = dict(rest)
    for name, array in rest.items():
        if array.ndim == 2:
            inputs = array.shape[1]
            padded = np.pad(array, ((0, 0), (0, -inputs % BLOCK)))
            result[name] = encode(padded).decode()[:, :inputs].astype(np.float32)
    return result
