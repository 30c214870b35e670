"""Calibration layer by layer: each layer meets the float network's result with the inputs that it will really get.

The layers are gone through in order, on a float model's own samples. A layer's inputs are those of the quantised
network, with all layers before already quantised and corrected; its result before the activation function should be
the float network's. Two things can be done about the difference:

- Feedback: its weights are rounded so that the squared difference is least, see `golden.quant.feedback`.
- Bias correction: its mean per output channel is taken off the bias (empirical bias correction of Nagel et al.,
  "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv 1906.04721, section 4.2 and appendix
  D). The mean is over all time steps, for a layer has one bias for all of them. Where the bias is modulated, the shift
  that comes after is corrected instead. "mean" is as published. Most results of a layer are negative, though, and what
  ReLU makes of them is zero whatever their mean: "active" takes the mean where either network's result is positive.

Squared differences and means are weighted by time step with what an error of F in that step does to the image: an Euler
step from noise level s to s' moves by (1 - s'/s) (D - x), and D has c_out F in it (Karras et al., arXiv 2206.00364,
table 1 and algorithm 1), so an error of F moves the image by (1 - s'/s) c_out of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from golden.graph.forward import Activations, Float32Array, Weights
from golden.graph.graph import Node
from golden.quant.evaluate import columns, dequantised, fake_quantise, finished, layer_sum, upsampled
from golden.quant.feedback import least_squares_weights, round_with_feedback
from golden.quant.model import QuantisedModel
from golden.quant.weights import Float64Array, QuantisedWeights
from golden.workload.sampler import SIGMA_DATA
from golden.workload.unet import INPUT, MODELS, NETWORK, embedding

__all__ = ["BiasCorrection", "correct", "step_weights"]

BiasCorrection = Literal["none", "mean", "active"]

Tensors = Mapping[str, Float32Array]    # [C, H, W, N] by name


def correct(model: QuantisedModel, weights: Weights, activations: Sequence[Activations], labels: ArrayLike, *,
            feedback: bool = False, bias: BiasCorrection = "none") -> QuantisedModel:
    """Calibrate a quantised model layer by layer.

    Parameters
    ----------
    model : QuantisedModel
        Its scales and formats stay.
    weights : mapping
        Of the float model; dilated if `model` is.
    activations : list of dict
        Of the same float model, per time step: every tensor, [C, N, H, W], by name.
    labels : integers [N]
        Classes of the samples.
    feedback : bool
        Round the weights with error feedback.
    bias : str
        Correct the biases: "none", "mean" or "active".
    """
    activation = MODELS[model.model].activation
    targets = [{name: values.transpose(0, 2, 3, 1) for name, values in tensors.items()} for tensors in activations]
    steps = range(model.steps)
    e_float = [embedding(weights, float(sigma), labels, activation) for sigma in model.sigmas]
    e = [embedding(model.rest, float(sigma), labels, activation) for sigma in model.sigmas]
    share = step_weights(model.sigmas)
    made, rest, real = dict(model.weights), dict(model.rest), dict(dequantised(model))

    def quantised(name: str, step: int, values: Float32Array) -> Float32Array:
        return fake_quantise(values, float(model.scales[name][step]), model.formats[name])

    tensors: list[dict[str, Float32Array]] = [
        {INPUT: quantised(INPUT, step, np.ascontiguousarray(targets[step][INPUT]))} for step in steps]
    for node in NETWORK:
        if feedback:
            made[node.name] = _with_feedback(node, weights, made[node.name], tensors, targets, share)
            real[f"{node.name}.weight"] = made[node.name].dequantise().astype(np.float32)
        sums = [layer_sum(real, node, tensors[step], e[step]) for step in steps]
        if bias != "none":
            wanted = [layer_sum(weights, node, targets[step], e_float[step]) for step in steps]
            excess = _excess(sums, wanted, share, only_active=bias == "active" and node.relu)
            name = _bias_name(node)
            rest[name] = rest[name].copy()
            rest[name][-len(excess):] -= excess
            for values in sums:
                values -= excess[:, None, None, None]
            real[name] = rest[name]
        for step in steps:
            y = quantised(node.output, step, finished(sums[step], node, activation))
            tensors[step][node.output] = upsampled(y, node)
    return replace(model, weights=made, rest=rest)


def step_weights(sigmas: ArrayLike) -> Float64Array:
    """How much a squared error of F counts in each time step [steps]; the sum is 1."""
    now = np.asarray(sigmas, dtype=np.float64)
    moved = (1 - np.append(now[1:], 0) / now) * now * SIGMA_DATA / np.hypot(now, SIGMA_DATA)
    weights: Float64Array = np.square(moved) / np.square(moved).sum()
    return weights


def _excess(sums: Sequence[Float32Array], wanted: Sequence[Float32Array], share: Float64Array, *,
            only_active: bool) -> Float32Array:
    """Weighted mean [K] of what `sums` are above `wanted`, both [K, H, W, N] for each step."""
    total, count = np.zeros(len(sums[0])), np.zeros(len(sums[0]))
    for ours, theirs, weight in zip(sums, wanted, share, strict=True):
        counted = np.maximum(ours, theirs) > 0 if only_active else np.ones(ours.shape, dtype=bool)
        total += weight * ((ours - theirs) * counted).sum(axis=(1, 2, 3), dtype=np.float64)
        count += weight * counted.sum(axis=(1, 2, 3))
    return (total / np.where(count > 0, count, 1)).astype(np.float32)


def _bias_name(node: Node) -> str:
    """Of the real numbers whose last K are added to a layer's result: its bias, or after modulation the shift."""
    return f"{node.modulation or node.name}.bias"


def _with_feedback(node: Node, weights: Weights, scaled: QuantisedWeights, tensors: Sequence[Tensors],
                   targets: Sequence[Tensors], share: Float64Array) -> QuantisedWeights:
    """A layer's weights rounded to their scales with error feedback."""
    w = weights[f"{node.name}.weight"].astype(np.float64)
    moments, cross = (np.zeros((w[0].size, w[0].size)) for _ in range(2))
    for ours, theirs, weight in zip(tensors, targets, share, strict=True):
        x = _columns(node, ours, w.shape[-1])
        moments += weight * (x @ x.T)
        cross += weight * ((_columns(node, theirs, w.shape[-1]) - x) @ x.T)
    wanted = least_squares_weights(w.reshape(len(w), -1), moments, cross)
    return round_with_feedback(wanted.reshape(w.shape), moments, scaled)


def _columns(node: Node, tensors: Tensors, size: int) -> Float32Array:
    return columns(np.concatenate([tensors[name] for name in node.inputs]), size, node.stride)

