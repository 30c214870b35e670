"""A baseline for areas: a dense array of FP16 multiply-accumulate lanes, as many multipliers as in the INT4 one.

Each of rows x cols lanes multiplies `dense_taps` pairs of FP16 values per cycle and adds the products to one FP32
accumulator, one FP32 adder per multiplier, one after the other. Activations are shared along a row and weights along
a column, as in `hw.dense`; there is no weight memory, no window and no scale unit.

Products are exact. Each addition rounds to the nearest, ties to even, as IEEE 754 does. Subnormal FP16 inputs count as
zero, and exponents of 31 (infinities and NaN) as one more exponent: neither is supported. Sums are then multiples of
2^-48, so there are no subnormal results; a result of zero is +0. An accumulation takes a cycle: with the registers of a
higher clock it would be larger.
"""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.config import Config

__all__ = ["Fp16Array", "Fp32", "add", "multiply"]

MANTISSA = 24       # of FP32, with the leading one
GUARD = 3           # guard, round and sticky bit of an addition
BIAS_GAP = 127 - 2 * 15     # from the sum of two FP16 exponent fields to the FP32 field of a product in [1, 2)

Fp32 = data.StructLayout({"fraction": 23, "exponent": 8, "sign": 1})
Fp16 = data.StructLayout({"fraction": 10, "exponent": 5, "sign": 1})


def multiply(m: Module, a: data.View, b: data.View, name: str) -> data.View:
    """Return the exact FP32 product of two FP16 values."""
    product = Signal(22, name=f"{name}_mantissas")
    result = Signal(Fp32, name=name)
    zero = (a.exponent == 0) | (b.exponent == 0)
    m.d.comb += [
        product.eq(Cat(a.fraction, C(1, 1)) * Cat(b.fraction, C(1, 1))),
        result.sign.eq(a.sign ^ b.sign),
        result.exponent.eq(Mux(zero, 0, a.exponent + b.exponent + BIAS_GAP + product[21])),
        result.fraction.eq(Mux(zero, 0, Mux(product[21], Cat(C(0, 2), product[:21]), Cat(C(0, 3), product[:20])))),
    ]
    return result


def _shift_right(m: Module, value: Signal, distance: Value, name: str) -> Signal:
    """Shift by `distance`, in stages; the last bit says whether it or any bit that falls out was one."""
    for stage in range(len(distance)):
        by = 1 << stage
        moved = Signal(len(value), name=f"{name}{stage}")
        m.d.comb += moved.eq(Mux(distance[stage], Cat(value[:by + 1].any(), value[by + 1:], C(0, by)), value))
        value = moved
    return value


def _normalise(m: Module, value: Signal, name: str) -> tuple[Signal, Signal]:
    """Shift left until the highest bit is one, in stages; the value and by how many places."""
    places = Signal(range(len(value)), name=f"{name}_places")
    for stage in reversed(range(len(places))):
        by = 1 << stage
        moved = Signal(len(value), name=f"{name}{stage}")
        m.d.comb += [
            places[stage].eq(~value[-by:].any()),
            moved.eq(Mux(places[stage], value << by, value)),
        ]
        value = moved
    return value, places


def add(m: Module, a: data.View, b: data.View, name: str) -> data.View:
    """Return the FP32 sum of two values, rounded to the nearest, ties to even. An exponent field of 0 means zero."""
    width = MANTISSA + GUARD
    big, small = Signal(Fp32, name=f"{name}_big"), Signal(Fp32, name=f"{name}_small")
    swap = a.as_value()[:31] < b.as_value()[:31]
    m.d.comb += [big.eq(Mux(swap, b, a)), small.eq(Mux(swap, a, b))]

    # The smaller mantissa moves to the right; what falls out is remembered in the last bit.
    distance = Signal(8, name=f"{name}_distance")
    minor = Signal(width, name=f"{name}_minor")
    m.d.comb += [
        distance.eq(big.exponent - small.exponent),
        minor.eq(Mux(small.exponent == 0, 0, Cat(C(0, GUARD), small.fraction, C(1, 1)))),
    ]
    aligned = Mux(distance[5:].any(), minor.any(), _shift_right(m, minor, distance[:5], f"{name}_aligned"))
    major = Mux(big.exponent == 0, 0, Cat(C(0, GUARD), big.fraction, C(1, 1)))
    total = Signal(width + 1, name=f"{name}_total")
    m.d.comb += total.eq(Mux(big.sign ^ small.sign, major - aligned, major + aligned))

    # The leading one moves to bit `width`, then the result is rounded.
    normal, zeros = _normalise(m, total, f"{name}_normal")
    low = width + 1 - MANTISSA
    up = normal[low - 1] & (normal[:low - 1].any() | normal[low])
    rounded = Signal(MANTISSA + 1, name=f"{name}_rounded")
    m.d.comb += rounded.eq(normal[low:] + up)
    result = Signal(Fp32, name=name)
    with m.If(total.any()):
        m.d.comb += [
            result.sign.eq(big.sign),
            result.exponent.eq(big.exponent + 1 - zeros + rounded[MANTISSA]),
            result.fraction.eq(Mux(rounded[MANTISSA], rounded[1:], rounded[:-1])),
        ]
    return result


class Fp16Array(wiring.Component):
    """The array.

    Members
    -------
    a : In(rows x dense_taps x 16)
        Activations, FP16.
    w : In(cols x dense_taps x 16)
        Weights, FP16.
    en : In(1)
        Multiply and add what comes with it.
    first : In(1)
        Begin the sums anew with it.
    lane : In(bits of cols)
        Which column to read.
    acc : Out(rows x 32)
        Its accumulators, FP32, one cycle later. What `a` and `w` brought is in the accumulators after 3 cycles.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        taps = config.dense_taps
        super().__init__({
            "a": In(data.ArrayLayout(data.ArrayLayout(Fp16, taps), config.rows)),
            "w": In(data.ArrayLayout(data.ArrayLayout(Fp16, taps), config.cols)),
            "en": In(1), "first": In(1), "lane": In(range(config.cols)),
            "acc": Out(data.ArrayLayout(Fp32, config.rows)),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config = self.config
        # The control has a stage for the operands and one for the products.
        a, w = Signal.like(self.a, reset_less=True), Signal.like(self.w, reset_less=True)
        en, first = Signal(2), Signal(2)
        m.d.sync += [a.eq(self.a), w.eq(self.w), en.eq(Cat(self.en, en[0])), first.eq(Cat(self.first, first[0]))]
        for row in range(config.rows):
            m.submodules[f"row{row}"] = lanes = _Row(config)
            m.d.comb += [lanes.a.eq(a[row]), lanes.w.eq(w), lanes.en.eq(en[1]), lanes.first.eq(first[1]),
                         lanes.lane.eq(self.lane), self.acc[row].eq(lanes.acc)]
        return m


class _Row(wiring.Component):
    """The lanes of a row, a module of its own: all rows are the same. Members as those of the array."""

    def __init__(self, config: Config) -> None:
        self.config = config
        taps = data.ArrayLayout(Fp16, config.dense_taps)
        super().__init__({"a": In(taps), "w": In(data.ArrayLayout(taps, config.cols)), "en": In(1), "first": In(1),
                          "lane": In(range(config.cols)), "acc": Out(Fp32)})

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        sums = Signal(data.ArrayLayout(Fp32, self.config.cols))
        m.d.sync += self.acc.eq(sums[self.lane])
        for col in range(self.config.cols):
            m.submodules[f"lane{col}"] = lane = _Lane(self.config)
            m.d.comb += [lane.a.eq(self.a), lane.w.eq(self.w[col]), lane.en.eq(self.en), lane.first.eq(self.first),
                         sums[col].eq(lane.sum)]
        return m


class _Lane(wiring.Component):
    """The multipliers of a column in a row and their accumulator, a module too."""

    def __init__(self, config: Config) -> None:
        self.config = config
        taps = data.ArrayLayout(Fp16, config.dense_taps)
        super().__init__({"a": In(taps), "w": In(taps), "en": In(1), "first": In(1), "sum": Out(Fp32)})

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        accumulator = Signal(Fp32, reset_less=True)
        total: data.View = Signal(Fp32, name="start")
        m.d.comb += [self.sum.eq(accumulator), total.eq(Mux(self.first, 0, accumulator))]
        for tap in range(self.config.dense_taps):
            product = Signal(Fp32, name=f"product{tap}", reset_less=True)
            m.d.sync += product.eq(multiply(m, self.a[tap], self.w[tap], f"exact{tap}"))
            total = add(m, total, product, f"sum{tap}")
        with m.If(self.en):
            m.d.sync += accumulator.eq(total)
        return m
