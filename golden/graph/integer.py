"""From a network of real numbers with scales for all tensors to the network of integers that the hardware runs.

All that is real-valued is folded into the post-processor's parameters, for each parameter block b and output channel k:

    y / s_out[b] = acc * gain + offset + residual * s_res[b] / s_out[b]
    gain         = channel_scale[k] * s_in[b] / s_out[b] * factor[b, k]
    offset       = shift[b, k] / s_out[b]

each times 2**S, rounded: M, B and R. S is the largest at which M and R fit 16 bits in *all* blocks that there are, not
only in those of one program: so a sample's result does not depend on which others are in its batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from golden.detector import Detection, balance_detection
from golden.formats import Format
from golden.graph.graph import Graph, Node
from golden.layer import Transform
from golden.layout import space_to_depth_weights
from golden.machine import Machine
from golden.ppu import FACTOR_BITS
from golden.program.network import Conv, Elementwise, Input, Network, Parameters
from golden.program.network import Node as IntegerNode
from golden.quant.weights import Float64Array, QuantisedWeights

__all__ = ["Detect", "Quantisation", "balanced", "in_memory", "integer_network", "late_residuals", "parameters",
           "selected"]

Detect = Callable[[int], Detection]     # from the pixels of a channel, N*H*W before upsampling

SMALLEST_LARGEST_FACTOR = 16
LARGEST_SHIFT = 40      # more would only make B long: M has its 16 bits earlier if gains are anything like 1


@dataclass(frozen=True, eq=False)
class Quantisation:
    """The numbers of a quantised network.

    Parameters
    ----------
    weights : mapping of str to QuantisedWeights
        By convolution.
    formats : mapping of str to Format
        By tensor.
    scales : mapping of str to float64 [blocks]
        By tensor, what 1 stands for. Tensors that are concatenated anywhere have the same.
    factors, shifts : mapping of str to float64 [blocks, K]
        By node: what the result of a convolution without bias, or the input of an element-wise layer, is multiplied
        by, and what is added. Bias, scale and modulation are in these.
    """

    weights: Mapping[str, QuantisedWeights]
    formats: Mapping[str, Format]
    scales: Mapping[str, Float64Array]
    factors: Mapping[str, Float64Array]
    shifts: Mapping[str, Float64Array]


def parameters(node: Node, quantisation: Quantisation) -> Parameters:
    """Integer parameters of all blocks.

    Raises
    ------
    ValueError
        If M is left too few bits beside R, or a gain is too large; names the layer.
    """
    scales = quantisation.scales
    out = scales[node.output][:, None]
    gain = quantisation.factors[node.name] * scales[node.inputs[0]][:, None] / out
    if node.kind == "convolution":
        gain = quantisation.weights[node.name].channel_scale * gain
    residual_gain = 0 * out if node.residual is None else scales[node.residual][:, None] / out
    limit = (1 << (FACTOR_BITS - 1)) - 1
    largest = max(float(np.abs(gain).max()), float(residual_gain.max()), limit / 2.0**LARGEST_SHIFT)
    shift = int(np.floor(np.log2(limit / largest)))
    if shift < 0:
        raise ValueError(f"layer {node.name!r}: a factor of {largest:.3g} between its scales is more than {limit}")
    m, r, b = (np.rint(np.ldexp(value, shift)).astype(np.int64)
               for value in (gain, np.broadcast_to(residual_gain, gain.shape), quantisation.shifts[node.name] / out))
    if gain.any() and np.abs(m).max() < SMALLEST_LARGEST_FACTOR:
        raise ValueError(f"layer {node.name!r}: at S = {shift}, the most that R allows, no |M| is above "
                         f"{np.abs(m).max()} and {SMALLEST_LARGEST_FACTOR} is the least; use a narrower scale window "
                         "(fewer exp_bits)")
    return Parameters(m, r, b, shift)


def selected(post: Parameters, blocks: Sequence[int]) -> Parameters:
    """Parameters of some blocks in this order; of one, if all of these are alike."""
    m, r, b = (array[list(blocks)] for array in (post.M, post.R, post.B))
    count = 1 if all((array == array[:1]).all() for array in (m, r, b)) else len(m)
    return Parameters(m[:count], r[:count], b[:count], post.shift, post.dead_zone)


def in_memory(node: Node, weights: QuantisedWeights) -> QuantisedWeights:
    """Weights as the hardware takes them: with stride 2 for the space-to-depth tensor, groups four times as long."""
    if node.stride == 1:
        return weights
    return replace(weights, q=space_to_depth_weights(weights.q), group=4 * weights.group)


def integer_network(graph: Graph, quantisation: Quantisation, sizes: Mapping[str, tuple[int, int]], samples: int,
                    blocks: Sequence[int] = (0,), detect: Detect | None = None) -> Network:
    """The network of integers, for `golden.program.tiler`.

    A tensor that is read with a stride is written as it is, and once more by space-to-depth, for it may have other
    readers. An upsampled tensor stays small in memory where its readers can read it so. Else, where a layer adds an
    8-bit residual and upsamples, the post-processor would read the residual for each of the many small writes, so the
    result is upsampled in a pass of its own, which is faster. Layers that only make a residual run right before the
    first one that adds it: 8-bit tensors are large.

    Parameters
    ----------
    graph : Graph
    quantisation : Quantisation
    sizes : mapping of str to (H, W)
        Of the inputs; even where read with a stride, see `Graph.shapes`.
    samples : int
        N.
    blocks : sequence of int
        Which parameter blocks of the quantisation the network has. Batches mix these, by place in this list.
    detect : callable, optional
        How tensors are labelled; by default none is.

    Raises
    ------
    GraphError
        As `Graph.shapes`.
    ValueError
        As `parameters`.
    """
    formats, strided, small = quantisation.formats, graph.strided, graph.upsampled_reads
    shapes = graph.shapes(sizes, {name: factors.shape[1] for name, factors in quantisation.factors.items()})
    nodes: list[IntegerNode] = []

    def label(name: str, parts: int) -> Detection | None:
        """For a tensor of which `parts` values are written per pixel of the computed map."""
        _, height, width = shapes[name]
        return None if detect is None else detect(samples * height * width // parts)

    def copy(name: str, tensor: str, source: str, output: str, transform: Transform) -> None:
        """A layer that moves the pixels of `tensor`, or of `source` which holds it."""
        one = np.ones((1, shapes[tensor][0]), np.int64)
        nodes.append(Elementwise(name=name, inputs=(source,), output=output, post=Parameters(one, 0 * one, 0 * one, 0),
                                 out_fmt=formats[tensor], transform=transform, detection=label(tensor, 4)))

    for source in graph.inputs:
        if source.name in strided:
            copy(_strided(source.name), source.name, source.name, _strided(source.name), "space_to_depth")
    for node in late_residuals(graph):
        post, fmt = selected(parameters(node, quantisation), blocks), formats[node.output]
        upsample = node.upsample and node.output not in small
        apart = upsample and node.residual is not None and formats[node.residual].planes > 1
        output = f"{node.output} before upsampling" if apart else node.output
        transform: Transform = "upsample" if upsample and not apart else "none"
        detection = None if apart else label(node.output, 4 if node.upsample else 1)
        if node.kind == "convolution":
            weights = in_memory(node, quantisation.weights[node.name])
            nodes.append(Conv(
                name=node.name, inputs=tuple(_strided(name) if node.stride == 2 else name for name in node.inputs),
                output=output, weights=weights.q, w_fmt=weights.fmt, codes=weights.codes, group=weights.group,
                post=post, out_fmt=fmt, residual=node.residual, transform=transform, detection=detection,
                upsampled=small.issuperset(node.inputs)))
        else:
            nodes.append(Elementwise(name=node.name, inputs=(node.inputs[0],), output=output, post=post, out_fmt=fmt,
                                     residual=node.residual, transform=transform, detection=detection))
        if apart:
            copy(f"{node.name} upsampled", node.output, output, node.output, "upsample")
        if node.output in strided:
            copy(f"{node.name} strided", node.output, node.output, _strided(node.output), "space_to_depth")
    inputs = tuple(Input(source.name, (source.channels, samples, *shapes[source.name][1:]), formats[source.name])
                   for source in graph.inputs)
    return Network(inputs, tuple(nodes), graph.outputs)


def balanced(machine: Machine) -> Detect:
    """Labels by which the arrays of a configuration have equal work."""
    def detect(pixels: int) -> Detection:
        return balance_detection(pixels, machine.dense, machine.sparse, machine.dense_taps)

    return detect


def late_residuals(graph: Graph) -> list[Node]:
    """The nodes, those that only make residuals right before the first one that adds theirs."""
    read = {name for node in graph.nodes for name in node.inputs} | set(graph.outputs)
    late = {node.output: node for node in graph.nodes if node.output not in read}
    order: list[Node] = []

    def place(node: Node) -> None:
        if node.residual is not None and (waiting := late.pop(node.residual, None)) is not None:
            place(waiting)
        order.append(node)

    for node in graph.nodes:
        if node.output not in late:
            place(node)
    return order


def _strided(name: str) -> str:
    return f"{name} strided"
