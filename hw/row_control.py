"""Row control: when a vector may end, and what the stages of a PE row do in each cycle after a step was accepted.

From acceptance on nothing stalls; a vector whose sum could not be drained or whose tile has no free accumulator bank is
not accepted in the first place. With lanes_per_scale = 2, a step that ends a vector, accepted in cycle 0; what lane 1
does is what lane 0 did a cycle before:

    cycle   0       1       2         3         4      5           6       7         8      9       10        11
            accept          operands  partial   pairs  dot         lane 0  lane 0    lane 0 lane 0  lane 0    lane 1
                                      products         lane 0's    ends    mantissa  shift, shift,  is added  is added
                                                       codes read                    fine   coarse

Vectors may therefore end every lanes_per_scale cycles. The dense array has one control for all rows, a sparse array
one for each.
"""

from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .config import Config
from .pe_row import FINE_BITS, control_layout

__all__ = ["RowControl", "step_layout"]

CODE_CYCLES = 5     # from acceptance to the cycle in which lane 0's codes are read; in the next one its vector ends
WRITE_CYCLES = 5    # from reading a lane's codes to the cycle in which it is added to its accumulator


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
    code_zeros : In(scale_units bytes)
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
            "code_zeros": In(data.ArrayLayout(8, config.scale_units)),
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
        gap = Signal(drain_cycles - 1)      # ones: cycles until a vector may end again
        fresh_tile = Signal(init=1)         # no vector of the tile has ended
        held = Signal(range(3))             # accumulator banks in use
        held_after = Signal.like(held)
        full = Signal()
        bank = Signal()
        ends = self.accept & step.last
        m.d.comb += [
            self.wait_drain.eq(gap[0]),
            self.wait_bank.eq(fresh_tile & full),
            held_after.eq(held + (ends & fresh_tile) - self.release),
        ]
        m.d.sync += [gap.eq(gap >> 1), held.eq(held_after), full.eq(held_after == 2)]
        with m.If(ends):
            m.d.sync += [gap.eq(-1), fresh_tile.eq(step.tile_last), bank.eq(bank ^ step.tile_last)]

        # The stages up to the sum. What is on its way at a reset must not get into the first vector after it.
        layout = data.StructLayout({"valid": 1, "ends": 1, "tile_first": 1, "bank": 1, "step": step_layout(config)})
        stages = [Signal(layout, name=f"stage{cycle}", init={"ends": cycle > 0}) for cycle in range(CODE_CYCLES + 1)]
        clear_local, clear_out = Signal(drain_cycles, init=-1), Signal(drain_cycles)
        m.d.comb += [
            stages[0].valid.eq(self.accept),
            stages[0].ends.eq(ends),
            stages[0].tile_first.eq(fresh_tile),
            stages[0].bank.eq(bank),
            stages[0].step.eq(step),
            control.clear_local.eq(clear_local),
            control.clear_out.eq(clear_out),
        ]
        m.d.sync += [later.eq(stage) for stage, later in pairwise(stages)]
        m.d.sync += [clear_local.eq(Cat(stages[-1].ends, clear_local)), clear_out.eq(Cat(~stages[-1].ends, clear_out))]

        # Drain, lane by lane.
        start = stages[-1].valid & stages[-1].ends
        drain, now = Signal(layout), Signal(layout)
        lane = Signal(range(drain_cycles))
        lane_now = Mux(start, 0, lane)
        last_lane = ~start & (lane == drain_cycles - 1)
        m.d.comb += [
            now.eq(Mux(start, stages[-1], drain)),
            self.scale_en.eq(now.valid),
            self.scale_half.eq(now.step.half),
            self.scale_addr.eq(Cat(lane_now, now.step.group)),
            self.ktile_done.eq(now.valid & last_lane & now.step.ktile_last),
        ]
        m.d.sync += [drain.eq(now), lane.eq(lane_now + 1), drain.valid.eq(now.valid & ~last_lane)]

        # What follows a lane's codes on its way.
        tail = [[now.valid, lane_now, now.bank, now.tile_first, now.step.tile_last & last_lane, now.step.exponent]]
        for cycle in range(1, WRITE_CYCLES + 1):
            later = [Signal.like(value, name=f"tail{cycle}_{number}") for number, value in enumerate(tail[-1])]
            m.d.sync += [new.eq(old) for new, old in zip(later, tail[-1], strict=True)]
            tail.append(later)
        valid, _, _, tile_first, *_ = tail[-2]
        write, write_lane, write_bank, _, completes, _ = tail[-1]

        # Value m for exponent field 0, (8 + m) << (e - 1) otherwise; then the pass's exponent, in multiples of FINE.
        for unit in range(config.scale_units):
            zeros = self.code_zeros[unit][:config.code_bits]
            octave = Signal(config.scale_exp_bits, name=f"octave{unit}")
            shift = Signal(range(config.scale_shift_max + 1), name=f"shift{unit}")
            coarse = Signal.like(control.clear_coarse[unit], name=f"coarse{unit}")
            m.d.comb += shift.eq(Mux(octave.any(), octave - 1, 0))
            m.d.sync += [
                control.clear_share[unit].eq(Cat(zeros[:config.scale_man_bits], zeros[config.scale_man_bits:].all())),
                octave.eq(~zeros[config.scale_man_bits:]),
                control.clear_fine[unit].eq(~(1 << shift[:FINE_BITS])),
                coarse.eq(~(1 << (shift[FINE_BITS:] + (tail[2][-1] if self.sparse else 0)))),
            ]
            if len(coarse) > 1:
                m.d.sync += control.clear_coarse[unit].eq(coarse)

        complete = Signal(range(3))     # tiles that wait to be read
        read_bank = Signal()
        m.d.sync += [
            complete.eq(complete + (write & completes) - self.release),
            read_bank.eq(read_bank ^ self.release),
        ]
        with m.Switch(self.lane):
            for number in range(config.cols):
                unit, place = divmod(number, config.lanes_per_scale)
                with m.Case(number):
                    m.d.comb += [control.read_lane.eq(place), control.clear_acc.eq(~(1 << unit))]
        m.d.comb += [
            control.write.eq(write),
            control.write_lane.eq(write_lane),
            control.write_bank.eq(write_bank),
            control.overwrite.eq(valid & tile_first),
            control.read_bank.eq(read_bank),
            self.complete.eq(complete != 0),
            self.idle.eq(~Cat(*(stage.valid for stage in stages), *(stage[0] for stage in tail)).any()),
        ]
        return m
