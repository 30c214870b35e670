"""Training of the classifier whose features the quality measures use; `golden.quality` has its forward pass."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from golden.quality import CONVOLUTIONS, DENSE, FEATURES, INK, features_of, statistics
from golden.workload.unet import CLASSES

from . import files
from .digits import SIZE, TRAINING_IMAGES, load_digits
from .network import Parameters

CHANNELS = (1, 32, 64, 64)
EPOCHS = 40
BATCH = 64
LEARNING_RATE = 1e-3
DROPOUT = 0.3                  # of the features, while training
NOISE = 1.0                    # deviation of what is added to the ink of training images


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained classifier: parameters rounded to float16, and its accuracy on the validation images."""

    parameters: Parameters
    accuracy: float
    seconds: float


def train(seed: int, say: Callable[[str], None], epochs: int = EPOCHS) -> Classifier:
    """Train from random weights on the training images; the last epoch's parameters are kept.

    Parameters
    ----------
    seed : int
        Of initial weights, batches, noise and dropout.
    say : callable
        Takes a line of progress, after every fifth epoch.
    epochs : int
    """
    started = time.perf_counter()
    digits = load_digits()
    images, labels = torch.from_numpy(digits.images).float()[:, None], torch.from_numpy(digits.labels)
    generator = torch.Generator().manual_seed(seed)
    parameters = _initial(generator)
    optimiser = torch.optim.Adam([value.requires_grad_() for value in parameters.values()], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for epoch in range(1, epochs + 1):
        total = 0.0
        for chosen in torch.randperm(TRAINING_IMAGES, generator=generator).split(BATCH):
            noisy = images[chosen] + NOISE * torch.randn(images[chosen].shape, generator=generator)
            kept = torch.rand(len(chosen), FEATURES, generator=generator) >= DROPOUT
            outputs = classes(parameters, features(parameters, noisy) * kept / (1 - DROPOUT))
            loss = functional.cross_entropy(outputs, labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(chosen)
        schedule.step()
        if epoch % 5 == 0 or epoch == epochs:
            say(f"classifier: epoch {epoch} of {epochs}, training loss {total / TRAINING_IMAGES:.4f}, "
                f"{time.perf_counter() - started:.0f} s")
    rounded = _normalised(parameters, images)
    found = classes(rounded, features(rounded, images[TRAINING_IMAGES:])).argmax(dim=1)
    accuracy = (found == labels[TRAINING_IMAGES:]).float().mean().item()
    return Classifier(rounded, accuracy, time.perf_counter() - started)


def features(parameters: Parameters, images: Tensor) -> Tensor:
    """Features [N, 64] of images [N, 1, 8, 8]; as `golden.quality.features_of`."""
    x = images.clamp(0, INK) / INK
    for node in CONVOLUTIONS:
        x = functional.relu(_convolve(parameters, node.name, x, node.stride, 1))
    return functional.relu(_convolve(parameters, "features", x.reshape(len(x), -1, 1, 1))).flatten(1)


def classes(parameters: Parameters, found: Tensor) -> Tensor:
    """Unnormalised log probabilities [N, 10] from features [N, 64]."""
    return _convolve(parameters, "classes", found[:, :, None, None]).flatten(1)


def to_npz(classifier: Classifier, meta: dict[str, Any]) -> bytes:
    """The file that `golden.quality` reads: weights, all digits with their classes, mean and covariance of features."""
    digits = load_digits()
    weights = {name: value.numpy() for name, value in classifier.parameters.items()}
    known = statistics(features_of(weights, digits.images))
    return files.to_npz(classifier.parameters, meta, real_images=digits.images.astype(np.uint8),
                        real_labels=digits.labels.astype(np.uint8), real_mean=known.mean,
                        real_covariance=known.covariance)


@torch.no_grad()
def _normalised(parameters: Parameters, images: Tensor) -> Parameters:
    """Parameters in float16 of the same classifier, features scaled in common so that their mean variance is 1.

    Distances have a unit so: all features off by one standard deviation are a Frechet distance of 64.
    """
    scale = features(parameters, images).var(dim=0).mean() ** -0.5
    found = dict(parameters)
    for name in "features.weight", "features.bias":
        found[name] = scale * found[name]
    found["classes.weight"] = found["classes.weight"] / scale
    return files.rounded(found)


def _convolve(parameters: Parameters, name: str, x: Tensor, stride: int = 1, border: int = 0) -> Tensor:
    return functional.conv2d(x, parameters[f"{name}.weight"], parameters[f"{name}.bias"], stride, border)


def _initial(generator: torch.Generator) -> Parameters:
    """He's initialisation; biases 0."""
    pixels = (SIZE // 2) ** 2
    shapes = {node.name: (outputs, inputs, 3, 3)
              for node, inputs, outputs in zip(CONVOLUTIONS, CHANNELS, CHANNELS[1:], strict=False)}
    shapes |= {DENSE[0].name: (FEATURES, CHANNELS[-1] * pixels, 1, 1), DENSE[1].name: (CLASSES, FEATURES, 1, 1)}
    found: Parameters = {}
    for name, shape in shapes.items():
        found[f"{name}.weight"] = torch.randn(shape, generator=generator) * (2 / np.prod(shape[1:])) ** 0.5
        found[f"{name}.bias"] = torch.zeros(shape[0])
    return found
