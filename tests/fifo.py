"""A stream FIFO to test the simulation lanes with; its input ``fault`` breaks it in one of several ways."""

import os
from pathlib import Path

from amaranth.back import verilog
from amaranth.hdl import Module, Signal
from amaranth.lib import enum, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from sim import toolchain

__all__ = ["BUILD", "WIDTH", "Fault", "Fifo", "emit"]

BUILD = Path(__file__).parents[1] / "build"  # models are found again by their content, here by the next session
WIDTH = 70  # more than one word, and not a multiple of 32
DEPTH = 5


class Fault(enum.Enum, shape=3):
    """What is broken."""

    NONE = 0
    CORRUPT = 1  # every payload with lowest bits 101 leaves with its highest bit inverted
    WITHDRAW = 2  # valid drops every second cycle
    CHANGE = 3  # the payload on offer is another one until it is taken
    LOSE = 4  # claims to be ready when full


class Fifo(wiring.Component):
    """A FIFO of five beats.

    Members
    -------
    i, o : streams of `WIDTH` bits
    full : one bit
    fault : `Fault`
    """

    def __init__(self) -> None:
        beats = stream.Signature(WIDTH)
        super().__init__({"i": In(beats), "o": Out(beats), "full": Out(1), "fault": In(Fault)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=WIDTH, depth=DEPTH)
        odd = Signal()  # every second cycle
        m.d.sync += odd.eq(~odd)
        m.d.comb += [
            fifo.w_data.eq(self.i.payload),
            fifo.w_en.eq(self.i.valid),
            self.i.ready.eq(fifo.w_rdy | (self.fault == Fault.LOSE)),
            self.o.payload.eq(fifo.r_data),
            self.o.valid.eq(fifo.r_rdy & ~(odd & (self.fault == Fault.WITHDRAW))),
            fifo.r_en.eq(self.o.ready & self.o.valid),
            self.full.eq(~fifo.w_rdy),
        ]
        with m.If((self.fault == Fault.CORRUPT) & (fifo.r_data[:3] == 0b101)):
            m.d.comb += self.o.payload[-1].eq(~fifo.r_data[-1])
        with m.If((self.fault == Fault.CHANGE) & ~self.o.ready):
            m.d.comb += self.o.payload[0].eq(~fifo.r_data[0])
        return m


def emit(directory: Path) -> Path:
    """Write the FIFO's Verilog; its top module is ``fifo``."""
    os.environ.update(AMARANTH_USE_YOSYS="system", YOSYS=toolchain.yosys())
    path = directory / "fifo.v"
    path.write_text(verilog.convert(Fifo(), name="fifo", emit_src=False, strip_internal_attrs=True))
    return path
