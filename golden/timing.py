"""Timing of the engine's blocks, for the cycle model in `golden.cycles`.

Time is the number of cycles since the layer's start. Nothing is simulated cycle by cycle: each block is a recurrence
over its own events, and a tile is carried through all blocks before the next one, since no block looks further back
than to the tiles before it:

    Fetcher         per window      channel list, tile walker, k-tile's weights, read port, room in the queue
    DenseArray      per window      steps, drain gap, accumulator bank
    SparseArray     per window      broadcast while every row has room; all rows at once, each with its own FIFO
    PostProcessor   per tile        segments, steps, residual reads

Where several arrays share a read port, the reads of a tile are booked array by array, so that one may be given a cycle
that a later window of an array with precedence asks for: cycles are then not exact.
"""

from collections import deque
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from golden.work import LINES, LayerWork, inside_taps, skews, tap_counts

__all__ = ["BANKS", "DenseArray", "Engine", "Fetcher", "NoArray", "PostProcessor", "SparseArray", "Timing"]

READ_CYCLES = 3         # from a read's issue to its window at the head of the queue
FIRST_ENTRY = 2         # cycle in which the scheduler reads the first entry of the channel table
DEAL_CYCLES = 2         # from then to the choice of its array
COMPLETE_CYCLES = 6     # from a tile's last step to its accumulators being ready, beside the drain
KTILE_CYCLES = 4        # from a k-tile's last step to its weights being free, beside the drain
BANKS = 2               # accumulator banks
NEVER = np.int64(-1) << 40

Int64 = NDArray[np.int64]


class Timing(Protocol):
    """What the cycle model needs to know of a configuration; `hw.config.Config` is one."""

    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def dense(self) -> int: ...
    @property
    def sparse(self) -> int: ...
    @property
    def fifo_depth(self) -> int: ...
    @property
    def dense_taps(self) -> int: ...
    @property
    def lanes_per_scale(self) -> int: ...
    @property
    def read_ports(self) -> int: ...
    @property
    def window_width(self) -> int: ...
    @property
    def fetch_depth(self) -> int: ...


class Engine:
    """What the blocks know of one another."""

    def __init__(self, machine: Timing, work: LayerWork) -> None:
        self.machine = machine
        self.work = work
        self.tiles = work.tiles(machine.rows)
        self.k_tiles = -(-work.outputs // machine.cols)
        entries = len(work.taps)
        self.list_complete = FIRST_ENTRY + entries + (DEAL_CYCLES if entries else 0) + 1
        self.ports: list[set[int]] = [set() for _ in range(machine.read_ports)]     # cycles in which they read
        self.release: list[int] = []    # of each tile, the post-processor's last step
        self.loaded: list[int] = []     # of each k-tile, the first cycle in which its weights are there

    def bank_free(self) -> int:
        """Return the first cycle in which a vector of the present tile may end."""
        return self.release[-BANKS] + 1 if len(self.release) >= BANKS else 0


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
        written = (work.lists[array].position[1:] + FIRST_ENTRY + DEAL_CYCLES).tolist()
        readable = [*(cycle + 1 for cycle in written[1:]), engine.list_complete, engine.list_complete]
        self.readable = [readable[entry] for entry in self.entry]
        self.number = 0         # windows so far
        self.requested = 0      # cycle of the last request; 1 is the first in which the list may be read
        self.read = 1           # cycle of its read
        self.walked = machine.rows + 1                      # the masks of the present tile are taken over
        self.popped = deque([-1] * machine.fetch_depth, machine.fetch_depth)
        self.starved: list[tuple[int, int]] = []
        self.waits: list[tuple[int, int]] = []

    def window(self) -> int:
        """Return the first cycle in which the next window is there for its array."""
        engine = self.engine
        tile, place = divmod(self.number, self.count)
        entry_read = self.requested
        if self.number < self.count and self.opens[place]:
            entry_read = max(entry_read, self.readable[place])
        request = max(entry_read + 1, self.read)
        if place == 0:
            request = max(request, self.walked + 1)
            if tile % engine.tiles == 0:
                loaded = engine.loaded[tile // engine.tiles]
                self.waits.append((entry_read + 1, loaded))
                request = max(request, loaded)
        read = max(request, self.popped[0]) + 1
        while read in self.port:
            read += 1
        self.port.add(read)
        if place == self.count - 1:
            self.walked = max(self.walked + 1 + engine.machine.rows, request)
        self.requested, self.read = request, read
        self.number += 1
        return read + READ_CYCLES

    def pop(self, there: int, cycle: int) -> None:
        """Note that the window that was there is taken in the cycle."""
        self.starved.append((self.popped[-1] + 1, there))
        self.popped.append(cycle)


class DenseArray:
    """Dense array: all rows make the same steps."""

    def __init__(self, engine: Engine, array: int) -> None:
        self.engine = engine
        self.fetcher = fetcher = Fetcher(engine, array)
        bits = fetcher.taps[:, None] >> np.arange(LINES * LINES) & 1
        steps = bits.sum(axis=1) if engine.machine.dense_taps == 1 else bits.reshape(-1, LINES, LINES).any(-1).sum(1)
        self.windows = list(zip(steps.tolist(), fetcher.last.tolist(), strict=True))
        self.free = 0       # first cycle in which a step may be made
        self.drained = 0    # first cycle in which a vector may end
        self.made: list[tuple[int, int, int, int]] = []
        self.freed: list[int] = []

    def tile(self) -> int:
        """Make the steps of the next tile; return the first cycle in which it may be read."""
        drain = self.engine.machine.lanes_per_scale
        bank_free = self.engine.bank_free()
        for steps, last in self.windows:
            there = self.fetcher.window()
            start = max(there, self.free)
            ready = may_drain = cycle = start + steps - 1
            if last:
                may_drain = max(ready, self.drained)
                cycle = max(may_drain, bank_free)   # only the tile's first vector can find no bank
                self.drained = cycle + drain
            self.made.append((start, ready, may_drain, cycle))
            self.fetcher.pop(there, cycle)
            self.free = cycle + 1
        return self.free - 1 + drain + COMPLETE_CYCLES

    def ktile_freed(self) -> int:
        """Return the first cycle in which the weights of the k-tile that ended may be loaded over."""
        return self.free - 1 + self.engine.machine.lanes_per_scale + KTILE_CYCLES

    def spans(self) -> Int64:
        """Return [4, steps]: first step, ready for the last one, drain chain free, last step of each window."""
        return np.array(self.made, np.int64).T

    def counts(self) -> dict[str, int]:
        """Return the counters that are no cycles."""
        return {"steps": self.engine.machine.rows * sum(ready - start + 1 for start, ready, _, _ in self.made)}


class SparseArray:
    """Sparse array: rows with FIFOs of their own, side by side in each NumPy operation.

    What a row keeps of a tile are *items*; one is pushed into its FIFO when the next one is kept, the tile's last one
    after the tile's last window. So a tile has a *slot* of pushes for each window and one more.
    """

    def __init__(self, engine: Engine, array: int) -> None:
        machine, work = engine.machine, engine.work
        self.engine = engine
        self.fetcher = fetcher = Fetcher(engine, array)
        rows, windows, tiles = machine.rows, fetcher.count, engine.tiles * engine.k_tiles
        nonzero = work.nonzero[work.lists[array].position[fetcher.entry]]
        counts = np.zeros((windows, engine.tiles * rows), np.uint8)
        counts[:, :work.pixels] = tap_counts(nonzero, fetcher.taps, work.wrap)
        self.nonzeros = int(counts.sum(dtype=np.int64)) * engine.k_tiles
        self.skipped = inside_taps(work, array) * engine.k_tiles - self.nonzeros
        pixel = np.array([[row ^ mask for row in range(rows)] for mask in skews(rows)])
        by_tile = np.tile(counts.reshape(windows, engine.tiles, rows).swapaxes(0, 1), (engine.k_tiles, 1, 1))
        by_tile = np.take_along_axis(by_tile, pixel[np.arange(tiles) % len(pixel), None], axis=2)

        # Items: nonzero windows, or the last one of a tile that is all zero.
        kept = by_tile != 0
        kept[:, -1] |= ~kept.any(axis=1)
        place = np.where(kept, np.arange(windows)[:, None], -1)
        item = np.full((tiles, windows + 1, rows), -1)      # pushed in each slot
        np.maximum.accumulate(place, axis=1, out=item[:, 1:])
        item[:, :-1][~kept] = -1
        pushed: NDArray[np.bool_] = item >= 0
        steps = np.maximum(np.take_along_axis(by_tile, np.maximum(item, 0), axis=1), 1) * pushed
        # An item ends a vector if the row keeps nothing until the vector's end.
        ended = np.concatenate([[0], np.cumsum(fetcher.last)])
        ends = pushed & (ended[:, None] > ended[np.maximum(item, 0)])
        first = ends & (np.cumsum(ends, axis=1) == 1)

        self.slots = windows + 1
        self.pushed = pushed.reshape(-1, rows)
        self.any_pushed = [bool(slot.any()) for slot in self.pushed]
        self.never_pushed: Int64 = np.where(self.pushed, 0, NEVER)
        self.further = steps.reshape(-1, rows).astype(np.int64) - 1     # steps after the first; -1 without an item
        self.never_ends: Int64 = np.where(ends, 0, NEVER).reshape(-1, rows)
        self.ends = ends.reshape(-1, rows)
        self.never_first: Int64 = np.where(first, 0, NEVER).reshape(-1, rows)
        self.steps = int(steps.sum())
        # Index, into the flat times below, of the item that must be gone before a row with its pushes before a slot
        # may push again: the one `fifo_depth` pushes back.
        self.back = np.zeros(self.pushed.shape, np.int64)
        before: Int64 = np.cumsum(self.pushed, axis=0) - self.pushed
        for row in range(rows):
            at = np.concatenate([np.full(machine.fifo_depth, 0), 1 + np.flatnonzero(self.pushed[:, row])])
            self.back[:, row] = at[before[:, row]] * rows + row
        # Times of each slot's items, by row; the last step's begin one slot early, for those that never were.
        self.start, self.ready, self.may_drain = np.zeros((3, *self.pushed.shape), np.int64)
        self.popped = np.full((len(self.pushed) + 1, rows), -1)
        self.free, self.drained = np.zeros((2, rows), np.int64)
        self.slot = 0
        self.broadcast = -1     # cycle of the last window's broadcast
        self.tile_push = np.full(rows, -1)      # cycles in which the last tile's last items were pushed

    def tile(self) -> int:
        """Broadcast the windows of the next tile; return the first cycle in which it may be read."""
        bank_free = self.engine.bank_free()
        self.never_first[self.slot:self.slot + self.slots] += bank_free
        room = 0
        for place in range(self.slots - 1):
            there = self.fetcher.window()
            popped = max(there, self.broadcast)
            if place == 0:
                self.broadcast = self._first_broadcast(popped + 1)
            else:
                if place == 1 or self.any_pushed[self.slot - 1]:
                    room = int(self.popped.take(self.back[self.slot]).max()) + 1
                self.broadcast = max(popped + 1, room)
            self.fetcher.pop(there, popped)
            if self.any_pushed[self.slot]:
                self._push(self.never_pushed[self.slot] + self.broadcast)
            self.slot += 1
        self.tile_push = np.maximum(self.popped.take(self.back[self.slot]), self.broadcast) + 1
        self._push(self.tile_push)
        self.slot += 1
        return int(self.free.max()) - 1 + self.engine.machine.lanes_per_scale + COMPLETE_CYCLES

    def _first_broadcast(self, cycle: int) -> int:
        """Return when a tile's first window is broadcast, from `cycle` on: rows must have room, be it just for the
        last tile's last item, which goes to the FIFO in that cycle, be it after it."""
        after = self.popped.take(self.back[self.slot]) + 1
        while True:
            later = max(cycle, int(np.where(self.tile_push >= cycle, self.tile_push, after).max()))
            if later == cycle:
                return cycle
            cycle = later

    def _push(self, pushed: Int64) -> None:
        """Push the slot's items in these cycles, and let the rows take them; NEVER where there is none."""
        slot = self.slot
        start, ready, may_drain = self.start[slot], self.ready[slot], self.may_drain[slot]
        last = self.popped[slot + 1]
        np.maximum(pushed + 1, self.free, out=start)
        np.add(start, self.further[slot], out=ready)
        np.maximum(ready, self.drained + self.never_ends[slot], out=may_drain)
        np.maximum(may_drain, self.never_first[slot], out=last)
        self.free = last + 1
        np.copyto(self.drained, last + self.engine.machine.lanes_per_scale, where=self.ends[slot])

    def ktile_freed(self) -> int:
        """Return the first cycle in which the weights of the k-tile that ended may be loaded over."""
        return int(self.free.max()) + self.engine.machine.lanes_per_scale + KTILE_CYCLES

    def spans(self) -> Int64:
        """Return [4, items]: first step, ready for the last one, drain chain free, last step of each item."""
        times = (self.start, self.ready, self.may_drain, self.popped[1:])
        return np.array([time[self.pushed] for time in times])

    def counts(self) -> dict[str, int]:
        """Return the counters that are no cycles."""
        return {"steps": self.steps, "nonzeros": self.nonzeros, "skipped": self.skipped}


class NoArray:
    """An array without channels in this layer: it steps over the k-tiles."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.skipped = engine.list_complete - 1

    def ktile(self) -> None:
        """Step over the next k-tile."""
        self.skipped = max(self.skipped + 1, self.engine.loaded[-1])


class PostProcessor:
    """Post-processor: a tile's segments, and the steps of each."""

    def __init__(self, engine: Engine) -> None:
        machine, work = engine.machine, engine.work
        self.engine = engine
        self.free = 1           # first cycle in which a tile may be taken
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
