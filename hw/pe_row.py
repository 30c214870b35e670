"""PE row: the building block of both arrays. One row is one output pixel, its lanes are the output channels.

    part[b]    a, or 0 where bit b of the weight is 0
    pair[]     products (part[0] + 2 part[1]) + 4 (part[2] - 2 part[3]), those of two taps added
    dot        all of pair[] added
    local      local + dot; where that ends a vector, 0, and the sum goes to `out`
    share[b]   the unit's sum, or 0 where bit b of the mantissa is 0
    fine[n]    the shares added, (share[0] + 2 share[1]) + 4 (share[2] + 2 share[3]), or 0 if the shift's lowest two
               bits are not n
    coarse[n]  the one of fine[] that is not 0, shifted by its n; or 0 if the shift's other bits are not n
    ring       ring + the one of coarse[] that is not 0, shifted by 4 times its n; to acc[bank] as well

These are the registers, each a cycle behind the one above. What a bit chooses is a register that is cleared, by the
flip-flops' own reset, and what is chosen out of several is the one that is not 0: so there are adders and ORs in a row,
and hardly a multiplexer.

The lanes of a scale unit work one cycle after the other. So their sums reach it one by one, and nothing has to hold
them. With four lanes to a unit:

    cycle      0        1        2        3        4        5        6        7        8        9        10
    lane 0     part     pair     dot      out      share    fine     coarse   ring
    lane 1              part     pair     dot      out      share    fine     coarse   ring
    lane 2                       part     pair     dot      out      share    fine     coarse   ring
    lane 3                                part     pair     dot      out      share    fine     coarse   ring

A tile's accumulators are read from one bank of `acc` while the next tile fills the other. All control comes from
outside: the dense array drives all rows with one set.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import Config
from .product import added

__all__ = ["FINE_BITS", "PERow", "coarse_shifts", "control_layout", "staggered"]

A_BITS = 5      # of an activation, a nibble signed or not
W_BITS = 4
FINE_BITS = 2   # of a shift; the upper ones are the coarse shift
FINE = 1 << FINE_BITS
PASSES = 4      # exponents that an entry of a channel list can ask for, in multiples of FINE


def coarse_shifts(config: Config, *, sparse: bool) -> int:
    """How many multiples of FINE a scale unit shifts by: the scale code's, and the pass's where there are several."""
    return config.scale_shift_max // FINE + (PASSES if sparse else 1)


def staggered(m: Module, config: Config, word: Value, name: str) -> list[Value]:
    """Return the parts of a word, one for each lane, each as late as its lane is."""
    bits = len(word) // config.cols
    lanes = []
    for lane in range(config.cols):
        part = word.word_select(lane, bits)
        for late in range(1, lane % config.lanes_per_scale + 1):
            later = Signal(bits, name=f"{name}{lane}_{late}", reset_less=True)
            m.d.sync += later.eq(part)
            part = later
        lanes.append(part)
    return lanes


def control_layout(config: Config, *, sparse: bool) -> data.StructLayout:
    """What a row does in this cycle.

    What is called clear is for registers that are 0 in the next cycle; all others take what comes.

    Members
    -------
    clear_local, clear_out : lanes_per_scale bits
        What such lanes add ends a vector, or does not: one is the inverse of the other.
    clear_share : 4 bits x scale_units
        Bits of the mantissa that are 0, for the lane whose sum has come.
    clear_fine, clear_coarse : bits x scale_units
        All but one bit are set: the shift of the lane whose sum came in the last cycle, and in the one before.
    overwrite : 1 bit
        The lane whose sum came two cycles ago is of the tile's first vector: its accumulator begins with 0.
    write : 1 bit
        Add the value of the lane whose sum came three cycles ago to its accumulator.
    write_bank : 1 bit, write_lane : bits of lanes_per_scale
        Which one.
    read_bank : 1 bit, read_lane : bits of lanes_per_scale, clear_acc : scale_units bits
        Accumulator to be read, and the units that do not have it.
    """
    units = config.scale_units
    return data.StructLayout({
        "clear_local": config.lanes_per_scale,
        "clear_out": config.lanes_per_scale,
        "clear_share": data.ArrayLayout(config.scale_man_bits + 1, units),
        "clear_fine": data.ArrayLayout(min(FINE, config.scale_shift_max + 1), units),
        "clear_coarse": data.ArrayLayout(coarse_shifts(config, sparse=sparse), units),
        "overwrite": 1,
        "write": 1,
        "write_bank": 1,
        "write_lane": range(config.lanes_per_scale),
        "read_bank": 1,
        "read_lane": range(config.lanes_per_scale),
        "clear_acc": units,
    })


def _cleared(m: Module, name: str, value: Value, clear: Value) -> Signal:
    """Return a register that takes a signed value, or 0: the flip-flops' own reset."""
    register = Signal(signed(len(value)), name=name, reset_less=True)
    m.d.sync += register.eq(value)
    with m.If(clear):
        m.d.sync += register.eq(0)
    return register


def _nonzero(values: Sequence[Value]) -> Value:
    """Return the one of several signed values that is not 0."""
    bits = max(len(value) for value in values)
    return reduce(or_, (_extended(value, bits).as_unsigned() for value in values)).as_signed()


def _extended(value: Value, bits: int) -> Value:
    """Return the lowest bits of a signed value, or all and as many more as that takes."""
    return Cat(value, value[-1].replicate(max(0, bits - len(value))))[:bits].as_signed()


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
        Activations, a cycle before their weights reach lane 0.
    clear_a : In(1 x taps)
        With `a`: there is nothing to multiply.
    w_zeros : In(4 bits x cols x taps)
        Bits of the weights, inverted; those of lane k come k modulo lanes_per_scale cycles late, see `staggered`.
    w_signed : In(1)
        They are signed; with `a`. Those of a dense array always are.
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
            "clear_a": In(self.taps),
            "w_zeros": In(data.ArrayLayout(data.ArrayLayout(W_BITS, config.cols), self.taps)),
            **({"w_signed": In(1)} if sparse else {}),
            "control": In(control_layout(config, sparse=sparse)),
            "acc": Out(signed(config.acc_bits)),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config = self.config
        activations = [self._activations(m, tap) for tap in range(self.taps)]
        outs = []
        for lane in range(config.cols):
            late = lane % config.lanes_per_scale
            products = [self._product(m, *activations[tap][late], self.w_zeros[tap][lane], f"{lane}_{tap}")
                        for tap in range(self.taps)]
            outs.append(self._accumulate(m, products, lane))
        accs = []
        for unit in range(config.scale_units):
            value = self._scale(m, unit, outs[unit * config.lanes_per_scale:(unit + 1) * config.lanes_per_scale])
            accs.append(self._accumulators(m, unit, value))
        m.d.comb += self.acc.eq(_nonzero(accs))
        return m

    def _activations(self, m: Module, tap: int) -> list[tuple[Value, Value]]:
        """Return a tap's activation, and what a weight's top bit takes from the product, for each lane of a unit."""
        a, clear = self.a[tap], self.clear_a[tap]
        now = _cleared(m, f"a{tap}", a, clear)
        late = [(now, _cleared(m, f"top{tap}", Mux(self.w_signed, a, -a)[:A_BITS], clear) if self.sparse else now)]
        for lane in range(1, self.config.lanes_per_scale):
            later = Signal(signed(A_BITS), name=f"a{tap}_{lane}", reset_less=True)
            top = Signal(signed(A_BITS), name=f"top{tap}_{lane}", reset_less=True) if self.sparse else later
            m.d.sync += later.eq(late[-1][0])
            if self.sparse:
                m.d.sync += top.eq(late[-1][1])
            late.append((later, top))
        return late

    def _product(self, m: Module, a: Value, top: Value, w_zeros: Value, name: str) -> Value:
        """Multiply: an adder for two bits of the weight each, and one for both."""
        part = [_cleared(m, f"part{name}_{bit}", top if bit == W_BITS - 1 else a, w_zeros[bit])
                for bit in range(W_BITS)]
        low, high = added(part[0], part[1], 1), added(part[2], part[3], 1, minus=True)
        product = Signal(signed(9 if self.sparse else 8), name=f"product{name}")
        m.d.comb += product.eq(added(low, high, 2))
        return product

    def _accumulate(self, m: Module, products: Sequence[Value], lane: int) -> Signal:
        """Add up a lane's vector; return a register that has its sum for one cycle, and is 0 in all others."""
        config, control, late = self.config, self.control, lane % self.config.lanes_per_scale
        # The sum of the first two and the third one, if there are so many.
        sums = [products[0] + products[1], products[2]] if len(products) > 1 else products
        pairs = [Signal(signed(len(value)), name=f"pair{lane}_{number}", reset_less=True)
                 for number, value in enumerate(sums)]
        total = sum(pairs[1:], pairs[0])
        dot = Signal(signed(len(total)), name=f"dot{lane}", reset_less=True)
        after = Signal(signed(config.psum_bits), name=f"after{lane}")
        local = _cleared(m, f"local{lane}", after, control.clear_local[late])
        m.d.sync += [pair.eq(value) for pair, value in zip(pairs, sums, strict=True)]
        m.d.sync += dot.eq(total)
        m.d.comb += after.eq(local + dot)
        return _cleared(m, f"out{lane}", after, control.clear_out[late])

    def _scale(self, m: Module, unit: int, outs: Sequence[Value]) -> Value:
        """Scale the sums of some lanes."""
        control, acc_bits = self.control, self.config.acc_bits
        share = [_cleared(m, f"share{unit}_{bit}", _nonzero(outs), clear)
                 for bit, clear in enumerate(control.clear_share[unit])]
        scaled = added(added(share[0], share[1], 1), added(share[2], share[3], 1), 2)[:len(share[0]) + len(share)]
        fine = [_cleared(m, f"fine{unit}_{number}", scaled, clear)
                for number, clear in enumerate(control.clear_fine[unit])]
        shifted = _nonzero([value << number for number, value in enumerate(fine)])
        coarse = [_cleared(m, f"coarse{unit}_{number}", _extended(shifted, acc_bits - FINE * number), clear)
                  for number, clear in enumerate(control.clear_coarse[unit])]
        return _nonzero([value << FINE * number for number, value in enumerate(coarse)])

    def _accumulators(self, m: Module, unit: int, value: Value) -> Signal:
        """Add up the values of some lanes; return the one that was asked for in the last cycle, or 0.

        The accumulators of the tile that fills go round: the lanes take turns, always in order.
        """
        config, control = self.config, self.control
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
        m.d.comb += [
            writer.addr.eq(Cat(control.write_bank, control.write_lane)),
            writer.en.eq(control.write),
            writer.data.eq(new),
            reader.addr.eq(Cat(control.read_bank, control.read_lane)),
        ]
        return _cleared(m, f"shown{unit}", reader.data, control.clear_acc[unit])
