"""Distillation of a quantised model: it learns from the float network's outputs along sampling trajectories.

First block by block, in order, as in DilateQuant's block-wise knowledge distillation (arXiv 2409.14307, section 4.3):
a block's inputs come from the quantised blocks before it, its outputs should be the float network's. Then the whole
network together, for the error of its result F. Last a refinement on trajectories that were not learned by heart, with
all scales as they are. The float network never changes, and no training image is needed.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
    weight_rate, code_rate, scale_rate, rest_rate : float
        Adam's learning rate by kind of parameter, see `FakeQuantised.parameters_of`; half a cosine down to 0.
    fresh, refine_iterations : int
        Digits drawn for the refinement, and its iterations.
    refine_share : float
        Share of the learning rates that the refinement has.
    contrast : float
        How much the refinement aims beyond the float network, see `stronger`.
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
    fresh: int = 8000
    refine_iterations: int = 2000
    refine_share: float = 0.3
    contrast: float = 0.01

    def groups(self, parameters: Mapping[str, Sequence[Tensor]], share: float = 1) -> list[dict[str, Any]]:
        """Parameters by kind, see `FakeQuantised.parameters_of`, for an optimiser: with their learning rates."""
        return [{"params": values, "lr": share * float(getattr(self, f"{kind}_rate"))}
                for kind, values in parameters.items() if values]


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
    fresh = teacher.visited(options.fresh, seed + 3)
    tell(f"{len(fresh.x)} images along {options.fresh} other trajectories")
    return refined(student.export(), fresh, options, torch.Generator().manual_seed(seed + 3), tell)


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

    return _train(options.groups(student.parameters_of(nodes)), loss_of, _uniform(data, options, generator),
                  options.block_iterations)


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

    _train(options.groups(student.parameters_of(NETWORK)), loss_of, _uniform(data, options, generator),
           options.iterations, report)


def refined(model: QuantisedModel, data: Visited, options: Options, generator: torch.Generator,
            tell: Say) -> QuantisedModel:
    """Train weights, biases and embedding of a model on trajectories that are new to it; scales stay.

    Another scale code moves all weights of its group to other integers: as long as they change, the error is mostly
    theirs. Images are drawn as often as `lasting_weights` says, in place of errors that weigh: those of the first and
    last steps would hardly count.
    """
    student = FakeQuantised(model, load(model.model))
    data = stronger(data, model.sigmas, options.contrast)
    chance = torch.from_numpy(lasting_weights(model.sigmas))[data.steps]
    trained = student.parameters_of(NETWORK)

    def loss_of(which: Tensor) -> Tensor:
        part = data.chosen(which)
        return (student.forward(part.x, part.steps, part.labels)["F"] - part.result).square().mean()

    def pick() -> Tensor:
        return torch.multinomial(chance, options.batch, replacement=True, generator=generator)

    def report(iteration: int, loss: float) -> None:
        tell(f"refinement: iteration {iteration} of {options.refine_iterations}, square error of F {loss:.6f}")

    _train(options.groups({kind: trained[kind] for kind in ("weight", "rest")}, options.refine_share), loss_of, pick,
           options.refine_iterations, report)
    return student.export()


def stronger(data: Visited, sigmas: np.ndarray, contrast: float) -> Visited:
    """The same with an F whose images are a little further from the mean of their class than the float network's.

    What learns by square errors falls short of what it cannot know: it draws digits that differ too little. The
    denoised image is (sigma_data x + sigma F) sigma_data / hypot(sigma, sigma_data) of the network's input x (Karras et
    al. 2022, table 1); F gains `contrast / sigma_data` times its difference from the mean of its class and step. That
    moves a denoised image much while the noise is strong, and hardly at the end, when the image is as good as drawn.
    """
    level = torch.from_numpy(sigmas.astype(np.float32))[data.steps][:, None, None, None]
    drawn = (SIGMA_DATA * data.x + level * data.result) / torch.hypot(level, torch.tensor(SIGMA_DATA))
    kind = data.steps * CLASSES + data.labels
    means = torch.stack([drawn[kind == number].mean(dim=0) for number in range(len(sigmas) * CLASSES)])
    return replace(data, result=data.result + contrast * (drawn - means[kind]))


def step_weights(sigmas: np.ndarray) -> np.ndarray:
    """Weight of a squared error of F in each time step, [steps], 1 on average: how far the image moves by the error.

    Euler's step from sigma to sigma' moves it by (1 - sigma' / sigma) c_out times the error, c_out = sigma sigma_data /
    sqrt(sigma^2 + sigma_data^2) (Karras et al. 2022, arXiv 2206.00364, table 1). Without weights most
    of the loss is the last steps', which hardly move the image; the factor's square would all but leave them out.
    """
    following = np.append(sigmas[1:], 0.0)
    moved: np.ndarray = (sigmas - following) * SIGMA_DATA / np.hypot(sigmas, SIGMA_DATA)
    return moved / moved.mean()


def lasting_weights(sigmas: np.ndarray) -> np.ndarray:
    """As `step_weights`, but of what is left of the movement in the finished image, roughly.

    What moves the image at a high noise level is a change of the noise, of which the image that comes out shows little:
    where the data and the noise are Gaussian the rest of the way shrinks it by sigma_data / hypot(sigma', sigma_data).
    """
    left: np.ndarray = step_weights(sigmas) * SIGMA_DATA / np.hypot(np.append(sigmas[1:], 0.0), SIGMA_DATA)
    return left / left.mean()


def _uniform(data: Visited, options: Options, generator: torch.Generator) -> Callable[[], Tensor]:
    """Picks a batch, all images alike."""
    return lambda: torch.randint(len(data.x), (options.batch,), generator=generator)


def _train(groups: list[dict[str, Any]], loss_of: Callable[[Tensor], Tensor], pick: Callable[[], Tensor],
           iterations: int, report: Callable[[int, float], None] | None = None) -> tuple[float, float]:
    """Train groups of parameters on batches; return the mean loss of the first and of the last iterations."""
    optimiser = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(iterations, 1))
    losses = []
    for iteration in range(1, iterations + 1):
        loss = loss_of(pick())
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
