"""Cycle-by-cycle traces, for blocks whose contract is a matter of cycles and not of streams.

A trace is written before the simulation: what to drive in each cycle, and which bits of which outputs to find in it. In
the simulator, `play` drives and compares, and nothing else::

    trace = Trace()
    for cycle in range(1000):
        trace.drive(cycle, en=1, addr=7)
        trace.expect(cycle + 2, "data", 0x12, known=0xff)
    vectors = trace.vectors()
"""

from collections import defaultdict
from typing import Any

from cocotb.triggers import RisingEdge
from numpy.typing import NDArray

from .streams import reset, start_clock
from .words import Words, from_words, to_words

__all__ = ["Trace", "join", "known_bits", "play"]

DRIVE, EXPECT, KNOWN = "drive.", "expect.", "known."


def join(parts: Any, width: int) -> int:
    """Integers of `width` bits as one, the first lowest; of negative ones the two's complement."""
    mask = (1 << width) - 1
    return sum((int(part) & mask) << width * place for place, part in enumerate(parts))


def known_bits(parts: Any, width: int) -> tuple[int, int]:
    """Integers of `width` bits, -1 where unknown, as one, and the mask of the known bits."""
    items = [int(part) for part in parts]
    return join((max(item, 0) for item in items), width), join((-(item >= 0) for item in items), width)


class Trace:
    """What to drive and what to find, by port and cycle. Inputs rest at 0; what is not expected is not looked at."""

    def __init__(self) -> None:
        self._driven: dict[str, dict[int, int]] = defaultdict(dict)
        self._expected: dict[str, dict[int, tuple[int, int]]] = defaultdict(dict)

    def drive(self, cycle: int, **inputs: int) -> None:
        """Set input ports in a cycle."""
        for name, value in inputs.items():
            self._driven[name][cycle] = int(value)

    def expect(self, cycle: int, name: str, value: int, known: int = 1) -> None:
        """Find `value` on an output port in a cycle, in the bits of the mask `known`; other bits stay as they were."""
        others, before = self._expected[name].get(cycle, (0, 0))
        self._expected[name][cycle] = others & ~int(known) | int(value) & int(known), before | int(known)

    def vectors(self) -> dict[str, Words]:
        """The trace as arrays for `play`; it ends with the last cycle in which something is driven."""
        cycles = range(1 + max(cycle for values in self._driven.values() for cycle in values))

        def words(values: list[int]) -> Words:
            return to_words(values, max(1, *(value.bit_length() for value in values)))

        arrays = {DRIVE + name: words([values.get(cycle, 0) for cycle in cycles])
                  for name, values in self._driven.items()}
        for name, found in self._expected.items():
            pairs = [found.get(cycle, (0, 0)) for cycle in cycles]
            arrays[EXPECT + name] = words([value for value, _ in pairs])
            arrays[KNOWN + name] = words([known for _, known in pairs])
        return arrays


def _bits(value: Any) -> tuple[int, int]:
    """A port's value with unknown bits as 0, and the mask of the known ones."""
    text = str(value)
    return int("".join("1" if bit == "1" else "0" for bit in text), 2), \
        int("".join("1" if bit in "01" else "0" for bit in text), 2)


async def play(dut: Any, arrays: dict[str, NDArray[Any]]) -> None:
    """Reset the design and run a trace on it; the first difference fails the test."""
    def ports(kind: str) -> dict[str, list[int]]:
        return {key.removeprefix(kind): from_words(words) for key, words in arrays.items() if key.startswith(kind)}

    driven = [(dut[name], values) for name, values in ports(DRIVE).items()]
    known = ports(KNOWN)
    expected = [(name, dut[name], values, known[name]) for name, values in ports(EXPECT).items()]
    for handle, _ in driven:
        handle.value = 0
    start_clock(dut)
    await reset(dut)
    edge = RisingEdge(dut.clk)
    for cycle in range(len(driven[0][1])):
        for handle, values in driven:
            if cycle == 0 or values[cycle] != values[cycle - 1]:
                handle.value = values[cycle]
        await edge
        for name, handle, values, masks in expected:
            if mask := masks[cycle]:
                got, clear = _bits(handle.value)
                if (got ^ values[cycle]) & mask or mask & ~clear:
                    raise AssertionError(f"cycle {cycle}: {name} is {handle.value}, expected {values[cycle]:#x} "
                                         f"in the bits {mask:#x}")
