"""Readout: beats of the activation memory for the host, through the spare cycles of a read port."""

from amaranth.hdl import Module, Shape, Signal, unsigned
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .actmem import read_port_signature
from .config import Config
from .skid import Skid

__all__ = ["Readout", "address_shape"]


def address_shape(config: Config) -> Shape:
    """Return the shape of a beat's address in the activation memory."""
    return unsigned(config.addr_bits - (config.bus_nibbles - 1).bit_length())


class Readout(wiring.Component):
    """Turns addresses into beats, in order.

    Members
    -------
    addresses : In(stream of unsigned)
        In beats.
    beats : Out(stream of bus_bits)
    memory : Out(read_port_signature)
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "addresses": In(stream.Signature(address_shape(config))),
            "beats": Out(stream.Signature(config.bus_bits)),
            "memory": Out(read_port_signature(config)),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.skid = skid = Skid(address_shape(config))  # the port's grant comes late in its cycle
        connect(m, flipped(self.addresses), skid.i)
        m.submodules.queue = queue = fifo.SyncFIFO(width=config.bus_bits, depth=config.fetch_depth)
        taken = Signal(range(config.fetch_depth + 1))   # queued, or on their way
        issue = self.memory.en & self.memory.ready
        m.d.comb += [
            self.memory.en.eq(skid.o.valid & (taken != config.fetch_depth)),
            self.memory.addr.eq(skid.o.payload << (config.bus_nibbles - 1).bit_length()),
            skid.o.ready.eq(issue),
            queue.w_data.eq(self.memory.data.as_value()),
            queue.w_en.eq(self.memory.valid),
            self.beats.payload.eq(queue.r_data),
            self.beats.valid.eq(queue.r_rdy),
            queue.r_en.eq(self.beats.ready),
        ]
        m.d.sync += taken.eq(taken + issue - (self.beats.valid & self.beats.ready))
        return m
