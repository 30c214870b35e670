"""PE row: the building block of both arrays. One row is one output pixel, its lanes are the output channels.

    product stage      dot[k]   <= sum over taps of a[tap] * w[tap][k]
    sum stage          local[k] <= (first ? 0 : local[k]) + dot[k];  at a vector's end the sum moves to hold[k]
    drain              each scale unit takes its `lanes_per_scale` lanes of hold[] in turn, one per cycle
    scale unit         value <= (hold * mantissa) << shift            two cycles
    accumulator        acc[bank][k] += value                          one cycle, at the same address

A vector's sum leaves `hold` while the next vector adds up in `local`; a tile's accumulators are read from one bank
while the next tile fills the other. All control comes from outside: the dense array drives all rows with one set.
"""

from functools import reduce
from operator import add, or_

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import Config

__all__ = ["PERow", "control_layout"]


def control_layout(config: Config) -> data.StructLayout:
    """What a row does in this cycle.

    Members
    -------
    multiply : 1 bit
        The operands are valid: form the products.
    add : 1 bit
        Add the products formed in the last cycle.
    first : 1 bit
        With `add`: they begin a vector.
    hold : 1 bit
        With `add`: they end it; the sum moves on to be drained.
    drain_lane : bits of lanes_per_scale
        Lane that each scale unit takes.
    mantissa : 4 bits x scale_units, shift_by : bits of shift_by_max x scale_units
        The draining lane's scale is mantissa << shift_by; the shift acts one cycle after the mantissa.
    write : 1 bit
        Add the scaled value to the accumulator.
    write_bank : 1 bit, write_lane : bits of lanes_per_scale
        Which one.
    overwrite : 1 bit
        With `write`: the tile's first vector, replace the accumulator.
    read_bank : 1 bit, read_lane : bits of cols
        Accumulator to be read.
    """
    units = config.scale_units
    return data.StructLayout({
        "multiply": 1,
        "add": 1,
        "first": 1,
        "hold": 1,
        "drain_lane": range(config.lanes_per_scale),
        "mantissa": data.ArrayLayout(config.scale_man_bits + 1, units),
        "shift_by": data.ArrayLayout(max(1, config.shift_by_max.bit_length()), units),
        "write": 1,
        "write_bank": 1,
        "write_lane": range(config.lanes_per_scale),
        "overwrite": 1,
        "read_bank": 1,
        "read_lane": range(config.cols),
    })


class PERow(wiring.Component):
    """One row of an array.

    Parameters
    ----------
    config : Config
    taps : int
        Multipliers per lane.
    weight_bits : int
        Width of a weight operand, signed: 4, or 5 for nibbles signed and not.

    Members
    -------
    a : In(signed 5 bits x taps)
        Activations, the same for all lanes.
    w : In(signed weight_bits x cols x taps)
        Weights, the same for all rows.
    control : In(control_layout)
    acc : Out(signed acc_bits)
        The accumulator asked for in the last cycle.
    """

    def __init__(self, config: Config, taps: int, weight_bits: int) -> None:
        self.config = config
        self.taps = taps
        self.weight_bits = weight_bits
        super().__init__({
            "a": In(data.ArrayLayout(signed(5), taps)),
            "w": In(data.ArrayLayout(data.ArrayLayout(signed(weight_bits), config.cols), taps)),
            "control": In(control_layout(config)),
            "acc": Out(signed(config.acc_bits)),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config, control = self.config, self.control
        lanes_per_unit = config.lanes_per_scale
        units = config.scale_units
        dot_bits = 5 + self.weight_bits + (self.taps - 1).bit_length()

        holds = []
        for lane in range(config.cols):
            dot = Signal(signed(dot_bits), name=f"dot{lane}", reset_less=True)
            local = Signal(signed(config.psum_bits), name=f"local{lane}", reset_less=True)
            hold = Signal(signed(config.psum_bits), name=f"hold{lane}", reset_less=True)
            total = Signal(signed(config.psum_bits), name=f"total{lane}")
            m.d.comb += total.eq(Mux(control.first, 0, local) + dot)
            with m.If(control.multiply):
                products = [self.a[tap] * self.w[tap][lane] for tap in range(self.taps)]
                m.d.sync += dot.eq(reduce(add, products))
            with m.If(control.add):
                m.d.sync += local.eq(total)
            holds.append((hold, total))

        # The accumulator to read: its unit, and its place there.
        acc = Signal(signed(config.acc_bits), reset_less=True)
        m.d.comb += self.acc.eq(acc)
        read_place = Signal(range(lanes_per_unit))
        with m.Switch(control.read_lane):
            for lane in range(config.cols):
                with m.Case(lane):
                    m.d.comb += read_place.eq(lane % lanes_per_unit)

        for unit in range(units):
            waiting = holds[unit * lanes_per_unit:(unit + 1) * lanes_per_unit]
            for hold, total in waiting:
                with m.If(control.hold):
                    m.d.sync += hold.eq(total)
            # One product term per lane and an OR: in LUTs as small as a shift register, which moves every lane.
            chosen = [hold.as_unsigned() & (control.drain_lane == number).replicate(config.psum_bits)
                      for number, (hold, _) in enumerate(waiting)]
            scaled = Signal(signed(config.psum_bits + config.scale_man_bits + 1), name=f"scaled{unit}", reset_less=True)
            value = Signal(signed(config.acc_bits), name=f"value{unit}", reset_less=True)
            m.d.sync += [
                scaled.eq(reduce(or_, chosen).as_signed() * control.mantissa[unit]),
                value.eq(scaled << control.shift_by[unit]),
            ]

            accumulators = Memory(shape=signed(config.acc_bits), depth=2 * lanes_per_unit, init=[])
            m.submodules[f"acc{unit}"] = accumulators
            writer = accumulators.write_port()
            old = accumulators.read_port(domain="comb")
            reader = accumulators.read_port(domain="comb")
            place = Cat(control.write_bank, control.write_lane)
            m.d.comb += [
                old.addr.eq(place),
                writer.addr.eq(place),
                writer.en.eq(control.write),
                writer.data.eq(Mux(control.overwrite, 0, old.data) + value),
                reader.addr.eq(Cat(control.read_bank, read_place)),
            ]
            lanes = range(unit * lanes_per_unit, min((unit + 1) * lanes_per_unit, config.cols))
            with m.Switch(control.read_lane), m.Case(*lanes):
                m.d.sync += acc.eq(reader.data)
        return m
