"""What the benches of both arrays share: the world around an array.

The bench plays the loader (beats with pauses, never into a half that is not free, beats for other memories between
them), the address generator and the fetcher (k-tiles taken or passed over once they are loaded, windows with pauses)
and the post-processor (reads the lanes of a complete tile in any order, early or late).
"""

import random
from collections import Counter
from typing import Any

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge

from .streams import StreamBench, vectors
from .words import from_words

__all__ = ["ArrayBench"]

FLAGS = ("busy", "wait_drain", "wait_bank")
INPUTS = ("load_en", "ktile_take", "ktile_skip", "tiles__release", "tiles__lane", "pitch")
LOADED = 2      # halves of the weight memory


class ArrayBench:
    """One run of windows through an array.

    Parameters
    ----------
    dut : handle
    name : str
        Which run of the vectors, see `sim.stimulus_arrays`.
    stall : float
        Probability that the fetcher, and the loader, pause.
    delay : int
        The most cycles that a complete tile waits for the post-processor.
    """

    def __init__(self, dut: Any, name: str, stall: float, delay: int) -> None:
        self.dut = dut
        self.clock = RisingEdge(dut.clk)
        self.stall = stall
        self.delay = delay
        self.random = random.Random(f"{cocotb.RANDOM_SEED}/{name}")
        data = vectors()
        self.loads, self.windows, self.tiles = (
            from_words(data[f"{name}.{what}"]) for what in ("loads", "windows", "tiles"))
        self.k_tiles = list(zip(data[f"{name}.counts"].tolist(), data[f"{name}.pitches"].tolist(), strict=True))
        self.others = from_words(data["others"])
        self.cols, self.lockstep = int(data["cols"]), bool(data["lockstep"])
        self.expected_steps, self.span = int(data[f"{name}.steps"]), int(data[f"{name}.span"])
        self.stream = StreamBench(dut, stall)
        self.flags: Counter[str] = Counter()
        self.steps = 0
        self.busy_cycles: list[int] = []
        self.committed = 0
        for port in INPUTS:
            dut[port].value = 0
        if not self.lockstep:
            dut.start.value = 0
        dut.load.value = self.random.getrandbits(len(dut.load))

    async def _load(self) -> None:
        """Send the weights and codes of all k-tiles; beats that are not for the array come at any time."""
        dut, clock = self.dut, self.clock
        commit = 1 << (len(dut.load) - 1)
        for beat in self.loads:
            while dut.load_free.value != 1 or self.random.random() < self.stall:
                dut.load.value = self.random.choice(self.others)
                dut.load_en.value = self.random.randrange(2)
                await clock
            dut.load.value, dut.load_en.value = beat, 1
            await clock
            if beat & commit:
                self.committed += 1
                dut.load.value, dut.load_en.value = beat, 0
                await clock
        dut.load_en.value = 0

    async def _feed(self) -> None:
        """Take each k-tile when it is loaded, and send its windows; rest where the pitch changes or none are sent."""
        dut, clock = self.dut, self.clock
        sent, pitch = 0, -1
        for count, new_pitch in self.k_tiles:
            if count == 0 or new_pitch != pitch:
                pitch = new_pitch
                await self._rested()
                dut.pitch.value = pitch
            while dut.ktile_ready.value != 1:
                await clock
            dut.ktile_take.value, dut.ktile_skip.value = int(count > 0), int(count == 0)
            await clock
            dut.ktile_take.value = dut.ktile_skip.value = 0
            self.stream.send("windows", self.windows[sent:sent + count])
            sent += count
            await clock

    async def _rested(self) -> None:
        driver = self.stream.drivers["windows"]
        while driver.sent < driver.queued:
            await self.clock
        await ClockCycles(self.dut.clk, 2)
        while self.dut.idle.value != 1:
            await self.clock

    async def _watch(self) -> None:
        """Count what the array says it does. It says one thing at a time; a dense one, whenever a window is offered."""
        dut, cycle = self.dut, 0
        while True:
            await self.clock
            cycle += 1
            said = [flag for flag in FLAGS if dut[flag].value == 1]
            if self.lockstep:
                offered = int(dut.windows__valid.value)
                assert len(said) == offered, f"window offered, and the array says {said or 'nothing'}"
            assert len(said) <= 1, f"the array says {said}"
            steps = int(dut.steps.value)
            assert (steps > 0) == ("busy" in said), f"{steps} rows make a step, and the array says {said}"
            self.steps += steps
            self.flags.update(said)
            if "busy" in said:
                self.busy_cycles.append(cycle)

    async def _read_tiles(self) -> None:
        """Compare every lane of every tile, then release the tile."""
        dut, clock = self.dut, self.clock
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
        got, expected = self.dut.tiles__acc.value, self.tiles[tile * self.cols + lane]
        assert got.is_resolvable and int(got) == expected, (
            f"tile {tile}, lane {lane}: accumulators are {got}, expected {expected:0{len(got)}b}")

    async def run(self) -> None:
        """Load and send everything; return when all tiles were read and the array is idle."""
        self.stream.send("windows", [])
        await self.stream.reset()
        await self.clock
        cocotb.start_soon(self._watch())
        loader = cocotb.start_soon(self._load())
        if not self.stall:      # nothing shall wait for weights
            while self.committed < min(LOADED, len(self.k_tiles)):
                await self.clock
        tasks = [loader, cocotb.start_soon(self._feed()), cocotb.start_soon(self._read_tiles())]
        tiles = len(self.tiles) // self.cols
        limit = 4 * len(self.loads) + 60 * len(self.windows) + 4 * tiles * (self.delay + self.cols + 20) + 1000
        for _ in range(limit):
            if all(task.done() for task in tasks):
                break
            await self.clock
        undone = [name for name, task in zip(("loads", "windows", "tiles"), tasks, strict=True) if not task.done()]
        assert not undone, f"hangs with {' and '.join(undone)} left"
        await self.stream.finish(limit)
        assert self.dut.idle.value == 1, "not idle after the last tile"
        assert self.dut.tiles__ready.value == 0, "a tile more than there are"
        assert self.dut.load_free.value == 1, "the halves of finished k-tiles are not free"
        assert self.steps == self.expected_steps, f"{self.steps} steps, {self.expected_steps} expected"

    def check_span(self) -> None:
        """No cycle was lost between the first step and the last."""
        span = self.busy_cycles[-1] - self.busy_cycles[0] + 1
        assert span == self.span, f"took {span} cycles, {self.span} expected"
        assert self.flags["wait_bank"] == 0


async def run_after_reset(bench: ArrayBench) -> None:
    """Offer some windows and reset the array in the middle of them, then run."""
    dut = bench.dut
    await bench.stream.reset()
    for window in bench.windows[:bench.random.randint(3, len(bench.windows))]:
        dut.windows__valid.value = 1
        dut.windows__payload.value = window
        await ClockCycles(dut.clk, 1)
    await bench.run()
