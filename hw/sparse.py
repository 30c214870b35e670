"""Sparse array: rows that take one nonzero nibble per cycle and wait for nobody.

A window is broadcast to all rows; a row keeps it only if something in it is not zero. What a row keeps goes through a
register, `held`, into a FIFO:

    windows ─> aligned ─┬─> held 0 ─> FIFO 0 ─> row 0: one nonzero per cycle ─> PE row 0
                        ├─> held 1 ─> FIFO 1 ─> row 1
                        ...

The register waits for the next kept window, so that the end of a vector or of a tile can still be noted on it when the
windows that follow are all zero: ends cost no cycle. Only a row in which a whole tile is zero takes one cycle for it, a
product with zero that sets its accumulators to 0.

Each row has its own copy of the weights and codes, so it reads them at its own pace. The broadcast stops while the FIFO
of any row is full; `fifo_depth` windows of lead even out the rows' different numbers of nonzeros.

They could not do so by themselves: on narrow maps a row sees the same image column in every tile, and border columns
have fewer nonzeros, so some rows would always wait for others. Therefore pixels are dealt to rows anew in each tile:

    tile mod 4      0    1        2        3
    row r's pixel   r    r ^ 2    r ^ 4    r ^ 6        8, 16, 24, ... rows
                    r    r ^ 1    r ^ 3    r ^ 2        4, 12, 20, ... rows; others keep row r = pixel r
"""

from collections.abc import Sequence

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from .config import LINE_TAPS, TAPS, Config
from .dense import array_signature
from .pe_row import PERow
from .row_control import RowControl
from .weights import ScaleMemory, TapWeights, WeightHalves, commits, weight_load_signature

__all__ = ["SparseArray", "SparseRow", "row_window_layout", "skews"]


def skews(rows: int) -> tuple[int, int, int, int]:
    """Exclusive-or masks between row and pixel, of four tiles in turn."""
    if rows % 8 == 0:
        return 0, 2, 4, 6
    if rows % 4 == 0:
        return 0, 1, 3, 2
    return 0, 0, 0, 0


def row_window_layout(config: Config) -> data.StructLayout:
    """A row's share of a window.

    Members
    -------
    nibbles : 9 nibbles
        Those of unused taps and beyond the image are 0.
    a_signed, w_signed, exponent, last, tile_last, ktile_last, half, group :
        As `hw.interfaces.request_layout`.
    weight : bits of 2 * tap_words
        Address of tap 0's weight word.
    """
    return data.StructLayout({
        "nibbles": data.ArrayLayout(4, TAPS),
        "a_signed": 1,
        "w_signed": 1,
        "exponent": 2,
        "last": 1,
        "tile_last": 1,
        "ktile_last": 1,
        "half": 1,
        "group": config.group_bits,
        "weight": range(2 * config.tap_words),
    })


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
        layout = row_window_layout(config)
        m.submodules.queue = queue = fifo.SyncFIFO(width=layout.size, depth=config.fifo_depth)
        m.submodules.weights = weights = TapWeights(config)
        m.submodules.scales = scales = ScaleMemory(config)
        m.submodules.control = control = RowControl(config, sparse=True)
        m.submodules.pe_row = pe_row = PERow(config, sparse=True)

        # Hold back the last window kept, until it is known what it ends.
        held = Signal(layout, reset_less=True)
        held_valid = Signal()
        open_tile = Signal()    # the held window belongs to the tile that is being broadcast
        window = self.window
        nonzero = window.nibbles.as_value().any()
        takes = self.en & (nonzero | window.tile_last & ~open_tile)
        push = held_valid & queue.w_rdy & (takes | held.tile_last)
        m.d.comb += [
            self.ready.eq(queue.w_rdy),
            queue.w_en.eq(push),
            queue.w_data.eq(held),
        ]
        with m.If(takes):
            m.d.sync += [held.eq(window), held_valid.eq(1)]
            with m.If(~nonzero):    # the whole tile is zero
                m.d.sync += held.last.eq(1)
        with m.Elif(push):
            m.d.sync += held_valid.eq(0)
        with m.If(self.en):
            m.d.sync += open_tile.eq(~window.tile_last & (open_tile | nonzero))
            with m.If(~takes):
                m.d.sync += [
                    held.last.eq(held.last | window.last & open_tile),
                    held.tile_last.eq(held.tile_last | window.tile_last & open_tile),
                    held.ktile_last.eq(held.ktile_last | window.ktile_last & open_tile),
                ]

        # One nonzero per cycle. A window without any makes one step, with a zero.
        head = Signal(layout)
        m.d.comb += head.eq(queue.r_data)
        taken = Signal(TAPS)
        left_over = Cat(nibble.any() for nibble in head.nibbles) & ~taken
        tap = Signal(range(TAPS))
        for number in reversed(range(TAPS)):
            with m.If(left_over[number]):
                m.d.comb += tap.eq(number)
        window_end = (left_over & (left_over - 1)) == 0
        last = window_end & head.last
        blocked = last & (control.wait_drain | control.wait_bank)
        m.d.comb += [
            self.busy.eq(queue.r_rdy & ~blocked),
            self.wait_drain.eq(queue.r_rdy & last & control.wait_drain),
            self.wait_bank.eq(queue.r_rdy & last & control.wait_bank & ~control.wait_drain),
            queue.r_en.eq(self.busy & window_end),
            control.accept.eq(self.busy),
            control.step.last.eq(last),
        ]
        m.d.comb += [control.step[name].eq(head[name])
                     for name in ("tile_last", "ktile_last", "half", "group", "exponent")]
        with m.If(self.busy):
            m.d.sync += taken.eq(Mux(window_end, 0, taken | (left_over & (~left_over + 1))))

        # Operands: the weight word arrives two cycles after it is asked for.
        chosen = Signal(data.StructLayout({"nibble": 4, "a_signed": 1, "w_signed": 1}), reset_less=True)
        w_signed = Signal(reset_less=True)
        m.d.sync += [
            chosen.nibble.eq(head.nibbles.as_value().word_select(tap, 4)),
            chosen.a_signed.eq(head.a_signed),
            chosen.w_signed.eq(head.w_signed),
            w_signed.eq(chosen.w_signed),
        ]
        m.d.comb += [
            weights.en.eq(self.busy),
            weights.addr.eq(head.weight + tap),
            scales.en.eq(control.scale_en),
            scales.half.eq(control.scale_half),
            scales.addr.eq(control.scale_addr),
            control.codes.eq(scales.codes),
            pe_row.a[0].eq(Cat(chosen.nibble, chosen.nibble[3] & chosen.a_signed)),
            pe_row.w.as_value().eq(weights.weights),
            pe_row.w_signed.eq(w_signed),
            pe_row.control.eq(control.control),
            self.complete.eq(control.complete),
            control.release.eq(self.release),
            control.lane.eq(self.lane),
            self.acc.eq(pe_row.acc),
            self.ktile_done.eq(control.ktile_done),
            self.idle.eq(control.idle & ~queue.r_rdy & ~held_valid),
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

        # Align the three lines of the window, and fetch the address of its weights.
        kept = (name for name in row_window_layout(config).members if name not in ("nibbles", "weight"))
        common = Signal(data.StructLayout({name: row_window_layout(config).members[name] for name in kept}),
                        reset_less=True)
        weight = Signal(range(2 * config.tap_words), reset_less=True)
        nibbles = Signal(data.ArrayLayout(data.ArrayLayout(4, rows + 2), LINE_TAPS), reset_less=True)
        mask = Signal.like(window.mask, reset_less=True)
        taps = Signal.like(window.taps, reset_less=True)
        valid = Signal()
        accept = Signal()   # the aligned window is broadcast
        m.d.comb += self.windows.ready.eq(~valid | accept)
        with m.If(self.windows.ready):
            m.d.sync += valid.eq(self.windows.valid)
            for line, start in enumerate((Const(0, 1), self.pitch, self.pitch << 1)):
                m.d.sync += nibbles[line].eq(window.nibbles.as_value() >> Cat(Const(0, 2), start))
            m.d.sync += [common[name].eq(window[name]) for name in common.shape().members]
            m.d.sync += [
                mask.eq(window.mask),
                taps.eq(window.taps),
                weight.eq((window.weight << 1) + window.weight + Mux(window.half, config.tap_words, 0)),
            ]

        # Tiles broadcast and tiles read, modulo 4.
        masks = skews(rows)
        broadcast, read, skew = Signal(2), Signal(2), Signal(2)
        m.d.sync += [
            broadcast.eq(broadcast + (accept & common.tile_last)),
            read.eq(read + self.tiles.release),
            skew.eq(read),      # of the accumulators asked for in the last cycle
        ]
        with m.If(self.start):
            m.d.sync += [broadcast.eq(0), read.eq(0)]

        def dealt(by_pixel: Sequence[Value], turn: Signal, row: int) -> Value:
            """What belongs to the row (or, the other way round, to the pixel)."""
            if not any(masks):
                return by_pixel[row]
            return Array(by_pixel[row ^ mask] for mask in masks)[turn]

        m.submodules.halves = halves = WeightHalves()
        windows = []    # by pixel
        for pixel in range(rows):
            inside = [mask.lines[line][pixel] for line in range(LINE_TAPS)]
            beside = (mask.left[pixel], 1, mask.right[pixel])
            windows.append(Cat(
                nibbles[line][pixel + tap] & (inside[line] & beside[tap] & taps[LINE_TAPS * line + tap]).replicate(4)
                for line in range(LINE_TAPS) for tap in range(LINE_TAPS)))
        accs = []       # by row
        ready, complete, busy, drain, bank, idle = [], [], [], [], [], [~valid]
        finished = []   # rows that are done with the k-tile
        release = Signal()
        for row in range(rows):
            m.submodules[f"row{row}"] = sparse_row = SparseRow(config)
            accs.append(sparse_row.acc)
            m.d.comb += [sparse_row.window[name].eq(common[name]) for name in common.shape().members]
            done = Signal(range(3), name=f"done{row}")
            m.d.sync += done.eq(done + sparse_row.ktile_done - release)
            finished.append(done != 0)
            m.d.comb += [
                sparse_row.window.nibbles.as_value().eq(dealt(windows, broadcast, row)),
                sparse_row.window.weight.eq(weight),
                sparse_row.en.eq(accept),
                sparse_row.load.beat.eq(self.load),
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
        m.d.comb += [self.tiles.acc[pixel].eq(dealt(accs, skew, pixel)) for pixel in range(rows)]
        m.d.comb += [
            accept.eq(valid & Cat(ready).all()),
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
