"""Queue of a sparse array's row: keeps the windows in which something is not zero, and hands out their nonzeros.

A window that is kept waits as `held` until the row keeps the next one, so that the end of a vector or of a tile can
still be noted on it when the windows that follow are all zero: ends cost no cycle. Only a row in which a whole tile is
zero keeps that tile's last window, and takes one cycle for it.

    cycle       0                   1                   2                   3               4
    window 0    comes, is written   held, ends written  head, tap 1         head, tap 6
    window 1    .                   comes, is written   held                ends written    head, tap 0
    window 2    .                   .                   all zero            comes

All but the ends is written before the window counts as queued. So a window that becomes the head at once takes its
nibbles from the memory in time; its plan, which is wanted in a register, it takes from `held`. Other heads take it from
the memory, where the window behind the head is read all the time.
"""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import TAPS, Config
from .weights import NO_COLLISIONS

__all__ = ["RowQueue", "row_window_layout"]


def plan_layout(config: Config) -> data.StructLayout:
    """What to do with a row's window.

    Members
    -------
    taps : 9 bits
        Nibbles to multiply: used, inside the image, and not zero.
    others
        As `hw.interfaces.request_layout`.
    """
    return data.StructLayout({
        "taps": TAPS,
        "a_signed": 1,
        "w_signed": 1,
        "exponent": 2,
        "half": 1,
        "group": config.group_bits,
        "weight": config.weight_bits,
    })


def row_window_layout(config: Config) -> data.StructLayout:
    """A row's share of a window.

    Members
    -------
    nibbles : 9 nibbles
        Those of taps that are not to be multiplied may be anything.
    plan : plan_layout
    ends : 1 bit each
        It ends a vector, the tile, the k-tile.
    """
    return data.StructLayout({
        "nibbles": data.ArrayLayout(4, TAPS),
        "plan": plan_layout(config),
        "ends": data.StructLayout({"last": 1, "tile_last": 1, "ktile_last": 1}),
    })


class RowQueue(wiring.Component):
    """Queue of `fifo_depth` windows, and the one that is held.

    Members
    -------
    window : In(row_window_layout)
    en : In(1)
        The window is broadcast in this cycle; only while `ready`.
    ready : Out(1)
        There is room.
    valid : Out(1)
        There is a step to make.
    step : In(1)
        It is made in this cycle.
    tap : Out(9 bits)
        The bit of the step's tap; 0 for the step of a tile that is all zero.
    window_end : Out(1)
        It is the window's last step.
    head : Out(row_window_layout)
        The step's window; its `taps` are those that are left.
    idle : Out(1)
        No window is here.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "window": In(row_window_layout(config)),
            "en": In(1),
            "ready": Out(1),
            "valid": Out(1),
            "step": In(1),
            "tap": Out(TAPS),
            "window_end": Out(1),
            "head": Out(row_window_layout(config)),
            "idle": Out(1),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        window, depth, layout = self.window, self.config.fifo_depth, row_window_layout(self.config).members
        # Where the next window kept goes, where the held one is (or, if none is, will be), and the one behind the head.
        slots = 1 << (depth - 1).bit_length()
        place, noted, behind = (Signal(range(slots), name=name) for name in ("place", "noted", "behind"))

        # Hold back the last window kept, until it is known what it ends.
        queued = data.StructLayout({"plan": layout["plan"], "ends": layout["ends"]})
        held, head = Signal(queued, reset_less=True), Signal(queued, reset_less=True)
        held_valid = Signal()
        open_tile = Signal()    # the held window belongs to the tile that is being broadcast
        nonzero = window.plan.taps.any()
        takes, push, pop = Signal(), Signal(), Signal()
        m.d.comb += [
            takes.eq(self.en & (nonzero | window.ends.tile_last & ~open_tile)),
            push.eq(held_valid & self.ready & (takes | held.ends.tile_last)),
            pop.eq(self.step & self.window_end),
        ]
        with m.If(takes):
            m.d.sync += [held.plan.eq(window.plan), held.ends.eq(window.ends), held_valid.eq(1), place.eq(place + 1)]
            with m.If(~nonzero):    # the whole tile is zero
                m.d.sync += held.ends.last.eq(1)
        with m.Elif(push):
            m.d.sync += held_valid.eq(0)
        with m.If(push):
            m.d.sync += noted.eq(place)
        with m.If(self.en):
            m.d.sync += open_tile.eq(~window.ends.tile_last & (open_tile | nonzero))
            with m.If(~takes & open_tile):
                m.d.sync += held.ends.eq(held.ends.as_value() | window.ends.as_value())

        # Windows in the queue, the head included.
        level = Signal(range(depth + 1))
        full = Signal()
        with m.If(push != pop):
            m.d.sync += [
                level.eq(level + Mux(pop, -1, 1)),
                full.eq(push & (level == depth - 1)),
                self.valid.eq(push | (level != 1)),
            ]
        m.d.comb += [self.ready.eq(~full), self.idle.eq(~self.valid & ~held_valid)]

        # The next window moves up when the head is done, or while there is none.
        advance = ~self.valid | pop
        more = level[1:].any()      # windows behind the head
        nibbles = self._memory(m, "nibbles", layout["nibbles"], place, window.nibbles, takes, behind, advance)
        plan = self._memory(m, "plan", layout["plan"], place, window.plan, takes,
                            Mux(pop & more, behind + 1, behind), 1)
        ends = Memory(shape=layout["ends"], depth=slots, init=[])
        m.submodules.ends = ends
        ends_write, ends_read = ends.write_port(), ends.read_port(domain="comb")
        m.d.comb += [
            ends_write.addr.eq(noted),
            ends_write.data.eq(held.ends),
            ends_write.en.eq(push),
            ends_read.addr.eq(behind),
            self.head.nibbles.eq(nibbles),
            self.head.plan.eq(head.plan),
            self.head.ends.eq(head.ends),
        ]
        with m.If(advance & (more | push)):
            m.d.sync += behind.eq(behind + 1)

        # The head's taps, lowest first. A window without any makes one step.
        taps = head.plan.taps
        below = [taps[:number].any() for number in range(TAPS)]
        m.d.comb += [
            self.tap.eq(Cat(taps[number] & ~below[number] for number in range(TAPS))),
            self.window_end.eq(~reduce(or_, (taps[number] & below[number] for number in range(1, TAPS)))),
        ]
        with m.If(advance):
            m.d.sync += [
                head.plan.eq(Mux(more, plan, held.plan)),
                head.ends.eq(Mux(more, ends_read.data.as_value(), held.ends)),
            ]
        with m.Elif(self.step):
            m.d.sync += taps.eq(Cat(taps[number] & below[number] for number in range(TAPS)))
        return m

    @staticmethod
    def _memory(m: Module, name: str, layout: data.Layout, place: Signal, item: data.View, takes: Value,
                address: Value, enable: ValueLike) -> Value:
        """Make a memory that takes the windows as they come; return what was read in the last cycle."""
        memory = Memory(shape=layout, depth=1 << len(place), init=[], attrs=NO_COLLISIONS | {"ram_style": "block"})
        m.submodules[name] = memory
        writer, reader = memory.write_port(), memory.read_port()
        m.d.comb += [
            writer.addr.eq(place),
            writer.data.eq(item),
            writer.en.eq(takes),
            reader.addr.eq(address),
            reader.en.eq(enable),
        ]
        return reader.data.as_value()
