"""EDM preconditioning and its Euler sampler (Karras et al. 2022, arXiv 2206.00364) on the float U-Net."""

import operator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.workload.unet import CLASSES, IMAGE_SIZE, Activations, Float32Array, Weights, forward

STEPS = 18
SIGMA_MAX = 80.0
SIGMA_MIN = 0.002
RHO = 7.0
SIGMA_DATA = 0.5
PIXEL_MEAN, PIXEL_DEVIATION = 4.884, 6.017


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A sampling run.

    Parameters
    ----------
    images : float32 [N, 8, 8]
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


def denoise(weights: Weights, x: NDArray[np.float64], sigma: float,
            labels: ArrayLike) -> tuple[NDArray[np.float64], Activations]:
    """The denoiser D(x; sigma) = c_skip x + c_out F(c_in x) (table 1), and the tensors of the network F.

    `x` and D are [1, N, 8, 8] in units where the data has the deviation 0.5. Raises as `forward`.
    """
    norm = np.hypot(sigma, SIGMA_DATA)
    activations = forward(weights, (x / norm).astype(np.float32), sigma, labels)
    return (SIGMA_DATA / norm) ** 2 * x + sigma * SIGMA_DATA / norm * activations["F"], activations


def sample(weights: Weights, labels: ArrayLike = tuple(range(CLASSES)), *, steps: int = STEPS,
           sigma_max: float = SIGMA_MAX, seed: int = 0) -> Trajectory:
    """Draw one digit per label with Euler steps of the probability flow ODE (algorithm 1 without the correction).

    Parameters
    ----------
    weights : mapping
        From `unet.load`.
    labels : integers [N]
        Class per sample.
    steps : int
        Network evaluations, at least 2.
    sigma_max : float
        Noise level to start at; 10 suits digits better than EDM's 80 (half the steps from 80 see noise only).
    seed : int
        Of the initial noise.

    Raises
    ------
    ValueError
        As `sigma_schedule` and `unet.embedding`.
    """
    sigmas = sigma_schedule(steps, sigma_max)
    classes = np.asarray(labels)
    x = sigmas[0] * np.random.default_rng(seed).standard_normal((1, classes.size, IMAGE_SIZE, IMAGE_SIZE))
    activations = []
    for sigma, following in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        denoised, tensors = denoise(weights, x, sigma, classes)
        activations.append(tensors)
        x = x + (following - sigma) * (x - denoised) / sigma
    images = (x[0] / SIGMA_DATA * PIXEL_DEVIATION + PIXEL_MEAN).astype(np.float32)
    return Trajectory(images, classes.astype(np.int64), sigmas, activations)
