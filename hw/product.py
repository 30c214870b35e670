"""Arithmetic of the post-processor's rows: products with a factor that all share, and a shift to few bits.

A product a * f of many a with one f: the factor is written in digits -1, 0, 1, 2 of base 4, so that each partial
product is 0 or a, shifted by one or inverted: one LUT4 per bit and eight adders, where a product bit by bit takes five
times as many LUTs. The digits come of one addition, f + 1 + 4 + 16 + ...: each digit of the sum is larger by 1 than the
one wanted. Inverting leaves a negative one short by 1; what all lack is the same for every a, and added once.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from .config import MULT_BITS

__all__ = ["CODE_BITS", "added", "correction", "joined", "narrowed", "partial_sums", "recoded"]

DIGITS = MULT_BITS // 2
CODE_BITS = MULT_BITS + 1


def recoded(factor: Value) -> Value:
    """Return the code, CODE_BITS wide, of a signed factor of MULT_BITS: its digits plus 1, the top one as it is."""
    return (factor + sum(1 << 2 * digit for digit in range(DIGITS - 1)))[:CODE_BITS]


def correction(code: Value) -> Value:
    """Return what the sums of `partial_sums` lack, unsigned: 4 ** digit for each negative digit of the code."""
    negative = [code.word_select(digit, 2) == 0 for digit in range(DIGITS - 1)]
    return Cat(Cat(digit, Const(0, 1)) for digit in [*negative, code[-1]])


def partial_sums(m: Module, name: str, a: Value, code: Value) -> tuple[Signal, Signal]:
    """Return two signed sums of four partial products each, for `joined`, two cycles later.

    The top digit is -2 to 2: one bit more than a LUT has room for. So its partial product has a register, cleared by 0.

    Parameters
    ----------
    m : Module
    name : str
        Of the registers.
    a : Value
        Signed.
    code : Value
        Of the factor, from `recoded`.
    """
    sign = a[-1]
    once, twice = Cat(a, sign), Cat(Const(0, 1), a)
    zero = Const(0, len(once))
    partial = []
    for digit in range(DIGITS - 1):
        one, two = code.word_select(digit, 2)
        partial.append(Mux(two, Mux(one, twice, once), Mux(one, zero, ~once)).as_signed())
    top = code[2 * (DIGITS - 1):]
    partial.append(Mux(top[:2].any(), Mux(top[0], once, twice) ^ top[2].replicate(len(once)), zero).as_signed())

    def register(number: int, value: Value) -> Signal:
        signal = Signal(value.shape(), name=f"{name}_{number}", reset_less=True)
        m.d.sync += signal.eq(value)
        return signal

    pairs = [register(digit, added(partial[digit], partial[digit + 1], 2)) for digit in range(0, DIGITS - 2, 2)]
    tops = [register(digit, partial[digit]) for digit in range(DIGITS - 2, DIGITS)]
    pairs.append(added(tops[0], tops[1], 2))
    low, high = (register(DIGITS + half, added(pairs[half], pairs[half + 1], 4)) for half in (0, 2))
    return low, high


def joined(low: Value, high: Value) -> Value:
    """Return the sum of `partial_sums`, signed: a * factor but for the `correction`, which is to be added."""
    return added(low, high, DIGITS)


def added(low: Value, high: Value, shift: int, *, minus: bool = False) -> Value:
    """Return low + (high << shift), or low - (high << shift), both signed.

    By an adder as wide as what overlaps; that also keeps Yosys from joining several additions to one with compressors.
    """
    upper = low[shift:].as_signed()
    return Cat(low[:shift], upper - high if minus else upper + high).as_signed()


def narrowed(m: Module, name: str, value: Value, shift: Value, bits: int) -> tuple[Signal, Value, Signal]:
    """Shift down, and return the lowest bits, whether any higher one differs from the sign, and that; two cycles later.

    Halves of the way, then quarters and so on: a stage keeps the bits that the stages after it can still bring down.

    Parameters
    ----------
    m : Module
    name : str
        Of the stages' signals.
    value : Value
        Signed.
    shift : Value
        Unsigned; stable.
    bits : int
        How many to return.
    """
    sign, beyond = value[-1], []

    def register(what: str, value: Value) -> Signal:
        signal = Signal(len(value), name=f"{name}_{what}", reset_less=True)
        m.d.sync += signal.eq(value)
        return signal

    middle = len(shift) // 2
    for place in reversed(range(len(shift))):
        step = 1 << place
        kept = min(len(value), bits + step - 1)
        by = shift[place]
        if kept < len(value):
            beyond.append(~by & (value[kept:] ^ sign.replicate(len(value) - kept)).any())
        value = Mux(by, Cat(value[step:], sign.replicate(step))[:kept], value[:kept])
        if place in (middle, 0):
            value, sign = register(f"kept{step}", value), register(f"sign{step}", sign)
            beyond = [register(f"beyond{step}", Cat(beyond)).any()]
    return value, beyond[0], sign
