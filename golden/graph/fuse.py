"""Layers joined as the hardware wants them: addition, ReLU and upsampling become part of the layer before."""

from collections.abc import Sequence
from dataclasses import replace

from golden.graph.forward import Weights
from golden.graph.graph import Graph, Node

__all__ = ["fused"]


def fused(graph: Graph, weights: Weights) -> Graph:
    """The same network in fewer layers.

    An element-wise layer that only adds a residual, clamps, upsamples or copies becomes part of the one that makes its
    input, if nothing else reads that and no number of bits was asked for it. The joined layer keeps the name of the
    earlier one, by which its arrays are found, runs at the place of the later one, and writes its tensor.
    """
    nodes = list(graph.nodes)
    while _join(nodes, graph.outputs, weights):
        pass
    return replace(graph, nodes=tuple(nodes))


def _join(nodes: list[Node], outputs: Sequence[str], weights: Weights) -> bool:
    """Join two of the nodes; False if there are none left to join."""
    for place, node in enumerate(nodes):
        if node.kind == "convolution" or node.modulation or any(f"{node.name}.{part}" in weights
                                                                for part in ("scale", "shift")):
            continue
        before = [number for number in range(place) if nodes[number].output in node.reads]
        for number in reversed(before):
            tensor = nodes[number].output
            readers = [name for reader in nodes for name in reader.reads if name == tensor]
            if len(readers) > 1 or tensor in outputs:
                continue
            others = [name for name in node.reads if name != tensor]
            if (joined := _joined(nodes[number], node, others[0] if others else None)) is not None:
                nodes[place] = joined
                del nodes[number]
                return True
    return False


def _joined(first: Node, then: Node, residual: str | None) -> Node | None:
    """Both as one layer; None if the hardware's order of operations does not allow it."""
    if first.bits is not None:
        return None
    if residual is not None and (first.residual is not None or first.relu or first.upsample):
        return None
    if then.upsample and first.upsample:
        return None
    return replace(first, output=then.output, residual=first.residual if residual is None else residual,
                   relu=first.relu or then.relu, upsample=first.upsample or then.upsample, bits=then.bits)
