"""Soak: random networks on random configurations of the accelerator, its RTL against the functional simulator.

Each network runs for some time steps, with random masks, batches, latencies and stalls; all of host memory, all of the
activation memory and all labels are compared. A network has a number, from which with the seed all of it follows:
--first runs it again. A configuration, which takes a minute or two to compile, serves for a number of networks. The
exit code is 0 if all agree.

examples:
  python -m sim.soak --count 200 --seed 1
  python -m sim.soak --seed 1 --first 137 --count 1
"""

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from golden.conv import AccumulatorOverflow
from golden.layer import LayerError
from golden.program.bundle import Program
from golden.program.tiler import tile
from hw.config import Config, ConfigError, preset
from hw.gen import convert

from .fast import FastSim
from .stimulus_network import STEPS, Case, random_case
from .twins import Twins

__all__ = ["main", "random_config", "run_network"]

PER_CONFIG = 25     # networks
SIZE = 1 << 20      # of host memory
SHOWN = ("rows", "cols", "dense", "sparse", "lanes_per_scale", "read_ports", "window_width", "dense_taps", "fifo_depth",
         "bus_bits", "axi_burst", "axi_outstanding")


def random_config(rng: np.random.Generator) -> Config:
    """A small configuration, with memories that random networks fit in."""
    while True:
        dense, sparse = int(rng.integers(3)), int(rng.integers(3))
        rows, cols = int(rng.integers(2, 9)), int(rng.integers(2, 9))
        with suppress(ConfigError):
            return replace(
                preset("tiny"), name="soak", table_depth=256, list_depth=128, act_nibbles=1 << 15, weight_depth=256,
                rows=rows, cols=cols, dense=dense, sparse=sparse, lanes_per_scale=int(rng.integers(2, cols + 1)),
                read_ports=int(rng.integers(1, max(dense + sparse, 1) + 1)), window_width=int(rng.choice([0, 4, 8])),
                dense_taps=int(rng.choice([1, 3])), fifo_depth=int(rng.integers(1, 9)),
                bus_bits=int(rng.choice([64, 128])), axi_addr_bits=int(rng.integers(32, 65)),
                axi_burst=int(2 ** rng.integers(9)), axi_outstanding=int(rng.integers(1, 9)))


def _draw(config: Config, rng: np.random.Generator) -> tuple[Case, Program]:
    """A network that fits, and its program."""
    while True:
        shape = int(rng.integers(1, 4)), int(rng.integers(1, 9)), int(rng.integers(1, 12))
        with suppress(LayerError, AccumulatorOverflow):
            case = random_case(rng, config, shape, int(rng.integers(1, 7)), masks=True)
            return case, tile(case.network, config)


def run_network(config: Config, sim: FastSim, rng: np.random.Generator) -> int:
    """Run a random network, and compare all; return the cycles.

    Raises
    ------
    AssertionError
        On any difference.
    """
    case, program = _draw(config, rng)
    twins = Twins(config, sim, SIZE, latency=int(rng.integers(1, 100)), stall=float(rng.choice([0, 0.1, 0.5])),
                  seed=int(rng.integers(1 << 30)))
    for step in range(STEPS):
        blocks = rng.integers(0, case.network.blocks, program.samples)
        if len(set(blocks.tolist())) > program.blocks:
            blocks[:] = blocks[0]
        outcome = twins.run(program.code, program.count, bytes(program.data(case.inputs, blocks.tolist())), step)
        assert outcome is not None, "the functional simulator finds the result undefined"
        assert outcome.error is None, outcome.problem
        twins.check_labels(program.labels)
    return twins.rtl.sim.cycle


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="networks to run")
    parser.add_argument("--seed", type=int, default=1, help="of everything")
    parser.add_argument("--first", type=int, default=0, help="number of the first network")
    parser.add_argument("--build", type=Path, default=Path("build"), help="directory for everything generated")
    options = parser.parse_args(arguments)
    started, total = time.perf_counter(), 0
    verilog: Path | None = None
    for number in range(options.first, options.first + options.count):
        if verilog is None or number % PER_CONFIG == 0:
            config = random_config(np.random.default_rng([options.seed, number // PER_CONFIG, 0]))
            print("configuration:", ", ".join(f"{name}={asdict(config)[name]}" for name in SHOWN), flush=True)
            verilog = convert("accelerator", config).write(options.build / "soak")[0]
        with FastSim.build(verilog, verilog.stem, options.build) as sim:
            try:
                total += run_network(config, sim, np.random.default_rng([options.seed, number, 1]))
            except AssertionError as error:
                print(f"network {number} FAILED: {error}\n"
                      f"again: python -m sim.soak --seed {options.seed} --first {number} --count 1")
                return 1
        print(f"network {number}: exact, {total:,} cycles in {time.perf_counter() - started:.0f} s", flush=True)
    print(f"{options.count} networks, seed {options.seed}: all exact")
    return 0


if __name__ == "__main__":
    sys.exit(main())
