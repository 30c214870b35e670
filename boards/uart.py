"""UART: bytes on a serial line, 8 data bits, no parity, one stop bit."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["Receiver", "Transmitter"]

FRAME = 10      # bits of a byte on the line: start, eight of data, stop


class Receiver(wiring.Component):
    """Bytes from the line.

    Parameters
    ----------
    divisor : int
        Clock cycles per bit, at least 4.

    Members
    -------
    rx : In(1)
        The line; asynchronous.
    byte : Out(8)
        Valid in the cycle in which `valid` is high. Nothing is kept: whoever is not looking misses it.
    valid : Out(1)
        A byte came. One without a stop bit is dropped.
    idle : Out(1)
        No byte is on its way: none comes within the next eight bits.
    """

    def __init__(self, divisor: int) -> None:
        if divisor < 4:
            raise ValueError(f"divisor={divisor} is not legal: it must be 4 or more (a bit is sampled in its middle)")
        self.divisor = divisor
        super().__init__({"rx": In(1), "byte": Out(8), "valid": Out(1), "idle": Out(1)})

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        line = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.rx, line, init=1)
        timer = Signal(range(self.divisor + self.divisor // 2))
        left = Signal(range(FRAME))     # bits still to come, the stop bit too
        shift = Signal(8)
        m.d.comb += self.byte.eq(shift)
        m.d.sync += self.valid.eq(0)
        with m.If(left == 0):
            m.d.comb += self.idle.eq(~self.valid)
            with m.If(~line):
                # The middle of bit 0 is one and a half bits away.
                m.d.sync += [left.eq(FRAME - 1), timer.eq(self.divisor + self.divisor // 2 - 1)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [left.eq(left - 1), timer.eq(self.divisor - 1)]
            with m.If(left == 1):
                m.d.sync += self.valid.eq(line)
            with m.Else():
                m.d.sync += shift.eq(Cat(shift[1:], line))
        return m


class Transmitter(wiring.Component):
    """Bytes to the line.

    Parameters
    ----------
    divisor : int
        Clock cycles per bit.

    Members
    -------
    bytes : In(stream of 8 bits)
    tx : Out(1)
        The line.
    """

    def __init__(self, divisor: int) -> None:
        self.divisor = divisor
        super().__init__({"bytes": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        timer = Signal(range(self.divisor))
        left = Signal(range(FRAME + 1))
        shift = Signal(FRAME, init=(1 << FRAME) - 1)
        m.d.sync += self.tx.eq(shift[0])
        with m.If(left == 0):
            m.d.comb += self.bytes.ready.eq(1)
            with m.If(self.bytes.valid):
                m.d.sync += [shift.eq(Cat(0, self.bytes.payload, 1)), left.eq(FRAME), timer.eq(self.divisor - 1)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [shift.eq(Cat(shift[1:], 1)), left.eq(left - 1), timer.eq(self.divisor - 1)]
        return m
