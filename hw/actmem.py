"""Channel-last activation memory: any unaligned run of nibbles per cycle and port.

Eight banks of `bank_nibbles` nibbles lie side by side; a memory row is one word of each. A run that begins in
bank b takes row i from the banks b.. and row i + 1 from the banks before b, so that every bank is read once:

    run of 12 nibbles at nibble 11, bank_nibbles = 2:

              bank 0   bank 1   bank 2   bank 3   bank 4   bank 5   bank 6   bank 7
      row 0    .  .     .  .     .  .     .  .     .  .     . 11    12 13    14 15
      row 1   16 17    18 19    20 21    22  .     .  .     .  .     .  .     .  .

The banks' words are rotated so that the run's first nibble comes first. Each read port is a copy of the memory.
"""

from amaranth.hdl import Cat, Const, Module, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import BANKS, Config
from .interfaces import write_layout

__all__ = ["ActivationMemory", "read_port_signature"]


def read_port_signature(config: Config) -> wiring.Signature:
    """One read port, from the user's side.

    Members
    -------
    en : Out(1)
        Read at `addr` in this cycle.
    addr : Out(addr_bits)
        Nibble address of the run.
    ready : In(1)
        The read is taken in this cycle.
    valid : In(1)
        `data` answers the read taken two cycles ago.
    data : In(run nibbles)
    """
    return wiring.Signature({
        "en": Out(1),
        "addr": Out(config.addr_bits),
        "ready": In(1),
        "valid": In(1),
        "data": In(data.ArrayLayout(4, config.run)),
    })


class ActivationMemory(wiring.Component):
    """Banked nibble memory with one write port and `read_ports` read ports.

    A read takes two cycles: the banks, then the rotation. A write lands two cycles after it is given. A read in the
    cycle of a write, or in the one after it, returns the old nibbles.

    Members
    -------
    write : In(write_layout)
        Nibbles to write in this cycle; an empty mask writes nothing.
    read : In(read_port_signature) x read_ports
        Always ready.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "write": In(write_layout(config)),
            "read": In(read_port_signature(config)).array(config.read_ports),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config = self.config
        bank_bits = 4 * config.bank_nibbles
        row_bits = BANKS * bank_bits
        offset_bits = (config.row_nibbles - 1).bit_length()
        row_address = config.addr_bits - offset_bits

        def split(addr: Signal) -> tuple[Signal, Signal, Signal]:
            """Return (rotation in nibbles, bank, row) of a nibble address."""
            return addr[:offset_bits], addr[offset_bits - (BANKS - 1).bit_length():offset_bits], addr[offset_bits:]

        def bank_rows(addr: Signal) -> list[Signal]:
            """Row that each bank contributes to the run at `addr`."""
            _, first, row = split(addr)
            rows = []
            for bank in range(BANKS):
                bank_row = Signal(row_address, name=f"row{bank}")
                m.d.comb += bank_row.eq(row + (bank < first))
                rows.append(bank_row)
            return rows

        # Write: rotate left, register, write.
        rotation = split(self.write.addr)[0]
        doubled_data = Signal(2 * row_bits)
        doubled_mask = Signal(2 * config.row_nibbles)
        m.d.comb += [
            doubled_data.eq(self.write.data.as_value() << Cat(Const(0, 2), rotation)),
            doubled_mask.eq(self.write.mask << rotation),
        ]
        write_data = Signal(row_bits, reset_less=True)
        write_mask = Signal(config.row_nibbles)
        m.d.sync += [
            write_data.eq(doubled_data[:row_bits] | doubled_data[row_bits:]),
            write_mask.eq(doubled_mask[:config.row_nibbles] | doubled_mask[config.row_nibbles:]),
        ]
        write_rows = []
        for bank, bank_row in enumerate(bank_rows(self.write.addr)):
            write_row = Signal(row_address, name=f"write_row{bank}")
            m.d.sync += write_row.eq(bank_row)
            write_rows.append(write_row)

        for port, read in enumerate(self.read):
            words = []
            for bank, bank_row in enumerate(bank_rows(read.addr)):
                memory = Memory(shape=unsigned(bank_bits), depth=1 << row_address, init=[])
                m.submodules[f"port{port}_bank{bank}"] = memory
                writer = memory.write_port(granularity=4)
                reader = memory.read_port()
                m.d.comb += [
                    writer.addr.eq(write_rows[bank]),
                    writer.data.eq(write_data.word_select(bank, bank_bits)),
                    writer.en.eq(write_mask.word_select(bank, config.bank_nibbles)),
                    reader.addr.eq(bank_row),
                    reader.en.eq(read.en),
                ]
                words.append(reader.data)
            banked = Signal(name=f"banked{port}")
            rotation = Signal(offset_bits, name=f"rotation{port}", reset_less=True)
            run = Signal.like(read.data.as_value(), name=f"run{port}", reset_less=True)
            m.d.comb += [read.ready.eq(1), read.data.as_value().eq(run)]
            m.d.sync += [
                banked.eq(read.en),
                rotation.eq(split(read.addr)[0]),
                read.valid.eq(banked),
                run.eq(Cat(*words, *words) >> Cat(Const(0, 2), rotation)),
            ]
        return m
