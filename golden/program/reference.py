"""What a network computes, node by node by the golden model: the answer that a program of it must give."""

from collections.abc import Mapping, Sequence

from golden.conv import conv
from golden.formats import ScaleFormat, Tensor
from golden.layout import space_to_depth, upsample2
from golden.machine import Machine
from golden.ppu import postprocess
from golden.program.network import Conv, Elementwise, Network, Node

__all__ = ["run_network", "run_node"]


def run_node(machine: Machine, node: Node, tensors: Mapping[str, Tensor], sample_block: Sequence[int]) -> Tensor:
    """Return the tensor that a node makes; raises as `golden.conv.conv` and `golden.ppu.postprocess`."""
    inputs = [tensors[name] for name in node.inputs]
    if isinstance(node, Conv) and node.upsampled:
        inputs = [upsample2(tensor) for tensor in inputs]
    if isinstance(node, Elementwise) and node.strided:
        inputs = [space_to_depth(tensor) for tensor in inputs]
    if isinstance(node, Conv):
        scale = ScaleFormat(machine.scale_exp_bits, machine.scale_man_bits)
        acc = conv(inputs, node.weights, node.w_fmt, node.codes, node.group, scale)
    else:
        acc = inputs[0].values
    residual = tensors[node.residual] if node.residual else None
    out = postprocess(acc, node.post.post(sample_block), node.out_fmt, residual, acc_bits=machine.acc_bits)
    if node.transform == "upsample":
        return upsample2(out)
    return space_to_depth(out) if node.transform == "space_to_depth" else out


def run_network(machine: Machine, network: Network, inputs: Mapping[str, Tensor], sample_block: Sequence[int],
                step: int = 0, before: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return all tensors after a time step; raises as `run_node`.

    Parameters
    ----------
    machine : Machine
    network : Network
    inputs : mapping
        By name.
    sample_block : sequence of int
        Parameter block of each sample.
    step : int
        A node whose mask leaves it out makes nothing.
    before : mapping, optional
        The tensors of the step before, which such nodes leave as they are.
    """
    tensors = dict(before or {}) | dict(inputs)
    for node in network.nodes:
        if node.mask >> step & 1:
            tensors[node.output] = run_node(machine, node, tensors, sample_block)
    return tensors
