"""The post-processor's formula, row by row.

What all rows share (the layer's fields, the channel's parameters) is made once, by `Shared`; `result` is a row's part.
Cycles are counted from the step's issue; from 4 on they come as much later as the sum has to wait for what is read.

     2 accumulators of each array    5 factors                          9 total
     3 sum of the arrays, nibbles    6 sums of two partial products    10, 11 shift
     4 numbers                       7 sums of four                    12 clamp
                                     8 products, with what is added    13 dead zone
"""

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed

from .config import MULT_BITS, Config
from .interfaces import param_layout
from .product import CODE_BITS, correction, joined, narrowed, partial_sums, recoded

__all__ = ["Result", "Shared", "number", "result"]

GROUPS = 4      # of rows, with parameters of their own


@dataclass(frozen=True)
class Result:
    """What comes out of a row.

    Parameters
    ----------
    nibble : Signal
        Of the plane that is written.
    nonzero : Signal
        The whole number.
    """

    nibble: Signal
    nonzero: Signal


class Shared:
    """What all rows work with.

    Parameters
    ----------
    m : Module
    config : Config
    layer : layer_layout
    param : Value
        Of the channel, read in cycle 2.
    plane : Value
        Plane that is written, in cycle 12.
    """

    def __init__(self, m: Module, config: Config, layer: Any, param: Value, plane: Value) -> None:
        self.config, self.layer, self.plane = config, layer, plane
        read = Signal(param_layout(config), reset_less=True)
        rounding = Signal(config.bias_bits, reset_less=True)
        codes = [[Signal(CODE_BITS, name=f"{name}_code{half}", init=-half % (1 << CODE_BITS), reset_less=True)
                  for half in range(2)] for name in ("m", "r")]
        rounded = [Signal(signed(config.bias_bits + 1), name=f"rounded{cycle}", reset_less=True) for cycle in (4, 5)]
        corrections = Signal(MULT_BITS + 1, reset_less=True)
        offset = Signal(signed(config.bias_bits + 1), reset_less=True)
        self.offset = Signal.like(offset)
        m.d.sync += [
            rounding.eq((1 << layer.shift) >> 1),
            read.eq(param),
            *(code.eq(recoded(read.m)) for code in codes[0]),
            *(code.eq(recoded(Mux(layer.residual, read.r, 0))) for code in codes[1]),
            rounded[0].eq(read.b + rounding),
            rounded[1].eq(rounded[0]), corrections.eq(correction(codes[0][0]) + correction(codes[1][0])),
            offset.eq(rounded[1] + corrections),
            self.offset.eq(offset),
        ]
        # One flip-flop cannot serve all rows at this clock. Those of another initial value are not merged by synthesis.
        self.codes, self.shifts = [], []
        for group in range(GROUPS):
            init = -(group % 2)
            shift = Signal(len(layer.shift), name=f"shift{group}", init=init % (1 << len(layer.shift)), reset_less=True)
            mine = [Signal(CODE_BITS, name=f"{name}_code_of{group}", init=init % (1 << CODE_BITS), reset_less=True)
                    for name in ("m", "r")]
            m.d.sync += [shift.eq(layer.shift),
                         *(code.eq(source[group // 2]) for code, source in zip(mine, codes, strict=True))]
            self.codes.append(mine)
            self.shifts.append(shift)

        # Bits that a result of the layer's format has in common with its sign. Twice the dead zone, see `result`.
        is_signed, wide = layer.out_format.signed, layer.out_format.wide
        self.fixed = Signal(8, reset_less=True)
        self.zone = Signal(9, reset_less=True)
        m.d.sync += [
            self.fixed.eq(Mux(is_signed, Mux(wide, 0x80, 0xf8), Mux(wide, 0, 0xf0))),
            self.zone.eq(Mux(layer.dead_zone == 0, 0, (layer.dead_zone << 1) - 1)),
        ]


def number(low: Value, high: Value, fmt: Any) -> Value:
    """Return a number made of its planes."""
    sign = low[3] & fmt.signed
    return Mux(fmt.wide, Cat(low, high, high[3] & fmt.signed), Cat(low, sign.replicate(5))).as_signed()


def result(m: Module, shared: Shared, row: int, accs: list[Value], wait: int, res: Value, x: Value) -> Result:
    """Carry a row through.

    Parameters
    ----------
    m : Module
    shared : Shared
    row : int
    accs : list of Value
        Of each array, in cycle 2; 0 where it has no part, and of all in an element-wise layer.
    wait : int
        Cycles that their sum waits.
    res, x : Value
        The numbers read, in cycle 3 + wait.
    """
    config, layer = shared.config, shared.layer
    add_bits = config.bias_bits + 2

    def register(name: str, value: Value, shape: Any = None) -> Signal:
        signal = Signal(value.shape() if shape is None else shape, name=f"{name}{row}", reset_less=True)
        m.d.sync += signal.eq(value)
        return signal

    acc = register("sum", sum(accs), signed(config.acc_bits))
    for cycle in range(wait + 1):
        acc = register(f"acc{cycle}_", acc)
    x = register("x", x)
    with m.If(~layer.elementwise):
        m.d.sync += x.eq(0)
    # An element-wise layer has no accumulators: so one or the other is 0, and x's sign sets all the bits above it.
    lower = register("lower", acc[:len(x)] | x.as_unsigned())
    upper = Signal(config.acc_bits - len(x), name=f"upper{row}", init=-1, reset_less=True)  # set, not cleared
    m.d.sync += upper.eq(acc[len(x):])
    with m.If(x[-1]):
        m.d.sync += upper.eq(~0)
    factors = Cat(lower, upper).as_signed(), register("res", register("res_read", res))
    group = GROUPS * row // config.rows
    sums = []
    for value, code, name in zip(factors, shared.codes[group], ("m", "r"), strict=True):
        sums.append(partial_sums(m, f"{name}{row}", value, code))
    product = register("product", joined(*sums[0]), signed(config.bias_bits))
    others = register("others", joined(*sums[1]) + shared.offset, signed(add_bits))
    total = register("total", product + others, signed(add_bits))
    low, beyond, negative = narrowed(m, f"shifted{row}", total, shared.shifts[group], 8)

    # Clamp, then compare. A negative number, inverted, is its magnitude less 1: `twice` is less by 1 than twice that.
    clamped = Signal(8, name=f"clamped{row}", reset_less=True)
    below = Signal(name=f"below{row}", reset_less=True)
    limit = shared.fixed ^ ~negative.replicate(8)
    too_large = beyond | ((low ^ negative.replicate(8)) & shared.fixed).any()
    m.d.sync += [below.eq(negative & layer.out_format.signed), clamped.eq(Mux(too_large, limit, low))]
    with m.If(negative & ~layer.out_format.signed):
        m.d.sync += clamped.eq(0)
    twice = Cat(below, clamped ^ below.replicate(8))
    nibble, nonzero = Signal(4, name=f"nibble{row}", reset_less=True), Signal(name=f"nonzero{row}", reset_less=True)
    m.d.sync += [nibble.eq(Mux(shared.plane, clamped[4:], clamped[:4])), nonzero.eq(clamped.any())]
    with m.If(twice < shared.zone):
        m.d.sync += [nibble.eq(0), nonzero.eq(0)]
    return Result(nibble, nonzero)
