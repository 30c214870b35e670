"""Stimuli for the blocks around the sequencer: write guard, descriptor checker and loader."""

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.layer import LayerError
from golden.program.checks import Surroundings, check
from golden.program.descriptor import BYTES, FIELDS, LIMITS, Opcode, OpcodeError, decode, encode
from golden.program.pack import Packing
from golden.program.tiler import tile
from hw.config import Config
from hw.dma_read import read_layout
from hw.interfaces import Space, load_layout
from hw.loader import Job, job_layout

from .stimulus_network import random_case
from .trace import Trace, join
from .words import Words, to_words

__all__ = ["checker", "guard", "loader"]

Vectors = dict[str, NDArray[Any]]
GUARD_CYCLES = 4    # from an address to what of its write is inside
REGION_CYCLES = 30  # with one region


def guard(config: Config, rng: np.random.Generator, cycles: int = 3000) -> dict[str, Words]:
    """Addresses around the borders of regions, some of which are empty, one nibble long, or nearly all of memory."""
    size, places = config.act_nibbles, config.rows + config.rows % 2
    trace = Trace()
    begin = end = 0
    for cycle in range(cycles):
        if cycle % REGION_CYCLES == 0:
            begin = int(rng.choice([0, 1, size - 1, int(rng.integers(size))]))
            end = int(rng.choice([begin, begin + 1, begin + places - 1, size, int(rng.integers(begin, size + 1))]))
            end = min(end, size, begin + size - places)     # a write cannot go around and be inside again
        trace.drive(cycle, begin=begin, end=end)
        base = int(rng.choice([begin, end, 0, int(rng.integers(size))]) + rng.integers(-places - 1, 3)) % size
        trace.drive(cycle, base=base)
        if cycle % REGION_CYCLES < REGION_CYCLES - GUARD_CYCLES:    # the region stays until its answer
            inside = [begin <= (base + place) % size < end for place in range(places)]
            trace.expect(cycle + GUARD_CYCLES, "inside", join(inside, 1), (1 << places) - 1)
    return trace.vectors()


def checker(config: Config, rng: np.random.Generator, count: int = 250) -> Vectors:
    """Descriptors of networks with something changed, and what the golden model has against them.

    Returns
    -------
    dict
        descriptors: [count] of 1024 bits. blocks: [count, 4], numbers of the batch's parameter blocks. facts: [count,
        6], how many there are, sizes of the program and the data region, error, and without one the beats of the
        weights and of a parameter block, else -1.
    """
    packing = Packing.of(config)
    legal: list[bytes] = []
    while len(legal) < 40:
        with suppress(LayerError):
            program = tile(random_case(rng, config, (2, 4, 4), 4).network, config)
            legal += [program.code[BYTES * index:BYTES * (index + 1)] for index in range(program.count)]
    descriptors, facts, every_block = [], [], []
    for _ in range(count):
        raw = bytearray(legal[rng.integers(len(legal))])
        blocks = rng.integers(0, rng.choice([4, 1 << 16]), rng.choice([0, 1, 1, 2, 4])).tolist()
        sizes = [int(rng.choice([0xFFFF_FFFF, int(rng.integers(1 << 32)), int(rng.integers(1 << 14))]))
                 for _ in range(2)]
        kind = rng.choice(["same", "bit", "field", "limit", "end", "wrap"], p=[0.1, 0.2, 0.2, 0.2, 0.2, 0.1])
        fields = FIELDS[Opcode(raw[0])]
        chosen = fields[rng.integers(len(fields))]
        if kind == "bit":
            place = int(rng.integers(8 * BYTES))
            raw[place // 8] ^= 1 << place % 8
        elif kind in ("field", "limit"):
            value = int(rng.integers(1 << 63)) * 3 & (1 << chosen.bits) - 1
            if kind == "limit" and chosen.name in LIMITS:
                limit = LIMITS[chosen.name]
                value = int(rng.choice([limit.low, limit.high(config), limit.high(config) + 1]))
            number = int.from_bytes(raw, "little") & ~((1 << chosen.bits) - 1 << chosen.first_bit)
            raw = bytearray((number | value % (1 << chosen.bits) << chosen.first_bit).to_bytes(BYTES, "little"))
        elif kind == "end":     # sizes that just suffice, or just do not
            sizes = [_least(config, raw, blocks, which) - int(rng.integers(2)) for which in range(2)]
        elif kind == "wrap" and raw[0] in (Opcode.LOAD, Opcode.STORE):     # far beyond 32 bits
            moves = {name: value for name, value in decode(bytes(raw)).values.items() if name != "mask"}
            moves |= {"stride": int(rng.integers(1, 16)) << 28, "runs": 257, "chip_stride": 0}
            raw = bytearray(encode(Opcode(raw[0]), **moves))
        around = Surroundings(config, sizes[0], sizes[1], blocks or None)
        error = check(bytes(raw), around)
        weights = params = -1
        if error is None and raw[0] in (Opcode.CONV, Opcode.ELEMENTWISE):
            item = decode(bytes(raw))
            params = item["outputs"] * config.param_beats
            if item.opcode == Opcode.CONV:
                tile_bytes = packing.ktile_bytes(item["words"], bool(item["one_tap"]), item["groups"])
                weights = item["k_tiles"] * tile_bytes // packing.beat_bytes
        descriptors.append(int.from_bytes(raw, "little"))
        facts.append([len(blocks), *sizes, int(error or 0), weights, params])
        every_block.append(blocks + [0] * (4 - len(blocks)))
    return {"descriptors": to_words(descriptors, 8 * BYTES), "blocks": np.array(every_block), "facts": np.array(facts)}


def _least(config: Config, raw: bytes | bytearray, blocks: list[int], which: int) -> int:
    """The smallest region, of the program or the data, for which there is no error; the largest if there is none."""
    def wrong(size: int) -> bool:
        sizes = [0xFFFF_FFFF, 0xFFFF_FFFF]
        sizes[which] = size
        try:
            return check(bytes(raw), Surroundings(config, sizes[0], sizes[1], blocks or None)) is not None
        except OpcodeError:
            return True
    low, high = 1, 0xFFFF_FFFF
    while low < high and not wrong(high):
        middle = (low + high) // 2
        low, high = (middle + 1, high) if wrong(middle) else (low, middle)
    return high


def loader(config: Config, rng: np.random.Generator, rounds: int = 12) -> Vectors:
    """Rounds of jobs in any order, each with a batch, a layer and a descriptor at its end.

    Returns
    -------
    dict
        jobs, beats, load: what goes in and must come out. ends: [rounds, 3], how many of them a round has. descriptor:
        [rounds]. blocks: [rounds, 4], the batch's block numbers, -1 beyond them. bad: [rounds], sample indices that are
        not legal. failing: a beat that failed on the bus.
    """
    jobs: list[int] = []
    beats: list[int] = []
    loads: list[int] = []
    ends, descriptors, every_block, bad = [], [], [], []
    half = config.samples // 2

    def job(kind: Job, **values: int) -> None:
        jobs.append(job_layout(config).const({"kind": kind.value, "descriptor": len(jobs)} | values).as_value().value)

    def data(count: int, values: list[int] | None = None) -> list[int]:
        """Random beats, or those with these in their low 16 bits."""
        found = [int.from_bytes(rng.bytes(config.bus_bits // 8), "little") for _ in range(count)]
        if values is not None:
            found = [beat & ~0xFFFF | value for beat, value in zip(found, values, strict=True)]
        beats.extend(read_layout(config).const({"data": beat, "last": place == count - 1}).as_value().value
                     for place, beat in enumerate(found))
        return found

    def load(space: Space, address: int, value: int, commit: int = 0) -> None:
        loads.append(load_layout(config).const(
            {"space": space, "address": address, "data": value, "commit": commit}).as_value().value)

    for _ in range(rounds):
        samples = int(rng.integers(1, half + 1))
        blocks = int(rng.integers(1, min(4, samples) + 1))
        numbers = rng.integers(0, 1 << 16, blocks).tolist()
        # The indices of samples are within the blocks, except for some rounds'.
        indices = rng.integers(0, blocks + int(rng.random() < 0.3), samples).tolist()
        job(Job.BATCH, count=blocks)
        data(blocks + samples, numbers + indices)
        bad.append(sum(index >= blocks for index in indices))
        outputs = int(rng.integers(1, config.param_depth // 2 // blocks + 1))
        first_param = int(rng.integers(2)) * (config.param_depth // 2)
        kinds = [Job.ACTIVATION, Job.TABLE, Job.WEIGHT, Job.PARAM, Job.ACTIVATION]
        for kind in (kinds[place] for place in rng.permutation(len(kinds))):
            if kind in (Job.ACTIVATION, Job.TABLE):
                limit = config.act_nibbles // config.bus_nibbles if kind == Job.ACTIVATION else config.table_depth
                count = int(rng.integers(1, min(20, limit)))
                first = int(rng.integers(limit - count))
                job(kind, first=first)
                for place, beat in enumerate(data(count)):
                    load(Space[kind.name], first + place, beat)
            elif kind == Job.PARAM:
                for block in range(blocks):
                    job(kind, first=first_param + block * outputs, count=block)
                    for place, beat in enumerate(data(outputs * config.param_beats)):
                        word, part = divmod(place, config.param_beats)
                        space_bits = (config.param_beats - 1).bit_length()
                        load(Space.PARAM, (first_param + block * outputs + word << space_bits) + part, beat)
            else:
                _weights(config, rng, job, data, load)
        if not bad[-1]:
            first = int(rng.integers(2)) * half
            job(Job.SAMPLE, first=first, count=samples)
            for sample, index in enumerate(indices):
                load(Space.SAMPLE, first + sample, first_param + index * outputs)
        job(Job.LAYER)
        job(Job.DESCRIPTOR)
        words = data(8 * BYTES // config.bus_bits)
        descriptors.append(join(words, config.bus_bits))
        every_block.append(numbers + [-1] * (4 - blocks))
        ends.append((len(jobs), len(beats), len(loads)))
    job(Job.TABLE)
    failing = read_layout(config).const({"data": 0, "last": 1, "error": 1}).as_value().value
    return {
        "jobs": to_words(jobs, job_layout(config).size), "beats": to_words(beats, read_layout(config).size),
        "load": to_words(loads, load_layout(config).size), "ends": np.array(ends),
        "descriptor": to_words(descriptors, 8 * BYTES), "blocks": np.array(every_block), "bad": np.array(bad),
        "failing": to_words([failing], read_layout(config).size),
    }


def _weights(config: Config, rng: np.random.Generator, job: Any, data: Any, load: Any) -> None:
    """Some k-tiles: taps of the words, or only centre taps, then codes; each begins with a beat."""
    words, groups = int(rng.integers(1, 6)), int(rng.integers(1, min(4, config.scale_depth) + 1))
    one_tap, k_tiles = int(rng.integers(2)), int(rng.integers(1, 4))
    job(Job.WEIGHT, count=words, groups=groups, one_tap=one_tap)
    tap_bits, scale_bits = ((count - 1).bit_length() for count in (config.tap_beats, config.scale_beats))
    lane_bits = config.scale_bits - config.group_bits
    places = [(Space.WEIGHT, (4 * word + tap << tap_bits) + beat) for word in range(words)
              for tap in ([1] if one_tap else [0, 1, 2]) for beat in range(config.tap_beats)]
    places += [(Space.SCALE, ((group << lane_bits) + lane << scale_bits) + beat) for group in range(groups)
               for lane in range(config.lanes_per_scale) for beat in range(config.scale_beats)]
    every = data(k_tiles * len(places))
    for number, beat in enumerate(every):
        space, address = places[number % len(places)]
        load(space, address, beat, int(number % len(places) == len(places) - 1))
