"""Stimuli and expected answers for the benches of the post-processor and the layer engine."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.detector import Labels
from golden.formats import FORMATS, S4, S8, U4, Format, Int64Array, Tensor, Uint8Array
from golden.layer import LabelPlace, Layer, compile_layer, initial_memory, place
from golden.layout import space_to_depth, store, upsample2
from golden.ppu import postprocess
from hw.config import Config
from hw.interfaces import layer_layout

from .beats import image_beats, ktile_beats, label_beats, label_words, layer_word, memory_beats
from .stimulus import (
    GAP,
    TENSORS,
    TRANSFORMS,
    Labelled,
    LayerCase,
    array_steps,
    chained_case,
    layer_case,
    output_nonzeros,
    random_layer,
    random_post,
    random_tensor,
)
from .trace import join
from .words import Words, to_words

__all__ = ["engine", "ppu"]

def _post_layers(config: Config, rng: np.random.Generator) -> list[Layer]:
    """Every transform with every output and residual format, on small maps; then the ends of the shift."""
    def layer(transform: Any, out_fmt: Format, res_fmt: Format | None, shift: int | None = None) -> Layer:
        even = 2 if transform == "space_to_depth" else 1
        samples, outputs = (int(rng.integers(1, most + 1)) for most in (3, config.cols + 3))
        height, width = (even * int(rng.integers(1, 6 // even)) for _ in range(2))
        reach_bits = config.acc_bits if shift else 5 if shift == 0 else int(rng.integers(4, config.acc_bits + 1))
        post = random_post(rng, config, outputs, samples, reach_bits, out_fmt, shift)
        # What the arrays add up does not matter: the bench plays them.
        inputs = (random_tensor(rng, (1, samples, height, width), U4),)
        return Layer(f"reach {reach_bits}", inputs, np.ones((outputs, 1, 1, 1), np.int64), S4,
                     np.zeros((outputs, 1), np.uint8), 1, post, out_fmt,
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
    """Layers for the post-processor, the accumulators given, or for element-wise ones a tensor in memory.

    Returns
    -------
    dict
        layers: the configuration of each. outside: whether it tries to write beyond its region. I.loads: beats that
        layer I needs, some of them for other blocks. I.arrays: the arrays that take part. I.tiles: what these hold,
        [arrays * tiles * lanes], random where nothing may look. I.nonzeros: of each output channel, k-tile by k-tile,
        [k_tiles, cols, parts], of columns beyond the last -1. before, after: the activation memory,
        [layers, act_nibbles]. rows, cols, run, write_nibbles: of the configuration.
    """
    result: dict[str, NDArray[Any]] = {}
    words, befores, afters, outside = [], [], [], []
    for number, layer in enumerate(_post_layers(config, rng)):
        outputs, (_, samples, height, width) = len(layer.weights), layer.in_shape
        x_fmt = list(FORMATS.values())[rng.integers(len(FORMATS))] if rng.random() < 0.4 else None
        taking_part = rng.permutation(config.arrays) >= (0 if config.arrays == 1 else rng.integers(2))
        used = [] if x_fmt else np.flatnonzero(taking_part).tolist()
        placement = place(layer, config, rng.integers(0, GAP, TENSORS).tolist())
        image = compile_layer(layer, config, placement, param_first=number % 8, sample_first=number % 4)

        reach = 1 << (int(layer.name.split()[1]) - 1)
        acc = rng.integers(-reach, reach, (outputs, samples * height * width))
        acc[rng.random(acc.shape) < 0.1] = reach - 1
        acc[rng.random(acc.shape) < 0.1] = -reach
        before = initial_memory(layer, placement, rng.integers(0, 16, config.act_nibbles).astype(np.uint8))
        fields = image.fields
        if x_fmt is not None:
            strided = width in config.strided_widths and rng.random() < 0.7
            shape = (-(-outputs // 4), samples, 2 * height, 2 * width) if strided else (outputs, samples, height, width)
            x = random_tensor(rng, shape, x_fmt)
            acc = (space_to_depth(x) if strided else x).values[:outputs].reshape(acc.shape)
            x_base = placement.end + int(rng.integers(GAP))
            store(before, x_base, x)
            pixels = int(np.prod(shape[1:]))
            fields = fields | {"elementwise": True, "x_base": x_base, "x_channel": x_fmt.planes * pixels,
                               "x_plane": pixels, "x_format": {"wide": x_fmt.planes - 1, "signed": x_fmt.signed},
                               "x_strided": strided}
        shares = [(acc * rng.random() / len(used)).astype(np.int64) for _ in used[1:]]
        shares += [acc - sum(shares)] if used else []
        tiles, k_tiles = image.fields["tiles"], image.fields["k_tiles"]
        padded = rng.integers(-1 << (config.acc_bits - 1), 1 << (config.acc_bits - 1),
                              (len(used), k_tiles * config.cols, tiles * config.rows))
        padded[:, :outputs, :acc.shape[1]] = np.array(shares).reshape(len(used), *acc.shape)
        lanes = padded.reshape(len(used), k_tiles, config.cols, tiles, config.rows).swapaxes(2, 3)

        after = _post_memory(layer, config, acc.reshape(outputs, samples, height, width), before, placement.out)
        parts = 4 if layer.transform == "space_to_depth" else 1
        nonzeros = np.full((k_tiles * config.cols, parts), -1)
        nonzeros[:outputs] = output_nonzeros(layer, placement, after).reshape(outputs, parts)
        # Some regions end too soon.
        end = fields["out_end"]
        if rng.random() < 0.2:
            end = int(rng.integers(placement.out, end))
            after[end:] = before[end:]
        outside.append(end != fields["out_end"])
        words.append(layer_word(config, replace(image, fields=fields | {"out_end": end})))
        befores.append(before)
        afters.append(after)
        result |= {
            f"{number}.loads": image_beats(config, image),
            f"{number}.arrays": np.array(used),
            f"{number}.nonzeros": nonzeros.reshape(k_tiles, config.cols, parts),
            f"{number}.tiles": to_words((join(lane, config.acc_bits) for lane in lanes.reshape(-1, config.rows)),
                                        config.rows * config.acc_bits),
        }
    return result | {
        "layers": to_words(words, layer_layout(config).size), "before": np.stack(befores), "after": np.stack(afters),
        "outside": np.array(outside), "rows": np.array(config.rows), "cols": np.array(config.cols),
        "run": np.array(config.run), "write_nibbles": np.array(config.write_nibbles),
    }


def engine(config: Config, rng: np.random.Generator, layers: int = 3) -> dict[str, NDArray[Any]]:
    """A chain of layers for the engine, each one's output the next one's input, with the labels that it was given.

    Returns
    -------
    dict
        setup: beats that fill the memory and load tables, parameters, samples and first labels. I.weights: beats of
        layer I's k-tiles. layers: configuration words. steps: [layers, arrays] of the rows of each array. after:
        [layers + 1, beats, words] the whole activation memory after so many layers. label_slot, label_index, labels:
        where the labels of the last output are, and what.
    """
    def beats(memory: Uint8Array) -> Words:
        return memory_beats(config, memory)[:, :config.bus_bits // 64]

    outputs = 2 * config.cols + 1   # three k-tiles: more than the weight memory holds at once
    dead = np.arange(4) == 2
    inputs = Tensor(rng.integers(0, 16, (4, 1, 3, 5)) * ~dead[:, None, None, None], U4)
    wide = random_layer(rng, config, inputs=(inputs,), outputs=outputs, kernel=3, transform="none", out_fmt=U4,
                        residual=None, weights=rng.choice([-8, -3, 2, 7], (outputs, 4, 3, 3)), w_fmt=S4)
    labels = Labelled(LabelPlace(5, 0), Labels(np.arange(4) == 1, dead, rng.integers(0, 32, 4)))
    cases: list[LayerCase] = [layer_case(rng, config, wide, first=(3, 2, 1), inputs=[labels], detect=True)]
    for number in range(1, layers):
        out_fmt = [S8, S4][number % 2] if config.sparse else S4
        w_fmt = S8 if config.sparse and number == layers - 1 else S4
        cases.append(chained_case(rng, config, cases[-1], out_fmt, w_fmt=w_fmt))
    last = cases[-1].output
    # What earlier time steps left: labels that would leave every channel out if they were still read.
    stale = [(case.output.place, replace(case.labels_before, dead=np.ones_like(case.labels_before.dead)))
             for case in cases]
    return {
        "setup": np.concatenate([memory_beats(config, cases[0].before),
                                 *(label_beats(config, place, labels) for place, labels in stale),
                                 *(label_beats(config, item.place, item.labels) for item in cases[0].inputs),
                                 *(image_beats(config, case.image) for case in cases)]),
        "layers": to_words((layer_word(config, case.image) for case in cases), layer_layout(config).size),
        "steps": np.array([array_steps(config, case) for case in cases]),
        "after": np.stack([beats(cases[0].before), *(beats(case.after) for case in cases)]),
        "label_slot": np.array(last.place.slot), "label_index": last.place.first + np.arange(len(last.labels.bin)),
        "labels": np.array(label_words(last.labels)),
    } | {f"{number}.weights": np.concatenate(ktile_beats(config, case.image)) for number, case in enumerate(cases)}
