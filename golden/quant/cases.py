"""The ways to quantise that are compared: name, model, and a recipe, a finished model or none (full precision)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from golden.formats import S4, S8
from golden.quant.recipe import FIRST_AND_LAST, SKIPS, Recipe, Scales, WeightRule
from golden.workload.unet import DATA, MODELS

__all__ = ["Case", "cases"]

Float = Literal["float", "mxint8"]

INT4 = Recipe()
FP8 = replace(INT4, weights=WeightRule())
MX8 = WeightRule(S8, "mxint8", method="minmax")
GROUPS = (1, 4, 8, 16)


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Parameters
    ----------
    part : str
        Heading of the rows that belong together.
    name : str
    model : str
        One of `golden.workload.unet.MODELS`.
    how : Recipe, Path or str
        A recipe, the file of a quantised model, "float" for full precision, or "mxint8" for `golden.quant.mx`'s
        published format with dynamic scales.
    """

    part: str
    name: str
    model: str
    how: Recipe | Path | Float


def cases() -> Iterator[Case]:
    """All of them; those of models and files that there are."""
    main = "digits32"
    part = "Formats"
    yield Case(part, "full precision (FP16)", main, "float")
    yield Case(part, "MXINT8, blocks of 32 channels, dynamic scales", main, "mxint8")
    eight = WeightRule(S8, "channel", method="minmax")
    yield Case(part, "INT8, weights per channel", main, replace(INT4, weights=eight, activation_bits=8))
    yield Case(part, "W8A4", main, replace(INT4, weights=eight))
    yield Case(part, "W4A8, FP8 scales, G = 8", main, replace(FP8, activation_bits=8))
    yield Case(part, "INT4 everywhere, FP8 scales, G = 8", main,
               replace(FP8, sensitive=WeightRule(S4), signed_bits=4))

    part = "INT4, 8-bit first and last layer"
    real: tuple[Scales, ...] = ("tensor", "channel")
    for scales in real:
        yield Case(part, f"weights per {scales}", main, replace(INT4, weights=WeightRule(S4, scales)))
    coded: tuple[tuple[str, Scales], ...] = (("FP8", "fp8"), ("power-of-two", "power_of_two"))
    for name, scales in coded:
        for group in GROUPS:
            yield Case(part, f"{name} scales, G = {group}", main,
                       replace(INT4, weights=WeightRule(S4, scales, group)))
    base = "UE1M3 scales, G = 8"
    yield Case(part, f"{base} (the base of all below)", main, INT4)

    part = "The base with one thing changed"
    yield Case(part, "skips' weights 8-bit too", main, replace(INT4, sensitive_layers=(*FIRST_AND_LAST, *SKIPS)))
    yield Case(part, "first, last, skips and embedding MXINT8", main,
               replace(INT4, sensitive=MX8, sensitive_layers=(*FIRST_AND_LAST, *SKIPS), mxint8_embedding=True))
    yield Case(part, "one activation scale for all steps (no TPQ)", main, replace(INT4, temporal=False))
    yield Case(part, "power-of-two activation scales", main, replace(INT4, power_of_two_activations=True))
    yield Case(part, "min-max instead of error-minimising weight scales", main,
               replace(INT4, weights=replace(INT4.weights, method="minmax")))
    for scales in real:
        yield Case(part, f"weights per {scales}, dilated", main,
                   replace(INT4, weights=WeightRule(S4, scales), dilate=True))
    yield Case(part, "dilated", main, replace(INT4, dilate=True))
    yield Case(part, "bias correction as published", main, replace(INT4, bias="mean"))
    yield Case(part, "bias correction where active", main, replace(INT4, bias="active"))
    yield Case(part, "rounding with feedback", main, replace(INT4, feedback=True))
    best = replace(INT4, feedback=True, bias="active")
    yield Case(part, "feedback and bias correction where active", main, best)
    yield Case(part, "the same without TPQ", main, replace(best, temporal=False))
    yield from _distilled(part, main)

    if "digits32_silu" in MODELS:
        part, silu = "SiLU instead of ReLU: signed INT4 activations", "digits32_silu"
        yield Case(part, "SiLU, full precision (FP16)", silu, "float")
        yield Case(part, "SiLU, INT8, weights per channel", silu, replace(INT4, weights=eight, activation_bits=8))
        yield Case(part, "SiLU, INT4 weights per tensor", silu, replace(INT4, weights=WeightRule(S4, "tensor")))
        yield Case(part, f"SiLU, INT4, {base}", silu, INT4)
        yield Case(part, "SiLU, the same with feedback and bias correction", silu, replace(best, bias="mean"))

    for model in MODELS:
        if model not in (main, "digits32_silu"):
            part = f"Model {model}"
            yield Case(part, f"{model}, full precision (FP16)", model, "float")
            yield Case(part, f"{model}, INT4, {base}", model, INT4)
            yield Case(part, f"{model}, feedback and bias correction", model, best)
            yield from _distilled(part, model)


def _distilled(part: str, model: str) -> Iterator[Case]:
    path = DATA / f"{model}_int4.npz"
    if path.exists():
        yield Case(part, f"block-wise distillation ({path.name})", model, path)
