"""Sparsity detector: labels of a tensor's channels from their nonzeros, and when they are made anew.

Modes: `threshold` is that of SQ-DM (arXiv 2501.15448, section IV): sparse where more than a fixed share of a channel is
zero. `balance` splits the channels so that the predicted cycles of dense and sparse arrays meet.
"""

from dataclasses import dataclass, field
from operator import index
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from golden.formats import Int64Array, as_integers

__all__ = ["BINS", "Detection", "Labels", "Refresh", "RefreshPolicy", "balance_detection", "classify",
           "label_cycles", "threshold_detection"]

BINS = 32

Refresh = Literal["every", "every_n", "mask", "frozen"]


@dataclass(frozen=True)
class Detection:
    """How to label a tensor.

    Parameters
    ----------
    balance : bool
        Mode `balance`, else `threshold`.
    label_limit : int
        `threshold`: sparse where there are fewer nonzeros than this.
    dense_cost : int
        `balance`: nonzeros that take a sparse array as long as one channel takes a dense one.
    bin_shift : int
        Channels are binned by nonzeros >> bin_shift, the last of 32 bins taking all above.
    """

    balance: bool
    label_limit: int
    dense_cost: int
    bin_shift: int


def _bin_shift(pixels: int) -> int:
    return max(0, (pixels // BINS).bit_length())


def threshold_detection(pixels: int, zeros: float = 0.30) -> Detection:
    """`threshold`: sparse where more than the share `zeros` of a channel's `pixels` is zero."""
    if not 0 <= zeros <= 1:
        raise ValueError(f"zeros must be a share from 0 to 1, not {zeros}")
    return Detection(False, pixels - int(zeros * pixels), 0, _bin_shift(pixels))


def balance_detection(pixels: int, dense: int, sparse: int, dense_taps: int, overhead: float = 1.0) -> Detection:
    """`balance` for so many arrays of each kind.

    Parameters
    ----------
    pixels : int
        N*H*W of the labelled tensor.
    dense, sparse : int
        Arrays; with none of a kind the labels do not matter.
    dense_taps : int
        Multipliers in front of each accumulator of a dense array.
    overhead : float
        Cycles of a sparse array over those of an ideal one, whose rows never wait.
    """
    cost = pixels * sparse / (max(dense, 1) * dense_taps * overhead)
    return Detection(True, 0, round(cost), _bin_shift(pixels))


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of one tensor's channels: bool, bool and integers 0..31, each [C]."""

    sparse: np.ndarray[tuple[int], np.dtype[np.bool_]]
    dead: np.ndarray[tuple[int], np.dtype[np.bool_]]
    bin: Int64Array

    @classmethod
    def all_dense(cls, channels: int) -> "Labels":
        """Labels as they are after a reset."""
        return cls(np.zeros(channels, np.bool_), np.zeros(channels, np.bool_), np.zeros(channels, np.int64))


def classify(nonzeros: ArrayLike, detection: Detection, before: Labels | None = None) -> Labels:
    """Label channels by their nonzeros.

    Parameters
    ----------
    nonzeros : integers [C]
    detection : Detection
    before : Labels, optional
        In a time step without refresh: where `sparse` is taken from.
    """
    counts = as_integers(nonzeros, 0, 1 << 40, "nonzeros")
    bins = np.minimum(counts >> detection.bin_shift, BINS - 1)
    if before is not None:
        sparse = before.sparse.copy()
    elif detection.balance:
        sparse = _balanced(counts, bins, detection.dense_cost)
    else:
        sparse = counts < detection.label_limit
    return Labels(sparse, counts == 0, bins)


def label_cycles(nonzeros: ArrayLike, detection: Detection) -> int:
    """Cycles from a layer's last count until its channels are labelled; `hw.detector` says what they go to."""
    counts = as_integers(nonzeros, 0, 1 << 40, "nonzeros")
    cut = 0
    if detection.balance:
        bins = np.minimum(counts >> detection.bin_shift, BINS - 1)
        cut = _cut(counts, bins, detection.dense_cost)[0]
    return len(counts) + 16 + cut


def _cut(counts: Int64Array, bins: Int64Array, dense_cost: int) -> tuple[int, int, int]:
    """How many whole bins go to the sparse arrays while that lowers the larger prediction; then both predictions."""
    sparse_sum, dense_sum = 0, dense_cost * len(counts)
    for number in range(BINS):
        members = bins == number
        if sparse_sum + counts[members].sum() >= dense_sum:
            return number, sparse_sum, dense_sum
        sparse_sum += int(counts[members].sum())
        dense_sum -= dense_cost * int(members.sum())
    return BINS, sparse_sum, dense_sum


def _balanced(counts: Int64Array, bins: Int64Array, dense_cost: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whole bins to the sparse arrays while that lowers the larger prediction; then channels of the next bin."""
    cut, sparse_sum, dense_sum = _cut(counts, bins, dense_cost)
    sparse = bins < cut
    for channel in np.flatnonzero(bins == cut):
        if sparse_sum + counts[channel] < dense_sum:
            sparse[channel] = True
            sparse_sum += int(counts[channel])
            dense_sum -= dense_cost
    return sparse


@dataclass
class RefreshPolicy:
    """In which time steps labels are made anew.

    Parameters
    ----------
    refresh : str
        `every` step; `every_n`: the first and every n-th after it; `mask`: those whose bit is set; `frozen`: none.
    n : int
        1 to 255.
    mask : int
        64 bits.
    """

    refresh: Refresh = "every"
    n: int = 1
    mask: int = 0
    _step: int | None = field(default=None, init=False)
    _since: int = field(default=0, init=False)
    _due: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.refresh not in ("every", "every_n", "mask", "frozen"):
            raise ValueError(f"refresh={self.refresh!r} is not legal: every, every_n, mask or frozen")
        if not 1 <= index(self.n) <= 255:
            raise ValueError(f"n={self.n} is not legal: 1 to 255 steps")
        if not 0 <= index(self.mask) < 1 << 64:
            raise ValueError(f"mask={self.mask} is not legal: 64 bits, one per time step")

    def at(self, step: int) -> bool:
        """Whether labels are made anew by a layer that runs now, in time step `step`."""
        if step != self._step:
            first = self._step is None
            due = first or self._since + 1 == self.n
            self._since = 0 if due else (self._since + 1) % 256
            self._due = {"every": True, "every_n": due, "mask": bool(self.mask >> step & 1),
                         "frozen": False}[self.refresh]
            self._step = step
        return self._due
