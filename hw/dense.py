"""Dense array: rows x cols lanes in lock step, a kernel line (or one tap) of one channel per cycle.

All rows share one weight word, every row has its own three neighbours, and one set of control serves all. From
acceptance on nothing stalls; a vector whose sum could not be drained or whose tile has no free accumulator bank is not
accepted in the first place. With lanes_per_scale = 2, a line that ends a vector accepted in cycle 0:

    cycle   0         1          2                3         4         5         6
            operands  products   sum, to hold     lane 0 x  lane 0 << lane 0 +
                      codes read codes to drain             lane 1 x  lane 1 << lane 1 +

Vectors may therefore end every lanes_per_scale cycles.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import LINE_TAPS, Config
from .interfaces import window_layout
from .pe_row import PERow, control_layout

__all__ = ["DenseArray", "accumulator_signature"]


def accumulator_signature(config: Config) -> wiring.Signature:
    """Finished tiles of an array, from the array's side.

    Members
    -------
    ready : Out(1)
        A tile is complete.
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


class DenseArray(wiring.Component):
    """Dense INT4 array.

    Members
    -------
    windows : In(stream of window_layout)
    tiles : Out(accumulator_signature)
    scale_en, scale_half, scale_addr : Out
    codes : In(cols bytes)
        See `hw.weights.WeightMemory`.
    ktile_done : Out(1)
        The last vector of a k-tile has been accepted and its scale word read.
    busy, wait_drain, wait_tiles : Out(1)
        In this cycle the array multiplies; waits for its drain chain; waits for an accumulator bank.
    idle : Out(1)
        Nothing is in the pipeline; complete tiles may still wait.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "windows": In(stream.Signature(window_layout(config))),
            "tiles": Out(accumulator_signature(config)),
            "scale_en": Out(1),
            "scale_half": Out(1),
            "scale_addr": Out(config.group_bits),
            "codes": In(data.ArrayLayout(8, config.cols)),
            "ktile_done": Out(1),
            "busy": Out(1),
            "wait_drain": Out(1),
            "wait_tiles": Out(1),
            "idle": Out(1),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config, window = self.config, self.windows.payload
        rows, cols, taps, drain_cycles = config.rows, config.cols, config.dense_taps, config.lanes_per_scale

        # Accept: a line in one step, or tap after tap.
        select = Signal(LINE_TAPS)      # tap at work, dense_taps = 1
        line_end = Signal(init=1)
        if taps == 1:
            taps_done = Signal(LINE_TAPS)
            left_over = window.taps & ~taps_done
            m.d.comb += [select.eq(left_over & -left_over), line_end.eq((left_over & (left_over - 1)) == 0)]
            with m.If(self.busy):
                m.d.sync += taps_done.eq(Mux(line_end, 0, taps_done | select))

        gap = Signal(range(drain_cycles + 1))   # cycles until a vector may end again
        fresh_tile = Signal(init=1)             # no vector of the tile has ended yet
        held = Signal(range(3))                 # accumulator banks in use
        vector_end = window.last & line_end
        blocked_drain = vector_end & (gap != 0)
        blocked_tiles = vector_end & fresh_tile & (held == 2)
        m.d.comb += [
            self.busy.eq(self.windows.valid & ~blocked_drain & ~blocked_tiles),
            self.wait_drain.eq(self.windows.valid & blocked_drain),
            self.wait_tiles.eq(self.windows.valid & blocked_tiles & ~blocked_drain),
            self.windows.ready.eq(self.busy & line_end),
        ]
        ends_vector = Signal()
        ends_tile = Signal()
        m.d.comb += [ends_vector.eq(self.busy & vector_end), ends_tile.eq(ends_vector & window.tile_last)]
        with m.If(gap != 0):
            m.d.sync += gap.eq(gap - 1)
        with m.If(ends_vector):
            m.d.sync += [gap.eq(drain_cycles - 1), fresh_tile.eq(window.tile_last)]
        m.d.sync += held.eq(held + (ends_vector & fresh_tile) - self.tiles.release)

        # Operands: mask what lies outside the image, extend the sign.
        a = Signal(data.ArrayLayout(data.ArrayLayout(signed(5), taps), rows), reset_less=True)
        w = Signal(data.ArrayLayout(data.ArrayLayout(signed(4), cols), taps), reset_less=True)
        with m.If(self.busy):
            for row in range(rows):
                masked = []
                for tap in range(LINE_TAPS):
                    nibble = window.nibbles[row + tap] & window.mask[tap][row].replicate(4)
                    masked.append(Cat(nibble, nibble[3] & window.a_signed).as_signed())
                if taps == 1:
                    m.d.sync += a[row][0].eq(Mux(select[0], masked[0], Mux(select[1], masked[1], masked[2])))
                else:
                    m.d.sync += [a[row][tap].eq(masked[tap]) for tap in range(LINE_TAPS)]
            if taps == 1:
                words = [window.weights[tap].as_value() for tap in range(LINE_TAPS)]
                m.d.sync += w[0].as_value().eq(Mux(select[0], words[0], Mux(select[1], words[1], words[2])))
            else:
                m.d.sync += w.eq(window.weights)

        # Control of the three stages that follow.
        stage_layout = data.StructLayout(
            {"valid": 1, "first": 1, "last": 1, "tile_first": 1, "tile_last": 1, "bank": 1})
        operands = Signal(stage_layout)
        products = Signal(stage_layout)
        fresh_vector = Signal(init=1)
        bank = Signal()
        with m.If(self.busy):
            m.d.sync += fresh_vector.eq(vector_end)
        m.d.sync += [
            bank.eq(bank ^ ends_tile),
            operands.valid.eq(self.busy),
            operands.first.eq(fresh_vector),
            operands.last.eq(vector_end),
            operands.tile_first.eq(fresh_tile),
            operands.tile_last.eq(window.tile_last),
            operands.bank.eq(bank),
            self.scale_half.eq(window.half),
            self.scale_addr.eq(window.group),
            self.ktile_done.eq(ends_vector & window.ktile_last),
            products.eq(operands),
        ]
        m.d.comb += self.scale_en.eq(operands.valid & operands.last)

        # Drain: the codes shift along with the held sums.
        control = Signal(control_layout(config))
        drain = Signal(stage_layout)
        lane = Signal(range(drain_cycles))
        hold = products.valid & products.last
        last_lane = lane == drain_cycles - 1
        with m.If(hold):
            m.d.sync += [drain.eq(products), lane.eq(0)]
        with m.Elif(drain.valid):
            m.d.sync += [lane.eq(lane + 1), drain.valid.eq(~last_lane)]
        for unit in range(config.scale_units):
            chain = []
            for number in range(unit * drain_cycles, min((unit + 1) * drain_cycles, cols)):
                chain.append((Signal(config.code_bits, name=f"code{number}", reset_less=True), self.codes[number]))
            for place, (code, loaded) in enumerate(chain):
                with m.If(hold):
                    m.d.sync += code.eq(loaded)
                if place + 1 < len(chain):
                    with m.Elif(drain.valid):
                        m.d.sync += code.eq(chain[place + 1][0])
            # Value m for exponent field 0, (8 + m) << (e - 1) otherwise.
            mantissa, exponent = chain[0][0][:config.scale_man_bits], chain[0][0][config.scale_man_bits:]
            m.d.comb += control.mantissa[unit].eq(Cat(mantissa, exponent.any()))
            m.d.sync += control.shift_by[unit].eq(Mux(exponent.any(), exponent - 1, 0))

        # The scaled lane reaches its accumulator two cycles after it left the chain.
        stages = [[drain.valid, lane, drain.bank, drain.tile_first, drain.tile_last & last_lane]]
        for _ in range(2):
            later = [Signal.like(value) for value in stages[-1]]
            m.d.sync += [new.eq(old) for new, old in zip(later, stages[-1], strict=True)]
            stages.append(later)
        write, write_lane, write_bank, overwrite, completes = stages[-1]
        m.d.comb += [
            control.multiply.eq(operands.valid),
            control.add.eq(products.valid),
            control.first.eq(products.first),
            control.hold.eq(hold),
            control.shift.eq(drain.valid),
            control.write.eq(write),
            control.write_lane.eq(write_lane),
            control.write_bank.eq(write_bank),
            control.overwrite.eq(overwrite),
            control.read_lane.eq(self.tiles.lane),
        ]

        complete = Signal(range(3))     # banks that wait to be read
        read_bank = Signal()
        m.d.comb += [self.tiles.ready.eq(complete != 0), control.read_bank.eq(read_bank)]
        m.d.sync += [
            complete.eq(complete + (write & completes) - self.tiles.release),
            read_bank.eq(read_bank ^ self.tiles.release),
        ]
        m.d.comb += self.idle.eq(~Cat(operands.valid, products.valid, *(stage[0] for stage in stages)).any())

        for row in range(rows):
            m.submodules[f"row{row}"] = pe_row = PERow(config, taps)
            m.d.comb += [pe_row.a.eq(a[row]), pe_row.w.eq(w), pe_row.control.eq(control),
                         self.tiles.acc[row].eq(pe_row.acc)]
        return m
