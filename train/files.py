"""Parameters as files: float16 arrays by name."""

import io
import json
from typing import Any

import numpy as np

from .network import Parameters


def to_npz(parameters: Parameters, meta: dict[str, Any], **more: np.ndarray) -> bytes:
    """A file of float16 parameters by name, more arrays as they are, and `meta` as JSON."""
    arrays: dict[str, Any] = {name: value.numpy().astype(np.float16) for name, value in parameters.items()} | more
    file = io.BytesIO()
    np.savez_compressed(file, **arrays, meta=np.array(json.dumps(meta)))
    return file.getvalue()


def rounded(parameters: Parameters) -> Parameters:
    """Parameters as a file gives them back: through float16."""
    return {name: value.detach().half().float() for name, value in parameters.items()}
