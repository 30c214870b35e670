"""The quality measures are what they are called, and tell good digits from bad ones."""

import warnings

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

from golden.quality import (
    FEATURES,
    INK,
    Statistics,
    accuracy,
    features,
    frechet,
    frechet_distance,
    logits,
    precision_recall,
    precision_recall_of,
    psnr,
    real_digits,
    statistics,
)

SAMPLES = 2000      # as the figures of docs/ have it: the distance depends on it
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def real():
    """The real digits and their classes."""
    return real_digits()


def redrawn(real, seed, left_out=None):
    """So many real digits, drawn with replacement; without those of one class."""
    images, labels = real
    chosen = np.flatnonzero(labels != left_out)
    return images[np.random.default_rng(seed).choice(chosen, SAMPLES)]


def test_the_real_digits_are_the_bundled_ones(real):
    images, labels = real
    bundled = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn").load_digits()

    def rows(images, labels):
        return sorted(map(tuple, np.concatenate([images.reshape(-1, 64), labels[:, None]], axis=1).astype(int)))

    assert rows(images, labels) == rows(bundled.images, bundled.target)


def test_enlarged_digits_are_compared_with_enlarged_ones(real):
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    from train.digits import enlarged

    large = enlarged(real[0])
    assert abs(frechet(large)) < 1e-6
    blurred = large.reshape(-1, 8, 2, 8, 2).mean(axis=(2, 4))
    assert frechet(blurred) > 2
    np.testing.assert_allclose(features(blurred), features(large))
    assert precision_recall(large[:500])[0] == 1


def test_the_classifier_knows_the_digits(real):
    images, labels = real
    held_out = slice(1497, None)        # not trained with
    assert accuracy(images[held_out], labels[held_out]) > 0.98
    shuffled = np.random.default_rng(0).permutation(labels)
    assert 0.05 < accuracy(images, shuffled) < 0.15


def test_all_real_digits_are_at_distance_zero_from_themselves(real):
    assert abs(frechet(real[0])) < 1e-6


def test_distance_ranks_real_digits_before_a_missing_class_before_noise(real):
    same = [frechet(redrawn(real, seed)) for seed in SEEDS]
    missing = [frechet(redrawn(real, seed=0, left_out=digit)) for digit in range(10)]
    noise = [frechet(np.random.default_rng(seed).uniform(0, INK, (SAMPLES, 8, 8))) for seed in SEEDS]
    assert min(same) > 0 and max(same) < 0.2, same
    assert 10 * max(same) < min(missing), (same, missing)
    assert 4 * max(missing) < min(noise), (missing, noise)


def test_distance_grows_with_added_noise(real):
    images = real[0]
    rng = np.random.default_rng(5)
    found = [frechet(images + rng.normal(0, deviation, images.shape)) for deviation in (0.5, 1, 2, 4, 8)]
    assert found == sorted(found) and found[-1] > 50 * found[0], found


@pytest.mark.parametrize("seed", range(4))
def test_frechet_distance_is_that_of_scipys_matrix_root(seed):
    rng = np.random.default_rng(seed)
    size = (3, 7, 20, FEATURES)[seed]
    a, b = (statistics(rng.standard_normal((2 * size + 3, size)) @ rng.standard_normal((size, size)) + rng.random(size))
            for _ in range(2))
    root = sqrtm(a.covariance @ b.covariance)
    expected = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6), f"seed {seed}"
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6), f"seed {seed}"


def test_frechet_distance_of_the_real_and_of_drawn_features(real):
    """As above, on features, some of which are almost always 0: the covariance is nearly singular."""
    a, b = statistics(features(real[0])), statistics(features(redrawn(real, 3, left_out=8)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # SciPy says itself that it is nearly singular
        root = sqrtm(a.covariance @ b.covariance)
    expected = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-4)
    assert frechet(redrawn(real, 3, left_out=8)) == pytest.approx(expected, abs=1e-4)


def test_frechet_distance_of_one_dimension_is_the_formula_for_normal_distributions():
    a, b = Statistics(np.array([1.0]), np.array([[4.0]])), Statistics(np.array([-2.0]), np.array([[0.25]]))
    assert frechet_distance(a, b) == pytest.approx((1 + 2) ** 2 + (2 - 0.5) ** 2)


def test_a_shift_of_all_features_counts_squared(real):
    a = statistics(features(real[0][:300]))
    assert frechet_distance(a, Statistics(a.mean + 1, a.covariance)) == pytest.approx(FEATURES, rel=1e-6)


def test_features_have_a_mean_variance_of_one(real):
    assert features(real[0][:1497]).var(axis=0, ddof=1).mean() == pytest.approx(1, abs=0.01)


def test_precision_and_recall_of_points_on_a_line():
    known = np.array([[0.0], [1.0], [2.0], [10.0]])     # 1st neighbours at 1, 1, 1, 8
    drawn = np.array([[0.5], [2.5], [18.5], [30.0]])    # at 2, 2, 11.5, 16
    # Inside a known ball [-1, 1], [0, 2], [1, 3], [2, 18]: 0.5 and 2.5. Inside a drawn one [-1.5, 2.5], [0.5, 4.5],
    # [7, 30], [18.5, 41.5]: all known points.
    assert precision_recall_of(drawn, known, k=1) == (0.5, 1.0)
    assert precision_recall_of(known, drawn, k=1) == (1.0, 0.5)
    assert precision_recall_of(drawn[[0, 1]], known, k=1) == (1.0, 0.75)    # without 10
    # 2nd neighbours of the known at 2, 1, 2, 9 (10 - 1): [1, 19] takes 18.5 in.
    assert precision_recall_of(drawn, known, k=2)[0] == 0.75


def test_the_border_of_a_ball_belongs_to_it():
    known = np.array([[0.0], [1.0], [5.0]])
    assert precision_recall_of(np.array([[-1.0], [9.0], [9.5]]), known, k=1) == (2 / 3, 1.0)     # 9.5 is 4.5 from 5


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_equal_a_plain_count(k):
    rng = np.random.default_rng(k)
    drawn, known = rng.standard_normal((41, 3)), 0.3 + rng.standard_normal((57, 3))

    def share(points, centres):
        radii = np.sort(cdist(centres, centres), axis=1)[:, k]
        return np.mean([any(np.linalg.norm(point - centre) <= radius for centre, radius in zip(centres, radii,
                        strict=True)) for point in points])

    assert precision_recall_of(drawn, known, k) == (share(drawn, known), share(known, drawn)), f"seed {k}"


def test_precision_falls_with_wrong_images_and_recall_with_missing_ones(real):
    images, labels = real
    good, fair = images[::2], images[1::2]
    whole = precision_recall(good)
    few = precision_recall(good[labels[::2] < 5])
    noise = np.random.default_rng(1).uniform(0, INK, (len(good), 8, 8))
    bad = precision_recall(np.concatenate([fair[:len(fair) // 2], noise[:len(fair) // 2]]))
    assert whole[0] > 0.95 and whole[1] > 0.9, whole
    assert few[0] > 0.95 and few[1] < 0.7, few
    assert bad[0] < 0.6, bad
    assert precision_recall(noise)[0] < 0.1


def test_psnr_of_known_errors():
    reference = np.random.default_rng(0).uniform(0, INK, (3, 5, 7))
    found = psnr(reference + np.array([INK, 1.6, 0.16])[:, None, None], reference)
    np.testing.assert_allclose(found, [0, 20, 40], atol=1e-9)
    assert psnr(reference, reference).min() > 100       # and finite


def test_16x16_images_are_averaged_and_ink_is_clipped(real):
    images = real[0][:5]
    np.testing.assert_array_equal(features(images.repeat(2, axis=1).repeat(2, axis=2)), features(images))
    over = np.where(images == INK, INK + 3.0, np.where(images == 0, -2.0, images))
    np.testing.assert_array_equal(features(over), features(images))
    assert logits(images).shape == (5, 10)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: features(np.zeros((2, 8, 9))), r"\[N, 8, 8\] or \[N, 16, 16\]"),
    (lambda: features(np.zeros((0, 8, 8))), "at least 1"),
    (lambda: features(np.full((1, 8, 8), np.nan)), "finite"),
    (lambda: frechet(np.zeros((1, 8, 8))), "at least 2 images"),
    (lambda: accuracy(np.zeros((2, 8, 8)), [1]), "as many labels"),
    (lambda: accuracy(np.zeros((2, 8, 8)), [1, 10]), "as many labels"),
    (lambda: precision_recall(np.zeros((3, 8, 8)), k=3), "k must be from 1 to 2"),
    (lambda: precision_recall(np.zeros((3, 8, 8)), k=0), "k must be from 1 to 2"),
    (lambda: psnr(np.zeros((2, 8, 8)), np.zeros((3, 8, 8))), "same shape"),
])
def test_errors_say_what_is_legal(call, message):
    with pytest.raises(ValueError, match=message):
        call()
