"""Sparsity study: the cycle model on recorded activations, against dense arrays and against what is possible.

A trace holds the nonzero masks of real sampling, [steps, samples, C, H, W] for each layer's input. Its channels are
labelled in each time step as the detector would, dealt out as the scheduler does, and timed.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from golden.cycles import Counters, predict
from golden.detector import Labels, balance_detection, classify, threshold_detection
from golden.layer import Entry, TableEntry, one_tap
from golden.machine import Machine
from golden.scheduler import schedule
from golden.work import LayerWork, ListWork, tap_counts

__all__ = ["GROUP", "Mode", "Total", "TraceLayer", "bound", "inside_share", "label",
           "layer_work", "read_trace", "sweep"]

Mode = Literal["none", "threshold", "balance"]
Bool = NDArray[np.bool_]
Int64 = NDArray[np.int64]

GROUP = 8           # channels of a vector
OVERHEAD = 1.1      # measured: the cut that takes the fewest cycles on the traces
ALL_TAPS = 0b111_111_111
# Stride 2 as a convolution of the space-to-depth map: taps of the even and of the odd lines (and columns).
STRIDED_TAPS = ((1,), (0, 1))


@dataclass(frozen=True, eq=False)
class TraceLayer:
    """One layer of a trace, in one time step.

    Parameters
    ----------
    name : str
    step : int
    nonzero : bool [C, N, H, W]
        Its input as the engine stores it: that of a layer with stride 2 by space-to-depth.
    taps : integers [C]
        Masks of the taps that are used of each channel.
    outputs : int
    """

    name: str
    step: int
    nonzero: Bool
    taps: Int64
    outputs: int


def _space_to_depth(mask: Bool) -> tuple[Bool, Int64]:
    """Input of a stride-2 layer, [C, N, H, W], by space-to-depth, and the taps of each channel."""
    channels, samples, height, width = mask.shape
    split = mask.reshape(channels, samples, height // 2, 2, width // 2, 2).transpose(0, 3, 5, 1, 2, 4)
    taps = [sum(1 << 3 * line + column for line in STRIDED_TAPS[y] for column in STRIDED_TAPS[x])
            for y in range(2) for x in range(2)]
    return split.reshape(4 * channels, samples, height // 2, width // 2), np.tile(taps, channels)


def read_trace(path: Path, steps: Iterable[int] | None = None) -> Iterator[TraceLayer]:
    """Read the layers of a trace, step by step.

    Parameters
    ----------
    path : Path
        An archive with bit-packed `mask/LAYER`, its shape in `mask_shape/LAYER`, and the time steps in `steps`.
    steps : iterable of int, optional
        Those to read, all by default.
    """
    with np.load(path) as archive:
        places = {int(step): place for place, step in enumerate(archive["steps"])}
        names = [key.removeprefix("mask/") for key in archive.files if key.startswith("mask/")]
        masks = {}
        for name in names:
            shape = archive[f"mask_shape/{name}"]
            masks[name] = np.unpackbits(archive[f"mask/{name}"], count=int(np.prod(shape))).reshape(shape).astype(bool)
    base = masks[names[0]].shape[2]     # channels of the network's finest level
    for step in places if steps is None else steps:
        for name in names:
            mask = masks[name][places[step]].swapaxes(0, 1)
            taps = np.full(len(mask), ALL_TAPS)
            if name == "down":
                mask, taps = _space_to_depth(mask)
            # The coarse level is twice as wide.
            coarse = name == "down" or name.split(".")[0] in ("e3", "mid", "u3")
            yield TraceLayer(name, step, mask, taps, base * (1 + coarse))


def inside_share(layer: TraceLayer) -> float:
    """Share of a layer's taps that lie inside the image; the others cost a dense array time, and a sparse one none."""
    ones = np.ones((len(layer.nonzero), 1, *layer.nonzero.shape[2:]), bool)
    return float(tap_counts(ones, layer.taps).sum() / tap_counts(ones, layer.taps, wrap=True).sum())


def label(machine: Machine, layer: TraceLayer, mode: Mode, *, wrap: bool = False, overhead: float = OVERHEAD) -> Labels:
    """Label the channels of a layer's input for a machine, as its detector would.

    Parameters
    ----------
    machine, layer
    mode : str
        "threshold", "balance", or "none": all channels are dense, and none is known to be dead.
    wrap : bool
        See `golden.work.LayerWork`.
    overhead : float
        For `balance`: cycles of a sparse array over those of an ideal one, beside what it saves at the borders.
    """
    if mode == "none":
        return Labels.all_dense(len(layer.nonzero))
    pixels = int(np.prod(layer.nonzero.shape[1:]))
    detection = threshold_detection(pixels) if mode == "threshold" else balance_detection(
        pixels, machine.dense, machine.sparse, machine.dense_taps, overhead * (1 if wrap else inside_share(layer)))
    return classify(layer.nonzero.sum(axis=(1, 2, 3)), detection)


def layer_work(machine: Machine, layer: TraceLayer, labels: Labels, *, wrap: bool = False) -> LayerWork:
    """Deal a layer's channels out as the scheduler does.

    Parameters
    ----------
    machine, layer, labels
    wrap : bool
        See `golden.work.LayerWork`.
    """
    channels = len(layer.nonzero)
    table = [
        TableEntry(Entry(base=c, weight=3 * c, group=c // GROUP, taps=int(layer.taps[c]), a_signed=False, w_signed=True,
                         exponent=0, last=c % GROUP == GROUP - 1 or c == channels - 1), True, c, 0)
        for c in range(channels)
    ]
    flags = zip(labels.sparse.tolist(), labels.dead.tolist(), labels.bin.tolist(), strict=True)
    lists = [ListWork(np.array([entry.base for entry in share], np.int64),
                      np.array([entry.last for entry in share], bool))
             for share in schedule(table, list(flags), machine, even=one_tap(table))]
    return LayerWork(nonzero=layer.nonzero, taps=layer.taps, lists=lists, outputs=layer.outputs, wrap=wrap)


def bound(machine: Machine, work: LayerWork) -> float:
    """Cycles that a layer's split takes at least: rows of sparse arrays never wait, dense arrays always multiply."""
    cycles = 0.0
    for array, share in enumerate(work.lists):
        if array < machine.dense:
            taps = (work.taps[share.position, None] >> np.arange(9) & 1).reshape(-1, 3, 3)
            steps = taps.sum() if machine.dense_taps == 1 else taps.any(axis=2).sum()
            cycles = max(cycles, float(steps) * work.tiles(machine.rows))
        else:
            counts = tap_counts(work.nonzero[share.position], work.taps[share.position], work.wrap)
            cycles = max(cycles, float(counts.sum(dtype=np.int64)) / machine.rows)
    return cycles * -(-work.outputs // machine.cols)


@dataclass
class Total:
    """Sums over the layers of a sweep."""

    cycles: int = 0
    bound: float = 0.0
    layers: dict[tuple[str, int], tuple[Counters, float]] = field(default_factory=dict)

    def add(self, layer: TraceLayer, counters: Counters, least: float) -> None:
        """Add a layer."""
        self.cycles += counters.cycles
        self.bound += least
        self.layers[layer.name, layer.step] = counters, least


def sweep(layers: Iterable[TraceLayer], machines: Mapping[str, tuple[Machine, Mode]], *, wrap: bool = False,
          overhead: float = OVERHEAD) -> dict[str, Total]:
    """Time layers on several machines.

    Parameters
    ----------
    layers : iterable of TraceLayer
    machines : mapping of str to (machine, mode)
    wrap, overhead
        See `layer_work` and `label`.
    """
    totals = {name: Total() for name in machines}
    for layer in layers:
        for name, (machine, mode) in machines.items():
            work = layer_work(machine, layer, label(machine, layer, mode, wrap=wrap, overhead=overhead), wrap=wrap)
            totals[name].add(layer, predict(machine, work), bound(machine, work))
    return totals
