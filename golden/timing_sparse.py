"""Machine of the sparse array, for the cycle model; see `golden.timing`."""

import numpy as np
from numpy.typing import NDArray

from golden.timing import COMPLETE_CYCLES, KTILE_CYCLES, UNKNOWN, Engine, Fetcher
from golden.work import inside_taps, skews, tap_counts

__all__ = ["SparseArray"]

NEVER = np.int64(-1) << 40

Int64 = NDArray[np.int64]


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
        self.first = first.reshape(-1, rows)
        self.never_first = np.zeros(self.first.shape, np.int64)     # set when a tile begins
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
        self.slot = 0           # of the next pushes
        # First cycle in which the window in the first register may go to the second one, and in which the one in the
        # second may be broadcast, or -1 where there is none; cycles in which the last ones did.
        self.aligned = self.dealt = self.moved = self.broadcast = -1
        self.tile_push = np.full(rows, -1)      # cycles in which the last tile's last items were pushed
        self.broadcasts: list[int] = []         # of each slot
        self.finished: list[int] = []   # as of `golden.timing.DenseArray`
        self.freed: list[int] = []
        # The first tile whose bank was not free as far as was known, and `free` and `drained` when it began.
        self.open: tuple[int, Int64, Int64] | None = None

    def resume(self) -> None:
        """Broadcast the windows that are there, as far as their time is known."""
        if self.open is not None:
            self._reopen(*self.open)
        while self._broadcast():
            pass

    def _broadcast(self) -> bool:
        """Broadcast the next window, if it is there and its time is known."""
        place = self.slot % self.slots
        if self.dealt < 0:
            if self.aligned < 0:
                self._take()
            if self.aligned < 0:
                return False
            self.moved = max(self.aligned, self.broadcast)
            self.aligned, self.dealt = -1, self.moved + 1
        if self.aligned < 0:
            self._take()
        room = self._first_broadcast(self.dealt) if place == 0 else (
            int(self.popped.take(self.back[self.slot]).max()) + 1)
        cycle = max(self.dealt, room)
        if cycle >= UNKNOWN:
            return False
        self.broadcast, self.dealt = cycle, -1
        if place == 0:
            self._begin_tile(self.slot // self.slots)
        for _ in range(1 if place < self.slots - 2 else 2):     # the tile's last item follows its last window
            self.broadcasts.append(cycle)
            self._push()
        return True

    def _take(self) -> None:
        """Take the next window from the fetcher, if it is there."""
        if self.fetcher.there:
            popped = max(self.fetcher.there[0], self.moved)
            self.fetcher.pop(popped)
            self.aligned = popped + 1

    def _first_broadcast(self, cycle: int) -> int:
        """Return when a tile's first window is broadcast, from `cycle` on: rows must have room, be it just for the
        last tile's last item, which goes to the FIFO in that cycle, be it after it."""
        after = self.popped.take(self.back[self.slot]) + 1
        while True:
            later = max(cycle, int(np.where(self.tile_push >= cycle, self.tile_push, after).max()))
            if later == cycle:
                return cycle
            cycle = later

    def _begin_tile(self, tile: int) -> None:
        bank_free = self.engine.bank_free(tile)
        first = slice(self.slot, self.slot + self.slots)
        self.never_first[first] = np.where(self.first[first], bank_free, NEVER)
        if bank_free >= UNKNOWN and self.open is None:
            self.open = tile, self.free, self.drained.copy()

    def _push(self) -> None:
        """Push the next slot's items, and let the rows take them; where there is none all times are NEVER."""
        slot, place = self.slot, self.slot % self.slots
        self.slot += 1
        if place < self.slots - 1:
            if not self.any_pushed[slot]:
                return
            pushed = self.never_pushed[slot] + self.broadcasts[slot]
        else:
            pushed = self.tile_push = np.maximum(self.popped.take(self.back[slot]), self.broadcasts[slot]) + 1
        start, ready, may_drain = self.start[slot], self.ready[slot], self.may_drain[slot]
        last = self.popped[slot + 1]
        np.maximum(pushed + 1, self.free, out=start)
        np.add(start, self.further[slot], out=ready)
        np.maximum(ready, self.drained + self.never_ends[slot], out=may_drain)
        np.maximum(may_drain, self.never_first[slot], out=last)
        self.free = last + 1
        np.copyto(self.drained, last + self.engine.machine.lanes_per_scale, where=self.ends[slot])
        if place == self.slots - 1 and self.open is None:
            end = int(self.free.max()) + self.engine.machine.lanes_per_scale
            self.finished.append(end - 1 + COMPLETE_CYCLES)
            self.freed.append(end + KTILE_CYCLES)

    def _reopen(self, tile: int, free: Int64, drained: Int64) -> None:
        """Push again, from a tile on whose bank was not free as far as was known, if that is known now."""
        if self.engine.bank_free(tile) >= UNKNOWN:
            return
        self.open, self.free, self.drained = None, free, drained
        end, self.slot = self.slot, tile * self.slots
        while self.slot < end:
            if self.slot % self.slots == 0:
                self._begin_tile(self.slot // self.slots)
            self._push()

    def spans(self) -> Int64:
        """Return [4, items]: first step, ready for the last one, drain chain free, last step of each item."""
        times = (self.start, self.ready, self.may_drain, self.popped[1:])
        return np.array([time[self.pushed] for time in times])

    def counts(self) -> dict[str, int]:
        """Return the counters that are no cycles."""
        return {"steps": self.steps, "nonzeros": self.nonzeros, "skipped": self.skipped}
