"""The cocotb bench that tests/test_streams.py runs on the FIFO of tests/fifo.py."""

from typing import Any

import cocotb

from sim.streams import StreamBench, vectors
from sim.words import from_words


@cocotb.test()
async def passes_every_beat_in_order(dut: Any) -> None:
    data = vectors()
    dut.fault.value = int(data["fault"])
    bench = StreamBench(dut, stall=float(data["stall"]))
    bench.send("i", from_words(data["beats"]))
    bench.expect("o", from_words(data["expected"]))
    await bench.reset()
    await bench.finish(limit=2000)


@cocotb.test(skip=True)
async def is_skipped(dut: Any) -> None:
    """Shows that skipped tests are reported."""
