"""Sparsity detector: counts the nonzeros of every channel that is written, and labels the channels when the layer ends.

States, and what they cost:

    IDLE    nothing to do
    COUNT   a layer runs. The post-processor reports the nonzeros of each write; they add up per column of the k-tile.
            When a k-tile ends its counts move, in the background of the next one, to the channels' counts and to the
            histogram: the sums of nonzeros and of dense cost, for each of 32 bins of the count.
    SWEEP   the layer has ended: the counts that are left move.             the last k-tile's channels (4 x with
                                                                            space-to-depth), of two k-tiles if short
    CUT     mode `balance`: how many bins, sparsest first, go to sparse.    up to 33 cycles, in `threshold` 1
    LABEL   one channel per cycle: label = f(count), to the other table.    channels + 2 cycles
            The tensor's slot then turns to the other table.

Modes. `threshold` (SQ-DM, section IV): sparse where the nonzeros are fewer than label_limit; 30 % zeros is
label_limit = pixels - floor(0.3 * pixels). `balance` (ours): a sparse array's cycles are in proportion to the nonzeros,
a dense one's to the number of channels, so with dense_cost = the nonzeros that cost as much as a dense channel,

    bins are added, sparsest first, while   sparse nonzeros + the bin's nonzeros < dense_cost * channels still dense;

within the bin where this ends, channels are added one by one by the same rule. Both limits are counts made by the
compiler, so no multiplier is needed.

`dead` (all zero) is always new, since it says what to leave out; `sparse` is kept from before in the time steps that
the refresh policy leaves out. Labels never change a result, only the time it takes.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
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
    nonzeros : bits of rows
    """
    return data.StructLayout({"column": range(config.cols), "part": 2, "nonzeros": range(config.rows + 1)})


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
        With the last count of a k-tile.
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
        parts_last = Mux(layer.transform == Transform.SPACE_TO_DEPTH, PARTS - 1, 0)

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

        # Counts of the k-tile: one bank adds up, the other is swept.
        m.submodules.columns = columns = Memory(shape=unsigned(count_bits), depth=2 * PARTS << column_bits, init=[])
        add_read, add_write = columns.read_port(domain="comb"), columns.write_port()
        sweep_read = columns.read_port(domain="comb")
        bank = Signal()
        fresh = Signal(PARTS << column_bits)    # columns of the k-tile without a count yet
        place = Cat(self.count.part, self.count.column)
        first = fresh.bit_select(place, 1)
        m.d.comb += [
            add_read.addr.eq(Cat(place, bank)),
            add_write.addr.eq(add_read.addr),
            add_write.data.eq(Mux(first, 0, add_read.data) + self.count.nonzeros),
            add_write.en.eq(self.count_en),
        ]
        with m.If(self.count_en):
            m.d.sync += fresh.eq(fresh & ~(1 << place))
        with m.If(self.ktile_end | self.start):
            m.d.sync += [bank.eq(bank ^ self.ktile_end), fresh.eq(~0)]

        # Sweep: to the channels' counts and the histogram.
        m.submodules.counts = counts = Memory(shape=unsigned(count_bits), depth=config.label_depth, init=[])
        counts_write, counts_read = counts.write_port(), counts.read_port()
        m.submodules.histogram = histogram = Memory(
            shape=data.StructLayout(dict.fromkeys(("nonzeros", "cost"), count_bits + config.label_bits)), depth=BINS,
            init=[])
        bin_read, bin_write = histogram.read_port(domain="comb"), histogram.write_port()
        bins_used = Signal(BINS)
        sums = histogram.shape["nonzeros"].shape
        sparse_sum, dense_sum = Signal(sums), Signal(sums)

        def bin_of(count: Signal) -> Signal:
            scaled = count >> layer.bin_shift
            return Mux(scaled > BINS - 1, BINS - 1, scaled[:LABEL_BIN_BITS])

        ended = Signal(range(3))    # k-tiles to be swept: a short last one may end during the sweep of the one before
        sweep_bank = Signal()
        sweeping = ended != 0
        sweep_end = Signal()
        column, part = Signal(range(config.cols)), Signal(range(PARTS))
        k_tile = Signal.like(layer.k_tiles)
        channels = Signal(config.label_bits + 1)    # swept so far
        swept = sweep_read.data
        last_column = column == Mux(k_tile == layer.k_tiles - 1, layer.last_cols - 1, config.cols - 1)
        bin_cut = Signal(range(BINS + 1))
        cutting = Signal()
        m.d.comb += [
            sweep_read.addr.eq(Cat(part, column) | (sweep_bank << (column_bits + 2))),
            counts_write.addr.eq(channels),
            counts_write.data.eq(swept),
            counts_write.en.eq(sweeping),
            bin_read.addr.eq(Mux(cutting, bin_cut, bin_of(swept))),
            bin_write.addr.eq(bin_read.addr),
            bin_write.en.eq(sweeping),
        ]
        used = bins_used.bit_select(bin_read.addr, 1)
        in_bin = Signal(histogram.shape)
        m.d.comb += [
            in_bin.nonzeros.eq(Mux(used, bin_read.data.nonzeros, 0)),
            in_bin.cost.eq(Mux(used, bin_read.data.cost, 0)),
            bin_write.data.nonzeros.eq(in_bin.nonzeros + swept),
            bin_write.data.cost.eq(in_bin.cost + layer.dense_cost),
        ]
        with m.If(sweeping):
            m.d.sync += [channels.eq(channels + 1), dense_sum.eq(dense_sum + layer.dense_cost),
                         bins_used.eq(bins_used | (1 << bin_read.addr)), part.eq(part + 1)]
            with m.If(part == parts_last):
                m.d.sync += [part.eq(0), column.eq(column + 1)]
                with m.If(last_column):
                    m.d.comb += sweep_end.eq(1)
                    m.d.sync += [column.eq(0), k_tile.eq(k_tile + 1)]
        m.d.sync += [
            ended.eq(ended + (self.ktile_end & layer.detect) - sweep_end),
            sweep_bank.eq(Mux(self.start, bank, sweep_bank ^ sweep_end)),
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

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(1)
                with m.If(self.start & self.layer.detect):
                    m.d.sync += [signal.eq(0) for signal in (channels, k_tile, bins_used, dense_sum, sparse_sum)]
                    m.next = "COUNT"
            with m.State("COUNT"), m.If(self.layer_end):
                m.next = "SWEEP"
            with m.State("SWEEP"), m.If(~sweeping):
                m.d.sync += [bin_cut.eq(0), index.eq(0)]
                m.next = "CUT"
            with m.State("CUT"):
                m.d.comb += cutting.eq(1)
                with m.If(layer.balance & (bin_cut != BINS) & (sparse_sum + in_bin.nonzeros < dense_sum)):
                    m.d.sync += [bin_cut.eq(bin_cut + 1), sparse_sum.eq(sparse_sum + in_bin.nonzeros),
                                 dense_sum.eq(dense_sum - in_bin.cost)]
                with m.Else():
                    m.next = "LABEL"
            with m.State("LABEL"):
                m.d.comb += labelling.eq(1)
                with m.If(reading):
                    m.d.sync += index.eq(index + 1)
                with m.Elif(~writing):
                    m.d.sync += table.eq(table ^ (1 << layer.label_slot))
                    m.next = "IDLE"
        return m
