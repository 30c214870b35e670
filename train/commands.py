"""What the command line's words do: train, and write the result whole or not at all."""

from pathlib import Path

import torch

from golden.report import write_whole
from golden.workload.unet import CLASSES

from . import classifier, distil, edm
from .files import to_npz
from .models import MODELS


def train_floats(names: list[str], seed: int, iterations: int | None, out: Path) -> None:
    """Train float models one after the other and write `out`/NAME_float.npz."""
    torch.set_num_threads(1)
    for name in names:
        model = MODELS[name]
        trained = edm.train(model, seed, lambda line: print(line, flush=True), iterations)
        meta = {
            "model": name, "channels": model.shape.channels, "image_size": model.image_size,
            "activation": model.shape.activation, "classes": CLASSES,
            "pixel_mean": trained.pixel_mean, "pixel_deviation": trained.pixel_deviation,
            "command": _command("float", name, seed, iterations),
            "torch": torch.__version__, "seconds": round(trained.seconds),
            "iteration": trained.iteration, "validation_loss": round(trained.validation_loss, 5),
        }
        path = out / model.path.name
        write_whole(path, to_npz(trained.parameters, meta))
        print(f"{path}: {path.stat().st_size:,} bytes, {trained.seconds:.0f} s of training")


def train_classifier(seed: int, out: Path) -> None:
    """Train the classifier and write `out`/classifier.npz."""
    torch.set_num_threads(1)
    trained = classifier.train(seed, lambda line: print(line, flush=True))
    meta = {"command": f"python -m train classifier --seed {seed}", "torch": torch.__version__,
            "validation_accuracy": round(trained.accuracy, 4), "seconds": round(trained.seconds)}
    path = out / "classifier.npz"
    write_whole(path, classifier.to_npz(trained, meta))
    print(f"{path}: {path.stat().st_size:,} bytes, accuracy {trained.accuracy:.4f} on the validation images")


def distil_models(names: list[str], seed: int, iterations: int | None, out: Path) -> None:
    """Quantise and distil models one after the other and write `out`/NAME_int4.npz."""
    torch.set_num_threads(1)
    options = distil.Options() if iterations is None else distil.Options(iterations=iterations)
    for name in names:
        model = distil.distil(name, distil.RECIPE, options, seed, lambda line: print(line, flush=True))
        path = out / f"{name}_int4.npz"
        model.save(path, _command("distil", name, seed, iterations))
        print(f"{path}: {path.stat().st_size:,} bytes")


def _command(what: str, name: str, seed: int, iterations: int | None) -> str:
    return f"python -m train {what} {name} --seed {seed}" + (f" --iterations {iterations}" if iterations else "")
