"""Bench of the scheduler: each run's lists as the golden scheduler makes them, an entry per cycle.

The bench plays the label table, which must not be read before `go`.
"""

import random
from typing import Any

import cocotb
from cocotb.triggers import ClockCycles, ReadOnly, RisingEdge

from .streams import reset, start_clock, vectors
from .words import from_words

__all__ = ["lists_of_every_run", "reset_forgets_a_run"]

OVERHEAD = 6    # cycles from the start, or from `go`, to `complete`, over one per entry


class SchedulerBench:
    """The label table, the lists, and the runs."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.data = data = vectors()
        self.random = random.Random(f"{cocotb.RANDOM_SEED}/scheduler")
        self.arrays = sum(name.startswith("list") for name in data)
        self.wanted = [from_words(data[f"list{array}"]) for array in range(self.arrays)]
        self.written = [0] * self.arrays
        self.labels = data["labels"][0]
        self.layers = from_words(data["layers"])
        self.loads = from_words(data["loads"])
        self.cycle = 0
        self.allowed = False    # the labels may be read
        for name in ("layer", "start", "go", "load", "load_en", "label"):
            dut[name].value = 0
        start_clock(dut)

    async def watch(self) -> None:
        """Answer with the label asked for, and compare what is written."""
        dut = self.dut
        while True:
            await RisingEdge(dut.clk)
            self.cycle += 1
            slot, index = dut.label_slot.value, dut.label_index.value
            known = self.allowed and slot.is_resolvable and index.is_resolvable
            dut.label.value = int(self.labels[int(slot), int(index)]) if known else self.random.getrandbits(7)
            for array in range(self.arrays):
                if dut[f"write__{array}"].value != 0:
                    self._compare(array, dut[f"entry__{array}"].value)

    def _compare(self, array: int, got: Any) -> None:
        number = self.written[array]
        self.written[array] += 1
        if number >= len(self.wanted[array]):
            raise AssertionError(f"entry {number} of array {array} is one more than expected")
        if got != self.wanted[array][number]:
            raise AssertionError(f"entry {number} of array {array} is {got}, expected {self.wanted[array][number]:#x}")

    async def load(self, run: int) -> None:
        """Load the beats that a run needs."""
        dut = self.dut
        for beat in self.loads[self.data["load_starts"][run]:self.data["load_starts"][run + 1]]:
            dut.load.value, dut.load_en.value = beat, 1
            await RisingEdge(dut.clk)
            dut.load.value, dut.load_en.value = self.random.getrandbits(len(dut.load)), 0

    async def run(self, number: int, late: int) -> None:
        """Start a run, allow the labels to be read `late` cycles later, and wait until the lists are complete."""
        dut, count = self.dut, int(self.data["counts"][number])
        dut.layer.value = self.layers[number]
        dut.start.value = 1
        self.labels = self.data["labels"][number]
        await RisingEdge(dut.clk)
        dut.start.value = 0
        if late:
            dut.go.value, self.allowed = 0, False
            await ClockCycles(dut.clk, late)
        dut.go.value, self.allowed = 1, True
        begun = self.cycle
        while True:
            await ReadOnly()
            if dut.complete.value == 1:
                break
            if self.cycle - begun > count + OVERHEAD:
                raise AssertionError(f"the lists of run {number} are not complete {self.cycle - begun} cycles after it "
                                     f"could begin, with {count} entries")
            await RisingEdge(dut.clk)
        ends = [int(self.data[f"ends{array}"][number + 1]) for array in range(self.arrays)]
        if self.written != ends:
            raise AssertionError(f"complete after run {number} with {self.written} entries, expected {ends}")
        await RisingEdge(dut.clk)


@cocotb.test()
@cocotb.parametrize(pause=[0, 5])
async def lists_of_every_run(dut: Any, pause: int) -> None:
    """Every list, entry by entry, whenever the labels are there; complete in time, and not before the last entry."""
    bench = SchedulerBench(dut)
    await reset(dut)
    cocotb.start_soon(bench.watch())
    for number in range(len(bench.layers)):
        await bench.load(number)
        for _ in range(bench.random.randint(0, pause)):
            await RisingEdge(dut.clk)
        await bench.run(number, bench.random.randint(0, 3 * pause))
    await ClockCycles(dut.clk, 5)


@cocotb.test()
async def reset_forgets_a_run(dut: Any) -> None:
    """A reset in the middle of a run, with entries waiting, leaves nothing behind."""
    bench = SchedulerBench(dut)
    await reset(dut)
    await bench.load(0)
    dut.layer.value, dut.go.value, dut.start.value = bench.layers[int(bench.data["counts"].argmax())], 1, 1
    await ClockCycles(dut.clk, 1)
    dut.start.value = 0
    await ClockCycles(dut.clk, 9)
    await reset(dut)
    cocotb.start_soon(bench.watch())
    await ClockCycles(dut.clk, 5)
    await bench.run(0, 0)
