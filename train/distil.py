"""Distillation of a quantised model: it learns from the float network's outputs along sampling trajectories.

First block by block, in order, as in DilateQuant's block-wise knowledge distillation (arXiv 2409.14307, section 4.3):
a block's inputs come from the quantised blocks before it, its outputs should be the float network's. Then the whole
network together, for the error of its result F. The float network never changes, and no training image is needed.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from golden.quant.activations import Calibration
from golden.quant.model import QuantisedModel
from golden.quant.recipe import Recipe, quantise_model
from golden.workload.sampler import SIGMA_DATA, Images, RawNetwork, initial_noise, integrate
from golden.workload.unet import CLASSES, MODELS, NETWORK, Node, load

from .fake import FakeQuantised
from .network import Parameters, forward

BLOCKS = (("conv_in", "e1"), ("down", "e3"), ("mid",), ("u3",), ("up", "u1", "conv_out"))   # by prefix of the nodes
RECIPE = Recipe(feedback=True, bias="active")   # what distillation begins with
CHUNK = 250                     # samples at a time where nothing is trained
REPORT_EVERY = 100              # iterations

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How to distil.

    Parameters
    ----------
    few, samples : int
        Digits drawn for the training of the blocks, and of the whole network; all classes alike.
    block_iterations, iterations : int
        For each block, and for the whole network.
    batch : int
        Images per iteration, of random time steps.
    rates : mapping of str to float
        Adam's learning rate by kind of parameter, see `FakeQuantised.parameters_of`; half a cosine down to 0.
    """

    few: int = 100
    samples: int = 4000
    block_iterations: int = 300
    iterations: int = 4000
    batch: int = 64
    weight_rate: float = 3e-4
    code_rate: float = 1e-2
    scale_rate: float = 2e-3
    rest_rate: float = 3e-4

    def rate(self, kind: str) -> float:
        """The learning rate of a kind of parameter, see `FakeQuantised.parameters_of`."""
        return float(getattr(self, f"{kind}_rate"))


@dataclass(frozen=True, eq=False)
class Visited:
    """What a sampler meets: inputs [M, 1, H, W], time steps and classes [M], and the float network's F [M, 1, H, W]."""

    x: Tensor
    steps: Tensor
    labels: Tensor
    result: Tensor

    def chosen(self, which: Tensor) -> "Visited":
        """Some of them."""
        return Visited(self.x[which], self.steps[which], self.labels[which], self.result[which])


class Teacher:
    """The float network along Euler's method with the quantised model's noise levels.

    Parameters
    ----------
    name : str
        Of `golden.workload.unet.MODELS`.
    sigmas : float64 [steps]
    """

    def __init__(self, name: str, sigmas: np.ndarray) -> None:
        self.info = MODELS[name]
        self.parameters: Parameters = {key: torch.from_numpy(value.copy()) for key, value in load(name).items()}
        self.sigmas = sigmas

    @torch.no_grad()
    def tensors(self, x: Tensor, steps: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """All tensors of the float network."""
        levels = torch.from_numpy(self.sigmas.astype(np.float32))[steps]
        return forward(self.parameters, x, levels, labels, self.info.activation)

    def visited(self, samples: int, seed: int) -> Visited:
        """What sampling with the float network meets; samples have the classes 0, 1, ..., 9, 0, ..."""
        labels = torch.arange(samples) % CLASSES
        seen: list[Visited] = []

        def network(x: Images, number: int) -> Images:
            inputs = torch.from_numpy(x[0].astype(np.float32))[:, None]
            steps = torch.full((samples,), number)
            results = _chunks(lambda *part: self.tensors(*part)["F"], inputs, steps, labels)
            seen.append(Visited(inputs, steps, labels, results))
            return results[:, 0].numpy().astype(np.float64)[None]

        self.draw(network, samples, seed)
        return Visited(*(torch.cat([getattr(part, field) for part in seen])
                         for field in ("x", "steps", "labels", "result")))

    def draw(self, network: RawNetwork, samples: int, seed: int) -> np.ndarray:
        """Images [samples, H, W] that any network draws from this noise."""
        noise = initial_noise(samples, float(self.sigmas[0]), seed, self.info.image_size)
        return integrate(network, noise, self.sigmas, "euler", self.info)


def distil(name: str, recipe: Recipe, options: Options, seed: int, say: Say) -> QuantisedModel:
    """Quantise a float model after its training, then let it learn.

    Parameters
    ----------
    name : str
        Of `golden.workload.unet.MODELS`.
    recipe : Recipe
        Scale windows must be UE1M3.
    options : Options
    seed : int
        Of sampling noise and batches.
    say : callable
        Takes a line of progress.
    """
    started = time.perf_counter()

    def tell(line: str) -> None:
        say(f"{name}: {line}, {time.perf_counter() - started:.0f} s")

    generator = torch.Generator().manual_seed(seed)
    model = quantise_model(load(name), recipe, Calibration.record(name))
    tell("quantised after training")
    student = FakeQuantised(model, load(name))
    teacher = Teacher(name, model.sigmas)
    train_blocks(student, teacher, teacher.visited(options.few, seed + 1), options, generator, tell)
    many = teacher.visited(options.samples, seed + 2)
    tell(f"{len(many.x)} images along {options.samples} trajectories")
    train_whole(student, many, options, generator, tell)
    return student.export()


def train_blocks(student: FakeQuantised, teacher: Teacher, data: Visited, options: Options,
                 generator: torch.Generator, tell: Say) -> None:
    """Train block by block, in order, on inputs from the quantised network and results of the float network."""
    first = NETWORK[0].inputs[0]
    with torch.no_grad():
        known = {first: student.quantise(first, data.x, data.steps)}
    for prefixes in BLOCKS:
        nodes = [node for node in NETWORK if node.name.split(".")[0] in prefixes]
        before, after = _train_block(student, teacher, nodes, known, data, options, generator)
        tell(f"block {' '.join(prefixes)}: relative square error {before:.5f} -> {after:.5f}")
        known = _advanced(student, nodes, known, data)


def _train_block(student: FakeQuantised, teacher: Teacher, nodes: Sequence[Node], known: Mapping[str, Tensor],
                 data: Visited, options: Options, generator: torch.Generator) -> tuple[float, float]:
    """Train nodes for the tensor that the last one writes; errors count relative to its mean square in each step."""
    output = nodes[-1].output
    target = _chunks(lambda *part: teacher.tensors(*part)[output], data.x, data.steps, data.labels)
    weight = 1 / _mean_squares(target, data.steps, len(teacher.sigmas))

    def loss_of(which: Tensor) -> Tensor:
        found = student.run(nodes, {name: values[which] for name, values in known.items()}, data.steps[which],
                            data.labels[which])[output]
        return ((found - target[which]).square().mean(dim=(1, 2, 3)) * weight[data.steps[which]]).mean()

    return _train(student, nodes, loss_of, len(data.x), options.block_iterations, options, generator)


def train_whole(student: FakeQuantised, data: Visited, options: Options, generator: torch.Generator,
                tell: Say) -> None:
    """Train the whole network on the float network's F; squared errors weigh as `step_weights` says."""
    weight = torch.from_numpy(step_weights(student.model.sigmas).astype(np.float32))

    def loss_of(which: Tensor) -> Tensor:
        part = data.chosen(which)
        error = student.forward(part.x, part.steps, part.labels)["F"] - part.result
        return (error.square().mean(dim=(1, 2, 3)) * weight[part.steps]).mean()

    def report(iteration: int, loss: float) -> None:
        tell(f"whole network: iteration {iteration} of {options.iterations}, weighted square error of F {loss:.6f}")

    _train(student, NETWORK, loss_of, len(data.x), options.iterations, options, generator, report)


def step_weights(sigmas: np.ndarray) -> np.ndarray:
    """Weight of a squared error of F in each time step, [steps], 1 on average: how far the image moves by the error.

    Euler's step from sigma to sigma' moves it by (1 - sigma' / sigma) c_out times the error, c_out = sigma sigma_data /
    sqrt(sigma^2 + sigma_data^2) (Karras et al. 2022, arXiv 2206.00364, table 1). Without weights most
    of the loss is the last steps', which hardly move the image; the factor's square would all but leave them out.
    """
    following = np.append(sigmas[1:], 0.0)
    moved: np.ndarray = (sigmas - following) * SIGMA_DATA / np.hypot(sigmas, SIGMA_DATA)
    return moved / moved.mean()


def _train(student: FakeQuantised, nodes: Sequence[Node], loss_of: Callable[[Tensor], Tensor], items: int,
           iterations: int, options: Options, generator: torch.Generator,
           report: Callable[[int, float], None] | None = None) -> tuple[float, float]:
    """Train some nodes' parameters; return the mean loss of the first and of the last iterations."""
    groups = [{"params": values, "lr": options.rate(kind)} for kind, values in student.parameters_of(nodes).items()]
    optimiser = torch.optim.Adam([group for group in groups if group["params"]])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(iterations, 1))
    losses = []
    for iteration in range(1, iterations + 1):
        loss = loss_of(torch.randint(items, (options.batch,), generator=generator))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if report and (iteration % REPORT_EVERY == 0 or iteration == iterations):
            report(iteration, float(np.mean(losses[-REPORT_EVERY:])))
    return float(np.mean(losses[:10])), float(np.mean(losses[-10:]))


@torch.no_grad()
def _chunks(function: Callable[..., Tensor], *arrays: Tensor) -> Tensor:
    return torch.cat([function(*parts) for parts in zip(*(array.split(CHUNK) for array in arrays), strict=True)])


@torch.no_grad()
def _advanced(student: FakeQuantised, nodes: Sequence[Node], known: dict[str, Tensor],
              data: Visited) -> dict[str, Tensor]:
    """What later nodes read, after some nodes have run."""
    later = NETWORK[NETWORK.index(nodes[-1]) + 1:]
    needed = {name for node in later for name in (*node.inputs, node.residual) if name is not None}
    parts: dict[str, list[Tensor]] = {}
    for which in torch.arange(len(data.x)).split(CHUNK):
        found = student.run(nodes, {name: values[which] for name, values in known.items()}, data.steps[which],
                            data.labels[which])
        for name in needed & found.keys():
            parts.setdefault(name, []).append(found[name])
    return {name: torch.cat(values) for name, values in parts.items()}


def _mean_squares(values: Tensor, steps: Tensor, count: int) -> Tensor:
    """Mean square of values [M, C, H, W] by time step, [count]."""
    squares = values.square().mean(dim=(1, 2, 3))
    return torch.stack([squares[steps == step].mean() for step in range(count)])
