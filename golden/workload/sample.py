"""The network's time steps as programs, and what lies between them and the sampler on the host: scales."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from golden.formats import Format, Int64Array, Tensor
from golden.graph.integer import balanced
from golden.machine import Machine
from golden.program.bundle import Program
from golden.program.network import Conv, Network
from golden.program.tiler import tile
from golden.quant.weights import Float64Array
from golden.workload.layers import Workload
from golden.workload.network import batch_network
from golden.workload.sampler import Images
from golden.workload.unet import INPUT, OUTPUT

__all__ = ["INPUT", "OUTPUT", "StepProgram", "input_zeros", "step_program"]


@dataclass(frozen=True, eq=False)
class StepProgram:
    """The network F for one batch.

    Parameters
    ----------
    network : Network
    program : Program
    sample_block : tuple of int
        Parameter block of each sample.
    in_scale, out_scale : float64 [N]
        What 1 stands for in the tensors `INPUT` and `OUTPUT` of each sample.
    in_fmt : Format
        Of the input.
    """

    network: Network
    program: Program
    sample_block: tuple[int, ...]
    in_scale: Float64Array
    out_scale: Float64Array
    in_fmt: Format

    def quantise(self, x: Images) -> Tensor:
        """The program's input of a preconditioned image [1, N, H, W]; what is beyond the scale is clamped."""
        fmt = self.in_fmt
        return Tensor(np.clip(np.rint(x / self.in_scale[:, None, None]), fmt.min, fmt.max).astype(np.int64), fmt)

    def sources(self, x: Tensor) -> dict[str, Tensor]:
        """The tensors that the program reads from the data region, of its input."""
        return {INPUT: x}

    def real(self, output: Tensor) -> Images:
        """What the program's output stands for."""
        values: Images = self.out_scale[:, None, None] * output.values
        return values


def step_program(step: int | Sequence[int], labels: Sequence[int], machine: Machine,
                 workload: Workload) -> StepProgram:
    """Write the program of a noise level, or of several: samples of one batch may be at different ones.

    A sample's result does not depend on which others are in its batch, nor on their noise levels.

    Parameters
    ----------
    step : int, or sequence of int
        Of all samples, or of each: 0 (noise) to the workload's last (image).
    labels : sequence of int
        Class of each sample, 0 to 9.
    machine : Machine
        The configuration. Channels are labelled so that its arrays have equal work.
    workload : Workload
        The model, its calibration and its quantisation.

    Raises
    ------
    ValueError
        As `golden.workload.network.batch_network`.
    golden.layer.LayerError, golden.conv.AccumulatorOverflow
        If the configuration cannot run the network.
    """
    made = batch_network(step, labels, workload, balanced(machine))
    return StepProgram(made.network, tile(made.network, machine), made.sample_block, made.in_scale, made.out_scale,
                       made.network.inputs[0].fmt)


def input_zeros(step: StepProgram, x: Tensor, nonzeros: Mapping[int, Int64Array]) -> dict[str, float | None]:
    """Share of zeros in each convolution's inputs.

    Parameters
    ----------
    step : StepProgram
    x : Tensor
        The program's input.
    nonzeros : mapping
        `golden.program.labels.LabelTable.nonzeros` after its run.

    Returns
    -------
    dict
        By layer; None where an input had no labels, so that nothing was counted.
    """
    made = {node.output: node for node in step.network.nodes}
    tensors = step.network.tensors
    counts = {INPUT: (int(np.count_nonzero(x.values)), x.values.size)}
    for name, places in step.program.labels.items():
        if name not in made:
            continue        # a copy that the tiler added
        # The detector counts before upsampling.
        size = int(np.prod(tensors[name].shape)) // (4 if made[name].transform == "upsample" else 1)
        counts[name] = sum(int(nonzeros[slot].sum()) for slot in {slot for _, slot in places}), size
    shares: dict[str, float | None] = {}
    for node in step.network.nodes:
        if isinstance(node, Conv):
            known = [counts[name] for name in node.inputs if name in counts]
            whole = len(known) == len(node.inputs)
            shares[node.name] = 1 - sum(n for n, _ in known) / sum(size for _, size in known) if whole else None
    return shares
