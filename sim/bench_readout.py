"""Bench of the readout: reads in the order of the addresses, beats in the order of the reads, none lost."""

from typing import Any

import cocotb

from .readport import ReadPort
from .streams import StreamBench, vectors
from .words import from_words

__all__ = ["beats_in_order"]


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3], beat_stall=[0.0, 0.9])
async def beats_in_order(dut: Any, stall: float, beat_stall: float) -> None:
    """Whoever stalls, every address becomes its beat; where beats stall much the queue is full."""
    data = vectors()
    bench = StreamBench(dut, stall=stall)
    bench.send("addresses", from_words(data["addresses"]))
    bench.expect("beats", from_words(data["beats"]), stall=beat_stall)
    port = ReadPort(dut, "memory", data["reads"].tolist(), from_words(data["answers"]), stall)
    await bench.reset()
    cocotb.start_soon(port.run())
    await bench.finish(limit=20 * len(data["reads"]))
