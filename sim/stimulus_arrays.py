"""Stimuli and expected answers for the benches of the arrays: k-tiles of weights, windows, and what they add up to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.formats import Int64Array, ScaleFormat
from hw.config import LINE_TAPS, TAPS, Config
from hw.interfaces import Space, load_layout, window_layout

from .beats import ktile_beats
from .trace import join
from .words import to_words

__all__ = ["dense", "sparse"]

EDGES = np.array([1, 7, 8, 15])     # nibbles: the smallest, the largest and the least signed, the largest unsigned
ALL_TAPS = (1 << TAPS) - 1
LINE = (1 << LINE_TAPS) - 1

Bits = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class KTileMemory:
    """What `sim.beats.ktile_beats` loads, see `golden.layer.LayerImage`; all taps of all words."""

    weights: Int64Array
    taps: Bits
    codes: Int64Array


@dataclass(frozen=True, eq=False)
class Window:
    """What an array is to see of a channel: nibbles, taps in use, and masks of the rows that have a neighbour there."""

    nibbles: Int64Array     # [window]
    taps: int
    lines: Bits             # [3, rows]
    left: Bits
    right: Bits

    def values(self, pitch: int) -> Int64Array:
        """Each row's nine nibbles, [rows, 9], 0 where there is none."""
        rows = len(self.left)
        row, tap = np.ogrid[:rows, :TAPS]
        beside = np.stack([self.left, np.ones(rows, np.bool_), self.right])
        inside = self.lines[tap // LINE_TAPS, row] & beside[tap % LINE_TAPS, row] & (self.taps >> tap & 1 == 1)
        return np.where(inside, self.nibbles[row + tap % LINE_TAPS + tap // LINE_TAPS * pitch], 0)


class Run:
    """One run of a bench: k-tiles, windows, and the accumulators that each tile must end in.

    Parameters
    ----------
    config : Config
    rng : Generator
    any_pass : bool
        Weights need not be signed, and products are shifted by exponents: a sparse array.
    """

    def __init__(self, config: Config, rng: np.random.Generator, any_pass: bool) -> None:
        self.config, self.rng, self.any_pass = config, rng, any_pass
        self.scale = ScaleFormat(config.scale_exp_bits, config.scale_man_bits)
        self.layout = window_layout(config)
        self.beats: list[NDArray[np.uint64]] = []
        self.counts: list[int] = []     # windows of each k-tile
        self.pitches: list[int] = []
        self.windows: list[int] = []
        self.tiles: list[int] = []
        self.steps = 0
        self._load()

    def _load(self) -> None:
        """Draw the weights and codes of the k-tile that begins."""
        config, rng = self.config, self.rng
        codes = rng.integers(0, self.scale.max_code + 1, (config.scale_depth, config.cols))
        codes = np.where(rng.random(codes.shape) < 0.3, rng.choice([0, self.scale.max_code], codes.shape), codes)
        words = config.weight_depth, LINE_TAPS, config.cols
        self.weights = np.where(rng.random(words) < 0.2, rng.choice(EDGES, words), rng.integers(0, 16, words))
        units = np.zeros((config.scale_depth, config.scale_units * config.lanes_per_scale), np.int64)
        units[:, :config.cols] = codes
        by_word = units.reshape(-1, config.scale_units, config.lanes_per_scale).swapaxes(1, 2)
        memory = KTileMemory(self.weights[np.newaxis], np.ones(words[:2], np.bool_), by_word[np.newaxis])
        self.beats += ktile_beats(config, memory)
        self.scales = self.scale.value(codes)

    def drawn(self, pitch: int, density: float = 1.0, taps: int | None = None, masked: float = 0.0) -> Window:
        """A window with so many nonzeros; some taps unless given, and a share of the masks' bits cleared."""
        config, rng = self.config, self.rng
        size = config.window
        nibbles = rng.choice(EDGES, size) if rng.random() < 0.2 else rng.integers(1, 16, size)
        if taps is None:
            taps = int(rng.integers(1, 1 << TAPS) if pitch else rng.integers(1, 1 + LINE) << 3 * rng.integers(3))
        bits = rng.random((LINE_TAPS + 2, config.rows)) >= masked
        return Window(nibbles * (rng.random(size) < density), taps, bits[:LINE_TAPS], *bits[LINE_TAPS:])

    def k_tile(self, pitch: int, tiles: Sequence[Sequence[Sequence[Window]]]) -> None:
        """Add a k-tile: tiles of vectors of windows. One without tiles is passed over."""
        first = len(self.windows)
        for number, vectors in enumerate(tiles):
            self._tile(pitch, vectors, number == len(tiles) - 1)
        self.counts.append(len(self.windows) - first)
        self.pitches.append(pitch)
        self._load()

    def _tile(self, pitch: int, vectors: Sequence[Sequence[Window]], ktile_last: bool) -> None:
        config, rng = self.config, self.rng
        acc = np.zeros((config.cols, config.rows), np.int64)
        nonzeros = np.zeros(config.rows, np.int64)
        for place, vector in enumerate(vectors):
            group, exponent = int(rng.integers(config.scale_depth)), int(rng.integers(3)) if self.any_pass else 0
            local = np.zeros_like(acc)
            for number, window in enumerate(vector):
                last = number == len(vector) - 1
                tile_last = last and place == len(vectors) - 1
                a_signed, w_signed = bool(rng.integers(2)), bool(rng.integers(2)) or not self.any_pass
                word = int(rng.integers(config.weight_depth - LINE_TAPS + 1))
                self.windows.append(self.layout.const({
                    "nibbles": window.nibbles.tolist(), "taps": window.taps, "a_signed": a_signed,
                    "w_signed": w_signed, "exponent": exponent, "last": last, "tile_last": tile_last,
                    "ktile_last": tile_last and ktile_last, "half": len(self.counts) & 1, "group": group,
                    "weight": word,
                    "mask": {"lines": [join(line, 1) for line in window.lines], "left": join(window.left, 1),
                             "right": join(window.right, 1)},
                }).as_value().value)
                a = window.values(pitch)
                w = self.weights[word:word + LINE_TAPS].reshape(TAPS, -1)
                local += (_nibble(a, a_signed) @ _nibble(w, w_signed)).T
                nonzeros += np.count_nonzero(a, axis=1)
                if not self.any_pass:
                    lines = [window.taps >> 3 * line & LINE for line in range(LINE_TAPS)]
                    used = window.taps.bit_count() if config.dense_taps == 1 else np.count_nonzero(lines)
                    self.steps += config.rows * int(used)
            acc += local * self.scales[group][:, np.newaxis] << 4 * exponent
        self.tiles += [join(lane, config.acc_bits) for lane in acc]
        if self.any_pass:   # a row that is all zero makes one step
            self.steps += int(nonzeros.sum() + np.count_nonzero(nonzeros == 0))

    def vectors(self, name: str, span: int = 0) -> dict[str, NDArray[Any]]:
        """The run as arrays; `span` is the number of cycles that it is expected to take at full speed."""
        beats = np.concatenate(self.beats[:-1])
        return {
            f"{name}.loads": beats,
            f"{name}.counts": np.array(self.counts), f"{name}.pitches": np.array(self.pitches),
            f"{name}.windows": to_words(self.windows, self.layout.size),
            f"{name}.tiles": to_words(self.tiles, self.config.rows * self.config.acc_bits),
            f"{name}.steps": np.array(self.steps), f"{name}.span": np.array(span),
        }


def _nibble(values: Int64Array, is_signed: bool) -> Int64Array:
    return (values ^ 8) - 8 if is_signed else values


def _random(config: Config, rng: np.random.Generator, any_pass: bool) -> Run:
    """All pitches, tiles of few and of many windows, a k-tile passed over; sparse arrays get all densities."""
    run = Run(config, rng, any_pass)
    for pitch in (0, 0, 1, 2, config.window_width, config.window_width):
        tiles = []
        for _ in range(rng.integers(1, 5)):
            density = float(rng.choice([0, 0.02, 0.1, 0.5, 1])) if any_pass else 0.9
            masked = float(rng.choice([0, 0.1, 0.5]))
            tiles.append([[run.drawn(pitch, density, masked=masked) for _ in range(length)]
                          for length in rng.choice([1, 1, 1, 2, 4], rng.integers(1, 5))])
        run.k_tile(pitch, tiles)
        if pitch == 1:
            run.k_tile(pitch, [])
    return run


def _others(config: Config, rng: np.random.Generator) -> NDArray[np.uint64]:
    """Beats for other memories, some with the commit flag that means nothing there."""
    layout = load_layout(config)
    spaces = [space for space in Space if space not in (Space.WEIGHT, Space.SCALE)]
    return to_words([layout.const({
        "data": int.from_bytes(rng.bytes(config.bus_bits // 8)), "address": int(rng.integers(1 << 24)),
        "space": spaces[number % len(spaces)], "commit": int(rng.integers(2)),
    }).as_value().value for number in range(4 * len(spaces))], layout.size)


def _common(config: Config, rng: np.random.Generator, any_pass: bool) -> dict[str, NDArray[Any]]:
    return _random(config, rng, any_pass).vectors("random") | {
        "others": _others(config, rng), "cols": np.array(config.cols), "lockstep": np.array(not any_pass),
    }


def dense(config: Config, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Runs for the dense array.

    Returns
    -------
    dict
        For each run (random; steady, vectors of one kernel line): RUN.loads, the beats of its k-tiles; RUN.counts and
        RUN.pitches, windows (0 where it is passed over) and pitch of each k-tile; RUN.windows; RUN.tiles, the
        accumulators of every tile and lane; RUN.steps, the steps of all rows; RUN.span, the cycles from the first step
        to the last if nothing but the drain holds them up. others: beats to be passed over. cols; lockstep: whether
        all rows make the same steps.
    """
    steady = Run(config, rng, any_pass=False)
    tiles, vectors = 3, config.cols + 10
    steady.k_tile(0, [[[steady.drawn(0, taps=LINE << 3 * int(rng.integers(3)))] for _ in range(vectors)]
                      for _ in range(tiles)])
    steps = LINE_TAPS if config.dense_taps == 1 else 1
    span = (tiles * vectors - 1) * max(steps, config.lanes_per_scale) + steps
    return _common(config, rng, any_pass=False) | steady.vectors("steady", span)


def sparse(config: Config, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Runs for the sparse array, as `dense` has them.

    Returns
    -------
    dict
        Runs: random. steady: one nonzero per row and vector. ahead: windows that half of the rows have, or none.
        zeros: windows, vectors and tiles of zeros in every position. single: one nonzero, in every row and tap. full:
        no zero. density: 0 to 100 %.
    """
    width, rows = config.window_width, config.rows
    result = _common(config, rng, any_pass=True)

    steady = Run(config, rng, any_pass=True)
    tiles, vectors = 3, config.cols + 10
    taps = [1 << int(tap) for tap in rng.integers(TAPS, size=vectors)]
    steady.k_tile(0, [[[steady.drawn(0, taps=tap)] for tap in taps] for _ in range(tiles)])
    result |= steady.vectors("steady", (tiles * vectors - 1) * config.lanes_per_scale + 1)

    # One tile, for rows are pixels in the first one. A row works on each of its windows for nine cycles.
    ahead, rounds = Run(config, rng, any_pass=True), 12
    none, odd = np.zeros(rows, np.bool_), np.arange(rows) % 2 == 1
    windows = []
    for lines in [~odd, none, odd, none] * rounds:
        drawn = ahead.drawn(width, taps=ALL_TAPS)
        windows.append(Window(drawn.nibbles, ALL_TAPS, np.stack([lines] * LINE_TAPS), drawn.left, drawn.right))
    ahead.k_tile(width, [[windows[:12], windows[12:]]])
    result |= ahead.vectors("ahead", TAPS * rounds + 2 if config.fifo_depth >= 4 else 0)

    zeros = Run(config, rng, any_pass=True)

    def tile(*vectors: str) -> list[list[Window]]:
        """Vectors of windows.

        `0`: of zeros; `m`: of nonzeros beyond the image; `x`: of nonzeros; `r`: of one row's; `f`: of the first row's.
        """
        def window(kind: str) -> Window:
            drawn = zeros.drawn(width, float(kind != "0"), taps=ALL_TAPS)
            one = {"m": -1, "r": rng.integers(rows), "f": 0}.get(kind)
            lines = np.ones(rows, np.bool_) if one is None else np.arange(rows) == one
            return Window(drawn.nibbles, ALL_TAPS, np.stack([lines] * LINE_TAPS), drawn.left, drawn.right)
        return [[window(kind) for kind in vector] for vector in vectors]

    dead = [tile("0"), tile("m0"), tile("00", "00", "m0")]
    zeros.k_tile(width, [tile("00x", "x00", "x00x"), tile("x", "00", "00", "x"), *dead, tile("r", "r0", "00")])
    zeros.k_tile(width, dead)
    zeros.k_tile(width, [*dead, tile("00", "00", "x0"), tile("x0", "00", "m"), *dead, tile("0r0", "r", "0r", "mm")])
    zeros.k_tile(width, [tile("x")])
    zeros.k_tile(width, [tile("0")])
    zeros.k_tile(width, [tile("rr", "r"), tile("x", "x00"), tile("0"), tile("0")])
    for _ in range(3):      # each row keeps back a window that ends the k-tile
        zeros.k_tile(width, [tile("x00", "00")])
    for _ in range(4):      # all rows but one are done early with the weights
        zeros.k_tile(width, [tile("f" * 8, "f" * 8)])
    result |= zeros.vectors("zeros")

    single = Run(config, rng, any_pass=True)
    places = rng.permutation(rows * TAPS)
    singles = []
    for place in places.tolist():
        row, tap = divmod(place, TAPS)
        nibbles = np.zeros(config.window, np.int64)
        nibbles[row + tap % LINE_TAPS + tap // LINE_TAPS * width] = rng.choice([1, 2, 4, 8])
        everywhere = np.ones((LINE_TAPS, rows), np.bool_)
        singles.append([[Window(nibbles, ALL_TAPS, everywhere, everywhere[0], everywhere[0])]])
    half = len(singles) // 2
    single.k_tile(width, singles[:half])
    single.k_tile(width, singles[half:])
    result |= single.vectors("single")

    full = Run(config, rng, any_pass=True)
    for value in (1, 15, 8):
        nibbles = np.full(config.window, value)
        full.k_tile(width, [[[Window(nibbles, ALL_TAPS, everywhere, everywhere[0], everywhere[0])] * length
                             for length in (1, 3)]] * 2)
    result |= full.vectors("full")

    density = Run(config, rng, any_pass=True)
    for percent in range(0, 101, 10):
        density.k_tile(width, [[[density.drawn(width, percent / 100, ALL_TAPS, 0.1) for _ in range(4)]] * 2] * 3)
    return result | density.vectors("density")
