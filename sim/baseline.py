"""What the same network would take on two dense arrays, by the cycle model: the baseline that zeros are to beat."""

from dataclasses import replace

import numpy as np

from golden.formats import S4, U4, Tensor
from golden.program.network import Conv, Network
from golden.program.tiler import tile
from golden.program.timeline import predict_program
from hw.config import Config

__all__ = ["dense_cycles"]

ARRAYS = 2


def dense_cycles(config: Config, network: Network) -> int:
    """Cycles of the network's program on two dense arrays, which do not depend on the data.

    Dense arrays cannot run 8-bit layers; these count as if they could run them in nibble passes at their full rate.

    Parameters
    ----------
    config : Config
        Its sizes; dense and sparse become 2 and 0.
    network : Network

    Raises
    ------
    golden.layer.LayerError, golden.conv.AccumulatorOverflow
        If the configuration cannot run a layer.
    """
    machine, tensors = replace(config, dense=ARRAYS, sparse=0), network.tensors
    inputs = tuple(replace(item, fmt=U4) for item in network.inputs)
    nodes, more = [], 0
    for node in network.nodes:
        node = replace(node, detection=None)
        if isinstance(node, Conv):
            passes = node.w_fmt.planes * max(tensors[name].fmt.planes for name in node.inputs)
            channels, pixels = node.weights.shape[1], int(np.prod(tensors[node.inputs[0]].shape[1:]))
            steps = -(-channels // ARRAYS) * (node.kernel if machine.dense_taps > 1 else node.kernel**2)
            more += (passes - 1) * steps * -(-pixels // machine.rows) * -(-node.outputs // machine.cols)
            node = replace(node, weights=np.clip(node.weights, S4.min, S4.max), w_fmt=S4)
        nodes.append(node)
    program = tile(Network(inputs, tuple(nodes), network.outputs), machine)
    zeros = {item.name: Tensor(np.zeros(item.shape, np.int64), item.fmt) for item in inputs}
    return predict_program(machine, program, program.data(zeros, [0] * network.samples)).run + more
