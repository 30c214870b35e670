"""How good drawn digits are, measured without downloads: in the features of a small classifier of the same digits.

The classifier is a convolutional network with a layer of 64 features before its last one, trained by
`python -m train classifier`. `data/classifier.npz` has it, and all 1,797 real digits that images are compared with (UCI
"Optical Recognition of Handwritten Digits", test set, by E. Alpaydin and C. Kaynak).

Images are [N, 8, 8] in ink units, 0 to 16, or [N, 16, 16], which are averaged down to 8x8. What the sampler leaves
outside of [0, 16] is clipped for the features, as it would be in a picture, but not for `psnr`. Images of 16x16 pixels
are compared with real digits that were enlarged like training images and averaged down as well. This blurs: even those
would be at a distance of 4.7 from the sharp ones.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.formats import Int64Array, Uint8Array
from golden.workload.unet import CLASSES, DATA, Node, Weights, convolve

__all__ = ["CONVOLUTIONS", "DENSE", "FEATURES", "INK", "Statistics", "accuracy", "features", "features_of", "frechet",
           "frechet_distance", "logits", "precision_recall", "precision_recall_of", "psnr", "real_digits", "statistics"]

Float64Array = NDArray[np.float64]

INK = 16
SIZE = 8
FEATURES = 64
CHUNK = 500                    # images at a time, for memory
LEAST_ERROR = 1e-12            # mean square, so that equal images have a finite PSNR: 144 dB
CONVOLUTIONS = (Node("conv0", ("image",), "a"), Node("conv1", ("a",), "b", stride=2), Node("conv2", ("b",), "c"))
DENSE = (Node("features", ("c",), "features"), Node("classes", ("features",), "classes"))  # on all pixels at once


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean [64] and covariance [64, 64] of features."""

    mean: Float64Array
    covariance: Float64Array


def features(images: ArrayLike) -> Float64Array:
    """The features [N, 64] of images.

    Raises
    ------
    ValueError
        If the images do not have the shape [N, 8, 8] or [N, 16, 16], N at least 1, or are not finite.
    """
    small = _small(images)
    return np.concatenate([features_of(_kept().weights, small[first:first + CHUNK])
                           for first in range(0, len(small), CHUNK)])


def features_of(weights: Weights, images: Float64Array) -> Float64Array:
    """As `features`, of 8x8 images with given weights: channels 1 -> 32 -> 64 (stride 2) -> 64, then 64 features."""
    x = (np.clip(images, 0, INK) / INK).astype(np.float32)[None]
    for node in CONVOLUTIONS:
        x = np.maximum(convolve(weights, node, x), 0)
    pixels = x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1], 1, 1)
    return np.maximum(convolve(weights, DENSE[0], pixels)[:, :, 0, 0], 0).T.astype(np.float64)


def logits(images: ArrayLike) -> Float64Array:
    """The classifier's unnormalised log probabilities [N, 10]; raises as `features`."""
    found = features(images).T[:, :, None, None].astype(np.float32)
    return convolve(_kept().weights, DENSE[1], found)[:, :, 0, 0].T.astype(np.float64)


def accuracy(images: ArrayLike, labels: ArrayLike) -> float:
    """Share of images that the classifier takes for their class, one of ten in `labels` [N].

    Raises
    ------
    ValueError
        If there is not a label in [0, 9] for every image, or as `features`.
    """
    found, classes = logits(images).argmax(axis=1), np.asarray(labels)
    if classes.shape != found.shape or not np.isin(classes, np.arange(CLASSES)).all():
        raise ValueError(f"{found.size} images need as many labels in [0, {CLASSES - 1}], not {labels!r}")
    return float((found == classes).mean())


def frechet(images: ArrayLike) -> float:
    """Frechet distance of the images' features from those of all real digits ("FID", arXiv 1706.08500, equation 6).

    It has a bias that falls with N: compare only figures with the same N, 2,000 unless something else is said.

    Raises
    ------
    ValueError
        If there are fewer than two images, or as `features`.
    """
    return frechet_distance(statistics(features(images)), _known(np.shape(images)[-1]).statistics)


def statistics(found: Float64Array) -> Statistics:
    """Mean and unbiased covariance of features [N, 64].

    Raises
    ------
    ValueError
        If N is below 2.
    """
    if len(found) < 2:
        raise ValueError(f"a covariance needs at least 2 images, not {len(found)}")
    return Statistics(found.mean(axis=0), np.cov(found, rowvar=False))


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of the covariances A and B.

    The trace of (A B)^(1/2) is that of the symmetric (A^(1/2) B A^(1/2))^(1/2), whose eigenvalues are real.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ b.covariance @ root)
    traces = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(np.maximum(eigenvalues, 0)).sum()
    return float(np.square(a.mean - b.mean).sum() + traces)


def precision_recall(images: ArrayLike, k: int = 3) -> tuple[float, float]:
    """Precision and recall of the images' features against the real ones (Kynkaanniemi et al., arXiv 1904.06991).

    Precision is the share of images that lie in a ball around some real digit, with its k-th nearest other real digit
    on the border; recall is the share of real digits that lie in such a ball around some image (section 2, equation 2).

    Raises
    ------
    ValueError
        If k is not in [1, N - 1], or as `features`.
    """
    return precision_recall_of(features(images), _known(np.shape(images)[-1]).features, k)


def precision_recall_of(drawn: Float64Array, known: Float64Array, k: int = 3) -> tuple[float, float]:
    """As `precision_recall`, of the features [N, d] of images and those [M, d] of real digits."""
    if not 1 <= k < min(len(drawn), len(known)):
        raise ValueError(f"k must be from 1 to {min(len(drawn), len(known)) - 1}, fewer than there are images, not {k}")
    between = _distances(drawn, known)
    inside_known = between <= _radii(known, k)[None, :]
    inside_drawn = between <= _radii(drawn, k)[:, None]
    return float(inside_known.any(axis=1).mean()), float(inside_drawn.any(axis=0).mean())


def psnr(images: ArrayLike, reference: ArrayLike) -> Float64Array:
    """Peak signal to noise ratio of each image [N, H, W] in dB, the peak being full ink.

    Raises
    ------
    ValueError
        If the shapes are not alike.
    """
    a, b = np.asarray(images, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(f"images and reference must both have the same shape [N, H, W], not {a.shape} and {b.shape}")
    ratios: Float64Array = 10 * np.log10(INK**2 / np.maximum(np.square(a - b).mean(axis=(1, 2)), LEAST_ERROR))
    return ratios


def real_digits() -> tuple[Float64Array, Int64Array]:
    """The real digits [1797, 8, 8], whole numbers from 0 to 16, in random order, and their classes [1797].

    The first 1,497 are those that models are trained with.
    """
    return _kept().images.astype(np.float64), _kept().labels.astype(np.int64)


@dataclass(frozen=True, eq=False)
class _Kept:
    """The content of classifier.npz."""

    weights: Weights
    statistics: Statistics
    images: Uint8Array
    labels: Uint8Array


@dataclass(frozen=True, eq=False)
class _Known:
    """What images are compared with: real digits [1797, 8, 8], blurred like images of that size."""

    images: Float64Array
    size: int

    @cached_property
    def features(self) -> Float64Array:
        return features(self.images)

    @cached_property
    def statistics(self) -> Statistics:
        return _kept().statistics if self.size == SIZE else statistics(self.features)


@cache
def _known(size: int) -> _Known:
    images = real_digits()[0]
    return _Known(images if size == SIZE else _blurred(images), size)


def _blurred(images: Float64Array) -> Float64Array:
    """Images [N, 8, 8] interpolated linearly to 16x16 and averaged: 1/8, 3/4, 1/8 along each axis, edges repeated.

    The two new pixels in an old one are 3/4 of it and 1/4 of its neighbour on their side.
    """
    for axis in (1, 2):
        edges = np.pad(images, [(int(a == axis),) * 2 for a in range(3)], mode="edge")
        before, here, after = (edges.take(range(first, first + SIZE), axis) for first in range(3))
        images = before / 8 + here * 3 / 4 + after / 8
    return images


@cache
def _kept() -> _Kept:
    with np.load(DATA / "classifier.npz", allow_pickle=False) as archive:
        names = [name for name in archive.files if name.endswith((".weight", ".bias"))]
        weights = {name: archive[name].astype(np.float32) for name in names}
        return _Kept(weights, Statistics(archive["real_mean"], archive["real_covariance"]), archive["real_images"],
                     archive["real_labels"])


def _small(images: ArrayLike) -> Float64Array:
    array = np.asarray(images, dtype=np.float64)
    if array.ndim != 3 or array.shape[0] < 1 or array.shape[1:] not in ((SIZE, SIZE), (2 * SIZE, 2 * SIZE)):
        raise ValueError(f"images must have the shape [N, 8, 8] or [N, 16, 16] with N of at least 1, not {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("images must be finite")
    return array.reshape(len(array), SIZE, array.shape[1] // SIZE, SIZE, -1).mean(axis=(2, 4))


def _distances(a: Float64Array, b: Float64Array) -> Float64Array:
    """Squared distances [len(a), len(b)]."""
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
    return np.maximum(squares, 0)


def _radii(points: Float64Array, k: int) -> Float64Array:
    """Squared distance of each point to its k-th nearest other."""
    distances = _distances(points, points)
    np.fill_diagonal(distances, 0)   # exactly, so that the nearest of each point is itself
    return np.partition(distances, k, axis=1)[:, k]
