"""Bench of the loader: every beat goes to its place, whoever pauses."""

from typing import Any

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge

from .streams import StreamBench, vectors
from .words import from_words

__all__ = ["a_failed_beat_stops_it", "beats_go_to_their_places"]

REST = ("descriptor_take", "layer_take", "block_index")


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def beats_go_to_their_places(dut: Any, stall: float) -> None:
    """Round by round: what is loaded, the descriptor, the batch with its errors, and that a layer is ready."""
    data = vectors()
    bench = StreamBench(dut, stall=stall)
    for name in REST:
        dut[name].value = 0
    streams = {name: from_words(data[name]) for name in ("jobs", "beats", "load")}
    bad = 0

    async def count_bad() -> None:
        nonlocal bad
        while True:
            await RisingEdge(dut.clk)
            bad += dut.bad_batch.value == 1

    await bench.reset()
    cocotb.start_soon(count_bad())
    first = [0, 0, 0]
    for number, last in enumerate(data["ends"].tolist()):
        bad = 0
        for (name, items), begin, end in zip(streams.items(), first, last, strict=True):
            (bench.expect if name == "load" else bench.send)(name, items[begin:end])
        first = last
        await bench.finish(limit=5000)
        where = f"round {number}"
        assert dut.idle.value == 1, f"{where}: not idle"
        assert dut.descriptor_valid.value == 1 and dut.layer_ready.value == 1, f"{where}: no descriptor, or no layer"
        assert int(dut.descriptor.value) == from_words(data["descriptor"])[number], f"{where}: another descriptor"
        assert bad == data["bad"][number], f"{where}: {bad} bad samples, expected {data['bad'][number]}"
        for index, block in enumerate(data["blocks"][number].tolist()):
            dut.block_index.value = index
            await ClockCycles(dut.clk, 2)
            assert block < 0 or dut.block.value == block, f"{where}: block {index} is {int(dut.block.value)}"
        await RisingEdge(dut.clk)
        dut.descriptor_take.value = dut.layer_take.value = 1
        await RisingEdge(dut.clk)
        dut.descriptor_take.value = dut.layer_take.value = 0
        await ClockCycles(dut.clk, 2)
        assert dut.descriptor_valid.value == 0 and dut.layer_ready.value == 0, f"{where}: taken, but still there"


@cocotb.test()
async def a_failed_beat_stops_it(dut: Any) -> None:
    """It is told with its descriptor, and goes nowhere."""
    data = vectors()
    bench = StreamBench(dut)
    for name in REST:
        dut[name].value = 0
    job = from_words(data["jobs"])[-1]
    await bench.reset()
    bench.send("jobs", [job])
    bench.send("beats", from_words(data["failing"]))
    bench.expect("load", [])
    await ClockCycles(dut.clk, 20)
    assert dut.error.value == 1 and dut.idle.value == 0
    assert dut.error_descriptor.value == len(data["jobs"]) - 1
    assert bench.drivers["beats"].sent == 0
