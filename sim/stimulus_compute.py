"""Stimuli and expected answers for the benches of the dense array, the post-processor and the layer engine."""

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.formats import FORMATS, S4, U4, Format, Int64Array, ScaleFormat, Tensor, Uint8Array
from golden.layer import Layer, compile_layer, initial_memory, place
from golden.layout import space_to_depth, store, upsample2
from golden.ppu import postprocess
from hw.config import LINE_TAPS, Config
from hw.interfaces import layer_layout, load_layout, window_layout

from .beats import image_beats, ktile_beats, layer_word, memory_beats
from .stimulus import (
    GAP,
    TENSORS,
    TRANSFORMS,
    LayerCase,
    array_steps,
    chained_case,
    layer_case,
    random_layer,
    random_post,
    random_tensor,
)
from .trace import join
from .words import Words, to_words

__all__ = ["dense", "engine", "ppu"]

EDGES = np.array([0, 7, 8, 15])     # nibbles: 0, the largest and the smallest signed, the largest unsigned


class _WindowStream:
    """Windows of whole tiles, and the accumulators that they must end in."""

    def __init__(self, config: Config, rng: np.random.Generator, codes: Int64Array) -> None:
        self.config, self.rng = config, rng
        self.scales = ScaleFormat(config.scale_exp_bits, config.scale_man_bits).value(codes)
        self.layout = window_layout(config)
        self.windows: list[int] = []
        self.tiles: list[int] = []

    def tile(self, k_tile: int, lengths: list[int], *, ktile_last: bool, full: bool = False) -> None:
        """Add a tile of vectors of so many windows each; `full` ones use all taps."""
        config, rng = self.config, self.rng
        acc = np.zeros((config.cols, config.rows), np.int64)
        for number, length in enumerate(lengths):
            group = int(rng.integers(config.scale_depth))
            local = np.zeros_like(acc)
            for window in range(length):
                last = window == length - 1
                tile_last = last and number == len(lengths) - 1
                local += self._window(full, {
                    "last": last, "tile_last": tile_last, "ktile_last": tile_last and ktile_last, "half": k_tile & 1,
                    "group": group})
            acc += local * self.scales[k_tile, group][:, np.newaxis]
        self.tiles += [join(lane, config.acc_bits) for lane in acc]

    def _window(self, full: bool, fields: dict[str, Any]) -> Int64Array:
        """Add a window; return its products [cols, rows]. Taps out of use have no mask, and random weights."""
        config, rng = self.config, self.rng
        nibbles, weights = (rng.choice(EDGES, size) if rng.random() < 0.2 else rng.integers(0, 16, size)
                            for size in (config.rows + 2, (LINE_TAPS, config.cols)))
        taps = 7 if full else int(rng.integers(1, 8))
        used = (taps >> np.arange(LINE_TAPS) & 1)[:, np.newaxis]
        mask = used * (rng.random((LINE_TAPS, config.rows)) < rng.choice([0.5, 0.9, 1]))
        a_signed = bool(rng.integers(2))
        weights = (weights ^ 8) - 8
        values = (nibbles ^ 8) - 8 if a_signed else nibbles
        self.windows.append(self.layout.const(fields | {
            "mask": [join(row, 1) for row in mask], "taps": taps, "a_signed": a_signed,
            "nibbles": nibbles.tolist(), "weights": weights.tolist(),
        }).as_value().value)
        neighbours = np.stack([values[tap:tap + config.rows] for tap in range(LINE_TAPS)]) * mask
        return weights.T @ neighbours


def dense(config: Config, rng: np.random.Generator, k_tiles: int = 4) -> dict[str, NDArray[Any]]:
    """Tiles for the dense array.

    Returns
    -------
    dict
        codes: scale words [k_tiles * scale_depth]. random_windows, steady_windows: what the stream brings, at random,
        and in vectors of one window each. random_tiles, steady_tiles: the accumulators of every tile and lane.
        k_tiles, steady_span: the number of k-tiles in random_windows; the cycles from the first step of steady_windows
        to the last if nothing but the drain holds them up. cols: lanes.
    """
    scale = ScaleFormat(config.scale_exp_bits, config.scale_man_bits)
    size = k_tiles, config.scale_depth, config.cols
    codes = np.where(rng.random(size) < 0.3, rng.choice([0, scale.max_code], size),
                     rng.integers(0, scale.max_code + 1, size))
    random, steady = (_WindowStream(config, rng, codes) for _ in range(2))
    for k_tile in range(k_tiles):
        tiles = int(rng.integers(1, 5))
        for tile in range(tiles):
            lengths = rng.choice([1, 1, 1, 2, 4], rng.integers(1, 5)).tolist()
            random.tile(k_tile, lengths, ktile_last=tile == tiles - 1)
    tiles, vectors = 3, config.cols + 10
    for _ in range(tiles):
        steady.tile(0, [1] * vectors, ktile_last=False, full=True)
    steps = LINE_TAPS if config.dense_taps == 1 else 1
    tile_bits = config.rows * config.acc_bits
    return {
        "codes": to_words([join(word, 8) for word in codes.reshape(-1, config.cols)], 8 * config.cols),
        "random_windows": to_words(random.windows, random.layout.size),
        "random_tiles": to_words(random.tiles, tile_bits),
        "steady_windows": to_words(steady.windows, steady.layout.size),
        "steady_tiles": to_words(steady.tiles, tile_bits),
        "k_tiles": np.array(k_tiles),
        "steady_span": np.array((tiles * vectors - 1) * max(steps, config.lanes_per_scale) + steps),
        "cols": np.array(config.cols),
    }


def _post_layers(config: Config, rng: np.random.Generator) -> list[Layer]:
    """Every transform with every output and residual format, on small maps; then the ends of the shift."""
    def layer(transform: Any, out_fmt: Format, res_fmt: Format | None, shift: int | None = None) -> Layer:
        even = 2 if transform == "space_to_depth" else 1
        samples, outputs = (int(rng.integers(1, most + 1)) for most in (3, config.cols + 3))
        height, width = (even * int(rng.integers(1, 6 // even)) for _ in range(2))
        reach_bits = config.acc_bits if shift else 5 if shift == 0 else int(rng.integers(4, config.acc_bits + 1))
        post = random_post(rng, config, outputs, samples, reach_bits, out_fmt, shift)
        # One channel per array, whose weights do not matter: the bench plays the arrays.
        inputs = (random_tensor(rng, (config.arrays, samples, height, width), U4),)
        return Layer(f"reach {reach_bits}", inputs, np.ones((outputs, config.arrays, 1, 1), np.int64), S4,
                     np.zeros((outputs, 1), np.uint8), config.arrays, post, out_fmt,
                     random_tensor(rng, (outputs, samples, height, width), res_fmt) if res_fmt else None, transform)

    formats = list(FORMATS.values())
    layers = [layer(*choice) for choice in product(TRANSFORMS, formats, [None, *formats])]
    layers += [layer("none", fmt, None, shift) for fmt in formats for shift in (0, 1, config.shift_max)]
    return layers


def _post_memory(layer: Layer, config: Config, acc: Int64Array, before: Uint8Array, out: int) -> Uint8Array:
    """Memory after post-processing accumulators [K, N, H, W]."""
    result = postprocess(acc, layer.post, layer.out_fmt, layer.residual, acc_bits=config.acc_bits)
    rearrange = {"none": lambda tensor: tensor, "upsample": upsample2, "space_to_depth": space_to_depth}
    rearranged: Tensor = rearrange[layer.transform](result)
    after = before.copy()
    store(after, out, rearranged)
    return after


def ppu(config: Config, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Layers for the post-processor, the accumulators given.

    Returns
    -------
    dict
        layers: the configuration of each. I.loads: beats that layer I needs, some of them for other blocks. I.arrays:
        the arrays that take part. I.tiles: what these hold, [arrays * tiles * lanes], random where nothing may look.
        before, after: the activation memory, [layers, act_nibbles]. rows, cols, run: of the configuration.
    """
    result: dict[str, NDArray[Any]] = {}
    words, befores, afters = [], [], []
    for number, layer in enumerate(_post_layers(config, rng)):
        outputs, (_, samples, height, width) = len(layer.weights), layer.in_shape
        used = [0] if config.arrays == 1 else np.flatnonzero(rng.permutation(config.arrays) >= rng.integers(2)).tolist()
        placement = place(layer, config, rng.integers(0, GAP, TENSORS).tolist())
        channels: list[list[int]] = [[] for _ in range(config.arrays)]
        for channel in range(config.arrays):
            channels[used[channel % len(used)]].append(channel)
        image = compile_layer(layer, config, placement, channels, param_first=number % 8, sample_first=number % 4)

        reach = 1 << (int(layer.name.split()[1]) - 1)
        acc = rng.integers(-reach, reach, (outputs, samples * height * width))
        acc[rng.random(acc.shape) < 0.1] = reach - 1
        acc[rng.random(acc.shape) < 0.1] = -reach
        parts = [(acc * rng.random() / len(used)).astype(np.int64) for _ in used[1:]]
        parts.append(acc - sum(parts))
        tiles, k_tiles = image.fields["tiles"], image.fields["k_tiles"]
        padded = rng.integers(-1 << (config.acc_bits - 1), 1 << (config.acc_bits - 1),
                              (len(used), k_tiles * config.cols, tiles * config.rows))
        padded[:, :outputs, :acc.shape[1]] = parts
        lanes = padded.reshape(len(used), k_tiles, config.cols, tiles, config.rows).swapaxes(2, 3)
        before = initial_memory(layer, placement, rng.integers(0, 16, config.act_nibbles).astype(np.uint8))

        words.append(layer_word(config, image))
        befores.append(before)
        afters.append(_post_memory(layer, config, acc.reshape(outputs, samples, height, width), before, placement.out))
        result |= {
            f"{number}.loads": image_beats(config, image),
            f"{number}.arrays": np.array(used),
            f"{number}.tiles": to_words((join(lane, config.acc_bits) for lane in lanes.reshape(-1, config.rows)),
                                        config.rows * config.acc_bits),
        }
    return result | {
        "layers": to_words(words, layer_layout(config).size), "before": np.stack(befores), "after": np.stack(afters),
        "rows": np.array(config.rows), "cols": np.array(config.cols), "run": np.array(config.run),
    }


def engine(config: Config, rng: np.random.Generator, layers: int = 3) -> dict[str, NDArray[Any]]:
    """A chain of layers for the engine, each one's output the next one's input.

    Returns
    -------
    dict
        setup: beats that fill the memory and load lists, parameters and samples of all layers. I.weights: beats of
        layer I's k-tiles. layers: configuration words. steps: [layers, arrays] cycles in which each array multiplies.
        after: [layers + 1, beats, words] the whole activation memory after so many layers.
    """
    def beats(memory: Uint8Array) -> Words:
        return memory_beats(config, memory)[:, :config.bus_bits // 64]

    outputs = 2 * config.cols + 1   # three k-tiles: more than the weight memory holds at once
    wide = random_layer(rng, config, shape=(4, 1, 3, 5), outputs=outputs, kernel=3, transform="none", out_fmt=U4,
                        residual=None, weights=rng.choice([-8, -3, 2, 7], (outputs, 4, 3, 3)))
    cases: list[LayerCase] = [layer_case(rng, config, wide, first=(3, 2, 1))]
    for out_fmt in ([U4, S4][number % 2] for number in range(1, layers)):
        cases.append(chained_case(rng, config, cases[-1], out_fmt))
    return {
        "setup": np.concatenate([memory_beats(config, cases[0].before),
                                 *(image_beats(config, case.image) for case in cases)]),
        "layers": to_words((layer_word(config, case.image) for case in cases), layer_layout(config).size),
        "steps": np.array([array_steps(config, case.image) for case in cases]),
        "after": np.stack([beats(cases[0].before), *(beats(case.after) for case in cases)]),
        "load_bits": np.array(load_layout(config).size),
    } | {f"{number}.weights": np.concatenate(ktile_beats(config, case.image)) for number, case in enumerate(cases)}
