"""The training data: scikit-learn's bundled 8x8 digits, split once and for all, in ink units or standardised."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]

TRAINING_IMAGES = 1497
SPLIT_SEED = 0
SIZE = 8


@dataclass(frozen=True, eq=False)
class Digits:
    """The digits in a random but fixed order: the first `TRAINING_IMAGES` are for training, the others for validation.

    Parameters
    ----------
    images : float64 [1797, H, W]
        Ink from 0 to 16.
    labels : int64 [1797]
        Class, 0 to 9.
    """

    images: Float64Array
    labels: Int64Array


@cache
def load_digits(size: int = SIZE) -> Digits:
    """All 1,797 digits (UCI "Optical Recognition of Handwritten Digits", test set), at 8x8 or enlarged to 16x16.

    Raises
    ------
    ValueError
        If `size` is neither 8 nor 16.
    """
    from sklearn.datasets import load_digits as bundled  # takes a second to import

    if size not in (SIZE, 2 * SIZE):
        raise ValueError(f"digits are {SIZE} or {2 * SIZE} pixels wide, not {size}")
    found = bundled()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(found.images))
    images = found.images[order].astype(np.float64)
    return Digits(images if size == SIZE else enlarged(images), found.target[order].astype(np.int64))


def enlarged(images: Float64Array) -> Float64Array:
    """Images [N, H, W] at twice the size by linear interpolation, pixel centres aligned, the border repeated.

    Along each axis a new pixel is 3/4 of the old one that it lies in and 1/4 of the neighbour on its side.
    """
    for axis in (1, 2):
        padded = np.pad(images, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        size = images.shape[axis]
        before, here, after = (np.take(padded, np.arange(first, first + size), axis) for first in range(3))
        pair = np.stack([0.75 * here + 0.25 * before, 0.75 * here + 0.25 * after], axis=axis + 1)
        shape = list(images.shape)
        shape[axis] = 2 * size
        images = pair.reshape(shape)
    return images
