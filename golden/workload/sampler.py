"""EDM preconditioning and its samplers (Karras et al. 2022, arXiv 2206.00364), on any network F."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.workload.unet import (
    CLASSES,
    DEFAULT_MODEL,
    MODELS,
    Activation,
    Activations,
    Float32Array,
    ModelInfo,
    Weights,
    forward,
)

STEPS = 18
SIGMA_MAX = 80.0
SIGMA_MIN = 0.002
RHO = 7.0
SIGMA_DATA = 0.5

Solver = Literal["euler", "heun"]
Images = NDArray[np.float64]
RawNetwork = Callable[[Images, int], Images]    # F of a preconditioned image [1, N, H, W] at a noise level's number


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A sampling run.

    Parameters
    ----------
    images : float32 [N, H, W]
        The samples in pixel units, ink from 0 to 16.
    labels : integers [N]
        Class of each sample.
    sigmas : float64 [steps]
        Noise level of each step.
    activations : list of dict
        Per step, every tensor of the network by name.
    """

    images: Float32Array
    labels: NDArray[np.int64]
    sigmas: NDArray[np.float64]
    activations: list[Activations]


def sigma_schedule(steps: int = STEPS, sigma_max: float = SIGMA_MAX) -> NDArray[np.float64]:
    """Noise levels [steps] from `sigma_max` down to 0.002 (equation 5, rho = 7); the last step goes on to 0.

    Raises
    ------
    ValueError
        If there are fewer than two steps or `sigma_max` is not above 0.002.
    """
    if operator.index(steps) < 2:
        raise ValueError(f"steps must be at least 2, not {steps}")
    if not sigma_max > SIGMA_MIN:
        raise ValueError(f"sigma_max must be above {SIGMA_MIN}, not {sigma_max}")
    return np.linspace(sigma_max ** (1 / RHO), SIGMA_MIN ** (1 / RHO), steps) ** RHO


def denoise(weights: Weights, x: Images, sigma: float, labels: ArrayLike,
            activation: Activation = "relu") -> tuple[Images, Activations]:
    """The denoiser D(x; sigma) = c_skip x + c_out F(c_in x) (table 1), and the tensors of the network F.

    `x` and D are [1, N, H, W] in units where the data has the deviation 0.5. Raises as `forward`.
    """
    activations = forward(weights, _scaled(x, sigma).astype(np.float32), sigma, labels, activation)
    return _denoised(x, activations["F"], sigma), activations


def _scaled(x: Images, sigma: float) -> Images:
    """c_in x."""
    scaled: Images = x / np.hypot(sigma, SIGMA_DATA)
    return scaled


def _denoised(x: Images, raw: NDArray[np.floating], sigma: float) -> Images:
    """c_skip x + c_out F."""
    norm = np.hypot(sigma, SIGMA_DATA)
    denoised: Images = (SIGMA_DATA / norm) ** 2 * x + sigma * SIGMA_DATA / norm * raw
    return denoised


def initial_noise(samples: int, sigma_max: float = SIGMA_MAX, seed: int = 0, image_size: int = 8) -> Images:
    """What sampling begins with, [1, samples, image_size, image_size]."""
    return sigma_max * np.random.default_rng(seed).standard_normal((1, samples, image_size, image_size))


def integrate(network: RawNetwork, x: Images, sigmas: NDArray[np.float64], solver: Solver = "euler",
              info: ModelInfo = MODELS[DEFAULT_MODEL]) -> Float32Array:
    """Solve the probability flow ODE (algorithm 1, deterministic) with any network.

    Parameters
    ----------
    network : callable
        From c_in * image, float64 [1, N, H, W], and the number of the noise level in `sigmas`: F, of the same shape.
        With Heun's correction it is called twice for all noise levels but the first, else once for each.
    x : float64 [1, N, H, W]
        From `initial_noise`.
    sigmas : float64 [steps]
        From `sigma_schedule`.
    solver : str
        "euler", or "heun" with the correction of second order.
    info : ModelInfo
        Of the model, for the images' pixel units.

    Returns
    -------
    float32 [N, H, W]
        Images in pixel units.

    Raises
    ------
    ValueError
        If there is no such solver.
    """
    if solver not in ("euler", "heun"):
        raise ValueError(f"solver={solver!r} is not legal: it must be 'euler' or 'heun'")

    def slope(x: Images, number: int) -> Images:
        sigma = float(sigmas[number])
        found: Images = (x - _denoised(x, network(_scaled(x, sigma), number), sigma)) / sigma
        return found

    for number, (sigma, following) in enumerate(zip(sigmas, [*sigmas[1:], 0.0], strict=True)):
        before = slope(x, number)
        moved = x + (following - sigma) * before
        if solver == "heun" and following > 0:
            moved = x + (following - sigma) * (before + slope(moved, number + 1)) / 2
        x = moved
    return (x[0] / SIGMA_DATA * info.pixel_deviation + info.pixel_mean).astype(np.float32)


def sample(weights: Weights, labels: ArrayLike = tuple(range(CLASSES)), *, steps: int = STEPS,
           sigma_max: float = SIGMA_MAX, seed: int = 0, solver: Solver = "euler",
           info: ModelInfo = MODELS[DEFAULT_MODEL]) -> Trajectory:
    """Draw one digit per label with the float network.

    Parameters
    ----------
    weights : mapping
        From `unet.load`.
    labels : integers [N]
        Class per sample.
    steps : int
        Noise levels, at least 2.
    sigma_max : float
        Noise level to start at; 10 suits digits better than EDM's 80 (half the steps from 80 see noise only).
    seed : int
        Of the initial noise.
    solver : str
        See `integrate`. The activations of a noise level are those of the first call with it.
    info : ModelInfo
        Of the model that the weights belong to.

    Raises
    ------
    ValueError
        As `sigma_schedule`, `integrate` and `unet.embedding`.
    """
    sigmas = sigma_schedule(steps, sigma_max)
    classes = np.asarray(labels)
    activations: dict[int, Activations] = {}

    def network(x: Images, number: int) -> Images:
        tensors = forward(weights, x.astype(np.float32), float(sigmas[number]), classes, info.activation)
        activations.setdefault(number, tensors)
        return tensors["F"].astype(np.float64)

    noise = initial_noise(classes.size, sigma_max, seed, info.image_size)
    images = integrate(network, noise, sigmas, solver, info)
    return Trajectory(images, classes.astype(np.int64), sigmas, list(activations.values()))
