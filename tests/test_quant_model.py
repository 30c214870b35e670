"""Quantised models are saved and loaded to the last bit, and refused with a message that names the tensor."""

from dataclasses import replace

import numpy as np
import pytest

from golden.formats import S8, U4, ScaleFormat
from golden.quant.model import TENSORS, QuantisedModel
from golden.quant.weights import quantise, quantise_per_channel
from golden.workload.unet import NETWORK, load

STEPS = 3
SHARED = {"d3": "m", "h1": "v"}     # tensors that are concatenated have one scale


def made(seed=0):
    """A model of all layers with random scales; its numbers mean nothing."""
    rng = np.random.default_rng(seed)
    float_model = load("digits16")
    weights = {}
    for number, node in enumerate(NETWORK):
        values = float_model[f"{node.name}.weight"]
        weights[node.name] = (quantise_per_channel(values, 3, ScaleFormat(2, 1)) if number % 5 == 0
                              else quantise(values, number + 1, ScaleFormat(4, 3)))
    rest = {name: array for name, array in float_model.items() if name.removesuffix(".weight") not in weights}
    scales = {name: rng.lognormal(0, 3, STEPS) for name in TENSORS}
    scales |= {name: scales[other] for name, other in SHARED.items()}
    return QuantisedModel("digits16", np.array([10.0, 1.0, 0.002]), weights, rest,
                          {name: S8 if name in ("x", "F") else U4 for name in TENSORS}, scales)


def test_a_loaded_model_is_the_saved_one_to_the_last_bit(tmp_path):
    model = made(seed=1)
    model.save(tmp_path / "model.npz")
    loaded = QuantisedModel.load(tmp_path / "model.npz")
    assert loaded.model == model.model
    assert loaded.steps == STEPS
    assert dict(loaded.formats) == dict(model.formats)
    np.testing.assert_array_equal(loaded.sigmas, model.sigmas)
    for name, quantised in model.weights.items():
        other = loaded.weights[name]
        assert (other.group, other.fmt, other.scale_format) == (quantised.group, quantised.fmt, quantised.scale_format)
        for field in ("q", "codes", "channel_scale"):
            np.testing.assert_array_equal(getattr(other, field), getattr(quantised, field))
            assert getattr(other, field).dtype == getattr(quantised, field).dtype
    for mapping in ("rest", "scales"):
        ours, theirs = getattr(model, mapping), getattr(loaded, mapping)
        assert set(ours) == set(theirs)
        for name, array in ours.items():
            np.testing.assert_array_equal(theirs[name], array)
            assert theirs[name].dtype == array.dtype


def test_files_are_small_and_repeatable(tmp_path):
    for name in ("a.npz", "b.npz"):
        made().save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert (tmp_path / "a.npz").stat().st_size < 300_000


def test_models_cannot_be_changed():
    model = made()
    for array in (model.sigmas, model.scales["u"], model.rest["down.bias"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize(("field", "change", "message"), [
    ("model", "", "name of the float model"),
    ("sigmas", np.array([1.0, 1.0, 0.5]), "falling positive"),
    ("scales", {"u": np.ones(2)}, r"tensor 'u': scales must be 3 positive numbers"),
    ("scales", {"up": np.ones(3)}, "scale of tensor: unknown 'up'"),
    ("scales", {"e1.hidden": np.array([1, 0, 1.0])}, "tensor 'e1.hidden': scales must be 3 positive"),
    ("scales", {"m": np.ones(3)}, "'m' and 'd3' are concatenated and must"),
    ("formats", {"u": "u4"}, "tensor 'u': the format must be one of u4, s4, u8, s8"),
    ("rest", {"down.weight": np.ones(3)}, "'down.weight' belongs to the quantised weights"),
    ("rest", {"down.bias": np.ones(3)}, r"'down.bias' must have 32 entries.*\(3,\)"),
    ("rest", {"mid.emb.bias": np.full(64, np.nan)}, "'mid.emb.bias' must be finite"),
    ("weights", {"down": quantise(np.ones((32, 8, 3, 3)), 1, ScaleFormat())}, "layer 'down' reads 16 channels.*have 8"),
])
def test_illegal_models_are_refused_by_name(field, change, message):
    model = made()
    value = getattr(model, field) | change if isinstance(change, dict) else change
    with pytest.raises(ValueError, match=message):
        replace(model, **{field: value})


@pytest.mark.parametrize(("field", "name", "message"), [
    ("scales", "F", "scale of tensor: missing 'F'"), ("formats", "x", "format of tensor: missing 'x'"),
    ("weights", "up", "layer: missing 'up'"), ("rest", "u1.emb.weight", "'u1.emb.weight' is missing in the rest")])
def test_missing_parts_are_named(field, name, message):
    model = made()
    rest = {other: value for other, value in getattr(model, field).items() if other != name}
    with pytest.raises(ValueError, match=message):
        replace(model, **{field: rest})


def test_files_that_are_no_models_are_named(tmp_path):
    path = tmp_path / "model.npz"
    path.write_bytes(b"not an archive")
    with pytest.raises(ValueError, match=r"model\.npz: not a quantised model"):
        QuantisedModel.load(path)
    np.savez(path, sigmas=np.ones(1))
    with pytest.raises(ValueError, match="'meta' is missing"):
        QuantisedModel.load(path)
    with pytest.raises(OSError, match="absent"):
        QuantisedModel.load(tmp_path / "absent.npz")
