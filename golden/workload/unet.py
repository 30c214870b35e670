"""The diffusion U-Net in float32: post-activation blocks, no normalisation, nothing but convolutions.

    e    = relu(map1(relu(map0(features(sigma)))) + map_label(one_hot(label)))
    h0   = relu(conv_in(x))                          8x8
    h1   = block e1(h0)                              8x8
    d    = relu(down(h1))                            stride 2, 4x4
    d3   = block e3(d);  m = block mid(d3)           4x4
    u    = upsample2x(block u3(concat(m, d3)))       1x1 skip
    v    = relu(up(u))                               8x8
    o    = block u1(concat(v, h1))                   1x1 skip
    F    = conv_out(o)
    block(x): h = relu(conv0(x) * (1 + scale(e)) + shift(e));  y = relu(skip(x) + conv1(h))

Sizes are those of 8x8 images; others work alike. Models for comparison have SiLU in the place of every ReLU.
`GRAPH` says the same as data, and is what both the float forward pass and the integer layers are made from. Tensors are
[C, N, H, W], as everywhere in `golden`.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from golden.graph.forward import Activation, Activations, Float32Array, Weights, activated, convolve, run
from golden.graph.graph import Graph, Node, Source

__all__ = ["CLASSES", "DEFAULT_MODEL", "GRAPH", "INPUT", "MODELS", "NETWORK", "OUTPUT", "Activation", "Activations",
           "Float32Array", "ModelInfo", "Node", "Weights", "convolve", "embedding", "forward", "load", "modulation"]

CLASSES = 10
INPUT, OUTPUT = "x", "F"
DEFAULT_MODEL = "digits32"
DATA = Path(__file__).parent.parent / "data"
SUFFIX = "_float.npz"


@dataclass(frozen=True)
class ModelInfo:
    """What the file of a trained model says of it.

    Parameters
    ----------
    name : str
    channels : int
        At full resolution; there are twice as many at half.
    image_size : int
        Height and width, pixels.
    activation : str
        "relu" or "silu".
    pixel_mean, pixel_deviation : float
        Of the training images in pixel units, ink from 0 to 16; the network sees (pixel - mean) / deviation / 2.
    """

    name: str
    channels: int
    image_size: int
    activation: Activation
    pixel_mean: float
    pixel_deviation: float


def _info(path: Path) -> ModelInfo:
    with np.load(path, allow_pickle=False) as archive:
        meta = json.loads(str(archive["meta"]))
    if "args" in meta:      # the models of before the first commit
        meta = {"model": path.name.removesuffix(SUFFIX), "channels": meta["args"]["C"],
                "image_size": meta["args"]["res"], "activation": meta["args"]["act"], "pixel_mean": 4.884,
                "pixel_deviation": 6.017}
    return ModelInfo(meta["model"], meta["channels"], meta["image_size"], meta["activation"], meta["pixel_mean"],
                     meta["pixel_deviation"])


MODELS = {info.name: info for info in map(_info, sorted(DATA.glob(f"*{SUFFIX}")))}


def _block(name: str, inputs: tuple[str, ...], output: str, upsample: bool = False) -> tuple[Node, ...]:
    """A residual block; with two inputs its residual goes through a 1x1 convolution."""
    hidden, skip = f"{name}.hidden", f"{name}.skip"
    body = (Node(f"{name}.conv0", inputs, hidden, modulation=f"{name}.emb", relu=True),
            Node(f"{name}.conv1", (hidden,), output, residual=skip if len(inputs) > 1 else inputs[0], relu=True,
                 upsample=upsample))
    return (Node(skip, inputs, skip), *body) if len(inputs) > 1 else body


NETWORK = (
    Node("conv_in", (INPUT,), "h0", relu=True, weight_bits=8),
    *_block("e1", ("h0",), "h1"),
    Node("down", ("h1",), "d", relu=True, stride=2),
    *_block("e3", ("d",), "d3"),
    *_block("mid", ("d3",), "m"),
    *_block("u3", ("m", "d3"), "u", upsample=True),
    Node("up", ("u",), "v", relu=True),
    *_block("u1", ("v", "h1"), "o"),
    Node("conv_out", ("o",), OUTPUT, weight_bits=8),
)
GRAPH = Graph((Source(INPUT, 1),), NETWORK, (OUTPUT,))


@cache
def load(name: str = DEFAULT_MODEL) -> Weights:
    """The trained weights, float32 by name, of one of the `MODELS`.

    Raises
    ------
    ValueError
        If there is no such model.
    """
    if name not in MODELS:
        raise ValueError(f"model={name} is not legal: it must be one of {', '.join(MODELS)}")
    weights: dict[str, Float32Array] = {}
    with np.load(DATA / f"{name}{SUFFIX}", allow_pickle=False) as archive:
        for key in archive.files:
            if key != "meta":
                weights[key] = archive[key].astype(np.float32)
                weights[key].flags.writeable = False
    return weights


def embedding(weights: Weights, sigma: ArrayLike, labels: ArrayLike, activation: Activation = "relu") -> Float32Array:
    """What the network knows of noise level and class, [N, 64].

    Features are cosines, then sines, of log(sigma) / 4 (EDM's c_noise, table 1 of arXiv 2206.00364) times `freqs`.
    `sigma` is one number for all samples, or one for each, [N].

    Raises
    ------
    ValueError
        If a label is not a class in [0, 9] or sigma is not positive.
    """
    classes = np.asarray(labels)
    if classes.ndim != 1 or classes.dtype.kind not in "iu" or not np.isin(classes, np.arange(CLASSES)).all():
        raise ValueError(f"labels must be one row of integers in [0, {CLASSES - 1}], not {labels!r}")
    sigmas = np.asarray(sigma, dtype=np.float64)
    if sigmas.shape not in ((), classes.shape) or not (sigmas > 0).all():
        raise ValueError(f"sigma must be positive, one number or one for each of {classes.size} samples, not {sigma!r}")
    angles = weights["freqs"] * (np.log(sigmas) / 4).astype(np.float32)[..., None]
    noise = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    noise = _linear(weights, "map1", activated(_linear(weights, "map0", noise), activation))
    return activated(noise + weights["map_label.weight"].T[classes], activation)


def modulation(weights: Weights, name: str, e: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Factor and shift [K, N] that a block's first convolution is modulated with, from embeddings [N, 64]."""
    scale, shift = np.split(_linear(weights, name, e).T, 2)
    return 1 + scale, shift


def forward(weights: Weights, x: Float32Array, sigma: ArrayLike, labels: ArrayLike,
            activation: Activation = "relu") -> Activations:
    """Run the network: every tensor of `NETWORK` by name, "F" being the result.

    Parameters
    ----------
    weights : mapping
        From `load`.
    x : float32 [1, N, H, W]
        The preconditioned image, c_in * image; H and W are even.
    sigma : number, or numbers [N]
        Noise level of all samples, or of each.
    labels : integers [N]
        Class per sample.
    activation : str
        Of the model that the weights belong to, "relu" or "silu".

    Raises
    ------
    ValueError
        If the shapes of `x` and `labels` do not go together, or as `embedding`.
    """
    e = embedding(weights, sigma, labels, activation)
    if x.ndim != 4 or x.shape[:2] != (1, len(e)) or x.shape[2] % 2 or x.shape[3] % 2 or not x.size:
        raise ValueError(f"x must have the shape (1, {len(e)}, H, W) for {len(e)} labels, H and W even, not {x.shape}")
    return run(GRAPH, weights, {INPUT: x}, lambda name: modulation(weights, name, e), activation)


def _linear(weights: Weights, name: str, x: Float32Array) -> Float32Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
