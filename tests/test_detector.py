"""The golden detector: against plain computations of what its two modes promise, and of when labels are made anew."""

from itertools import product
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden.detector import (
    BINS,
    Detection,
    Labels,
    Refresh,
    RefreshPolicy,
    balance_detection,
    classify,
    threshold_detection,
)

PIXELS = st.integers(1, 5000)


@st.composite
def counted(draw: st.DrawFn) -> tuple[int, list[int]]:
    """Pixels of a map, and the nonzeros of some channels."""
    pixels = draw(PIXELS)
    return pixels, draw(st.lists(st.integers(0, pixels), min_size=1, max_size=40))


@given(counted(), st.sampled_from([0, 10, 30, 55, 100]))
def test_threshold_is_more_zeros_than_the_share(tensor: tuple[int, list[int]], percent: int) -> None:
    pixels, nonzeros = tensor
    labels = classify(nonzeros, threshold_detection(pixels, percent / 100))
    # 0.55 * 100 is 55.00000000000001: a channel exactly at the limit may not tip over.
    assert labels.sparse.tolist() == [100 * (pixels - count) > percent * pixels for count in nonzeros]


@given(counted())
def test_dead_is_all_zero_and_bins_keep_the_order(tensor: tuple[int, list[int]]) -> None:
    pixels, nonzeros = tensor
    labels = classify(nonzeros, threshold_detection(pixels))
    assert labels.dead.tolist() == [count == 0 for count in nonzeros]
    assert labels.bin.min() >= 0 and labels.bin.max() < BINS
    order = np.argsort(nonzeros, kind="stable")
    assert (np.diff(labels.bin[order]) >= 0).all()
    full = classify([pixels], threshold_detection(pixels)).bin[0]
    assert full >= min(pixels, BINS // 2 - 1), "the bins' range is not used"


def predicted(nonzeros: list[int], sparse: list[bool], cost: int) -> tuple[int, int]:
    """Cycles of sparse and dense arrays, in nonzeros of a sparse one."""
    return (sum(count for count, of_sparse in zip(nonzeros, sparse, strict=True) if of_sparse),
            cost * sparse.count(False))


@given(counted(), st.integers(0, 5000))
def test_balance_takes_channels_while_sparse_stays_below_dense(tensor: tuple[int, list[int]], cost: int) -> None:
    """Channel by channel, in the order of the bins and within a bin of the channels."""
    pixels, nonzeros = tensor
    shift = threshold_detection(pixels).bin_shift
    labels = classify(nonzeros, Detection(True, 0, cost, shift))
    in_order = sorted(range(len(nonzeros)), key=lambda c: (labels.bin[c], c))
    bins = [[c for c in in_order if labels.bin[c] == number] for number in range(BINS)]
    chosen: list[int] = []

    def sums() -> tuple[int, int]:
        return sum(nonzeros[c] for c in chosen), cost * (len(nonzeros) - len(chosen))

    for members in bins:
        if sums()[0] + sum(nonzeros[c] for c in members) < sums()[1]:
            chosen += members
            continue
        for c in members:
            if sums()[0] + nonzeros[c] < sums()[1]:
                chosen.append(c)
        break
    assert np.flatnonzero(labels.sparse).tolist() == sorted(chosen)


@given(counted(), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 3]))
def test_balance_lowers_the_larger_prediction(tensor: tuple[int, list[int]], dense: int, sparse: int,
                                              taps: int) -> None:
    """Against all channels on dense arrays; and no sparsest-first split of whole bins is better than by a channel."""
    pixels, nonzeros = tensor
    detection = balance_detection(pixels, dense, sparse, taps)
    cost = detection.dense_cost
    labels = classify(nonzeros, detection)
    larger = max(predicted(nonzeros, labels.sparse.tolist(), cost))
    assert larger <= cost * len(nonzeros)
    best = min(max(predicted(nonzeros, (labels.bin < cut).tolist(), cost)) for cut in range(BINS + 1))
    assert larger <= best + max(cost, max(nonzeros))


def test_balance_moves_work_to_where_it_is_cheap() -> None:
    nonzeros = [100] * 8 + [10] * 8
    labels = classify(nonzeros, balance_detection(100, 1, 1, 1))
    assert labels.sparse[8:].all(), "the sparsest channels come first"
    assert max(predicted(nonzeros, labels.sparse.tolist(), 100)) < 100 * 16 / 2


@pytest.mark.parametrize(("dense", "sparse", "taps", "cost"), [(1, 1, 1, 64), (1, 1, 3, 21), (2, 1, 1, 32),
                                                               (1, 2, 3, 43), (0, 2, 1, 128)])
def test_dense_cost_follows_from_the_arrays(dense: int, sparse: int, taps: int, cost: int) -> None:
    assert balance_detection(64, dense, sparse, taps).dense_cost == cost


def test_without_refresh_only_dead_and_bin_are_new() -> None:
    before = Labels(np.array([True, False, True]), np.array([True, True, False]), np.array([9, 9, 9]))
    labels = classify([0, 5, 64], threshold_detection(64), before)
    assert labels.sparse.tolist() == [True, False, True]
    assert labels.dead.tolist() == [True, False, False]
    assert labels.bin.tolist() == [0, 5 >> 2, 64 >> 2]


STEPS = [3, 3, 4, 5, 6, 6, 7, 8, 9, 63, 0]


@pytest.mark.parametrize(("refresh", "n"), list(product(get_args(Refresh), [1, 2, 3])))
def test_refresh_is_one_decision_per_time_step(refresh: Refresh, n: int) -> None:
    mask = 1 << 3 | 1 << 6 | 1 << 63
    policy = RefreshPolicy(refresh, n, mask)
    of_step = {step: place for place, step in enumerate(dict.fromkeys(STEPS))}
    wanted = [{"every": True, "every_n": of_step[step] % n == 0, "mask": step in (3, 6, 63), "frozen": False}[refresh]
              for step in STEPS]
    assert [policy.at(step) for step in STEPS] == wanted


@pytest.mark.parametrize(("make", "told"), [
    (lambda: RefreshPolicy("sometimes"), "refresh='sometimes' is not legal: every, every_n, mask or frozen"),  # type: ignore[arg-type]
    (lambda: RefreshPolicy("every_n", 0), "n=0 is not legal: 1 to 255 steps"),
    (lambda: RefreshPolicy("mask", mask=1 << 64), "64 bits, one per time step"),
    (lambda: threshold_detection(64, 1.5), "zeros must be a share from 0 to 1, not 1.5"),
])
def test_refuses_what_is_not_legal(make: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()  # type: ignore[operator]
