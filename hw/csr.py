"""Register block: an AXI4-Lite slave made from a compiled SystemRDL description.

The description says what there is; nothing about a register is said again here. What it may use:

- fields that software reads and hardware gives (`sw=r; hw=w`), constants (`sw=r; hw=na`), settings (`sw=rw`);
- `singlepulse`, `onwrite=woclr`, `we`, `hwset`, `hwclr`, `swwel` with another field, `intr` with `enable`;
- registers of one or two words, the low one first. Of two words that hardware gives, a read of the low one keeps the
  high one, and a read of the high one returns what was kept last;
- `external` registers, whose contents are elsewhere: one, or an array that is only read.
"""

from collections.abc import Iterator
from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from systemrdl.node import AddrmapNode, FieldNode, RegNode
from systemrdl.rdltypes import OnWriteType

from .axi import LITE_ADDR_BITS, OKAY, SLVERR, lite_signature

__all__ = ["RegisterBlock", "member_name"]

WORD_BITS = 32
WORD_ADDR_BITS = LITE_ADDR_BITS - 2


def member_name(field: FieldNode) -> str:
    """Name of a field's member: register and field in lower case, or the register alone if the field is `value`."""
    register = field.parent.inst_name.lower()
    return register if field.inst_name == "value" else f"{register}_{field.inst_name.lower()}"


def _pattern(register: RegNode) -> str:
    """The word addresses of a register, or of an array of them, as a pattern with don't-cares."""
    size, address = register.total_size, register.raw_address_offset
    assert size & (size - 1) == 0 and address % size == 0, f"{register.inst_name} is not aligned to its size"
    inner = (size // 4).bit_length() - 1
    outer = WORD_ADDR_BITS - inner
    return f"{address // size:0{outer}b}" + inner * "-"


def _members(register: RegNode) -> Iterator[tuple[str, wiring.Member]]:
    """The members of a register; see `RegisterBlock`."""
    name, width = register.inst_name.lower(), register.get_property("regwidth")
    if register.external:
        if register.is_array:
            yield f"{name}_index", Out(range(register.n_elements))
        yield f"{name}_data", In(width)
        if register.has_sw_writable:
            assert not register.is_array and width == WORD_BITS, f"{name}: arrays and pairs of words are only read"
            yield f"{name}_write", Out(1)
            yield f"{name}_write_data", Out(width)
            yield f"{name}_refuse", In(1)
        return
    for field in register.fields():
        name = member_name(field)
        if field.is_hw_writable and (field.get_property("we") or not field.implements_storage):
            yield name, In(field.width)
        elif field.is_hw_readable:
            yield name, Out(field.width, init=field.get_property("reset", default=0))
        for prop, suffix in (("we", "we"), ("hwset", "set"), ("hwclr", "clear")):
            if field.get_property(prop):
                yield f"{name}_{suffix}", In(1)


class RegisterBlock(wiring.Component):
    """Registers behind an AXI4-Lite slave.

    An unmapped address, a write to a register that software cannot write, to one that is locked (`swwel`), or to an
    external one that refuses it, gets SLVERR and does nothing. What software cannot read, reads 0. One read and one
    write are served at a time. Where hardware and software write in the same cycle, hardware wins; clearing wins over
    setting.

    Parameters
    ----------
    top : AddrmapNode
        The compiled description: registers only, in 4 KiB.

    Members
    -------
    axi : In(lite_signature)
    irq : Out(1)
        An interrupt (a field with `intr`) is set and enabled.
    REGISTER_FIELD : In or Out(width of the field)
        For each field that hardware gives, or reads; REGISTER alone for a field called `value`. All in lower case.
    REGISTER_FIELD_we, REGISTER_FIELD_set, REGISTER_FIELD_clear : In(1)
        For fields with `we` (take the input), `hwset`, `hwclr`.
    REGISTER_index : Out, REGISTER_data : In(width of the register)
        For an external register, or array: the value of the index given in the last cycle.
    REGISTER_write : Out(1), REGISTER_write_data : Out(32), REGISTER_refuse : In(1)
        For an external register that software writes: a write, of all bytes; and whether one would not be taken now.
    """

    def __init__(self, top: AddrmapNode) -> None:
        self.registers = list(top.registers(unroll=False))
        members: dict[str, Any] = {"axi": In(lite_signature()), "irq": Out(1)}
        for register in self.registers:
            members |= dict(_members(register))
        super().__init__(members)

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        fields = [field for register in self.registers if not register.external for field in register.fields()]
        self._values = {field.get_path(): self._value(field) for field in fields}
        interrupts = [field for field in fields if field.get_property("intr")]
        m.d.comb += self.irq.eq(Cat(
            self._values[field.get_path()] & self._referred(field, "enable") for field in interrupts).any())
        self._serve_writes(m)
        self._serve_reads(m)
        return m

    def _value(self, field: FieldNode) -> Any:
        """The signal that holds a field, or that hardware gives."""
        if field.is_hw_readable or (field.is_hw_writable and not field.implements_storage):
            return getattr(self, member_name(field))
        return Signal(field.width, name=f"{member_name(field)}_value", init=field.get_property("reset", default=0))

    def _serve_writes(self, m: Module) -> None:
        """Take an address and its data in either order; write; respond."""
        axi = self.axi
        have_address = Signal()
        have_data = Signal()
        word = Signal(WORD_ADDR_BITS, name="write_word")
        new = Signal(WORD_BITS)
        strobes = Signal(WORD_BITS // 8)
        write = Signal()
        good = Signal()
        m.d.comb += [
            axi.awready.eq(~have_address),
            axi.wready.eq(~have_data),
            write.eq(have_address & have_data & ~axi.bvalid),
        ]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [have_address.eq(1), word.eq(axi.awaddr >> 2)]
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += [have_data.eq(1), new.eq(axi.wdata), strobes.eq(axi.wstrb)]
        with m.If(write):
            m.d.sync += [
                have_address.eq(0),
                have_data.eq(0),
                axi.bvalid.eq(1),
                axi.bresp.eq(Mux(good, OKAY, SLVERR)),
            ]
        with m.Elif(axi.bready):
            m.d.sync += axi.bvalid.eq(0)

        bits = Cat(strobe.replicate(8) for strobe in strobes)
        for register in self.registers:
            written = Signal(register.get_property("regwidth"), name=f"{register.inst_name.lower()}_written")
            if register.has_sw_writable:
                name = register.inst_name.lower()
                hit = write & word.matches(_pattern(register))
                refuse = getattr(self, f"{name}_refuse") if register.external else self._locked(register)
                with m.If(hit & ~refuse):
                    words = len(written) // WORD_BITS
                    m.d.comb += [good.eq(1), written.word_select(word[:words - 1], WORD_BITS).eq(bits)]
                if register.external:
                    m.d.comb += [
                        getattr(self, f"{name}_write").eq(hit & ~refuse),
                        getattr(self, f"{name}_write_data").eq(new),
                    ]
            if not register.external:
                for field in register.fields():
                    if field.implements_storage:
                        self._store(m, field, new, written)

    def _locked(self, register: RegNode) -> Any:
        """Whether software may not write a register now."""
        return Cat(self._referred(field, "swwel") for field in register.fields() if field.get_property("swwel")).any()

    def _referred(self, field: FieldNode, prop: Any) -> Any:
        """The signal of the field that a field's property names."""
        other = field.get_property(prop)
        assert isinstance(other, FieldNode), f"{field.get_path()}: {prop} must name a field"
        return self._values[other.get_path()]

    def _store(self, m: Module, field: FieldNode, new: Any, written: Any) -> None:
        """Write a field, by software where `written` has bits set, and by hardware."""
        value, name = self._values[field.get_path()], member_name(field)
        mask = written[field.low:field.high + 1]
        data = new.replicate(len(written) // WORD_BITS)[field.low:field.high + 1]
        if field.get_property("singlepulse"):
            m.d.sync += value.eq(data & mask)
        elif field.get_property("onwrite") is OnWriteType.woclr:
            m.d.sync += value.eq(value & ~(data & mask))
        elif field.is_sw_writable:
            m.d.sync += value.eq(value & ~mask | data & mask)
        if field.get_property("we"):
            with m.If(getattr(self, f"{name}_we")):
                m.d.sync += value.eq(getattr(self, name))
        for prop, suffix, then in (("hwset", "set", -1), ("hwclr", "clear", 0)):
            if field.get_property(prop):
                with m.If(getattr(self, f"{name}_{suffix}")):
                    m.d.sync += value.eq(then)

    def _serve_reads(self, m: Module) -> None:
        """Take an address; give external registers a cycle for their data, and register these; respond."""
        axi = self.axi
        word = Signal(WORD_ADDR_BITS, name="read_word")
        asking = Signal()
        coming = Signal()
        answer = Signal()
        high = Signal(WORD_BITS)
        m.d.comb += axi.arready.eq(~(asking | coming | answer | axi.rvalid))
        m.d.sync += [asking.eq(axi.arvalid & axi.arready), coming.eq(asking), answer.eq(coming)]
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += word.eq(axi.araddr >> 2)
        chosen = Signal(len(self.registers))    # the register at `word`, if there is one
        answers: list[Any] = []                 # of each register its word, or 0
        for number, register in enumerate(self.registers):
            name, width = register.inst_name.lower(), register.get_property("regwidth")
            value = Signal(width, name=f"{name}_read")
            m.d.sync += chosen[number].eq(word.matches(_pattern(register)))
            if register.external:
                given = True
                m.d.sync += value.eq(getattr(self, f"{name}_data"))
                if register.is_array:
                    m.d.comb += getattr(self, f"{name}_index").eq(word >> width // WORD_BITS - 1)
            else:
                given = any(field.is_hw_writable for field in register.fields())
                for field in register.fields():
                    if field.is_sw_readable:
                        m.d.comb += value[field.low:field.high + 1].eq(self._values[field.get_path()])
            given_word = value
            if width != WORD_BITS:
                given_word = value.word_select(word[0], WORD_BITS)
                if given:
                    given_word = Mux(word[0], high, value[:WORD_BITS])
                    with m.If(answer & chosen[number] & ~word[0]):
                        m.d.sync += high.eq(value >> WORD_BITS)
            answers.append(given_word & chosen[number].replicate(WORD_BITS))

        with m.If(answer):
            m.d.sync += [axi.rvalid.eq(1), axi.rdata.eq(reduce(or_, answers)),
                         axi.rresp.eq(Mux(chosen.any(), OKAY, SLVERR))]
        with m.Elif(axi.rready):
            m.d.sync += axi.rvalid.eq(0)
