"""One layer on the simulated engine: is memory what the golden model says, and what did the cycles go to?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.formats import Tensor
from golden.layer import Layer, LayerImage, compile_layer, initial_memory, place, run
from golden.layout import load
from hw.config import Config
from hw.engine import CAUSES

from .engine import EngineRun, FastEngine

__all__ = ["STALLS", "Measured", "count_macs", "ideal_cycles", "measure"]

STALLS = CAUSES[1:]


@dataclass(frozen=True, eq=False)
class Measured:
    """What a layer's run came to.

    Parameters
    ----------
    config : Config
    layer : Layer
    counters : EngineRun
        The hardware's own counters.
    ideal : int
        As of `ideal_cycles`.
    macs, nonzero_macs : int
        As of `count_macs`.
    wrong : int
        Nibbles of the whole activation memory that differ from the golden model's.
    first_wrong : int or None
        The address of the first of them.
    written, expected : Tensor
        What memory holds, and what it should hold, where the layer's output belongs; after the write transform.
    """

    config: Config
    layer: Layer
    counters: EngineRun
    ideal: int
    macs: int
    nonzero_macs: int
    wrong: int
    first_wrong: int | None
    written: Tensor
    expected: Tensor

    @property
    def exact(self) -> bool:
        """Whether the whole memory is as expected."""
        return self.wrong == 0

    @property
    def cycles(self) -> int:
        """From the layer's start to its last write."""
        return self.counters.cycles

    @property
    def efficiency(self) -> float:
        """Ideal cycles over cycles."""
        return self.ideal / self.cycles

    @property
    def macs_per_cycle(self) -> float:
        """Multiply-accumulates that the layer asks for, per cycle."""
        return self.macs / self.cycles

    @property
    def zeros(self) -> float:
        """Share of zeros in the layer's input."""
        values = [tensor.values for tensor in self.layer.inputs]
        return float(sum((value == 0).sum() for value in values) / sum(value.size for value in values))

    @property
    def causes(self) -> dict[str, float]:
        """Cycles by what they went to, per array: busy, each stall, and the rest as "ends". They add up to `cycles`."""
        arrays = self.counters.array
        causes = {cause: sum(array[cause] for array in arrays) / len(arrays) for cause in CAUSES}
        return causes | {"ends": self.cycles - sum(causes.values())}

    def to_json(self) -> dict[str, Any]:
        """The numbers, by name."""
        channels, samples, height, width = self.layer.in_shape
        return {
            "layer": self.layer.name, "in_channels": channels, "out_channels": len(self.layer.weights),
            "kernel": self.layer.weights.shape[-1], "samples": samples, "height": height, "width": width,
            "zeros": round(self.zeros, 4), "cycles": self.cycles, "ideal_cycles": self.ideal,
            "efficiency": round(self.efficiency, 4), "macs": self.macs,
            "nonzero_macs": self.nonzero_macs,
            "macs_per_cycle": round(self.macs_per_cycle, 2),
            "of_peak": round(self.macs_per_cycle / self.config.peak_macs, 4),
        } | self.causes | {"exact": self.exact, "wrong_nibbles": self.wrong, "first_wrong": self.first_wrong}


def ideal_cycles(image: LayerImage, config: Config) -> int:
    """Cycles of an array that never waits: one kernel line (one tap with dense_taps = 1) of one channel in each.

    For a layer whose taps are all used it is ceil(pixels / rows) * ceil(K / cols) * C * taps / dense_taps; a 1x1
    kernel is a line too. Where several arrays share the channels, it is that of the longest list.
    """
    lines = image.taps.sum(axis=1) if config.dense_taps == 1 else np.ones(len(image.taps), np.int64)
    first = [entry.weight for entries in image.lists for entry in entries]
    cost = dict(zip(sorted(first), np.add.reduceat(lines, sorted(first)), strict=True)) if first else {}
    longest = max(int(sum(cost[entry.weight] for entry in entries)) for entries in image.lists)
    return int(image.fields["tiles"] * image.fields["k_tiles"]) * longest


def count_macs(layer: Layer) -> tuple[int, int]:
    """Multiply-accumulates that the layer asks for, and those of them whose activation is neither zero nor border.

    Taps that no output channel uses are left out, border taps are counted as multiplications by zero.
    """
    outputs, _, kernel, _ = layer.weights.shape
    _, samples, height, width = layer.in_shape
    used = (layer.weights != 0).any(axis=0)
    border = kernel // 2
    nonzero = np.concatenate([tensor.values for tensor in layer.inputs]) != 0
    padded = np.pad(nonzero, ((0, 0), (0, 0), (border, border), (border, border)))
    found = sum(int(padded[used[:, r, s], :, r:r + height, s:s + width].sum())
                for r in range(kernel) for s in range(kernel))
    return outputs * samples * height * width * int(used.sum()), outputs * found


def measure(engine: FastEngine, layer: Layer, seed: int = 0) -> Measured:
    """Run a layer in the simulated engine and compare the whole activation memory with the golden model's.

    The memory around the layer's tensors is filled with random nibbles first, so that a write to a wrong place shows.

    Raises
    ------
    golden.layer.LayerError, golden.conv.AccumulatorOverflow
        If the configuration cannot run the layer.
    sim.fast.Hang
        If the engine never finishes.
    """
    config = engine.config
    placement = place(layer, config)
    image = compile_layer(layer, config, placement)
    noise = np.random.default_rng(seed).integers(0, 16, config.act_nibbles).astype(np.uint8)
    memory = initial_memory(layer, placement, noise)
    expected = run(layer, config, placement, memory)
    engine.fill(memory)
    counters = engine.run(image)
    found: NDArray[np.uint8] = engine.read()
    macs, nonzero_macs = count_macs(layer)
    differing = np.flatnonzero(found != expected)
    return Measured(
        config=config, layer=layer, counters=counters, ideal=ideal_cycles(image, config), macs=macs,
        nonzero_macs=nonzero_macs,
        wrong=len(differing), first_wrong=int(differing[0]) if len(differing) else None,
        written=load(found, placement.out, layer.out_fmt, layer.out_shape),
        expected=load(expected, placement.out, layer.out_fmt, layer.out_shape))
