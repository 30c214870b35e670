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
from hw.config import LINE_TAPS, TAPS, Config
from hw.interfaces import entry_layout, layer_layout, request_layout, upsample_patterns, window_layout

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
LONG = (0, len(SHAPES) - 2, len(SHAPES) - 1)    # layers with more reads per tile than rows


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
            "base": int(place), "weight": int(rng.integers(config.weight_depth)),
            "group": int(rng.integers(config.scale_depth)), "taps": taps, "exponent": int(rng.integers(3)),
        } | {name: int(rng.integers(2)) for name in ("a_signed", "w_signed", "last")})
    return entries


def _tile_mask(shape: tuple[int, int, int], first: int, rows: int) -> dict[str, Any]:
    """Which neighbours of the pixels from `first` on lie inside their image.

    Beyond the last pixel, left and right are what they would be if the batch went on.
    """
    samples, height, width = shape
    n, h, w = np.unravel_index(np.arange(first, first + rows), (samples + rows, height, width))
    return {
        "left": join(w > 0, 1), "right": join(w < width - 1, 1),
        "lines": [join((n < samples) & (h + dy >= 0) & (h + dy < height), 1) for dy in (-1, 0, 1)],
    }


def _reads(config: Config, shape: tuple[int, int, int], entries: list[dict[str, int]]) -> list[tuple[int, int, int]]:
    """Entry, first kernel line and taps of each read of a tile: windows of narrow maps, used lines of wide ones."""
    if shape[-1] <= config.window_width:
        return [(number, 0, entry["taps"]) for number, entry in enumerate(entries)]
    return [(number, line, entry["taps"] & 7 << LINE_TAPS * line) for number, entry in enumerate(entries)
            for line in range(LINE_TAPS) if entry["taps"] >> LINE_TAPS * line & 7]


def _requests(config: Config, shape: tuple[int, int, int], k_tiles: int, entries: list[dict[str, int]],
              half: int, upsampled: bool) -> Iterator[dict[str, Any]]:
    """The reads of a layer, by coordinates; `half` is the half of the weight memory with its first k-tile."""
    pixels, rows, width = int(np.prod(shape)), config.rows, shape[-1]
    tiles = -(-pixels // rows)
    reads = _reads(config, shape, entries)
    last_of = {number: place for place, (number, _, _) in enumerate(reads)}
    for k_tile in range(k_tiles):
        for tile in range(tiles):
            mask = _tile_mask(shape, tile * rows, rows)
            for place, (number, line, taps) in enumerate(reads):
                entry = entries[number]
                neighbour = entry["base"] + tile * rows - 1 + width * (line - 1)
                pattern = {"pattern": 0} if upsample_patterns(config) else {}
                if upsampled:
                    y, x = divmod(tile * rows, width)
                    neighbour = entry["base"] + (y - 1) // 2 * (width // 2) + (x - 1) // 2
                    pattern = {"pattern": 1 + upsample_patterns(config).index((width, y % 2))}
                tile_last = place == len(reads) - 1
                yield {
                    "mask": mask, "taps": taps, "last": (entry["last"] or tile_last) and last_of[number] == place,
                    "tile_last": tile_last, "ktile_last": tile_last and tile == tiles - 1,
                    "half": half + k_tile & 1, "addr": neighbour % config.act_nibbles,
                } | pattern | {name: entry[name] for name in ("a_signed", "w_signed", "exponent", "group", "weight")}


def addrgen(config: Config, rng: np.random.Generator) -> Vectors:
    """Layers of all kinds one after another, each with its channel list.

    Returns
    -------
    dict
        `layers`, per layer `k_tiles`, `counts` of requests and `gapless` (a tile has enough reads to hide the making of
        the next tile's masks), `requests`, and the lists' `entries`, of which layer i's are those from `starts[i]` to
        `starts[i + 1]`.
    """
    layout, request_bits = layer_layout(config), request_layout(config).size
    layers: list[int] = []
    requests: list[int] = []
    entries: list[int] = []
    counts, gapless, starts, half = [], [], [0], 0
    upsampled = [(2, 6, width, 2, None) for width in config.upsampled_widths]
    shapes = [*SHAPES, *upsampled]
    for number, (samples, height, width, k_tiles, masks) in enumerate(shapes):
        shape = samples, height, width
        pixels = samples * height * width
        long = config.rows // 2 + 1 if len(layers) in LONG else 0
        channels = [] if masks == () else _channels(config, rng, shape, masks, long)
        layers.append(layout.const({
            "width": width, "height": height, "pixels": pixels, "sample_pixels": height * width,
            "tiles": -(-pixels // config.rows), "k_tiles": k_tiles, "upsampled": number >= len(SHAPES),
        }).as_value().value)
        made = list(_requests(config, shape, k_tiles, channels, half, number >= len(SHAPES)))
        requests += [request_layout(config).const(request).as_value().value for request in made]
        counts.append(len(made))
        gapless.append(len(_reads(config, shape, channels)) > config.rows)
        entries += [entry_layout(config).const(entry).as_value().value for entry in channels]
        starts.append(len(entries))
        half = half + k_tiles & 1
    return {
        "layers": to_words(layers, layout.size), "k_tiles": np.array([shape[3] for shape in shapes]),
        "counts": np.array(counts), "gapless": np.array(gapless), "requests": to_words(requests, request_bits),
        "entries": to_words(entries, entry_layout(config).size), "starts": np.array(starts),
        "rows": np.array(config.rows),
    }


def _upsampled_window(config: Config, rng: np.random.Generator, width: int,
                      odd: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What the memory answers where a map is read upsampled, and the window, whose pixels are shown twice."""
    rows = config.rows
    y = 4 * rows + odd      # some lines on
    x = int(rng.integers(max(1, width // rows))) * rows
    small = rng.integers(16, size=(y + 1) * width + config.run)
    run = small[(y - 1) // 2 * (width // 2) + (x - 1) // 2:][:config.run]
    window = run[:config.window].copy()     # beyond what the tile needs, as it comes
    needed = range(x - 1, x + rows + 1) if width > rows else range(width)
    for line in range(max(1, rows // width) + 2):
        for column in needed:
            window[1 + line * width + column - x] = small[(y - 1 + line) // 2 * (width // 2) + column // 2]
    return run, window


def fetcher(config: Config, rng: np.random.Generator, count: int = 150) -> Vectors:
    """Random requests, what the memory answers to each, and the windows."""
    requests, windows, answers, reads = [], [], [], []
    patterns = upsample_patterns(config)
    for _ in range(count):
        nibbles = rng.integers(16, size=config.run)
        window = nibbles[:config.window]
        pattern = int(rng.integers(len(patterns) + 1))
        if pattern:
            nibbles, window = _upsampled_window(config, rng, *patterns[pattern - 1])
        left, right, *lines = (join(rng.integers(2, size=config.rows), 1) for _ in range(2 + LINE_TAPS))
        step: dict[str, Any] = {
            "mask": {"left": left, "right": right, "lines": lines}, "taps": int(rng.integers(1 << TAPS)),
            "exponent": int(rng.integers(3)), "group": int(rng.integers(config.scale_depth)),
            "weight": int(rng.integers(config.weight_depth)),
        } | {name: int(rng.integers(2)) for name in ("a_signed", "w_signed", "last", "tile_last", "ktile_last", "half")}
        reads.append(int(rng.integers(config.act_nibbles)))
        request = step | {"addr": reads[-1]} | ({"pattern": pattern} if patterns else {})
        requests.append(request_layout(config).const(request).as_value().value)
        windows.append(window_layout(config).const(
            step | {"nibbles": window.tolist()}).as_value().value)
        answers.append(join(nibbles, 4))
    return {
        "requests": to_words(requests, request_layout(config).size),
        "windows": to_words(windows, window_layout(config).size), "answers": to_words(answers, 4 * config.run),
        "reads": np.array(reads), "depth": np.array(config.fetch_depth),
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
