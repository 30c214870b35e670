"""Read DMA: runs of beats from memory, through the read channels of an AXI4 master."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .axi import CACHE, INCR, OKAY, axi_read_signature
from .bursts import BurstSplitter, command_layout
from .config import Config

__all__ = ["ReadDMA", "read_layout"]

BUFFER = 2      # beats; with one, a beat would be taken only every other cycle


def read_layout(config: Config) -> data.StructLayout:
    """A beat that was read.

    Members
    -------
    data : bus_bits
    last : 1 bit
        Last beat of its command.
    error : 1 bit
        The bus answered with an error; the data mean nothing.
    """
    return data.StructLayout({"data": config.bus_bits, "last": 1, "error": 1})


class ReadDMA(wiring.Component):
    """Reads the beats of commands, in order, as bursts of which several are outstanding.

    Requests run ahead of the data, over the borders of commands too. No AXI output depends on an AXI input of the same
    cycle.

    Members
    -------
    axi : Out(axi_read_signature)
    commands : In(stream of command_layout)
        One may follow every other cycle, but one that takes several bursts keeps the next one waiting.
    beats : Out(stream of read_layout)
    error : Out(1)
        High from a burst's first failed beat on, until `flush`; not later than that beat is at `beats`.
    error_address : Out(axi_addr_bits)
        Byte address of the first burst that failed; kept until another one fails after a `flush`.
    flush : In(1)
        Give up, for as long as it is high: what is left of all commands taken is forgotten, and what is outstanding is
        taken and discarded. `commands` and `beats` rest meanwhile; an offered beat is withdrawn.
    idle : Out(1)
        No command is at work, nothing is outstanding, and no beat waits in `beats`. Release `flush` then.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "axi": Out(axi_read_signature(config)),
            "commands": In(stream.Signature(command_layout(config))),
            "beats": Out(stream.Signature(read_layout(config))),
            "error": Out(1),
            "error_address": Out(config.axi_addr_bits),
            "flush": In(1),
            "idle": Out(1),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config, axi = self.config, self.axi
        m.submodules.splitter = splitter = BurstSplitter(config)
        connect(m, flipped(self.commands), splitter.commands)
        burst = splitter.bursts.payload

        # Requests. A burst counts as outstanding from the moment that it is offered.
        announced = Signal(data.StructLayout({"address": config.axi_addr_bits, "final": 1}))
        m.submodules.outstanding = outstanding = fifo.SyncFIFO(
            width=announced.shape().size, depth=config.axi_outstanding)
        free = ~axi.arvalid | axi.arready
        announce = splitter.bursts.valid & splitter.bursts.ready
        m.d.comb += [
            splitter.flush.eq(self.flush),
            splitter.bursts.ready.eq(free & outstanding.w_rdy),
            announced.address.eq(burst.address),
            announced.final.eq(burst.final),
            outstanding.w_data.eq(announced),
            outstanding.w_en.eq(announce),
            axi.arsize.eq((config.bus_bits // 8 - 1).bit_length()),
            axi.arburst.eq(INCR),
            axi.arcache.eq(CACHE),
        ]
        with m.If(free):
            m.d.sync += axi.arvalid.eq(announce)
        with m.If(announce):
            m.d.sync += [axi.araddr.eq(burst.address), axi.arlen.eq(burst.more)]

        # Data. The buffer parts the bus's ready from that of whoever takes the beats.
        beat = Signal(read_layout(config))
        m.submodules.buffer = buffer = fifo.SyncFIFO(width=beat.shape().size, depth=BUFFER)
        head = data.View(announced.shape(), outstanding.r_data)
        taken = axi.rvalid & axi.rready
        m.d.comb += [
            axi.rready.eq(buffer.w_rdy),
            outstanding.r_en.eq(taken & axi.rlast),
            beat.data.eq(axi.rdata),
            beat.last.eq(axi.rlast & head.final),
            beat.error.eq(axi.rresp != OKAY),
            buffer.w_data.eq(beat),
            buffer.w_en.eq(taken),
            buffer.r_en.eq(self.beats.ready | self.flush),
            self.beats.valid.eq(buffer.r_rdy & ~self.flush),
            self.beats.payload.eq(buffer.r_data),
            self.idle.eq(splitter.idle & ~outstanding.r_rdy & ~buffer.r_rdy),
        ]
        with m.If(self.flush):
            m.d.sync += self.error.eq(0)
        with m.Elif(taken & beat.error & ~self.error):
            m.d.sync += [self.error.eq(1), self.error_address.eq(head.address)]
        return m
