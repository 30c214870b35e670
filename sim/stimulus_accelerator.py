"""Stimulus for the accelerator: small programs, and what the functional simulator makes of them."""

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.layer import LayerError
from golden.program.descriptor import BYTES, Opcode, decode
from golden.program.simulator import Simulator
from golden.program.tiler import tile
from hw.config import Config

from .stimulus_network import random_case

__all__ = ["accelerator"]

PAGE = 1 << 12
SHAPE = (2, 2, 3)   # samples, lines, columns of the programs' inputs
NODES = 2


def accelerator(config: Config, rng: np.random.Generator, count: int = 3) -> dict[str, NDArray[Any]]:
    """Programs of a few layers, each in a memory of its own.

    The last one has a wrong bit: it is refused at some descriptor. Of the second, some beats that it needs are named:
    their descriptor, and whether it reads or writes them.

    Returns
    -------
    dict
        limits: of the bus. base: of all memories. I.memory, I.after: host memory, before and after. I.program: bases
        and sizes of the program and the data region, descriptors, error and index at the end. faults: [beats, 3],
        address, descriptor, 1 for a write.
    """
    base = ((1 << config.axi_addr_bits) - 64 * PAGE) & ~(PAGE - 1)
    result: dict[str, NDArray[Any]] = {
        "limits": np.array([config.bus_bits, config.axi_burst, config.axi_outstanding]), "base": np.array(base),
        "count": np.array(count)}
    # Memories of the RTL are what the program before left.
    simulator = Simulator(config, b"", b"")
    for number in range(count):
        while True:
            with suppress(LayerError):    # does not fit
                case = random_case(rng, config, SHAPE, NODES, elementwise=0.4)
                program = tile(case.network, config)
                break
        code = bytearray(program.code)
        if number == count - 1:
            index = int(rng.integers(1, program.count))
            code[BYTES * index + 4] |= 1 << rng.integers(8)     # w1 is reserved
        block = rng.integers(0, case.network.blocks, SHAPE[0]).tolist() if program.blocks == SHAPE[0] else [0, 0]
        data = program.data(case.inputs, block)
        data_place = PAGE * (1 + -(-len(code) // PAGE))
        memory = rng.integers(0, 256, data_place + PAGE * (1 + -(-len(data) // PAGE)), np.uint8)
        memory[:len(code)] = np.frombuffer(code, np.uint8)
        memory[data_place:data_place + len(data)] = np.frombuffer(data, np.uint8)
        simulator.program, simulator.data = bytes(code), data
        outcome = simulator.run(program.count)
        after = memory.copy()
        after[data_place:data_place + len(data)] = np.frombuffer(simulator.data, np.uint8)
        result |= {
            f"{number}.memory": memory, f"{number}.after": after,
            f"{number}.program": np.array([base, len(code), base + data_place, len(data), program.count,
                                           int(outcome.error or 0), outcome.index if outcome.error else 0]),
        }
        if number == 1:
            result["faults"] = _faults(program.code[:BYTES * program.count], base, base + data_place)
    return result


def _faults(code: bytes, program_base: int, data_base: int) -> NDArray[np.int64]:
    """For each descriptor, its first beat and the first beats that it reads or writes."""
    found = []
    for index in range(len(code) // BYTES):
        item = decode(code[BYTES * index:BYTES * (index + 1)])
        found.append((program_base + BYTES * index, index, 0))
        if item.opcode in (Opcode.LOAD, Opcode.STORE, Opcode.BATCH):
            found.append((data_base + item["offset"], index, int(item.opcode == Opcode.STORE)))
        found += [(program_base + item[name], index, 0) for name in ("table", "weights", "params")
                  if name in item.values]
    return np.array(found)
