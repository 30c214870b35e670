"""PE row: the building block of both arrays. One row is one output pixel, its lanes are the output channels.

    product stage      dot[k]   <= sum over taps of a[tap] * w[tap][k]
    sum stage          local[k] <= local[k] + dot[k];  at a vector's end the sum moves to hold[k] and local[k] to 0
    drain              each scale unit takes its `lanes_per_scale` lanes of hold[] in turn, one per cycle
    scale unit         value <= (hold * mantissa) << shift            four cycles
    accumulator        ring[k] <= ring[k] + value, to acc[bank][k]    one cycle

A vector's sum leaves `hold` while the next vector adds up in `local`; a tile's accumulators are read from one bank
of `acc` while the next tile fills the other. All control comes from outside: the dense array drives all rows with one
set.

A product is the sum of two multiples of the activation a, each chosen by two bits of the weight as they are:

    bits 1, 0     00    01    10    11          bits 3, 2     10    11    00    01
    low         -2 a   - a     0     a          high        -6 a  -2 a   2 a   6 a

-8 = -2 - 6 up to 7 = 1 + 6: every weight is one of the sixteen pairs. The row makes 3 a and -a once, for all lanes;
then a bit of a multiple is a function of two data bits and two weight bits, one LUT of four inputs: of -a for the low
multiple, of a and 3 a for the high one. With bit 1, and bit 3, it is the complement of what is to be negated, and the
missing 1 goes into an adder as carry: bit 3 into the product's own, bit 1 into the one after that.
"""

from collections.abc import Sequence
from itertools import pairwise

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import Config

__all__ = ["PERow", "control_layout", "shift_bits"]

A_BITS = 5          # of an activation, a nibble signed or not
PRODUCT_BITS = 8    # of its product with a signed nibble


def shift_bits(config: Config, *, sparse: bool) -> int:
    """Width of a scale unit's shift: that of the scale code, and of the pass where there are several."""
    return max(1, (config.scale_shift_max + (2 * 4 if sparse else 0)).bit_length())


def control_layout(config: Config, *, sparse: bool) -> data.StructLayout:
    """What a row does in this cycle.

    Members
    -------
    multiply : 1 bit
        The operands are valid: form the products.
    add : 1 bit
        Add the products formed in the last cycle.
    hold : 1 bit
        With `add`: they end a vector; the sum moves on to be drained.
    scale : 1 bit
        A lane is in the scale units, or taken.
    drain_lane : bits of lanes_per_scale
        Lane that each scale unit takes.
    mantissa : 4 bits x scale_units
        Of the lane taken in the last cycle.
    shift_by : `shift_bits` x scale_units
        Of the lane taken three cycles ago.
    overwrite : 1 bit
        The lane taken three cycles ago is of the tile's first vector: its accumulator begins with 0.
    write : 1 bit
        Add the value of the lane taken four cycles ago to its accumulator.
    write_bank : 1 bit, write_lane : bits of lanes_per_scale
        Which one.
    read_bank : 1 bit, read_lane : bits of cols
        Accumulator to be read.
    """
    units = config.scale_units
    return data.StructLayout({
        "multiply": 1,
        "add": 1,
        "hold": 1,
        "scale": 1,
        "drain_lane": range(config.lanes_per_scale),
        "mantissa": data.ArrayLayout(config.scale_man_bits + 1, units),
        "shift_by": data.ArrayLayout(shift_bits(config, sparse=sparse), units),
        "overwrite": 1,
        "write": 1,
        "write_bank": 1,
        "write_lane": range(config.lanes_per_scale),
        "read_bank": 1,
        "read_lane": range(config.cols),
    })


def _choose(values: Sequence[Value], number: Value) -> Value:
    """Choose one of several values by its number.

    A chain of LUTs of four inputs, with two values each. The link with the chosen value finds the last bit of the
    number in what the links before it hand on.
    """
    bits = len(values[0])
    chain: Value = Mux(number[0], Const(-1, bits), 0)
    for link in range(0, len(values), 2):
        even, odd = (values[min(place, len(values) - 1)].as_unsigned() for place in (link, link + 1))
        chain = Mux(number[1:] == link >> 1, even ^ ((even ^ odd) & chain), chain)
    return chain


class PERow(wiring.Component):
    """One row of an array.

    Parameters
    ----------
    config : Config
    sparse : bool
        Of a sparse array: one tap, weights with or without sign, several passes.

    Members
    -------
    a : In(signed 5 bits x taps)
        Activations, the same for all lanes, a cycle before their weights.
    w : In(4 bits x cols x taps)
        Weights.
    w_signed : In(1)
        They are signed; those of a dense array always are.
    control : In(control_layout)
    acc : Out(signed acc_bits)
        The accumulator asked for in the last cycle.
    """

    def __init__(self, config: Config, *, sparse: bool = False) -> None:
        self.config = config
        self.sparse = sparse
        self.taps = 1 if sparse else config.dense_taps
        super().__init__({
            "a": In(data.ArrayLayout(signed(A_BITS), self.taps)),
            "w": In(data.ArrayLayout(data.ArrayLayout(4, config.cols), self.taps)),
            **({"w_signed": In(1)} if sparse else {}),
            "control": In(control_layout(config, sparse=sparse)),
            "acc": Out(signed(config.acc_bits)),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config = self.config
        multiples = [self._multiples(m, tap) for tap in range(self.taps)]
        holds = []
        for lane in range(config.cols):
            sums, carries = [], []
            for tap in range(self.taps):
                w = self.w[tap][lane]
                product, carry = self._product(m, *multiples[tap], w, f"{lane}_{tap}")
                sums.append(product)
                carries.append(carry)
            total = sums[0]
            for tap in range(1, self.taps):
                both = Signal(signed(PRODUCT_BITS + tap.bit_length()), name=f"sum{lane}_{tap}")
                m.d.comb += both.eq(total + sums[tap] + carries[tap - 1])
                total = both
            holds.append(self._accumulate(m, total, carries[-1], str(lane)))
        shared = None
        if self.sparse:
            # Unsigned weights, top bit turned over, are 8 less. What that takes from a sum is the same for all lanes.
            twice = multiples[0][1][:PRODUCT_BITS].as_signed()
            shared = self._accumulate(m, Mux(self.w_signed, 0, twice << 2), 0, "_shared")

        reads = []
        for unit in range(config.scale_units):
            waiting = holds[unit * config.lanes_per_scale:(unit + 1) * config.lanes_per_scale]
            reads.append(self._scale_unit(m, unit, waiting, shared))
        acc = Signal(signed(config.acc_bits), reset_less=True)
        read_unit = Signal(range(max(2, config.scale_units)))
        with m.Switch(self.control.read_lane):
            for lane in range(config.cols):
                with m.Case(lane):
                    m.d.comb += read_unit.eq(lane // config.lanes_per_scale)
        m.d.sync += acc.eq(_choose(reads, read_unit))
        m.d.comb += self.acc.eq(acc)
        return m

    def _multiples(self, m: Module, tap: int) -> tuple[Signal, Signal]:
        """Make the low and the high multiples of a tap's activation, in the order of the weight bits that choose one.

        Four bytes each: to shift a word is also what a simulator does fastest.
        """
        a, minus, triple = (Signal(signed(PRODUCT_BITS - 1), name=f"{name}{tap}", reset_less=True)
                            for name in ("a", "minus", "triple"))
        low, high = (Signal(data.ArrayLayout(PRODUCT_BITS, 4), name=f"{name}{tap}") for name in ("low", "high"))
        m.d.sync += [a.eq(self.a[tap]), minus.eq(-self.a[tap]), triple.eq(self.a[tap] + (self.a[tap] << 1))]
        m.d.comb += [low[number].eq(value) for number, value in enumerate((minus << 1, minus, -1, ~minus))]
        m.d.comb += [high[number].eq(value)
                     for number, value in enumerate((a << 1, triple << 1, ~(triple << 1), ~(a << 1)))]
        return low.as_value(), high.as_value()

    def _product(self, m: Module, low: Value, high: Value, w: Value, name: str) -> tuple[Signal, Value]:
        """Multiply; return the product less its carry, and the carry."""
        product = Signal(signed(PRODUCT_BITS), name=f"product{name}")
        flip = w[3] ^ ~self.w_signed if self.sparse else w[3]
        m.d.comb += product.eq(low.word_select(w[:2], PRODUCT_BITS)
                               + high.word_select(Cat(w[2], flip), PRODUCT_BITS) + flip)
        return product, w[1]

    def _accumulate(self, m: Module, total: Value, carry: Value | int, name: str) -> Signal:
        """Add up a lane's vector; return its sum once it is held."""
        config, control = self.config, self.control
        dot = Signal(signed(len(total)), name=f"dot{name}", reset_less=True)
        dot_carry = Signal(name=f"dot_carry{name}", reset_less=True)
        local = Signal(signed(config.psum_bits), name=f"local{name}")
        hold = Signal(signed(config.psum_bits), name=f"hold{name}", reset_less=True)
        after = Signal(signed(config.psum_bits), name=f"after{name}")
        m.d.comb += after.eq(local + dot + dot_carry)
        with m.If(control.multiply):
            m.d.sync += [dot.eq(total), dot_carry.eq(carry)]
        with m.If(control.hold):
            m.d.sync += [hold.eq(after), local.eq(0)]
        with m.Elif(control.add):
            m.d.sync += local.eq(after)
        return hold

    def _scale_unit(self, m: Module, unit: int, waiting: Sequence[Value], shared: Value | None) -> Value:
        """Scale and accumulate the sums of some lanes; return what the accumulators' read port shows.

        The mantissa is 8 n + 4 m2 + (2 m1 + m0), or, where the last two are 3, 8 n + 4 (m2 + 1) - 1.
        """
        config, control = self.config, self.control
        bits, n = config.psum_bits, config.scale_man_bits
        taken = Signal(signed(bits), name=f"taken{unit}", reset_less=True)
        ones = Signal(signed(bits + 1), name=f"ones{unit}", reset_less=True)
        fours = Signal(signed(bits + 1), name=f"fours{unit}", reset_less=True)
        eights = Signal(signed(bits), name=f"eights{unit}", reset_less=True)
        carry = Signal(name=f"carry{unit}", reset_less=True)
        few = Signal(signed(bits + n), name=f"few{unit}")
        scaled = Signal(signed(bits + n + 1), name=f"scaled{unit}", reset_less=True)
        value = Signal(signed(config.acc_bits), name=f"value{unit}", reset_less=True)
        chosen = _choose(waiting, control.drain_lane).as_signed()
        mantissa = control.mantissa[unit]
        three = mantissa[:2].all()
        with m.If(control.scale):
            m.d.sync += [
                taken.eq(chosen if shared is None else chosen + shared),
                ones.eq(Mux(mantissa[1], Mux(mantissa[0], ~taken, taken << 1), Mux(mantissa[0], taken, 0))),
                fours.eq(Mux(three, Mux(mantissa[2], taken << 1, taken), Mux(mantissa[2], taken, 0))),
                eights.eq(taken),
                carry.eq(three),
                scaled.eq(Cat(few[:n], few[n:].as_signed() + eights)),
                value.eq(scaled << control.shift_by[unit]),
            ]
        with m.If(~mantissa[n]):    # the flip-flops' own reset
            m.d.sync += eights.eq(0)
        m.d.comb += few.eq(ones + (fours << 2) + carry)

        # The accumulators of the tile that fills go round: the lanes take turns, always in order.
        ring = [Signal(signed(config.acc_bits), name=f"ring{unit}_{place}", reset_less=True)
                for place in range(config.lanes_per_scale)]
        new = Signal(signed(config.acc_bits), name=f"new{unit}")
        m.d.comb += new.eq(ring[-1] + value)
        with m.If(control.write):
            m.d.sync += [later.eq(earlier) for earlier, later in pairwise([new, *ring])]
        with m.If(control.overwrite):
            m.d.sync += ring[-1].eq(0)

        memory = Memory(shape=signed(config.acc_bits), depth=2 * config.lanes_per_scale, init=[])
        m.submodules[f"acc{unit}"] = memory
        writer, reader = memory.write_port(), memory.read_port(domain="comb")
        read_place = Signal(range(config.lanes_per_scale), name=f"read_place{unit}")
        m.d.comb += [
            writer.addr.eq(Cat(control.write_bank, control.write_lane)),
            writer.en.eq(control.write),
            writer.data.eq(new),
            reader.addr.eq(Cat(control.read_bank, read_place)),
        ]
        with m.Switch(control.read_lane):
            for lane in range(config.cols):
                with m.Case(lane):
                    m.d.comb += read_place.eq(lane % config.lanes_per_scale)
        return reader.data
