"""Recipes give the formats and scales that they say; the table measures them."""

import json
import math

import numpy as np
import pytest

from golden.formats import S4, S8, U4, U8, ScaleFormat
from golden.quant.__main__ import BEGIN, END, main
from golden.quant.activations import Calibration, activation_formats, activation_scale, activation_scales
from golden.quant.cases import Case, cases
from golden.quant.model import QuantisedModel
from golden.quant.mx import encode
from golden.quant.recipe import FIRST_AND_LAST, SKIPS, Recipe, WeightRule, quantise_model
from golden.quant.sizes import activation_bytes, float_bytes, mxint8_bytes, weight_bytes
from golden.quant.table import Bench
from golden.quant.weights import quantise_per_channel, quantise_per_tensor
from golden.workload.unet import CLASSES, MODELS, NETWORK, load

SMALL = load("digits16")


@pytest.fixture(scope="module")
def calibration():
    return Calibration.record("digits16", samples=10, steps=3)


@pytest.mark.parametrize(("rule", "scales"), [
    (WeightRule(S4, "tensor"), 1), (WeightRule(S8, "channel"), 16), (WeightRule(S4, "fp8", group=16), 16),
    (WeightRule(S4, "fp8", group=4), 64), (WeightRule(S4, "power_of_two", group=1), 256),
    (WeightRule(S8, "mxint8"), 32)])
def test_rules_give_as_many_scales_as_they_say(rule, scales):
    weights = np.random.default_rng(0).standard_normal((16, 16, 3, 3))
    made = rule.apply(weights)
    assert made.fmt == rule.fmt
    steps = made.steps()[:, ::rule.group if rule.granularity == "group" else 16]
    assert steps.size == max(scales, 16)
    if rule.scales == "tensor":
        assert len(np.unique(steps)) == 1
    if rule.scales in ("power_of_two", "mxint8"):
        ratios = np.log2(steps / steps[:, :1])
        np.testing.assert_array_equal(ratios, np.rint(ratios))
    assert np.abs(made.dequantise() - weights).mean() < np.abs(weights).mean() / (5 if rule.fmt == S4 else 80)


@pytest.mark.parametrize("make", [quantise_per_channel, quantise_per_tensor])
@pytest.mark.parametrize("fmt", [S4, S8])
def test_real_scales_of_least_error_are_never_worse_and_cannot_be_bettered_by_little(make, fmt):
    weights = np.random.default_rng(1).laplace(size=(5, 7, 3, 3))
    plain, best = (make(weights, 2, ScaleFormat(), fmt=fmt, method=method) for method in ("minmax", "mse"))
    assert np.abs(plain.dequantise() - weights).max() <= plain.channel_scale.max() * (0.5 + 1e-9)
    errors = [np.square(made.dequantise() - weights).reshape(5, -1).sum(axis=1) for made in (plain, best)]
    if make is quantise_per_tensor:
        errors = [error.sum(keepdims=True) for error in errors]
        assert len(np.unique(best.channel_scale)) == 1
    assert (errors[1] <= errors[0] * (1 + 1e-9)).all()
    if fmt == S4:
        assert errors[1].sum() < 0.95 * errors[0].sum()


def test_temporal_scales_differ_and_pooled_ones_do_not(calibration):
    formats = activation_formats(4, "relu")
    assert {name: fmt for name, fmt in formats.items() if fmt != U4} == dict.fromkeys(("x", "F", *SKIPS), S8)
    temporal, pooled = (activation_scales(calibration.run.activations, formats, temporal=temporal)
                        for temporal in (True, False))
    assert len(set(temporal["u1.hidden"])) == 3
    assert all(len(set(scale)) == 1 for scale in pooled.values())
    for scales in (temporal, pooled):
        np.testing.assert_array_equal(scales["m"], scales["d3"])
        np.testing.assert_array_equal(scales["v"], scales["h1"])
    for name, scale in activation_scales(calibration.run.activations, formats, power_of_two=True).items():
        assert (np.log2(scale) % 1 == 0).all()
        assert (np.abs(np.log2(scale / temporal[name])) <= 1).all()


def test_a_power_of_two_scale_is_the_best_there_is():
    values = np.maximum(np.random.default_rng(2).laplace(size=3000), 0).astype(np.float32)
    errors = {power: np.square(np.clip(np.floor(values / 2.0**power + 0.5), 0, 15) * 2.0**power - values).sum()
              for power in range(-6, 3)}
    assert activation_scale(values, U4, power_of_two=True) == 2.0 ** min(errors, key=errors.__getitem__)


def test_formats_after_silu_are_signed():
    assert activation_formats(4, "silu")["h1"] == S4
    assert activation_formats(8, "relu", 4) | {} == dict.fromkeys(activation_formats(8, "relu"), U8) | dict.fromkeys(
        ("x", "F", *SKIPS), S4)


def test_mxint8_embedding_is_the_published_format(calibration):
    rest = quantise_model(SMALL, Recipe(mxint8_embedding=True), calibration).rest
    for name in ("map1.weight", "u1.emb.weight"):
        np.testing.assert_array_equal(rest[name], encode(SMALL[name]).decode().astype(np.float32))
    np.testing.assert_array_equal(rest["map_label.weight"],
                                  encode(np.pad(SMALL["map_label.weight"], ((0, 0), (0, 22)))).decode()[:, :10])
    np.testing.assert_array_equal(rest["map1.bias"], SMALL["map1.bias"])


def test_sensitive_layers_have_their_own_rule(calibration):
    model = quantise_model(SMALL, Recipe(sensitive_layers=(*FIRST_AND_LAST, *SKIPS)), calibration)
    assert {name for name, weights in model.weights.items() if weights.fmt == S8} == {
        "conv_in", "conv_out", "u3.skip", "u1.skip"}


def test_sizes_count_integers_and_codes(calibration):
    model = quantise_model(SMALL, Recipe(), calibration)
    bits = 0
    for node in NETWORK:
        outputs, inputs, size, _ = SMALL[f"{node.name}.weight"].shape
        eight = node.name in ("conv_in", "conv_out")
        bits += outputs * inputs * size * size * (8 if eight else 4) + (0 if eight else outputs * inputs // 8 * 4)
    assert weight_bytes(model) == bits / 8
    # By hand, 16 channels of 64 and 32 of 16 pixels: six u4 maps of each, u of 32 upsampled; x, F and the skips s8.
    maps = (6 * 16 * 64 + 6 * 32 * 16 + 32 * 64) / 2 + 64 + 64 + 32 * 16 + 16 * 64
    found = activation_bytes(model.formats, {name: len(made.q) for name, made in model.weights.items()}, 8)
    assert found == maps
    values = 6 * 16 * 64 + 6 * 32 * 16 + 32 * 64 + 64 + 64 + 32 * 16 + 16 * 64
    count = sum(SMALL[f"{node.name}.weight"].size for node in NETWORK)
    assert float_bytes(SMALL, 8) == (2 * count, 2 * values)
    weights, activations = mxint8_bytes(SMALL, 8)
    assert count < weights < 1.07 * count
    assert values < activations < 1.07 * values + 64


def test_better_formats_draw_closer_images(calibration):
    bench = Bench(samples=20, seeds=[0, 1], calibration=10, steps=4)
    rows = {name: bench.measure(Case("", name, "digits16", how)) for name, how in {
        "float": "float", "mxint8": "mxint8",
        "8": Recipe(weights=WeightRule(S8, "channel"), activation_bits=8), "4": Recipe(),
        "all 4": Recipe(sensitive=WeightRule(S4), signed_bits=4)}.items()}
    quality = [rows[name].psnr for name in ("mxint8", "8", "4", "all 4")]
    assert quality == sorted(quality, reverse=True)
    assert quality[1] > quality[2] + 5 > quality[3] + 7
    assert rows["float"].psnr is None
    assert all(math.isfinite(row.distance) and len(row.distances) == 2 for row in rows.values())
    sizes = [rows[name].weight_bytes for name in ("float", "mxint8", "8", "4", "all 4")]
    assert sizes == sorted(sizes, reverse=True)


def test_the_command_writes_the_table_into_a_document(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("golden.quant.__main__.cases", lambda: iter(
        [Case("A", "float", "digits16", "float"), Case("A", "four", "digits16", Recipe()),
         Case("A", "no", "x", "float")]))
    document = tmp_path / "doc.md"
    document.write_text(f"before\n{BEGIN}\nstale row\n{END}\nafter\n")
    arguments = ["table", "--samples", "10", "--seeds", "1", "--calibration", "10", "--only", "float", "four",
                 "--out", str(tmp_path / "out")]
    assert main([*arguments, "--docs", str(document)]) == 0
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "stale row" not in text
    assert "| four |" in text and "10 images for each of 1 seeds" in text
    report = json.loads((tmp_path / "out" / "quantisation.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["float", "four"]
    assert 15 < report["rows"][1]["psnr"] < 45
    document.write_text("no markers")
    assert main([*arguments, "--docs", str(document)]) == 2
    assert main(["table", "--only", "absent"]) == 2
    assert "no row has one of ['absent']" in capsys.readouterr().err


def test_the_command_writes_models(tmp_path):
    path = tmp_path / "model.npz"
    assert main(["make", "--model", "digits16", "--out", str(path), "--group", "4", "--calibration", "10"]) == 0
    model = QuantisedModel.load(path)
    assert model.weights["down"].group == 4
    assert model.model == "digits16"


def test_cases_have_different_names_and_models_that_exist():
    found = list(cases())
    assert len({case.name for case in found}) == len(found)
    assert {case.model for case in found} <= set(MODELS)
    assert CLASSES == 10


@pytest.mark.parametrize(("call", "message"), [
    (lambda: WeightRule(S4, "mxint8"), "mxint8 has s8 elements, not s4"),
    (lambda: WeightRule(S4, "row"), "scales='row' is not legal: it must be one of tensor, channel"),
    (lambda: Recipe(activation_bits=5), "activation_bits must be 4 or 8, not 5"),
    (lambda: Recipe(sensitive_layers=("conv_mid",)), "there are no layers conv_mid"),
    (lambda: quantise_per_tensor(np.ones((1, 1, 1, 1)), 1, ScaleFormat(), method="x"), "'minmax' or 'mse', not 'x'"),
])
def test_illegal_options_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
