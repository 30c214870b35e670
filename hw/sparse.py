"""Sparse array: rows that take one nonzero nibble per cycle and wait for nobody.

A window is broadcast to all rows; a row keeps it only if something in it is not zero, in a queue:

    windows ─> aligned ─> dealt ─┬─> queue 0 ─> row 0: one nonzero per cycle ─> PE row 0
                        ├─> queue 1 ─> row 1
                        ...

Each row has its own copy of the weights and codes, so it reads them at its own pace. The broadcast stops while the
queue of any row is full; `fifo_depth` windows of lead even out the rows' different numbers of nonzeros.

They could not do so by themselves: on narrow maps a row sees the same image column in every tile, and border columns
have fewer nonzeros, so some rows would always wait for others. Therefore pixels are dealt to rows anew in each tile:

    tile mod 4      0    1        2        3
    row r's pixel   r    r ^ 2    r ^ 4    r ^ 6        8, 16, 24, ... rows
                    r    r ^ 1    r ^ 3    r ^ 2        4, 12, 20, ... rows; others keep row r = pixel r
"""

from functools import reduce
from operator import or_

from amaranth.hdl import Array, Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .align import exchanged, kernel_line
from .config import LINE_TAPS, Config
from .dense import array_signature
from .pe_row import PERow
from .row_control import RowControl
from .row_queue import RowQueue, row_window_layout
from .weights import ScaleMemory, TapWeights, WeightHalves, commits, inverted, weight_load_signature

__all__ = ["SparseArray", "SparseRow", "skews"]


def skews(rows: int) -> tuple[int, int, int, int]:
    """Exclusive-or masks between row and pixel, of four tiles in turn."""
    if rows % 8 == 0:
        return 0, 2, 4, 6
    if rows % 4 == 0:
        return 0, 1, 3, 2
    return 0, 0, 0, 0


class SparseRow(wiring.Component):
    """One row of a sparse array.

    Members
    -------
    window : In(row_window_layout)
    en : In(1)
        The window is broadcast in this cycle; only while `ready` in all rows.
    ready : Out(1)
        The row has room.
    load : In(weight_load_signature)
        Of inverted data.
    complete, release, lane : tile read-out, see `hw.row_control.RowControl`
    acc : Out(signed acc_bits)
        The accumulator asked for in the last cycle.
    ktile_done : Out(1)
    busy, wait_drain, wait_bank : Out(1)
        In this cycle the row makes a step; waits for a vector's drain; for an accumulator bank.
    idle : Out(1)
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "window": In(row_window_layout(config)),
            "en": In(1),
            "ready": Out(1),
            "load": In(weight_load_signature(config)),
            "complete": Out(1),
            "release": In(1),
            "lane": In(range(config.cols)),
            "acc": Out(signed(config.acc_bits)),
            "ktile_done": Out(1),
            "busy": Out(1),
            "wait_drain": Out(1),
            "wait_bank": Out(1),
            "idle": Out(1),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.queue = queue = RowQueue(config)
        m.submodules.weights = weights = TapWeights(config)
        m.submodules.scales = scales = ScaleMemory(config)
        m.submodules.row_control = control = RowControl(config, sparse=True)
        m.submodules.pe_row = pe_row = PERow(config, sparse=True)
        m.d.comb += [queue.window.eq(self.window), queue.en.eq(self.en), self.ready.eq(queue.ready)]

        # One nonzero per cycle.
        plan, ends, step = queue.head.plan, queue.head.ends, control.step
        last = queue.window_end & ends.last
        blocked = last & (control.wait_drain | control.wait_bank)
        m.d.comb += [
            self.busy.eq(queue.valid & ~blocked),
            self.wait_drain.eq(queue.valid & last & control.wait_drain),
            self.wait_bank.eq(queue.valid & last & control.wait_bank & ~control.wait_drain),
            queue.step.eq(self.busy),
            control.accept.eq(self.busy),
            step.last.eq(last),
            step.tile_last.eq(ends.tile_last),
            step.ktile_last.eq(ends.ktile_last),
            step.half.eq(plan.half),
            step.group.eq(plan.group),
            step.exponent.eq(plan.exponent),
        ]
        # Its kernel line, and its place there.
        line, place = Signal(range(LINE_TAPS)), Signal(range(LINE_TAPS))
        m.d.comb += [
            line.eq(Cat(queue.tap[number * LINE_TAPS:][:LINE_TAPS].any() for number in range(1, LINE_TAPS))),
            place.eq(Cat(queue.tap[number::LINE_TAPS].any() for number in range(1, LINE_TAPS))),
        ]

        # Operands: the weight word is asked for a cycle later and arrives two cycles after that, one cycle after the
        # activation. Of each line one nibble is not masked.
        chosen = Signal(data.ArrayLayout(4, LINE_TAPS), reset_less=True)
        nibble = Signal(4, reset_less=True)
        signs = [Signal(2, name=f"signs{cycle}", reset_less=True) for cycle in range(2)]
        steps = [Signal(name=f"step{cycle}") for cycle in range(2)]
        half, tap, address = Signal(reset_less=True), Signal.like(place, reset_less=True), Signal.like(weights.addr)
        m.d.sync += [chosen[number].eq(reduce(or_, (queue.head.nibbles[one] & queue.tap[one].replicate(4)
                                                    for one in range(number * LINE_TAPS, (number + 1) * LINE_TAPS))))
                     for number in range(LINE_TAPS)]
        m.d.sync += [
            nibble.eq(reduce(or_, chosen)),
            signs[0].eq(Cat(plan.a_signed, plan.w_signed)),
            signs[1].eq(signs[0]),
            steps[0].eq(self.busy),
            steps[1].eq(steps[0]),
            half.eq(plan.half),
            tap.eq(place),
            address.eq(plan.weight + line),
        ]
        m.d.comb += [
            weights.en.eq(steps[0]),
            weights.half.eq(half),
            weights.tap.eq(tap),
            weights.addr.eq(address),
            scales.en.eq(control.scale_en),
            scales.half.eq(control.scale_half),
            scales.addr.eq(control.scale_addr),
            control.code_zeros.eq(scales.codes),
            pe_row.a[0].eq(Cat(nibble, nibble[3] & signs[1][0])),
            pe_row.clear_a.eq(~steps[1]),
            pe_row.w_zeros.as_value().eq(weights.weights),
            pe_row.w_signed.eq(signs[1][1]),
            pe_row.control.eq(control.control),
            self.complete.eq(control.complete),
            control.release.eq(self.release),
            control.lane.eq(self.lane),
            self.acc.eq(pe_row.acc),
            self.ktile_done.eq(control.ktile_done),
            self.idle.eq(control.idle & queue.idle),
        ]
        for memory in (weights, scales):
            m.d.comb += [memory.load.beat.eq(self.load.beat), memory.load.en.eq(self.load.en),
                         memory.load.half.eq(self.load.half)]
        return m


class SparseArray(wiring.Component):
    """Sparse INT4/INT8 array: any nibbles, any pass.

    Members
    -------
    start : In(1)
        A layer begins, while no tile is at work or waits: it counts its tiles from 0, so that its time does not depend
        on the layers before.
    others
        As `hw.dense.array_signature`.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(wiring.Signature({**array_signature(config).members, "start": In(1)}))

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config, window = self.config, self.windows.payload
        rows = config.rows

        # Align the three lines of the window.
        layout = row_window_layout(config).members
        plan = Signal(layout["plan"], reset_less=True)      # its taps: those used by the channel
        ends = Signal(layout["ends"], reset_less=True)
        lines = Signal(data.ArrayLayout(data.ArrayLayout(4, rows + 2), LINE_TAPS), reset_less=True)
        mask = Signal.like(window.mask, reset_less=True)
        valid, dealt = Signal(), Signal()   # a window is aligned; one is dealt
        move, accept = Signal(), Signal()   # the aligned window is dealt; the dealt one is broadcast
        m.d.comb += [self.windows.ready.eq(~valid | move), move.eq(valid & (~dealt | accept))]
        with m.If(self.windows.ready):
            m.d.sync += valid.eq(self.windows.valid)
            m.d.sync += [lines[line].eq(kernel_line(m, window.nibbles.as_value(), self.pitch, config.window_width, line,
                                                    rows + 2)) for line in range(LINE_TAPS)]
            m.d.sync += [plan[name].eq(window[name]) for name in layout["plan"].members]
            m.d.sync += [ends[name].eq(window[name]) for name in layout["ends"].members]
            m.d.sync += mask.eq(window.mask)

        # Tiles dealt and tiles read, modulo 4, and their masks.
        masks = Array(skews(rows))
        bits = [bit for bit in reversed(range(3)) if any(number >> bit & 1 for number in masks)]
        given, read = Signal(2), Signal(2)
        deal, undeal = Signal(3), Signal(3)
        m.d.comb += deal.eq(masks[given])
        m.d.sync += [
            given.eq(given + (move & ends.tile_last)),
            read.eq(read + self.tiles.release),
            undeal.eq(masks[read]),     # of the accumulators asked for in the last cycle
        ]
        with m.If(self.start):
            m.d.sync += [given.eq(0), read.eq(0)]

        # Deal pixels to rows. Rows that are dealt together share nibbles, three of each line per row.
        present = []    # by pixel
        for pixel in range(rows):
            beside = (mask.left[pixel], 1, mask.right[pixel])
            present.append(Cat(
                lines[line][pixel + tap].any() & mask.lines[line][pixel] & beside[tap]
                & plan.taps[LINE_TAPS * line + tap]
                for line in range(LINE_TAPS) for tap in range(LINE_TAPS)))
        columns = [Cat(line[column] for line in lines) for column in range(rows + 2)]
        row_taps = [row for block in exchanged(m, present, deal, bits, name="taps") for row in block]
        row_columns = [block[row:][:LINE_TAPS] for block in exchanged(m, columns, deal, bits, 2, "columns")
                       for row in range(len(block) - 2)]
        shares = [Signal(row_window_layout(config), name=f"share{row}", reset_less=True) for row in range(rows)]
        with m.If(~dealt | accept):
            m.d.sync += dealt.eq(valid)
            for share, taps, columns in zip(shares, row_taps, row_columns, strict=True):
                m.d.sync += [
                    Cat(share.nibbles).eq(Cat(column.word_select(line, 4) for line in range(LINE_TAPS)
                                              for column in columns)),
                    share.plan.eq(plan),
                    share.plan.taps.eq(taps),
                    share.ends.eq(ends),
                ]

        m.submodules.halves = halves = WeightHalves()
        load = inverted(m, self.load)
        accs = []       # by row
        ready, complete, busy, drain, bank, idle = [], [], [], [], [], [~valid, ~dealt]
        finished = []   # rows that are done with the k-tile
        release = Signal()
        for row in range(rows):
            m.submodules[f"row{row}"] = sparse_row = SparseRow(config)
            accs.append(sparse_row.acc)
            done = Signal(range(3), name=f"done{row}")
            m.d.sync += done.eq(done + sparse_row.ktile_done - release)
            finished.append(done != 0)
            m.d.comb += [
                sparse_row.window.eq(shares[row]),
                sparse_row.en.eq(accept),
                sparse_row.load.beat.eq(load),
                sparse_row.load.en.eq(self.load_en),
                sparse_row.load.half.eq(halves.half),
                sparse_row.release.eq(self.tiles.release),
                sparse_row.lane.eq(self.tiles.lane),
            ]
            ready.append(sparse_row.ready)
            complete.append(sparse_row.complete)
            busy.append(sparse_row.busy)
            drain.append(sparse_row.wait_drain)
            bank.append(sparse_row.wait_bank)
            idle.append(sparse_row.idle)
        by_pixel = [acc for block in exchanged(m, accs, undeal, bits, name="accs") for acc in block]
        m.d.comb += [self.tiles.acc[pixel].eq(by_pixel[pixel]) for pixel in range(rows)]
        m.d.comb += [
            accept.eq(dealt & Cat(ready).all()),
            release.eq(Cat(finished).all()),
            halves.commit.eq(self.load_en & commits(self.load)),
            halves.take.eq(self.ktile_take | self.ktile_skip),
            halves.release.eq(release | self.ktile_skip),
            self.load_free.eq(halves.free),
            self.ktile_ready.eq(halves.ready),
            self.tiles.ready.eq(Cat(complete).all()),
            self.busy.eq(Cat(busy).any()),
            self.steps.eq(sum(busy)),
            self.wait_drain.eq(~self.busy & Cat(drain).any()),
            self.wait_bank.eq(~self.busy & ~self.wait_drain & Cat(bank).any()),
            self.idle.eq(Cat(idle).all()),
        ]
        return m
