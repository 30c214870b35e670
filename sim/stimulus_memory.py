"""Traces for the blocks of the memory path that speak in cycles: activation memory, port arbiter, weight memory.

What the blocks must answer follows from a flat array of nibbles and from counts of k-tiles; -1 is a nibble that was
never written. Sizes and layouts are those of the block's interface, its way of computing is not looked at.
"""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from hw.config import LINE_TAPS, Config
from hw.interfaces import Space, load_layout, write_layout

from .trace import Trace, join, known_bits
from .words import Words

__all__ = ["ARBITER_USERS", "actmem", "arbiter", "weights"]

ARBITER_USERS = 3
READ_CYCLES = 2     # from a read of the activation memory, or of a weight word, to its answer
WRITE_CYCLES = 2    # from a write to the first read that sees it


def actmem(config: Config, rng: np.random.Generator, cycles: int = 1200) -> dict[str, Words]:
    """Fill the memory, then write and read at random, mostly near each other in time and place.

    Addresses wrap at the end of the memory, so some runs go around.
    """
    size, run = config.act_nibbles, config.run
    layout = write_layout(config)
    trace = Trace()
    memory = np.full(size, -1)
    pending: deque[tuple[int, NDArray[np.int64], NDArray[np.int64]]] = deque()
    recent = 0
    fill = -(-size // run)
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
            addr, mask = cycle * run % size, np.ones(run, bool)
        else:
            addr = int(recent + rng.integers(-run, run) if rng.random() < 0.5 else rng.integers(size)) % size
            mask = rng.random(run) < rng.choice([0, 0.5, 1])
            recent = addr
        data = rng.integers(16, size=run)
        word = {"addr": addr, "data": data.tolist(), "mask": join(mask, 1)}
        trace.drive(cycle, write=layout.const(word).as_value().value)
        pending.append((cycle, (addr + np.arange(run))[mask] % size, data[mask]))
    return trace.vectors()


def arbiter(config: Config, rng: np.random.Generator, cycles: int = 600) -> dict[str, Words]:
    """Let users ask at random, of a memory that is not always ready; the lowest number wins.

    The memory answers every read two cycles later, and sometimes says valid when nobody asked, as it would for another
    arbiter's reads; nobody is to be told then.
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


class _Halves:
    """What the two halves of a weight memory hold, -1 where nothing was loaded, and how beats get there."""

    def __init__(self, config: Config, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        self.weights = np.full((2, config.weight_depth, LINE_TAPS, config.tap_beats * config.bus_nibbles), -1)
        self.codes = np.full((2, config.scale_depth, config.scale_beats * config.bus_nibbles // 2), -1)

    def beat(self, space: Space, half: int) -> tuple[int, int]:
        """Load a random beat; return its address and data."""
        config, rng = self.config, self.rng
        nibbles = rng.integers(16, size=config.bus_nibbles)
        if space is Space.WEIGHT:
            word, tap, beat = (int(rng.integers(n)) for n in (config.weight_depth, LINE_TAPS, config.tap_beats))
            self.weights[half, word, tap].reshape(-1, config.bus_nibbles)[beat] = nibbles
            places = 1 << (config.tap_beats - 1).bit_length()
            return (word * 4 + tap) * places + beat, join(nibbles, 4)
        word, beat = (int(rng.integers(n)) for n in (config.scale_depth, config.scale_beats))
        self.codes[half, word].reshape(-1, config.bus_nibbles // 2)[beat] = nibbles[::2] + 16 * nibbles[1::2]
        places = 1 << (config.scale_beats - 1).bit_length()
        return word * places + beat, join(nibbles, 4)


def weights(config: Config, rng: np.random.Generator, cycles: int = 3000) -> dict[str, Words]:
    """Load, take, read and release k-tiles at random, as fast as the memory allows or slower.

    Weight words are read from the k-tile taken last, scale words from any that is not yet released: the array is behind
    the fetcher. Beats of other spaces go by meanwhile.
    """
    trace, halves, layout = Trace(), _Halves(config, rng), load_layout(config)
    loading = 0
    loaded: deque[int] = deque()    # halves that wait to be taken, and that are in the array's hands
    taken: deque[int] = deque()
    chance = {"load": 0.5, "commit": 0.1, "take": 0.1, "release": 0.1}
    for cycle in range(cycles):
        if cycle % 300 == 0:    # whose turn it is to be slow
            chance = {name: float(rng.choice([0.03, 0.1, 0.5])) for name in chance} | {"load": rng.choice([0.3, 1])}
        room = len(loaded) + len(taken) < 2
        trace.expect(cycle, "load_ready", room)
        trace.expect(cycle, "ready", bool(loaded))

        if taken and rng.random() < 0.5:
            half, word = taken[-1], int(rng.integers(config.weight_depth))
            trace.drive(cycle, weight_en=1, weight_half=half, weight_addr=word)
            known = known_bits(halves.weights[half, word, :, :config.cols].reshape(-1), 4)
            trace.expect(cycle + READ_CYCLES, "weights", *known)
        if taken and rng.random() < 0.5:
            half, word = int(rng.choice(taken)), int(rng.integers(config.scale_depth))
            trace.drive(cycle, scale_en=1, scale_half=half, scale_addr=word)
            trace.expect(cycle + 1, "codes", *known_bits(halves.codes[half, word, :config.cols], 8))

        take = bool(loaded) and rng.random() < chance["take"]
        # An array without channels takes and releases a k-tile in one cycle.
        release = bool(taken or take) and rng.random() < chance["release"]
        trace.drive(cycle, take=take, release=release)
        space = Space(int(rng.integers(len(Space))))
        enable = rng.random() < chance["load"]
        address, data = int(rng.integers(1 << 24)), join(rng.integers(16, size=config.bus_nibbles), 4)
        commit = False
        if space in (Space.WEIGHT, Space.SCALE):
            enable = enable and room
            commit = rng.random() < chance["commit"]
            if enable:
                address, data = halves.beat(space, loading)
        beat = {"data": data, "address": address, "space": space, "commit": commit}
        trace.drive(cycle, load=layout.const(beat).as_value().value, load_en=enable)
        if take:
            taken.append(loaded.popleft())
        if release:
            taken.popleft()
        if enable and commit:
            loaded.append(loading)
            loading ^= 1
    return trace.vectors()
