"""The label table as the detector keeps it: two copies, and a bit per slot that says which one is valid."""

import numpy as np

from golden.detector import Detection, Labels, RefreshPolicy, classify
from golden.formats import Int64Array
from golden.scheduler import Label

__all__ = ["LabelTable", "fresh"]


class LabelTable:
    """Labels of all tensors.

    Parameters
    ----------
    depth, slots : int
        Labels of a copy; tensors with labels of their own.

    Attributes
    ----------
    nonzeros : dict of int to integers [channels]
        By slot, what was counted when its tensor was labelled last; hardware keeps only the bin.
    """

    def __init__(self, depth: int, slots: int) -> None:
        self._copies: list[list[Label]] = [[(False, False, 0)] * depth for _ in range(2)]
        self._valid = [0] * slots
        self.nonzeros: dict[int, Int64Array] = {}

    def read(self, index: int, slot: int) -> Label:
        """(sparse, dead, bin) of a channel."""
        return self._copies[self._valid[slot]][index]

    def write(self, index: int, slot: int, label: Label) -> None:
        """Set the label of a channel, in the copy that is valid."""
        self._copies[self._valid[slot]][index] = label

    def detect(self, first: int, slot: int, nonzeros: Int64Array, detection: Detection, refresh: bool) -> None:
        """Label a tensor's channels, from index `first` on, and turn its slot to the copy with the new labels."""
        places = range(first, first + len(nonzeros))
        old = [self.read(place, slot) for place in places]
        before = None if refresh else Labels(np.array([label[0] for label in old]),
                                             np.array([label[1] for label in old]),
                                             np.array([label[2] for label in old]))
        new = classify(nonzeros, detection, before)
        self._valid[slot] ^= 1
        self.nonzeros[slot] = nonzeros
        for place, sparse, dead, count_bin in zip(places, new.sparse, new.dead, new.bin, strict=True):
            self._copies[self._valid[slot]][place] = bool(sparse), bool(dead), int(count_bin)


def fresh(policy: RefreshPolicy) -> RefreshPolicy:
    """The same policy, that has not seen a time step yet."""
    return RefreshPolicy(policy.refresh, policy.n, policy.mask)
