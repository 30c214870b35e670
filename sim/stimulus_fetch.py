"""Vectors for the blocks of the memory path that speak in streams: address generator, window fetcher, readout.

Requests follow from plain coordinates: which neighbour of which pixel of which sample. The fetcher's and the readout's
memories are not simulated but answered from lists, in the order of the reads.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.formats import U4
from golden.layout import address
from hw.config import LINE_TAPS, Config
from hw.interfaces import entry_layout, layer_layout, request_layout, window_layout

from .trace import join
from .words import to_words

__all__ = ["addrgen", "fetcher", "readout"]

Vectors = dict[str, NDArray[Any]]

CENTRE = 0b000_010_000
ALL = 0b111_111_111
# N, H, W, k-tiles, and tap masks per channel: one for all, several in turn, or None for random ones.
SHAPES: list[tuple[int, int, int, int, tuple[int, ...] | None]] = [
    (1, 4, 5, 1, (ALL,)),
    (2, 3, 7, 2, (CENTRE,)),
    (3, 1, 2, 1, (ALL, CENTRE)),            # H = 1, and W smaller than the rows
    (2, 5, 1, 3, (ALL,)),                   # W = 1
    (1, 1, 1, 4, (0b010_000_010, ALL)),     # one pixel
    (2, 3, 3, 2, ()),                       # empty list
    (4, 2, 3, 1, (1 << 0, 1 << 2, 1 << 6, 1 << 8, 0b101_000_101)),
    (1, 9, 6, 2, None),
    (3, 4, 4, 2, None),
    (1, 1, 23, 1, None),
    (1, 2, 3, 3, ()),                       # empty, directly after another layer
    (2, 2, 2, 2, (ALL,)),
    (1, 5, 9, 2, (ALL,)),
]
LONG = (0, len(SHAPES) - 2, len(SHAPES) - 1)    # layers with more kernel lines than rows


def _channels(config: Config, rng: np.random.Generator, shape: tuple[int, int, int],
              masks: tuple[int, ...] | None, least: int) -> list[dict[str, int]]:
    """Channel list entries of two segments of at least `least` channels somewhere in memory, in any order."""
    size = int(np.prod(shape))
    counts = [int(count) for count in rng.integers(max(1, least), least + 4, size=2)]
    space = config.act_nibbles // 2
    bases = [half * space + int(rng.integers(max(1, space - max(counts) * size))) for half in range(2)]
    places = [int(address(c, 0, 0, 0, 0, base=base, fmt=U4, shape=(count, *shape))) % config.act_nibbles
              for base, count in zip(bases, counts, strict=True) for c in range(count)]
    entries = []
    for number, place in enumerate(rng.permutation(places)):
        taps = int(rng.integers(1, ALL + 1)) if masks is None else masks[number % len(masks)]
        entries.append({
            "base": int(place), "weight": int(rng.integers(config.weight_depth - LINE_TAPS)),
            "group": int(rng.integers(config.scale_depth)), "taps": taps, "a_signed": int(rng.integers(2)),
            "last": int(rng.integers(2)),
        })
    return entries


def _requests(config: Config, shape: tuple[int, int, int], k_tiles: int, entries: list[dict[str, int]],
              half: int) -> Iterator[dict[str, Any]]:
    """The reads of a layer, by coordinates; `half` is the half of the weight memory with its first k-tile."""
    samples, height, width = shape
    pixels, rows = samples * height * width, config.rows
    tiles = -(-pixels // rows)
    lines = [(number, line) for number, entry in enumerate(entries) for line in range(3)
             if entry["taps"] >> 3 * line & 7]
    for k_tile in range(k_tiles):
        for tile in range(tiles):
            for number, line in lines:
                entry = entries[number]
                first = entry["base"] + tile * rows - 1 + width * (line - 1)
                mask = np.zeros((LINE_TAPS, rows), bool)
                for row in range(min(rows, pixels - tile * rows)):
                    n, h, w = (int(index) for index in np.unravel_index(tile * rows + row, shape))
                    for tap in range(LINE_TAPS):
                        y, x = h + line - 1, w + tap - 1
                        if 0 <= y < height and 0 <= x < width:
                            place = int(address(0, 0, n, y, x, base=entry["base"], fmt=U4, shape=(1, *shape)))
                            assert place == first + row + tap, "a tile's neighbours are not contiguous"
                            mask[tap, row] = entry["taps"] >> 3 * line + tap & 1
                of_entry = [other for other in lines if other[0] == number]
                tile_last = (number, line) == lines[-1]
                yield {
                    "mask": [join(bits, 1) for bits in mask], "taps": entry["taps"] >> 3 * line & 7,
                    "a_signed": entry["a_signed"], "last": entry["last"] and (number, line) == of_entry[-1],
                    "tile_last": tile_last, "ktile_last": tile_last and tile == tiles - 1,
                    "half": half + k_tile & 1, "group": entry["group"], "addr": first % config.act_nibbles,
                    "weight": entry["weight"] + of_entry.index((number, line)),
                }


def addrgen(config: Config, rng: np.random.Generator) -> Vectors:
    """Layers of all kinds one after another, each with its part of the channel list.

    Returns
    -------
    dict
        `layers`, per layer `k_tiles`, `counts` of requests and `gapless` (a tile has enough reads to hide the making of
        the next tile's masks), `requests`, and the list writes `entries` at `indices`, of which layer i's are those
        from `starts[i]` to `starts[i + 1]`.
    """
    layout, request_bits = layer_layout(config), request_layout(config).size
    layers: list[int] = []
    requests: list[int] = []
    entries: list[int] = []
    indices: list[int] = []
    counts, gapless, starts, half, first = [], [], [0], 0, 0
    for samples, height, width, k_tiles, masks in SHAPES:
        shape = samples, height, width
        pixels = samples * height * width
        long = config.rows // 6 + 1 if len(layers) in LONG else 0
        channels = [] if masks == () else _channels(config, rng, shape, masks, long)
        if first + len(channels) > config.list_depth:
            first = 0   # where the first layers' entries are no longer needed
        layers.append(layout.const({
            "width": width, "height": height, "pixels": pixels, "sample_pixels": height * width,
            "tiles": -(-pixels // config.rows), "k_tiles": k_tiles,
            "list_first": [first] + [int(rng.integers(config.list_depth)) for _ in range(config.arrays - 1)],
            "list_count": [len(channels)] + [int(rng.integers(config.list_depth)) for _ in range(config.arrays - 1)],
        }).as_value().value)
        made = list(_requests(config, shape, k_tiles, channels, half))
        requests += [request_layout(config).const(request).as_value().value for request in made]
        counts.append(len(made))
        gapless.append(sum(bool(e["taps"] >> 3 * line & 7) for e in channels for line in range(3)) > config.rows)
        indices += range(first, first + len(channels))
        entries += [entry_layout(config).const(entry).as_value().value for entry in channels]
        starts.append(len(entries))
        first += len(channels)
        half = half + k_tiles & 1
    return {
        "layers": to_words(layers, layout.size), "k_tiles": np.array([shape[3] for shape in SHAPES]),
        "counts": np.array(counts), "gapless": np.array(gapless), "requests": to_words(requests, request_bits),
        "entries": to_words(entries, entry_layout(config).size), "indices": np.array(indices),
        "starts": np.array(starts), "rows": np.array(config.rows),
    }


def fetcher(config: Config, rng: np.random.Generator, count: int = 150) -> Vectors:
    """Random requests, what the memories answer to each, and the windows."""
    requests, windows, answers, words = [], [], [], []
    reads = np.zeros((count, 3), np.int64)
    for number in range(count):
        nibbles = rng.integers(16, size=config.run)
        taps = rng.integers(-8, 8, size=(LINE_TAPS, config.cols))
        step: dict[str, Any] = {
            "mask": [join(rng.integers(2, size=config.rows), 1) for _ in range(LINE_TAPS)],
            "taps": int(rng.integers(8)), "half": int(rng.integers(2)), "group": int(rng.integers(config.scale_depth)),
        } | {name: int(rng.integers(2)) for name in ("a_signed", "last", "tile_last", "ktile_last")}
        addr, weight = int(rng.integers(config.act_nibbles)), int(rng.integers(config.weight_depth))
        requests.append(request_layout(config).const(step | {"addr": addr, "weight": weight}).as_value().value)
        windows.append(window_layout(config).const(
            step | {"nibbles": nibbles[:config.rows + 2].tolist(), "weights": taps.tolist()}).as_value().value)
        answers.append(join(nibbles, 4))
        words.append(join(taps.reshape(-1), 4))
        reads[number] = addr, step["half"], weight
    return {
        "requests": to_words(requests, request_layout(config).size),
        "windows": to_words(windows, window_layout(config).size), "answers": to_words(answers, 4 * config.run),
        "weights": to_words(words, 4 * LINE_TAPS * config.cols), "reads": reads[:, 0], "halves": reads[:, 1],
        "weight_reads": reads[:, 2], "depth": np.array(config.fetch_depth),
    }


def readout(config: Config, rng: np.random.Generator, count: int = 300) -> Vectors:
    """Random beat addresses, what the memory answers to each, and the beats."""
    addresses = rng.integers(config.act_nibbles // config.bus_nibbles, size=count)
    nibbles = rng.integers(16, size=(count, config.run))
    return {
        "addresses": to_words(addresses.tolist(), config.addr_bits), "reads": addresses * config.bus_nibbles,
        "answers": to_words([join(run, 4) for run in nibbles], 4 * config.run),
        "beats": to_words([join(run[:config.bus_nibbles], 4) for run in nibbles], config.bus_bits),
        "depth": np.array(config.fetch_depth),
    }
