"""Machine of the engine's blocks, for the cycle model in `golden.cycles`.

Time is the number of cycles since the layer's start. Nothing is simulated cycle by cycle: each block is a recurrence
over its own events.

    Fetcher         per window      channel list, tile walker, k-tile's weights, read port, room in the queue
    DenseArray      per window      steps, drain gap, accumulator bank
    SparseArray     per window      broadcast while every row has room; all rows at once, each with its own FIFO
    PostProcessor   per tile        segments, steps, residual reads

Arrays that share no read port are carried through a tile one after the other, since no block looks further back than to
the tiles before. Reads of arrays that do share one are granted in order of time; then an array may run into what hangs
on another array and is not known yet: when a bank, or a half of the weights, is free. Such cycles are UNKNOWN, larger
than all others, and the array goes on, by `resume`, when they are known.
"""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from golden.machine import Machine
from golden.work import LINES, LayerWork

__all__ = ["BANKS", "UNKNOWN", "DenseArray", "Engine", "Fetcher", "NoArray", "PostProcessor"]

READ_CYCLES = 6         # from a read's issue to its window at the head of the queue
DEAL_CYCLES = 4         # from the scheduler's reading an entry of the channel table to the choice of its array
COMPLETE_CYCLES = 10    # from a tile's last step to its accumulators being ready, beside the drain
KTILE_CYCLES = 5        # from a k-tile's last step to its weights being free, beside the drain
BANKS = 2               # accumulator banks, and halves of the weight memory
UNKNOWN = 1 << 40

Int64 = NDArray[np.int64]


class Engine:
    """What the blocks know of one another."""

    def __init__(self, machine: Machine, work: LayerWork) -> None:
        self.machine = machine
        self.work = work
        self.tiles = work.tiles(machine.rows)
        self.k_tiles = -(-work.outputs // machine.cols)
        entries = len(work.taps)
        self.first_entry = max(1, work.labelled) + 1    # cycle in which the scheduler reads it
        self.list_complete = self.first_entry + entries + (DEAL_CYCLES if entries else 0) + 1
        self.ports: list[set[int]] = [set() for _ in range(machine.read_ports)]     # cycles in which they read
        self.release: list[int] = []    # of each tile, the post-processor's last step
        self.loaded: list[int] = []     # of each k-tile, the first cycle in which its weights are there

    def bank_free(self, tile: int) -> int:
        """Return the first cycle in which a vector of a tile may end."""
        if tile < BANKS:
            return 0
        return self.release[tile - BANKS] + 1 if tile < len(self.release) + BANKS else UNKNOWN

    def weights(self, k_tile: int) -> int:
        """Return the first cycle in which a k-tile's weights are there."""
        return self.loaded[k_tile] if k_tile < len(self.loaded) else UNKNOWN


class Fetcher:
    """Address generator and window fetcher of one array."""

    def __init__(self, engine: Engine, array: int) -> None:
        machine, work = engine.machine, engine.work
        self.engine = engine
        self.port = engine.ports[array % machine.read_ports]
        self.entry, self.taps, self.last = work.windows(array, machine.window_width)
        self.opens = np.diff(self.entry, prepend=-1).astype(bool).tolist()
        self.count = len(self.entry)
        # An entry is written when the array's next one is chosen, and read when it is known whether it is the last.
        written = (work.lists[array].position[1:] + engine.first_entry + DEAL_CYCLES).tolist()
        readable = [*(cycle + 1 for cycle in written[1:]), engine.list_complete, engine.list_complete]
        self.readable = [readable[entry] for entry in self.entry]
        self.tile, self.place = 0, 0        # of the next window
        self.wanted = 0         # first cycle in which it may be read, or that is still to be tried
        self.entry_read = 0     # cycle in which its entry goes from the list's memory to work
        self.request = 0        # cycle of its request, after `ask`
        self.requested = 0      # cycle of the last request; 1 is the first in which the list may be read
        self.read = 1           # cycle of its read
        self.read_before = 0    # and of the one before
        self.walked = machine.rows + 1                      # the masks of the present tile are taken over
        self.there: deque[int] = deque()                    # windows not taken yet: the first cycle they are there
        self.pops = [-1] * machine.fetch_depth              # of each window, when the one is taken that it waits for
        self.number = 0         # windows so far
        self.starved: list[tuple[int, int]] = []
        self.waits: list[tuple[int, int]] = []

    def ask(self) -> None:
        """Work out when the next window may be read; UNKNOWN if that is not known yet."""
        engine, place = self.engine, self.place
        entry_read = self.requested
        if self.tile == 0 and self.opens[place]:
            entry_read = max(entry_read, self.readable[place] + 1)
        request = max(entry_read, self.read_before) + 1     # two requests can wait for the port
        if place == 0:
            request = max(request, self.walked + 1)
            if self.tile % engine.tiles == 0:
                request = max(request, engine.weights(self.tile // engine.tiles))
        room = self.pops[self.number] if self.number < len(self.pops) else UNKNOWN
        self.entry_read, self.request, self.wanted = entry_read, request, max(request, room, self.read) + 1

    def grant(self) -> None:
        """Read the next window in the cycle that is wanted."""
        engine, request = self.engine, self.request
        self.port.add(self.wanted)
        if self.place == 0 and self.tile % engine.tiles == 0:
            self.waits.append((self.entry_read + 1, engine.weights(self.tile // engine.tiles)))
        self.requested, self.read_before, self.read = request, self.read, self.wanted
        self.there.append(self.wanted + READ_CYCLES)
        self.number += 1
        self.place += 1
        if self.place == self.count:
            self.walked = max(self.walked + 1 + engine.machine.rows, request)
            self.tile, self.place = self.tile + 1, 0

    def pop(self, cycle: int) -> None:
        """Note that the oldest window that was there is taken in the cycle."""
        self.starved.append((self.pops[-1] + 1, self.there.popleft()))
        self.pops.append(cycle)


class DenseArray:
    """Dense array: all rows make the same steps."""

    def __init__(self, engine: Engine, array: int) -> None:
        self.engine = engine
        self.fetcher = fetcher = Fetcher(engine, array)
        bits = fetcher.taps[:, None] >> np.arange(LINES * LINES) & 1
        steps = bits.sum(axis=1) if engine.machine.dense_taps == 1 else bits.reshape(-1, LINES, LINES).any(-1).sum(1)
        self.windows = list(zip(steps.tolist(), fetcher.last.tolist(), strict=True))
        self.place = 0      # of the next window in its tile
        self.free = 0       # first cycle in which a step may be made
        self.drained = 0    # first cycle in which a vector may end
        self.made: list[tuple[int, int, int, int]] = []
        self.finished: list[int] = []   # of each tile, the first cycle in which it may be read
        self.freed: list[int] = []      # and, if it ends a k-tile, in which that one's weights may be loaded over

    def resume(self) -> None:
        """Make the steps of the windows that are there, as far as their time is known."""
        drain, there = self.engine.machine.lanes_per_scale, self.fetcher.there
        while there:
            steps, last = self.windows[self.place]
            start = max(there[0], self.free)
            ready = may_drain = cycle = start + steps - 1
            if last:
                may_drain = max(ready, self.drained)
                # Only the tile's first vector can find no bank.
                cycle = max(may_drain, self.engine.bank_free(len(self.finished)))
                if cycle >= UNKNOWN:
                    return
                self.drained = cycle + drain
            self.made.append((start, ready, may_drain, cycle))
            self.fetcher.pop(cycle)
            self.free = cycle + 1
            self.place += 1
            if self.place == len(self.windows):
                self.place = 0
                self.finished.append(cycle + drain + COMPLETE_CYCLES)
                self.freed.append(cycle + drain + KTILE_CYCLES)

    def spans(self) -> Int64:
        """Return [4, steps]: first step, ready for the last one, drain chain free, last step of each window."""
        return np.array(self.made, np.int64).T

    def counts(self) -> dict[str, int]:
        """Return the counters that are no cycles."""
        return {"steps": self.engine.machine.rows * sum(ready - start + 1 for start, ready, _, _ in self.made)}


class NoArray:
    """An array without channels in this layer: it steps over the k-tiles."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.skipped = engine.list_complete - 1
        self.freed: list[int] = []      # of each k-tile, the first cycle in which its weights may be loaded over

    def ktile(self) -> None:
        """Step over the next k-tile."""
        self.skipped = max(self.skipped + 1, self.engine.loaded[-1])
        self.freed.append(self.skipped + 1)


class PostProcessor:
    """Post-processor: a tile's segments, and the steps of each."""

    def __init__(self, engine: Engine) -> None:
        machine, work = engine.machine, engine.work
        self.engine = engine
        self.free = 4           # first cycle in which a tile may be taken
        self.extra: list[Int64] = []
        by_line = work.transform != "none"
        run = work.nonzero.shape[-1] if by_line else work.pixels // work.nonzero.shape[1]
        half = (machine.rows + 1) // 2
        # Per tile, the steps of one output channel in each segment.
        self.segments: list[list[int]] = []
        for first in range(0, work.pixels, machine.rows):
            end = min(first + machine.rows, work.pixels)
            cuts = [first, *range(first - first % run + run, end, run), end]
            lows, highs = np.array(cuts[:-1]) - first, np.array(cuts[1:]) - first
            parts = 1 + ((lows < half) & (highs > half)) if work.transform == "upsample" else np.ones_like(lows)
            self.segments.append((parts * work.out_planes * (1 + by_line)).tolist())

    def tile(self, ready: int, lanes: int) -> None:
        """Take the next tile, which is ready in the cycle."""
        engine = self.engine
        reads = max(1, engine.work.residual_planes)     # cycles of a step
        cycle = max(self.free, ready) + 1
        for steps in self.segments[len(engine.release) % engine.tiles]:
            first, cycle = cycle + 1, cycle + 1 + lanes * steps * reads
            if engine.work.residual_planes:
                engine.ports[-1].update(range(first, cycle))
            made = np.arange(lanes * steps)
            self.extra.append((first + reads - 1 + reads * made)[made % steps != 0])
        engine.release.append(cycle - 1)
        self.free = cycle
