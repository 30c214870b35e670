"""Weight dilation leaves the float network's result and the weights' scales alone, and is the most that does."""

from dataclasses import replace

import numpy as np
import pytest

from golden.formats import S8
from golden.quant.activations import Calibration
from golden.quant.dilate import dilated, dilated_inputs, divisors
from golden.quant.evaluate import QuantisedNetwork
from golden.quant.recipe import Recipe, WeightRule, quantise_model
from golden.workload.sampler import sample
from golden.workload.unet import GRAPH, MODELS, NETWORK, forward, load

SMALL = load("digits16")
CHAINS = (("h0", "h1"), ("d", "d3", "m"), ("u3.skip", "u"), ("u1.skip", "o"))
GRANULARITIES = ["tensor", "channel", "group"]


def all_layers(granularity):
    return dict.fromkeys([node.name for node in NETWORK], granularity)


def result(weights, seed=0):
    x = np.random.default_rng(seed).standard_normal((1, 5, 8, 8)).astype(np.float32)
    return [forward(weights, x, sigma, [0, 3, 5, 9, 1]) for sigma in (10.0, 0.3)]


def random_divisors(rng, draw):
    found = divisors(SMALL, all_layers("tensor"))
    for names in CHAINS + tuple((name,) for name in found if name not in sum(CHAINS, ("x", "F"))):
        values = draw(rng, found[names[0]].size)
        found |= dict.fromkeys(names, values)
    return found


def test_powers_of_two_leave_the_result_the_same_to_the_last_bit():
    divisor = random_divisors(np.random.default_rng(1), lambda rng, size: 2.0 ** rng.integers(-3, 4, size))
    for before, after in zip(result(SMALL), result(dilated(SMALL, divisor)), strict=True):
        np.testing.assert_array_equal(after["F"], before["F"])
        for name, divide in divisor.items():
            np.testing.assert_array_equal(after[name] * divide[:, None, None, None], before[name])


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_float_networks_result_is_unchanged(granularity):
    divisor = divisors(SMALL, all_layers(granularity), group=2)
    assert all((values >= 1).all() for values in divisor.values())
    for before, after in zip(result(SMALL), result(dilated(SMALL, divisor)), strict=True):
        np.testing.assert_allclose(after["F"], before["F"], rtol=1e-4, atol=1e-5)


def peaks(weights, granularity, group):
    """Largest weight of those that share a scale, one group at a time."""
    if granularity == "tensor":
        return [abs(weights).max()]
    if granularity == "channel":
        return [abs(row).max() for row in weights]
    return [abs(row[c:c + group]).max() for row in weights for c in range(0, len(row), group)]


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_no_scale_becomes_coarser_and_a_little_more_would_make_one(granularity):
    group = 2
    divisor = divisors(SMALL, all_layers(granularity), group)

    def all_peaks(divisor):
        return {node.name: np.array(peaks(dilated_inputs(SMALL, node, divisor), granularity, group))
                for node in NETWORK}

    plain = all_peaks({name: np.ones_like(values) for name, values in divisor.items()})
    found = all_peaks(divisor)
    for name, values in plain.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12)
    readers = {name: [node.name for node in NETWORK if name in node.inputs] for name in GRAPH.names()}
    for names in (*CHAINS, ("e1.hidden",), ("v",)):
        for channel in (0, divisor[names[0]].size - 1):
            more = dict(divisor)
            for name in names:
                more[name] = divisor[name] * np.where(np.arange(divisor[name].size) == channel, 1.01, 1)
            changed = all_peaks(more)
            assert any((changed[reader] > plain[reader] * 1.001).any() for name in names for reader in readers[name])


def test_chains_of_residuals_agree_and_the_ends_are_left_alone():
    divisor = divisors(SMALL, all_layers("tensor"))
    for first, *others in CHAINS:
        for name in others:
            np.testing.assert_array_equal(divisor[name], divisor[first])
    assert (divisor["x"] == 1).all()
    assert (divisor["F"] == 1).all()
    assert divisor["u1.hidden"].mean() > 1.2


def test_fine_scales_leave_nothing_to_dilate():
    divisor = divisors(SMALL, all_layers("group"), group=1)
    assert all((values == 1).all() for values in divisor.values())


def test_a_dilated_model_is_quantised_to_the_same_network():
    """With 8 bits, where rounding is small: anything not folded in its place would show."""
    calibration = Calibration.record("digits16", samples=10, steps=3)
    recipe = Recipe(weights=WeightRule(S8, "tensor"), activation_bits=8)
    run = sample(SMALL, np.arange(8), steps=3, sigma_max=10.0, seed=5)
    for dilate in (False, True):
        model = quantise_model(SMALL, replace(recipe, dilate=dilate), calibration)
        network = QuantisedNetwork(model, run.labels)
        for step in range(3):
            expected = run.activations[step]["F"]
            error = network(run.activations[step]["x"].astype(np.float64), step) - expected
            assert np.sqrt(np.square(error).mean() / np.square(expected).mean()) < 0.15    # measured: 0.01 to 0.09


def test_silu_is_refused(monkeypatch):
    calibration = Calibration.record("digits16", samples=2, steps=2)
    monkeypatch.setitem(MODELS, "digits16", replace(MODELS["digits16"], activation="silu"))
    with pytest.raises(ValueError, match="weight dilation needs ReLU; model digits16 has silu"):
        quantise_model(SMALL, Recipe(dilate=True), calibration)
