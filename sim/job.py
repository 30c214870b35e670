"""What the demo and the measurement of its speed-up draw: the arguments on the command line."""

import argparse

from golden.quant.model import QuantisedModel
from golden.workload.layers import Workload, trained
from golden.workload.sampler import STEPS
from golden.workload.unet import CLASSES, DEFAULT_MODEL, MODELS
from hw.config import PRESETS, preset

from .drawing import Job

__all__ = ["add_arguments", "job_of"]

MOST_STEPS = 64         # register TIME_STEP has six bits
SIGMA_MAX = 10.0        # suits digits better than EDM's 80
CALIBRATION_SEED = 0
NOT_TRAINED = "rounded"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything that a `Job` is made of."""
    parser.add_argument("--preset", default="default", metavar="NAME",
                        help=f"configuration, one of {', '.join(PRESETS)} (default: default)")
    parser.add_argument("--classes", nargs="+", type=int, default=list(range(CLASSES)), metavar="C",
                        help="what to draw, a digit each (default: 0 to 9)")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N",
                        help=f"noise levels, 2 to {MOST_STEPS} (default: {STEPS})")
    parser.add_argument("--sigma-max", type=float, default=SIGMA_MAX, metavar="S",
                        help=f"the first noise level (default: {SIGMA_MAX:g}; EDM's is 80)")
    parser.add_argument("--solver", choices=["euler", "heun"], default="euler", help="(default: euler)")
    parser.add_argument("--seed", type=int, default=1, metavar="N",
                        help=f"of the initial noise; calibration uses {CALIBRATION_SEED} (default: 1)")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME",
                        help=f"one of {', '.join(MODELS)}, with ReLU (default: {DEFAULT_MODEL})")
    parser.add_argument("--quantised", metavar="FILE",
                        help="quantised network (default: golden/data/MODEL_int4.npz, if there is one for these noise "
                             f"levels, else '{NOT_TRAINED}': the model rounded after its training)")


def job_of(options: argparse.Namespace) -> Job:
    """The job that the arguments ask for.

    Raises
    ------
    ValueError
        If an argument is not legal; `hw.config.ConfigError` is one.
    OSError
        If a file cannot be read.
    """
    if wrong := [label for label in options.classes if not 0 <= label < CLASSES]:
        raise ValueError(f"there are the classes 0 to {CLASSES - 1}, not {wrong[0]}")
    if options.steps > MOST_STEPS:
        raise ValueError(f"steps must be at most {MOST_STEPS}, not {options.steps}")
    if options.seed < 0:
        raise ValueError(f"seed must not be negative, as {options.seed} is")
    configuration = preset(options.preset)
    network, name = None, f"{options.model}, rounded after training"
    if options.quantised is None:
        network = trained(options.model, options.steps, options.sigma_max)
        name = f"{options.model}_int4.npz, trained" if network is not None else name
    elif options.quantised != NOT_TRAINED:
        network, name = QuantisedModel.load(options.quantised), options.quantised
    workload = Workload(model=options.model, samples=max(CLASSES, len(options.classes)), seed=CALIBRATION_SEED,
                        sigma_max=options.sigma_max, steps=options.steps, quantised=network)
    return Job(configuration, workload, tuple(options.classes), options.seed, options.solver, name)
