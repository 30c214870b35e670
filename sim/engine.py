"""The layer engine in the fast lane: memories filled, layers run and memories read back in bulk."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.detector import Labels, RefreshPolicy
from golden.layer import LabelPlace, LayerImage
from hw.config import Config
from hw.engine import CAUSES
from hw.interfaces import label_layout, layer_layout

from .beats import (
    image_beats,
    ktile_beats,
    label_beats,
    layer_word,
    memory_beats,
    nibbles_of_beats,
    policy_word,
)
from .fast import FastSim
from .words import to_words

__all__ = ["EngineRun", "FastEngine"]

COUNTER_BYTES = 4   # all of `hw.engine.counters_layout`, which is nothing but counters


@dataclass(frozen=True)
class EngineRun:
    """Counters of one layer, by the names of `hw.engine.counters_layout`."""

    cycles: int
    array: list[dict[str, int]]


class FastEngine:
    """Drives the engine's ports; every method lets time pass until what it asks for is done.

    Parameters
    ----------
    config : Config
    sim : FastSim
        A simulation of `hw.engine.LayerEngine`, reset.
    stall : float
        Probability that a stream pauses.
    """

    def __init__(self, config: Config, sim: FastSim, stall: float = 0.0) -> None:
        self.config = config
        self.sim = sim
        self.stall = stall

    def fill(self, nibbles: NDArray[np.uint8]) -> None:
        """Write the activation memory from address 0."""
        beats = memory_beats(self.config, nibbles)
        self.sim.send("load", beats, self.stall)
        self.sim.run(self._limit(len(beats)))

    def read(self) -> NDArray[np.uint8]:
        """Read the whole activation memory, one nibble per element."""
        count = self.config.act_nibbles // self.config.bus_nibbles
        self.sim.send("addresses", np.arange(count, dtype=np.uint64), self.stall)
        beats = self.sim.receive("beats", count, self.stall)
        self.sim.run(self._limit(count))
        return nibbles_of_beats(self.config, beats)

    def run(self, image: LayerImage, limit: int = 10_000_000) -> EngineRun:
        """Run a layer. Two k-tiles of weights are loaded before it starts, the others while it runs.

        Raises
        ------
        sim.fast.Hang
            It takes more than `limit` cycles.
        """
        tiles = ktile_beats(self.config, image)
        before = np.concatenate([image_beats(self.config, image), *tiles[:2]])
        self.sim.send("load", before, self.stall)
        self.sim.run(self._limit(len(before)))
        if tiles[2:]:
            self.sim.send("load", np.concatenate(tiles[2:]), self.stall)
        self.sim.send("layer", to_words([layer_word(self.config, image)], layer_layout(self.config).size))
        self.sim.run(limit, until="done")
        self.sim.run(limit)
        return self.counters()

    def set_policy(self, policy: RefreshPolicy) -> None:
        """Choose when labels are made anew."""
        self.sim.poke("policy", policy_word(policy))

    def set_labels(self, place: LabelPlace, labels: Labels) -> None:
        """Write a tensor's labels."""
        beats = label_beats(self.config, place, labels)
        self.sim.send("load", beats, self.stall)
        self.sim.run(self._limit(len(beats)))

    def labels(self, place: LabelPlace, channels: int) -> Labels:
        """Read a tensor's labels, which are valid once the detector has labelled it."""
        self.sim.poke("label_slot", place.slot)
        values: list[Any] = []
        for channel in range(channels):
            self.sim.poke("label_index", place.first + channel)
            self.sim.step()
            values.append(label_layout().from_bits(self.sim.peek("label")))
        return Labels(np.array([bool(value.sparse) for value in values]),
                      np.array([bool(value.dead) for value in values]), np.array([int(value.bin) for value in values]))

    def counters(self) -> EngineRun:
        """Counters of the layer that ran last, which are complete two cycles after it."""
        self.sim.step(2)
        raw = self.sim.peek("counters").to_bytes(COUNTER_BYTES * (1 + len(CAUSES) * self.config.arrays), "little")
        cycles, *counts = np.frombuffer(raw, "<u4").tolist()
        arrays = [dict(zip(CAUSES, counts[first:first + len(CAUSES)], strict=True))
                  for first in range(0, len(counts), len(CAUSES))]
        return EngineRun(cycles, arrays)

    def _limit(self, beats: int) -> int:
        return 1000 + int(20 * beats / (1 - self.stall))
