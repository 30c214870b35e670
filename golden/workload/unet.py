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
`NETWORK` says the same as data, and is what both the float forward pass and the integer layers are made from. Tensors
are [C, N, H, W], as everywhere in `golden`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

Float32Array = NDArray[np.float32]
Weights = Mapping[str, Float32Array]
Activations = dict[str, Float32Array]
Activation = Literal["relu", "silu"]

CLASSES = 10
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


@dataclass(frozen=True)
class Node:
    """One convolution of the network with everything that is applied to its result before it is written.

    Parameters
    ----------
    name : str
        Prefix of its weights' names.
    inputs : tuple of str
        Tensors that are concatenated along the channels.
    output : str
        The tensor that it writes.
    residual : str or None
        Tensor that is added to the convolution's result.
    modulation : str or None
        Name of the linear layer that makes scale and shift per sample and channel out of the embedding.
    relu : bool
        The activation function comes last.
    stride : int
        1 or 2.
    upsample : bool
        Write every pixel as 2x2 pixels.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    residual: str | None = None
    modulation: str | None = None
    relu: bool = True
    stride: int = 1
    upsample: bool = False


def _block(name: str, inputs: tuple[str, ...], output: str, upsample: bool = False) -> tuple[Node, ...]:
    """A residual block; with two inputs its residual goes through a 1x1 convolution."""
    hidden, skip = f"{name}.hidden", f"{name}.skip"
    body = (Node(f"{name}.conv0", inputs, hidden, modulation=f"{name}.emb"),
            Node(f"{name}.conv1", (hidden,), output, residual=skip if len(inputs) > 1 else inputs[0],
                 upsample=upsample))
    return (Node(skip, inputs, skip, relu=False), *body) if len(inputs) > 1 else body


NETWORK = (
    Node("conv_in", ("x",), "h0"),
    *_block("e1", ("h0",), "h1"),
    Node("down", ("h1",), "d", stride=2),
    *_block("e3", ("d",), "d3"),
    *_block("mid", ("d3",), "m"),
    *_block("u3", ("m", "d3"), "u", upsample=True),
    Node("up", ("u",), "v"),
    *_block("u1", ("v", "h1"), "o"),
    Node("conv_out", ("o",), "F", relu=False),
)


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


def embedding(weights: Weights, sigma: float, labels: ArrayLike, activation: Activation = "relu") -> Float32Array:
    """What the network knows of noise level and class, [N, 64].

    Features are cosines, then sines, of log(sigma) / 4 (EDM's c_noise, table 1 of arXiv 2206.00364) times `freqs`.

    Raises
    ------
    ValueError
        If a label is not a class in [0, 9] or sigma is not positive.
    """
    classes = np.asarray(labels)
    if classes.ndim != 1 or classes.dtype.kind not in "iu" or not np.isin(classes, np.arange(CLASSES)).all():
        raise ValueError(f"labels must be one row of integers in [0, {CLASSES - 1}], not {labels!r}")
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, not {sigma}")
    angles = weights["freqs"] * np.float32(np.log(sigma) / 4)
    noise = np.concatenate([np.cos(angles), np.sin(angles)])
    noise = _linear(weights, "map1", _activated(_linear(weights, "map0", noise), activation))
    return _activated(noise + weights["map_label.weight"].T[classes], activation)


def modulation(weights: Weights, name: str, e: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Factor and shift [K, N] that a block's first convolution is modulated with, from embeddings [N, 64]."""
    scale, shift = np.split(_linear(weights, name, e).T, 2)
    return 1 + scale, shift


def convolve(weights: Weights, node: Node, x: Float32Array) -> Float32Array:
    """A node's convolution with bias: [C, N, H, W] to [K, N, H / stride, W / stride], zeros beyond the border."""
    kernel = weights[f"{node.name}.weight"]
    outputs, inputs, size, _ = kernel.shape
    border = (size // 2, size // 2)
    windows = sliding_window_view(np.pad(x, ((0, 0), (0, 0), border, border)), (size, size), axis=(2, 3))
    windows = windows[:, :, :: node.stride, :: node.stride].transpose(0, 4, 5, 1, 2, 3)
    pixels = windows.shape[3:]
    flat = kernel.reshape(outputs, -1) @ windows.reshape(inputs * size * size, -1)
    return flat.reshape(outputs, *pixels) + weights[f"{node.name}.bias"][:, None, None, None]


def forward(weights: Weights, x: Float32Array, sigma: float, labels: ArrayLike,
            activation: Activation = "relu") -> Activations:
    """Run the network: every tensor of `NETWORK` by name, "F" being the result.

    Parameters
    ----------
    weights : mapping
        From `load`.
    x : float32 [1, N, H, W]
        The preconditioned image, c_in * image; H and W are even.
    sigma : float
        Noise level, the same for all samples.
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
    tensors: Activations = {"x": x.astype(np.float32)}
    for node in NETWORK:
        y = convolve(weights, node, np.concatenate([tensors[name] for name in node.inputs]))
        if node.modulation is not None:
            factor, shift = modulation(weights, node.modulation, e)
            y = y * factor[:, :, None, None] + shift[:, :, None, None]
        if node.residual is not None:
            y = y + tensors[node.residual]
        if node.relu:
            y = _activated(y, activation)
        if node.upsample:
            y = y.repeat(2, axis=2).repeat(2, axis=3)
        tensors[node.output] = y
    return tensors


def _linear(weights: Weights, name: str, x: Float32Array) -> Float32Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _activated(x: Float32Array, activation: Activation) -> Float32Array:
    if activation == "relu":
        return np.maximum(x, 0)
    return x / (1 + np.exp(-np.maximum(x, np.float32(-80))))     # below -80 it is 0 all the same, and exp is finite
