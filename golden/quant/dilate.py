"""Weight dilation (DilateQuant, Liu et al., arXiv 2409.14307, section 4.1): smaller activations at no cost in weights.

An input channel c of a layer is unsaturated if none of its weights is the largest of those that share its scale. Then
all its weights can be multiplied by some s[c] > 1 without any scale becoming coarser, and the activation divided by
s[c]:  w[k, c] * x[c] = (w[k, c] * s[c]) * (x[c] / s[c]).  The most that leaves every largest weight as it is:

    s[c] = min over outputs k of  peak[k, c] / max |w[k, c]|       peak: largest weight under the scale of w[k, c]

The layer that writes the activation divides by s: ReLU(y) / s = ReLU(y / s) for s > 0, so s goes into its weights' real
scale per output channel, its bias and its shift, that is into M and B. Its integers do not change.

Where it cannot be applied, or only in part:

- A tensor has one divisor per channel, so all its readers must agree: it is the least of theirs. A reader that
  concatenates dilates each part by that part's divisors.
- What is added to a result must have the result's divisors, as R would else have to undo them. Here they are the same
  along a chain of residuals (h0-h1, d-d3-m, u3.skip-u, u1.skip-o), so every reader of the chain has a say.
- Not to the network's input, which nothing divides, and not to its result, which nothing reads.
- Not with SiLU: SiLU(y) / s is not SiLU(y / s).
- With fine scales nearly every channel holds the largest weight of some group, and s = 1: there is nothing to gain.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from golden.graph.forward import Float32Array, Weights, channels
from golden.graph.graph import Node
from golden.quant.model import TENSORS
from golden.quant.weights import Float64Array, grouped
from golden.workload.unet import GRAPH, INPUT, NETWORK, OUTPUT

__all__ = ["Granularity", "dilated", "dilated_inputs", "dilated_rest", "divisors"]

Granularity = Literal["tensor", "channel", "group"]     # which weights of a layer share a scale


def divisors(weights: Weights, granularity: Mapping[str, Granularity], group: int = 1) -> dict[str, Float64Array]:
    """Divisor [C] of each channel of every tensor, at least 1.

    Parameters
    ----------
    weights : mapping
        Of the float model, as of `golden.workload.unet.load`.
    granularity : mapping
        By layer: all weights share a scale, those of an output channel do, or those of an output channel and `group`
        input channels.
    group : int
        Input channels per scale.
    """
    found: dict[str, Float64Array] = {}
    for chain in _chains():
        allowed = [_allowed(weights, node, name, granularity[node.name], group)
                   for node in NETWORK for name in node.inputs if name in chain]
        fixed = not allowed or not chain.isdisjoint((INPUT, OUTPUT))
        for name in chain:
            found[name] = np.ones(_channels(weights)[name]) if fixed else np.min(allowed, axis=0)
    return found


def dilated_inputs(weights: Weights, node: Node, divisor: Mapping[str, Float64Array]) -> Float64Array:
    """A layer's weights [K, C, kh, kw] times its inputs' divisors: what is quantised."""
    factors = np.concatenate([divisor[name] for name in node.inputs])
    return weights[f"{node.name}.weight"] * factors[:, None, None]


def dilated_rest(rest: Weights, divisor: Mapping[str, Float64Array]) -> dict[str, Float32Array]:
    """Biases and shifts over their outputs' divisors, and all else as it is."""
    result = dict(rest)
    for node in NETWORK:
        divide = divisor[node.output]
        result[f"{node.name}.bias"] = (rest[f"{node.name}.bias"] / divide).astype(np.float32)
        if node.modulation is not None:     # the factor is the same: what it multiplies is divided already
            both = np.concatenate([np.ones_like(divide), divide])
            for part, shaped in (("weight", both[:, None]), ("bias", both)):
                result[f"{node.modulation}.{part}"] = (rest[f"{node.modulation}.{part}"] / shaped).astype(np.float32)
    return result


def dilated(weights: Weights, divisor: Mapping[str, Float64Array]) -> Weights:
    """The float model with activations divided by `divisor`: its result is the same, up to float32's rounding."""
    result = dilated_rest(weights, divisor)
    for node in NETWORK:
        values = dilated_inputs(weights, node, divisor) / divisor[node.output][:, None, None, None]
        result[f"{node.name}.weight"] = values.astype(np.float32)
    return result


def _chains() -> list[set[str]]:
    """Sets of tensors that must have the same divisors: each residual with what it is added to."""
    chains = [{name} for name in TENSORS]
    for node in NETWORK:
        if node.residual is not None:
            joined = [chain for chain in chains if node.output in chain or node.residual in chain]
            chains = [chain for chain in chains if chain not in joined] + [set().union(*joined)]
    return chains


def _channels(weights: Weights) -> dict[str, int]:
    return {name: shape[0] for name, shape in GRAPH.shapes({INPUT: (2, 2)}, channels(GRAPH, weights)).items()}


def _allowed(weights: Weights, node: Node, name: str, granularity: Granularity, group: int) -> Float64Array:
    """The largest factor [C] for the channels of the input `name` that leaves every scale of the layer as it is."""
    w = weights[f"{node.name}.weight"].astype(np.float64)
    own = np.abs(w).max(axis=(2, 3))                                    # [K, C]
    if granularity == "tensor":
        peak = np.full_like(own, own.max())
    elif granularity == "channel":
        peak = np.broadcast_to(own.max(axis=1, keepdims=True), own.shape)
    else:
        peak = np.abs(grouped(w, group)).max(axis=2).repeat(group, axis=1)[:, :w.shape[1]]
    ratio = np.where(own > 0, peak / np.where(own > 0, own, 1), np.inf).min(axis=0)
    ratio[np.isinf(ratio)] = 1      # no weight at all
    counts = _channels(weights)
    first = sum(counts[other] for other in node.inputs[:node.inputs.index(name)])
    return ratio[first:first + counts[name]]
