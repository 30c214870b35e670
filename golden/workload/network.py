"""A time step of the trained network as one `golden.program.network.Network`: all its layers, joined by memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index

import numpy as np

from golden.formats import Tensor
from golden.graph.integer import Detect, integer_network
from golden.program.network import Network
from golden.quant.weights import Float64Array
from golden.workload.layers import DEFAULT, Workload, check_step, quantised_tensor
from golden.workload.unet import CLASSES, GRAPH, INPUT, OUTPUT

__all__ = ["BatchNetwork", "NetworkStep", "batch_network", "step_network"]


@dataclass(frozen=True, eq=False)
class BatchNetwork:
    """The network F for one batch, whose samples may be of different classes and at different time steps.

    Parameters
    ----------
    network : Network
        Its parameter blocks are those of all classes at the batch's time steps: block i * 10 + class is of the i-th of
        these steps, in rising order.
    sample_block : tuple of int
        Parameter block of each sample.
    in_scale, out_scale : float64 [N]
        What 1 stands for in the input and in the output of each sample.
    """

    network: Network
    sample_block: tuple[int, ...]
    in_scale: Float64Array
    out_scale: Float64Array


@dataclass(frozen=True, eq=False)
class NetworkStep:
    """A network for one time step, its input, and the parameter block of each sample: its class.

    Parameters
    ----------
    network : Network
    inputs : dict
        Real activations by name.
    sample_block : tuple of int
    """

    network: Network
    inputs: dict[str, Tensor]
    sample_block: tuple[int, ...]


def batch_network(steps: int | Sequence[int], labels: Sequence[int], workload: Workload = DEFAULT,
                  detect: Detect | None = None) -> BatchNetwork:
    """The network for a batch.

    Parameters
    ----------
    steps : int or sequence of int
        Time step of all samples, or of each: 0 (noise) to the workload's last.
    labels : sequence of int
        Class of each sample, 0 to 9.
    workload : Workload
    detect : callable, optional
        From the pixels of a channel, N*H*W before upsampling, how a tensor is labelled; by default none is.

    Raises
    ------
    ValueError
        If there are no such steps or classes, or not as many of both, or as `golden.graph.integer.parameters`.
    """
    numbers = list(steps) if isinstance(steps, Sequence) else [index(steps)] * len(labels)
    if len(numbers) != len(labels) or not numbers:
        raise ValueError(f"{len(numbers)} steps for {len(labels)} samples: there must be one for each, and a sample")
    for number in numbers:
        check_step(number, workload)
    if wrong := [label for label in labels if not 0 <= index(label) < CLASSES]:
        raise ValueError(f"there are the classes 0 to {CLASSES - 1}, not {wrong[0]}")
    different = sorted(set(numbers))
    blocks = [step * CLASSES + label for step in different for label in range(CLASSES)]
    network = integer_network(GRAPH, workload.quantisation, {INPUT: workload.shape}, len(labels), blocks, detect)
    sample_block = tuple(different.index(step) * CLASSES + int(label)
                         for step, label in zip(numbers, labels, strict=True))
    in_scale, out_scale = (workload.network.scales[name][numbers] for name in (INPUT, OUTPUT))
    return BatchNetwork(network, sample_block, in_scale, out_scale)


def step_network(step: int, workload: Workload = DEFAULT, detect: Detect | None = None,
                 samples: int | None = None) -> NetworkStep:
    """The network at a time step, on the activations of the workload's first so many samples; by default of all.

    Raises
    ------
    ValueError
        If the workload has fewer samples, or as `batch_network`.
    """
    samples = workload.samples if samples is None else samples
    if not 1 <= samples <= workload.samples:
        raise ValueError(f"samples={samples} is not legal: the workload has {workload.samples}")
    made = batch_network(step, (np.arange(samples) % CLASSES).tolist(), workload, detect)
    source = quantised_tensor(INPUT, step, workload)
    return NetworkStep(made.network, {INPUT: Tensor(source.values[:, :samples], source.fmt)}, made.sample_block)
