"""A time step of the trained network as one `golden.program.network.Network`: all its layers, joined by memory."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from golden.detector import Detection
from golden.formats import Tensor
from golden.program.network import Conv, Elementwise, Input, Network, Node, Parameters
from golden.workload.layers import DEFAULT, RealLayer, Workload, real_layer
from golden.workload.unet import CLASSES, NETWORK
from golden.workload.unet import Node as Layer

__all__ = ["NetworkStep", "step_network"]

Detect = Callable[[int], Detection]


@dataclass(frozen=True, eq=False)
class NetworkStep:
    """A network for one time step, its input, and the parameter block of each sample: its class.

    The parameter block of a class is the class's number, whatever the samples are.

    Parameters
    ----------
    network : Network
    inputs : dict
        Real activations by name.
    sample_block : tuple of int
    in_scale, out_scale : float
        The activation that 1 stands for in the input and in the output.
    """

    network: Network
    inputs: dict[str, Tensor]
    sample_block: tuple[int, ...]
    in_scale: float
    out_scale: float


def step_network(step: int, workload: Workload = DEFAULT, detect: Detect | None = None,
                 samples: int | None = None) -> NetworkStep:
    """The network at a time step.

    A tensor that is read with a stride is written as it is, and once more by space-to-depth: it has other readers too.
    One that is upsampled is so where it is read. Skips run right before the layer that adds them, for their 8-bit
    results are the largest tensors.

    Parameters
    ----------
    step : int
        0 (noise) to the workload's last.
    workload : Workload
        Has a sample of every class, or there would be no parameters for it.
    detect : callable, optional
        From the pixels of a channel, N*H*W before upsampling, how a tensor is labelled; by default none is.
    samples : int, optional
        N, the first so many samples of the workload; by default all.

    Raises
    ------
    ValueError
        If the workload lacks a class or has fewer samples.
    """
    samples = workload.samples if samples is None else samples
    if not 1 <= samples <= workload.samples:
        raise ValueError(f"samples={samples} is not legal: the workload has {workload.samples}")
    if workload.samples < CLASSES:
        raise ValueError(f"{workload.samples} samples are not all {CLASSES} classes; use at least {CLASSES}")
    nodes: list[Node] = []
    strided = {name for node in NETWORK if node.stride == 2 for name in node.inputs}
    upsampled = {node.output for node in NETWORK if node.upsample}
    source: Tensor | None = None
    in_scale = out_scale = 1.0
    for node in _late_skips():
        real = real_layer(node.name, step, workload)
        layer, post = real.layer, real.layer.post
        if source is None:
            source = Tensor(layer.inputs[0].values[:, :samples], layer.inputs[0].fmt)
            in_scale = real.in_scale
        out_scale = real.out_scale
        inputs = tuple(_strided(name) if node.stride == 2 else name for name in node.inputs)
        nodes.append(Conv(
            name=node.name, inputs=inputs, output=node.output, weights=layer.weights, w_fmt=layer.w_fmt,
            codes=layer.codes, group=layer.group, out_fmt=layer.out_fmt, residual=node.residual,
            post=Parameters(post.M, post.R, post.B, post.shift, post.dead_zone), upsampled=upsampled.issuperset(inputs),
            detection=_detection(detect, real, samples)))
        if node.output in strided:
            one = np.ones((1, len(layer.weights)), np.int64)
            nodes.append(Elementwise(
                name=f"{node.name} strided", inputs=(node.output,), output=_strided(node.output),
                post=Parameters(one, 0 * one, 0 * one, 0), out_fmt=layer.out_fmt, transform="space_to_depth",
                detection=_detection(detect, real, samples, 4)))
    assert source is not None
    first, last = NETWORK[0].inputs[0], NETWORK[-1].output
    sample_block = tuple(int(label) for label in np.arange(samples) % CLASSES)
    return NetworkStep(Network((Input(first, source.shape, source.fmt),), tuple(nodes), (last,)), {first: source},
                       sample_block, in_scale, out_scale)


def _late_skips() -> list[Layer]:
    """The network's layers, those that only make a residual right before the one that adds it."""
    read = {name for node in NETWORK for name in node.inputs}
    late = {node.output: node for node in NETWORK if node.output not in read and node.output != NETWORK[-1].output}
    order: list[Layer] = []
    for node in NETWORK:
        if node.output not in late:
            order += [*([late[node.residual]] if node.residual in late else []), node]
    return order


def _strided(name: str) -> str:
    return f"{name} strided"


def _detection(detect: Detect | None, real: RealLayer, samples: int, parts: int = 1) -> Detection | None:
    _, _, height, width = real.layer.in_shape
    return None if detect is None else detect(samples * height * width // parts)
