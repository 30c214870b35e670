"""Write DMA: runs of beats to memory, through the write channels of an AXI4 master."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .axi import CACHE, INCR, OKAY, axi_write_signature
from .bursts import BurstSplitter, command_layout
from .config import Config

__all__ = ["WriteDMA"]


class WriteDMA(wiring.Component):
    """Writes beats where commands say, in order, as bursts of which several are outstanding.

    A burst is announced before its data are there. No AXI output depends on an AXI input of the same cycle.

    Members
    -------
    axi : Out(axi_write_signature)
    commands : In(stream of command_layout)
    beats : In(stream of bus_bits)
        As many as the commands ask for; taken once their burst is announced.
    error : Out(1)
        High from the first failed response on, until `flush`.
    error_address : Out(axi_addr_bits)
        Byte address of the first burst that failed; kept until another one fails after a `flush`.
    flush : In(1)
        Give up, for as long as it is high: what is left of all commands taken is forgotten, and bursts that are
        announced are completed with beats that write nothing. `commands` and `beats` rest meanwhile.
    idle : Out(1)
        No command is at work, and every burst has its response. Release `flush` then.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "axi": Out(axi_write_signature(config)),
            "commands": In(stream.Signature(command_layout(config))),
            "beats": In(stream.Signature(config.bus_bits)),
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

        # Announcements. A burst counts as outstanding from the moment that it is offered.
        m.submodules.outstanding = outstanding = fifo.SyncFIFO(width=config.axi_addr_bits, depth=config.axi_outstanding)
        m.submodules.lengths = lengths = fifo.SyncFIFO(width=8, depth=config.axi_outstanding)
        free = ~axi.awvalid | axi.awready
        announce = splitter.bursts.valid & splitter.bursts.ready
        m.d.comb += [
            splitter.flush.eq(self.flush),
            splitter.bursts.ready.eq(free & outstanding.w_rdy),
            outstanding.w_data.eq(burst.address),
            outstanding.w_en.eq(announce),
            lengths.w_data.eq(burst.more),
            lengths.w_en.eq(announce),
            axi.awsize.eq((config.bus_bits // 8 - 1).bit_length()),
            axi.awburst.eq(INCR),
            axi.awcache.eq(CACHE),
        ]
        with m.If(free):
            m.d.sync += axi.awvalid.eq(announce)
        with m.If(announce):
            m.d.sync += [axi.awaddr.eq(burst.address), axi.awlen.eq(burst.more)]

        # Data. They do not wait for the address to be taken: a slave may want to see both first.
        sent = Signal(8)    # beats of the burst
        last = sent == lengths.r_data
        wfree = ~axi.wvalid | axi.wready
        send = wfree & lengths.r_rdy & (self.beats.valid | self.flush)
        m.d.comb += [
            self.beats.ready.eq(wfree & lengths.r_rdy & ~self.flush),
            lengths.r_en.eq(send & last),
        ]
        with m.If(wfree):
            m.d.sync += axi.wvalid.eq(send)
        with m.If(send):
            m.d.sync += [
                axi.wdata.eq(self.beats.payload),
                axi.wstrb.eq(Mux(self.flush, 0, ~0)),
                axi.wlast.eq(last),
                sent.eq(Mux(last, 0, sent + 1)),
            ]

        # Responses.
        m.d.comb += [
            axi.bready.eq(1),
            outstanding.r_en.eq(axi.bvalid),
            self.idle.eq(splitter.idle & ~outstanding.r_rdy),
        ]
        with m.If(self.flush):
            m.d.sync += self.error.eq(0)
        with m.Elif(axi.bvalid & (axi.bresp != OKAY) & ~self.error):
            m.d.sync += [self.error.eq(1), self.error_address.eq(outstanding.r_data)]
        return m
