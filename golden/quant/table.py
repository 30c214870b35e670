"""The table of quantisations: quality and size of each, measured on images that it draws."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from golden.formats import Int64Array
from golden.graph.forward import Float32Array
from golden.quality import accuracy, frechet, psnr
from golden.quant.activations import SIGMA_MAX, Calibration
from golden.quant.cases import Case
from golden.quant.evaluate import FloatNetwork, MxInt8Network, QuantisedNetwork
from golden.quant.model import QuantisedModel
from golden.quant.recipe import Recipe, quantise_model
from golden.quant.sizes import activation_bytes, float_bytes, mxint8_bytes, weight_bytes
from golden.workload.sampler import STEPS, RawNetwork, initial_noise, integrate, sigma_schedule
from golden.workload.unet import CLASSES, MODELS, load

__all__ = ["Bench", "Row", "markdown"]


@dataclass(frozen=True)
class Row:
    """What was measured of a case.

    Parameters
    ----------
    case : Case
    distances, accuracies : tuple of float
        Frechet distance to the real digits and share of right classes, for each seed.
    psnr : float or None
        Mean over all images of the PSNR against the same model in full precision from the same noise, dB.
    weight_bytes, activation_bytes : float
        See `golden.quant.sizes`.
    seconds : float
        What quantising took, without sampling the calibration data.
    """

    case: Case
    distances: tuple[float, ...]
    accuracies: tuple[float, ...]
    psnr: float | None
    weight_bytes: float
    activation_bytes: float
    seconds: float

    @property
    def distance(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.distances))

    @property
    def spread(self) -> float:
        """Standard deviation of the seeds' distances, 0 of a single one."""
        return float(np.std(self.distances, ddof=1)) if len(self.distances) > 1 else 0.0

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return {"part": self.case.part, "name": self.case.name, "model": self.case.model,
                "how": str(self.case.how), "distances": self.distances, "accuracies": self.accuracies,
                "psnr": self.psnr, "weight_bytes": self.weight_bytes, "activation_bytes": self.activation_bytes,
                "seconds": round(self.seconds, 2)}

    @classmethod
    def from_json(cls, case: Case, values: Mapping[str, Any]) -> "Row":
        """What `to_json` gave for the case."""
        return cls(case, tuple(values["distances"]), tuple(values["accuracies"]), values["psnr"],
                   values["weight_bytes"], values["activation_bytes"], values["seconds"])


@dataclass
class Bench:
    """Draws images with quantised models and measures them.

    Parameters
    ----------
    samples : int
        Images per seed, of the classes 0, 1, ..., 9, 0, ...
    seeds : sequence of int
        Of the initial noise; the same for every case. None may be that of the calibration.
    calibration : int
        Images that recipes are calibrated on.
    steps : int
        Euler steps, from noise level 10.
    """

    samples: int
    seeds: Sequence[int]
    calibration: int
    steps: int = STEPS
    _calibrations: dict[str, Calibration] = field(default_factory=dict, repr=False)
    _references: dict[tuple[str, int], Float32Array] = field(default_factory=dict, repr=False)

    def measure(self, case: Case) -> Row:
        """Quantise, draw, measure.

        Raises
        ------
        OSError, ValueError
            If the case's file cannot be read or is not for this sampler.
        """
        info, weights = MODELS[case.model], load(case.model)
        labels, sigmas = np.arange(self.samples) % CLASSES, sigma_schedule(self.steps, SIGMA_MAX)
        started = time.perf_counter()
        network: RawNetwork
        if case.how == "float":
            network = FloatNetwork(weights, sigmas, labels, info.activation)
            sizes = float_bytes(weights, info.image_size)
        elif case.how == "mxint8":
            network = MxInt8Network(weights, sigmas, labels, info.activation)
            sizes = mxint8_bytes(weights, info.image_size)
        else:
            model = self.quantised(case)
            if model.steps != self.steps or not np.allclose(model.sigmas, sigmas, rtol=1e-6):
                raise ValueError(f"{case.how}: made for {model.steps} steps from noise level {model.sigmas[0]:g}, not "
                                 f"for {self.steps} from {SIGMA_MAX:g}")
            network = QuantisedNetwork(model, labels)
            outputs = {name: len(quantised.q) for name, quantised in model.weights.items()}
            sizes = weight_bytes(model), activation_bytes(model.formats, outputs, info.image_size)
        seconds = time.perf_counter() - started
        drawn = {seed: self._draw(case.model, network, seed) for seed in self.seeds}
        found = [psnr(images, self._reference(case.model, seed, labels)) for seed, images in drawn.items()]
        return Row(case, tuple(frechet(images) for images in drawn.values()),
                   tuple(accuracy(images, labels) for images in drawn.values()),
                   None if case.how == "float" else float(np.mean(found)), *sizes, seconds)

    def quantised(self, case: Case) -> QuantisedModel:
        """The case's model: from its file, or by its recipe."""
        if isinstance(case.how, Path):
            return QuantisedModel.load(case.how)
        assert isinstance(case.how, Recipe)
        return quantise_model(load(case.model), case.how, self.calibrated(case.model))

    def calibrated(self, model: str) -> Calibration:
        """Calibration data of a model, sampled when first used; only those of one model are kept."""
        if model not in self._calibrations:
            self._calibrations.clear()
            self._calibrations[model] = Calibration.record(model, samples=self.calibration, steps=self.steps)
        return self._calibrations[model]

    def _draw(self, model: str, network: RawNetwork, seed: int) -> Float32Array:
        info = MODELS[model]
        noise = initial_noise(self.samples, SIGMA_MAX, seed, info.image_size)
        return integrate(network, noise, sigma_schedule(self.steps, SIGMA_MAX), info=info)

    def _reference(self, model: str, seed: int, labels: Int64Array) -> Float32Array:
        """Images of the float model."""
        if (model, seed) not in self._references:
            network = FloatNetwork(load(model), sigma_schedule(self.steps, SIGMA_MAX), labels, MODELS[model].activation)
            self._references[model, seed] = self._draw(model, network, seed)
        return self._references[model, seed]


COLUMNS: dict[str, Callable[[Row], str]] = {
    "FID": lambda row: f"{row.distance:.3f}",
    "±": lambda row: f"{row.spread:.3f}" if len(row.distances) > 1 else "",
    "accuracy": lambda row: f"{100 * np.mean(row.accuracies):.1f} %",
    "PSNR dB": lambda row: "" if row.psnr is None else "exact" if math.isinf(row.psnr) else f"{row.psnr:.1f}",
    "weights kB": lambda row: f"{row.weight_bytes / 1000:.1f}",
    "activations kB": lambda row: f"{row.activation_bytes / 1000:.1f}",
    "seconds": lambda row: f"{row.seconds:.0f}",
}


def markdown(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table, the first of each part below its heading."""
    lines = [f"| | {' | '.join(COLUMNS)} |", "| --- |" + " ---: |" * len(COLUMNS)]
    part = ""
    for row in rows:
        if row.case.part != part:
            part = row.case.part
            lines.append(f"| **{part}** |" + " |" * len(COLUMNS))
        lines.append(f"| {row.case.name} | {' | '.join(cell(row) for cell in COLUMNS.values())} |")
    return "\n".join(lines) + "\n"
