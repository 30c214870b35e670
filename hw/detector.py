"""Sparsity detector: counts the nonzeros of every channel that is written, and labels the channels when the layer ends.

States, and what they cost after the layer's last count:

    IDLE    nothing to do
    COUNT   a layer runs. The post-processor reports the nonzeros of each write; they add up per        1 cycle
            column of the k-tile. A channel's last count goes straight on, in the next cycle, to the
            channels' counts and to the histogram: the sums of nonzeros and of dense cost, for each of
            32 bins of the count.
    CUT     mode `balance`: how many bins, sparsest first, go to sparse; two bins per cycle.            up to 17
                                                                                                        (`threshold`: 1)
    LABEL   one channel per cycle: label = f(count), to the other table. The tensor's slot then turns   channels + 2
            to the other table.

So the detector is idle again at most channels + 21 cycles after the layer's last count.

Modes. `threshold` (SQ-DM, section IV): sparse where the nonzeros are fewer than label_limit; 30 % zeros is
label_limit = pixels - floor(0.3 * pixels). `balance` (ours): a sparse array's cycles are in proportion to the nonzeros,
a dense one's to the number of channels, so with dense_cost = the nonzeros that cost as much as a dense channel,

    bins are added, sparsest first, while   sparse nonzeros + the bin's nonzeros < dense_cost * channels still dense;

within the bin where this ends, channels are added one by one by the same rule. Both limits are counts made by the
compiler, so no multiplier is needed.

`dead` (all zero) is always new, since it says what to leave out; `sparse` is kept from before in the time steps that
the refresh policy leaves out. Labels never change a result, only the time it takes.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import LABEL_BIN_BITS, Config
from .interfaces import Refresh, Space, Transform, label_layout, layer_layout, load_layout, policy_layout

__all__ = ["SparsityDetector", "count_layout"]

BINS = 1 << LABEL_BIN_BITS
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

        # Counts of the k-tile's columns, and the channel whose count is complete.
        m.submodules.columns = columns = Memory(shape=unsigned(count_bits), depth=PARTS << column_bits, init=[])
        add_read, add_write = columns.read_port(domain="comb"), columns.write_port()
        fresh = Signal(PARTS << column_bits)    # columns of the k-tile without a count yet
        ktile_first = Signal(config.label_bits + 1)     # channel of column 0
        counted = Signal()      # a channel's count is complete
        channel = Signal(config.label_bits)
        total = Signal(count_bits)
        place = Cat(self.count.part, self.count.column)
        m.d.comb += [
            add_read.addr.eq(place),
            add_write.addr.eq(place),
            add_write.data.eq(Mux(fresh.bit_select(place, 1), 0, add_read.data) + self.count.nonzeros),
            add_write.en.eq(self.count_en),
        ]
        m.d.sync += [
            counted.eq(self.count_en & self.count.final),
            channel.eq(ktile_first + Mux(to_depth, place, self.count.column)),
            total.eq(add_write.data),
        ]
        with m.If(self.count_en):
            m.d.sync += fresh.eq(fresh & ~(1 << place) | (self.count.final << place))
        with m.If(self.ktile_end):
            m.d.sync += ktile_first.eq(ktile_first + Mux(to_depth, PARTS * config.cols, config.cols))
        with m.If(self.start):
            m.d.sync += [fresh.eq(~0), ktile_first.eq(0)]

        # The channels' counts, and the histogram, whose even and odd bins are read together.
        m.submodules.counts = counts = Memory(shape=unsigned(count_bits), depth=config.label_depth, init=[])
        counts_write, counts_read = counts.write_port(), counts.read_port()
        channels = Signal(config.label_bits + 1)    # counted so far
        bins_used = Signal(BINS)
        sums = data.StructLayout(dict.fromkeys(("nonzeros", "cost"), count_bits + config.label_bits))
        sparse_sum, dense_sum = Signal(sums["nonzeros"].shape), Signal(sums["cost"].shape)

        def bin_of(count: Signal) -> Signal:
            scaled = count >> layer.bin_shift
            return Mux(scaled > BINS - 1, BINS - 1, scaled[:LABEL_BIN_BITS])

        total_bin = Signal(LABEL_BIN_BITS)
        bin_cut = Signal(range(BINS + 1))
        cutting = Signal()
        m.d.comb += [
            counts_write.addr.eq(channel),
            counts_write.data.eq(total),
            counts_write.en.eq(counted),
            total_bin.eq(bin_of(total)),
        ]
        in_bin = [Signal(sums, name=f"in_bin{odd}") for odd in range(2)]
        for odd in range(2):
            m.submodules[f"histogram{odd}"] = histogram = Memory(shape=sums, depth=BINS // 2, init=[])
            bin_read, bin_write = histogram.read_port(domain="comb"), histogram.write_port()
            used = bins_used.bit_select(Cat(Const(odd, 1), bin_read.addr), 1)
            m.d.comb += [
                bin_read.addr.eq(Mux(cutting, bin_cut, total_bin) >> 1),
                in_bin[odd].nonzeros.eq(Mux(used, bin_read.data.nonzeros, 0)),
                in_bin[odd].cost.eq(Mux(used, bin_read.data.cost, 0)),
                bin_write.addr.eq(bin_read.addr),
                bin_write.data.nonzeros.eq(in_bin[odd].nonzeros + total),
                bin_write.data.cost.eq(in_bin[odd].cost + layer.dense_cost),
                bin_write.en.eq(counted & (total_bin[0] == odd)),
            ]
        with m.If(counted):
            m.d.sync += [channels.eq(channels + 1), dense_sum.eq(dense_sum + layer.dense_cost),
                         bins_used.eq(bins_used | (1 << total_bin))]

        # Whether the next bin, and the one after it, still go to sparse.
        even_sparse, both_sparse = Signal.like(sparse_sum), Signal.like(sparse_sum)
        even_dense = Signal.like(dense_sum)
        even_fits, both_fit = Signal(), Signal()
        m.d.comb += [
            even_sparse.eq(sparse_sum + in_bin[0].nonzeros),
            both_sparse.eq(even_sparse + in_bin[1].nonzeros),
            even_dense.eq(dense_sum - in_bin[0].cost),
            even_fits.eq(layer.balance & (bin_cut != BINS) & (even_sparse < dense_sum)),
            both_fit.eq(even_fits & (both_sparse < even_dense)),
        ]

        # Label table: two of them, the slot says which one is valid.
        m.submodules.labels = labels = Memory(shape=label_layout(), depth=2 * config.label_depth, init=[])
        label_write = labels.write_port()
        scheduler_read, host_read = labels.read_port(), labels.read_port()
        table = Signal(config.label_slots, reset_less=True)     # labels outlive a reset
        index = Signal(config.label_bits + 1)       # channel to label
        reading, writing = Signal(), Signal()
        write_index = Signal(config.label_bits)
        labelling = Signal()
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
        m.d.sync += [writing.eq(reading), write_index.eq(layer.label_first + index)]

        count = counts_read.data
        count_bin = bin_of(count)
        fits = sparse_sum + count < dense_sum
        at_cut = count_bin == bin_cut
        label = Signal(label_layout())
        balanced = (count_bin < bin_cut) | at_cut & fits
        m.d.comb += [
            label.dead.eq(count == 0),
            label.bin.eq(count_bin),
            label.sparse.eq(Mux(refresh, Mux(layer.balance, balanced, count < layer.label_limit),
                                scheduler_read.data.sparse)),
        ]
        host_write = self.load_en & (load.space == Space.LABEL)
        host_slot = load.address[config.label_bits:][:config.slot_bits]
        with m.If(writing):
            m.d.comb += [
                label_write.addr.eq(Cat(write_index, ~table.bit_select(layer.label_slot, 1))),
                label_write.data.eq(label),
                label_write.en.eq(1),
            ]
            with m.If(at_cut & fits):
                m.d.sync += [sparse_sum.eq(sparse_sum + count), dense_sum.eq(dense_sum - layer.dense_cost)]
        with m.Else():
            m.d.comb += [
                label_write.addr.eq(Cat(load.address[:config.label_bits], table.bit_select(host_slot, 1))),
                label_write.data.eq(load.data),
                label_write.en.eq(host_write),
            ]

        ended = Signal()
        m.d.sync += ended.eq(self.layer_end)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(1)
                with m.If(self.start & self.layer.detect):
                    m.d.sync += [signal.eq(0) for signal in (channels, bins_used, dense_sum, sparse_sum)]
                    m.next = "COUNT"
            with m.State("COUNT"), m.If(ended):
                m.d.sync += [bin_cut.eq(0), index.eq(0)]
                m.next = "CUT"
            with m.State("CUT"):
                m.d.comb += cutting.eq(1)
                with m.If(both_fit):
                    m.d.sync += [bin_cut.eq(bin_cut + 2), sparse_sum.eq(both_sparse),
                                 dense_sum.eq(even_dense - in_bin[1].cost)]
                with m.Else():
                    with m.If(even_fits):
                        m.d.sync += [bin_cut.eq(bin_cut + 1), sparse_sum.eq(even_sparse), dense_sum.eq(even_dense)]
                    m.next = "LABEL"
            with m.State("LABEL"):
                m.d.comb += labelling.eq(1)
                with m.If(reading):
                    m.d.sync += index.eq(index + 1)
                with m.Elif(~writing):
                    m.d.sync += table.eq(table ^ (1 << layer.label_slot))
                    m.next = "IDLE"
        return m
