"""Traces for the blocks of the memory path that speak in cycles: activation memory, port arbiter, weight memories.

What the blocks must answer follows from flat arrays of nibbles and from counts of k-tiles; -1 is a nibble that was
never written. Sizes and layouts are those of the block's interface, its way of computing is not looked at.
"""

from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hw.actmem import READ_CYCLES
from hw.config import LINE_TAPS, Config
from hw.gen import ARBITER_USERS
from hw.interfaces import Space, load_layout, write_layout

from .trace import Trace, join, known_bits
from .words import Words

__all__ = ["actmem", "arbiter", "line_weights", "scales", "tap_weights", "weight_halves"]

WEIGHT_CYCLES = 2   # from a read of a weight word to its answer, for lane 0
WRITE_CYCLES = 2    # from a write to the first read that sees it


def actmem(config: Config, rng: np.random.Generator, cycles: int = 1200) -> dict[str, Words]:
    """Fill the memory, then write and read at random, mostly near each other in time and place.

    Addresses wrap at the end of the memory, so some runs go around.
    """
    size, run, length = config.act_nibbles, config.run, config.write_nibbles
    layout = write_layout(config)
    trace = Trace()
    memory = np.full(size, -1)
    pending: deque[tuple[int, NDArray[np.int64], NDArray[np.int64]]] = deque()
    recent = 0
    fill = -(-size // length)
    for cycle in range(fill + cycles):
        if pending and pending[0][0] + WRITE_CYCLES == cycle:
            _, places, nibbles = pending.popleft()
            memory[places] = nibbles
        for port in range(config.read_ports):
            addr = int(recent + rng.integers(-run, run) if rng.random() < 0.7 else rng.integers(size)) % size
            enable = rng.random() < 0.8
            trace.drive(cycle, **{f"read__{port}__en": enable, f"read__{port}__addr": addr})
            trace.expect(cycle, f"read__{port}__ready", 1)
            trace.expect(cycle + READ_CYCLES, f"read__{port}__valid", enable)
            if enable:
                answer = known_bits(memory[(addr + np.arange(run)) % size], 4)
                trace.expect(cycle + READ_CYCLES, f"read__{port}__data", *answer)
        if cycle < fill:
            addr, mask = cycle * length % size, np.ones(length, bool)
        else:
            addr = int(recent + rng.integers(-run, run) if rng.random() < 0.5 else rng.integers(size)) % size
            mask = rng.random(length) < rng.choice([0, 0.5, 1])
            recent = addr
        data = rng.integers(16, size=length)
        word = {"addr": addr, "data": data.tolist(), "mask": join(mask, 1)}
        trace.drive(cycle, write=layout.const(word).as_value().value)
        pending.append((cycle, (addr + np.arange(length))[mask] % size, data[mask]))
    return trace.vectors()


def arbiter(config: Config, rng: np.random.Generator, cycles: int = 600) -> dict[str, Words]:
    """Let users ask at random, of a memory that is not always ready; the lowest number wins.

    The memory answers every read `READ_CYCLES` later, and sometimes says valid when nobody asked, as it would for
    another arbiter's reads; nobody is to be told then.
    """
    trace = Trace()
    users, run_mask = range(ARBITER_USERS), (1 << 4 * config.run) - 1
    winners: list[int | None] = []
    for cycle in range(cycles):
        asking = [rng.random() < 0.5 for _ in users]
        addresses = [int(rng.integers(config.act_nibbles)) for _ in users]
        ready = rng.random() < 0.8
        for user in users:
            trace.drive(cycle, **{f"user__{user}__en": asking[user], f"user__{user}__addr": addresses[user]})
            trace.expect(cycle, f"user__{user}__ready", ready and not any(asking[:user]))
        trace.drive(cycle, memory__ready=ready)
        winner = next((user for user in users if asking[user]), None)
        if winner is None:
            trace.expect(cycle, "memory__en", 0)
        elif ready:
            trace.expect(cycle, "memory__en", 1)
            trace.expect(cycle, "memory__addr", addresses[winner], config.act_nibbles - 1)
        winners.append(winner if ready else None)

        answered = winners[cycle - READ_CYCLES] if cycle >= READ_CYCLES else None
        data = join(rng.integers(16, size=config.run), 4)
        trace.drive(cycle, memory__valid=answered is not None or rng.random() < 0.5, memory__data=data)
        for user in users:
            trace.expect(cycle, f"user__{user}__valid", user == answered)
            if user == answered:
                trace.expect(cycle, f"user__{user}__data", data, run_mask)
    return trace.vectors()


def _loads(trace: Trace, config: Config, rng: np.random.Generator, space: Space, memory: NDArray[np.int64],
           cycles: int) -> Iterator[tuple[int, int]]:
    """Load random beats, one half at a time; yield each cycle and the half that may be read in it.

    `memory` [half, word, beat, nibble] is what was loaded before the cycle. Beats of other spaces go by, and beats that
    are not taken.
    """
    layout, loading = load_layout(config), 0
    _, words, beats, _ = memory.shape
    places = 1 << (beats - 1).bit_length()
    for cycle in range(cycles):
        if rng.random() < 0.02:
            loading ^= 1
        yield cycle, 1 - loading
        nibbles = rng.integers(16, size=config.bus_nibbles)
        ours, enable = rng.random() < 0.7, rng.random() < 0.8
        word, beat = int(rng.integers(words)), int(rng.integers(beats))
        if space is Space.WEIGHT and word % 4 == LINE_TAPS:
            word -= 1   # four places, but three taps
        other = rng.choice([which.value for which in Space if which != space])
        fields = {"data": join(nibbles, 4), "space": space if ours else Space(int(other)),
                  "address": word * places + beat, "commit": int(rng.integers(2))}
        trace.drive(cycle, load__beat=layout.const(fields).as_value().value, load__en=enable, load__half=loading)
        if ours and enable:
            memory[loading, word, beat] = nibbles


def _expect_weights(trace: Trace, cycle: int, config: Config, asked: NDArray[np.int64]) -> None:
    """Expect a word's weights, lane k's k modulo lanes_per_scale cycles late; -1 where one is unknown."""
    late = np.arange(asked.size) % config.cols % config.lanes_per_scale
    for cycles in range(config.lanes_per_scale):
        trace.expect(cycle + WEIGHT_CYCLES + cycles, "weights", *known_bits(np.where(late == cycles, asked, -1), 4))


def line_weights(config: Config, rng: np.random.Generator, cycles: int = 1500) -> dict[str, Words]:
    """Load and read kernel-line words; with one tap per cycle, ask for each of the three."""
    trace = Trace()
    memory = np.full((2, config.weight_depth * 4, config.tap_beats, config.bus_nibbles), -1)
    for cycle, half in _loads(trace, config, rng, Space.WEIGHT, memory, cycles):
        if rng.random() < 0.3:
            continue
        word, tap = int(rng.integers(config.weight_depth)), int(rng.integers(LINE_TAPS))
        trace.drive(cycle, en=1, half=half, addr=word)
        trace.drive(cycle + 1, select=1 << tap)
        line = memory[half, 4 * word:4 * word + LINE_TAPS].reshape(LINE_TAPS, -1)[:, :config.cols]
        asked = line[tap] if config.dense_taps == 1 else line.reshape(-1)
        _expect_weights(trace, cycle, config, asked)
    return trace.vectors()


def tap_weights(config: Config, rng: np.random.Generator, cycles: int = 1500) -> dict[str, Words]:
    """Load and read tap words: of a kernel-line word, any of its three taps."""
    trace = Trace()
    memory = np.full((2, config.weight_depth * 4, config.tap_beats, config.bus_nibbles), -1)
    for cycle, half in _loads(trace, config, rng, Space.WEIGHT, memory, cycles):
        if rng.random() < 0.3:
            continue
        word, tap = int(rng.integers(config.weight_depth)), int(rng.integers(LINE_TAPS))
        trace.drive(cycle, en=1, half=half, tap=tap, addr=word)
        asked = memory[half, 4 * word + tap].reshape(-1)[:config.cols]
        _expect_weights(trace, cycle, config, asked)
    return trace.vectors()


def scales(config: Config, rng: np.random.Generator, cycles: int = 1500) -> dict[str, Words]:
    """Load and read scale words."""
    trace = Trace()
    memory = np.full((2, 1 << config.scale_bits, config.scale_beats, config.bus_nibbles), -1)
    for cycle, half in _loads(trace, config, rng, Space.SCALE, memory, cycles):
        if rng.random() < 0.3:
            continue
        word = int(rng.integers(1 << config.scale_bits))
        trace.drive(cycle, en=1, half=half, addr=word)
        asked = memory[half, word].reshape(-1)[:2 * config.scale_units]
        trace.expect(cycle + 1, "codes", *known_bits(asked, 4))
    return trace.vectors()


def weight_halves(_config: Config, rng: np.random.Generator, cycles: int = 1200) -> dict[str, Words]:
    """Complete, take and release k-tiles at random, as fast as there is room or slower."""
    trace = Trace()
    half = loaded = taken = 0   # k-tiles that wait to be taken, and that are in the array's hands
    chance = dict.fromkeys(("commit", "take", "release"), 0.5)
    for cycle in range(cycles):
        if cycle % 100 == 0:    # whose turn it is to be slow
            chance = {name: float(rng.choice([0.05, 0.3, 1])) for name in chance}
        room = loaded + taken < 2
        for name, value in (("free", room), ("half", half), ("ready", loaded > 0)):
            trace.expect(cycle, name, value)
        commit = room and rng.random() < chance["commit"]
        take = loaded > 0 and rng.random() < chance["take"]
        # An array without channels takes and releases a k-tile in one cycle.
        release = taken + take > 0 and rng.random() < chance["release"]
        trace.drive(cycle, commit=commit, take=take, release=release)
        half ^= commit
        loaded += commit - take
        taken += take - release
    return trace.vectors()
