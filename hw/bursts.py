"""Burst splitter: cuts runs of beats into bursts that AXI allows."""

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, unsigned
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

    A burst goes to the next multiple of `axi_burst` beats, or as far as its command does; 4 KiB are such a multiple.
    No output depends on an input of the same cycle, but for `flush`.

    Members
    -------
    commands : In(stream of command_layout)
        One every other cycle at most.
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
        block_bits = (config.axi_burst - 1).bit_length()    # a block is what one burst covers at most
        assert PAGE_BYTES % (config.axi_burst << byte_bits) == 0

        # The next command.
        waits = Signal()
        first = Signal(_beat_address(config))
        more = Signal(BEATS_BITS - 1)   # beats after the first
        some = Signal()                 # beats at all
        reach = Signal(BEATS_BITS)      # its last beat, from the beginning of its first block on
        m.d.comb += [
            self.commands.ready.eq(~waits & ~self.flush),
            reach.eq(first[:block_bits] + more),
        ]

        # The one at work: its next burst, and what comes after that.
        busy = Signal()
        address = Signal.like(first)
        blocks = Signal(BEATS_BITS - block_bits)    # to come after this one
        end = Signal(block_bits)        # place of the last beat in the last block
        final = Signal()
        take = Signal()
        free = Signal()
        burst = self.bursts.payload
        m.d.comb += [
            final.eq(blocks == 0),
            burst.address.eq(address << byte_bits),
            burst.more.eq(Mux(final, end, config.axi_burst - 1) - address[:block_bits]),
            burst.final.eq(final),
            self.bursts.valid.eq(busy & ~self.flush),
            take.eq(self.bursts.valid & self.bursts.ready),
            free.eq(~busy | take & final),
            self.idle.eq(~busy & ~waits),
        ]
        with m.If(take):
            m.d.sync += [address.eq(Cat(Const(0, block_bits), address[block_bits:] + 1)), blocks.eq(blocks - 1)]
        with m.If(free):
            m.d.sync += [
                waits.eq(0), busy.eq(waits & some), address.eq(first), blocks.eq(reach >> block_bits), end.eq(reach),
            ]
        with m.If(self.commands.valid & self.commands.ready):
            command = self.commands.payload
            m.d.sync += [
                waits.eq(1), first.eq(command.address >> byte_bits), more.eq(command.beats - 1),
                some.eq(command.beats != 0),
            ]
        with m.If(self.flush):
            m.d.sync += [waits.eq(0), busy.eq(0)]
        return m
