"""Import from ONNX: models of Conv, Add, Concat, Resize (nearest, 2x) and Relu; needs the package `onnx`.

Everything else is refused with the node's name and operator. Tensors keep their names; nodes without a name get one
from their operator and place.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from golden.graph.forward import Float32Array, Weights, channels
from golden.graph.fuse import fused
from golden.graph.graph import Graph, GraphError, Node, Source

__all__ = ["from_onnx", "load_onnx"]

OPERATORS = ("Conv", "Add", "Concat", "Resize", "Relu", "Identity", "Constant")
# Ways of Resize to find the nearest pixel that at 2x all come to out >> 1; "half" is also half a pixel for PyTorch's.
RESIZE_MODES = (("asymmetric", "floor"), ("asymmetric", "round_prefer_floor"), ("half_pixel", "round_prefer_floor"),
                ("half_pixel", "round_prefer_ceil"), ("pytorch_half_pixel", "round_prefer_floor"),
                ("pytorch_half_pixel", "round_prefer_ceil"))
SCALES = (1.0, 1.0, 2.0, 2.0)


def load_onnx(path: Path) -> tuple[Graph, Weights]:
    """Read a model from a file; raises OSError, and GraphError with the file's name."""
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError:
        raise GraphError(f"{path}: not an ONNX model") from None
    try:
        return from_onnx(model)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None


def from_onnx(model: onnx.ModelProto) -> tuple[Graph, Weights]:
    """A model as a network, its layers joined as the hardware wants them.

    Raises
    ------
    GraphError
        If the model is not valid, or uses something else than the above; names the node.
    """
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise GraphError(f"not a valid model: {str(error).strip().splitlines()[0]}") from None
    reader = _Reader(model.graph)
    for number, node in enumerate(model.graph.node):
        reader.take(number, node)
    graph = reader.graph([output.name for output in model.graph.output])
    graph = fused(graph, reader.weights)
    channels(graph, reader.weights)
    return graph, reader.weights


class _Reader:
    """Nodes and arrays while a model is read."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants: dict[str, NDArray[Any]] = {item.name: numpy_helper.to_array(item)
                                                   for item in graph.initializer}
        self.sources = [_source(item) for item in graph.input if item.name not in self.constants]
        self.alias: dict[str, str] = {}                 # what Identity calls by another name
        self.joined: dict[str, tuple[str, ...]] = {}    # what Concat makes
        self.nodes: list[Node] = []
        self.weights: dict[str, Float32Array] = {}
        self._names: set[str] = set()

    def graph(self, outputs: Sequence[str]) -> Graph:
        """The network so far, outputs that are other tensors by another name being copies."""
        for name in outputs:
            if (source := self._tensor(f"output {name!r}", name)) != name:
                self.nodes.append(Node(self._name(f"{name} copied"), (source,), name, kind="elementwise"))
        return Graph(tuple(self.sources), tuple(self.nodes), tuple(outputs))

    def take(self, number: int, node: onnx.NodeProto) -> None:
        """Read a node."""
        where = f"node {node.name or number!r} ({node.op_type})"
        if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
            raise GraphError(f"{where}: the operator must be one of {', '.join(OPERATORS)}")
        name = self._name(node.name or f"{node.op_type}{number}")
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        take = {"Conv": self._conv, "Add": self._add, "Relu": self._relu, "Concat": self._concat,
                "Resize": self._resize, "Identity": self._identity, "Constant": self._value}[node.op_type]
        take(where, name, node, attributes)

    # Operators.

    def _conv(self, where: str, name: str, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        arrays = [self._constant(where, item) for item in node.input[1:] if item]
        kernel = arrays[0].shape[2:]
        if kernel not in ((1, 1), (3, 3)):
            raise GraphError(f"{where}: the kernel must be 1 x 1 or 3 x 3, not {' x '.join(map(str, kernel))}")
        strides = tuple(attributes.get("strides", (1, 1)))
        border = kernel[0] // 2
        pads = tuple(attributes.get("pads", (0, 0, 0, 0)))
        auto = attributes.get("auto_pad", b"NOTSET").decode()
        if auto in ("SAME_UPPER", "SAME_LOWER") and (strides == (1, 1) or border == 0):
            pads = (border,) * 4
        elif auto not in ("NOTSET", "VALID"):
            raise GraphError(f"{where}: auto_pad={auto} with strides {strides} pads one side more than the other; use "
                             f"pads {(border,) * 4}")
        for what, found, legal in (("strides", strides, ((1, 1), (2, 2))), ("pads", pads, ((border,) * 4,)),
                                   ("dilations", tuple(attributes.get("dilations", (1, 1))), ((1, 1),)),
                                   ("group", attributes.get("group", 1), (1,))):
            if found not in legal:
                raise GraphError(f"{where}: {what}={found} is not legal: it must be {' or '.join(map(str, legal))}")
        for part, array in zip(("weight", "bias"), arrays, strict=False):
            self.weights[f"{name}.{part}"] = array.astype(np.float32)
        source = self.alias.get(node.input[0], node.input[0])
        inputs = self.joined.get(source) or (self._tensor(where, source),)
        self.nodes.append(Node(name, inputs, node.output[0], stride=int(strides[0])))

    def _add(self, where: str, name: str, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        first, second = (self._tensor(where, item) for item in node.input)
        self.nodes.append(Node(name, (first,), node.output[0], residual=second, kind="elementwise"))

    def _relu(self, where: str, name: str, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        source = self._tensor(where, node.input[0])
        self.nodes.append(Node(name, (source,), node.output[0], relu=True, kind="elementwise"))

    def _concat(self, where: str, name: str, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        if attributes["axis"] not in (1, -3):
            raise GraphError(f"{where}: axis={attributes['axis']} is not legal: it must be 1, the channels")
        if len(node.input) == 1:
            self.alias[node.output[0]] = self._tensor(where, node.input[0])
            return
        parts = tuple(self._tensor(where, item) for item in node.input)
        if len(parts) != 2 or parts[0] == parts[1]:
            raise GraphError(f"{where}: {', '.join(parts)} is not legal: it must be two different tensors")
        self.joined[node.output[0]] = parts

    def _resize(self, where: str, name: str, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        mode = attributes.get("mode", b"nearest").decode()
        ways = (attributes.get("coordinate_transformation_mode", b"half_pixel").decode(),
                attributes.get("nearest_mode", b"round_prefer_floor").decode())
        if mode != "nearest" or ways not in RESIZE_MODES:
            raise GraphError(f"{where}: mode={mode}, {ways[0]}, {ways[1]} is not legal: it must be nearest, with "
                             + " or ".join(map(", ".join, RESIZE_MODES)))
        if len(node.input) < 3 or not node.input[2]:
            raise GraphError(f"{where}: it must have constant scales {SCALES}, not sizes")
        scales = np.ones(4)
        scales[list(attributes.get("axes", range(4)))] = self._constant(where, node.input[2])
        if tuple(scales) != SCALES:
            raise GraphError(f"{where}: scales {tuple(scales.tolist())} are not legal: they must be {SCALES}")
        source = self._tensor(where, node.input[0])
        self.nodes.append(Node(name, (source,), node.output[0], upsample=True, kind="elementwise"))

    def _identity(self, where: str, name: str, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        source = self.alias.get(node.input[0], node.input[0])
        if source in self.constants:
            self.constants[node.output[0]] = self.constants[source]
        else:
            self.alias[node.output[0]] = source

    def _value(self, where: str, name: str, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        values = [value for key, value in attributes.items() if key in ("value", "value_float", "value_floats")]
        if not values:
            raise GraphError(f"{where}: it must have a value of numbers")
        tensor = values[0]
        self.constants[node.output[0]] = (numpy_helper.to_array(tensor) if isinstance(tensor, onnx.TensorProto)
                                          else np.array(tensor, np.float32))

    # Names.

    def _name(self, wanted: str) -> str:
        """The name, or one like it that is not taken yet."""
        name, number = wanted, 1
        while name in self._names:
            name, number = f"{wanted}.{number}", number + 1
        self._names.add(name)
        return name

    def _tensor(self, where: str, name: str) -> str:
        """A tensor's own name."""
        name = self.alias.get(name, name)
        if name in self.joined:
            raise GraphError(f"{where} reads {name!r}, which a Concat makes; only a Conv can")
        if name in self.constants:
            raise GraphError(f"{where} reads the constant {name!r}; only tensors that are computed can stand there")
        return name

    def _constant(self, where: str, name: str) -> NDArray[Any]:
        if name not in self.constants:
            raise GraphError(f"{where}: {name!r} must be a constant")
        return self.constants[name]


def _source(item: onnx.ValueInfoProto) -> Source:
    """An input, quantised to signed 8 bits."""
    shape = item.type.tensor_type.shape.dim
    if len(shape) != 4 or shape[1].dim_value < 1:
        found = [dimension.dim_value or dimension.dim_param or "?" for dimension in shape]
        raise GraphError(f"input {item.name!r} must have the shape [N, C, H, W] with a known C, not {found}")
    return Source(item.name, shape[1].dim_value)
