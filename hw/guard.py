"""Write guard: which nibbles of the post-processor's writes lie in the region that the layer may write."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .config import Config

__all__ = ["GUARD_CYCLES", "WriteGuard"]

GUARD_CYCLES = 4


class WriteGuard(wiring.Component):
    """Compares addresses with a region, ahead of the write that they belong to. Addresses are modulo the memory.

    A write that begins in the region and goes around the whole memory is not inside again: no region that leaves room
    for its inputs is so large.

    Members
    -------
    begin : In(addr_bits), end : In(addr_bits + 1)
        The region; stable while there are writes.
    base : In(addr_bits)
        Nibble address of a write's first nibble.
    inside : Out(rows bits, one more if rows is odd)
        Nibbles of the write that lie in the region, GUARD_CYCLES after its address was given.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "begin": In(config.addr_bits),
            "end": In(config.addr_bits + 1),
            "base": In(config.addr_bits),
            "inside": Out(config.rows + config.rows % 2),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        addr_bits, places = self.config.addr_bits, len(self.inside)
        place_bits = (places - 1).bit_length()

        def limited(name: str, value: Value) -> Signal:
            """Any number beyond the last nibble, if it is: which one makes no difference."""
            signal = Signal(place_bits + 1, name=name, reset_less=True)
            m.d.sync += signal.eq(Cat(value[:place_bits], value[place_bits:].any()))
            return signal

        # One cycle: where the write begins in the region. The next: how far the region goes on from there, or after how
        # many nibbles it begins.
        size = Signal(addr_bits + 1, reset_less=True)
        offset = Signal(addr_bits, reset_less=True)
        begun = Signal(reset_less=True)
        m.d.sync += [size.eq(self.end - self.begin), offset.eq(self.base - self.begin), begun.eq(offset < size)]
        left = limited("left", (size - offset)[:addr_bits + 1])
        before = limited("before", (-offset)[:addr_bits])
        short = limited("short", size)

        # The third: nibble by nibble.
        inside = Signal.like(self.inside, reset_less=True)
        m.d.sync += [
            inside.eq(Cat(Mux(begun, place < left, (before <= place) & (place - before < short))
                          for place in range(places))),
            self.inside.eq(inside),
        ]
        return m
