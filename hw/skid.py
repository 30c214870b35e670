"""Two registers in a stream, so that neither `valid` nor `ready` passes through in the same cycle."""

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Skid"]


class Skid(wiring.Component):
    """Passes items on a cycle later, one per cycle.

    Parameters
    ----------
    shape : shape
        Of an item.

    Members
    -------
    i : In(stream of shape), o : Out(stream of shape)
    empty : Out(1)
        No item is here.
    """

    def __init__(self, shape: Any) -> None:
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)), "empty": Out(1)})

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        spare = Signal.like(self.o.payload, reset_less=True)
        spared = Signal()       # an item came that could not go on
        m.d.comb += [self.i.ready.eq(~spared), self.empty.eq(~self.o.valid)]
        with m.If(self.o.ready | ~self.o.valid):
            m.d.sync += [self.o.valid.eq(spared | self.i.valid), spared.eq(0)]
            with m.If(spared):
                m.d.sync += self.o.payload.eq(spare)
            with m.Else():
                m.d.sync += self.o.payload.eq(self.i.payload)
        with m.Elif(~spared):
            m.d.sync += [spared.eq(self.i.valid), spare.eq(self.i.payload)]
        return m
