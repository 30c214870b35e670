"""Bench of the descriptor checker: it finds the error that the golden model finds, and counts beats."""

from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from .axi import generator
from .streams import reset, start_clock, vectors
from .words import from_words

__all__ = ["descriptors_are_judged"]

LIMIT = 2000    # cycles of a check


@cocotb.test()
async def descriptors_are_judged(dut: Any) -> None:
    """One after the other, whatever the one before was."""
    data = vectors()
    numbers = generator("checker")
    blocks: list[int] = []

    async def answer() -> None:
        while True:
            await RisingEdge(dut.clk)
            index = dut.block_index.value
            number = int(index) if index.is_resolvable else 0
            dut.block.value = blocks[number] if number < len(blocks) else numbers.getrandbits(16)

    start_clock(dut)
    beat_bits, beats = len(dut.beat), 1 << len(dut.place)
    for name in ("start", "beat", "place", "write", "program_size", "data_size", "blocks", "block"):
        dut[name].value = 0
    cocotb.start_soon(answer())
    await reset(dut)
    rows = zip(from_words(data["descriptors"]), data["blocks"].tolist(), data["facts"].tolist(), strict=True)
    for number, (descriptor, batch, facts) in enumerate(rows):
        count, program_size, data_size, error, weights, params = facts
        blocks[:] = batch[:count]
        dut.write.value = 1
        for place in range(beats):
            dut.place.value, dut.beat.value = place, descriptor >> place * beat_bits & (1 << beat_bits) - 1
            await RisingEdge(dut.clk)
        dut.write.value = 0
        dut.program_size.value = program_size
        dut.data_size.value = data_size
        dut.blocks.value = count
        dut.start.value = 1
        await RisingEdge(dut.clk)
        dut.start.value = 0
        for _ in range(LIMIT):
            await RisingEdge(dut.clk)
            if dut.done.value == 1:
                break
        else:
            raise AssertionError(f"descriptor {number}: no answer within {LIMIT} cycles")
        where = f"descriptor {number}, {descriptor:#x}"
        assert dut.error.value == error, f"{where}: error {int(dut.error.value)}, expected {error}"
        for name, expected in (("weight_beats", weights), ("block_beats", params)):
            if expected >= 0:
                assert dut[name].value == expected, f"{where}: {name} is {int(dut[name].value)}, expected {expected}"
