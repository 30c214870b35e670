"""The models that the repository trains. No PyTorch here, so that the command line can name them without."""

from dataclasses import dataclass, field
from pathlib import Path

from golden.workload.unet import DATA


@dataclass(frozen=True)
class Shape:
    """What a model's parameters are for.

    Parameters
    ----------
    channels : int
        At full size; twice as many at half size.
    activation : str
        "relu" or "silu", everywhere in the network.
    """

    channels: int
    activation: str = "relu"


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
    Model("digits32_silu", Shape(32, "silu"), iterations=2200),
    Model("digits16_16x16", Shape(16), image_size=16),
)}
DISTILLED = ("digits32", "digits16")    # of which there are 4-bit models
