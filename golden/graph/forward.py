"""A network in float32: what its integer version is calibrated on and compared with.

Arrays by name, NODE being a node's name: of convolutions `NODE.weight` [K, C, 1, 1] or [K, C, 3, 3] and `NODE.bias` [K]
(optional), of element-wise layers `NODE.scale` [C] and `NODE.shift` [C] (both optional). A modulation NAME is
`NAME.factor` and `NAME.shift` [blocks, K], unless the caller of `run` makes it in another way.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from golden.graph.graph import Graph, GraphError, Node

__all__ = ["Activation", "Activations", "Float32Array", "Modulate", "Weights", "activated", "channels", "convolve",
           "modulation_blocks", "run", "stored"]

Float32Array = NDArray[np.float32]
Weights = Mapping[str, Float32Array]
Activations = dict[str, Float32Array]
Activation = Literal["relu", "silu"]
Modulate = Callable[[str], tuple[Float32Array, Float32Array]]     # from its name: factor and shift [K, N]

KERNELS = (1, 3)


def channels(graph: Graph, weights: Weights) -> dict[str, int]:
    """K of each node by its name, after a check of all arrays.

    Raises
    ------
    GraphError
        If an array is missing, unknown or of another shape than its node needs, or not finite; names the node.
    """
    known = {source.name: source.channels for source in graph.inputs}
    found, used = {}, set()
    for node in graph.nodes:
        inputs = sum(known[name] for name in node.inputs)
        outputs = inputs
        if node.kind == "convolution":
            kernel = _array(node, weights, "weight")
            if kernel.ndim != 4 or kernel.shape[1] != inputs or kernel.shape[2:] not in [(k, k) for k in KERNELS]:
                raise GraphError(f"node {node.name!r}: {node.name}.weight must have the shape [K, {inputs}, 1, 1] or "
                                 f"[K, {inputs}, 3, 3], not {list(kernel.shape)}")
            outputs = len(kernel)
        vectors = [f"{node.name}.{part}" for part in (("bias",) if node.kind == "convolution" else ("scale", "shift"))]
        for name in [name for name in vectors if name in weights]:
            if weights[name].shape != (outputs,):
                raise GraphError(f"node {node.name!r}: {name} must have the shape [{outputs}], not "
                                 f"{list(weights[name].shape)}")
        found[node.name] = known[node.output] = outputs
        used |= {f"{node.name}.weight", *vectors}
    for name, array in weights.items():
        if name in used and not np.isfinite(array).all():
            raise GraphError(f"{name} must be finite")
    return found


def modulation_blocks(graph: Graph, weights: Weights) -> int:
    """Parameter blocks that the stored modulations have, 1 without any.

    Raises
    ------
    GraphError
        If a modulation is missing, of another shape than its node needs, or they have different numbers of blocks.
    """
    outputs, blocks = channels(graph, weights), {}
    for node in graph.nodes:
        if node.modulation is not None:
            for part in ("factor", "shift"):
                name = f"{node.modulation}.{part}"
                array = weights.get(name)
                if array is None or array.ndim != 2 or array.shape[1] != outputs[node.name] or not len(array):
                    raise GraphError(f"node {node.name!r}: {name} must be there with the shape [blocks, "
                                     f"{outputs[node.name]}]" + ("" if array is None else f", not {list(array.shape)}"))
                blocks[name] = len(array)
    if len(set(blocks.values())) > 1:
        raise GraphError("modulations must have as many blocks each, not " + ", ".join(
            f"{name} {count}" for name, count in blocks.items()))
    return next(iter(blocks.values()), 1)


def stored(weights: Weights, sample_block: Sequence[int]) -> Modulate:
    """Modulation by the stored blocks, from the block of each sample."""
    numbers = np.array(sample_block)

    def modulate(name: str) -> tuple[Float32Array, Float32Array]:
        return weights[f"{name}.factor"][numbers].T, weights[f"{name}.shift"][numbers].T

    return modulate


def run(graph: Graph, weights: Weights, inputs: Mapping[str, Float32Array], modulate: Modulate | None = None,
        activation: Activation = "relu") -> Activations:
    """Every tensor by name.

    Parameters
    ----------
    graph : Graph
    weights : mapping
        Arrays as above.
    inputs : mapping of str to float32 [C, N, H, W]
    modulate : callable, optional
        Needed if a node has a modulation.
    activation : str
        "relu" or "silu", for all nodes that have one. Only the first can be quantised for the hardware.

    Raises
    ------
    GraphError
        If inputs are missing or have the wrong shape, or as `channels` and `Graph.shapes`.
    """
    tensors: Activations = {}
    for source in graph.inputs:
        x = inputs.get(source.name)
        if x is None or x.ndim != 4 or len(x) != source.channels or not x.size:
            raise GraphError(f"input {source.name!r} must be there with {source.channels} channels, [C, N, H, W]"
                             + ("" if x is None else f", not {list(x.shape)}"))
        tensors[source.name] = x.astype(np.float32)
    if len(counts := {x.shape[1] for x in tensors.values()}) > 1:
        raise GraphError(f"inputs must have as many samples each, not {', '.join(map(str, sorted(counts)))}")
    graph.shapes({name: x.shape[2:] for name, x in tensors.items()}, channels(graph, weights))
    for node in graph.nodes:
        tensors[node.output] = _node(node, weights, tensors, modulate, activation)
    return tensors


def convolve(weights: Weights, node: Node, x: Float32Array) -> Float32Array:
    """A node's convolution with bias: [C, N, H, W] to [K, N, H / stride, W / stride], zeros beyond the border."""
    kernel = weights[f"{node.name}.weight"]
    outputs, inputs, size, _ = kernel.shape
    border = (size // 2, size // 2)
    windows = sliding_window_view(np.pad(x, ((0, 0), (0, 0), border, border)), (size, size), axis=(2, 3))
    windows = windows[:, :, :: node.stride, :: node.stride].transpose(0, 4, 5, 1, 2, 3)
    pixels = windows.shape[3:]
    flat = kernel.reshape(outputs, -1) @ windows.reshape(inputs * size * size, -1)
    y = flat.reshape(outputs, *pixels)
    bias = weights.get(f"{node.name}.bias")
    return y if bias is None else y + bias[:, None, None, None]


def activated(x: Float32Array, activation: Activation) -> Float32Array:
    """ReLU or SiLU of x."""
    if activation == "relu":
        return np.maximum(x, 0)
    return x / (1 + np.exp(-np.maximum(x, np.float32(-80))))     # below -80 it is 0 all the same, and exp is finite


def _node(node: Node, weights: Weights, tensors: Activations, modulate: Modulate | None,
          activation: Activation) -> Float32Array:
    if node.kind == "convolution":
        y = convolve(weights, node, np.concatenate([tensors[name] for name in node.inputs]))
    else:
        y = tensors[node.inputs[0]]
        for part, apply in (("scale", np.multiply), ("shift", np.add)):
            if f"{node.name}.{part}" in weights:
                y = apply(y, weights[f"{node.name}.{part}"][:, None, None, None])
    if node.modulation is not None:
        if modulate is None:
            raise GraphError(f"node {node.name!r} needs its modulation {node.modulation!r}")
        factor, shift = modulate(node.modulation)
        y = y * factor[:, :, None, None] + shift[:, :, None, None]
    if node.residual is not None:
        y = y + tensors[node.residual]
    if node.relu:
        y = activated(y, activation)
    return y.repeat(2, axis=2).repeat(2, axis=3) if node.upsample else y


def _array(node: Node, weights: Weights, part: str) -> Float32Array:
    name = f"{node.name}.{part}"
    if name not in weights:
        raise GraphError(f"node {node.name!r}: there is no array {name}")
    return weights[name]
