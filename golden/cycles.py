"""Cycle model: what the engine's counters say after a layer, to the cycle.

The blocks' timing is in `golden.timing`, what they work on in `golden.work`; here their events become counters. They
are those of the RTL, whatever arrays and read ports there are and whatever ran before, but for what the host does
meanwhile: weights count as sent a beat per cycle as soon as there is room (`LayerWork.ktile_beats`), with no other
beats between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from golden.machine import Machine
from golden.timing import BANKS, DenseArray, Engine, NoArray, PostProcessor
from golden.timing_sparse import SparseArray
from golden.work import LayerWork

__all__ = ["CAUSES", "Counters", "predict"]

CAUSES = ("busy", "fetch", "weights", "drain", "post", "write")     # of cycles
END_CYCLES = 18     # from the post-processor's last step to the end of the layer

Int64 = NDArray[np.int64]
Array = DenseArray | SparseArray


@dataclass(frozen=True)
class Counters:
    """Counters of one layer, by the names of `hw.engine.counters_layout`.

    Parameters
    ----------
    cycles : int
    array : per array, its counters
        `CAUSES` and `steps` (of all rows); for a sparse array also `nonzeros` (steps that multiplied one; the others
        are one for each row and tile that is all zero) and `skipped` (zeros inside the image that took no step).
    busy : int
        Cycles in which any array multiplied.
    loaded, freed : per k-tile, int
        First cycle in which its weights are there, and in which they may be loaded over.
    """

    cycles: int
    array: list[dict[str, int]]
    busy: int
    loaded: list[int]
    freed: list[int]


def _happens(spans: Sequence[tuple[int, int]] | Int64, cycles: int) -> NDArray[np.bool_]:
    """Whether each cycle from 1 on lies in any of the spans [begin, end)."""
    begin, end = np.asarray(spans, np.int64).reshape(-1, 2).T
    real = end > begin
    change = np.bincount(begin[real], minlength=cycles + 1) - np.bincount(end[real], minlength=cycles + 1)
    return np.cumsum(change)[1:cycles + 1] > 0


def _freed(engine: Engine, arrays: Sequence[Array | NoArray], k_tile: int) -> int:
    """First cycle in which the weights of a k-tile that all arrays have done may be loaded over."""
    last = (k_tile + 1) * engine.tiles - 1
    return max(array.freed[k_tile if isinstance(array, NoArray) else last] for array in arrays)


def _run(engine: Engine, post: PostProcessor, arrays: Sequence[Array | NoArray], first: Sequence[int]) -> None:
    """Carry all blocks through the layer; `first` as `loaded` of `predict`."""
    machine, work = engine.machine, engine.work
    working = [array for array in arrays if not isinstance(array, NoArray)]
    ports = [array.fetcher.port for array in working]
    shared = any(port is other for number, port in enumerate(ports) for other in ports[:number])
    tiles = engine.tiles * engine.k_tiles

    def load(cycle: int) -> None:
        engine.loaded.append(cycle)
        for array in arrays:
            if isinstance(array, NoArray):
                array.ktile()

    def finish() -> None:
        """Let the post-processor take the tiles that all arrays have finished."""
        while (tile := len(engine.release)) < tiles and all(len(array.finished) > tile for array in working):
            k_tile = tile // engine.tiles
            post.tile(max([engine.list_complete + 1, *(array.finished[tile] for array in working)]),
                      min(machine.cols, work.outputs - k_tile * machine.cols))
            if (tile + 1) % engine.tiles == 0 and len(engine.loaded) < engine.k_tiles:
                freed = _freed(engine, arrays, k_tile)
                load(0 if work.ktile_beats is None else max(engine.loaded[-1], freed) + work.ktile_beats + 1)
            for array in working:
                array.resume()
                array.fetcher.ask()

    def read(array: Array) -> None:
        """Make the array's next read."""
        fetcher = array.fetcher
        if fetcher.wanted in fetcher.port:
            fetcher.wanted += 1
        else:
            fetcher.grant()
            array.resume()
            fetcher.ask()

    for _, cycle in zip(range(engine.k_tiles), first, strict=False):
        load(cycle)
    for array in working:
        array.fetcher.ask()
    finish()
    while len(engine.release) < tiles:
        if shared:
            # In order of time; an array in front goes first, as `hw.fetcher.PortArbiter` has it.
            read(min(working, key=lambda array: array.fetcher.wanted))
        else:
            for array in working:
                while len(array.finished) == len(engine.release):
                    read(array)
        finish()


def predict(machine: Machine, work: LayerWork, loaded: Sequence[int] = (0,) * BANKS) -> Counters:
    """Predict the counters of a layer.

    Parameters
    ----------
    machine : Machine
    work : LayerWork
    loaded : sequence of int
        First cycles in which the weights of the first two k-tiles are there.
    """
    engine = Engine(machine, work)
    post = PostProcessor(engine)
    kinds = [DenseArray] * machine.dense + [SparseArray] * machine.sparse
    arrays = [kind(engine, number) if len(share.position) else NoArray(engine)
              for number, (kind, share) in enumerate(zip(kinds, work.lists, strict=True))]
    _run(engine, post, arrays, loaded)

    cycles = engine.release[-1] + END_CYCLES
    extra = np.bincount(np.concatenate(post.extra), minlength=cycles + 1)[1:cycles + 1] > 0
    counters, any_busy = [], np.zeros(cycles, np.bool_)
    for array in arrays:
        if isinstance(array, NoArray):
            counters.append(dict.fromkeys((*CAUSES, "steps"), 0) | {"fetch": array.skipped})
            continue
        start, ready, may_drain, last = array.spans()
        steps = np.stack([np.append(start, last), np.append(ready, last + 1)], axis=-1)
        busy = _happens(steps, cycles)
        any_busy |= busy
        drain = _happens(np.stack([ready, may_drain], axis=-1), cycles) & ~busy
        bank = _happens(np.stack([may_drain, last], axis=-1), cycles) & ~busy & ~drain
        starved = _happens(array.fetcher.starved, cycles)
        unloaded = _happens(array.fetcher.waits, cycles)
        starved &= ~busy & ~drain & ~bank
        happened = (busy, starved & ~unloaded, starved & unloaded, drain, bank & ~extra, bank & extra)
        counters.append({cause: int(cycle.sum()) for cause, cycle in zip(CAUSES, happened, strict=True)}
                        | array.counts())
    freed = [_freed(engine, arrays, k_tile) for k_tile in range(engine.k_tiles)]
    return Counters(cycles, counters, int(any_busy.sum()), engine.loaded, freed)
