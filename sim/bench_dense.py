"""Bench of the dense array, and of the PE rows that it consists of; `sim.bench_array` is what it stands in."""

from typing import Any

import cocotb

from .bench_array import ArrayBench, run_after_reset


@cocotb.test()
async def tiles_are_exact_whatever_stalls(dut: Any) -> None:
    """Vectors of any length, whole windows and lines, k-tiles back to back, everything pausing: no bit is lost."""
    await ArrayBench(dut, "random", stall=0.3, delay=10).run()


@cocotb.test()
async def a_late_post_processor_holds_tiles_up(dut: Any) -> None:
    """With both accumulator banks waiting, the next tile's first vector ends only when one of them is released."""
    bench = ArrayBench(dut, "random", stall=0.0, delay=80)
    await bench.run()
    assert bench.flags["wait_bank"] > 0


@cocotb.test()
async def a_vector_may_end_every_drain(dut: Any) -> None:
    """Vectors of one line follow each other every lanes_per_scale cycles, and no faster."""
    bench = ArrayBench(dut, "steady", stall=0.0, delay=0)
    await bench.run()
    bench.check_span()


@cocotb.test()
async def reset_forgets_a_tile_at_work(dut: Any) -> None:
    """A reset in the middle of a tile leaves nothing behind."""
    await run_after_reset(ArrayBench(dut, "random", stall=0.0, delay=0))
