"""On-chip memory behind an AXI4 slave, with a second way in for the serial bridge."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.axi import OKAY, SLVERR, axi_read_signature, axi_write_signature
from hw.config import Config

__all__ = ["WORD_BYTES", "AxiMemory", "host_signature"]

WORD_BYTES = 4      # what the second way in moves at a time
BUFFER = 4          # beats read ahead of a master that waits


def host_signature(size: int) -> wiring.Signature:
    """The second way in, as its user sees it. It is never kept waiting.

    Members
    -------
    address : Out(words of `size` bytes)
        In words of 32 bits.
    en : Out(1)
        Read; the word is there in the next cycle.
    write : Out(1), write_data : Out(32)
    read_data : In(32)
    """
    return wiring.Signature({"address": Out(range(size // WORD_BYTES)), "en": Out(1), "write": Out(1),
                             "write_data": Out(32), "read_data": In(32)})


class AxiMemory(wiring.Component):
    """Memory for one AXI4 master that makes INCR bursts of full width, such as `hw.accelerator` does.

    Reads and writes go on side by side, a beat per cycle each, one burst after the other; the host's accesses take
    their cycles away. Bursts that leave the memory are answered with SLVERR, and write nothing outside.

    Parameters
    ----------
    config : Config
        Widths of the bus.
    base, size : int
        Address and bytes; powers of two, `base` a multiple of `size`.

    Members
    -------
    read, write : In(AXI4 channels)
    host : In(host_signature)
    """

    def __init__(self, config: Config, base: int, size: int) -> None:
        beat = config.bus_bits // 8
        if size & (size - 1) or size < 2 * beat:
            raise ValueError(f"size={size} is not legal: it must be a power of two of at least {2 * beat}")
        if base % size:
            raise ValueError(f"base={base:#x} is not legal: it must be a multiple of size={size:#x}")
        self.config, self.base, self.size = config, base, size
        super().__init__({"read": In(axi_read_signature(config)), "write": In(axi_write_signature(config)),
                          "host": In(host_signature(size))})

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        bits = self.config.bus_bits
        lanes = bits // 32
        lane_bits = (lanes - 1).bit_length()
        beat_bits = (bits // 8 - 1).bit_length()
        word = data.ArrayLayout(8, bits // 8)
        m.submodules.memory = memory = Memory(shape=word, depth=self.size * 8 // bits, init=[])
        reader, writer = memory.read_port(), memory.write_port(granularity=1)    # a byte is a granule
        host = self.host

        def inside(beat: Signal) -> Value:
            return beat >> (self.size.bit_length() - 1 - beat_bits) == self.base // self.size

        # Reads. A word is asked for while the buffer has room for it and for the one before.
        read = self.read
        m.submodules.buffer = buffer = fifo.SyncFIFO(width=bits + 2, depth=BUFFER)
        address = Signal(self.config.axi_addr_bits - beat_bits)
        left = Signal(9)
        identity = Signal.like(read.arid)
        ask = (left != 0) & (buffer.w_level < BUFFER - 1) & ~host.en
        asked, asked_last, asked_bad = Signal(), Signal(), Signal()
        m.d.comb += [
            read.arready.eq((left == 0) & ~asked & ~buffer.r_rdy),
            reader.addr.eq(Mux(host.en, host.address[lane_bits:], address)),
            reader.en.eq(host.en | ask),
            buffer.w_en.eq(asked),
            buffer.w_data.eq(Cat(reader.data.as_value(), asked_last, asked_bad)),
            read.rvalid.eq(buffer.r_rdy),
            buffer.r_en.eq(read.rready),
            read.rid.eq(identity),
            Cat(read.rdata, read.rlast).eq(buffer.r_data),
            read.rresp.eq(Mux(buffer.r_data[-1], SLVERR, OKAY)),
        ]
        m.d.sync += [asked.eq(ask), asked_last.eq(left == 1), asked_bad.eq(~inside(address))]
        with m.If(read.arvalid & read.arready):
            m.d.sync += [address.eq(read.araddr[beat_bits:]), left.eq(read.arlen + 1), identity.eq(read.arid)]
        with m.Elif(ask):
            m.d.sync += [address.eq(address + 1), left.eq(left - 1)]
        lane = Signal(lane_bits)
        m.d.sync += lane.eq(host.address[:lane_bits])
        m.d.comb += host.read_data.eq(reader.data.as_value().word_select(lane, 32))

        # Writes.
        write = self.write
        place = Signal.like(address)
        busy, failed = Signal(), Signal()
        legal = inside(place)
        beat = write.wvalid & write.wready
        strobes = Array(0xF << 4 * number for number in range(lanes))
        m.d.comb += [
            write.awready.eq(~busy & ~write.bvalid),
            write.wready.eq(busy & ~host.write),
            write.bresp.eq(Mux(failed, SLVERR, OKAY)),
            writer.addr.eq(place),
            writer.data.as_value().eq(write.wdata),
            writer.en.eq(Mux(beat & legal, write.wstrb, 0)),
        ]
        with m.If(host.write):
            m.d.comb += [writer.addr.eq(host.address[lane_bits:]),
                         writer.data.as_value().eq(host.write_data.replicate(lanes)),
                         writer.en.eq(strobes[host.address[:lane_bits]])]
        with m.If(write.awvalid & write.awready):
            m.d.sync += [busy.eq(1), failed.eq(0), place.eq(write.awaddr[beat_bits:]), write.bid.eq(write.awid)]
        with m.If(beat):
            m.d.sync += [place.eq(place + 1), failed.eq(failed | ~legal)]
            with m.If(write.wlast):
                m.d.sync += [busy.eq(0), write.bvalid.eq(1)]
        with m.If(write.bvalid & write.bready):
            m.d.sync += write.bvalid.eq(0)
        return m
