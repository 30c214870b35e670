"""Bench of the event counters: nothing is lost, and a value read at any time is one that was passed."""

from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from .axi import generator
from .streams import reset, start_clock, vectors
from .words import from_words

__all__ = ["every_event_is_counted", "reset_clears"]

COUNTERS = 32


async def _read(dut: Any, index: int) -> int:
    dut.index.value = index
    await RisingEdge(dut.clk)
    await RisingEdge(dut.clk)
    return int(dut.value.value)


async def _settle(dut: Any, limit: int) -> None:
    for _ in range(limit):
        await RisingEdge(dut.clk)
        if dut.settled.value == 1:
            return
    raise AssertionError(f"not settled after {limit} cycles")


async def _rest(dut: Any) -> None:
    start_clock(dut)
    for name in ("happened", "clear", "index"):
        dut[name].value = 0
    await reset(dut)


@cocotb.test()
async def every_event_is_counted(dut: Any) -> None:
    """Values lag a round behind at most, none is ever wrong, and a clear leaves nothing."""
    data = vectors()
    happened, clears, sums = from_words(data["happened"]), data["clears"].tolist(), data["sums"].tolist()
    kinds = len(sums[0])
    lag = kinds + 2
    numbers = generator("index")
    await _rest(dut)
    await _settle(dut, lag + 1)
    begin, cleared = 0, 0
    asked: list[int] = []
    for end in data["ends"].tolist():
        for cycle in range(begin, end):
            dut.happened.value, dut.clear.value = happened[cycle], int(clears[cycle])
            asked.append(numbers.randrange(kinds if numbers.random() < 0.8 else COUNTERS))
            dut.index.value = asked[-1]
            await RisingEdge(dut.clk)
            if cycle > begin:   # what was asked for in the last cycle is there
                index, value = asked[-2], int(dut.value.value)
                if clears[cycle - 1]:
                    cleared = cycle
                elif index >= kinds:
                    assert value == 0, f"counter {index}, which does not exist, is {value}"
                elif cleared + lag < cycle:
                    least = sums[max(begin, cycle - 1 - lag)][index]
                    most = sums[cycle - 1][index]
                    assert least <= value <= most, f"counter {index} is {value}, not from {least} to {most}"
                elif cleared and cycle <= cleared + kinds:
                    assert value == 0, f"counter {index} is {value} while it is cleared"
            assert dut.settled.value == 0 or cycle == begin or not any(happened[max(begin, cycle - 1):cycle]), "settled"
        dut.happened.value = dut.clear.value = 0
        dut.index.value = index = numbers.randrange(kinds)
        await _settle(dut, lag + 1)
        await RisingEdge(dut.clk)
        assert dut.value.value == sums[end][index], f"counter {index} was not settled"
        for index in range(COUNTERS):
            expected = sums[end][index] if index < kinds else 0
            got = await _read(dut, index)
            assert got == expected, f"counter {index} is {got:#x}, expected {expected:#x}"
        begin, cleared = end, 0


@cocotb.test()
async def reset_clears(dut: Any) -> None:
    """A reset at any time leaves counters of 0."""
    happened = from_words(vectors()["happened"])
    await _rest(dut)
    for value in happened[:50]:
        dut.happened.value = value
        await RisingEdge(dut.clk)
    await reset(dut)
    dut.happened.value = 0
    await _settle(dut, COUNTERS)
    for index in range(COUNTERS):
        assert await _read(dut, index) == 0
