"""Scales of activations: one per tensor, or one per tensor and time step, from a float sampling run.

A scale per time step is the temporal parallel quantiser (TPQ) of DilateQuant (arXiv 2409.14307, section 4.2): the
ranges of activations change over the sampling steps, and a scale costs nothing, for it is folded into the
post-processor's parameters of the step.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from golden.formats import S4, S8, U4, U8, Format
from golden.graph.calibrate import activation_scale as least_error_scale
from golden.graph.forward import Activation, Float32Array
from golden.quant.evaluate import fake_quantise
from golden.quant.model import TENSORS
from golden.quant.weights import Float64Array
from golden.workload.sampler import STEPS, Trajectory, sample
from golden.workload.unet import CLASSES, GRAPH, MODELS, load

__all__ = ["Calibration", "activation_formats", "activation_scale", "activation_scales"]

SAMPLES = 60
SIGMA_MAX = 10.0
MOST_VALUES = 20_000    # of a tensor and step that the search for a scale looks at
SIGNED = tuple(name for name, fmt in GRAPH.formats.items() if fmt.signed)


@dataclass(frozen=True, eq=False)
class Calibration:
    """A float model's own samples, which it is quantised by.

    Parameters
    ----------
    model : str
        One of `golden.workload.unet.MODELS`.
    run : Trajectory
        A sampling run with the activations of every step.
    """

    model: str
    run: Trajectory

    @classmethod
    def record(cls, model: str, *, samples: int = SAMPLES, steps: int = STEPS, sigma_max: float = SIGMA_MAX,
               seed: int = 1000) -> "Calibration":
        """Sample so many digits of the classes 0, 1, ..., 9, 0, ... with Euler's method, and keep all activations.

        Raises
        ------
        ValueError
            As `golden.workload.sampler.sample`.
        """
        labels = np.arange(samples) % CLASSES
        return cls(model, sample(load(model), labels, steps=steps, sigma_max=sigma_max, seed=seed, info=MODELS[model]))


def activation_formats(bits: int, activation: Activation, signed_bits: int = 8) -> dict[str, Format]:
    """Format of every tensor.

    Parameters
    ----------
    bits : int
        4 or 8, of tensors after the activation function: unsigned after ReLU, signed after SiLU.
    activation : str
        "relu" or "silu".
    signed_bits : int
        4 or 8, of the network's input and result and of the skips, which have no activation function.
    """
    signed, unsigned = {4: S4, 8: S8}, {4: U4, 8: U8}
    after = (unsigned if activation == "relu" else signed)[bits]
    return {name: signed[signed_bits] if name in SIGNED else after for name in TENSORS}


def activation_scale(values: Float32Array, fmt: Format, *, power_of_two: bool = False) -> float:
    """The scale with the least squared error of quantising values [...] to a format.

    See `golden.graph.calibrate.activation_scale`, but of more than `MOST_VALUES` values a random choice is looked at,
    always the same. With `power_of_two` it is the best power of two: the least that clips nothing or one of the three
    below.
    """
    if values.size > MOST_VALUES:
        values = values.ravel()[np.random.default_rng(0).integers(0, values.size, MOST_VALUES)]
    largest = float(np.abs(values).max())
    if not power_of_two or largest == 0:
        return least_error_scale([(values, fmt)])
    steps = np.exp2(np.ceil(np.log2(largest / fmt.max)) - np.arange(4))
    errors = [np.square(fake_quantise(values, float(step), fmt) - values).mean() for step in steps]
    return float(steps[np.argmin(errors)])


def activation_scales(activations: list[dict[str, Float32Array]], formats: Mapping[str, Format], *,
                      temporal: bool = True, power_of_two: bool = False) -> dict[str, Float64Array]:
    """Scale of every tensor, float64 [steps].

    Parameters
    ----------
    activations : list of dict
        Per step, every tensor by name.
    formats : mapping
        Of every tensor, by name.
    temporal : bool
        A scale for each step, else the same one for all, of the values of all steps together.
    power_of_two : bool
        See `activation_scale`.
    """
    scales: dict[str, Float64Array] = {}
    for names in GRAPH.sharing():
        found = [np.concatenate([tensors[name].ravel() for name in names]) for tensors in activations]
        parts = found if temporal else [np.concatenate(found)]
        best = [activation_scale(part, formats[names[0]], power_of_two=power_of_two) for part in parts]
        scales |= dict.fromkeys(names, np.broadcast_to(np.array(best), len(activations)))
    return scales
