"""The demo's two runs of the quantised network, on the golden model and on an accelerator, and how they compare."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from golden.detector import Labels
from golden.formats import Tensor
from golden.workload.layers import Workload
from golden.workload.sample import StepProgram, input_zeros, step_program
from golden.workload.sampler import Solver, initial_noise, integrate, sigma_schedule
from golden.workload.unet import Float32Array
from hw.config import Config
from sqdm.device import Backend, Device
from sqdm.golden_backend import GoldenBackend
from sqdm.sampling import DeviceNetwork

from .baseline import dense_step
from .measure import differing_labels

__all__ = ["Evaluation", "GoldenRun", "Job", "RtlEvaluation", "draw_golden", "draw_rtl"]


@dataclass(frozen=True)
class Job:
    """What to draw.

    Parameters
    ----------
    config : Config
        Without sparse arrays, 8-bit layers are run as of `sim.baseline`.
    workload : Workload
        The model and its calibration; has the noise levels, too.
    labels : tuple of int
        Class of each digit.
    seed : int
        Of the initial noise.
    solver : str
        "euler" or "heun".
    quantised : str
        What the workload's quantised network is, for people.
    """

    config: Config
    workload: Workload
    labels: tuple[int, ...]
    seed: int
    solver: Solver
    quantised: str = ""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The network once: the number of the noise level, input, output, and labels of the tensors that have some."""

    step: int
    source: Tensor
    result: Tensor
    labels: dict[str, Labels]


@dataclass(frozen=True, eq=False)
class GoldenRun:
    """What the golden model drew.

    Parameters
    ----------
    programs : list of StepProgram
        One per noise level.
    evaluations : list of Evaluation
    zeros : list of dict
        Of each evaluation, as of `golden.workload.sample.input_zeros`.
    images : float32 [N, H, W]
    """

    programs: list[StepProgram]
    evaluations: list[Evaluation]
    zeros: list[dict[str, float | None]]
    images: Float32Array


@dataclass(frozen=True, eq=False)
class RtlEvaluation:
    """An evaluation on the accelerator, beside the golden model's.

    Parameters
    ----------
    step : int
    counters : dict of str to int
        By name, see `hw.accelerator.counter_events`.
    seconds : float
        Wall time.
    wrong_inputs, wrong_outputs, wrong_labels : int
        Values, and channels' labels, that differ from the golden model's.
    """

    step: int
    counters: dict[str, int]
    seconds: float
    wrong_inputs: int
    wrong_outputs: int
    wrong_labels: int

    @property
    def exact(self) -> bool:
        """Whether nothing differs."""
        return not (self.wrong_inputs or self.wrong_outputs or self.wrong_labels)


def draw_golden(job: Job) -> GoldenRun:
    """Write the programs and draw with the functional simulator; raises as `golden.workload.sample.step_program`."""
    make = step_program if job.config.sparse else dense_step
    programs: list[StepProgram] = [make(step, job.labels, job.config, job.workload)
                                   for step in range(job.workload.steps)]
    backend = GoldenBackend(job.config, config_hash=job.config.config_hash)
    device = Device.open(backend)
    evaluations: list[Evaluation] = []
    zeros: list[dict[str, float | None]] = []

    def observe(step: int, source: Tensor, result: Tensor) -> None:
        evaluations.append(Evaluation(step, source, result, _labels(device, programs[step])))
        zeros.append(input_zeros(programs[step], source, backend.simulator.labels.nonzeros))

    images = _draw(job, DeviceNetwork(device, programs, observe, job.config.config_hash))
    return GoldenRun(programs, evaluations, zeros, images)


def draw_rtl(job: Job, golden: GoldenRun, backend: Backend,
             progress: Callable[[RtlEvaluation], None]) -> tuple[list[RtlEvaluation], Float32Array]:
    """Draw with an accelerator; `progress` is called after each evaluation. Raises as `sqdm.device.Device`."""
    device = Device.open(backend)
    found: list[RtlEvaluation] = []
    started = time.perf_counter()

    def observe(step: int, source: Tensor, result: Tensor) -> None:
        nonlocal started
        counters = device.counters()
        expected, labels = golden.evaluations[len(found)], _labels(device, golden.programs[step])
        found.append(RtlEvaluation(
            step, counters, time.perf_counter() - started,
            int((source.values != expected.source.values).sum()), int((result.values != expected.result.values).sum()),
            sum(differing_labels(labels[name], expected.labels[name]) for name in labels)))
        progress(found[-1])
        started = time.perf_counter()

    images = _draw(job, DeviceNetwork(device, golden.programs, observe, job.config.config_hash))
    return found, images


def _draw(job: Job, network: DeviceNetwork) -> Float32Array:
    sigmas = sigma_schedule(job.workload.steps, job.workload.sigma_max)
    noise = initial_noise(len(job.labels), job.workload.sigma_max, job.seed, job.workload.info.image_size)
    return integrate(network, noise, sigmas, job.solver, job.workload.info)


def _labels(device: Device, step: StepProgram) -> dict[str, Labels]:
    return {name: device.labels(name) for name in step.program.labels}
