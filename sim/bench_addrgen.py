"""Bench of the address generator: layer after layer, every request as computed from coordinates.

The bench plays the weight memory, which says when a k-tile is loaded, and the scheduler, which appends to the layer's
channel list while the layer runs.
"""

import random
from typing import Any

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge

from .streams import StreamBench, vectors
from .words import from_words

__all__ = ["long_lists_leave_no_gap", "requests_of_every_layer", "reset_forgets_a_layer"]

STEP_LIMIT = 4000   # cycles of a layer, with stalls


class AddrgenBench(StreamBench):
    """Streams, the weight memory's part, and what must hold in every cycle.

    Parameters
    ----------
    dut : handle
    stall : float
        Of the stream of requests.
    load_chance : float
        Probability that a k-tile's weights are complete in a cycle in which there is room for them.
    append_chance : float
        Probability that an entry is appended in a cycle.
    """

    def __init__(self, dut: Any, stall: float, load_chance: float, append_chance: float) -> None:
        super().__init__(dut, stall)
        self.data = vectors()
        self.random = random.Random(f"{cocotb.RANDOM_SEED}/addrgen")
        self.load_chance = load_chance
        self.append_chance = append_chance
        self.entries = from_words(self.data["entries"])
        self.listed = 0         # entries in the list
        self.unloaded = int(self.data["k_tiles"].sum())
        self.loaded = 0         # k-tiles that wait to be taken
        self.stepped = 0        # k-tiles taken or skipped
        self.accepted = 0       # requests
        self.cycle = 0
        self.span = (0, 0)      # cycles of the layer's first request and of its last
        self.starved = 0        # cycles since anything could happen without the next k-tile's weights
        counts = self.data["counts"].tolist()
        # The number of requests before the one that belongs to another k-tile, per k-tile.
        self.borders = [0]
        self.empty = []
        for count, k_tiles in zip(counts, self.data["k_tiles"].tolist(), strict=True):
            self.borders += [self.borders[-1] + count // k_tiles * (number + 1) for number in range(k_tiles)]
            self.empty += [count == 0] * k_tiles
        for name in ("layer", "start", "list_entry", "list_write", "list_complete", "ktile_ready"):
            dut[name].value = 0

    async def watch(self) -> None:
        """Play the weight memory, and check each cycle."""
        dut = self.dut
        while True:
            dut.ktile_ready.value = int(self.loaded > 0)
            await RisingEdge(dut.clk)
            self.cycle += 1
            take, skip, wait = (int(dut[name].value) for name in ("ktile_take", "ktile_skip", "wait_weights"))
            valid, idle = int(dut.requests__valid.value), int(dut.idle.value)
            if valid and self.accepted >= self.borders[self.stepped]:
                raise AssertionError(f"request {self.accepted} is there with only {self.stepped} k-tiles taken")
            if dut.list_empty.value != int(self.listed == 0):
                raise AssertionError(f"list_empty is {dut.list_empty.value} with {self.listed} entries")
            self.listed = 0 if dut.start.value == 1 else self.listed + int(dut.list_write.value)
            if (take or skip or wait) and idle:
                raise AssertionError(f"idle, yet ktile_take={take}, ktile_skip={skip}, wait_weights={wait}")
            if self.loaded and wait:
                raise AssertionError("waits for weights that are loaded")
            listed = dut.list_complete.value == 1
            self.starved = self.starved + 1 if listed and not (self.loaded or valid or idle) else 0
            if self.starved > int(self.data["rows"]) + 8 and wait == self.empty[self.stepped]:
                raise AssertionError(f"wait_weights is {wait} after {self.starved} cycles without weights or requests")
            if take or skip:
                self._step(take, skip)
            if valid and dut.requests__ready.value == 1:
                self.span = self.span[0] or self.cycle, self.cycle
                self.accepted += 1
            if self.unloaded and self.loaded < 2 and self.random.random() < self.load_chance:
                self.unloaded -= 1
                self.loaded += 1

    def _step(self, take: int, skip: int) -> None:
        if not self.loaded:
            raise AssertionError(f"k-tile {self.stepped} is taken or skipped before its weights are loaded")
        if take + skip != 1 or bool(skip) != self.empty[self.stepped]:
            raise AssertionError(f"ktile_take={take} and ktile_skip={skip} at k-tile {self.stepped}, "
                                 f"whose list {'is' if self.empty[self.stepped] else 'is not'} empty")
        self.loaded -= 1
        self.stepped += 1

    async def write_list(self, number: int) -> None:
        """Append the channel list of a layer, entry by entry, and complete it."""
        dut = self.dut
        dut.list_complete.value = 0
        for entry in self.entries[self.data["starts"][number]:self.data["starts"][number + 1]]:
            while self.random.random() >= self.append_chance:
                await RisingEdge(dut.clk)
            dut.list_entry.value = entry
            dut.list_write.value = 1
            await RisingEdge(dut.clk)
            dut.list_write.value = 0
            dut.list_entry.value = self.random.getrandbits(len(dut.list_entry))
        while self.random.random() >= self.append_chance:
            await RisingEdge(dut.clk)
        dut.list_complete.value = 1

    async def run_layer(self, number: int, payload: int) -> None:
        """Start a layer, append to its list meanwhile, and wait until it is done."""
        dut = self.dut
        dut.layer.value = payload
        dut.start.value = 1
        self.span = (0, 0)
        await RisingEdge(dut.clk)
        dut.start.value = 0
        await self.write_list(number)
        for _ in range(STEP_LIMIT):
            await RisingEdge(dut.clk)
            if dut.idle.value == 1:
                break
        else:
            raise AssertionError(f"layer {number} hangs after {self.accepted} requests and {self.stepped} k-tiles")
        if self.accepted != (wanted := int(self.data["counts"][:number + 1].sum())):
            raise AssertionError(f"idle after layer {number} with {self.accepted} requests taken, {wanted} expected")
        if self.stepped != (wanted := int(self.data["k_tiles"][:number + 1].sum())):
            raise AssertionError(f"idle after layer {number} with {self.stepped} k-tiles taken, {wanted} expected")
        dut.layer.value = self.random.getrandbits(len(dut.layer))

    async def run(self, pause: int) -> None:
        """Reset, and run all layers, with up to `pause` idle cycles between them."""
        self.expect("requests", from_words(self.data["requests"]))
        await self.reset()
        cocotb.start_soon(self.watch())
        for number, payload in enumerate(from_words(self.data["layers"])):
            for _ in range(self.random.randint(0, pause)):
                await RisingEdge(self.dut.clk)
            await self.run_layer(number, payload)
            self.check_layer(number)
        await self.finish(limit=100)

    def check_layer(self, number: int) -> None:
        """Hook for what a test checks after each layer."""


class GaplessBench(AddrgenBench):
    """Checks that requests follow each other without a gap where the lists are long enough."""

    def check_layer(self, number: int) -> None:
        """Compare the cycles from the first request to the last with their count."""
        count, cycles = int(self.data["counts"][number]), self.span[1] - self.span[0] + 1
        if self.data["gapless"][number] and cycles != count:
            raise AssertionError(f"layer {number} took {cycles} cycles for {count} requests")


@cocotb.test()
@cocotb.parametrize(load_chance=[0.02, 0.3], append_chance=[0.1, 1.0])
async def requests_of_every_layer(dut: Any, load_chance: float, append_chance: float) -> None:
    """Every layer's requests in order, whatever stalls; no k-tile begins before its weights are there."""
    await AddrgenBench(dut, 0.3, load_chance, append_chance).run(pause=3)


@cocotb.test()
async def long_lists_leave_no_gap(dut: Any) -> None:
    """With weights there and nobody stalling, a tile of more than `rows` reads costs one cycle per read.

    Layers follow each other at once.
    """
    await GaplessBench(dut, 0.0, 1.0, 1.0).run(pause=0)


@cocotb.test()
async def reset_forgets_a_layer(dut: Any) -> None:
    """A reset in the middle of a layer, with a request on offer, leaves nothing behind."""
    bench = AddrgenBench(dut, 0.3, 0.3, 1.0)
    dut.requests__ready.value = 0
    await bench.reset()
    dut.layer.value = from_words(bench.data["layers"])[0]
    dut.ktile_ready.value = 1
    dut.start.value = 1
    await ClockCycles(dut.clk, 1)
    dut.start.value = 0
    await bench.write_list(0)
    dut.requests__ready.value = 1
    await ClockCycles(dut.clk, 3 * int(bench.data["rows"]))
    dut.ktile_ready.value = 0
    await bench.run(pause=3)
