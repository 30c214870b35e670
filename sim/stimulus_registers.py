"""Stimuli for the register block: random accesses, and a second opinion of what each register is."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.config import Config
from hw.gen import COUNTER_EVENTS

from .words import to_words

__all__ = ["counters", "registers"]

OKAY, SLVERR = 0, 2
FULL = (1 << 32) - 1
SPACE = 1 << 12
IRQ_STATUS, LABEL_DATA = 0x4C, 0x94
COUNTER, COUNTERS = 0x400, 128


def _log2(value: int) -> int:
    return value.bit_length() - 1


def _bytes(*values: int) -> int:
    return int.from_bytes(bytes(values), "little")


def _readable(config: Config) -> dict[int, int]:
    """What each word reads after reset, with no input but `ready`; labels and counters left out."""
    return {
        0x00: 0x5351444D, 0x04: 1 << 16, 0x08: config.config_hash,
        0x10: _bytes(config.rows, config.cols, config.dense | config.sparse << 4, config.dense_taps),
        0x14: _bytes(config.lanes_per_scale, config.group, config.scale_exp_bits | config.scale_man_bits << 4,
                     config.acc_bits),
        0x18: _bytes(_log2(config.act_nibbles), config.read_ports, config.fifo_depth, config.window_width),
        0x1C: _bytes(*(_log2(getattr(config, f"{name}_depth")) for name in ("weight", "scale", "param", "table"))),
        0x20: _bytes(*map(_log2, (config.list_depth, config.label_depth, config.label_slots, config.samples))),
        0x24: _bytes(config.dim_bits, config.fetch_depth),
        0x28: _bytes(config.bus_bits, config.axi_addr_bits, _log2(config.axi_burst), config.axi_outstanding),
        0x40: 0, 0x44: 1 << 3, 0x48: 0, IRQ_STATUS: 0, 0x50: 0, 0x58: 0, 0x5C: 0,
        0x60: 0, 0x64: 0, 0x68: 0, 0x6C: 0, 0x70: 0, 0x74: 0, 0x78: 0, 0x7C: 0, 0x80: 1 << 24, 0x84: 1 << 8,
        0x88: 0, 0x8C: 0, 0x90: 0,
    }


def _settings(config: Config) -> dict[int, int]:
    """The bits that can be written of each word that keeps what is written."""
    high = (1 << config.axi_addr_bits - 32) - 1
    label = (1 << config.label_bits) - 1 | (1 << config.slot_bits) - 1 << 16
    return {0x48: 7, 0x60: FULL & ~0xFFF, 0x64: high, 0x68: FULL & ~0xFFF, 0x6C: high, 0x70: FULL, 0x74: FULL,
            0x78: FULL >> 8, 0x7C: 63, 0x80: FULL, 0x84: 0xFF03, 0x88: FULL, 0x8C: FULL, 0x90: label}


def registers(config: Config, rng: np.random.Generator, count: int = 500) -> dict[str, NDArray[Any]]:
    """Random accesses, and the values of the settings after them; values of counters and a run's settings.

    An access is [write, address, bytes, data, response, word]: the data written or expected, and for a write the whole
    word that a read of it returns then.
    """
    words, settings = _readable(config), _settings(config)
    accesses = []
    for _ in range(count):
        address = int(rng.choice([*words, *settings])) if rng.random() < 0.85 else int(rng.integers(SPACE // 4)) * 4
        if address == LABEL_DATA or COUNTER <= address < COUNTER + 8 * COUNTERS:
            continue
        if rng.random() < 0.5:
            accesses.append((0, address, 4, words.get(address, 0), OKAY if address in words else SLVERR, 0))
            continue
        first = int(rng.integers(4))
        length = int(rng.integers(1, 5 - first))
        value = int(rng.integers(1 << 8 * length))
        legal = address in settings or address in (0x40, IRQ_STATUS)
        if address == 0x40:     # commands are for other tests
            value = 0
        if address in settings:
            mask = settings[address] & ((1 << 8 * length) - 1) << 8 * first
            words[address] = words[address] & ~mask | value << 8 * first & mask
        accesses.append((1, address + first, length, value, OKAY if legal else SLVERR, words.get(address, 0)))
    pairs = {name: words[low] | words[low + 4] << 32
             for name, low in (("program_base", 0x60), ("data_base", 0x68), ("mask", 0x88))}
    return {
        "accesses": np.array(accesses), "locked": np.array([address for address in settings if 0x60 <= address < 0x90]),
        "words": np.array(list(words.items())), "settings": np.array(list(settings.items())),
        "pairs": np.array(list(pairs.values()), np.uint64),
        "counters": rng.integers(1 << 63, size=COUNTERS, dtype=np.uint64) * np.uint64(2) + np.uint64(1),
        "label_bits": np.array([config.label_bits, config.slot_bits]),
        "addr_bits": np.array(config.axi_addr_bits),
    }


def counters(_config: Config, rng: np.random.Generator, count: int = 12) -> dict[str, NDArray[Any]]:
    """Rounds of events, and sums over each; a round may begin with a clear, and ends with some quiet cycles.

    `happened` [cycles] packs what happens in a cycle, `sums` [cycles, counters] is what has happened before it.
    """
    widths = [most.bit_length() for most in COUNTER_EVENTS.values()]
    happened, clears, sums, ends = [], [], [], []
    total = [0] * len(widths)
    for number in range(count):
        busy = rng.choice([0.1, 0.5, 1.0])
        for cycle in range(int(rng.integers(1, 80))):
            clear = cycle == 0 and number % 3 == 0
            events = [int(rng.integers(most + 1)) if rng.random() < busy else 0 for most in COUNTER_EVENTS.values()]
            if number % 4 == 1:     # the most that can be, for long
                events = list(COUNTER_EVENTS.values())
            sums.append(list(total))
            clears.append(clear)
            happened.append(sum(event << sum(widths[:place]) for place, event in enumerate(events)))
            total = [0 if clear else so_far + event for so_far, event in zip(total, events, strict=True)]
        ends.append(len(happened))
    return {"happened": to_words(happened, sum(widths)), "clears": np.array(clears), "ends": np.array(ends),
            "sums": np.array([*sums, total], np.uint64)}
