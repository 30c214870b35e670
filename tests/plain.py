"""A layer by the formulas of the architecture page in plain int64, independent of golden's modules."""

import numpy as np

from golden.formats import Uint8Array
from golden.layer import Layer

__all__ = ["plain_memory"]


def plain_memory(layer: Layer, out: int, before: Uint8Array) -> Uint8Array:
    """Memory after a layer whose output lies at `out`."""
    values = np.concatenate([tensor.values for tensor in layer.inputs])
    if layer.upsampled:
        values = np.repeat(np.repeat(values, 2, axis=2), 2, axis=3)
    channels, samples, height, width = values.shape
    outputs, _, kernel, _ = layer.weights.shape
    half = kernel // 2
    padded = np.pad(values, ((0, 0), (0, 0), (half, half), (half, half)))
    exponent, mantissa = np.divmod(layer.codes[:, np.arange(channels) // layer.group].astype(np.int64), 8)
    scale = np.where(exponent == 0, mantissa, (8 + mantissa) << np.maximum(exponent - 1, 0))

    acc = np.zeros((outputs, samples, height, width), np.int64)
    for c, r, s in np.ndindex(channels, kernel, kernel):
        weight = (scale[:, c] * layer.weights[:, c, r, s])[:, None, None, None]
        acc += weight * padded[c, :, r:r + height, s:s + width]

    post, fmt = layer.post, layer.out_fmt
    m, r, b = (block[post.sample_block].T[:, :, None, None] for block in (post.M, post.R, post.B))
    total = acc * m + b
    if layer.residual is not None:
        total += layer.residual.values * r
    if post.shift:
        total += 1 << post.shift - 1
    low, high = ((-8, 7) if fmt.signed else (0, 15)) if fmt.planes == 1 else ((-128, 127) if fmt.signed else (0, 255))
    y = np.clip(total >> post.shift, low, high)
    y[np.abs(y) < post.dead_zone] = 0

    if layer.transform == "upsample":
        y = np.repeat(np.repeat(y, 2, axis=2), 2, axis=3)
    elif layer.transform == "space_to_depth":
        y = np.stack([y[:, :, row::2, column::2] for row in range(2) for column in range(2)], axis=1)
        y = y.reshape(4 * outputs, samples, height // 2, width // 2)
    memory = before.copy()
    for channel in range(len(y)):
        for plane in range(fmt.planes):
            nibbles = (y[channel] >> 4 * plane & 15).reshape(-1)
            first = out + (fmt.planes * channel + plane) * nibbles.size
            memory[first:first + nibbles.size] = nibbles
    return memory
