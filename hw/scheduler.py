"""Scheduler: deals the channels of a layer out to the arrays, as their labels say.

It walks the channel table once, an entry per cycle, and appends each entry to the list of one array; the arrays begin
to work while the lists still grow.

    cycle   0 table read   2 label read   4 an array is chosen, its waiting entry is written to its list

Dead channels are left out. Among several arrays of a kind the one with the least work so far is chosen, measured in a
window's steps for dense arrays, by the labels' bins for sparse ones; in an `even` layer among all arrays, in entries.
Each array's latest entry waits, so that it can be marked as the last of its vector when the vector's other channels
turn out to lie on other arrays.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import LINE_TAPS, TAPS, Config
from .interfaces import Space, entry_layout, label_layout, layer_layout, load_layout, table_layout

__all__ = ["Scheduler"]


class Scheduler(wiring.Component):
    """Makes the channel lists of a layer.

    Members
    -------
    layer : In(layer_layout)
        Stable from `start` on.
    start : In(1)
        Begin; the lists are empty.
    go : In(1)
        The labels may be read.
    load : In(load_layout)
        A beat of TABLE; others are passed over.
    load_en : In(1)
    label_index, label_slot : Out
        Label to read.
    label : In(label_layout)
        The label asked for in the last cycle.
    entry : Out(entry_layout) x arrays, write : Out(1) x arrays
        The array's list grows by the entry.
    complete : Out(1)
        The lists are complete.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "layer": In(layer_layout(config)),
            "start": In(1),
            "go": In(1),
            "load": In(load_layout(config)),
            "load_en": In(1),
            "label_index": Out(config.label_bits),
            "label_slot": Out(config.slot_bits),
            "label": In(label_layout()),
            "entry": Out(entry_layout(config)).array(config.arrays),
            "write": Out(1).array(config.arrays),
            "complete": Out(1),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config, layer = self.config, self.layer

        m.submodules.table = table = Memory(shape=table_layout(config), depth=config.table_depth, init=[])
        writer = table.write_port()
        reader = table.read_port()
        m.d.comb += [
            writer.addr.eq(self.load.address),
            writer.data.eq(self.load.data),
            writer.en.eq(self.load_en & (self.load.space == Space.TABLE)),
        ]

        # Cycle 0: the table. Cycle 2: the label. What comes out of a memory is registered before it is used.
        index = Signal(range(config.table_depth + 1))
        walking = Signal()
        read = Signal()         # an entry comes from the table
        chosen = Signal()       # an entry and its label are here
        item = Signal(table_layout(config), reset_less=True)
        label = Signal(label_layout(), reset_less=True)     # of `item`
        came = Signal(2)        # an entry came from the table, a cycle ago, and two
        entries = [Signal(table_layout(config), name=f"entry{age}", reset_less=True) for age in range(2)]
        m.d.comb += [
            reader.addr.eq(layer.table_first + index),
            reader.en.eq(walking & self.go & (index != layer.table_count)),
            self.label_index.eq(entries[0].label),
            self.label_slot.eq(entries[0].slot),
        ]
        m.d.sync += [
            read.eq(reader.en), Cat(came, chosen).eq(Cat(read, came)),
            entries[0].eq(reader.data), entries[1].eq(entries[0]), item.eq(entries[1]), label.eq(self.label),
        ]
        with m.If(reader.en):
            m.d.sync += index.eq(index + 1)
        with m.If(self.start):
            m.d.sync += [index.eq(0), walking.eq(1), self.complete.eq(0)]

        # Cycle 2: the array.
        dense, sparse = range(config.dense), range(config.dense, config.arrays)
        load_bits = config.table_depth.bit_length() + 6
        loads = [Signal(load_bits, name=f"work{array}") for array in range(config.arrays)]

        def least(arrays: range) -> Signal:
            """Index of the array with the least work."""
            best, least_load = arrays[0], loads[arrays[0]]
            for array in arrays[1:]:
                less = loads[array] < least_load
                best, least_load = Mux(less, array, best), Mux(less, loads[array], least_load)
            return best

        anywhere = layer.even & item.dense_ok
        to_sparse = label.sparse | ~item.dense_ok
        taps = [item.entry.taps[tap] for tap in range(TAPS)]
        # Of a window on a dense array.
        steps = sum(taps) if config.dense_taps == 1 else sum(
            Cat(taps[first:first + LINE_TAPS]).any() for first in range(0, TAPS, LINE_TAPS))
        if not dense:
            target, cost = least(sparse), label.bin + 1
        elif not sparse:
            target, cost = least(dense), steps
        else:
            target = Mux(anywhere, least(range(config.arrays)), Mux(to_sparse, least(sparse), least(dense)))
            cost = Mux(to_sparse, label.bin + 1, steps)

        flush = Signal()        # the table is done: what waits is written
        end = walking & self.go & (index == layer.table_count) & ~(read | came.any() | chosen)
        m.d.comb += flush.eq(end)
        with m.If(flush):
            m.d.sync += [walking.eq(0), self.complete.eq(1)]
        for array in range(config.arrays):
            waiting = Signal(entry_layout(config), name=f"waiting{array}", reset_less=True)
            waits = Signal(name=f"waits{array}")
            taken = Signal(name=f"taken{array}")
            m.d.comb += [
                taken.eq(chosen & ~label.dead & (target == array)),
                self.entry[array].eq(waiting),
                self.write[array].eq(waits & (taken | flush)),
            ]
            with m.If(taken):
                m.d.sync += [waiting.eq(item.entry), waits.eq(1),
                             loads[array].eq(loads[array] + Mux(anywhere, 1, cost))]
            with m.Elif(flush):
                m.d.sync += waits.eq(0)
            with m.If(~taken & chosen & item.entry.last):
                m.d.sync += waiting.last.eq(1)
            with m.If(self.start):
                m.d.sync += loads[array].eq(0)
        return m
