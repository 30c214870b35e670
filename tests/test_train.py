"""Training in PyTorch agrees with golden's NumPy, is reproducible, and ends on the hardware's grid."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from golden.formats import ScaleFormat
from golden.quality import features_of, psnr
from golden.quant.activations import Calibration
from golden.quant.evaluate import FloatNetwork, QuantisedNetwork
from golden.quant.model import QuantisedModel
from golden.quant.recipe import Recipe, quantise_model
from golden.workload import unet
from golden.workload.sampler import denoise, initial_noise, integrate

MISSING = [name for name in ("torch", "sklearn") if importlib.util.find_spec(name) is None]
needs_torch = pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} not installed; the extra `train` has them")
SIGMAS = (10.0, 0.4, 0.002)
LABELS = np.array([3, 0, 9, 3, 7])


@pytest.fixture(scope="module")
def quantised() -> QuantisedModel:
    return quantise_model(unet.load("digits16"), Recipe(), Calibration.record("digits16", samples=10))


def parameters(activation="relu", seed=0):
    """Parameters of a small network in which nothing is zero, for PyTorch and for golden."""
    import torch

    from train.models import Shape
    from train.network import initial_parameters

    generator = torch.Generator().manual_seed(seed)
    found = initial_parameters(Shape(4, activation), generator)
    for name, value in found.items():
        if name != "freqs":
            value += 0.1 * torch.randn(value.shape, generator=generator)
    return found, {name: value.numpy() for name, value in found.items()}


@needs_torch
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_the_network_is_goldens(activation) -> None:
    import torch

    from train.network import forward

    ours, theirs = parameters(activation)
    x = np.random.default_rng(1).standard_normal((1, LABELS.size, 8, 8)).astype(np.float32)
    for sigma in SIGMAS:
        expected = unet.forward(theirs, x, sigma, LABELS, activation)
        found = forward(ours, torch.from_numpy(x[0])[:, None], torch.full((LABELS.size,), sigma),
                        torch.from_numpy(LABELS), activation)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert np.abs(values).max() > 0.01, name
            np.testing.assert_allclose(found[name].numpy().transpose(1, 0, 2, 3), values, atol=1e-4, err_msg=name)


@needs_torch
def test_the_loss_is_the_weighted_error_of_the_denoiser() -> None:
    import torch

    from train.edm import loss_of

    ours, theirs = parameters()
    rng = np.random.default_rng(2)
    image, noise = rng.standard_normal((2, 1, 1, 8, 8)).astype(np.float32)
    for sigma in SIGMAS:
        denoised, _ = denoise(theirs, (image + sigma * noise).astype(np.float64), sigma, LABELS[:1])
        weighted = (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2 * np.square(denoised - image).mean()
        found = loss_of(ours, torch.from_numpy(image), torch.from_numpy(LABELS[:1]), torch.tensor([sigma]),
                        torch.from_numpy(noise), "relu")
        np.testing.assert_allclose(found.numpy(), [weighted], rtol=2e-3)


@needs_torch
def test_the_classifiers_features_are_goldens() -> None:
    import torch

    from train.classifier import _initial, features

    found = _initial(torch.Generator().manual_seed(3))
    images = np.random.default_rng(3).normal(8, 8, (3, 8, 8))       # with values that are clipped
    expected = features_of({name: value.numpy() for name, value in found.items()}, images)
    assert expected.shape == (3, 64) and expected.max() > 0.1
    np.testing.assert_allclose(features(found, torch.from_numpy(images).float()[:, None]).numpy(), expected, atol=1e-4)


@needs_torch
def test_training_depends_on_the_seed_alone_and_learns() -> None:
    import torch

    from train.edm import train
    from train.models import Model, Shape

    torch.set_num_threads(1)
    model = Model("tiny", Shape(4))
    first, again, other = (train(model, seed, lambda line: None, iterations=4) for seed in (1, 1, 2))
    for name, value in first.parameters.items():
        assert torch.equal(value, again.parameters[name]), name
        assert name == "freqs" or not torch.equal(value, other.parameters[name]), name
        assert torch.equal(value, value.half().float())
    assert train(model, 1, lambda line: None, iterations=60).validation_loss < 0.95 * first.validation_loss


@needs_torch
def test_digits_are_enlarged_by_linear_interpolation() -> None:
    from train.digits import enlarged

    images = np.random.default_rng(4).uniform(0, 16, (2, 3, 3))
    found = enlarged(images)
    assert found.shape == (2, 6, 6)
    np.testing.assert_allclose(found[0, 0, 0], images[0, 0, 0])
    near, side, below, far = images[1, 1, 1], images[1, 1, 2], images[1, 2, 1], images[1, 2, 2]
    np.testing.assert_allclose(found[1, 3, 3], (9 * near + 3 * side + 3 * below + far) / 16)
    np.testing.assert_allclose(enlarged(np.full((1, 3, 3), 7.0)), 7.0)


@needs_torch
def test_what_is_distilled_is_what_is_exported(quantised) -> None:
    """The trained network in PyTorch, and golden's evaluation of the exported model, before and after training."""
    import torch

    from train.distil import Options, Teacher, train_blocks, train_whole
    from train.fake import FakeQuantised

    student = FakeQuantised(quantised, unet.load("digits16"))
    same = student.export()
    for name, made in quantised.weights.items():
        np.testing.assert_array_equal(same.weights[name].q, made.q)
        np.testing.assert_array_equal(same.weights[name].codes, made.codes)
    teacher, generator = Teacher("digits16", quantised.sigmas), torch.Generator().manual_seed(0)
    data = teacher.visited(10, 0)
    options = Options(block_iterations=8, iterations=12, batch=16)

    def error() -> float:
        with torch.no_grad():
            return float((student.forward(data.x, data.steps, data.labels)["F"] - data.result).square().mean())

    before = error()
    train_blocks(student, teacher, data, options, generator, lambda line: None)
    train_whole(student, data, options, generator, lambda line: None)
    assert error() < 0.8 * before
    model = student.export()
    assert any((model.weights[name].q != made.q).any() for name, made in quantised.weights.items())
    x = np.random.default_rng(5).standard_normal((1, LABELS.size, 8, 8)).astype(np.float32)
    for step in (0, 9, 17):
        expected = QuantisedNetwork(model, LABELS)(x, step)[0]
        with torch.no_grad():
            found = student.forward(torch.from_numpy(x[0])[:, None], torch.full((LABELS.size,), step),
                                    torch.from_numpy(LABELS))["F"][:, 0].numpy()
        # The order of sums may differ and so tip a rounding, which later layers carry on: hardly any value may.
        assert (np.abs(found - expected) > 0.5 * model.scales["F"][step]).mean() < 0.02


@needs_torch
def test_scale_windows_with_gaps_are_refused(quantised) -> None:
    from train.fake import FakeQuantised

    made = quantised.weights["down"]
    wide = replace(quantised, weights=dict(quantised.weights) | {
        "down": replace(made, scale_format=ScaleFormat(exp_bits=4, man_bits=3))})
    with pytest.raises(ValueError, match="layer 'down': only scale windows of whole numbers without gaps"):
        FakeQuantised(wide, unet.load("digits16"))


@pytest.mark.parametrize(("arguments", "message"), [
    (["float", "digits99"], "there are no models digits99, only digits32"),
    (["distil", "digits32_silu"], "digits32_silu: 4-bit models have ReLU"),
    (["classifier", "digits32"], "classifier takes no models"),
    (["float", "--iterations", "0"], "--iterations must be at least 1, not 0")])
def test_the_command_line_refuses(arguments, message, capsys) -> None:
    from train.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(unet.DATA.glob("*_int4.npz")), ids=lambda path: path.stem)
def test_shipped_models_obey_the_hardware_and_follow_the_float_network(path) -> None:
    model = QuantisedModel.load(path)
    info = unet.MODELS[model.model]
    for node in unet.NETWORK:
        assert model.weights[node.name].fmt.bits == node.weight_bits, node.name
        assert model.formats[node.output] == node.fmt, node.name
    labels = np.arange(10)
    noise = initial_noise(labels.size, float(model.sigmas[0]), 5, info.image_size)
    images, reference = (integrate(network, noise, model.sigmas, info=info) for network in (
        QuantisedNetwork(model, labels), FloatNetwork(unet.load(model.model), model.sigmas, labels)))
    assert psnr(images, reference).mean() > 32
