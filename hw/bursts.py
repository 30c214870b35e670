"""Burst splitter: cuts runs of beats into bursts that AXI allows."""

from amaranth.hdl import Module, Mux, Shape, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import Config

__all__ = ["BEATS_BITS", "BurstSplitter", "burst_layout", "command_layout"]

BEATS_BITS = 25     # up to 2**24 beats
PAGE_BYTES = 1 << 12    # no burst may cross a border of these


def command_layout(config: Config) -> data.StructLayout:
    """A run of beats in memory.

    Members
    -------
    address : axi_addr_bits
        Byte address of the first beat; the bits within a beat are not looked at.
    beats : 25 bits
        1 to 2**24. A command of 0 beats is taken and does nothing.
    """
    return data.StructLayout({"address": config.axi_addr_bits, "beats": BEATS_BITS})


def burst_layout(config: Config) -> data.StructLayout:
    """A burst.

    Members
    -------
    address : axi_addr_bits
        Byte address of the first beat, aligned to beats.
    more : 8 bits
        Beats after the first: what AXI calls the length.
    final : 1 bit
        The last burst of its command.
    """
    return data.StructLayout({"address": config.axi_addr_bits, "more": 8, "final": 1})


def _beat_address(config: Config) -> Shape:
    return unsigned(config.axi_addr_bits - (config.bus_bits // 8 - 1).bit_length())


class BurstSplitter(wiring.Component):
    """Turns commands into bursts, one per cycle, in order.

    A burst is as long as it may be: up to `axi_burst` beats, or to the next 4 KiB border.

    Members
    -------
    commands : In(stream of command_layout)
    bursts : Out(stream of burst_layout)
    flush : In(1)
        Forget what is left of the command; no command is taken and no burst is offered meanwhile.
    idle : Out(1)
        No bursts are left to be made.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "commands": In(stream.Signature(command_layout(config))),
            "bursts": Out(stream.Signature(burst_layout(config))),
            "flush": In(1),
            "idle": Out(1),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config = self.config
        byte_bits = (config.bus_bits // 8 - 1).bit_length()
        page = PAGE_BYTES >> byte_bits
        address = Signal(_beat_address(config))
        left = Signal(BEATS_BITS)
        before_border = Signal(range(page + 1))
        room = Signal(range(config.axi_burst + 1))  # the most that a burst may have here
        beyond = Signal(BEATS_BITS + 1)             # what is left then; negative if there are not as many
        final = Signal()
        take = Signal()
        burst = self.bursts.payload
        m.d.comb += [
            before_border.eq(page - address[:page.bit_length() - 1]),
            room.eq(Mux(before_border < config.axi_burst, before_border, config.axi_burst)),
            beyond.eq(left - room),
            final.eq(beyond[-1] | (beyond == 0)),
            burst.address.eq(address << byte_bits),
            burst.more.eq(Mux(final, left, room) - 1),
            burst.final.eq(final),
            self.idle.eq(left == 0),
            self.bursts.valid.eq(~self.idle & ~self.flush),
            take.eq(self.bursts.valid & self.bursts.ready),
            self.commands.ready.eq((self.idle | take & final) & ~self.flush),
        ]
        with m.If(self.flush):
            m.d.sync += left.eq(0)
        with m.Elif(self.commands.valid & self.commands.ready):
            m.d.sync += [
                address.eq(self.commands.payload.address >> byte_bits),
                left.eq(self.commands.payload.beats),
            ]
        with m.Elif(take):
            m.d.sync += [
                address.eq(address + room),
                left.eq(Mux(final, 0, beyond)),
            ]
        return m
