"""What goes onto a board: the accelerator, memory on its bus, and the serial bridge that reaches both."""

from amaranth.hdl import ClockSignal, DomainRenamer, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from hw.accelerator import MASTER, SLAVE, Accelerator
from hw.axi import axi_read_members, axi_write_members, lite_members
from hw.config import Config

from .bridge import SerialBridge
from .memory import AxiMemory

__all__ = ["BASE", "BringUp"]

BASE = 0x4000_0000      # of the memory, as the accelerator sees it
GAP_SECONDS = 0.05      # a USB adapter may keep bytes for as long


class BringUp(wiring.Component):
    """The accelerator behind a serial line.

    Parameters
    ----------
    config : Config
    clock_hz : int
    baud : int
        At most a quarter of the clock; the bits' length is off by half a cycle at most, which must be 2 % or less.
    memory_bytes : int
        A power of two.
    gap : int, optional
        Cycles without a byte after which a frame is dropped; by default those of 50 ms.

    Members
    -------
    rx : In(1), tx : Out(1)
        The serial line.
    alive : Out(1)
        Blinks, about once a second.
    busy, error : Out(1)
        STATUS.busy, and STATUS.error of the last run.

    Raises
    ------
    ValueError
        If the baud rate cannot be made of this clock.
    """

    def __init__(self, config: Config, clock_hz: int, baud: int, memory_bytes: int, gap: int | None = None) -> None:
        divisor = round(clock_hz / baud)
        if divisor < 4 or abs(divisor * baud / clock_hz - 1) > 0.02:
            raise ValueError(f"baud={baud} is not legal: it must be at most {clock_hz // 4}, and within 2 % of a "
                             f"fraction of the clock, {clock_hz} Hz")
        self.config, self.clock_hz, self.divisor = config, clock_hz, divisor
        self.memory_bytes = memory_bytes
        self.gap = int(GAP_SECONDS * clock_hz) if gap is None else gap
        super().__init__({"rx": In(1), "tx": Out(1, init=1), "alive": Out(1), "busy": Out(1), "error": Out(1)})

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config = self.config
        # Its clock domain gets another name, for it has the same name as this one.
        m.submodules.accelerator = DomainRenamer("accelerator")(accelerator := Accelerator(config))
        m.submodules.memory = memory = AxiMemory(config, BASE, self.memory_bytes)
        m.submodules.bridge = bridge = SerialBridge(self.divisor, self.gap, BASE, self.memory_bytes)
        m.d.comb += [accelerator.aclk.eq(ClockSignal()), accelerator.aresetn.eq(~ResetSignal(allow_reset_less=True))]
        for members, port, prefix in ((axi_read_members(config), memory.read, MASTER),
                                      (axi_write_members(config), memory.write, MASTER),
                                      (lite_members(), bridge.registers, SLAVE)):
            for name, member in members.items():
                outside, inside = getattr(accelerator, prefix + name), getattr(port, name)
                driven = (member.flow is Out) == (prefix == MASTER)
                m.d.comb += inside.eq(outside) if driven else outside.eq(inside)
        connect(m, bridge.memory, memory.host)

        blink = Signal(range(self.clock_hz))
        m.d.sync += blink.eq(blink + 1)
        m.d.comb += [bridge.rx.eq(self.rx), self.tx.eq(bridge.tx), self.alive.eq(blink[-1]), self.busy.eq(bridge.busy),
                     self.error.eq(bridge.error)]
        return m
