"""Bench of the post-processor.

The bench plays the arrays (a lane's accumulators one cycle after it is asked for, complete tiles sooner or later), the
scheduler (which arrays take part is only said when the lists are complete) and the activation memory (reads answered
some cycles later, writes at once), and compares the whole memory and the counted nonzeros after every layer.
"""

import random
from collections import Counter, deque
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge
from numpy.typing import NDArray

from hw.actmem import READ_CYCLES

from .streams import reset, start_clock, vectors
from .words import from_words

FLAGS = ("busy", "extra", "outside")
LIMIT = 20_000      # cycles of a layer


class Bench:
    """Plays everything around the post-processor.

    Parameters
    ----------
    dut : handle
    late : float
        Probability that a tile that is due is not yet complete, in each cycle.
    """

    def __init__(self, dut: Any, late: float) -> None:
        self.dut = dut
        self.late = late
        self.data = vectors()
        self.random = random.Random(cocotb.RANDOM_SEED)
        self.rows, self.cols, self.run, self.length = (
            int(self.data[name]) for name in ("rows", "cols", "run", "write_nibbles"))
        self.layers = from_words(self.data["layers"])
        self.arrays = sum(f"tiles__{array}__lane" in dir(dut) for array in range(8))
        self.memory: NDArray[np.uint8] = self.data["before"][0].copy()
        self.tiles: dict[int, list[int]] = {}       # accumulators left, for each array that takes part
        self.flags: Counter[str] = Counter()
        self.counted: list[Counter[tuple[int, int]]] = [Counter()]  # k-tile by k-tile, nonzeros by column and part
        self.final: set[tuple[int, int]] = set()    # those whose last count was reported
        self.ended = 0
        for name in ("start", "load_en", "residual__valid", "lists_complete"):
            dut[name].value = 0
        dut.residual__ready.value = 1
        self._noise("layer", "load", "residual__data", "used")
        start_clock(dut)
        cocotb.start_soon(self._watch())
        cocotb.start_soon(self._serve_memory())
        for array in range(self.arrays):
            cocotb.start_soon(self._serve_tiles(array))

    def _noise(self, *names: str) -> None:
        for name in names:
            self.dut[name].value = self.random.getrandbits(len(self.dut[name]))

    async def _serve_tiles(self, array: int) -> None:
        """Play the accumulators of an array; without a part in the layer it has noise and is never ready."""
        dut, clock = self.dut, RisingEdge(self.dut.clk)
        ready, lane, release, acc = (dut[f"tiles__{array}__{name}"] for name in ("ready", "lane", "release", "acc"))
        ready.value = offered = 0
        self._noise(acc._name)
        while True:
            await clock
            tiles = self.tiles.get(array, [])
            if tiles and offered and lane.value.is_resolvable and int(lane.value) < self.cols:
                acc.value = tiles[int(lane.value)]
            else:
                self._noise(acc._name)
            if release.value == 1:
                assert offered, f"array {array}: released a tile that was not complete"
                del tiles[:self.cols]
                offered = 0
            offered = int(bool(tiles) and (offered or self.random.random() >= self.late))
            ready.value = offered

    async def _serve_memory(self) -> None:
        """Play the activation memory: answers `READ_CYCLES` after the read, noise in all other cycles."""
        dut, clock = self.dut, RisingEdge(self.dut.clk)
        answers: deque[int | None] = deque([None] * (READ_CYCLES - 1))
        while True:
            await clock
            answer = answers.popleft()
            if answer is None:
                self._noise("residual__data")
            else:
                dut.residual__data.value = answer
            dut.residual__valid.value = int(answer is not None)
            answer = None
            if dut.residual__en.value == 1:
                places = (int(dut.residual__addr.value) + np.arange(self.run)) % self.memory.size
                answer = sum(int(nibble) << 4 * place for place, nibble in enumerate(self.memory[places]))
            answers.append(answer)
            self._write()

    def _write(self) -> None:
        """Take the write of this cycle, if there is one."""
        addr_bits = self.memory.size.bit_length() - 1
        write = self.dut.write.value
        if self.dut.rst.value == 1:
            return
        mask = write[len(write) - 1:addr_bits + 4 * self.length]
        assert mask.is_resolvable, f"the write's mask is {mask} after reset"
        if int(mask) == 0:
            return
        addr = int(write[addr_bits - 1:0])
        for place in range(self.length):
            if int(mask) >> place & 1:
                low = addr_bits + 4 * place
                self.memory[(addr + place) % self.memory.size] = int(write[low + 3:low])

    async def _watch(self) -> None:
        """Count what the post-processor says it does, and add up the nonzeros that it counts."""
        dut = self.dut
        column_bits = (self.cols - 1).bit_length()
        while True:
            await RisingEdge(dut.clk)
            if dut.rst.value != 0:
                continue
            self.flags.update(flag for flag in FLAGS if dut[flag].value == 1)
            if dut.count_en.value == 1:
                count = int(dut.count.value)
                place = count & (1 << column_bits) - 1, count >> column_bits & 3
                self.counted[-1][place] += count >> column_bits + 3
                assert place not in self.final, f"column and channel {place} are counted after their last count"
                if count >> column_bits + 2 & 1:
                    self.final.add(place)
            if dut.ktile_end.value == 1:
                assert self.final == self.counted[-1].keys(), f"of {self.counted[-1]} only {self.final} had an end"
                self.counted.append(Counter())
                self.final.clear()
            if dut.layer_end.value == 1:
                assert dut.ktile_end.value == 1, "a layer ends within a k-tile"
                self.ended += 1

    async def run_layer(self, number: int) -> None:
        """Load, run and check one layer; the configuration is noise before and after."""
        dut, data = self.dut, self.data
        self.memory[:] = data["before"][number]
        for beat in from_words(data[f"{number}.loads"]):
            while self.random.random() < 0.1:
                self._noise("load")
                await ClockCycles(dut.clk, 1)
            dut.load.value = beat
            dut.load_en.value = 1
            await ClockCycles(dut.clk, 1)
            dut.load_en.value = 0
        self._noise("load")
        tiles = from_words(data[f"{number}.tiles"])
        arrays = data[f"{number}.arrays"].tolist()
        share = len(tiles) // max(1, len(arrays))
        outside = self.flags["outside"]
        self.counted, self.ended = [Counter()], 0
        self.final.clear()
        dut.layer.value = self.layers[number]
        dut.start.value = 1
        await ClockCycles(dut.clk, 1)
        dut.start.value = 0
        self.tiles = {array: tiles[place * share:(place + 1) * share] for place, array in enumerate(arrays)}
        written = self.memory.copy()
        for _ in range(self.random.randint(0, 20)):     # the arrays are faster than the scheduler
            self._noise("used")
            await ClockCycles(dut.clk, 1)
        assert (self.memory == written).all() and sum(map(len, self.tiles.values())) == len(tiles), (
            f"layer {number}: a tile was used before the lists were complete")
        dut.used.value = sum(1 << array for array in arrays)
        dut.lists_complete.value = 1
        await ClockCycles(dut.clk, 1)
        for _ in range(LIMIT):
            if dut.idle.value == 1:
                break
            await ClockCycles(dut.clk, 1)
        assert dut.idle.value == 1, f"layer {number} hangs; {self._left()} accumulators left"
        dut.lists_complete.value = 0
        self._noise("layer", "used")
        await ClockCycles(dut.clk, 3)
        assert not self._left(), f"layer {number}: {self._left()} accumulators were never read"
        assert (self.flags["outside"] > outside) == data["outside"][number], (
            f"layer {number}: {self.flags['outside'] - outside} writes were refused")
        wrong = np.flatnonzero(self.memory != data["after"][number])
        first = int(wrong[0]) if wrong.size else 0
        assert not wrong.size, (f"layer {number}: {wrong.size} nibbles of memory differ, the first at {first}: "
                                f"{self.memory[first]}, expected {data['after'][number][first]}")
        assert self.ended == 1, f"layer {number} ended {self.ended} times"
        for k_tile, expected in enumerate(data[f"{number}.nonzeros"]):
            known = {place: int(count) for place, count in np.ndenumerate(expected) if count >= 0}
            assert dict(self.counted[k_tile]) == known, (
                f"layer {number}, k-tile {k_tile}: counted {dict(self.counted[k_tile])}, expected {known}")
        assert len(self.counted) == len(data[f"{number}.nonzeros"]) + 1, f"layer {number}: k-tiles counted"

    def _left(self) -> int:
        return sum(map(len, self.tiles.values()))


@cocotb.test()
async def every_layer_is_exact_while_everything_waits(dut: Any) -> None:
    """All transforms, formats and residuals, with late tiles."""
    bench = Bench(dut, late=0.8)
    await reset(dut)
    for number in range(len(bench.layers)):
        await bench.run_layer(number)
    assert all(bench.flags[flag] for flag in FLAGS)


@cocotb.test()
async def every_layer_is_exact_at_full_speed(dut: Any) -> None:
    """The same with tiles always complete."""
    bench = Bench(dut, late=0)
    await reset(dut)
    for number in range(len(bench.layers)):
        await bench.run_layer(number)


@cocotb.test()
async def reset_ends_a_layer(dut: Any) -> None:
    """A reset in the middle of a layer leaves nothing behind."""
    bench = Bench(dut, late=0.2)
    await reset(dut)
    for number in range(3):
        layer = cocotb.start_soon(bench.run_layer(number))
        await RisingEdge(dut.busy)
        await ClockCycles(dut.clk, bench.random.randint(1, 12))
        layer.cancel()
        dut.load_en.value = dut.start.value = dut.lists_complete.value = 0
        bench.tiles = {}
        await reset(dut)
        await bench.run_layer(number + 3)
