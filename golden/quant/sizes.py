"""Bytes of weights and activations.

Weights: the convolutions' integers, and for each group its scale code, unless all codes of the model's layer are the
same (then nothing needs them). Activations: every tensor that one sample writes in one time step, and the input, with
upsampled tensors at their full size, as the accelerator stores them.

Not counted: real scales per channel, tensor and time step, biases, and the embedding. They are folded into the
post-processor's parameters (M, R and B per output channel), of which every variant has as many.
"""

from collections.abc import Mapping

import numpy as np

from golden.formats import Format
from golden.graph.forward import Weights, channels
from golden.quant.model import QuantisedModel
from golden.quant.mx import BLOCK
from golden.quant.weights import QuantisedWeights
from golden.workload.unet import GRAPH, INPUT, NETWORK

__all__ = ["activation_bytes", "float_bytes", "mxint8_bytes", "weight_bytes"]

FLOAT_BITS = 16


def _layer_bits(quantised: QuantisedWeights) -> int:
    plain = len(np.unique(quantised.codes)) == 1
    return quantised.q.size * quantised.fmt.bits + (0 if plain else quantised.codes.size * quantised.scale_format.bits)


def weight_bytes(model: QuantisedModel) -> float:
    """Of a quantised model's integers and scale codes."""
    return sum(_layer_bits(quantised) for quantised in model.weights.values()) / 8


def activation_bytes(formats: Mapping[str, Format], outputs: Mapping[str, int], size: int) -> float:
    """Of all tensors of one sample and step.

    Parameters
    ----------
    formats : mapping
        By tensor.
    outputs : mapping
        Output channels by layer.
    size : int
        Height and width of the image.
    """
    shapes = GRAPH.shapes({INPUT: (size, size)}, outputs)
    return sum(int(np.prod(shape)) * formats[name].bits for name, shape in shapes.items()) / 8


def float_bytes(weights: Weights, size: int) -> tuple[float, float]:
    """Of a float model's convolutions and activations in 16 bits."""
    shapes = GRAPH.shapes({INPUT: (size, size)}, channels(GRAPH, weights))
    values = sum(int(np.prod(shape)) for shape in shapes.values())
    return _convolutions(weights) * FLOAT_BITS / 8, values * FLOAT_BITS / 8


def mxint8_bytes(weights: Weights, size: int) -> tuple[float, float]:
    """Of weights and activations in MXINT8: a byte each, and one for every block of up to 32 channels."""
    shapes = GRAPH.shapes({INPUT: (size, size)}, channels(GRAPH, weights))
    kernels = [weights[f"{node.name}.weight"] for node in NETWORK]
    blocks = sum(-(-kernel.shape[1] // BLOCK) * kernel.size // kernel.shape[1] for kernel in kernels)
    held = sum((channels + -(-channels // BLOCK)) * height * width for channels, height, width in shapes.values())
    return float(_convolutions(weights) + blocks), float(held)


def _convolutions(weights: Weights) -> int:
    return sum(weights[f"{node.name}.weight"].size for node in NETWORK)
