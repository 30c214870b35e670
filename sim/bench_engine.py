"""Bench of the layer engine: whole layers, from the beats of the load port to every nibble of the memory afterwards."""

import random
from typing import Any

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge

from hw.engine import CAUSES

from .streams import StreamBench, vectors
from .words import from_words

FLAGS = ("load__ready", "layer__ready", "done", "addresses__ready", "beats__valid")
WORD = (1 << 32) - 1
LIMIT = 50_000      # cycles of a run
LATE = 150          # cycles that weights come too late


class Bench:
    """Loads, runs and reads back.

    Parameters
    ----------
    dut : handle
    stall : float
        Probability that a stream pauses.
    """

    def __init__(self, dut: Any, stall: float) -> None:
        self.dut = dut
        self.data = vectors()
        self.layers = from_words(self.data["layers"])
        self.steps = self.data["steps"].tolist()
        self.stream = StreamBench(dut, stall)
        for name in ("policy", "label_index", "label_slot"):
            dut[name].value = 0
        for name in ("load", "layer", "addresses"):
            self.stream.send(name, [])
        self.stream.expect("beats", [])
        self.done = 0
        cocotb.start_soon(self._watch())

    async def _watch(self) -> None:
        """Count finished layers; no handshake is unknown after reset."""
        dut = self.dut
        await RisingEdge(dut.rst)
        while True:
            await RisingEdge(dut.clk)
            if dut.rst.value != 0:
                continue
            for flag in FLAGS:
                assert dut[flag].value.is_resolvable, f"{flag} is {dut[flag].value} after reset"
            self.done += int(dut.done.value)

    async def loaded(self, *names: str) -> None:
        """Send beats of the vectors to the load port, and wait until the engine took all of them."""
        for name in names:
            self.stream.send("load", from_words(self.data[name]))
        driver = self.stream.drivers["load"]
        await self._until(lambda: driver.sent == driver.queued, f"{', '.join(names)} to be loaded")

    async def finished(self, layers: int) -> None:
        """Wait until so many layers are done, and their counters complete."""
        await self._until(lambda: self.done == layers, f"layer {layers - 1} to be done")
        await ClockCycles(self.dut.clk, 2)

    async def _until(self, condition: Any, what: str) -> None:
        for _ in range(LIMIT):
            if condition():
                return
            await ClockCycles(self.dut.clk, 1)
        raise AssertionError(f"waited {LIMIT} cycles for {what} in vain")

    async def check_memory(self, layers: int) -> None:
        """Read the whole activation memory: what so many layers leave, and nothing else."""
        beats = from_words(self.data["after"][layers])
        self.stream.send("addresses", range(len(beats)))
        self.stream.expect("beats", beats)
        await self.stream.finish(LIMIT)

    def counters(self) -> tuple[int, list[dict[str, int]]]:
        """Return the cycles of the last layer and each array's counters."""
        value = int(self.dut.counters.value)
        words = [value >> 32 * place & WORD for place in range(1 + len(CAUSES) * len(self.steps[0]))]
        arrays = [dict(zip(CAUSES, words[first:first + len(CAUSES)], strict=True))
                  for first in range(1, len(words), len(CAUSES))]
        return words[0], arrays

    def check_counters(self, layer: int) -> None:
        """Every array made as many steps as the golden model says, and its causes make no more than all cycles."""
        cycles, arrays = self.counters()
        for array, (counts, steps) in enumerate(zip(arrays, self.steps[layer], strict=True)):
            where = f"layer {layer}, array {array}"
            assert counts["steps"] == steps, f"{where}: {counts['steps']} steps, {steps} expected"
            assert sum(counts.values()) - counts["steps"] < cycles, f"{where}: {counts} in {cycles} cycles"

    async def check_labels(self) -> None:
        """The labels of the last layer's output are those of the golden model."""
        dut = self.dut
        dut.label_slot.value = int(self.data["label_slot"])
        for index, expected in zip(self.data["label_index"].tolist(), self.data["labels"].tolist(), strict=True):
            dut.label_index.value = index
            await ClockCycles(dut.clk, 2)
            assert dut.label.value == expected, f"label {index} is {dut.label.value}, expected {expected:b}"

    async def run_all(self) -> None:
        """Run all layers back to back: the next one's configuration and weights wait while one runs."""
        layers = range(len(self.layers))
        await self.stream.reset()
        await self.loaded("setup")
        self.stream.send("layer", self.layers)
        await self.loaded(*(f"{layer}.weights" for layer in layers))
        await self.finished(len(layers))
        self.check_counters(layers[-1])
        await self.check_memory(len(layers))
        await self.check_labels()


@cocotb.test()
async def layers_back_to_back_are_exact_whatever_stalls(dut: Any) -> None:
    """Each layer reads what the one before wrote, by the labels that this made; all streams pause at random."""
    await Bench(dut, stall=0.3).run_all()


@cocotb.test()
async def layers_back_to_back_are_exact_at_full_speed(dut: Any) -> None:
    """The same without a pause."""
    await Bench(dut, stall=0.0).run_all()


@cocotb.test()
async def late_weights_are_waited_for_and_counted(dut: Any) -> None:
    """A layer begins without weights: it waits for them, says so, and is exact."""
    bench = Bench(dut, stall=0.0)
    await bench.stream.reset()
    await bench.loaded("setup")
    bench.stream.send("layer", bench.layers[:1])
    await ClockCycles(dut.clk, LATE)
    assert bench.done == 0
    await bench.loaded("0.weights")
    await bench.finished(1)
    bench.check_counters(0)
    cycles, arrays = bench.counters()
    for counts, steps in zip(arrays, bench.steps[0], strict=True):
        if steps:
            assert LATE // 2 < counts["weights"] <= cycles - counts["busy"]
    await bench.check_memory(1)


@cocotb.test()
async def a_reset_in_the_middle_of_a_layer_leaves_nothing_behind(dut: Any) -> None:
    """After a reset at any time, a run from the beginning is exact."""
    bench = Bench(dut, stall=0.0)
    await bench.stream.reset()
    await bench.loaded("setup")
    bench.stream.send("layer", bench.layers[:1])
    await bench.loaded("0.weights")
    await ClockCycles(dut.clk, random.Random(cocotb.RANDOM_SEED).randint(1, 30))
    assert bench.done == 0
    await bench.run_all()
