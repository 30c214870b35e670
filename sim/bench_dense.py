"""Bench of the dense array, and of the PE rows that it consists of.

The bench plays the fetcher (windows, with pauses), the weight memory (a scale word one cycle after it is asked for,
noise in all other cycles, and the next k-tile in the half that `ktile_done` frees) and the post-processor (reads the
lanes of a complete tile in any order, early or late).
"""

import random
from collections import Counter
from typing import Any

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge

from .streams import StreamBench, vectors
from .words import from_words

FLAGS = ("busy", "wait_drain", "wait_tiles")


class Bench:
    """One run of windows through the array.

    Parameters
    ----------
    dut : handle
    name : str
        Which windows and tiles of the vectors.
    stall : float
        Probability that the fetcher pauses.
    delay : int
        The most cycles that a complete tile waits for the post-processor.
    """

    def __init__(self, dut: Any, name: str, stall: float, delay: int) -> None:
        self.dut = dut
        self.data = vectors()
        self.random = random.Random(cocotb.RANDOM_SEED)
        self.windows = from_words(self.data[f"{name}_windows"])
        self.tiles = from_words(self.data[f"{name}_tiles"])
        self.cols = int(self.data["cols"])
        self.delay = delay
        self.stream = StreamBench(dut, stall)
        self.k_tiles_done = 0
        self.flags: Counter[str] = Counter()
        self.busy_cycles: list[int] = []
        self._rest()

    def _rest(self) -> None:
        self.dut.tiles__lane.value = 0
        self.dut.tiles__release.value = 0
        self.dut.codes.value = 0

    async def serve_codes(self) -> None:
        """Play the scale half of the weight memory."""
        dut, codes = self.dut, from_words(self.data["codes"])
        k_tiles = int(self.data["k_tiles"])
        depth = len(codes) // k_tiles
        held = [0, 1]       # the k-tile in each half
        while True:
            await RisingEdge(dut.clk)
            if dut.scale_en.value == 1:
                k_tile = held[int(dut.scale_half.value)]
                dut.codes.value = codes[k_tile * depth + int(dut.scale_addr.value)]
            else:
                dut.codes.value = self.random.getrandbits(len(dut.codes))
            if dut.ktile_done.value == 1:
                held[self.k_tiles_done % 2] += 2 if self.k_tiles_done + 2 < k_tiles else 0
                self.k_tiles_done += 1

    async def watch(self) -> None:
        """Count what the array says it does; it says exactly one thing while a window is offered."""
        dut, cycle = self.dut, 0
        while True:
            await RisingEdge(dut.clk)
            cycle += 1
            said = [flag for flag in FLAGS if dut[flag].value == 1]
            assert len(said) == int(dut.windows__valid.value), f"window offered, and the array says {said or 'nothing'}"
            self.flags.update(said)
            if "busy" in said:
                self.busy_cycles.append(cycle)

    async def read_tiles(self) -> None:
        """Play the post-processor: compare every lane of every tile, then release the tile."""
        dut, clock = self.dut, RisingEdge(self.dut.clk)
        for tile in range(len(self.tiles) // self.cols):
            await clock
            while dut.tiles__ready.value != 1:
                await clock
            await ClockCycles(dut.clk, 1 + self.random.randint(0, self.delay))
            order = self.random.sample(range(self.cols), self.cols)
            for place, lane in enumerate(order):
                dut.tiles__lane.value = lane
                dut.tiles__release.value = int(place == self.cols - 1)
                await clock
                if place:
                    self._compare(tile, order[place - 1])
            dut.tiles__release.value = 0
            dut.tiles__lane.value = self.random.randrange(self.cols)
            await clock
            self._compare(tile, order[-1])

    def _compare(self, tile: int, lane: int) -> None:
        got, expected = int(self.dut.tiles__acc.value), self.tiles[tile * self.cols + lane]
        assert got == expected, f"tile {tile}, lane {lane}: accumulators are {got:#x}, expected {expected:#x}"

    async def run(self) -> None:
        """Send all windows; return when all tiles were read and the array is idle."""
        await self.stream.reset()
        cocotb.start_soon(self.serve_codes())
        cocotb.start_soon(self.watch())
        reader = cocotb.start_soon(self.read_tiles())
        self.stream.send("windows", self.windows)
        await self.stream.finish(limit=200 * len(self.windows) + 1000)
        for _ in range(20 * (self.delay + self.cols) + 100):
            if reader.done():
                break
            await ClockCycles(self.dut.clk, 1)
        assert reader.done(), "a tile was never completed"
        await ClockCycles(self.dut.clk, 4)
        assert self.dut.idle.value == 1, "not idle after the last tile"
        assert self.dut.tiles__ready.value == 0, "a tile more than there are"


@cocotb.test()
async def tiles_are_exact_whatever_stalls(dut: Any) -> None:
    """Vectors of any length, tiles back to back, fetcher and post-processor pausing: no bit is lost."""
    bench = Bench(dut, "random", stall=0.3, delay=10)
    await bench.run()
    assert bench.k_tiles_done == int(bench.data["k_tiles"])


@cocotb.test()
async def a_late_post_processor_holds_tiles_up(dut: Any) -> None:
    """With both accumulator banks waiting, the next tile's first vector ends only when one of them is released."""
    bench = Bench(dut, "random", stall=0.0, delay=80)
    await bench.run()
    assert bench.flags["wait_tiles"] > 0


@cocotb.test()
async def a_vector_may_end_every_drain(dut: Any) -> None:
    """Vectors of one line follow each other every lanes_per_scale cycles, and no faster."""
    bench = Bench(dut, "steady", stall=0.0, delay=0)
    await bench.run()
    span = bench.busy_cycles[-1] - bench.busy_cycles[0] + 1
    assert span == int(bench.data["steady_span"]), f"took {span} cycles, {int(bench.data['steady_span'])} expected"
    assert bench.flags["wait_tiles"] == 0


@cocotb.test()
async def reset_forgets_a_tile_at_work(dut: Any) -> None:
    """A reset in the middle of a tile leaves nothing behind."""
    bench = Bench(dut, "random", stall=0.0, delay=0)
    await bench.stream.reset()
    for window in bench.windows[:bench.random.randint(3, len(bench.windows))]:
        dut.windows__valid.value = 1
        dut.windows__payload.value = window
        await ClockCycles(dut.clk, 1)
    await bench.run()
