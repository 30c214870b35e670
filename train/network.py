"""The diffusion U-Net of `golden.workload.unet` in PyTorch: same graph (`NETWORK`), same names, trainable."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from golden.workload.unet import CLASSES, NETWORK, Node

from .models import Shape

Parameters = dict[str, Tensor]

EMBEDDING = 64
FREQUENCIES = 32
HIGHEST_FREQUENCY = 64.0
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"relu": functional.relu, "silu": functional.silu}


def initial_parameters(shape: Shape, generator: torch.Generator) -> Parameters:
    """Parameters before training, by state-dict name.

    Weights are uniform with the variance 1 / (3 fan-in), as PyTorch's layers have them; biases, modulations and the
    last layer are 0, so that the untrained network's output is 0. `freqs` are constants: 32, from 1 to 64, geometric.
    """
    found: Parameters = {"freqs": HIGHEST_FREQUENCY ** torch.linspace(0, 1, FREQUENCIES)}

    def layer(name: str, outputs: int, *inputs: int, bias: bool = True, zero: bool = False) -> None:
        bound = 0.0 if zero else torch.tensor(inputs).prod().item() ** -0.5
        found[f"{name}.weight"] = (2 * torch.rand(outputs, *inputs, generator=generator) - 1) * bound
        if bias:
            found[f"{name}.bias"] = torch.zeros(outputs)

    layer("map0", EMBEDDING, 2 * FREQUENCIES)
    layer("map1", EMBEDDING, EMBEDDING)
    layer("map_label", EMBEDDING, CLASSES, bias=False)
    found["map_label.weight"] *= CLASSES ** 0.5  # only one of its inputs is ever 1
    for node in NETWORK:
        outputs, inputs = _channels(node, shape.channels)
        size = 1 if node.name.endswith(".skip") else 3
        layer(node.name, outputs, inputs, size, size, zero=node.output == "F")
        if node.modulation is not None:
            layer(node.modulation, 2 * outputs, EMBEDDING, zero=True)
    return found


def _channels(node: Node, channels: int) -> tuple[int, int]:
    """Output and input channels of a convolution."""
    half_size = {"d", "d3", "m", "u"}                       # and what is inside the blocks that write them

    def of(tensor: str) -> int:
        if tensor in ("x", "F"):
            return 1
        inside = tensor in half_size or tensor.split(".")[0] in ("e3", "mid", "u3")
        return 2 * channels if inside else channels

    return of(node.output), sum(of(name) for name in node.inputs)


def embedding(parameters: Parameters, sigma: Tensor, labels: Tensor, activation: str) -> Tensor:
    """Embeddings [N, 64] of noise levels [N] and classes [N]; as `golden.workload.unet.embedding`."""
    act = ACTIVATIONS[activation]
    angles = torch.log(sigma)[:, None] / 4 * parameters["freqs"]
    noise = torch.cat([angles.cos(), angles.sin()], dim=1)
    noise = act(functional.linear(noise, parameters["map0.weight"], parameters["map0.bias"]))
    noise = functional.linear(noise, parameters["map1.weight"], parameters["map1.bias"])
    return act(noise + parameters["map_label.weight"].T[labels])


def node_output(parameters: Parameters, node: Node, inputs: Tensor, residual: Tensor | None, e: Tensor,
                activation: str) -> Tensor:
    """What a node writes, [N, K, H, W], from its concatenated inputs [N, C, H, W] and embeddings [N, 64]."""
    weight = parameters[f"{node.name}.weight"]
    y = functional.conv2d(inputs, weight, parameters[f"{node.name}.bias"], node.stride, weight.shape[-1] // 2)
    if node.modulation is not None:
        both = functional.linear(e, parameters[f"{node.modulation}.weight"], parameters[f"{node.modulation}.bias"])
        factor, shift = both[:, :, None, None].chunk(2, dim=1)
        y = y * (1 + factor) + shift
    if residual is not None:
        y = y + residual
    if node.relu:
        y = ACTIVATIONS[activation](y)
    return functional.interpolate(y, scale_factor=2) if node.upsample else y


def forward(parameters: Parameters, x: Tensor, sigma: Tensor, labels: Tensor, activation: str) -> dict[str, Tensor]:
    """Run the network: every tensor of `NETWORK` by name, [N, C, H, W], "F" being the result.

    `x` is the preconditioned image [N, 1, H, W]; noise levels `sigma` and classes `labels` are [N].
    """
    e = embedding(parameters, sigma, labels, activation)
    tensors = {"x": x}
    for node in NETWORK:
        inputs = torch.cat([tensors[name] for name in node.inputs], dim=1)
        residual = None if node.residual is None else tensors[node.residual]
        tensors[node.output] = node_output(parameters, node, inputs, residual, e, activation)
    return tensors
