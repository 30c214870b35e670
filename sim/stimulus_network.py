"""Random networks and what they compute, layer by layer by the golden model: the reference for whole programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from golden.detector import Detection
from golden.formats import FORMATS, S4, U4, Format, Tensor
from golden.layer import Transform
from golden.ppu import PostParams
from golden.program.network import Conv, Elementwise, Input, Network, Node, Parameters
from golden.program.reference import run_network, run_node
from hw.config import Config

from .stimulus import random_detection, random_layer, random_post, random_tensor

__all__ = ["Case", "conv_node", "random_case", "reference"]

BLOCKS = 3
STEPS = 3


@dataclass(frozen=True)
class Case:
    """A network with inputs for it."""

    network: Network
    inputs: dict[str, Tensor]


def reference(config: Config, case: Case, sample_block: Sequence[int], step: int,
              before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors after a time step; `before` are those of the step before, which masked nodes leave."""
    return run_network(config, case.network, case.inputs, sample_block, step, before)


def parameters(rng: np.random.Generator, config: Config, outputs: int, post: PostParams, out_fmt: Format,
               blocks: int) -> Parameters:
    """Some blocks of parameters like `post`."""
    rows = [random_post(rng, config, outputs, 1, 10, out_fmt, shift=post.shift) for _ in range(blocks - 1)]
    m, r, b = (np.concatenate([getattr(post, name)[:1], *(getattr(row, name)[:1] for row in rows)])
               for name in "MRB")
    return Parameters(m, r, b, post.shift, post.dead_zone)


def conv_node(rng: np.random.Generator, config: Config, name: str, tensors: Mapping[str, Tensor],
              inputs: tuple[str, ...], output: str, residual: str | None = None, blocks: int = 1,
              detection: Detection | None = None, **fixed: Any) -> Conv:
    """A random convolution of these tensors."""
    drawn = random_layer(rng, replace(config, act_nibbles=1 << 24), inputs=tuple(tensors[item] for item in inputs),
                         residual=None, **fixed)
    outputs = len(drawn.weights)
    return Conv(name=name, inputs=inputs, output=output, weights=drawn.weights, w_fmt=drawn.w_fmt, codes=drawn.codes,
                group=drawn.group, post=parameters(rng, config, outputs, drawn.post, drawn.out_fmt, blocks),
                out_fmt=drawn.out_fmt, residual=residual, transform=drawn.transform, detection=detection,
                upsampled=drawn.upsampled)


def random_case(rng: np.random.Generator, config: Config, shape: tuple[int, int, int], nodes: int,
                masks: bool = False, elementwise: float = 0.25) -> Case:
    """Draw a network: every node reads one or two of the tensors of one map size, some add a residual.

    Parameters
    ----------
    rng : Generator
    config : Config
    shape : (N, H, W)
        Of the inputs.
    nodes : int
    masks : bool
        Some nodes do not run in some time steps; all run in step 0.
    elementwise : float
        Share of elementwise nodes.
    """
    fmts = [FORMATS[name] for name in (("u4", "s4", "u8", "s8") if config.sparse else ("u4", "s4"))]
    tensors: dict[str, Tensor] = {}
    inputs = []
    for name in ("x", "skip")[:int(rng.integers(1, 3))]:
        fmt = fmts[rng.integers(len(fmts))]
        tensors[name] = random_tensor(rng, (int(rng.integers(1, 6)), *shape), fmt)
        inputs.append(Input(name, tensors[name].shape, fmt))
    start = dict(tensors)
    made: list[Node] = []
    for number in range(nodes):
        name, output = f"layer{number}", f"t{number}"
        names = list(tensors)
        first = names[-1] if rng.random() < 0.6 else names[rng.integers(len(names))]
        alike = [item for item in names if tensors[item].shape[1:] == tensors[first].shape[1:] and item != first]
        reads: tuple[str, ...] = (first,)
        if alike and rng.random() < 0.4:
            reads = (first, alike[rng.integers(len(alike))])
        _, samples, height, width = tensors[first].shape
        # Where the configuration cannot read it upsampled, the tiler adds a node that writes it so.
        upsampled = height * width * samples <= shape[0] * shape[1] * shape[2] and rng.random() < 0.25
        if upsampled:
            height, width = 2 * height, 2 * width
        large = height * width * samples > 2 * shape[0] * shape[1] * shape[2]
        choices: tuple[Transform, ...] = ("none", "none", "none" if large else "upsample",
                                          "space_to_depth" if height % 2 == width % 2 == 0 else "none")
        transform = choices[rng.integers(4)]
        outputs = int(rng.integers(1, 9)) if transform != "space_to_depth" else int(rng.integers(1, 3))
        if not upsampled and rng.random() < elementwise:
            reads, outputs = (first,), tensors[first].shape[0]
        mates = [item for item in names if tensors[item].shape == (outputs, samples, height, width)]
        residual = mates[rng.integers(len(mates))] if mates and rng.random() < 0.6 else None
        blocks = int(rng.choice([1, BLOCKS]))
        if len(made) == nodes - 1 and all(node.post.blocks == 1 for node in made):
            blocks = BLOCKS
        out_fmt = fmts[rng.integers(len(fmts))]
        mask = (1 << 64) - 1 if not masks or rng.random() < 0.6 else 1 | int(rng.integers(0, 1 << STEPS))
        pixels = samples * height * width // (4 if transform == "space_to_depth" else 1)
        detection = random_detection(rng, config, pixels) if rng.random() < 0.7 else None
        if not upsampled and len(reads) == 1 and outputs == tensors[first].shape[0] and rng.random() < 2 * elementwise:
            post = random_post(rng, config, outputs, 1, tensors[first].fmt.bits, out_fmt)
            node: Node = Elementwise(name=name, inputs=(first,), output=output,
                                     post=parameters(rng, config, outputs, post, out_fmt, blocks), out_fmt=out_fmt,
                                     residual=residual, transform=transform, mask=mask, detection=detection)
        else:
            drawn = conv_node(rng, config, name, tensors, reads, output, residual, blocks, detection,
                              outputs=outputs, transform=transform, out_fmt=out_fmt, upsampled=upsampled,
                              **({} if config.sparse else {"w_fmt": S4}))
            node = replace(drawn, mask=mask)
        made.append(node)
        tensors[output] = run_node(config, node, tensors, [0] * samples)
    outputs_ = tuple(node.output for node in made if rng.random() < 0.3 or node is made[-1])
    assert U4 in fmts
    return Case(Network(tuple(inputs), tuple(made), outputs_), start)
