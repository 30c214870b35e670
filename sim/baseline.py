"""The same network on two dense arrays, which take no notice of zeros: the baseline that zeros are to beat.

Dense arrays have no passes over nibble planes, so they cannot run 8-bit layers. Here these layers get their planes as
channels, which is the same work at the arrays' full rate, and the same result: with x = 16 X + x' and w = 16 W + w'

    x w = 256 X W + 16 X w' + 16 x' W + x' w'

is a convolution of the channels X, X, x', x' with 4-bit weights, the powers of 16 in the scale codes. The host writes
the network's 8-bit input as planes. W is signed, w' from -8 to 7, so weights of 120 and more become 119.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from golden.formats import S4, U4, ScaleFormat, Tensor, Uint8Array
from golden.layer import LayerError
from golden.program.network import Conv, Input, Network
from golden.program.tiler import tile
from golden.program.timeline import predict_program
from golden.workload.layers import Workload
from golden.workload.network import batch_network
from golden.workload.sample import StepProgram
from hw.config import Config

__all__ = ["DenseStep", "dense_config", "dense_cycles", "dense_network", "dense_step"]

ARRAYS = 2
LARGEST = 119       # 16 * 7 + 7
EXPONENT_BITS = 3   # of scale codes; with three of mantissa their values go to 960
ACC_BITS = 26       # the least with these


@dataclass(frozen=True, eq=False)
class DenseStep(StepProgram):
    """A program for dense arrays alone; its 8-bit inputs are written as planes."""

    def sources(self, x: Tensor) -> dict[str, Tensor]:
        """The low and the high plane, each twice: for both planes of the weights."""
        planes = Tensor(x.values & 15, U4), Tensor(x.values >> 4, S4)
        return {item.name: Tensor(np.concatenate([plane.values] * (item.shape[0] // x.shape[0])), plane.fmt)
                for item, plane in zip(self.network.inputs, planes, strict=True)}


def dense_config(config: Config) -> Config:
    """The same sizes with two dense arrays and no sparse one.

    Scale codes are made to reach 256, and accumulators wide enough for that; neither costs a cycle, as all codes are
    moved as bytes, unless a parameter word becomes a beat longer.
    """
    return replace(config, name=f"{config.name} with {ARRAYS} dense arrays", dense=ARRAYS, sparse=0,
                   scale_exp_bits=max(config.scale_exp_bits, EXPONENT_BITS),
                   acc_bits=max(config.acc_bits, ACC_BITS))


def dense_step(step: int, labels: Sequence[int], config: Config, workload: Workload) -> DenseStep:
    """As `golden.workload.sample.step_program`, for a configuration without sparse arrays."""
    made = batch_network(step, labels, workload)
    network = dense_network(made.network, ScaleFormat(config.scale_exp_bits, config.scale_man_bits))
    return DenseStep(network, tile(network, config), made.sample_block, made.in_scale, made.out_scale,
                     made.network.inputs[0].fmt)


def dense_cycles(config: Config, labels: Sequence[int], workload: Workload) -> int:
    """Cycles of a time step on two dense arrays by the cycle model; they do not depend on the data.

    Parameters
    ----------
    config : Config
        Its sizes; dense and sparse become 2 and 0.
    labels, workload
        As of `dense_step`.

    Raises
    ------
    golden.layer.LayerError, golden.conv.AccumulatorOverflow
        If the configuration cannot run a layer.
    """
    machine = dense_config(config)
    made = dense_step(0, labels, machine, workload)
    zeros = {item.name: Tensor(np.zeros(item.shape, np.int64), item.fmt) for item in made.network.inputs}
    return predict_program(machine, made.program, made.program.data(zeros, made.sample_block)).run


def dense_network(network: Network, scale: ScaleFormat) -> Network:
    """A network of 4-bit convolutions from one that has an 8-bit input and layers of 8-bit weights.

    Raises
    ------
    golden.layer.LayerError
        If a convolution reads an 8-bit tensor that another layer made, 8-bit weights read two tensors, or there is no
        scale code for a power of 16.
    """
    (source,), tensors = network.inputs, network.tensors
    low, high = f"{source.name} low", f"{source.name} high"
    shape = (2 * source.shape[0], *source.shape[1:])
    nodes = []
    for node in network.nodes:
        node = replace(node, detection=None)
        if isinstance(node, Conv):
            if node.inputs == (source.name,):
                node = _planes(node, scale, (low, high), 4)
            elif wide := [name for name in node.inputs if name == source.name or tensors[name].fmt.planes > 1]:
                raise LayerError(f"layer {node.name!r}: dense arrays cannot read the 8-bit tensor {wide[0]!r}")
            elif node.w_fmt.planes > 1:
                node = _planes(node, scale, node.inputs * 2, 2)
        nodes.append(node)
    return Network((Input(low, shape, U4), Input(high, shape, S4)), tuple(nodes), network.outputs)


def _planes(node: Conv, scale: ScaleFormat, inputs: tuple[str, ...], times: int) -> Conv:
    """A convolution of planes: low then high ones of the weights, for each plane of the input."""
    if len(inputs) > 2:
        raise LayerError(f"layer {node.name!r}: dense arrays cannot run 8-bit weights on two inputs")
    limited = np.minimum(node.weights, LARGEST)
    high = limited + 8 >> 4
    group = node.group if node.weights.shape[1] % node.group == 0 else 1
    codes = node.codes if group > 1 else node.codes.repeat(node.group, axis=1)[:, :node.weights.shape[1]]
    factors = (1, 16, 16, 256)[:times]
    return replace(
        node, inputs=inputs, w_fmt=S4, weights=np.concatenate([limited - 16 * high, high] * (times // 2), axis=1),
        group=group, codes=np.concatenate([_times(node, codes, scale, factor) for factor in factors], axis=1))


def _times(node: Conv, codes: Uint8Array, scale: ScaleFormat, factor: int) -> Uint8Array:
    """Codes of the values `factor` times as large."""
    values = scale.value(np.arange(scale.max_code + 1))
    places = {int(value): code for code, value in enumerate(values)}
    try:
        return np.array([[places[factor * int(value)] for value in line] for line in scale.value(codes)], np.uint8)
    except KeyError as error:
        raise LayerError(f"layer {node.name!r}: there is no scale code of the value {error.args[0]}") from None
