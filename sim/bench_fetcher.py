"""Bench of the window fetcher: requests in, the memory read in the same cycle, windows out in order."""

from typing import Any

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge

from .readport import ReadPort
from .streams import StreamBench, vectors
from .words import from_words

__all__ = ["request_per_cycle", "reset_forgets_windows", "windows_in_order"]


class FetcherBench(StreamBench):
    """Streams, the memory, and what must hold in every cycle.

    Attributes
    ----------
    most : int
        Largest number of windows that were on their way or queued.
    """

    def __init__(self, dut: Any, stall: float, window_stall: float) -> None:
        super().__init__(dut, stall)
        self.data = data = vectors()
        self.window_stall = window_stall
        self.count = len(data["reads"])
        self.depth = int(data["depth"])
        self.most = 0
        self.port = ReadPort(dut, "memory", data["reads"].tolist(), from_words(data["answers"]), stall)

    async def start(self) -> None:
        """Reset, then let streams and memory work."""
        self.send("requests", from_words(self.data["requests"]))
        self.expect("windows", from_words(self.data["windows"]), stall=self.window_stall)
        await self.reset()
        cocotb.start_soon(self.port.run())
        cocotb.start_soon(self._watch())

    async def _watch(self) -> None:
        """Compare `idle` and the number of windows with what was taken."""
        dut = self.dut
        issued = popped = 0
        while True:
            await RisingEdge(dut.clk)
            if dut.idle.value != int(issued == popped):
                raise AssertionError(f"idle is {dut.idle.value} after {issued} requests and {popped} windows")
            read = dut.memory__en.value == 1 and dut.memory__ready.value == 1
            if dut.requests__ready.value != int(read):
                raise AssertionError(f"requests__ready is {dut.requests__ready.value} in a cycle in which the memory "
                                     f"is read: {read}")
            issued += read
            popped += dut.windows__valid.value == 1 and dut.windows__ready.value == 1
            self.most = max(self.most, issued - popped)


@cocotb.test()
@cocotb.parametrize(window_stall=[0.1, 0.9])
async def windows_in_order(dut: Any, window_stall: float) -> None:
    """Whoever stalls, every request becomes its window, and the fetcher fills its queue but no more."""
    bench = FetcherBench(dut, 0.3, window_stall)
    await bench.start()
    await bench.finish(limit=20 * bench.count)
    if bench.most > bench.depth or (window_stall > 0.5 and bench.most != bench.depth):
        raise AssertionError(f"up to {bench.most} windows were on their way, with fetch_depth={bench.depth}")


@cocotb.test()
async def request_per_cycle(dut: Any) -> None:
    """Where nobody stalls, a request is taken in every cycle."""
    bench = FetcherBench(dut, 0.0, 0.0)
    await bench.start()
    await RisingEdge(dut.requests__valid)
    for cycle in range(bench.count):
        await RisingEdge(dut.clk)
        if dut.requests__valid.value != 1 or dut.requests__ready.value != 1:
            raise AssertionError(f"request {cycle} had to wait")
    await bench.finish(limit=40)


@cocotb.test()
async def reset_forgets_windows(dut: Any) -> None:
    """A reset with windows queued and on their way leaves nothing behind."""
    bench = FetcherBench(dut, 0.3, 0.3)
    dut.windows__ready.value = 0
    await bench.reset()
    dut.requests__payload.value = 0
    for name in ("requests__valid", "memory__ready", "memory__valid"):
        dut[name].value = 1
    await ClockCycles(dut.clk, 3)
    for name in ("requests__valid", "memory__ready", "memory__valid"):
        dut[name].value = 0
    await bench.start()
    await bench.finish(limit=20 * bench.count)
