"""Numbers of an integer network from a float one: weights rounded, a scale for every tensor, all else folded.

A scale is one number per tensor, that with the least squared error on activations that the float network computed.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from golden.formats import Format, ScaleFormat
from golden.graph.forward import Activations, Float32Array, Modulate, Weights, channels, modulation_blocks, stored
from golden.graph.graph import Graph
from golden.graph.integer import Quantisation
from golden.quant.weights import Float64Array, Method, QuantisedWeights, quantise, quantise_per_channel

__all__ = ["NARROW_SCALES", "activation_scale", "affine", "calibrated", "quantised_weights", "tensor_scales"]

NARROW_SCALES = ScaleFormat(exp_bits=1, man_bits=3)


def quantised_weights(graph: Graph, weights: Weights, group: int, scale_format: ScaleFormat = NARROW_SCALES,
                      method: Method = "mse") -> dict[str, QuantisedWeights]:
    """By convolution: 4-bit weights with a scale code per group, 8-bit ones with one scale per output channel."""
    found = {}
    for node in graph.nodes:
        if node.kind == "convolution":
            values = weights[f"{node.name}.weight"]
            found[node.name] = (quantise(values, group, scale_format, method=method) if node.weight_bits == 4
                                else quantise_per_channel(values, group, scale_format))
    return found


def tensor_scales(graph: Graph, formats: Mapping[str, Format], tensors: Activations) -> dict[str, float]:
    """The scale of each tensor; those that are concatenated anywhere have one, as a layer has one M for all."""
    scales: dict[str, float] = {}
    for sharing in graph.sharing():
        scale = activation_scale([(tensors[name], formats[name]) for name in sharing])
        scales |= dict.fromkeys(sharing, scale)
    return scales


def activation_scale(parts: Sequence[tuple[Float32Array, Format]]) -> float:
    """The step with the least squared error of quantising values [...], each part to its format.

    It is one of 61 from 40 to 100 % of the smallest step that clips nothing.
    """
    whole = max(float(np.abs(values).max()) / fmt.max for values, fmt in parts)
    if whole == 0:
        return 1.0
    steps = whole * np.linspace(0.4, 1.0, 61)
    errors = np.zeros(len(steps))
    for values, fmt in parts:
        given = values[values != 0].astype(np.float64)      # 0 is never off
        for number, step in enumerate(steps):
            errors[number] += np.square(step * np.clip(np.rint(given / step), fmt.min, fmt.max) - given).sum()
    return float(steps[np.argmin(errors)])


def affine(graph: Graph, weights: Weights, outputs: Mapping[str, int], blocks: int,
           modulate: Modulate | None) -> tuple[dict[str, Float64Array], dict[str, Float64Array]]:
    """Factors and shifts [blocks, K] of each node, as `Quantisation` has them.

    Parameters
    ----------
    graph : Graph
    weights : mapping
        Biases, and scales and shifts of element-wise layers, by name; none has to be there.
    outputs : mapping
        K of each node.
    blocks : int
    modulate : callable, optional
        Factor and shift [K, blocks] of a modulation.
    """
    factors, shifts = {}, {}
    for node in graph.nodes:
        shape, names = (blocks, outputs[node.name]), ("", "bias") if node.kind == "convolution" else ("scale", "shift")
        factor, shift = (np.broadcast_to(weights.get(f"{node.name}.{name}", default), shape).astype(np.float64)
                         for name, default in zip(names, (np.float32(1), np.float32(0)), strict=True))
        if node.modulation is not None:
            assert modulate is not None
            by, more = (array.T.astype(np.float64) for array in modulate(node.modulation))
            factor, shift = factor * by, shift * by + more
        factors[node.name], shifts[node.name] = factor, shift
    return factors, shifts


def calibrated(graph: Graph, weights: Weights, tensors: Activations, group: int,
               scale_format: ScaleFormat = NARROW_SCALES) -> Quantisation:
    """Numbers of a network whose modulations are stored with its weights.

    Parameters
    ----------
    graph : Graph
    weights : mapping
        Arrays as of `golden.graph.forward`.
    tensors : mapping
        All tensors that the float network computed on typical inputs.
    group : int
        Input channels per scale code.
    scale_format : ScaleFormat
        Window of the scale codes.

    Raises
    ------
    GraphError
        As `golden.graph.forward.channels` and `modulation_blocks`.
    """
    outputs, blocks = channels(graph, weights), modulation_blocks(graph, weights)
    factors, shifts = affine(graph, weights, outputs, blocks, stored(weights, range(blocks)))
    scales = {name: np.full(blocks, scale) for name, scale in tensor_scales(graph, graph.formats, tensors).items()}
    return Quantisation(quantised_weights(graph, weights, group, scale_format), graph.formats, scales, factors, shifts)
