"""A small network over several time steps: a program that every configuration of arrays must run to the same result.

    x ── conv 3x3 ── a ── conv 1x1 ── b ── conv 3x3, upsample, of (a, b) ── c ── conv 3x3, space-to-depth ── d
"""

from dataclasses import dataclass, replace

import numpy as np

from golden.detector import Labels
from golden.formats import S4, U4, Int64Array, Tensor, Uint8Array
from golden.layer import LabelPlace, Layer, Placement, run
from golden.layout import load, store
from hw.config import preset
from sim.stimulus import output_nonzeros, random_labels, random_layer

__all__ = ["CHANNELS", "LABELS", "STEPS", "Run", "Step", "program"]

STEPS = 4
SAMPLES, HEIGHT, WIDTH = 2, 3, 5
# What every configuration can run: scale codes of one exponent bit, 4-bit layers.
LEAST = replace(preset("tiny"), scale_exp_bits=1, dense=1, sparse=0)

BASES = {"x": 3, "a": 170, "b": 401, "c": 600, "d": 1300}
CHANNELS = {"x": 5, "a": 7, "b": 6, "c": 5, "d": 16}
LABELS = {"x": LabelPlace(2, 0), "a": LabelPlace(8, 1), "b": LabelPlace(40, 2), "c": LabelPlace(50, 3),
          "d": LabelPlace(60, 0)}
# Inputs, output, kernel, transform.
LAYERS = ((("x",), "a", 3, "none"), (("a",), "b", 1, "none"), (("a", "b"), "c", 3, "upsample"),
          (("c",), "d", 3, "space_to_depth"))


@dataclass(frozen=True, eq=False)
class Run:
    """One layer in one time step, and the memory afterwards."""

    layer: Layer
    placement: Placement
    inputs: tuple[str, ...]
    output: str
    after: Uint8Array

    @property
    def nonzeros(self) -> Int64Array:
        """Of each channel of the output, as the detector counts them."""
        return output_nonzeros(self.layer, self.placement, self.after)


@dataclass(frozen=True, eq=False)
class Step:
    """One time step: the memory before it, with a new input, the input's labels, and the layers."""

    before: Uint8Array
    labels: Labels
    runs: tuple[Run, ...]


def program(seed: int = 0) -> list[Step]:
    """Draw the network and its input, and compute what memory must hold after each layer of each step."""
    rng = np.random.default_rng(seed)
    memory = rng.integers(0, 16, LEAST.act_nibbles).astype(np.uint8)
    steps = []
    for _ in range(STEPS):
        # A channel's share of zeros changes from step to step; some are all zero.
        shape = CHANNELS["x"], SAMPLES, HEIGHT, WIDTH
        nonzero = rng.random(shape) < rng.choice([0, 0.1, 0.5, 1], (shape[0], 1, 1, 1))
        x = Tensor(rng.integers(0, 16, shape) * nonzero, U4)
        memory = memory.copy()
        store(memory, BASES["x"], x)
        before, tensors, runs = memory, {"x": x}, []
        for inputs, output, kernel, transform in LAYERS:
            outputs = CHANNELS[output] // (4 if transform == "space_to_depth" else 1)
            layer = random_layer(rng, LEAST, inputs=tuple(tensors[name] for name in inputs), outputs=outputs,
                                 kernel=kernel, transform=transform, out_fmt=U4, residual=None, group=4, w_fmt=S4)
            size = int(np.prod(layer.out_shape))
            placement = Placement(tuple(BASES[name] for name in inputs), 0, BASES[output], BASES[output] + size)
            memory = run(layer, LEAST, placement, memory)
            tensors[output] = load(memory, BASES[output], U4, layer.out_shape)
            runs.append(Run(layer, placement, inputs, output, memory))
        steps.append(Step(before, random_labels(rng, x), tuple(runs)))
    return steps
