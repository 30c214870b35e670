"""Description of a network of real numbers, in pieces that the hardware runs as one layer each.

A node computes, in this order, each part if it has it:

    y = convolution(concatenated inputs) + bias     or, element-wise:  y = input * scale + shift
    y = y * factor + shift                          modulation: by parameter block, that is by sample
    y = y + residual
    y = relu(y)
    y = y, every pixel as 2 x 2 pixels              (upsample)

What the numbers are is apart from this, in a mapping of arrays by name (`golden.graph.forward` lists them): the trained
U-Net (`golden.workload.unet`), files (`golden.graph.file`) and ONNX models (`golden.graph.from_onnx`) are all this.
Tensors are [C, N, H, W], as everywhere in `golden`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from golden.formats import FORMATS, Format

__all__ = ["Graph", "GraphError", "Kind", "Node", "Source"]

Kind = Literal["convolution", "elementwise"]
KINDS = ("convolution", "elementwise")
BITS = (4, 8)


class GraphError(ValueError):
    """A network, or a file of one, that is not legal; the message names the node or tensor and says what is."""


@dataclass(frozen=True)
class Source:
    """A tensor that comes from outside.

    Parameters
    ----------
    name : str
    channels : int
        C.
    bits : int
        As it is quantised: 4 or 8.
    signed : bool
        Whether it may have negative values.
    """

    name: str
    channels: int
    bits: int = 8
    signed: bool = True

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise GraphError(f"input {self.name!r}: bits={self.bits!r} is not legal: it must be 4 or 8")
        if self.channels < 1:
            raise GraphError(f"input {self.name!r}: channels={self.channels} is not legal: it must be at least 1")

    @property
    def fmt(self) -> Format:
        """Of the quantised tensor."""
        return FORMATS[f"{'s' if self.signed else 'u'}{self.bits}"]


@dataclass(frozen=True)
class Node:
    """A convolution, or an element-wise layer, with everything that is applied to its result before it is written.

    Parameters
    ----------
    name : str
        Prefix of its weights' names.
    inputs : tuple of str
        One tensor; of a convolution also two, that are concatenated along the channels.
    output : str
        The tensor that it writes.
    residual : str, optional
        Tensor that is added to the result.
    modulation : str, optional
        Name of what makes factor and shift per sample and channel.
    relu : bool
        The activation function comes last.
    stride : int
        1 or 2; 1 of an element-wise layer.
    upsample : bool
        Write every pixel as 2x2 pixels.
    kind : str
        "convolution" or "elementwise".
    bits : int, optional
        Of the quantised result, 4 or 8: unsigned after ReLU, else signed. By default 4 after ReLU and 8 elsewhere.
    weight_bits : int
        Of the quantised weights of a convolution, 4 or 8.

    Raises
    ------
    GraphError
        If one of these is not legal.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    residual: str | None = None
    modulation: str | None = None
    relu: bool = False
    stride: int = 1
    upsample: bool = False
    kind: Kind = "convolution"
    bits: int | None = None
    weight_bits: int = 4

    def __post_init__(self) -> None:
        most = 2 if self.kind == "convolution" else 1
        strides = (1, 2) if self.kind == "convolution" else (1,)
        self._need(self.kind in KINDS, f"kind={self.kind!r}", f"one of {', '.join(KINDS)}")
        self._need(1 <= len(self.inputs) <= most, f"{len(self.inputs)} inputs", f"1 to {most}")
        self._need(len(set(self.inputs)) == len(self.inputs), f"inputs {', '.join(self.inputs)}", "different tensors")
        self._need(self.stride in strides, f"stride={self.stride}", " or ".join(map(str, strides)))
        self._need(self.bits in (None, *BITS), f"bits={self.bits}", "4 or 8")
        self._need(self.weight_bits in BITS, f"weight_bits={self.weight_bits}", "4 or 8")

    def _need(self, condition: bool, what: str, legal: str) -> None:
        if not condition:
            raise GraphError(f"node {self.name!r}: {what} is not legal: it must be {legal}")

    @property
    def fmt(self) -> Format:
        """Of the quantised result."""
        bits = self.bits or (4 if self.relu else 8)
        return FORMATS[f"{'u' if self.relu else 's'}{bits}"]

    @property
    def reads(self) -> tuple[str, ...]:
        """Inputs and residual."""
        return (*self.inputs, *((self.residual,) if self.residual is not None else ()))


@dataclass(frozen=True)
class Graph:
    """A network.

    Parameters
    ----------
    inputs : tuple of Source
    nodes : tuple of Node
        In the order in which they run.
    outputs : tuple of str
        Tensors that are wanted.

    Raises
    ------
    GraphError
        If a node reads what nothing has made before it, two nodes or two tensors have one name, or nothing makes an
        output.
    """

    inputs: tuple[Source, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.inputs or not self.nodes or not self.outputs:
            raise GraphError("a network has at least one input, one node and one output")
        for what, names in (("nodes", [node.name for node in self.nodes]), ("tensors", list(self.names()))):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise GraphError(f"there are two {what} called {', '.join(map(repr, twice))}")
        known = {source.name for source in self.inputs}
        for node in self.nodes:
            for name in node.reads:
                if name not in known:
                    raise GraphError(f"node {node.name!r} reads {name!r}, which nothing has made before it; there are "
                                     f"{', '.join(map(repr, sorted(known)))}")
            known.add(node.output)
        if missing := set(self.outputs) - {node.output for node in self.nodes}:
            raise GraphError(f"no node makes the outputs {', '.join(map(repr, sorted(missing)))}")

    def names(self) -> list[str]:
        """Names of all tensors, inputs first."""
        return [*(source.name for source in self.inputs), *(node.output for node in self.nodes)]

    @property
    def formats(self) -> dict[str, Format]:
        """Of all tensors, by name."""
        return {source.name: source.fmt for source in self.inputs} | {node.output: node.fmt for node in self.nodes}

    @property
    def strided(self) -> set[str]:
        """Tensors that are read with stride 2."""
        return {name for node in self.nodes if node.stride == 2 for name in node.inputs}

    @property
    def upsampled_reads(self) -> set[str]:
        """Upsampled tensors that nothing but convolutions reads, each together with such tensors only."""
        found = {node.output for node in self.nodes if node.upsample} - set(self.outputs)
        while True:
            kept = found.copy()
            for node in self.nodes:
                plain = node.kind != "convolution" or node.stride != 1 or not found.issuperset(node.inputs)
                kept -= set(node.reads if plain else node.reads[len(node.inputs):])
            if kept == found:
                return found
            found = kept

    def sharing(self) -> list[tuple[str, ...]]:
        """All tensors, in sets that have one scale: those that are concatenated anywhere, as a layer has one factor."""
        sets: list[tuple[str, ...]] = [(name,) for name in self.names()]
        for node in self.nodes:
            joined = [group for group in sets if set(group) & set(node.inputs)]
            sets = [group for group in sets if group not in joined] + [tuple(chain(*joined))]
        return sets

    def shapes(self, sizes: Mapping[str, Sequence[int]],
               channels: Mapping[str, int]) -> dict[str, tuple[int, int, int]]:
        """C, H and W of all tensors.

        Parameters
        ----------
        sizes : mapping of str to (H, W)
            Of the inputs.
        channels : mapping of str to int
            Of the tensors that nodes write, by node; see `golden.graph.forward.channels`.

        Raises
        ------
        GraphError
            If a node's inputs or its residual do not have the sizes that it needs; names it.
        """
        found = {source.name: (source.channels, sizes[source.name][0], sizes[source.name][1]) for source in self.inputs}
        for node in self.nodes:
            height, width = found[node.inputs[0]][1:]
            if any(found[name][1:] != (height, width) for name in node.inputs):
                raise GraphError(f"node {node.name!r} concatenates tensors of different sizes: "
                                 + ", ".join(f"{name!r} {found[name][1]} x {found[name][2]}" for name in node.inputs))
            if node.stride == 2:
                if height % 2 or width % 2:
                    raise GraphError(f"node {node.name!r}: stride 2 needs an even height and width, not {height} x "
                                     f"{width}")
                height, width = height // 2, width // 2
            made = channels[node.name], height, width
            if node.residual is not None and found[node.residual] != made:
                raise GraphError(f"node {node.name!r}: its residual {node.residual!r} is "
                                 f"{' x '.join(map(str, found[node.residual]))} (C x H x W), its result "
                                 f"{' x '.join(map(str, made))}")
            found[node.output] = (made[0], 2 * height, 2 * width) if node.upsample else made
        return found
