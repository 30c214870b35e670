"""Bench of the sparse array and of its rows; `sim.bench_array` is what it stands in.

All benches count the steps: one for each nonzero and one for each row in which a whole tile is zero, and none else.
"""

from typing import Any

import cocotb

from .bench_array import ArrayBench, run_after_reset


@cocotb.test()
async def tiles_are_exact_whatever_stalls(dut: Any) -> None:
    """Nibbles of any sign, passes of any exponent, whole windows and lines, everything pausing: no bit is lost."""
    await ArrayBench(dut, "random", stall=0.3, delay=10).run()


@cocotb.test()
async def a_late_post_processor_holds_tiles_up(dut: Any) -> None:
    """Rows that are ahead wait for a bank, others go on; nothing is lost, and nothing hangs."""
    bench = ArrayBench(dut, "random", stall=0.0, delay=80)
    await bench.run()
    assert bench.flags["wait_bank"] > 0


@cocotb.test()
async def zeros_in_every_position_are_exact(dut: Any) -> None:
    """Windows, vectors and tiles of zeros, one or several in a row, at the beginning, in the middle and at the end."""
    await ArrayBench(dut, "zeros", stall=0.0, delay=0).run()


@cocotb.test()
async def zeros_in_every_position_are_exact_whatever_stalls(dut: Any) -> None:
    """The same, with everything pausing and the post-processor late."""
    await ArrayBench(dut, "zeros", stall=0.3, delay=60).run()


@cocotb.test()
async def a_single_nonzero_is_found_in_every_position(dut: Any) -> None:
    """Each tile has one nonzero nibble, in each row and tap once."""
    await ArrayBench(dut, "single", stall=0.0, delay=0).run()


@cocotb.test()
async def windows_without_zeros_are_exact(dut: Any) -> None:
    """The smallest, the largest and the least value everywhere."""
    await ArrayBench(dut, "full", stall=0.1, delay=5).run()


@cocotb.test()
async def every_density_is_exact(dut: Any) -> None:
    """0 to 100 % nonzeros, with a border."""
    await ArrayBench(dut, "density", stall=0.0, delay=3).run()


@cocotb.test()
async def a_vector_may_end_every_drain(dut: Any) -> None:
    """Vectors of one nonzero follow each other every lanes_per_scale cycles, and no faster."""
    bench = ArrayBench(dut, "steady", stall=0.0, delay=0)
    await bench.run()
    bench.check_span()


@cocotb.test()
async def rows_run_ahead_of_each_other_and_zeros_take_no_cycle(dut: Any) -> None:
    """Rows that are given every fourth window work all the time; only a FIFO of a window or two holds them up."""
    bench = ArrayBench(dut, "ahead", stall=0.0, delay=0)
    await bench.run()
    if bench.span:
        bench.check_span()


@cocotb.test()
async def reset_forgets_a_tile_at_work(dut: Any) -> None:
    """A reset in the middle of a tile leaves nothing behind."""
    await run_after_reset(ArrayBench(dut, "random", stall=0.0, delay=0))
