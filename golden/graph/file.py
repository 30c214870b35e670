"""Networks as files: a JSON description beside an npz of arrays. `docs/networks.md` shows both."""

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from golden.graph.forward import Float32Array, Weights, channels, modulation_blocks
from golden.graph.graph import Graph, GraphError, Node, Source
from golden.report import write_whole

__all__ = ["FORMAT", "load_graph", "read_arrays", "save_graph"]

FORMAT = "sqdm-graph-1"
KEYS = ("format", "weights", "inputs", "nodes", "outputs")
NOTHING = type(None)
# What the values of inputs and nodes are in JSON; `inputs` is a list of names.
TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,), "output": (str,), "kind": (str,), "residual": (str, NOTHING), "modulation": (str, NOTHING),
    "channels": (int,), "stride": (int,), "weight_bits": (int,), "bits": (int, NOTHING),
    "relu": (bool,), "upsample": (bool,), "signed": (bool,)}


def load_graph(path: Path) -> tuple[Graph, Weights]:
    """Read a network: its description and its arrays.

    Raises
    ------
    OSError
        If a file cannot be read.
    GraphError
        If the files do not describe a legal network; the message names the file, the node and what is legal.
    """
    try:
        description = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise GraphError(f"{path}: not JSON: {error}") from None
    try:
        _check_keys("the description", description, KEYS, KEYS)
        if description["format"] != FORMAT:
            raise GraphError(f"format={description['format']!r} is not legal: it must be {FORMAT!r}")
        graph = Graph(
            tuple(_made(Source, f"input {number}", item) for number, item in enumerate(description["inputs"])),
            tuple(_made(Node, f"node {number}", item) for number, item in enumerate(description["nodes"])),
            _names("outputs", description["outputs"]))
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None
    file = path.parent / description["weights"]
    weights = read_arrays(file)
    try:
        channels(graph, weights)
        modulation_blocks(graph, weights)
        used = _used(graph)
        if unknown := sorted(set(weights) - used):
            raise GraphError(f"no node uses the arrays {', '.join(unknown)}")
    except GraphError as error:
        raise GraphError(f"{file}: {error}") from None
    return graph, weights


def save_graph(path: Path, graph: Graph, weights: Weights) -> None:
    """Write a network as PATH and, beside it, its arrays as the same name with the ending npz.

    Raises
    ------
    GraphError
        If the arrays are not those of the network.
    OSError
        If it cannot be written.
    """
    channels(graph, weights)
    arrays = path.with_suffix(".npz")
    kept = {name: np.asarray(array, np.float32) for name, array in weights.items() if name in _used(graph)}
    description = {"format": FORMAT, "weights": arrays.name, "inputs": [asdict(source) for source in graph.inputs],
                   "nodes": [_shown(node) for node in graph.nodes], "outputs": graph.outputs}
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **kept)
    write_whole(arrays, content.getvalue())
    write_whole(path, json.dumps(description, indent=1) + "\n")


def read_arrays(path: Path) -> dict[str, Float32Array]:
    """Real arrays of an npz by name, float32.

    Raises
    ------
    OSError
        If the file cannot be read.
    GraphError
        If it is not such a file.
    """
    arrays: dict[str, Float32Array] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                array = archive[name]
                if array.dtype.kind not in "fiub":
                    raise GraphError(f"{path}: {name} must be numbers, not {array.dtype}")
                arrays[name] = array.astype(np.float32)
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        if isinstance(error, GraphError):
            raise
        raise GraphError(f"{path}: not an npz file of arrays") from None
    return arrays


def _used(graph: Graph) -> set[str]:
    """Names that arrays of the network may have."""
    used = set()
    for node in graph.nodes:
        used |= {f"{node.name}.{part}" for part in (("weight", "bias") if node.kind == "convolution"
                                                    else ("scale", "shift"))}
        if node.modulation is not None:
            used |= {f"{node.modulation}.factor", f"{node.modulation}.shift"}
    return used


def _shown(node: Node) -> dict[str, Any]:
    """A node without what it has by default."""
    return {field.name: value for field in fields(Node)
            if (value := getattr(node, field.name)) != field.default}


def _made(kind: type[Any], where: str, item: object) -> Any:
    """A `Source` or `Node` of what the description says."""
    if isinstance(item, dict) and isinstance(item.get("name"), str):
        where = f"{where.split()[0]} {item['name']!r}"
    _check_keys(where, item, [field.name for field in fields(kind)],
                [field.name for field in fields(kind) if field.default is MISSING])
    assert isinstance(item, dict)
    return kind(**{name: _value(where, name, value) for name, value in item.items()})


def _value(where: str, name: str, value: object) -> object:
    if name == "inputs":
        return _names(f"{where}: {name}", value)
    if type(value) not in TYPES[name]:      # not isinstance: true is no number
        legal = " or ".join("null" if kind is NOTHING else kind.__name__ for kind in TYPES[name])
        raise GraphError(f"{where}: {name}={value!r} is not legal: it must be {legal}")
    return value


def _names(where: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise GraphError(f"{where}={value!r} is not legal: it must be a list of names")
    return tuple(value)


def _check_keys(where: str, item: object, legal: Sequence[str], needed: Sequence[str]) -> None:
    if not isinstance(item, dict):
        raise GraphError(f"{where} must be an object, not {item!r}")
    if unknown := [name for name in item if name not in legal]:
        raise GraphError(f"{where}: {unknown[0]!r} is not legal: it must be one of {', '.join(legal)}")
    if missing := [name for name in needed if name not in item]:
        raise GraphError(f"{where}: {missing[0]!r} is missing")
