"""Descriptor checker: finds what is wrong with a descriptor before anything of it is done.

A small machine with one adder goes through the program of `hw.checks`, a step per cycle:

    place ──> step ──> operand ──> done with the total: set, added, compared, ...
                 │        ^
                 └──> word of the descriptor, which lies in a memory

A product is made a bit of its operand per cycle; a jump costs four cycles. A layer takes about 200 cycles, while the
layer before runs.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from golden.program.descriptor import FIELDS, WORDS, ErrorCode, Opcode

from .checks import ALL, SHIFTS, Do, Source, When, make_program, step_layout
from .config import Config

__all__ = ["DESCRIPTOR_BITS", "DescriptorChecker", "descriptor_layout"]

DESCRIPTOR_BITS = 32 * WORDS
SUM_BITS = 56       # 32 bits of a stride times 20 of a count, and some more


def descriptor_layout(opcode: Opcode) -> data.FlexibleLayout:
    """The fields of an opcode's descriptors."""
    return data.FlexibleLayout(DESCRIPTOR_BITS, {
        item.name: data.Field(unsigned(item.bits), item.first_bit) for item in FIELDS[opcode]})


class DescriptorChecker(wiring.Component):
    """Checks one descriptor at a time.

    Members
    -------
    beat : In(bus_bits), place : In(bits of the beats of a descriptor), write : In(1)
        Writes a beat of the descriptor; not between `start` and `done`.
    program_size, data_size : In(32)
        Bytes of the regions.
    blocks : In(16)
        Parameter blocks of the batch, 0 before there is one.
    block_index : Out(16), block : In(16)
        Reads the number of a parameter block, which comes in the next cycle.
    start : In(1)
    done : Out(1)
        One cycle; from then on, until the next start, the next three hold.
    error : Out(8)
        The first error, 0 if there is none.
    weight_beats : Out(25)
        Of a CONV without error: all k-tiles' weights and codes.
    block_beats : Out(25)
        Of a layer without error: the parameters of a block.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "beat": In(config.bus_bits),
            "place": In(range(DESCRIPTOR_BITS // config.bus_bits)),
            "write": In(1),
            "program_size": In(32),
            "data_size": In(32),
            "blocks": In(16),
            "block_index": Out(16),
            "block": In(16),
            "start": In(1),
            "done": Out(1),
            "error": Out(8),
            "weight_beats": Out(25),
            "block_beats": Out(25),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config = self.config
        program = make_program(config)

        # The descriptor.
        words = config.bus_bits // 32
        m.submodules.descriptor = memory = Memory(
            shape=unsigned(config.bus_bits), depth=DESCRIPTOR_BITS // config.bus_bits, init=[])
        writer, reader = memory.write_port(), memory.read_port(domain="comb")
        opcode = Signal(8)
        of_layer = Signal()
        another = Signal()      # there is another block
        m.d.sync += [of_layer.eq((opcode == Opcode.CONV) | (opcode == Opcode.ELEMENTWISE)),
                     another.eq(self.block_index + 1 < self.blocks)]
        m.d.comb += [writer.addr.eq(self.place), writer.data.eq(self.beat), writer.en.eq(self.write)]
        with m.If(self.write & (self.place == 0)):
            m.d.sync += opcode.eq(self.beat)

        # Steps: one that is read, one that has been (in the register of a block memory, where `read` becomes one), one
        # whose operand is made, one that is done.
        place = Signal(range(len(program.steps)))
        read, fetched, ahead, step = (Signal(step_layout(), name=name) for name in ("read", "fetched", "ahead", "step"))
        running, fetching, come, here = (Signal(name=name) for name in ("running", "fetching", "come", "here"))
        busy = Signal()         # a product is made
        operand = Signal(32)
        subtracts, carry = Signal(), Signal()   # of the step: what the adder does with the operand
        chosen = Signal(32)
        with m.Switch(place):
            for number, value in enumerate(program.steps):
                with m.Case(number):
                    m.d.comb += read.as_value().eq(value)
        m.d.comb += reader.addr.eq(ahead.word // words)
        word = reader.data.word_select(ahead.word % words, 32)
        with m.Switch(ahead.source):
            with m.Case(Source.WORD), m.Switch(ahead["shift"]):
                for number, shift in enumerate(SHIFTS):
                    with m.Case(number):
                        m.d.comb += chosen.eq(word >> shift)
            with m.Case(Source.REGION):
                m.d.comb += chosen.eq(Mux(of_layer, self.program_size, self.data_size))
            with m.Case(Source.BLOCKS):
                m.d.comb += chosen.eq(self.blocks)
            with m.Case(Source.BLOCK):
                m.d.comb += chosen.eq(self.block)
            with m.Default():
                m.d.comb += chosen.eq(ALL)
        with m.If(~busy):
            m.d.sync += [
                place.eq(place + 1), fetched.eq(read), fetching.eq(running),
                ahead.eq(fetched), come.eq(fetching),
                step.eq(ahead), operand.eq(chosen & ahead.mask), here.eq(come),
                subtracts.eq((ahead.do == Do.SUBTRACT) | (ahead.do == Do.MOST) | (ahead.do == Do.LEAST)),
                carry.eq((ahead.do == Do.SUBTRACT) | (ahead.do == Do.LEAST)),
            ]

        # The adder: total + factor, total - operand, total - operand - 1 or total + operand. Of MOST the result is
        # negative where all is well, of LEAST where something is wrong.
        total = Signal(SUM_BITS)
        factor = Signal(SUM_BITS)       # the first one, shifted
        bits = Signal(32)               # what is left of the second one
        addend = Signal(SUM_BITS + 1)
        carried = ~busy & carry
        result = Signal(SUM_BITS + 1)
        m.d.comb += [
            addend.eq(Mux(busy, factor, Cat(operand, Const(0, SUM_BITS + 1 - 32)) ^ subtracts.replicate(SUM_BITS + 1))),
            result.eq((Cat(carried, total) + Cat(carried, addend)) >> 1),
        ]

        # Steps are done.
        found = {code: Signal(name=f"found_{code.name.lower()}") for code in ErrorCode if code <= ErrorCode.BATCH}
        doing = Signal()
        flag = Signal()
        shifting = Signal()
        nonzero = operand.any()
        jump = Signal()
        m.d.comb += doing.eq(here & ~busy & ((step.when == When.ALWAYS) | (flag == (step.when == When.IF))))
        # What a comparison said is judged a cycle later.
        judged = Signal(step_layout())
        judges, negative, any_bit = Signal(), Signal(), Signal()
        wrong, before = Signal(), Signal()
        m.d.sync += [judged.eq(step), judges.eq(doing), negative.eq(result[-1]), any_bit.eq(nonzero)]
        with m.If(judges), m.Switch(judged.do):
            with m.Case(Do.ZERO):
                m.d.comb += wrong.eq(any_bit)
            with m.Case(Do.MOST):
                m.d.comb += wrong.eq(~negative)
                m.d.sync += before.eq(wrong)
            with m.Case(Do.LEAST):
                m.d.comb += wrong.eq(negative)
        for error, signal in found.items():
            with m.If(wrong & (~judged.also | before) & (judged.error == error)):
                m.d.sync += signal.eq(1)

        m.d.sync += self.done.eq(0)
        with m.If(doing), m.Switch(step.do):
            with m.Case(Do.END):
                m.d.sync += [running.eq(0), fetching.eq(0), come.eq(0), here.eq(0), self.done.eq(1)]
            with m.Case(Do.JUMP):
                m.d.comb += jump.eq(1)
            with m.Case(Do.NEXT_BLOCK), m.If(another):
                m.d.comb += jump.eq(1)
                m.d.sync += self.block_index.eq(self.block_index + 1)
            with m.Case(Do.TEST):
                m.d.sync += flag.eq(nonzero)
            with m.Case(Do.SET):
                m.d.sync += total.eq(operand)
            with m.Case(Do.ADD, Do.SUBTRACT):
                m.d.sync += total.eq(result)
            with m.Case(Do.FACTOR):
                m.d.sync += factor.eq(operand)
            with m.Case(Do.TAKE):
                m.d.sync += [factor.eq(total), total.eq(0)]
            with m.Case(Do.TIMES, Do.SHIFTED):
                m.d.sync += [busy.eq(1), bits.eq(operand), shifting.eq(step.do == Do.SHIFTED)]
            with m.Case(Do.KEEP_WEIGHT):
                m.d.sync += self.weight_beats.eq(total)
            with m.Case(Do.KEEP_BLOCK):
                m.d.sync += self.block_beats.eq(total)
        with m.If(jump):
            m.d.sync += [place.eq(operand), fetching.eq(0), come.eq(0), here.eq(0)]

        # A product, a bit per cycle; a shift, a place per cycle.
        with m.If(busy):
            m.d.sync += factor.eq(factor << 1)
            with m.If(shifting):
                m.d.sync += bits.eq(bits[:5] - 1)
                with m.If(bits[:5] == 0):
                    m.d.sync += [total.eq(result), busy.eq(0)]
            with m.Else():
                m.d.sync += bits.eq(bits >> 1)
                with m.If(bits[0]):
                    m.d.sync += total.eq(result)
                with m.If(bits[1:] == 0):
                    m.d.sync += busy.eq(0)

        with m.If(self.start):
            m.d.sync += [self.block_index.eq(0), *(signal.eq(0) for signal in found.values())]
            with m.Switch(opcode):
                for code, first in program.starts.items():
                    with m.Case(int(code)):
                        m.d.sync += [running.eq(1), place.eq(first)]
                with m.Default():
                    m.d.sync += [found[ErrorCode.OPCODE].eq(1), self.done.eq(1)]
        for error in reversed(found):
            with m.If(found[error]):
                m.d.comb += self.error.eq(int(error))
        return m
