"""What trains the models computes what `golden` computes, and the files that it made are there and say how."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from golden.formats import ScaleFormat
from golden.quality import features_of, frechet, psnr, real_digits
from golden.quant.activations import Calibration
from golden.quant.evaluate import FloatNetwork, QuantisedNetwork
from golden.quant.model import QuantisedModel
from golden.quant.recipe import Recipe, quantise_model
from golden.workload.sampler import denoise, initial_noise, integrate, sigma_schedule
from golden.workload.unet import CLASSES, DATA, MODELS, NETWORK, forward, load
from train.__main__ import main

STEPS = 3
SHIPPED = sorted(path.name for end in ("_float", "_int4", "classifier") for path in DATA.glob(f"*{end}.npz"))
DISTILLED = [name for name in SHIPPED if name.endswith("_int4.npz")]


@pytest.fixture(scope="module")
def torch():
    """PyTorch, on one thread; without it a test is skipped and says so."""
    found = pytest.importorskip("torch", reason="needs the extra train")
    found.set_num_threads(1)
    return found


@pytest.fixture(scope="module")
def quantised():
    """A quantised model that is quickly made, with calibration data of few steps."""
    return quantise_model(load("digits16"), Recipe(), Calibration.record("digits16", samples=10, steps=STEPS))


def parameters(torch, name):
    return {key: torch.from_numpy(value.copy()) for key, value in load(name).items()}


@pytest.mark.parametrize(("model", "activation", "size"), [("digits16", "relu", (8, 8)), ("digits16", "silu", (4, 12))])
def test_the_network_is_that_of_golden(torch, model, activation, size):
    from train.network import forward as trained

    rng = np.random.default_rng(size[1])
    x = rng.standard_normal((5, 1, *size)).astype(np.float32)
    labels = np.array([3, 0, 9, 3, 1])
    for sigma in (0.02, 7.0):
        found = trained(parameters(torch, model), torch.from_numpy(x), torch.full((5,), sigma),
                        torch.from_numpy(labels), activation)
        expected = forward(load(model), x.transpose(1, 0, 2, 3), sigma, labels, activation)
        for node in NETWORK:
            ours = found[node.output].numpy().transpose(1, 0, 2, 3)
            np.testing.assert_allclose(ours, expected[node.output], rtol=1e-4, atol=1e-5, err_msg=node.output)


def test_untrained_parameters_have_the_names_and_shapes_of_the_shipped_ones(torch):
    from train.models import MODELS as TRAINED
    from train.network import initial_parameters

    assert TRAINED.keys() == MODELS.keys()
    for name, model in TRAINED.items():
        initial = initial_parameters(model.shape, torch.Generator().manual_seed(0))
        assert {key: tuple(value.shape) for key, value in initial.items()} == {
            key: value.shape for key, value in load(name).items()}


def test_the_loss_is_edms_weighted_error_of_the_denoiser(torch):
    """lambda(sigma) |D(y + n; sigma) - y|^2 with lambda = (sigma^2 + 0.5^2) / (0.5 sigma)^2, arXiv 2206.00364."""
    from train.edm import loss_of

    rng = np.random.default_rng(8)
    images, noise = rng.standard_normal((2, 4, 1, 8, 8)).astype(np.float32)
    labels, sigma = np.array([1, 5, 5, 0]), np.full(4, 0.7, np.float32)
    found = loss_of(parameters(torch, "digits16"), *map(torch.from_numpy, (images, labels, sigma, noise)), "relu")
    x = (images + 0.7 * noise).transpose(1, 0, 2, 3)
    error = denoise(load("digits16"), x, 0.7, labels)[0] - images.transpose(1, 0, 2, 3)
    expected = (0.7**2 + 0.5**2) / (0.5 * 0.7) ** 2 * np.square(error).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3)


def test_digits_of_16x16_pixels_are_interpolated_as_scipy_does():
    from train.digits import enlarged

    images = np.random.default_rng(2).uniform(0, 16, (2, 5, 7))
    expected = ndimage.zoom(images, (1, 2, 2), order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(enlarged(images), expected, atol=1e-9)


def test_fake_quantisation_computes_what_golden_computes(torch, quantised):
    """But for values so near to the middle of two integers that float32 sums in another order decide."""
    from train.fake import FakeQuantised

    student = FakeQuantised(quantised, load("digits16"))
    samples = 33
    x, labels = np.random.default_rng(4).standard_normal((1, samples, 8, 8)), np.arange(samples) % CLASSES
    network = QuantisedNetwork(quantised, labels)
    for step in range(STEPS):
        with torch.no_grad():
            found = student.forward(torch.from_numpy(x[0].astype(np.float32))[:, None], torch.full((samples,), step),
                                    torch.from_numpy(labels))["F"][:, 0].numpy()
        off = np.abs(found - network(x, step)[0]) / quantised.scales["F"][step]
        assert (off > 0.5).mean() < 0.02, f"step {step}: {(off > 0.5).mean()} of the pixels differ"
        assert off.max() < 12, f"step {step}"


def test_an_untrained_student_exports_the_model_that_it_began_with(torch, quantised):
    from train.fake import FakeQuantised

    found = FakeQuantised(quantised, load("digits16")).export()
    for name, layer in quantised.weights.items():
        np.testing.assert_array_equal(found.weights[name].q, layer.q, err_msg=name)
        np.testing.assert_array_equal(found.weights[name].codes, layer.codes, err_msg=name)
        np.testing.assert_allclose(found.weights[name].channel_scale, layer.channel_scale, rtol=1e-6)
    for name, scale in quantised.scales.items():
        np.testing.assert_allclose(found.scales[name], scale, rtol=1e-6)
    for name, array in quantised.rest.items():
        np.testing.assert_array_equal(found.rest[name], array)


def test_distillation_brings_the_exported_model_nearer_to_the_float_one(torch, quantised):
    from train.distil import Options, Teacher, train_blocks, train_whole
    from train.fake import FakeQuantised

    generator = torch.Generator().manual_seed(0)
    teacher, student = Teacher("digits16", quantised.sigmas), FakeQuantised(quantised, load("digits16"))
    data = teacher.visited(100, 1)
    options = Options(block_iterations=20, iterations=60)
    said: list[str] = []
    train_blocks(student, teacher, data, options, generator, said.append)
    train_whole(student, data, options, generator, said.append)
    labels = np.arange(50) % CLASSES
    noise = initial_noise(50, float(quantised.sigmas[0]), seed=77)

    def drawn(network):
        return integrate(network, noise, quantised.sigmas, info=MODELS["digits16"])

    expected = drawn(FloatNetwork(load("digits16"), quantised.sigmas, labels))
    before, after = (psnr(drawn(QuantisedNetwork(model, labels)), expected).mean()
                     for model in (quantised, student.export()))
    assert after > before + 0.5, (before, after)
    assert sum("block" in line for line in said) == 5 and "iteration 60 of 60" in said[-1]


def test_refinement_lowers_the_error_and_leaves_all_scales(torch, quantised):
    from train.distil import Options, Teacher, refined

    data = Teacher("digits16", quantised.sigmas).visited(200, 1)
    said: list[str] = []
    found = refined(quantised, data, Options(refine_iterations=60, contrast=0), torch.Generator().manual_seed(0),
                    said.append)
    for name, layer in found.weights.items():
        before = quantised.weights[name]
        np.testing.assert_array_equal(layer.codes, before.codes, err_msg=name)
        np.testing.assert_allclose(layer.channel_scale, before.channel_scale, rtol=1e-6, err_msg=name)
        assert (layer.q != before.q).any(), name
    for name, scale in quantised.scales.items():
        np.testing.assert_allclose(found.scales[name], scale, rtol=1e-6, err_msg=name)
    step, labels = 1, np.arange(100) % CLASSES
    x = np.random.default_rng(6).standard_normal((1, 100, 8, 8))
    wanted = FloatNetwork(load("digits16"), quantised.sigmas, labels)(x, step)
    before, after = (np.square(QuantisedNetwork(model, labels)(x, step) - wanted).mean()
                     for model in (quantised, found))
    assert after < 0.8 * before, (before, after)
    assert "iteration 60 of 60" in said[-1]


def test_a_stronger_contrast_moves_denoised_images_from_the_mean_of_their_class(torch):
    """All of the contrast while the noise is strong, nearly nothing of it at the end; other classes do not matter."""
    from train.distil import Visited, stronger

    sigmas, rng = np.array([1e3, 1e-3]), np.random.default_rng(7)
    noisy = rng.standard_normal((12, 1, 2, 2)) * np.hypot(sigmas, 0.5).repeat(6)[:, None, None, None]
    steps, labels = np.arange(2).repeat(6), np.tile([3, 3, 3, 8, 8, 8], 2)
    level = sigmas[steps][:, None, None, None]
    c_skip, c_out = 0.25 / (level**2 + 0.25), 0.5 * level / np.hypot(level, 0.5)
    raw = rng.standard_normal(noisy.shape)
    data = Visited(*map(torch.from_numpy, ((noisy / np.hypot(level, 0.5)).astype(np.float32), steps, labels,
                                           raw.astype(np.float32))))
    before, after = (c_skip * noisy + c_out * made.result.numpy() for made in (data, stronger(data, sigmas, 0.1)))
    for step, share in ((0, 0.1), (1, 0.0002)):
        for label in (3, 8):
            of = (steps == step) & (labels == label)
            away = before[of] - before[of].mean(axis=0)
            np.testing.assert_allclose(after[of] - before[of], share * away, rtol=1e-2, atol=1e-5)


def test_errors_weigh_as_far_as_they_move_the_image_in_their_step(torch):
    """With F = 0 the step that follows takes c_skip of the image, 0.5^2 / (sigma^2 + 0.5^2)."""
    from train.distil import step_weights

    sigmas = np.array([3.0, 0.7])

    def end(wrong):
        return integrate(lambda x, step: np.full_like(x, step == wrong), np.zeros((1, 1, 2, 2)), sigmas)[0, 0, 0]

    first, last = step_weights(sigmas)
    assert first + last == pytest.approx(2)
    moved = np.array([end(0), end(1)]) - end(None)
    assert moved[0] / moved[1] == pytest.approx(0.25 / (0.7**2 + 0.25) * first / last, rel=1e-4)


def test_lasting_weights_are_what_an_error_changes_of_the_finished_image(torch):
    """F = 0 is the denoiser of Gaussian data; many steps, so that Euler's own error is small."""
    from train.distil import lasting_weights

    sigmas = sigma_schedule(400, 10.0)

    def end(wrong):
        return integrate(lambda x, step: np.full_like(x, step == wrong), np.zeros((1, 1, 2, 2)), sigmas)[0, 0, 0]

    steps = np.arange(20, 380, 60)
    moved = np.array([end(step) for step in steps]) - end(None)
    weights = lasting_weights(sigmas)
    assert weights.mean() == pytest.approx(1)
    np.testing.assert_allclose(moved / moved.sum(), weights[steps] / weights[steps].sum(), rtol=0.03)


def test_training_writes_a_model_and_the_same_again(torch, tmp_path, capsys):
    first, second = tmp_path / "a", tmp_path / "b"
    for out in (first, second):
        out.mkdir()
        assert main(["float", "digits16", "--iterations", "3", "--seed", "5", "--out", str(out)]) == 0
    assert "iteration 3 of 3" in capsys.readouterr().out
    with np.load(first / "digits16_float.npz") as a, np.load(second / "digits16_float.npz") as b:
        meta = json.loads(str(a["meta"]))
        assert meta["command"] == "python -m train float digits16 --seed 5 --iterations 3"
        for name in load("digits16"):
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_scale_windows_with_gaps_are_refused(torch, quantised):
    from train.fake import FakeQuantised

    wide = replace(quantised.weights["down"], scale_format=ScaleFormat(exp_bits=4, man_bits=3))
    with pytest.raises(ValueError, match="layer 'down': only scale windows of whole numbers without gaps"):
        FakeQuantised(replace(quantised, weights=dict(quantised.weights) | {"down": wide}), load("digits16"))


@pytest.mark.parametrize(("arguments", "message"), [
    (["float", "digits99"], "there are no models digits99, only digits32"),
    (["distil", "digits32_silu"], "digits32_silu: 4-bit models have ReLU"),
    (["classifier", "digits32"], "classifier takes no models"),
    (["float", "--iterations", "0"], "--iterations must be at least 1, not 0")])
def test_the_command_line_refuses(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_the_classifier_is_that_of_golden(torch):
    from train.classifier import classes, features

    images = real_digits()[0][:7]
    with np.load(DATA / "classifier.npz") as archive:
        arrays = {name: archive[name].astype(np.float32) for name in archive.files if name.endswith(("weight", "bias"))}
    weights = {name: torch.from_numpy(value) for name, value in arrays.items()}
    found = features(weights, torch.from_numpy(images).float()[:, None])
    np.testing.assert_allclose(found.numpy(), features_of(arrays, images), rtol=1e-4, atol=1e-4)
    assert classes(weights, found).shape == (7, CLASSES)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_small_and_say_the_command_that_made_them(name):
    path = DATA / name
    assert path.stat().st_size < 1_000_000
    with np.load(path, allow_pickle=False) as archive:
        meta = json.loads(str(archive["meta"]))
    what = "classifier" if name == "classifier.npz" else f"{'distil' if name in DISTILLED else 'float'} {meta['model']}"
    assert meta["command"].startswith(f"python -m train {what} --seed ")
    assert name == "classifier.npz" or name.rpartition("_")[0] == meta["model"]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_shipped_float_models_draw_digits(name):
    """200 samples: the distance has a large bias with so few, noise has 28."""
    info, sigmas, labels = MODELS[name], sigma_schedule(8, 10.0), np.arange(200)
    network = FloatNetwork(load(name), sigmas, labels % CLASSES, info.activation)
    drawn = integrate(network, initial_noise(len(labels), 10.0, 3, info.image_size), sigmas, info=info)
    assert frechet(drawn) < 3


@pytest.mark.parametrize("name", DISTILLED)
def test_shipped_distilled_models_load_and_are_near_the_float_ones(name):
    model = QuantisedModel.load(DATA / name)
    labels = np.arange(50) % CLASSES
    noise = initial_noise(50, float(model.sigmas[0]), seed=31)
    float_network = FloatNetwork(load(model.model), model.sigmas, labels)
    expected, found = (integrate(network, noise, model.sigmas, info=MODELS[model.model])
                       for network in (float_network, QuantisedNetwork(model, labels)))
    assert psnr(found, expected).mean() > 31
