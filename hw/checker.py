"""Descriptor checker: finds what is wrong with a descriptor before anything of it is done.

The fields and their limits are those of the table in `golden.program.descriptor`; docs/program.md lists the errors.
What needs no product is found in one cycle. The rest are sums of products,

    sum of a * b + plus <= limit

made one after the other by one adder, a bit of b per cycle: a hundred cycles or so, while the layer before runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, ValueLike, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from golden.program.descriptor import (
    ALIGNED,
    ALIGNMENT,
    BLOCK_LOG2_LEAST,
    FIELDS,
    LIMITS,
    REGIONS,
    TRANSFORMS,
    WORDS,
    ErrorCode,
    Opcode,
)

from .config import Config
from .interfaces import Transform

__all__ = ["DESCRIPTOR_BITS", "DescriptorChecker", "descriptor_layout"]

DESCRIPTOR_BITS = 32 * WORDS
SUM_BITS = 56       # 32 bits of a stride times 20 of a count, and some more
FACTOR_BITS = 32


def descriptor_layout(opcode: Opcode) -> data.FlexibleLayout:
    """The fields of an opcode's descriptors."""
    return data.FlexibleLayout(DESCRIPTOR_BITS, {
        item.name: data.Field(unsigned(item.bits), item.first_bit) for item in FIELDS[opcode]})


@dataclass
class _Sum:
    """products, pairs (a, b) with b the shorter, and plus: at most limit, else the error. `kept` takes the products."""

    products: list[tuple[ValueLike, ValueLike]]
    plus: ValueLike = 0
    limit: ValueLike = (1 << SUM_BITS) - 1
    error: ErrorCode = ErrorCode.RANGE
    kept: list[Signal] = field(default_factory=list)


class DescriptorChecker(wiring.Component):
    """Checks one descriptor at a time.

    Members
    -------
    descriptor : In(1024)
        Stable from `start` until `done`.
    program_size, data_size : In(32)
        Bytes of the regions.
    blocks : In(16)
        Parameter blocks of the batch, 0 before there is one.
    block_index : Out(16), block : In(16)
        Reads the number of a parameter block, in the same cycle.
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
            "descriptor": In(DESCRIPTOR_BITS),
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
        opcode = Signal(8)
        m.d.comb += opcode.eq(self.descriptor)
        fields = {code: data.View(descriptor_layout(code), self.descriptor) for code in Opcode}

        # Without products, an opcode at a time; registered.
        found = {code: Signal(name=f"found_{code.name.lower()}") for code in ErrorCode if code <= ErrorCode.BATCH}
        with m.If(self.start):
            m.d.sync += [found[ErrorCode.OPCODE].eq(1), *(found[code].eq(0) for code in found
                                                          if code != ErrorCode.OPCODE)]
            with m.Switch(opcode):
                for code in Opcode:
                    with m.Case(int(code)):
                        m.d.sync += found[ErrorCode.OPCODE].eq(0)
                        for error, wrong in self._plain(code, fields[code]).items():
                            m.d.sync += found[error].eq(Cat(wrong).any())

        # The sums, one after the other.
        programs = {code: self._sums(code, fields[code]) for code in Opcode}
        every = [(code, item) for code, sums in programs.items() for item in sums]
        starts = {code: next((place for place, (owner, _) in enumerate(every) if owner == code), len(every))
                  for code in Opcode}
        ends = {code: starts[code] + len(programs[code]) for code in Opcode}
        place = Signal(range(len(every) + 1))
        term = Signal()         # the second of two products
        left = Signal(SUM_BITS)     # a, shifted
        right = Signal(FACTOR_BITS)     # b, shifted
        total = Signal(SUM_BITS)

        def of_place(values: list[ValueLike], bits: int) -> Signal:
            chosen = Signal(bits)
            m.d.comb += chosen.eq(Array(values)[place])
            return chosen

        terms = [[[*item.products, (0, 0)][number] for _, item in every] for number in range(2)]
        plus = of_place([item.plus for _, item in every], SUM_BITS)
        limit = of_place([item.limit for _, item in every], SUM_BITS)
        is_size = of_place([item.error == ErrorCode.SIZE for _, item in every], 1)
        last = Signal()
        blocks_left = Signal()
        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += self.block_index.eq(0)
                with m.Switch(opcode):
                    for code in Opcode:
                        if programs[code]:
                            with m.Case(int(code)):
                                m.d.sync += place.eq(starts[code])
                                m.next = "FIRST"
                    with m.Default():
                        m.next = "DONE"
            for number, state in enumerate(("FIRST", "SECOND")):
                with m.State(state):
                    m.d.sync += [
                        left.eq(of_place([a for a, _ in terms[number]], FACTOR_BITS)),
                        right.eq(of_place([b for _, b in terms[number]], FACTOR_BITS)),
                        term.eq(number),
                    ]
                    if number == 0:
                        m.d.sync += total.eq(0)
                    m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                m.d.sync += [left.eq(left << 1), right.eq(right >> 1)]
                with m.If(right[0]):
                    m.d.sync += total.eq(total + left)
                with m.If(right == 0):
                    m.next = "COMPARE"
                    with m.If(~term):
                        m.next = "SECOND"
            with m.State("COMPARE"):
                with m.If(total + plus > limit):
                    with m.If(is_size):
                        m.d.sync += found[ErrorCode.SIZE].eq(1)
                    with m.Else():
                        m.d.sync += found[ErrorCode.RANGE].eq(1)
                for number, (_, item) in enumerate(every):
                    for kept in item.kept:
                        with m.If(place == number):
                            m.d.sync += kept.eq(total)
                m.d.comb += last.eq(Cat(place == ends[code] - 1 for code in Opcode if programs[code]).any())
                m.d.sync += place.eq(place + 1)
                m.next = "FIRST"
                # A layer's last sum is made for each block.
                m.d.comb += blocks_left.eq(((opcode == Opcode.CONV) | (opcode == Opcode.ELEMENTWISE))
                                           & ~fields[Opcode.CONV].one_block & (self.block_index + 1 < self.blocks))
                with m.If(last):
                    m.d.sync += self.block_index.eq(self.block_index + 1)
                    with m.If(blocks_left):
                        m.d.sync += place.eq(place)
                    with m.Else():
                        m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"

        for error in reversed(found):
            with m.If(found[error]):
                m.d.comb += self.error.eq(int(error))
        return m

    def _plain(self, code: Opcode, item: data.View) -> dict[ErrorCode, list[Value]]:
        """What is wrong with a descriptor, as far as that needs no product."""
        config = self.config
        names = {entry.name for entry in FIELDS[code]}
        used = 0
        for entry in FIELDS[code]:
            used |= (1 << entry.bits) - 1 << entry.first_bit
        unused = [self.descriptor[bit] for bit in range(DESCRIPTOR_BITS) if not used >> bit & 1]
        reserved = [*unused, *(item[name] % ALIGNMENT != 0 for name in ALIGNED if name in names)]
        size = []
        for entry in FIELDS[code]:
            if (limit := LIMITS.get(entry.name)) is not None:
                if limit.low > 0:
                    size.append(item[entry.name] < limit.low)
                if limit.high(config) < (1 << entry.bits) - 1:
                    size.append(item[entry.name] > limit.high(config))
        result = {ErrorCode.RESERVED: reserved, ErrorCode.SIZE: size}
        if code in REGIONS:
            reserved += [item.block_log2 < BLOCK_LOG2_LEAST, item.transform >= TRANSFORMS]
            channels = Mux(item.transform == Transform.SPACE_TO_DEPTH.value, item.outputs << 2, item.outputs)
            size.append(item.detect & (item.label_first + channels > config.label_depth))
            result[ErrorCode.RANGE] = [(item[region.base] > item[region.end]) | (item[region.end] > config.act_nibbles)
                                       for region in REGIONS[code]]
            result[ErrorCode.OVERLAP] = [
                (item[region.base] < item[out.end]) & (item[out.base] < item[region.end])
                for out in REGIONS[code] if out.written for region in REGIONS[code] if not region.written]
            result[ErrorCode.BATCH] = [self.blocks == 0]
        if code == Opcode.CONV:
            size.append(item.upsampled & (~_one_of(item.width, config.upsampled_widths) | item.height[0]))
        if code == Opcode.ELEMENTWISE:
            size.append(item.x_strided & ~_one_of(item.width, config.strided_widths))
        if code == Opcode.BATCH:
            result[ErrorCode.BATCH] = [item.blocks > item.samples]
        return result

    def _sums(self, code: Opcode, item: data.View) -> list[_Sum]:
        """The sums to be made, in order; that of a layer's parameters comes last, and again for each block."""
        config = self.config
        beat = config.bus_bits // 8
        beat_log2 = beat.bit_length() - 1
        if code == Opcode.BATCH:
            return [_Sum([(item.samples + item.blocks, Const(beat))], item.offset, self.data_size)]
        if code in (Opcode.LOAD, Opcode.STORE):
            last = item.runs - 1
            return [
                _Sum([(item.chip_stride, last)], item.chip_first + item.beats,
                     config.act_nibbles // config.bus_nibbles),
                _Sum([(item.stride, last)], item.offset + (item.beats << beat_log2), self.data_size),
            ]
        if code not in REGIONS:
            return []
        blocks = Mux(item.one_block, self.blocks != 0, self.blocks)
        sums = [_Sum([(item.outputs, blocks)], 0, config.param_depth // 2, ErrorCode.SIZE)]
        if code == Opcode.CONV:
            ktile_beats = Signal(25)
            taps = Mux(item.one_tap, 1, 3)
            codes = config.lanes_per_scale * config.scale_beats
            # A k-tile's beats fit in 25 bits once `words` and `groups` are legal; k_tiles times as many may not.
            sums += [
                _Sum([(item.table_count, Const(beat))], item.table, self.program_size),
                _Sum([(item.words * config.tap_beats, taps), (item.groups, Const(codes))], kept=[ktile_beats]),
                _Sum([(ktile_beats << beat_log2, item.k_tiles)], item.weights, self.program_size),
                _Sum([(ktile_beats, item.k_tiles)], kept=[self.weight_beats]),
            ]
        block = item.params + (Mux(item.one_block, 0, self.block) << item.block_log2)
        return [*sums, _Sum([(item.outputs, Const(config.param_beats))], kept=[self.block_beats]),
                _Sum([(self.block_beats, Const(beat))], Mux(self.blocks == 0, 0, block), self.program_size)]


def _one_of(value: Value, legal: Sequence[int]) -> Value:
    return Cat(value == item for item in legal).any()
