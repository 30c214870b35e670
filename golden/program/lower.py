"""Fits a network to what a configuration can read: rearranging tensors while reading them saves passes over memory.

An element-wise node that writes the space-to-depth form reads with a stride instead, where it can: then it writes a
whole tile at a time. A convolution that cannot read its inputs upsampled gets copies that are written upsampled.
"""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from golden.machine import Machine
from golden.program.network import Conv, Elementwise, Network, Node, Parameters, TensorShape

__all__ = ["lower"]


def lower(network: Network, machine: Machine, plainly: Collection[str] = ()) -> Network:
    """Return the network with reads that the configuration can make.

    Parameters
    ----------
    network : Network
    machine : Machine
    plainly : collection of str
        Nodes that shall read tensors as they are.
    """
    nodes: list[Node] = []
    shapes, makers = network.tensors, {node.output: node for node in network.nodes}
    for node in network.nodes:
        width = shapes[node.inputs[0]].shape[-1]
        can = node.name not in plainly
        if isinstance(node, Conv) and node.upsampled:
            if not can or 2 * width not in machine.upsampled_widths:
                copies = [_upsampled(name, node, shapes[name], makers.get(name)) for name in node.inputs]
                nodes += copies
                node = replace(node, inputs=tuple(copy.output for copy in copies), upsampled=False)
        elif (isinstance(node, Elementwise) and node.transform == "space_to_depth" and node.residual is None
              and can and width // 2 in machine.strided_widths):
            post = node.post
            m, r, b = (np.repeat(array, 4, axis=1) for array in (post.M, post.R, post.B))
            node = replace(node, post=Parameters(m, r, b, post.shift, post.dead_zone), transform="none", strided=True)
        nodes.append(node)
    return replace(network, nodes=tuple(nodes))


def _upsampled(name: str, reader: Conv, tensor: TensorShape, maker: Node | None) -> Elementwise:
    """A copy of a tensor for a node that reads it upsampled, labelled as it is."""
    one = np.ones((1, tensor.shape[0]), np.int64)
    return Elementwise(
        name=f"{reader.name} ({name} upsampled)", inputs=(name,), output=f"{name} upsampled for {reader.name}",
        post=Parameters(one, 0 * one, 0 * one, 0), out_fmt=tensor.fmt, transform="upsample", mask=reader.mask,
        detection=None if maker is None else maker.detection)
