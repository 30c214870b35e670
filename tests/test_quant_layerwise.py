"""Feedback rounding against its definition by least squares; bias correction against means taken on their own."""

from dataclasses import replace

import numpy as np
import pytest

from golden.formats import ScaleFormat
from golden.graph.forward import convolve
from golden.quant.activations import Calibration
from golden.quant.evaluate import QuantisedNetwork
from golden.quant.feedback import DAMPING, least_squares_weights, round_with_feedback
from golden.quant.layerwise import step_weights
from golden.quant.recipe import Recipe, quantise_model
from golden.quant.weights import quantise
from golden.workload.sampler import SIGMA_DATA, integrate, sigma_schedule
from golden.workload.unet import MODELS, NETWORK, load

SMALL = load("digits16")
STEPS = 4


@pytest.fixture(scope="module")
def calibration():
    return Calibration.record("digits16", samples=10, steps=STEPS)


def inputs_of(n, samples=200, seed=0):
    """Inputs [n, samples] that have much in common, as those of neighbouring pixels have."""
    rng = np.random.default_rng(seed)
    return np.maximum(rng.standard_normal((n, n)) @ rng.standard_normal((n, samples)) + 1, 0)


def test_feedback_is_least_squares_over_the_inputs_that_are_left():
    weights = np.random.default_rng(1).standard_normal((3, 5, 1, 1))
    x = inputs_of(5)
    x[2] = 0        # an input that is always zero
    moments = x @ x.T
    scaled = quantise(weights, 2, ScaleFormat(2, 3))
    result = round_with_feedback(weights, moments, scaled)

    damped = moments + np.diag(DAMPING * np.diag(moments).mean() + (np.diag(moments) == 0))
    steps = scaled.steps()
    for k, row in enumerate(weights[:, :, 0, 0]):
        order = np.argsort(-np.diag(moments), kind="stable").tolist()
        target, done, left = row.copy(), np.zeros(5), row.copy()
        for place, c in enumerate(order):
            done[c] = steps[k, c] * np.clip(np.rint(left[c] / steps[k, c]), -7, 7)
            rest = order[place + 1:]
            fixed = order[:place + 1]
            if rest:    # those left minimise (target - w)^T H (target - w) with the done ones fixed
                pull = damped[np.ix_(rest, fixed)] @ (target - done)[fixed]
                left[rest] = target[rest] + np.linalg.solve(damped[np.ix_(rest, rest)], pull)
        np.testing.assert_allclose(result.q[k, :, 0, 0] * steps[k], done, rtol=1e-12)
    assert (result.q != scaled.q).any()


def test_feedback_changes_the_result_less_than_plain_rounding():
    weights = np.random.default_rng(2).standard_normal((8, 6, 3, 3))
    x = inputs_of(54, samples=900)
    scaled = quantise(weights, 2, ScaleFormat(1, 3))
    result = round_with_feedback(weights, x @ x.T, scaled)
    errors = [np.square((made.dequantise() - weights).reshape(8, -1) @ x).mean() for made in (scaled, result)]
    assert errors[1] < 0.7 * errors[0]


def test_least_squares_weights_are_those_of_a_ridge_regression():
    rng = np.random.default_rng(3)
    weights, x = rng.standard_normal((4, 7)), inputs_of(7)
    quantised = x + 0.3 * rng.standard_normal(x.shape)
    moments, cross = quantised @ quantised.T, (x - quantised) @ quantised.T
    penalty = np.sqrt(DAMPING * np.diag(moments).mean())
    system = np.concatenate([quantised.T, penalty * np.eye(7)])
    wanted = np.concatenate([(weights @ (x - quantised)).T, np.zeros((7, 4))])
    expected = weights + np.linalg.lstsq(system, wanted, rcond=None)[0].T
    np.testing.assert_allclose(least_squares_weights(weights, moments, cross), expected, rtol=1e-8)
    np.testing.assert_allclose(least_squares_weights(weights, moments, np.zeros((7, 7))), weights)


def test_step_weights_are_what_an_error_does_to_the_image():
    sigmas = np.array([10.0, 0.7])
    moved = []
    for step in range(2):
        def network(x, number, step=step):
            return np.full_like(x, float(number == step))
        none = integrate(lambda x, number: np.zeros_like(x), np.zeros((1, 1, 2, 2)), sigmas)
        change = (integrate(network, np.zeros((1, 1, 2, 2)), sigmas) - none)[0, 0, 0]
        change *= SIGMA_DATA / MODELS["digits32"].pixel_deviation
        if step == 0:       # the last step takes c_skip of it over
            change /= SIGMA_DATA**2 / (SIGMA_DATA**2 + sigmas[1] ** 2)
        moved.append(float(change) ** 2)
    np.testing.assert_allclose(step_weights(sigmas), np.array(moved) / sum(moved), rtol=1e-5)


def test_published_bias_correction_gives_the_first_layers_the_float_means(calibration):
    run = calibration.run
    plain, corrected = (quantise_model(SMALL, Recipe(bias=bias), calibration) for bias in ("none", "mean"))
    share = step_weights(run.sigmas)
    excess = {}
    for name, model in (("plain", plain), ("corrected", corrected)):
        real = dict(model.rest) | {"conv_in.weight": model.weights["conv_in"].dequantise().astype(np.float32)}
        means = []
        for step, tensors in enumerate(run.activations):
            scale = model.scales["x"][step]
            x = (np.clip(np.floor(tensors["x"] / scale + 0.5), -128, 127) * scale).astype(np.float32)
            means.append((convolve(real, NETWORK[0], x) - convolve(SMALL, NETWORK[0], tensors["x"])).mean((1, 2, 3)))
        excess[name] = np.abs(share @ np.array(means)).max()
    assert excess["corrected"] < 0.02 * excess["plain"]
    assert (corrected.rest["e1.emb.bias"][:16] == plain.rest["e1.emb.bias"][:16]).all()     # the factor's half
    assert (corrected.rest["e1.emb.bias"][16:] != plain.rest["e1.emb.bias"][16:]).all()
    assert (corrected.rest["e1.conv0.bias"] == plain.rest["e1.conv0.bias"]).all()


@pytest.mark.parametrize(("better", "share"), [
    ({"feedback": True}, 0.9), ({"bias": "active"}, 0.99), ({"feedback": True, "bias": "active"}, 0.9)])
def test_calibration_by_layers_brings_the_result_closer(better, share):
    """On other images than those of the calibration; with 8-bit activations, so that it is the weights that count."""
    calibration = Calibration.record("digits16", samples=30, steps=STEPS)
    other = Calibration.record("digits16", samples=20, steps=STEPS, seed=77).run
    errors = []
    plain = Recipe(activation_bits=8)
    for recipe in (plain, replace(plain, **better)):
        network = QuantisedNetwork(quantise_model(SMALL, recipe, calibration), other.labels)
        errors.append(sum(weight * np.square(network(tensors["x"].astype(np.float64), step) - tensors["F"]).mean()
                          for step, (tensors, weight)
                          in enumerate(zip(other.activations, step_weights(other.sigmas), strict=True))))
    assert errors[1] < share * errors[0]


def test_step_weights_are_a_share():
    weights = step_weights(sigma_schedule(18, 10.0))
    assert weights.sum() == pytest.approx(1)
    assert (weights > 0).all()
    assert weights[-1] < 1e-4
