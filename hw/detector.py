"""Sparsity detector: counts the nonzeros of every channel that is written, and labels the channels when the layer ends.

States, and what they cost after the layer's last count:

    CLEAR   after a reset: the columns' counts become 0, one per cycle; they are again at a layer's end
    IDLE    nothing to do
    COUNT   a layer runs. The post-processor reports the nonzeros of each write; they add up per        6 cycles
            column of the k-tile. A channel's complete count goes straight on to the channels' counts
            and to the histogram: the sums of nonzeros, and of these with the dense cost, for each of
            32 bins of the count.
    CUT     mode `balance`: how many bins, sparsest first, go to sparse; one bin per cycle.             up to 35
                                                                                                        (`threshold`: 3)
    LABEL   one channel per cycle: label = f(count), to the other table. The tensor's slot then turns   channels + 6
            to the other table.

So the detector is idle again at most channels + 48 cycles after the layer's last count. Memories and sums stand in
cycles of their own, so that the clock need not wait for one after the other.

Modes. `threshold` (SQ-DM, section IV): sparse where the nonzeros are fewer than label_limit; 30 % zeros is
label_limit = pixels - floor(0.3 * pixels). `balance` (ours): a sparse array's cycles are in proportion to the nonzeros,
a dense one's to the number of channels, so with dense_cost = the nonzeros that cost as much as a dense channel,

    bins are added, sparsest first, while   sparse nonzeros + the bin's nonzeros < dense_cost * channels still dense;

within the bin where this ends, channels are added one by one by the same rule. What counts is the gap between the two
sides: it must be more than the bin's nonzeros, and shrinks by these and by its channels' dense cost. Both limits are
counts made by the compiler, so no multiplier is needed.

`dead` (all zero) is always new, since it says what to leave out; `sparse` is kept from before in the time steps that
the refresh policy leaves out. Labels never change a result, only the time it takes.
"""

from itertools import pairwise

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import LABEL_BIN_BITS, Config
from .interfaces import Refresh, Space, Transform, label_layout, layer_layout, load_layout, policy_layout
from .product import narrowed

__all__ = ["SparsityDetector", "count_layout"]

BINS = 1 << LABEL_BIN_BITS
BIN_CYCLES = 3
PARTS = 4   # channels that one column makes with space-to-depth


def count_layout(config: Config) -> data.StructLayout:
    """Nonzeros of one write.

    Members
    -------
    column : bits of cols
        Output channel within the k-tile.
    part : 2 bits
        Channel of the column, where space-to-depth makes four of it.
    final : 1 bit
        The channel's last one.
    nonzeros : bits of rows
    """
    return data.StructLayout({"column": range(config.cols), "part": 2, "final": 1, "nonzeros": range(config.rows + 1)})


class SparsityDetector(wiring.Component):
    """Counts, and keeps the label table.

    Members
    -------
    layer : In(layer_layout)
    start : In(1)
        A layer begins; only while `idle`.
    policy : In(policy_layout)
    count : In(count_layout), count_en : In(1)
        Of the same column and part every other cycle at most.
    ktile_end : In(1)
        With the last count of a k-tile, which is final as others are.
    layer_end : In(1)
        With the last `ktile_end`.
    idle : Out(1)
        The labels are valid, and a layer may begin.
    load : In(load_layout), load_en : In(1)
        A beat of LABEL, only while `load_ready`; others are passed over.
    load_ready : Out(1)
        The detector itself writes no labels now.
    index, slot : In, label : Out(label_layout)
        Read port for the scheduler; the label asked for in the last cycle.
    host_index, host_slot : In, host_label : Out(label_layout)
        Read port for the host.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        ports: dict[str, wiring.Member] = {}
        for prefix in ("", "host_"):
            ports |= {f"{prefix}index": In(config.label_bits), f"{prefix}slot": In(config.slot_bits),
                      f"{prefix}label": Out(label_layout())}
        super().__init__({
            "layer": In(layer_layout(config)),
            "start": In(1),
            "policy": In(policy_layout()),
            "count": In(count_layout(config)),
            "count_en": In(1),
            "ktile_end": In(1),
            "layer_end": In(1),
            "idle": Out(1),
            "load": In(load_layout(config)),
            "load_en": In(1),
            "load_ready": Out(1),
            **ports,
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config, load = self.config, self.load
        layer = Signal(layer_layout(config))    # kept while the engine may go on to the next one
        with m.If(self.start):
            m.d.sync += layer.eq(self.layer)
        count_bits = config.addr_bits + 1
        column_bits = (config.cols - 1).bit_length()
        to_depth = layer.transform == Transform.SPACE_TO_DEPTH

        # Refresh policy: one decision per time step.
        step = Signal.like(layer.step)
        stepped = Signal()      # a layer has run
        since = Signal(8)       # steps since the last refresh, for EVERY_N
        refresh = Signal()
        new_step = self.start & (~stepped | (step != self.layer.step))
        with m.If(self.start):
            m.d.sync += [stepped.eq(1), step.eq(self.layer.step)]
        with m.If(new_step):
            due = ~stepped | (since + 1 == self.policy.n)
            m.d.sync += since.eq(Mux(due, 0, since + 1))
            with m.Switch(self.policy.refresh):
                with m.Case(Refresh.EVERY):
                    m.d.sync += refresh.eq(1)
                with m.Case(Refresh.EVERY_N):
                    m.d.sync += refresh.eq(due)
                with m.Case(Refresh.MASK):
                    m.d.sync += refresh.eq(self.policy.mask.bit_select(self.layer.step, 1))
                with m.Case(Refresh.FROZEN):
                    m.d.sync += refresh.eq(0)

        # Counts of the k-tile's columns. One cycle: the count so far. The next: the sum, or 0 after the last count.
        m.submodules.columns = columns = Memory(shape=unsigned(count_bits), depth=PARTS << column_bits, init=[])
        add_read, add_write = columns.read_port(domain="comb"), columns.write_port()
        m.submodules.counts = counts = Memory(shape=unsigned(count_bits), depth=config.label_depth, init=[])
        counts_write, counts_read = counts.write_port(), counts.read_port()
        clear = Signal(range(PARTS << column_bits))
        last = Signal()
        ktile_first = Signal(config.label_bits + 1)     # channel of column 0
        counting = Signal()
        before = Signal(count_bits)
        nonzeros = Signal.like(self.count.nonzeros)
        final = Signal()
        channel_now = Signal(config.label_bits)
        counted = Signal()      # a channel's count is complete
        channel = Signal(config.label_bits)
        total = Signal(count_bits)      # while labelling, the count that was read
        labelling = Signal()
        place = Cat(self.count.part, self.count.column)
        total_now = (before + nonzeros)[:count_bits]
        m.d.comb += [
            add_read.addr.eq(place),
            add_write.data.eq(Mux(last, 0, total_now)),
        ]
        m.d.sync += [
            before.eq(add_read.data),
            last.eq(self.count.final),
            nonzeros.eq(self.count.nonzeros),
            final.eq(counting & self.count_en & self.count.final),
            channel_now.eq(ktile_first + Mux(to_depth, place, self.count.column)),
            add_write.addr.eq(place),
            add_write.en.eq(self.count_en),
            counted.eq(final),
            channel.eq(channel_now),
            total.eq(Mux(labelling, counts_read.data, total_now)),
        ]
        with m.If(self.ktile_end):
            m.d.sync += ktile_first.eq(ktile_first + Mux(to_depth, PARTS * config.cols, config.cols))
        with m.If(self.start):
            m.d.sync += ktile_first.eq(0)

        # The bin of a count, three cycles later; with it comes the count itself, and `both`: with the dense cost.
        sum_bits = count_bits + config.label_bits
        sums = data.StructLayout({"nonzeros": sum_bits, "both": sum_bits + 1})
        shifted, beyond, _ = narrowed(m, "bin", Cat(total, Const(0, 1)), layer.bin_shift, LABEL_BIN_BITS)
        bin_now = shifted | beyond.replicate(LABEL_BIN_BITS)    # the last bin takes all above it
        measured = Signal(count_bits)
        its, its_then = (Signal(data.StructLayout({"nonzeros": count_bits, "both": count_bits + 1}), name=name)
                         for name in ("its", "its_then"))
        its_bin = Signal(LABEL_BIN_BITS)
        cutting = Signal()
        bin_next = Signal(LABEL_BIN_BITS)
        m.d.sync += [
            measured.eq(total),
            its.nonzeros.eq(measured), its.both.eq(measured + layer.dense_cost),
            its_then.eq(its), its_bin.eq(Mux(cutting, bin_next, bin_now)),
        ]

        # The channels' counts. Then the histogram: the bin's sums so far, then the new ones.
        channels = Signal(config.label_bits + 1)    # counted so far
        gap = Signal(signed(sum_bits + 1))  # the dense side's cost less the sparse side's
        on_the_way = Signal(BIN_CYCLES)
        binned = on_the_way[-1]
        m.d.comb += [
            counts_write.addr.eq(channel),
            counts_write.data.eq(total),
            counts_write.en.eq(counted),
        ]
        m.d.sync += on_the_way.eq(Cat(counted, on_the_way))
        with m.If(counted):
            m.d.sync += channels.eq(channels + 1)

        m.submodules.histogram = histogram = Memory(shape=sums, depth=BINS, init=[])
        bin_read, bin_write = histogram.read_port(domain="comb"), histogram.write_port()
        bins_used = Signal(BINS)
        in_bin = Signal(sums)
        item = Signal(sums)     # what was read of the bin in the cycle before; while labelling, of a channel
        added = Signal.like(its_then)
        again = Signal()        # it is the bin that was written in the cycle before
        sum_before, base = Signal(sums), Signal(sums)
        m.d.comb += [
            bin_read.addr.eq(its_bin),
            in_bin.eq(Mux(bins_used.bit_select(its_bin, 1), bin_read.data.as_value(), 0)),
            base.eq(Mux(again, sum_before, item)),
            bin_write.data.nonzeros.eq(base.nonzeros + added.nonzeros),
            bin_write.data.both.eq(base.both + added.both),
        ]
        m.d.sync += [
            item.eq(in_bin), added.eq(its_then), bin_write.addr.eq(its_bin), bin_write.en.eq(binned),
            again.eq(bin_write.en & (bin_write.addr == its_bin)), sum_before.eq(bin_write.data),
        ]
        with m.If(binned):
            m.d.sync += bins_used.eq(bins_used | (1 << its_bin))

        # Whether the next bin, or the channel in the bin of the cut, still goes to sparse.
        bin_cut = Signal(range(BINS + 1))
        bin_here = Signal(2)    # it is read; it is there
        bin_may = layer.balance & ~bin_cut[-1]
        fits = item.nonzeros < gap

        # Label table: two of them, the slot says which one is valid.
        m.submodules.labels = labels = Memory(shape=label_layout(), depth=2 * config.label_depth, init=[])
        label_write = labels.write_port()
        scheduler_read, host_read = labels.read_port(), labels.read_port()
        table = Signal(config.label_slots, reset_less=True)     # labels outlive a reset
        index = Signal(config.label_bits + 1)       # channel to label
        reading = Signal()
        write_index = Signal(config.label_bits)
        m.d.comb += [
            scheduler_read.addr.eq(Mux(labelling, Cat((layer.label_first + index)[:config.label_bits],
                                                      table.bit_select(layer.label_slot, 1)),
                                       Cat(self.index, table.bit_select(self.slot, 1)))),
            self.label.eq(scheduler_read.data),
            host_read.addr.eq(Cat(self.host_index, table.bit_select(self.host_slot, 1))),
            self.host_label.eq(host_read.data),
            counts_read.addr.eq(index),
            reading.eq(labelling & (index != channels)),
        ]
        m.d.comb += self.load_ready.eq(~labelling)

        # A channel's label. One cycle: its count and its label before are read. Second: they come. Then its bin, the
        # choice; at last it is written.
        stages = Signal(BIN_CYCLES + 3)
        chosen, writing = stages[-2:]
        old_sparse = Signal()
        seen = [Signal(data.StructLayout({"dead": 1, "few": 1, "sparse": 1}), name=f"seen{cycle}")
                for cycle in range(BIN_CYCLES)]
        picked, picked_bin = seen[-1], Signal(LABEL_BIN_BITS)
        at_cut = picked_bin == bin_cut
        balanced = (picked_bin < bin_cut) | at_cut & fits
        label = Signal(label_layout())
        m.d.sync += [
            stages.eq(Cat(reading, stages)),
            old_sparse.eq(scheduler_read.data.sparse),
            seen[0].dead.eq(total == 0), seen[0].few.eq(total < layer.label_limit), seen[0].sparse.eq(old_sparse),
            *(new.eq(old) for old, new in pairwise(seen)),
            picked_bin.eq(bin_now),
            label.dead.eq(picked.dead),
            label.bin.eq(picked_bin),
            label.sparse.eq(Mux(refresh, Mux(layer.balance, balanced, picked.few), picked.sparse)),
        ]
        with m.If(labelling):
            m.d.sync += [item.nonzeros.eq(its.nonzeros), item.both.eq(its.both)]
        with m.If(counted | (cutting & bin_here[-1] & bin_may | chosen & at_cut) & fits):
            m.d.sync += gap.eq(Mux(cutting | labelling, gap - item.both, gap + layer.dense_cost))
        host_write = self.load_en & (load.space == Space.LABEL)
        host_slot = load.address[config.label_bits:][:config.slot_bits]
        with m.If(writing):
            m.d.comb += [
                label_write.addr.eq(Cat(write_index, ~table.bit_select(layer.label_slot, 1))),
                label_write.data.eq(label),
                label_write.en.eq(1),
            ]
            m.d.sync += write_index.eq(write_index + 1)
        with m.Else():
            m.d.comb += [
                label_write.addr.eq(Cat(load.address[:config.label_bits], table.bit_select(host_slot, 1))),
                label_write.data.eq(load.data),
                label_write.en.eq(host_write),
            ]

        ended = Signal(6)       # the last count is in the histogram
        m.d.sync += ended.eq(Cat(self.layer_end, ended))
        with m.If(self.start):      # what comes still is the end of a layer that was not labelled
            m.d.sync += ended.eq(0)
        with m.FSM():
            with m.State("CLEAR"):
                m.d.sync += [clear.eq(clear + 1), add_write.addr.eq(clear), add_write.en.eq(1), last.eq(1)]
                with m.If(clear.all()):
                    m.next = "IDLE"
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(1)
                with m.If(self.start & self.layer.detect):
                    m.d.sync += [signal.eq(0) for signal in (channels, bins_used, gap)]
                    m.next = "COUNT"
            with m.State("COUNT"):
                m.d.comb += counting.eq(1)
                m.d.sync += [signal.eq(0) for signal in (bin_cut, bin_next, bin_here, index)]
                m.d.sync += write_index.eq(layer.label_first)
                with m.If(ended[-1]):
                    m.next = "CUT"
            with m.State("CUT"):
                m.d.comb += cutting.eq(1)
                m.d.sync += [bin_next.eq(bin_next + 1), bin_here.eq(Cat(1, bin_here))]
                with m.If(bin_here[-1]):
                    with m.If(bin_may & fits):
                        m.d.sync += bin_cut.eq(bin_cut + 1)
                    with m.Else():
                        m.next = "LABEL"
            with m.State("LABEL"):
                m.d.comb += labelling.eq(1)
                with m.If(reading):
                    m.d.sync += index.eq(index + 1)
                with m.Elif(~stages[:-1].any()):
                    m.d.sync += table.eq(table ^ (1 << layer.label_slot))
                    m.next = "IDLE"
        return m
