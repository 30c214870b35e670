"""What the same network would take on two dense arrays, by the cycle model: the baseline that zeros are to beat."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from golden.cycles import predict
from golden.detector import Labels
from golden.formats import S4, U4, Tensor
from golden.layer import LabelPlace, Layer, compile_layer, initial_memory, place
from golden.program.network import Conv, Network
from hw.config import Config

from .measure import Labelled, deal, ideal_cycles

__all__ = ["dense_cycles"]


def dense_cycles(config: Config, network: Network, sample_block: Sequence[int]) -> dict[str, int]:
    """Cycles of each convolution on two dense arrays, which do not depend on the data.

    Only convolutions count, each by itself: nothing for loads, stores and elementwise layers. Dense arrays cannot run
    8-bit layers; these count as if they could run them in nibble passes at their full rate.

    Parameters
    ----------
    config : Config
        Its sizes; dense and sparse become 2 and 0.
    network : Network
    sample_block : sequence of int
        Parameter block of each sample.

    Raises
    ------
    golden.layer.LayerError, golden.conv.AccumulatorOverflow
        If the configuration cannot run a layer whole.
    """
    machine, tensors = replace(config, dense=2, sparse=0), network.tensors
    cycles = {}
    for node in network.nodes:
        if not isinstance(node, Conv):
            continue
        planes = tensors[node.inputs[0]].fmt.planes
        inputs = tuple(Tensor(np.zeros(tensors[name].shape, np.int64), U4) for name in node.inputs)
        residual = None
        if node.residual:
            mate = tensors[node.residual]
            residual = Tensor(np.zeros(mate.shape, np.int64), mate.fmt)
        layer = Layer(node.name, inputs, np.clip(node.weights, S4.min, S4.max), S4, node.codes, node.group,
                      node.post.post(sample_block), node.out_fmt, residual, node.transform)
        firsts = np.cumsum([0, *(len(tensor.values) for tensor in inputs)])
        labelled = [Labelled(LabelPlace(int(first), 0), Labels.all_dense(len(tensor.values)))
                    for first, tensor in zip(firsts, inputs, strict=False)]
        placement = place(layer, machine)
        image = compile_layer(layer, machine, placement, in_labels=[item.place for item in labelled])
        memory = initial_memory(layer, placement, np.zeros(machine.act_nibbles, np.uint8))
        work = deal(machine, layer, image, memory, labelled)
        more = node.w_fmt.planes * planes - 1
        cycles[node.name] = predict(machine, work).cycles + more * max(ideal_cycles(machine, work))
    return cycles
