"""The network evaluated fast in float32, in full precision or with what quantisation does to it ("fake quantisation").

Quantised weights are used as the reals that they stand for, and every tensor is rounded to a multiple of its scale
where the hardware would write it. That is the integer network but for the rounding of the post-processor's M, R and B.

Inside, tensors are [C, H, W, N]: with the samples last, a shifted image is copied in long runs, which is what
convolution by matrix product spends its time on. Everything outside is [C, N, H, W], as everywhere in `golden`.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from golden.formats import S8, Format
from golden.graph.forward import Activation, Float32Array, Weights, activated
from golden.graph.graph import Node
from golden.quant.model import QuantisedModel
from golden.quant.mx import BLOCK, ELEMENT_FRACTION_BITS
from golden.workload.sampler import Images
from golden.workload.unet import INPUT, MODELS, NETWORK, OUTPUT, embedding, modulation

__all__ = ["FloatNetwork", "MxInt8Network", "QuantisedNetwork", "Quantiser", "columns", "dequantised", "fake_quantise",
           "finished", "in_mxint8", "layer_sum", "upsampled"]

Quantiser = Callable[[str, int, Float32Array], Float32Array]    # tensor's name, time step, values [C, H, W, N]

CHUNK = 32      # samples at a time, so that a layer's operands stay in the cache


def fake_quantise(values: Float32Array, scale: float, fmt: Format) -> Float32Array:
    """What the integers stand for that `values` [...] are quantised to; halves are rounded up, as in the hardware."""
    rounded = np.floor(values * np.float32(1 / scale) + np.float32(0.5))
    return np.clip(rounded, fmt.min, fmt.max, out=rounded) * np.float32(scale)


def columns(x: Float32Array, size: int, stride: int) -> Float32Array:
    """Windows of `size` x `size` pixels with zeros beyond the border: [C, H, W, N] to [C * size**2, pixels * N]."""
    channels, height, width, samples = x.shape
    if size == 1 and stride == 1:
        return x.reshape(channels, -1)
    border = size // 2
    padded = np.zeros((channels, height + 2 * border, width + 2 * border, samples), np.float32)
    padded[:, border:height + border, border:width + border] = x
    taken = np.empty((channels, size, size, -(-height // stride), -(-width // stride), samples), np.float32)
    for row in range(size):
        for column in range(size):
            taken[:, row, column] = padded[:, row:row + height:stride, column:column + width:stride]
    return taken.reshape(channels * size * size, -1)


def layer_sum(weights: Weights, node: Node, tensors: Mapping[str, Float32Array], e: Float32Array) -> Float32Array:
    """A node's result before the activation function: convolution, bias, modulation, residual.

    Parameters
    ----------
    weights : mapping
        As of `golden.workload.unet.load`.
    node : Node
    tensors : mapping
        By name, float32 [C, H, W, N].
    e : float32 [N, 64]
        From `golden.workload.unet.embedding`.

    Returns
    -------
    float32 [K, H / stride, W / stride, N]
    """
    kernel = weights[f"{node.name}.weight"]
    inputs = [tensors[name] for name in node.inputs]
    x = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
    height, width, samples = (-(-x.shape[1] // node.stride), -(-x.shape[2] // node.stride), x.shape[3])
    y = kernel.reshape(len(kernel), -1) @ columns(x, kernel.shape[-1], node.stride)
    y = y.reshape(len(kernel), height, width, samples)
    y += weights[f"{node.name}.bias"][:, None, None, None]
    if node.modulation is not None:
        factor, shift = modulation(weights, node.modulation, e)
        y *= factor[:, None, None, :]
        y += shift[:, None, None, :]
    if node.residual is not None:
        y += tensors[node.residual]
    return y


def finished(values: Float32Array, node: Node, activation: Activation) -> Float32Array:
    """The activation function of a `layer_sum`, where the node has one."""
    return activated(values, activation) if node.relu else values


def upsampled(values: Float32Array, node: Node) -> Float32Array:
    """Every pixel as 2x2 pixels, where the node does that."""
    return values.repeat(2, axis=1).repeat(2, axis=2) if node.upsample else values


class FloatNetwork:
    """F for `golden.workload.sampler.integrate`.

    Parameters
    ----------
    weights : mapping
        As of `golden.workload.unet.load`.
    sigmas : real numbers [steps]
        Noise level of each time step.
    labels : integers [N]
        Class of each sample.
    activation : str
        "relu" or "silu".
    quantise : callable, optional
        Applied to every tensor where it is written, the input included; by default nothing is.

    Raises
    ------
    ValueError
        As `golden.workload.unet.embedding`.
    """

    def __init__(self, weights: Weights, sigmas: ArrayLike, labels: ArrayLike, activation: Activation = "relu",
                 quantise: Quantiser | None = None) -> None:
        self.weights = weights
        self.activation = activation
        self.quantise = quantise or (lambda name, step, values: values)
        self._embeddings = [embedding(weights, float(sigma), labels, activation) for sigma in np.asarray(sigmas)]

    def __call__(self, x: Images, step: int) -> Images:
        """F [1, N, H, W] of preconditioned images [1, N, H, W] at a time step."""
        e = self._embeddings[step]
        parts = [slice(start, start + CHUNK) for start in range(0, len(e), CHUNK)]
        return np.concatenate([self._chunk(x[:, part], e[part], step) for part in parts], axis=1)

    def _chunk(self, x: Images, e: Float32Array, step: int) -> Images:
        image = np.ascontiguousarray(x.transpose(0, 2, 3, 1), np.float32)
        tensors = {INPUT: self.quantise(INPUT, step, image)}
        for node in NETWORK:
            y = self.quantise(node.output, step, finished(layer_sum(self.weights, node, tensors, e), node,
                                                          self.activation))
            tensors[node.output] = upsampled(y, node)
        return tensors[OUTPUT].transpose(0, 3, 1, 2).astype(np.float64)


class QuantisedNetwork(FloatNetwork):
    """F of a quantised model, for `golden.workload.sampler.integrate`.

    Parameters
    ----------
    model : QuantisedModel
    labels : integers [N]
        Class of each sample.
    """

    def __init__(self, model: QuantisedModel, labels: ArrayLike) -> None:
        def quantise(name: str, step: int, values: Float32Array) -> Float32Array:
            return fake_quantise(values, float(model.scales[name][step]), model.formats[name])

        super().__init__(dequantised(model), model.sigmas, labels, MODELS[model.model].activation, quantise)


def dequantised(model: QuantisedModel) -> Weights:
    """All weights of a quantised model as the reals that they stand for, by state-dict names."""
    return dict(model.rest) | {f"{name}.weight": quantised.dequantise().astype(np.float32)
                               for name, quantised in model.weights.items()}


class MxInt8Network(FloatNetwork):
    """F with weights and activations in MXINT8 as published, in blocks of 32 input channels, sums in floating point.

    Every activation is converted by the values it has, as is usual with this format: nothing is calibrated.

    Parameters
    ----------
    weights, sigmas, labels, activation
        As of `FloatNetwork`.
    """

    def __init__(self, weights: Weights, sigmas: ArrayLike, labels: ArrayLike, activation: Activation = "relu") -> None:
        rounded = {f"{node.name}.weight": in_mxint8(weights[f"{node.name}.weight"], 1) for node in NETWORK}
        super().__init__(dict(weights) | rounded, sigmas, labels, activation, lambda name, step, x: in_mxint8(x, 0))


def in_mxint8(values: Float32Array, axis: int) -> Float32Array:
    """What values become in MXINT8, blocks of 32 along an axis; the last may be shorter.

    The same as `golden.quant.mx.encode` and `decode`, but in float32 and fast; finite values only, and scales in
    float32's normal range.
    """
    moved = np.moveaxis(values, axis, 0)
    result = np.empty_like(moved)
    for start in range(0, len(moved), BLOCK):
        block = moved[start:start + BLOCK]
        peak = np.abs(block).max(axis=0)
        exponent = np.frexp(peak)[1] - 1 - ELEMENT_FRACTION_BITS
        step = np.ldexp(np.float32(1), np.where(peak > 0, exponent, 0)).astype(np.float32)
        result[start:start + BLOCK] = np.clip(np.rint(block / step), -S8.max, S8.max) * step
    return np.moveaxis(result, 0, axis)
