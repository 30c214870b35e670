"""Networks of multiplexers between a window and the rows of an array.

A shift by any amount and an exchange of rows are made of stages, the largest step first: what no later stage can reach
is left out, so that a stage is hardly wider than its result.
"""

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value

__all__ = ["aligned", "exchanged", "kernel_line"]


def aligned(m: Module, nibbles: Value, start: Value, most: int, count: int) -> Value:
    """Return `count` nibbles from number `start` on.

    Parameters
    ----------
    m : Module
        Gets the stages.
    nibbles : value
        At least `most` + `count` of them.
    start : value
        At most `most`.
    most : int
    count : int
    """
    rest = nibbles
    for bit in reversed(range(most.bit_length())):
        step = 4 << bit
        width = min(4 * (count + (1 << bit) - 1), len(rest))    # what lower bits may still reach
        # Where the first step is taken, `most` leaves less to the lower ones.
        moved = rest[step:step + width]
        stage = Signal(width, name=f"aligned_{bit}")
        m.d.comb += stage.eq(Cat(Mux(start[bit], moved, rest[:len(moved)]), rest[len(moved):width]))
        rest = stage
    return rest[:4 * count]


def kernel_line(m: Module, nibbles: Value, pitch: Value, widest: int, line: int, count: int) -> Value:
    """Return a kernel line of a window: `count` nibbles from number `line * pitch` on.

    Parameters
    ----------
    m : Module
        Gets the stages.
    nibbles : value
        The window.
    pitch : value
        At most `widest`.
    widest : int
    line : int
        0, 1 or 2.
    count : int
    """
    rest = nibbles
    for bit in reversed(range(widest.bit_length())):
        step = 4 * (line << bit)
        width = min(4 * (count + line * min((1 << bit) - 1, widest)), len(rest))    # what lower bits may still reach
        # Beyond the window's end there is nothing to choose from.
        shifted = Cat(rest[step:], rest[max(0, len(rest) - step):])
        stage = Signal(width, name=f"line{line}_{bit}")
        m.d.comb += stage.eq(Mux(pitch[bit], shifted[:width], rest[:width]))
        rest = stage
    return rest[:4 * count]


def exchanged(m: Module, values: Sequence[Value], mask: Value, bits: Sequence[int], overlap: int = 0,
              name: str = "exchanged") -> list[list[Value]]:
    """Return what blocks of rows are given where row r is given what belongs to row r ^ mask.

    Parameters
    ----------
    m : Module
        Gets the stages.
    values : values of the same width
        One for each row, and `overlap` more: row r's are values r to r + overlap.
    mask : value
    bits : sequence of int
        Those of its bits that may be 1, highest first.
    overlap : int
    name : str
        Of the signals.

    Returns
    -------
    Blocks of 2**bits[-1] rows, each its values and `overlap` more; without `bits` all is one block.
    """
    blocks = [list(values)]
    for bit in bits:
        rows = 1 << bit
        parts = [block[start:start + rows + overlap]
                 for block in blocks for start in range(0, len(block) - overlap, rows)]
        blocks = []
        for number, part in enumerate(parts):
            chosen = Signal(len(Cat(part)), name=f"{name}_{rows}_{number}")
            m.d.comb += chosen.eq(Mux(mask[bit], Cat(parts[number ^ 1]), Cat(part)))
            blocks.append([chosen.word_select(place, len(part[0])) for place in range(len(part))])
    return blocks
