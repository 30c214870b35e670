"""Row control: when a vector may end, and what the stages of a PE row do in each cycle after a step was accepted.

From acceptance on nothing stalls; a vector whose sum could not be drained or whose tile has no free accumulator bank is
not accepted in the first place. With lanes_per_scale = 2, a step that ends a vector, accepted in cycle 0:

    cycle   0       1         2         3             4           5           6          7          8          9
            accept  operands  products  sum, to hold  lane 0      multiples   product    lane 0 <<  lane 0 +
                                        codes read    codes read  lane 1      multiples  product    lane 1 <<  lane 1 +

Vectors may therefore end every lanes_per_scale cycles. The dense array has one control for all rows, a sparse array
one for each.
"""

from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .config import Config
from .pe_row import control_layout, shift_bits

__all__ = ["OPERAND_CYCLES", "RowControl", "step_layout"]

OPERAND_CYCLES = 2  # from acceptance to the cycle in which the products are formed
SCALE_CYCLES = 3    # from taking a lane to the cycle in which its scaled value is made


def step_layout(config: Config) -> data.StructLayout:
    """One step of a row: the products of one cycle.

    Members
    -------
    last, tile_last, ktile_last : 1 bit
        The step ends a vector; that one ends the tile; that one the k-tile.
    half, group : 1 bit, group_bits
        Scale words of the vector.
    exponent : 2 bits
        Shift of the pass, in nibbles.
    """
    return data.StructLayout(
        {"last": 1, "tile_last": 1, "ktile_last": 1, "half": 1, "group": config.group_bits, "exponent": 2})


class RowControl(wiring.Component):
    """Control of PE rows.

    Parameters
    ----------
    config : Config
    sparse : bool
        Of a sparse array: there are several passes.

    Members
    -------
    step : In(step_layout)
    accept : In(1)
        The step is made. One that ends a vector waits while `wait_drain` or `wait_bank`.
    wait_drain : Out(1)
        A vector is being drained: no other may end.
    wait_bank : Out(1)
        Both accumulator banks wait to be read: no first vector of a tile may end.
    scale_en, scale_half, scale_addr : Out
    codes : In(scale_units bytes)
        See `hw.weights.ScaleMemory`.
    control : Out(control_layout)
    complete : Out(1)
        A tile waits to be read.
    release : In(1)
        It has been read.
    lane : In(bits of cols)
        Accumulator to read of the oldest complete tile.
    ktile_done : Out(1)
        The last vector of a k-tile has been drained: its weights and codes are read.
    idle : Out(1)
        Nothing is in the pipeline; complete tiles may still wait.
    """

    def __init__(self, config: Config, *, sparse: bool = False) -> None:
        self.config = config
        self.sparse = sparse
        super().__init__({
            "step": In(step_layout(config)),
            "accept": In(1),
            "wait_drain": Out(1),
            "wait_bank": Out(1),
            "scale_en": Out(1),
            "scale_half": Out(1),
            "scale_addr": Out(config.scale_bits),
            "codes": In(data.ArrayLayout(8, config.scale_units)),
            "control": Out(control_layout(config, sparse=sparse)),
            "complete": Out(1),
            "release": In(1),
            "lane": In(range(config.cols)),
            "ktile_done": Out(1),
            "idle": Out(1),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config, step, control = self.config, self.step, self.control
        drain_cycles = config.lanes_per_scale

        # Accept.
        gap = Signal(range(drain_cycles + 1))   # cycles until a vector may end again
        fresh_tile = Signal(init=1)             # no vector of the tile has ended
        held = Signal(range(3))                 # accumulator banks in use
        bank = Signal()
        ends = self.accept & step.last
        m.d.comb += [self.wait_drain.eq(gap != 0), self.wait_bank.eq(fresh_tile & (held == 2))]
        with m.If(ends):
            m.d.sync += [gap.eq(drain_cycles - 1), fresh_tile.eq(step.tile_last), bank.eq(bank ^ step.tile_last)]
        with m.Elif(gap != 0):
            m.d.sync += gap.eq(gap - 1)
        m.d.sync += held.eq(held + (ends & fresh_tile) - self.release)

        # The stages up to the sum.
        layout = data.StructLayout({
            "valid": 1, "tile_first": 1, "bank": 1, "step": step_layout(config),
        })
        stages = [Signal(layout, name=f"stage{cycle}") for cycle in range(OPERAND_CYCLES + 2)]
        products, sums = stages[OPERAND_CYCLES], stages[OPERAND_CYCLES + 1]
        m.d.comb += [
            stages[0].valid.eq(self.accept),
            stages[0].tile_first.eq(fresh_tile),
            stages[0].bank.eq(bank),
            stages[0].step.eq(step),
        ]
        m.d.sync += [later.eq(stage) for stage, later in pairwise(stages)]

        # Drain.
        drain = Signal(layout)
        lane = Signal(range(drain_cycles))
        last_lane = lane == drain_cycles - 1
        hold = sums.valid & sums.step.last
        with m.If(hold):
            m.d.sync += [drain.eq(sums), lane.eq(0)]
        with m.Elif(drain.valid):
            m.d.sync += [lane.eq(lane + 1), drain.valid.eq(~last_lane)]
        m.d.comb += [
            self.scale_en.eq(hold | drain.valid),
            self.scale_half.eq(Mux(hold, sums.step.half, drain.step.half)),
            self.scale_addr.eq(Mux(hold, sums.step.group << (config.scale_bits - config.group_bits),
                                   Cat((lane + 1)[:config.scale_bits - config.group_bits], drain.step.group))),
            self.ktile_done.eq(drain.valid & last_lane & drain.step.ktile_last),
        ]
        # Value m for exponent field 0, (8 + m) << (e - 1) otherwise; then the pass's exponent.
        for unit in range(config.scale_units):
            code = self.codes[unit][:config.code_bits]
            mantissa, exponent = code[:config.scale_man_bits], code[config.scale_man_bits:]
            shift = [Signal(shift_bits(config, sparse=self.sparse), name=f"shift{unit}_{cycle}") for cycle in range(3)]
            m.d.sync += [
                control.mantissa[unit].eq(Cat(mantissa, exponent.any())),
                shift[0].eq(Mux(exponent.any(), exponent - 1, 0) + (drain.step.exponent << 2 if self.sparse else 0)),
            ]
            m.d.sync += [later.eq(value) for value, later in pairwise(shift)]
            m.d.comb += control.shift_by[unit].eq(shift[-1])

        # A lane is scaled SCALE_CYCLES after it was taken, and added to its accumulator in the cycle after that.
        tail = [[drain.valid, lane, drain.bank, drain.tile_first, drain.step.tile_last & last_lane]]
        for _ in range(SCALE_CYCLES + 1):
            later = [Signal.like(value) for value in tail[-1]]
            m.d.sync += [new.eq(old) for new, old in zip(later, tail[-1], strict=True)]
            tail.append(later)
        scaled, _, _, tile_first, _ = tail[SCALE_CYCLES]
        write, write_lane, write_bank, _, completes = tail[-1]

        complete = Signal(range(3))     # tiles that wait to be read
        read_bank = Signal()
        m.d.sync += [
            complete.eq(complete + (write & completes) - self.release),
            read_bank.eq(read_bank ^ self.release),
        ]
        m.d.comb += [
            control.multiply.eq(products.valid),
            control.add.eq(sums.valid),
            control.hold.eq(hold),
            control.scale.eq(Cat(stage[0] for stage in tail[:SCALE_CYCLES + 1]).any()),
            control.drain_lane.eq(lane),
            control.write.eq(write),
            control.write_lane.eq(write_lane),
            control.write_bank.eq(write_bank),
            control.overwrite.eq(scaled & tile_first),
            control.read_bank.eq(read_bank),
            control.read_lane.eq(self.lane),
            self.complete.eq(complete != 0),
            self.idle.eq(~Cat(*(stage.valid for stage in stages), *(stage[0] for stage in tail)).any()),
        ]
        return m
