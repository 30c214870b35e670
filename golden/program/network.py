"""Small description of a network, from which `golden.program.tiler` makes a program.

Tensors have names. A node reads tensors and makes one; nodes are listed in the order in which they run. Numbers are
integers as the hardware takes them; `golden.quant.weights` and `golden.workload` make them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index

import numpy as np

from golden.detector import Detection
from golden.formats import Format, Int64Array, Uint8Array
from golden.layer import LayerError, Transform
from golden.ppu import PostParams
from golden.program.descriptor import ALL_STEPS

__all__ = ["Conv", "Elementwise", "Input", "Network", "Node", "Parameters", "TensorShape", "computed_shape",
           "written_shape"]


@dataclass(frozen=True)
class TensorShape:
    """Shape (C, N, H, W) and format of a tensor."""

    shape: tuple[int, int, int, int]
    fmt: Format

    @property
    def nibbles(self) -> int:
        """Size in memory."""
        return self.fmt.planes * int(np.prod(self.shape))


@dataclass(frozen=True, eq=False)
class Parameters:
    """Post-processing of a node, for each (time step, class) that a batch may mix.

    Parameters
    ----------
    M, R, B : integers [blocks, K]
        As of `golden.ppu.PostParams`. With one block all samples use it.
    shift, dead_zone : int
    """

    M: Int64Array
    R: Int64Array
    B: Int64Array
    shift: int
    dead_zone: int = 0

    @property
    def blocks(self) -> int:
        """Number of parameter blocks."""
        return len(self.M)

    def post(self, sample_block: Sequence[int]) -> PostParams:
        """The same for a batch: the block of each sample."""
        numbers = np.zeros(len(sample_block), np.int64) if self.blocks == 1 else np.array(sample_block)
        return PostParams(self.M, self.R, self.B, self.shift, self.dead_zone, numbers)


@dataclass(frozen=True)
class Input:
    """A tensor that the host writes into the data region.

    Parameters
    ----------
    name : str
    shape : (C, N, H, W)
    fmt : Format
    """

    name: str
    shape: tuple[int, int, int, int]
    fmt: Format


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv:
    """A convolution; the members that `golden.layer.Layer` has too mean the same.

    Parameters
    ----------
    name : str
        For messages and listings.
    inputs : tuple of str
        One or two tensors, joined along C.
    output : str
        The tensor that it makes.
    weights, w_fmt, codes, group, out_fmt, transform
    post : Parameters
    residual : str, optional
    mask : int
        Bit s: it runs in time step s. In the others its output stays as it is.
    detection : Detection, optional
        How the output is labelled; by default it is not, and all its channels go to dense arrays.
    upsampled : bool
        The inputs are read with each pixel as 2x2 pixels.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    weights: Int64Array
    w_fmt: Format
    codes: Uint8Array
    group: int
    post: Parameters
    out_fmt: Format
    residual: str | None = None
    transform: Transform = "none"
    mask: int = ALL_STEPS
    detection: Detection | None = None
    upsampled: bool = False

    @property
    def outputs(self) -> int:
        """K."""
        return len(self.weights)

    @property
    def kernel(self) -> int:
        """1 or 3."""
        return int(self.weights.shape[-1])


@dataclass(frozen=True, eq=False, kw_only=True)
class Elementwise:
    """The post-processor alone: y = clamp((x*M + B + residual*R + half) >> S); members as of `Conv`.

    Parameters
    ----------
    strided : bool
        x is the space-to-depth form of the input, for which that is read with stride 2; `post` is of its 4*C channels.
    """

    name: str
    inputs: tuple[str]
    output: str
    post: Parameters
    out_fmt: Format
    residual: str | None = None
    transform: Transform = "none"
    mask: int = ALL_STEPS
    detection: Detection | None = None
    strided: bool = False

    @property
    def outputs(self) -> int:
        """K."""
        return int(self.post.M.shape[1])

    @property
    def kernel(self) -> int:
        """1."""
        return 1


Node = Conv | Elementwise


@dataclass(frozen=True, eq=False)
class Network:
    """Tensors and nodes.

    Parameters
    ----------
    inputs : tuple of Input
    nodes : tuple of Node
        In the order in which they run.
    outputs : tuple of str
        Tensors that the host reads from the data region afterwards.

    Raises
    ------
    LayerError
        If a node reads what is not there, or shapes, masks or numbers of parameter blocks do not agree.
    ValueError
        If two tensors have one name, or there is no such output.
    """

    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.nodes:
            raise ValueError("a network has at least one node")
        names = [item.name for item in self.inputs] + [node.output for node in self.nodes]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"there are two tensors called {', '.join(twice)}")
        if missing := sorted(set(self.outputs) - {node.output for node in self.nodes}):
            raise ValueError(f"no node makes the outputs {', '.join(missing)}")
        tensors = {item.name: TensorShape(item.shape, item.fmt) for item in self.inputs}
        blocks = self.blocks
        for node in self.nodes:
            tensors[node.output] = _checked(node, tensors, blocks)

    @property
    def tensors(self) -> Mapping[str, TensorShape]:
        """All tensors by name, as they are in memory."""
        tensors = {item.name: TensorShape(item.shape, item.fmt) for item in self.inputs}
        for node in self.nodes:
            shape = computed_shape(node, tensors[node.inputs[0]].shape)
            tensors[node.output] = TensorShape(written_shape(shape, node.transform), node.out_fmt)
        return tensors

    @property
    def samples(self) -> int:
        """N."""
        return self.inputs[0].shape[1]

    @property
    def blocks(self) -> int:
        """Parameter blocks that a batch chooses from."""
        return max(node.post.blocks for node in self.nodes)


def computed_shape(node: Node, shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """K, N, H, W of a node's result before its write transform, from the shape of its first input."""
    _, samples, height, width = shape
    if isinstance(node, Conv) and node.upsampled:
        height, width = 2 * height, 2 * width
    if isinstance(node, Elementwise) and node.strided:
        height, width = height // 2, width // 2
    return node.outputs, samples, height, width


def written_shape(shape: tuple[int, int, int, int], transform: Transform) -> tuple[int, int, int, int]:
    """Shape of the written tensor, from that of the accumulators."""
    outputs, samples, height, width = shape
    if transform == "upsample":
        return outputs, samples, 2 * height, 2 * width
    if transform == "space_to_depth":
        return 4 * outputs, samples, height // 2, width // 2
    return shape


def _checked(node: Node, tensors: Mapping[str, TensorShape], blocks: int) -> TensorShape:
    """The tensor that a node makes."""
    def need(condition: bool, problem: str) -> None:
        if not condition:
            raise LayerError(f"layer {node.name!r}: {problem}")

    most = 2 if isinstance(node, Conv) else 1
    need(1 <= len(node.inputs) <= most, f"it has {len(node.inputs)} inputs; there can be {most}")
    for name in (*node.inputs, *([node.residual] if node.residual else [])):
        need(name in tensors, f"it reads {name!r}, which nothing has made before it")
    inner = tensors[node.inputs[0]].shape[1:]
    need(all(tensors[name].shape[1:] == inner for name in node.inputs),
         f"its inputs have the N, H, W {', '.join(str(tensors[name].shape[1:]) for name in node.inputs)}")
    channels = sum(tensors[name].shape[0] for name in node.inputs)
    if isinstance(node, Conv):
        need(node.weights.ndim == 4 and node.weights.shape[1] == channels,
             f"weights of the shape {node.weights.shape} for {channels} input channels")
        need(node.group >= 1 and node.codes.shape == (node.outputs, -(-channels // node.group)),
             f"codes of the shape {node.codes.shape} for {node.outputs} outputs and {channels} channels in groups of "
             f"{node.group}")
    else:
        channels *= 4 if node.strided else 1
        need(node.outputs == channels, f"parameters of {node.outputs} channels for {channels}")
        need(not node.strided or inner[1] % 2 == inner[2] % 2 == 0,
             f"a stride needs an even width and height, not {inner[2]} x {inner[1]}")
    shape = computed_shape(node, tensors[node.inputs[0]].shape)
    if node.residual:
        need(tensors[node.residual].shape == shape,
             f"its residual has the shape {tensors[node.residual].shape}, its result {shape}")
    for array in (node.post.M, node.post.R, node.post.B):
        need(array.shape == (node.post.blocks, node.outputs),
             f"parameters of the shape {array.shape} for {node.post.blocks} blocks of {node.outputs} channels")
    need(node.post.blocks in (1, blocks), f"it has {node.post.blocks} parameter blocks, others have {blocks}")
    need(0 <= index(node.mask) <= ALL_STEPS, f"mask={node.mask:#x} is not one of 64 bits")
    need(node.transform != "space_to_depth" or shape[2] % 2 == shape[3] % 2 == 0,
         f"space_to_depth needs an even width and height, not {shape[3]} x {shape[2]}")
    return TensorShape(written_shape(shape, node.transform), node.out_fmt)
