"""What a layer gives the arrays to do: windows, nonzeros and where they fall. Input of the cycle model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from golden.formats import Uint8Array
from golden.layer import Entry, Layer, LayerImage

__all__ = ["HANDOVER_CYCLES", "LINES", "LayerWork", "ListWork", "image_work", "inside_taps", "nonzero_planes",
           "skews", "tap_counts"]

LINES = 3       # of a kernel, of as many taps each
TAPS = LINES * LINES
HANDOVER_CYCLES = 4     # from a layer's last count to the start of one that waits to follow it

Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ListWork:
    """One array's channel list.

    Parameters
    ----------
    position : integers [entries]
        Places of its entries in the channel table, ascending.
    last : bool [entries]
        The entry ends a vector.
    """

    position: Int64
    last: Bool


@dataclass(frozen=True, eq=False)
class LayerWork:
    """One layer.

    Parameters
    ----------
    nonzero : bool [entries, N, H, W]
        Nonzero nibbles of each entry of the channel table.
    taps : integers [entries]
        Masks of the taps that each entry uses, bit 3*r + s.
    lists : per array, ListWork
    outputs : int
        Output channels.
    transform : str
        Write transform.
    out_planes, residual_planes : int
        Nibble planes of the result, and of the residual: 0 if there is none.
    ktile_beats : int or None
        Beats of a k-tile's weights, taken one per cycle while its half of the memory is free; two k-tiles are loaded
        when the layer starts. None: the weights are always there.
    labelled : int
        First cycle of the layer in which the detector is idle, having labelled the layer before: that one's
        `golden.detector.label_cycles` less `HANDOVER_CYCLES` if this one follows it at once.
    wrap : bool
        Continue each map with its opposite edge, so that no tap lies outside: for studies without border effects.
    """

    nonzero: Bool
    taps: Int64
    lists: Sequence[ListWork]
    outputs: int
    transform: str = "none"
    out_planes: int = 1
    residual_planes: int = 0
    ktile_beats: int | None = None
    labelled: int = 0
    wrap: bool = False

    @property
    def pixels(self) -> int:
        """Pixels of a channel, over the batch."""
        return int(np.prod(self.nonzero.shape[1:]))

    def tiles(self, rows: int) -> int:
        """Tiles of a k-tile."""
        return -(-self.pixels // rows)

    def windows(self, array: int, window_width: int) -> tuple[Int64, Int64, Bool]:
        """Windows of one tile of an array: each one's place in the list, its taps, and whether it ends a vector."""
        work = self.lists[array]
        taps = self.taps[work.position]
        if self.nonzero.shape[-1] <= window_width:
            return np.arange(len(taps)), taps, work.last
        by_line = taps[:, None] & (7 << 3 * np.arange(LINES))
        entry, line = np.nonzero(by_line)
        ends = np.append(entry[1:] != entry[:-1], np.ones(min(1, len(entry)), bool))
        return entry, by_line[entry, line], work.last[entry] & ends


def skews(rows: int) -> tuple[int, int, int, int]:
    """Exclusive-or masks between row and pixel of a sparse array, of four tiles in turn."""
    if rows % 8 == 0:
        return 0, 2, 4, 6
    if rows % 4 == 0:
        return 0, 1, 3, 2
    return 0, 0, 0, 0


def tap_counts(nonzero: Bool, taps: Int64, wrap: bool = False) -> Uint8Array:
    """Count the taps of each pixel's window that are used, inside the image and nonzero.

    Parameters
    ----------
    nonzero : bool [windows, N, H, W]
    taps : integers [windows]
    wrap : bool
        See `LayerWork.wrap`.

    Returns
    -------
    uint8 [windows, N * H * W]
    """
    padded = np.pad(nonzero, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="wrap" if wrap else "constant")
    counts = np.zeros(nonzero.shape, np.uint8)
    height, width = nonzero.shape[2:]
    for tap in range(TAPS):
        used = np.flatnonzero(taps >> tap & 1)
        dy, dx = divmod(tap, LINES)
        counts[used] += padded[used, :, dy:dy + height, dx:dx + width]
    return counts.reshape(len(nonzero), int(np.prod(nonzero.shape[1:])))


def inside_taps(work: LayerWork, array: int) -> int:
    """Count the taps of an array's windows that lie inside the image, of one k-tile."""
    kinds, count = np.unique(work.taps[work.lists[array].position], return_counts=True)
    everywhere = np.ones((len(kinds), *work.nonzero.shape[1:]), bool)
    return int(tap_counts(everywhere, kinds, work.wrap).sum(axis=1, dtype=np.int64) @ count)


def nonzero_planes(memory: Uint8Array, entries: Sequence[Entry], shape: tuple[int, int, int],
                   upsampled: bool) -> Bool:
    """Nonzero nibbles of the map of each entry.

    Parameters
    ----------
    memory : uint8 [act_nibbles]
        One nibble each, addresses wrap.
    entries : sequence of Entry
    shape : (N, H, W)
        Of the map as it is read.
    upsampled : bool
        It has half of the height and width in memory.

    Returns
    -------
    bool [entries, N, H, W]
    """
    samples, height, width = shape
    if upsampled:
        height, width = height // 2, width // 2
    places = np.array([entry.base for entry in entries], np.int64)[:, None] + np.arange(samples * height * width)
    planes = (memory[places % memory.size] != 0).reshape(len(entries), samples, height, width)
    return planes.repeat(2, axis=2).repeat(2, axis=3) if upsampled else planes


def image_work(layer: Layer, image: LayerImage, memory: Uint8Array, lists: Sequence[Sequence[Entry]],
               beats: int | None = None) -> LayerWork:
    """Work of a compiled layer.

    Parameters
    ----------
    layer, image
    memory : uint8 [act_nibbles]
        One nibble each, with the layer's inputs.
    lists : per array, a sequence of Entry
        As `golden.scheduler.schedule` deals them.
    beats : int or None
        See `LayerWork.ktile_beats`.
    """
    _, samples, height, width = layer.in_shape
    entries = [item.entry for item in image.table]
    places = {(entry.base, entry.weight): place for place, entry in enumerate(entries)}
    return LayerWork(
        nonzero=nonzero_planes(memory, entries, (samples, height, width), layer.upsampled),
        taps=np.array([entry.taps for entry in entries], np.int64),
        lists=[ListWork(np.array([places[entry.base, entry.weight] for entry in share], np.int64),
                        np.array([entry.last for entry in share], bool)) for share in lists],
        outputs=len(layer.weights), transform=layer.transform, out_planes=layer.out_fmt.planes,
        residual_planes=layer.residual.fmt.planes if layer.residual else 0, ktile_beats=beats)
