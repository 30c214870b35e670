"""Channel-last activation memory: any unaligned run of nibbles per cycle and port.

Eight banks of `bank_nibbles` nibbles lie side by side; a memory row is one word of each. A run that begins in
bank b takes row i from the banks b.. and row i + 1 from the banks before b, so that every bank is read once:

    run of 12 nibbles at nibble 11, bank_nibbles = 2:

              bank 0   bank 1   bank 2   bank 3   bank 4   bank 5   bank 6   bank 7
      row 0    .  .     .  .     .  .     .  .     .  .     . 11    12 13    14 15
      row 1   16 17    18 19    20 21    22  .     .  .     .  .     .  .     .  .

The banks' words are rotated so that the run's first nibble comes first, as far as anybody reads (`Config.run`). Each
read port is a copy of the memory.

    cycle    0            1                        2                 3                    4
    read     address      rows of the banks        banks' words      whole banks          rotated within a bank
             registered   read                     registered        rotated, registered  -> data
    write    registered   rotated, registered      written
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import BANKS, Config
from .interfaces import write_layout

__all__ = ["READ_CYCLES", "ActivationMemory", "read_port_signature"]

READ_CYCLES = 4     # from a read to its data


def _rotated(m: Module, name: str, value: Value, by: Value, bits: range, length: int, size: int) -> Value:
    """Rotate down by a number of items of `size` bits, and return the first `length` items.

    Halves of the way, then quarters and so on: a stage makes no more items than the stages after it can still reach.

    Parameters
    ----------
    m : Module
    name : str
        Of the stages' signals.
    value : Value
    by : Value
        Unsigned.
    bits : range
        Those of `by` that count; from `length` items on, as many more follow as the bits below them can ask for.
    """
    length += (1 << bits.start) - 1
    for bit in reversed(bits):
        step = 1 << bit
        stage = Signal(min(len(value), size * (length + step - (1 << bits.start))), name=f"{name}_{step}")
        around = Cat(value, value)
        m.d.comb += stage.eq(Mux(by[bit], around[size * step:][:len(stage)], value[:len(stage)]))
        value = stage
    return value[:size * length]


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
        `data` answers the read taken `READ_CYCLES` ago.
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

    A read in the cycle of a write, or in the one after it, returns the old nibbles.

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
        offset_bits = (config.row_nibbles - 1).bit_length()
        row_address = config.addr_bits - offset_bits

        def split(addr: Signal) -> tuple[Signal, Signal, Signal]:
            """Return (rotation in nibbles, bank, row) of a nibble address."""
            return addr[:offset_bits], addr[offset_bits - (BANKS - 1).bit_length():offset_bits], addr[offset_bits:]

        def bank_rows(addr: Signal) -> list[Signal]:
            """Row that each bank contributes to the run at `addr`."""
            _, first, row = split(addr)
            after = Signal(row_address, name="row_after")
            m.d.comb += after.eq(row + 1)
            rows = []
            for bank in range(BANKS):
                bank_row = Signal(row_address, name=f"row{bank}")
                m.d.comb += bank_row.eq(Mux(bank < first, after, row))
                rows.append(bank_row)
            return rows

        # Write: rotate, register, write. A run is short, so all of the row is offered the same nibbles, `period` apart,
        # and the mask says where the run lies.
        given = Signal(write_layout(config))
        m.d.sync += given.eq(self.write)
        rotation = split(given.addr)[0]
        period = 1 << (config.write_nibbles - 1).bit_length()
        low_bits = (period - 1).bit_length()
        low, block = rotation[:low_bits], rotation[low_bits:]
        back = (-low)[:low_bits]
        missing = period - config.write_nibbles
        rotated_data = _rotated(m, "data", Cat(given.data.as_value(), Const(0, 4 * missing)), back,
                                range(low_bits), period, 4)
        rotated_mask = _rotated(m, "mask", Cat(given.mask, Const(0, missing)), back, range(low_bits), period, 1)
        write_data = Signal(4 * period, reset_less=True)
        write_mask = Signal(config.row_nibbles)
        m.d.sync += write_data.eq(rotated_data)
        for number in range(config.row_nibbles // period):
            own = block == number
            after = (block + 1)[:len(block)] == number
            m.d.sync += write_mask.word_select(number, period).eq(
                rotated_mask & Cat(Mux(low <= place, own, after) for place in range(period)))
        row_data = write_data.replicate(config.row_nibbles // period)
        write_rows = []
        for bank, bank_row in enumerate(bank_rows(given.addr)):
            write_row = Signal(row_address, name=f"write_row{bank}")
            m.d.sync += write_row.eq(bank_row)
            write_rows.append(write_row)

        bank_shift = (config.bank_nibbles - 1).bit_length()     # bits of an address within a bank's word
        for port, read in enumerate(self.read):
            addr = Signal(config.addr_bits, name=f"addr{port}", reset_less=True)
            asked = Signal(READ_CYCLES, name=f"asked{port}")    # reads under way, the latest first
            m.d.sync += [addr.eq(read.addr), asked.eq(Cat(read.en, asked))]
            words = []
            for bank, bank_row in enumerate(bank_rows(addr)):
                memory = Memory(shape=unsigned(bank_bits), depth=1 << row_address, init=[])
                m.submodules[f"port{port}_bank{bank}"] = memory
                writer = memory.write_port(granularity=4)
                reader = memory.read_port()
                m.d.comb += [
                    writer.addr.eq(write_rows[bank]),
                    writer.data.eq(row_data.word_select(bank, bank_bits)),
                    writer.en.eq(write_mask.word_select(bank, config.bank_nibbles)),
                    reader.addr.eq(bank_row),
                    reader.en.eq(asked[0]),
                ]
                words.append(reader.data)
            # A block memory takes half a cycle to answer, so nothing else is done in that cycle.
            row = Signal(4 * config.row_nibbles, name=f"row{port}", reset_less=True)
            rotations = [Signal(offset_bits, name=f"rotation{port}_{age}", reset_less=True) for age in range(2)]
            within = Signal(bank_shift, name=f"within{port}", reset_less=True)
            banks = _rotated(m, f"banks{port}", row, rotations[1], range(bank_shift, offset_bits), config.run, 4)
            run = Signal(len(banks), name=f"run{port}", reset_less=True)
            m.d.sync += [
                rotations[0].eq(split(addr)[0]), rotations[1].eq(rotations[0]), within.eq(rotations[1]),
                row.eq(Cat(*words)), run.eq(banks),
            ]
            m.d.comb += [
                read.ready.eq(1),
                read.valid.eq(asked[-1]),
                read.data.as_value().eq(_rotated(m, f"within{port}", run, within, range(bank_shift), config.run, 4)),
            ]
        return m
