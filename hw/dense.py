"""Dense array: rows x cols lanes in lock step, a kernel line (or one tap) of one channel per cycle.

All rows share one weight word, every row has its own three neighbours, and one row control serves all.

    cycle   0 accept      1 line aligned        2 sign extended           3 partial products ...
                            weight word read      cleared where masked
"""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .align import aligned
from .config import LINE_TAPS, Config
from .interfaces import window_layout
from .pe_row import PERow
from .row_control import RowControl
from .weights import LineWeights, ScaleMemory, WeightHalves, commits, inverted, weight_load_signature

__all__ = ["DenseArray", "array_signature", "tiles_signature"]


def tiles_signature(config: Config) -> wiring.Signature:
    """Finished tiles of an array, from the array's side.

    Members
    -------
    ready : Out(1)
        A tile is complete in all rows.
    release : In(1)
        The tile is read; its bank is free.
    lane : In(bits of cols)
        Output channel to read of the oldest complete tile.
    acc : Out(rows x signed acc_bits)
        What was asked for in the last cycle.
    """
    return wiring.Signature({
        "ready": Out(1),
        "release": In(1),
        "lane": In(range(config.cols)),
        "acc": Out(data.ArrayLayout(signed(config.acc_bits), config.rows)),
    })


def array_signature(config: Config) -> wiring.Signature:
    """What both kinds of array look like from outside.

    Members
    -------
    windows : In(stream of window_layout)
    pitch : In(bits of window_width)
        Nibbles from one line of a window to the next, stable during the layer; see `hw.interfaces.window_layout`.
    load : In(load_layout), load_en : In(1)
        A beat, taken in this cycle; one of WEIGHT or SCALE only while `load_free`. Others are passed over.
    load_free : Out(1)
        The half of the weight memory that loads next is free.
    ktile_ready : Out(1)
        The weights of the next k-tile are loaded.
    ktile_take, ktile_skip : In(1)
        The array begins the k-tile; the k-tile is passed over.
    tiles : Out(tiles_signature)
    busy : Out(1)
        In this cycle the array makes a step (a sparse one: any of its rows).
    steps : Out(bits of rows)
        Rows that make a step in this cycle.
    wait_drain, wait_bank : Out(1)
        In this cycle none does, because a vector is being drained, or both accumulator banks wait to be read.
    idle : Out(1)
        Nothing is on its way; complete tiles may still wait.
    """
    load = weight_load_signature(config).members
    return wiring.Signature({
        "windows": In(stream.Signature(window_layout(config))),
        "pitch": In(range(config.window_width + 1)),
        "load": In(load["beat"].shape),
        "load_en": In(1),
        "load_free": Out(1),
        "ktile_ready": Out(1),
        "ktile_take": In(1),
        "ktile_skip": In(1),
        "tiles": Out(tiles_signature(config)),
        "busy": Out(1),
        "steps": Out(range(config.rows + 1)),
        "wait_drain": Out(1),
        "wait_bank": Out(1),
        "idle": Out(1),
    })


class DenseArray(wiring.Component):
    """Dense INT4 array: s4 weights, 4-bit activations, one pass. Members as `array_signature`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(array_signature(config))

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config, window = self.config, self.windows.payload
        rows, taps = config.rows, config.dense_taps

        m.submodules.halves = halves = WeightHalves()
        m.submodules.weights = weights = LineWeights(config)
        m.submodules.scales = scales = ScaleMemory(config)
        m.submodules.row_control = control = RowControl(config)
        load = inverted(m, self.load)
        for memory in (weights, scales):
            m.d.comb += [memory.load.beat.eq(load), memory.load.en.eq(self.load_en),
                         memory.load.half.eq(halves.half)]
        m.d.comb += [
            halves.commit.eq(self.load_en & commits(self.load)),
            halves.take.eq(self.ktile_take | self.ktile_skip),
            halves.release.eq(control.ktile_done | self.ktile_skip),
            self.load_free.eq(halves.free),
            self.ktile_ready.eq(halves.ready),
            scales.en.eq(control.scale_en),
            scales.half.eq(control.scale_half),
            scales.addr.eq(control.scale_addr),
            control.code_zeros.eq(scales.codes),
        ]

        # Cycle 0: the first line (or tap) of the window that is used and still to do.
        turns = LINE_TAPS * LINE_TAPS // taps
        done = Signal(turns)
        left, first = Signal(turns), Signal(turns)
        m.d.comb += left.eq(Cat(window.taps.word_select(turn, taps).any() & ~done[turn] for turn in range(turns)))
        m.d.comb += first.eq(Cat(left[turn] & ~left[:turn].any() for turn in range(turns)))
        line = Signal(LINE_TAPS)
        m.d.comb += line.eq(Cat(first[number * turns // LINE_TAPS:][:turns // LINE_TAPS].any()
                                for number in range(LINE_TAPS)))
        window_end = (left & ~first) == 0
        last = window_end & window.last
        blocked = last & (control.wait_drain | control.wait_bank)
        m.d.comb += [
            self.busy.eq(self.windows.valid & ~blocked),
            self.steps.eq(Mux(self.busy, rows, 0)),
            self.wait_drain.eq(self.windows.valid & last & control.wait_drain),
            self.wait_bank.eq(self.windows.valid & last & control.wait_bank & ~control.wait_drain),
            self.windows.ready.eq(self.busy & window_end),
            control.accept.eq(self.busy),
            control.step.last.eq(last),
            control.step.tile_last.eq(window.tile_last),
            control.step.ktile_last.eq(window.ktile_last),
            control.step.half.eq(window.half),
            control.step.group.eq(window.group),
        ]
        with m.If(self.busy):
            m.d.sync += done.eq(Mux(window_end, 0, done | first))

        # Cycle 1: the weights are read, and the line is aligned.
        now = Signal(window.shape(), reset_less=True)
        line_now = Signal(LINE_TAPS, reset_less=True)
        select = Signal(LINE_TAPS, reset_less=True)     # its taps
        step = Signal()
        place = Signal(range(LINE_TAPS))
        m.d.comb += place.eq(line_now[1:])
        used = window.taps & (first if taps == 1 else Const(-1, LINE_TAPS * LINE_TAPS))
        m.d.sync += [
            now.eq(window),
            line_now.eq(line),
            step.eq(self.busy),
            select.eq(reduce(or_, (used.word_select(number, LINE_TAPS) & line[number].replicate(LINE_TAPS)
                                   for number in range(LINE_TAPS)))),
        ]
        m.d.comb += [weights.en.eq(step), weights.half.eq(now.half), weights.addr.eq(now.weight + place)]

        # Cycle 2: the line's nibbles, and where they are not to be multiplied.
        start = Signal(range(2 * config.window_width + 1))
        m.d.comb += start.eq(Mux(line_now[2], self.pitch << 1, Mux(line_now[1], self.pitch, 0)))
        nibbles = Signal(data.ArrayLayout(4, rows + 2), reset_less=True)
        outside = Signal(data.ArrayLayout(rows, LINE_TAPS), reset_less=True)
        a_signed = Signal(reset_less=True)
        row_mask = now.mask.lines[place]
        m.d.sync += [
            nibbles.eq(aligned(m, now.nibbles.as_value(), start, 2 * config.window_width, rows + 2)),
            weights.select.eq(select),
            a_signed.eq(now.a_signed),
        ]
        for tap, beside in enumerate((now.mask.left, Const(-1, rows), now.mask.right)):
            m.d.sync += outside[tap].eq(~(row_mask & beside & (step & select[tap]).replicate(rows)))
        for row in range(rows):
            m.submodules[f"row{row}"] = pe_row = PERow(config)
            values: list[Value] = [nibbles[row + tap] for tap in range(LINE_TAPS)]
            clears = Cat(outside[tap][row] for tap in range(LINE_TAPS))
            if taps == 1:
                values = [Mux(weights.select[0], values[0], Mux(weights.select[1], values[1], values[2]))]
                clears = clears.all()
            m.d.comb += [pe_row.a[tap].eq(Cat(value, value[3] & a_signed)) for tap, value in enumerate(values)]
            m.d.comb += pe_row.clear_a.eq(clears)
            m.d.comb += [
                pe_row.w_zeros.as_value().eq(weights.weights.as_value()),
                pe_row.control.eq(control.control),
                self.tiles.acc[row].eq(pe_row.acc),
            ]
        m.d.comb += [
            self.tiles.ready.eq(control.complete),
            control.release.eq(self.tiles.release),
            control.lane.eq(self.tiles.lane),
            self.idle.eq(control.idle),
        ]
        return m
