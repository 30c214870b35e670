"""Vectors for the blocks that decide what runs where: scheduler and detector.

What they must answer is computed by `golden.scheduler` and `golden.detector`. The table, the labels and the counts are
as the compiler and the post-processor make them, and worse.
"""

from collections.abc import Iterable
from dataclasses import asdict
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.detector import BINS, Detection, Labels, RefreshPolicy, balance_detection, classify, threshold_detection
from golden.layer import Entry, TableEntry
from golden.scheduler import Label, schedule
from hw.config import TAPS, Config
from hw.detector import PARTS, count_layout
from hw.interfaces import (
    Refresh,
    Space,
    Transform,
    entry_layout,
    label_layout,
    layer_layout,
    load_layout,
    policy_layout,
    table_layout,
)

from .words import to_words

__all__ = ["detector", "scheduler"]

Vectors = dict[str, NDArray[Any]]


def _beat(config: Config, space: Space, address: int, value: int) -> int:
    return int(load_layout(config).const({"data": value, "address": address, "space": space}).as_value().value)


def _entry(config: Config, rng: np.random.Generator) -> Entry:
    def flag() -> bool:
        return bool(rng.integers(2))

    base, weight, group = (int(rng.integers(1 << bits))
                           for bits in (config.addr_bits, config.weight_bits, config.group_bits))
    return Entry(base, weight, group, int(rng.integers(1 << TAPS)), flag(), flag(), int(rng.integers(3)), flag())


def scheduler(config: Config, rng: np.random.Generator, runs: int = 40) -> Vectors:
    """A table, labels, and runs over parts of the table, between which some of both changes.

    Returns
    -------
    dict
        `loads`: beats, of which run i needs those from `load_starts[i]` to `load_starts[i + 1]`; `layers`; `counts` of
        table entries; `labels` [run, slot, index]; per array and run, the list: `list0`, ... with `ends0`, ...
    """
    table = [TableEntry(_entry(config, rng), False, 0, 0)] * config.table_depth
    shape = config.label_slots, config.label_depth
    labels = np.zeros(shape, np.int64)
    loads: list[int] = []
    load_starts, layers, counts, all_labels = [0], [], [], []
    lists: list[list[int]] = [[] for _ in range(config.arrays)]
    ends: list[list[int]] = [[0] for _ in lists]
    for run in range(runs):
        dense_ok, dead, sparse = rng.choice([0.0, 0.5, 1.0]), rng.choice([0.0, 0.2, 1.0]), rng.choice([0.0, 0.5, 1.0])
        changed = range(config.table_depth) if run == 0 else rng.integers(config.table_depth, size=rng.choice([0, 8]))
        for place in map(int, changed):
            item = TableEntry(_entry(config, rng), bool(rng.random() < dense_ok), int(rng.integers(shape[1])),
                              int(rng.integers(shape[0])))
            table[place] = item
            value = table_layout(config).const(asdict(item)).as_value().value
            loads.append(_beat(config, Space.TABLE, place, value))
            other = Space((Space.TABLE.value + int(rng.integers(1, len(Space)))) % len(Space))
            loads.append(_beat(config, other, place, int(rng.integers(1 << 32))))
        load_starts.append(len(loads))
        labels = np.where(rng.random(shape) < 0.5, labels, (rng.random(shape) < sparse) + 2 * (rng.random(shape) < dead)
                          + 4 * rng.integers(BINS, size=shape))
        all_labels.append(labels)
        count = int(rng.choice(np.array([0, 1, 2, rng.integers(config.table_depth + 1), config.table_depth])))
        first = int(rng.integers(config.table_depth - count + 1))
        even = bool(rng.random() < 0.3)
        layers.append(layer_layout(config).const(
            {"table_first": first % config.table_depth, "table_count": count, "even": even}).as_value().value)
        counts.append(count)
        items = table[first:first + count]
        words = [int(labels[item.slot, item.label]) for item in items]
        of_items: list[Label] = [(bool(word & 1), bool(word & 2), word >> 2) for word in words]
        for array, entries in enumerate(schedule(items, of_items, config, even=even)):
            lists[array] += [entry_layout(config).const(asdict(entry)).as_value().value for entry in entries]
            ends[array].append(len(lists[array]))
    made: Vectors = {
        "loads": to_words(loads, load_layout(config).size), "load_starts": np.array(load_starts),
        "layers": to_words(layers, layer_layout(config).size), "counts": np.array(counts),
        "labels": np.array(all_labels),
    }
    for array in range(config.arrays):
        made[f"list{array}"] = to_words(lists[array], entry_layout(config).size)
        made[f"ends{array}"] = np.array(ends[array])
    return made


def _slots(config: Config) -> list[range]:
    """Labels of each slot's tensor: half of them for slot 0, half of the rest for slot 1, ..."""
    depth = config.label_depth
    bounds = [depth - (depth >> slot) for slot in range(config.label_slots)] + [depth]
    return [range(*pair) for pair in pairwise(bounds)]


def _counted(config: Config, rng: np.random.Generator, fields: dict[str, Any],
             segments: int) -> tuple[list[int], NDArray[np.int64]]:
    """What the post-processor reports of a layer, a word per cycle, and the nonzeros of each channel.

    A word is count_en, ktile_end, layer_end and, from bit 4 on, the count.
    """
    transform = fields["transform"]
    upsample, to_depth = transform is Transform.UPSAMPLE, transform is Transform.SPACE_TO_DEPTH
    outputs = (fields["k_tiles"] - 1) * config.cols + fields["last_cols"]
    totals = np.zeros((outputs, PARTS if to_depth else 1), np.int64)
    density = rng.choice([0, 0.02, 0.5, 0.7, 1, rng.random()], totals.shape)
    most = config.rows // 2 if upsample or to_depth else config.rows
    words: list[int] = []
    final = count_layout(config).const({"final": 1}).as_value().value << 4
    for k_tile in range(fields["k_tiles"]):
        latest = {}     # of each channel, the place of its latest count
        columns = config.cols if k_tile < fields["k_tiles"] - 1 else fields["last_cols"]
        for segment in range(segments):
            words += [0] * (2 if segment == 0 else int(rng.integers(1, 3)))     # a new tile, or a segment
            halves = int(rng.integers(1, 3)) if upsample else 1
            steps = product(range(columns), range(halves), range(1 + (upsample or to_depth)),
                            range(1 + fields["out_format"]["wide"]))
            for column, _, copy, plane in steps:
                channel, part = k_tile * config.cols + column, copy + 2 * (segment & 1) if to_depth else 0
                counts = plane == 0 and not (upsample and copy)
                nonzeros = int(rng.binomial(most, density[channel, part])) if counts else int(rng.integers(most + 1))
                count = {"column": column, "part": part, "nonzeros": nonzeros}
                if counts:
                    latest[channel, part] = len(words)
                words.append(counts | count_layout(config).const(count).as_value().value << 4)
                totals[channel, part] += nonzeros * counts
        for at in latest.values():
            words[at] |= final
        words[-1] |= 2 | 4 * (k_tile == fields["k_tiles"] - 1)
    return words, totals.reshape(-1)


def _detection(config: Config, rng: np.random.Generator, pixels: int) -> Detection:
    """Either mode, with usual limits or with those at the ends of what is possible."""
    kind = rng.integers(4)
    if kind == 0:
        return threshold_detection(pixels, float(rng.random()))
    if kind == 1:
        return balance_detection(pixels, 1, 1, config.dense_taps, float(rng.uniform(0.3, 3)))
    limits = [0, 1, int(rng.integers(pixels + 1)), config.act_nibbles]
    return Detection(bool(rng.integers(2)), int(rng.choice(limits)), int(rng.choice(limits)),
                     int(rng.choice([0, 1, 3, config.addr_bits])))


def detector(config: Config, rng: np.random.Generator, epochs: int = 8, runs: int = 5) -> Vectors:
    """Layers of all kinds, labelled or not, under one refresh policy after another.

    Returns
    -------
    dict
        Per layer: `layers`, `epochs` and `policies` (there is a reset between epochs), `channels`, `detect`; the labels
        written by the host before it, and while it runs, as `beats` that are rows (index, label) of `writes` (index -1:
        of another space), from `write_starts[2 * i]` and `[2 * i + 1]` on; `words`, see `_counted`, from
        `word_starts[i]` on; and `after`, the whole table in the end, by index, -1 where it is unknown. `slots` is each
        index's slot.
    """
    slots = _slots(config)
    owner = np.repeat(np.arange(len(slots)), [len(indices) for indices in slots])
    made: dict[str, list[Any]] = {name: [] for name in (
        "layers", "policies", "epochs", "channels", "detect", "beats", "writes", "words", "after")}
    write_starts, word_starts = [], [0]
    table = np.full(config.label_depth, -1)

    def write(indices: Iterable[int]) -> None:
        for index in indices:
            ours = rng.random() < 0.9
            label = int(rng.integers(1 << label_layout().size))
            space = Space.LABEL if ours else Space(int(rng.integers(Space.LABEL.value)))
            made["beats"].append(_beat(config, space, int(owner[index]) << config.label_bits | index, label))
            made["writes"].append((index, label) if ours else (-1, 0))
            if ours:
                table[index] = label

    for epoch in range(epochs):
        policy = RefreshPolicy(("every", "every_n", "mask", "frozen")[epoch % 4], 2 + epoch // 4,
                               int.from_bytes(rng.bytes(8), "little"))
        step = int(rng.integers(60))
        table[:] = -1
        for _ in range(runs):
            step = (step + int(rng.choice([0, 1, 1, 2]))) % 64
            slot = int(rng.integers(len(slots)))
            transform = list(Transform)[rng.integers(3)]
            parts = PARTS if transform is Transform.SPACE_TO_DEPTH else 1
            outputs = int(rng.integers(1, min(len(slots[slot]) // parts, 4 * config.cols) + 1))
            segments = int(rng.choice([1, 1, 2, 5])) * (2 if parts > 1 else 1)
            channels, pixels = parts * outputs, segments * config.rows
            detection, detect = _detection(config, rng, pixels), bool(rng.random() < 0.9)
            first = slots[slot].start + int(rng.integers(len(slots[slot]) - channels + 1))
            last_cols = (outputs - 1) % config.cols + 1
            fields = {
                "k_tiles": -(-outputs // config.cols), "last_cols": last_cols, "transform": transform, "step": step,
                "out_format": {"wide": int(rng.integers(2))}, "detect": detect, "label_first": first,
                "label_slot": slot,
            } | asdict(detection)
            of_layer = slice(first, first + channels)
            write_starts.append(len(made["writes"]))
            write(rng.permutation(slots[slot])[:int(rng.integers(5))].tolist())
            while (unknown := np.flatnonzero(table[of_layer] < 0) + first).size:
                write(unknown.tolist())
            words, totals = _counted(config, rng, fields, segments)
            write_starts.append(len(made["writes"]))
            write(rng.permutation(config.label_depth)[:len(words) - 1 if rng.random() < 0.3 else 0].tolist())
            refreshed = policy.at(step)
            if detect:
                old = table[of_layer]
                before = None if refreshed else Labels(old & 1 != 0, old & 2 != 0, old >> 2)
                labels = classify(totals, detection, before)
                table[slots[slot].start:slots[slot].stop] = -1
                table[of_layer] = labels.sparse + 2 * labels.dead + 4 * labels.bin
            made["layers"].append(layer_layout(config).const(fields).as_value().value)
            made["policies"].append(policy_layout().const(
                {"refresh": Refresh[policy.refresh.upper()], "n": policy.n, "mask": policy.mask}).as_value().value)
            made["epochs"].append(epoch)
            made["channels"].append(channels)
            made["detect"].append(detect)
            made["words"] += words
            word_starts.append(len(made["words"]))
            made["after"].append(table.copy())
    write_starts.append(len(made["writes"]))
    wide = {"layers": layer_layout(config).size, "policies": policy_layout().size, "beats": load_layout(config).size}
    return {name: to_words(values, wide[name]) if name in wide else np.array(values)
            for name, values in made.items()} | {
        "write_starts": np.array(write_starts), "word_starts": np.array(word_starts), "slots": owner,
    }
