"""Training of a float model: EDM's loss (Karras et al. 2022, arXiv 2206.00364), averaged weights, early choice."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from golden.workload.sampler import SIGMA_DATA

from .digits import TRAINING_IMAGES, load_digits
from .files import rounded
from .models import Model
from .network import Parameters, forward, initial_parameters

BATCH = 128
LEARNING_RATE = 2e-3
WARM_UP = 100                       # iterations
MEAN_LOG_SIGMA, DEVIATION_LOG_SIGMA = -1.2, 1.2   # of the noise levels trained with: table 1 of EDM
AVERAGE = 0.995                     # of the averaged weights, per iteration
VALIDATE_EVERY = 100                # iterations
VALIDATION_SEED = 12345
VALIDATION_REPEATS = 4              # noises per validation image
CLIP = 1.0                          # longest gradient


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model.

    Parameters
    ----------
    parameters : dict
        The averaged ones with the lowest validation loss, rounded to float16.
    pixel_mean, pixel_deviation : float
        Of the training images, in ink units.
    iteration : int
        After which the parameters were kept.
    validation_loss : float
    seconds : float
        How long training took.
    """

    parameters: Parameters
    pixel_mean: float
    pixel_deviation: float
    iteration: int
    validation_loss: float
    seconds: float


def noise_levels(count: int, generator: torch.Generator) -> Tensor:
    """Random noise levels [count], log-normal."""
    return torch.exp(MEAN_LOG_SIGMA + DEVIATION_LOG_SIGMA * torch.randn(count, generator=generator))


def loss_of(parameters: Parameters, images: Tensor, labels: Tensor, sigma: Tensor, noise: Tensor,
            activation: str) -> Tensor:
    """EDM's loss of each image, [N]: the error of F, which c_out and lambda(sigma) make weigh 1 (section 5).

    lambda(sigma) |D - y|^2 = |F(c_in x) - (y - c_skip x) / c_out|^2 with x = y + sigma * noise.
    """
    level = sigma[:, None, None, None]
    norm = torch.hypot(level, torch.tensor(SIGMA_DATA))
    x = images + level * noise
    target = (images - (SIGMA_DATA / norm) ** 2 * x) * norm / (level * SIGMA_DATA)
    error = forward(parameters, x / norm, sigma, labels, activation)["F"] - target
    return error.square().mean(dim=(1, 2, 3))


def train(model: Model, seed: int, say: Callable[[str], None], iterations: int | None = None) -> Trained:
    """Train a model from random weights; the same seed gives the same weights on the same machine and PyTorch.

    Parameters
    ----------
    model : Model
    seed : int
        Of initial weights, batches and noise. The split of the data does not depend on it.
    say : callable
        Takes a line of progress, at every validation.
    iterations : int, optional
        By default the model's.
    """
    started = time.perf_counter()
    iterations = model.iterations if iterations is None else iterations
    digits = load_digits(model.image_size)
    mean = round(float(digits.images[:TRAINING_IMAGES].mean()), 3)
    deviation = round(float(digits.images[:TRAINING_IMAGES].std()), 3)
    images = torch.from_numpy(((digits.images - mean) / deviation * SIGMA_DATA).astype(np.float32))[:, None]
    labels = torch.from_numpy(digits.labels)
    validation_loss = _validation(images[TRAINING_IMAGES:], labels[TRAINING_IMAGES:], model.shape.activation)

    generator = torch.Generator().manual_seed(seed)
    parameters = initial_parameters(model.shape, generator)
    trainable = [value.requires_grad_() for name, value in parameters.items() if name != "freqs"]
    average = {name: value.detach().clone() for name, value in parameters.items()}
    optimiser = torch.optim.Adam(trainable, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, iterations))
    kept, kept_at, lowest = rounded(average), 0, float("inf")
    total = 0.0
    for iteration in range(1, iterations + 1):
        chosen = torch.randint(TRAINING_IMAGES, (BATCH,), generator=generator)
        noise = torch.randn(BATCH, *images.shape[1:], generator=generator)
        loss = loss_of(parameters, images[chosen], labels[chosen], noise_levels(BATCH, generator), noise,
                       model.shape.activation).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, CLIP)
        optimiser.step()
        schedule.step()
        total += loss.item()
        decay = min(AVERAGE, iteration / (iteration + 10))  # the first iterations must not linger
        with torch.no_grad():
            for name, value in average.items():
                value.lerp_(parameters[name], 1 - decay)
        if iteration % VALIDATE_EVERY == 0 or iteration == iterations:
            candidate = rounded(average)
            found = validation_loss(candidate)
            if found < lowest:
                kept, kept_at, lowest = candidate, iteration, found
            since = (iteration - 1) % VALIDATE_EVERY + 1
            say(f"{model.name}: iteration {iteration} of {iterations}, training loss {total / since:.4f}, "
                f"validation {found:.4f} (lowest {lowest:.4f} at {kept_at}), {time.perf_counter() - started:.0f} s")
            total = 0.0
    return Trained(kept, mean, deviation, kept_at, lowest, time.perf_counter() - started)


def _rate(step: int, iterations: int) -> float:
    """Share of the learning rate: a linear start, then half a cosine down to 0."""
    return min((step + 1) / WARM_UP, 0.5 + 0.5 * float(np.cos(np.pi * step / iterations)))


def _validation(images: Tensor, labels: Tensor, activation: str) -> Callable[[Parameters], float]:
    """The mean loss over the validation images with noise that is always the same."""
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    images, labels = images.repeat(VALIDATION_REPEATS, 1, 1, 1), labels.repeat(VALIDATION_REPEATS)
    sigma = noise_levels(len(images), generator)
    noise = torch.randn(images.shape, generator=generator)

    @torch.no_grad()
    def loss(parameters: Parameters) -> float:
        return loss_of(parameters, images, labels, sigma, noise, activation).mean().item()

    return loss
