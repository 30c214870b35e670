"""A quantised model: integer weights, formats and scales of all tensors, and what stays real. One file holds it all.

What a tensor's integer 1 stands for is `scales[name][step]`, what a weight's stands for `golden.quant.weights` says.
Everything else that is real, biases and the layers of the embedding, is folded into the post-processor's parameters
when the model is compiled for a time step and class (`golden.workload.layers`), and so is kept in float32.
"""

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.formats import FORMATS, Format, ScaleFormat
from golden.graph.forward import Weights
from golden.graph.graph import Node
from golden.quant.weights import Float64Array, QuantisedWeights
from golden.report import write_whole
from golden.workload.unet import GRAPH, NETWORK

__all__ = ["TENSORS", "QuantisedModel"]

VERSION = 1
TENSORS = tuple(GRAPH.names())


@dataclass(frozen=True, eq=False)
class QuantisedModel:
    """A quantised network: checked, copied and read-only.

    Parameters
    ----------
    model : str
        Name of the float model that it was made from.
    sigmas : float64 [steps]
        Noise level of each time step, falling.
    weights : mapping of str to QuantisedWeights
        By the name of the layer, all of `golden.workload.unet.NETWORK`.
    rest : mapping of str to float32 array
        Everything of the float model but the convolutions' weights, by state-dict names: biases, embedding, modulation.
        May differ from the float model's (dilation, bias correction, training).
    formats : mapping of str to Format
        Of every tensor, by name (`TENSORS`).
    scales : mapping of str to float64 [steps]
        What 1 stands for in every tensor, by time step; positive. Tensors that are concatenated anywhere have one
        scale, for their reader has one factor M.

    Raises
    ------
    ValueError
        If something is missing, unknown, not finite or of another shape; the message names the layer or tensor.
    """

    model: str
    sigmas: Float64Array
    weights: Mapping[str, QuantisedWeights]
    rest: Weights
    formats: Mapping[str, Format]
    scales: Mapping[str, Float64Array]

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model must be the name of the float model, not empty")
        sigmas = _frozen(self.sigmas, np.float64)
        if sigmas.ndim != 1 or sigmas.size == 0 or not (np.isfinite(sigmas) & (sigmas > 0)).all() \
                or (np.diff(sigmas) >= 0).any():
            raise ValueError(f"sigmas must be one row of falling positive numbers, not {self.sigmas!r}")
        _names("layer", self.weights, [node.name for node in NETWORK])
        _names("format of tensor", self.formats, TENSORS)
        _names("scale of tensor", self.scales, TENSORS)
        scales = {name: _frozen(self.scales[name], np.float64) for name in TENSORS}
        for name, scale in scales.items():
            if scale.shape != sigmas.shape or not (np.isfinite(scale) & (scale > 0)).all():
                raise ValueError(f"tensor {name!r}: scales must be {sigmas.size} positive numbers, one per time step, "
                                 f"not {self.scales[name]!r}")
            if self.formats[name] not in FORMATS.values():
                raise ValueError(f"tensor {name!r}: the format must be one of {', '.join(FORMATS)}, "
                                 f"not {self.formats[name]!r}")
        _check_channels(self.weights)
        for names in GRAPH.sharing():
            for name in names[1:]:
                if not np.array_equal(scales[name], scales[names[0]]):
                    raise ValueError(f"tensors {names[0]!r} and {name!r} are concatenated and must have one scale")
        rest = {name: _frozen(array, np.float32) for name, array in self.rest.items()}
        for node in NETWORK:
            _check_rest(node, rest, len(self.weights[node.name].q))
        for name, array in rest.items():
            if not np.isfinite(array).all():
                raise ValueError(f"{name!r} must be finite")
        fields = {"sigmas": sigmas, "scales": scales, "rest": rest, "weights": dict(self.weights),
                  "formats": dict(self.formats)}
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    @property
    def steps(self) -> int:
        """Number of time steps."""
        return int(self.sigmas.size)

    def save(self, path: Path | str, command: str = "") -> None:
        """Write it as one compressed npz; `load` gives back the same to the last bit.

        `command` says in the file how it was made; nothing reads it.
        """
        arrays: dict[str, NDArray[Any]] = {"sigmas": self.sigmas}
        weights = {}
        for name, quantised in self.weights.items():
            arrays |= {f"weights/{name}/q": quantised.q.astype(np.int8), f"weights/{name}/codes": quantised.codes,
                       f"weights/{name}/channel_scale": quantised.channel_scale}
            window = quantised.scale_format
            weights[name] = {"group": quantised.group, "format": quantised.fmt.name,
                             "scale_format": [window.exp_bits, window.man_bits]}
        arrays |= {f"rest/{name}": array for name, array in self.rest.items()}
        arrays |= {f"scales/{name}": array for name, array in self.scales.items()}
        formats = {name: fmt.name for name, fmt in self.formats.items()}
        arrays["meta"] = np.array(json.dumps({"version": VERSION, "model": self.model, "weights": weights,
                                              "formats": formats, "command": command}))
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **arrays)
        write_whole(Path(path), content.getvalue())

    @classmethod
    def load(cls, path: Path | str) -> "QuantisedModel":
        """Read what `save` wrote.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is not such a file, or as the class; the message names the file.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            meta = json.loads(arrays.pop("meta").item())
            if meta["version"] != VERSION:
                raise ValueError(f"version {meta['version']}, only {VERSION} can be read")
            weights = {name: QuantisedWeights(
                arrays[f"weights/{name}/q"].astype(np.int64), arrays[f"weights/{name}/codes"],
                arrays[f"weights/{name}/channel_scale"], info["group"], FORMATS[info["format"]],
                ScaleFormat(*info["scale_format"])) for name, info in meta["weights"].items()}
            formats = {name: FORMATS[fmt] for name, fmt in meta["formats"].items()}
            return cls(meta["model"], arrays["sigmas"], weights, _under("rest/", arrays), formats,
                       _under("scales/", arrays))
        except KeyError as error:
            raise ValueError(f"{path}: not a quantised model, {error.args[0]!r} is missing or unknown") from error
        except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: not a quantised model: {error}") from error


def _frozen(array: object, dtype: type[np.floating]) -> NDArray[Any]:
    copied = np.array(array, dtype=dtype)
    copied.flags.writeable = False
    return copied


def _names(what: str, given: Iterable[str], expected: Iterable[str]) -> None:
    """Refuse mappings with other names than `expected`."""
    missing, unknown = set(expected) - set(given), set(given) - set(expected)
    if missing or unknown:
        raise ValueError(f"{what}: " + "; ".join(f"{problem} {', '.join(map(repr, sorted(names)))}" for problem, names
                                                 in (("missing", missing), ("unknown", unknown)) if names))


def _check_channels(weights: Mapping[str, QuantisedWeights]) -> None:
    channels = {TENSORS[0]: weights[NETWORK[0].name].q.shape[1]}
    for node in NETWORK:
        outputs, inputs = weights[node.name].q.shape[:2]
        read = sum(channels[name] for name in node.inputs)
        if inputs != read:
            raise ValueError(f"layer {node.name!r} reads {read} channels, its weights have {inputs}")
        channels[node.output] = outputs


def _check_rest(node: Node, rest: Mapping[str, NDArray[Any]], outputs: int) -> None:
    """A layer's bias, and the layer that makes its modulation, must be there and have the right number of outputs."""
    if f"{node.name}.weight" in rest:
        raise ValueError(f"{node.name + '.weight'!r} belongs to the quantised weights, not to the rest")
    wanted = {f"{node.name}.bias": outputs}
    if node.modulation is not None:
        wanted |= {f"{node.modulation}.{part}": 2 * outputs for part in ("weight", "bias")}
    for name, size in wanted.items():
        if name not in rest:
            raise ValueError(f"{name!r} is missing in the rest")
        if rest[name].shape[:1] != (size,):
            raise ValueError(f"{name!r} must have {size} entries on its first axis, not the shape {rest[name].shape}")


def _under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
