"""The table of all testbenches: what `make sim` runs, and tests/ runs again under pytest.

A bench is a cocotb module and a function that prepares a run of it: the function emits the Verilog into a directory
and makes the vectors, both from the golden model's and the generator's one configuration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.config import PRESETS, Config
from hw.gen import convert

from . import (
    stimulus_accelerator,
    stimulus_arrays,
    stimulus_axi,
    stimulus_compute,
    stimulus_control,
    stimulus_fetch,
    stimulus_memory,
    stimulus_registers,
    stimulus_sequencer,
)
from .board import MEMORY_BYTES, SMALL, emit_board
from .runner import SIMULATORS, Outcome, run

__all__ = ["BENCHES", "Bench", "Job"]


@dataclass(frozen=True)
class Job:
    """One prepared run of a bench.

    Parameters
    ----------
    verilog : Path
        The emitted Verilog.
    top : str
        The module under test.
    vectors : mapping of str to array
        Stimuli and expected values, which the bench reads with `sim.streams.vectors`.
    env : mapping of str to str
        Environment variables for the bench.
    """

    verilog: Path
    top: str
    vectors: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """A testbench.

    Parameters
    ----------
    name : str
        What ``BLOCK=`` selects; several benches of a block are named BLOCK-VARIANT.
    module : str
        Dotted name of the cocotb module.
    prepare : callable
        Takes a directory for the Verilog and a seed for the vectors.
    simulators : tuple of str
        Those that the bench is meant for.
    """

    name: str
    module: str
    prepare: Callable[[Path, int], Job]
    simulators: tuple[str, ...] = ("verilator",)

    @property
    def block(self) -> str:
        """The block under test."""
        return self.name.split("-")[0]

    def run(
        self, seed: int, simulator: str = "verilator", waves: bool = False, build_dir: Path | str = "build"
    ) -> Outcome:
        """Prepare and run the bench; see `runner.run`."""
        directory = Path(build_dir) / "sim" / "verilog" / f"{self.name}-{simulator}-{seed}"
        directory.mkdir(parents=True, exist_ok=True)
        job = self.prepare(directory, seed)
        return run(
            self.module,
            job.verilog,
            job.top,
            seed=seed,
            name=self.name,
            simulator=simulator,
            waves=waves,
            vectors=job.vectors,
            env=job.env,
            build_dir=build_dir,
        )


def _bench(name: str, config: Config, vectors: Callable[[Config, np.random.Generator], Mapping[str, NDArray[Any]]],
           module: str | None = None, simulators: tuple[str, ...] = ("verilator",)) -> Bench:
    """A bench of a block of the generator, in ``sim.bench_BLOCK`` unless the module is named."""
    block = name.split("-")[0]

    def prepare(directory: Path, seed: int) -> Job:
        emitted = convert(block, config)
        return Job(emitted.write(directory)[0], emitted.top, vectors(config, np.random.default_rng(seed)))

    return Bench(name, module or f"{__package__}.bench_{block}", prepare, simulators)


def _board(directory: Path, seed: int) -> Job:
    """The bring-up design, whose stimulus is the board's self-test."""
    emitted = emit_board(SMALL, MEMORY_BYTES)
    return Job(emitted.write(directory)[0], emitted.top)


_TINY = PRESETS["tiny"]
_SMALL_MEMORY = replace(_TINY, act_nibbles=1 << 10)
_ODD = replace(_TINY, rows=3, cols=5, lanes_per_scale=2, bus_bits=128, scale_exp_bits=4, acc_bits=36)

# Arrays, with few weights, and accumulators that hold whatever is drawn.
_ARRAY = replace(_TINY, weight_depth=16, scale_depth=4, acc_bits=40)
_ARRAY_ODD = replace(_ARRAY, rows=3, cols=5, lanes_per_scale=2, bus_bits=128, scale_exp_bits=4, fifo_depth=2)
_ARRAY_TALL = replace(_ARRAY, rows=7, cols=2, lanes_per_scale=1, fifo_depth=5)

# The memory path, with memories so small that every word is met.
_PATH = replace(_SMALL_MEMORY, weight_depth=8, scale_depth=4)
_PATH_ODD = replace(_PATH, rows=3, cols=5)
_PATH_TALL = replace(_PATH, rows=7, cols=2, lanes_per_scale=2, bus_bits=128, window_width=0)
_PATH_SQUARE = replace(_PATH, rows=16, cols=16, dense=2, read_ports=3, window_width=16)
_PATH_WIDE = replace(_PATH, rows=2, cols=20, lanes_per_scale=1)     # several beats per weight and scale word
_CONTROL = replace(_PATH, table_depth=32, list_depth=32)
_TRACE = f"{__package__}.bench_trace"

# The host's side, with bursts that fill 4 KiB, and single beats.
_WIDE_BUS = replace(_TINY, bus_bits=128, axi_addr_bits=40, axi_burst=256, axi_outstanding=3)
_ONE_BEAT = replace(_TINY, axi_addr_bits=33, axi_burst=1, axi_outstanding=1)

_SEQUENCED = replace(_TINY, table_depth=128, list_depth=64)

# The whole: one small enough for Icarus, where unknowns show, and one of odd sizes with a wide bus.
_WHOLE = replace(_SMALL_MEMORY, rows=2, cols=2, lanes_per_scale=2, table_depth=128, list_depth=64)
_WHOLE_ODD = replace(_ODD, table_depth=128, list_depth=64, dense=2, axi_addr_bits=40, axi_burst=4, axi_outstanding=2)

BENCHES: tuple[Bench, ...] = (
    _bench("actmem-3x5", _PATH_ODD, stimulus_memory.actmem, _TRACE, SIMULATORS),
    _bench("actmem-16x16", _PATH_SQUARE, stimulus_memory.actmem, _TRACE),
    _bench("arbiter-3x5", _PATH_ODD, stimulus_memory.arbiter, _TRACE, SIMULATORS),
    _bench("weight_halves", _PATH, stimulus_memory.weight_halves, _TRACE, SIMULATORS),
    _bench("line_weights-3x5", replace(_PATH_ODD, dense_taps=1), stimulus_memory.line_weights, _TRACE, SIMULATORS),
    _bench("line_weights-2x20", _PATH_WIDE, stimulus_memory.line_weights, _TRACE),
    _bench("tap_weights-3x5", _PATH_ODD, stimulus_memory.tap_weights, _TRACE, SIMULATORS),
    _bench("tap_weights-2x20", _PATH_WIDE, stimulus_memory.tap_weights, _TRACE),
    _bench("scales-3x5", _PATH_ODD, stimulus_memory.scales, _TRACE, SIMULATORS),
    _bench("scales-2x20", _PATH_WIDE, stimulus_memory.scales, _TRACE),
    _bench("addrgen-3x5", _PATH_ODD, stimulus_fetch.addrgen, simulators=SIMULATORS),
    _bench("addrgen-7x2", _PATH_TALL, stimulus_fetch.addrgen),
    _bench("addrgen-16x16", _PATH_SQUARE, stimulus_fetch.addrgen),
    _bench("fetcher-3x5", _PATH_ODD, stimulus_fetch.fetcher, simulators=SIMULATORS),
    _bench("fetcher-16x16", _PATH_SQUARE, stimulus_fetch.fetcher),
    _bench("readout-7x2", _PATH_TALL, stimulus_fetch.readout, simulators=SIMULATORS),
    _bench("readout-16x16", _PATH_SQUARE, stimulus_fetch.readout),
    _bench("scheduler-2-3", replace(_CONTROL, dense=2, sparse=3), stimulus_control.scheduler, simulators=SIMULATORS),
    _bench("scheduler-1-1", _CONTROL, stimulus_control.scheduler),
    _bench("scheduler-0-2", replace(_CONTROL, dense=0, sparse=2), stimulus_control.scheduler),
    _bench("scheduler-3-0", replace(_CONTROL, dense=3, sparse=0), stimulus_control.scheduler),
    _bench("detector-4x4", _CONTROL, stimulus_control.detector, simulators=SIMULATORS),
    _bench("detector-3x5", replace(_CONTROL, rows=3, cols=5), stimulus_control.detector),
    _bench("detector-16x8", replace(_CONTROL, rows=16, cols=8), stimulus_control.detector),
    _bench("dma_read-64", _TINY, stimulus_axi.dma_read, simulators=SIMULATORS),
    _bench("dma_read-128", _WIDE_BUS, stimulus_axi.dma_read),
    _bench("dma_read-single", _ONE_BEAT, stimulus_axi.dma_read),
    _bench("dma_write-64", _TINY, stimulus_axi.dma_write, simulators=SIMULATORS),
    _bench("dma_write-128", _WIDE_BUS, stimulus_axi.dma_write),
    _bench("dma_write-single", _ONE_BEAT, stimulus_axi.dma_write),
    _bench("counters", _TINY, stimulus_registers.counters, simulators=SIMULATORS),
    _bench("registers-32", _TINY, stimulus_registers.registers, simulators=SIMULATORS),
    _bench("registers-64", replace(_ODD, name="odd", axi_addr_bits=64, axi_burst=256, axi_outstanding=16),
           stimulus_registers.registers),
    _bench("dense-4x4", replace(_ARRAY, lanes_per_scale=3), stimulus_arrays.dense, simulators=SIMULATORS),
    _bench("dense-3x5", _ARRAY_ODD, stimulus_arrays.dense),
    _bench("dense-7x2", replace(_ARRAY_TALL, dense_taps=1), stimulus_arrays.dense),
    _bench("dense-4x4-one-tap", replace(_ARRAY, dense_taps=1), stimulus_arrays.dense),
    _bench("sparse-4x4", replace(_ARRAY, lanes_per_scale=3, fifo_depth=1), stimulus_arrays.sparse,
           simulators=SIMULATORS),
    _bench("sparse-3x5", _ARRAY_ODD, stimulus_arrays.sparse),
    _bench("sparse-7x2", _ARRAY_TALL, stimulus_arrays.sparse),
    _bench("sparse-8x4", replace(_ARRAY, rows=8, fifo_depth=16), stimulus_arrays.sparse),
    _bench("ppu-4x4", _TINY, stimulus_compute.ppu),
    _bench("ppu-3x5", replace(_ODD, dense=0), stimulus_compute.ppu),
    _bench("ppu-7x2", replace(_TINY, rows=7, cols=2, lanes_per_scale=2, dense=3, sparse=0), stimulus_compute.ppu),
    _bench("engine-4x4", _SMALL_MEMORY, stimulus_compute.engine, simulators=SIMULATORS),
    _bench("engine-3x5", replace(_ODD, act_nibbles=1 << 10, sparse=2, read_ports=1, dense_taps=1, window_width=0),
           stimulus_compute.engine),
    _bench("guard-4x4", _SMALL_MEMORY, stimulus_sequencer.guard, _TRACE, SIMULATORS),
    _bench("guard-7x2", _PATH_TALL, stimulus_sequencer.guard, _TRACE),
    _bench("checker-64", _SEQUENCED, stimulus_sequencer.checker, simulators=SIMULATORS),
    _bench("checker-128", _WHOLE_ODD, stimulus_sequencer.checker),
    _bench("loader-64", _SEQUENCED, stimulus_sequencer.loader, simulators=SIMULATORS),
    _bench("loader-128", _WHOLE_ODD, stimulus_sequencer.loader),
    _bench("loader-2x20", replace(_PATH_WIDE, param_depth=32), stimulus_sequencer.loader),
    _bench("accelerator-2x2", _WHOLE, stimulus_accelerator.accelerator, simulators=SIMULATORS),
    _bench("accelerator-3x5", _WHOLE_ODD, stimulus_accelerator.accelerator),
    Bench("board-2x2", f"{__package__}.bench_board", _board),
)
