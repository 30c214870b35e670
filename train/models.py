"""The float models that the repository trains, and how their weights are kept."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from golden.workload.unet import DATA

from .network import Parameters, Shape


@dataclass(frozen=True)
class Model:
    """A float model and how it is trained.

    Parameters
    ----------
    name : str
    shape : Shape
    image_size : int
        8 or 16 pixels.
    iterations : int
        Of training; the parameters with the lowest validation loss are kept.
    """

    name: str
    shape: Shape = field(default_factory=lambda: Shape(32))
    image_size: int = 8
    iterations: int = 3000

    @property
    def path(self) -> Path:
        """Where the weights are kept."""
        return DATA / f"{self.name}_float.npz"


MODELS = {model.name: model for model in (
    Model("digits32"),
    Model("digits16", Shape(16)),
    Model("digits32_silu", Shape(32, "silu")),
    Model("digits16_16x16", Shape(16), image_size=16),
)}


def to_npz(parameters: Parameters, meta: dict[str, Any]) -> bytes:
    """A file of float16 arrays by name, and `meta` as JSON."""
    arrays: dict[str, Any] = {name: value.numpy().astype(np.float16) for name, value in parameters.items()}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays, meta=np.array(json.dumps(meta)))
    return file.getvalue()


def from_npz(path: Path) -> tuple[Parameters, dict[str, Any]]:
    """Parameters in float32, and `meta`."""
    with np.load(path, allow_pickle=False) as archive:
        found = {name: torch.from_numpy(archive[name].astype(np.float32)) for name in archive.files if name != "meta"}
        return found, json.loads(str(archive["meta"]))


def rounded(parameters: Parameters) -> Parameters:
    """Parameters as a file gives them back: through float16."""
    return {name: value.detach().half().float() for name, value in parameters.items()}
