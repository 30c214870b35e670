"""Stimuli for the DMAs: commands over a region of host memory, and what must come of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.bursts import BEATS_BITS, command_layout
from hw.config import Config

from .words import to_words

__all__ = ["dma_read", "dma_write"]

Vectors = dict[str, NDArray[Any]]
PAGE = 1 << 12
PAGES = 4               # of the region
SPACE = 1 << 28         # room beyond the region, for the longest command
SLVERR, DECERR = 2, 3
LONGEST = 1 << 24       # beats
STREAM = 64             # beats of a command where the rate is measured


def _region(config: Config, rng: np.random.Generator) -> tuple[int, NDArray[np.uint8]]:
    """Base and content of a region anywhere in the address space."""
    base = int(rng.integers((1 << config.axi_addr_bits - 12) - 2 * SPACE // PAGE)) * PAGE
    return base, rng.integers(256, size=PAGES * PAGE, dtype=np.uint8)


def _commands(config: Config, rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """First beat and number of beats: single ones, around a burst, over 4 KiB borders, none at all."""
    size = config.bus_bits // 8
    total, page = PAGES * PAGE // size, PAGE // size
    burst = config.axi_burst
    commands = []
    for number in range(count):
        beats = int(rng.choice([0, 1, 1, 2, 3, burst - 1, burst, burst + 1, 2 * burst, int(rng.integers(1, 2 * page))]))
        beats = min(beats, 3 * page)
        first = int(rng.integers(total - beats))
        if number % 3 == 0:     # ends, begins or lies around a border
            first = int(rng.integers(1, PAGES)) * page + int(rng.integers(-2, 3))
        commands.append((max(0, min(first, total - beats)), beats))
    return commands


def _stream(config: Config, total: int, count: int) -> list[tuple[int, int]]:
    """Commands for the rate, not aligned to bursts; few where all is slow."""
    numbers = range(count if config.axi_burst > 1 else 2)
    return [(STREAM * number % (total - 2 * STREAM) + 5, STREAM) for number in numbers]


def _faulty(rng: np.random.Generator, commands: list[tuple[int, int]]) -> set[int]:
    """Some beats of some commands."""
    return {int(rng.integers(first, first + beats)) for first, beats in commands[2:] if beats and rng.random() < 0.5}


def _payloads(config: Config, base: int, commands: list[tuple[int, int]]) -> NDArray[np.uint64]:
    size = config.bus_bits // 8
    words = [base + first * size | beats << config.axi_addr_bits for first, beats in commands]
    return to_words(words, command_layout(config).size)


def _beats(config: Config, content: NDArray[np.uint8]) -> list[int]:
    size = config.bus_bits // 8
    return [int.from_bytes(row.tobytes(), "little") for row in content.reshape(-1, size)]


def _limits(config: Config) -> NDArray[np.int64]:
    return np.array([config.bus_bits, config.axi_burst, config.axi_outstanding])


def _read(config: Config, memory: list[int], commands: list[tuple[int, int]], faulty: set[int]) -> list[int]:
    """The beats of commands: data, last, error; a faulty beat's data are 0, as the slave gives them."""
    found = []
    for first, beats in commands:
        for beat in range(first, first + beats):
            flags = int(beat == first + beats - 1) | int(beat in faulty) << 1
            found.append((0 if beat in faulty else memory[beat]) | flags << config.bus_bits)
    return found


def dma_read(config: Config, rng: np.random.Generator, count: int = 16) -> Vectors:
    """Commands, their beats, the same with faults, commands for the rate, and rounds for the flush.

    A round is a few commands; `round_beats` are the beats that may come of it, `ends` how many it has of both.
    """
    base, content = _region(config, rng)
    size, width = config.bus_bits // 8, config.bus_bits + 2
    memory = _beats(config, content)
    commands = _commands(config, rng, count)
    faulty = _faulty(rng, commands)
    stream = _stream(config, len(memory), count)

    rounds, round_beats, ends = [], [], []
    for _ in range(count):
        some = [command for command in _commands(config, rng, 6) if command[1]]
        expected = _read(config, memory, some, set())
        rounds.append(_payloads(config, base, some))
        round_beats.append(to_words(expected, width))
        ends.append((len(some), len(expected)))
    return {
        "limits": _limits(config), "base": np.array(base, np.uint64), "content": content, "extent": np.array(SPACE),
        "commands": _payloads(config, base, commands), "beats": to_words(_read(config, memory, commands, set()), width),
        "faults": np.array([[base + beat * size, rng.choice([SLVERR, DECERR])] for beat in sorted(faulty)], np.uint64),
        "faulty_beats": to_words(_read(config, memory, commands, faulty), width),
        "stream": _payloads(config, base, stream),
        "stream_beats": to_words(_read(config, memory, stream, set()), width),
        "longest": _payloads(config, base, [(0, LONGEST)]),
        "rounds": np.concatenate(rounds), "round_beats": np.concatenate(round_beats), "ends": np.array(ends),
    }


def dma_write(config: Config, rng: np.random.Generator, count: int = 16) -> Vectors:
    """Commands, their data, what the region is then; commands for the rate; rounds for the flush.

    Commands may overlap: the later one wins. After a round, the region must be what it was, with the beats that were
    taken written in order; `round_places` tells where each goes, `ends` how many commands and beats a round has.
    """
    base, content = _region(config, rng)
    size = config.bus_bits // 8
    commands = _commands(config, rng, count)
    after = content.copy().reshape(-1, size)
    data = rng.integers(256, size=(sum(beats for _, beats in commands), size), dtype=np.uint8)
    taken = 0
    for first, beats in commands:
        after[first:first + beats] = data[taken:taken + beats]
        taken += beats
    faulty = _faulty(rng, commands)
    stream = _stream(config, len(after), count)

    rounds, places, ends = [], [], []
    for _ in range(count):
        some = [command for command in _commands(config, rng, 6) if command[1]]
        rounds.append(_payloads(config, base, some))
        places.append(np.concatenate([np.arange(first, first + beats) for first, beats in some]))
        ends.append((len(some), len(places[-1])))
    bits = config.bus_bits
    return {
        "limits": _limits(config), "base": np.array(base, np.uint64), "content": content,
        "commands": _payloads(config, base, commands), "data": to_words(_beats(config, data), bits),
        "after": after.reshape(-1),
        "faults": np.array([[base + beat * size, rng.choice([SLVERR, DECERR])] for beat in sorted(faulty)], np.uint64),
        "stream": _payloads(config, base, stream),
        "rounds": np.concatenate(rounds), "round_places": np.concatenate(places), "ends": np.array(ends),
    }


assert LONGEST < 1 << BEATS_BITS
