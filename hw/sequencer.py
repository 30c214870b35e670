"""Sequencer: fetches descriptors and carries them out. docs/program.md is the contract.

    FETCH ──> WAIT ──> CHECK ──> COPY ──> AHEAD ──> one of LOAD, STORE, BATCH, CONV and ELEMENTWISE ──> WAIT
    of the first       of a copy free     of the next

A descriptor is fetched before the work of the one before it begins, so that it is there when that is done. A layer's
work is to ask for its table, parameters and weights; it begins when the first two are there and the layer before it has
ended, while its weights are still coming. Its descriptor stays in the copy until then: one layer is prepared ahead.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from golden.program.descriptor import BYTES, ErrorCode, Opcode

from .bursts import BEATS_BITS, command_layout
from .checker import DESCRIPTOR_BITS, DescriptorChecker, descriptor_layout
from .config import Config
from .dma_read import read_layout
from .interfaces import STEP_BITS, layer_layout, load_layout
from .loader import INDEX_BITS, Job, Loader, job_layout
from .readout import address_shape

__all__ = ["Sequencer"]


class Sequencer(wiring.Component):
    """Runs one program.

    Members
    -------
    start : In(1)
        Only while nothing runs. What follows is stable from then on.
    program_base, data_base : In(axi_addr_bits), program_size, data_size : In(32), program_count : In(24)
        Where the regions of host memory are, in bytes, and how many descriptors there are.
    time_step : In(6)
    reads : Out(stream of command_layout), beats : In(stream of read_layout)
        To and from the read DMA.
    writes : Out(stream of command_layout), write_idle : In(1)
        To the write DMA; its beats come from the engine.
    load : Out(stream of load_layout), layer : Out(stream of layer_layout), addresses : Out(stream of beat address)
        To the engine.
    layer_done : In(1)
        The engine's layer has ended.
    done : Out(1)
        One cycle: END was reached.
    error : Out(8)
        Not 0 for one cycle: the program is refused, or a read failed on the bus. Nothing goes on until reset.
    error_descriptor : Out(24)
        With `error`.
    descriptor : Out(24), layer_descriptor : Out(24)
        Index of the descriptor that is at work, and of the layer that runs.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "start": In(1),
            "program_base": In(config.axi_addr_bits),
            "data_base": In(config.axi_addr_bits),
            "program_size": In(32),
            "data_size": In(32),
            "program_count": In(INDEX_BITS),
            "time_step": In(STEP_BITS),
            "reads": Out(stream.Signature(command_layout(config))),
            "beats": In(stream.Signature(read_layout(config))),
            "writes": Out(stream.Signature(command_layout(config))),
            "write_idle": In(1),
            "load": Out(stream.Signature(load_layout(config))),
            "layer": Out(stream.Signature(layer_layout(config))),
            "addresses": Out(stream.Signature(address_shape(config))),
            "layer_done": In(1),
            "done": Out(1),
            "error": Out(8),
            "error_descriptor": Out(INDEX_BITS),
            "descriptor": Out(INDEX_BITS),
            "layer_descriptor": Out(INDEX_BITS),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config = self.config

        m.submodules.loader = loader = Loader(config)
        m.submodules.checker = checker = DescriptorChecker(config)
        connect(m, flipped(self.beats), loader.beats)
        connect(m, loader.load, flipped(self.load))

        index = Signal(INDEX_BITS)          # of the next descriptor, fetched or not
        refused = Signal(8)                 # why it cannot be fetched
        current = Signal(DESCRIPTOR_BITS, reset_less=True)     # the copy
        items = {code: data.View(descriptor_layout(code), current) for code in Opcode}
        conv, transfer, batch = items[Opcode.CONV], items[Opcode.LOAD], items[Opcode.BATCH]
        opcode = conv.opcode
        blocks, samples = Signal(16), Signal(16)
        m.d.comb += [
            checker.beat.eq(self.beats.payload.data),
            checker.place.eq(loader.descriptor_place),
            checker.write.eq(loader.descriptor_write),
            checker.program_size.eq(self.program_size),
            checker.data_size.eq(self.data_size),
            checker.blocks.eq(blocks),
            checker.block.eq(loader.block),
        ]

        # A read and its job are given together. They wait in registers, where the address is made.
        job, waiting_job = Signal(job_layout(config)), Signal(job_layout(config), reset_less=True)
        ask = Signal()          # give the job, and the read if it has one; it is given when none waits
        read = Signal(data.StructLayout({"of_data": 1, "offset": 32, "beats": BEATS_BITS}))
        waiting_read = Signal.like(read, reset_less=True)
        reading, waiting_reading = Signal(), Signal()
        waits = Signal()
        given = ~waits
        m.d.comb += [
            loader.jobs.payload.eq(waiting_job),
            loader.jobs.valid.eq(waits & (self.reads.ready | ~waiting_reading)),
            self.reads.payload.address.eq(Mux(waiting_read.of_data, self.data_base, self.program_base)
                                          + waiting_read.offset),
            self.reads.payload.beats.eq(waiting_read.beats),
            self.reads.valid.eq(waits & waiting_reading & loader.jobs.ready),
        ]
        with m.If(given):
            m.d.sync += [waits.eq(ask), waiting_job.eq(job), waiting_read.eq(read), waiting_reading.eq(reading)]
        with m.Elif(loader.jobs.valid & loader.jobs.ready):
            m.d.sync += waits.eq(0)
        idle = Signal()         # all that was asked for is in its place
        m.d.comb += idle.eq(loader.idle & ~waits)

        # The layer that is prepared, and the one that runs.
        pending = Signal()
        running = Signal()
        half = Signal()         # of the channel table, the parameters and the sample table
        takes = self.layer.valid & self.layer.ready
        m.d.comb += [
            self.layer.valid.eq(loader.layer_ready),
            loader.layer_take.eq(takes),
        ]
        with m.If(takes):
            m.d.sync += [pending.eq(0), running.eq(1), self.layer_descriptor.eq(self.descriptor)]
        with m.Elif(self.layer_done):
            m.d.sync += running.eq(0)
        layers_done = ~pending & ~running
        table_first, param_first, sample_first = (
            Mux(half, depth // 2, 0) for depth in (config.table_depth, config.param_depth, config.samples))
        self._layer(m, items, opcode, table_first, sample_first)

        # Places in a transfer, or blocks of parameters. What is on chip was checked to lie there.
        chip_beats = range(config.act_nibbles // config.bus_nibbles + 1)
        left, chip, place, beat, last_beat = (
            Signal(chip_beats, name=name) for name in ("left", "chip", "place", "beat", "last_beat"))
        offset = Signal(32)
        param_place = Signal(24)
        number = Signal(16)
        block_offset, block_place, shift = Signal(32), Signal(32), Signal(5)
        m.d.comb += loader.block_index.eq(number)

        # What is known a cycle after its reasons.
        no_more, beyond = Signal(), Signal()    # the next descriptor is not one of the program, lies behind it
        come = Signal()                         # a descriptor
        copies = Signal()                       # a descriptor, which is first needed later
        is_end, runs = Signal(), Signal()       # it is END, is for this step
        last_block = Signal()
        m.d.sync += [
            no_more.eq(index == self.program_count),
            beyond.eq(index >= self.program_size >> BYTES.bit_length() - 1),
            come.eq(loader.descriptor_valid),
            is_end.eq(loader.descriptor[:8] == Opcode.END),
            runs.eq(data.View(descriptor_layout(Opcode.END), loader.descriptor).mask.bit_select(self.time_step, 1)),
            last_block.eq(conv.one_block | (number + 1 == blocks)),
            block_place.eq(conv.params + block_offset),
        ]

        m.d.sync += copies.eq(0)
        with m.If(copies):
            m.d.sync += current.eq(loader.descriptor)

        m.d.comb += self.error_descriptor.eq(index)
        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [index.eq(0), blocks.eq(0), samples.eq(0), refused.eq(0)]
                m.next = "FETCH"
            for state, then in (("FETCH", "WAIT"), ("AHEAD", "WORK")):
                with m.State(state):
                    m.next = f"{state} NOW"
                with m.State(f"{state} NOW"):
                    with m.If(no_more):
                        m.d.sync += refused.eq(ErrorCode.NO_END)
                        m.next = then
                    with m.Elif(beyond):
                        m.d.sync += refused.eq(ErrorCode.RANGE)
                        m.next = then
                    with m.Else():
                        m.d.comb += [
                            ask.eq(1), reading.eq(1),
                            job.kind.eq(Job.DESCRIPTOR), job.descriptor.eq(index),
                            read.offset.eq(index * BYTES),
                            read.beats.eq(8 * BYTES // config.bus_bits),
                        ]
                        with m.If(given):
                            m.next = then
            with m.State("WAIT"):
                m.d.sync += number.eq(0)
                with m.If(refused != 0):
                    m.next = "REFUSE"
                with m.Elif(come & loader.descriptor_valid):
                    with m.If(~is_end & ~runs):
                        m.d.comb += loader.descriptor_take.eq(1)
                        m.d.sync += index.eq(index + 1)
                        m.next = "FETCH"
                    with m.Else():
                        m.d.comb += checker.start.eq(1)
                        m.next = "CHECK"
            with m.State("CHECK"):
                m.d.comb += loader.block_index.eq(checker.block_index)
                with m.If(checker.done):
                    m.next = "COPY"
                    with m.If(checker.error != 0):
                        m.d.sync += refused.eq(checker.error)
                        m.next = "REFUSE"
            with m.State("COPY"), m.If(~pending):
                m.d.comb += loader.descriptor_take.eq(1)
                m.d.sync += [copies.eq(1), self.descriptor.eq(index), index.eq(index + 1),
                             number.eq(0)]
                m.next = "AHEAD"
                with m.If(is_end):
                    m.next = "END"
            with m.State("WORK"):
                m.d.sync += [offset.eq(transfer.offset), chip.eq(transfer.chip_first), left.eq(transfer.runs),
                             place.eq(transfer.chip_first), beat.eq(0), last_beat.eq(transfer.beats - 1),
                             param_place.eq(param_first), block_offset.eq(0)]
                with m.Switch(opcode):
                    with m.Case(int(Opcode.BATCH)), m.If(idle):
                        m.next = "BATCH"
                    with m.Case(int(Opcode.LOAD)), m.If(~transfer.wait | layers_done):
                        m.next = "LOAD"
                    with m.Case(int(Opcode.STORE)), m.If(layers_done & idle):
                        m.next = "STORE"
                    with m.Case(int(Opcode.CONV)):
                        m.d.sync += pending.eq(1)
                        m.next = "TABLE"
                    with m.Case(int(Opcode.ELEMENTWISE)):
                        m.d.sync += pending.eq(1)
                        m.next = "BLOCK"

            with m.State("BATCH"):
                m.d.sync += [blocks.eq(batch.blocks), samples.eq(batch.samples)]
                m.d.comb += [
                    ask.eq(1), reading.eq(1), job.kind.eq(Job.BATCH), job.descriptor.eq(self.descriptor),
                    job.count.eq(batch.blocks),
                    read.of_data.eq(1), read.offset.eq(batch.offset), read.beats.eq(batch.blocks + batch.samples),
                ]
                with m.If(given):
                    m.next = "BATCHED"
            with m.State("BATCHED"):
                with m.If(loader.bad_batch):
                    m.d.sync += [refused.eq(ErrorCode.BATCH), index.eq(self.descriptor)]
                with m.If(idle):
                    m.next = "WAIT"
                    with m.If(refused == ErrorCode.BATCH):
                        m.next = "REFUSE"

            with m.State("LOAD"):
                m.d.comb += [
                    ask.eq(1), reading.eq(1), job.kind.eq(Job.ACTIVATION), job.descriptor.eq(self.descriptor),
                    job.first.eq(chip),
                    read.of_data.eq(1), read.offset.eq(offset), read.beats.eq(transfer.beats),
                ]
                with m.If(given):
                    m.d.sync += [offset.eq(offset + transfer.stride), chip.eq(chip + transfer.chip_stride),
                                 left.eq(left - 1)]
                    with m.If(left == 1):
                        m.next = "WAIT"

            with m.State("STORE"):
                m.d.comb += [
                    self.writes.valid.eq(1),
                    self.writes.payload.address.eq(self.data_base + offset),
                    self.writes.payload.beats.eq(transfer.beats),
                ]
                with m.If(self.writes.ready):
                    m.d.sync += [offset.eq(offset + transfer.stride), left.eq(left - 1)]
                    m.next = "STORED"
            with m.State("STORED"):
                m.d.comb += [self.addresses.valid.eq(1), self.addresses.payload.eq(place)]
                with m.If(self.addresses.ready):
                    m.d.sync += [beat.eq(beat + 1), place.eq(place + 1)]
                    with m.If(beat == last_beat):
                        m.d.sync += [beat.eq(0), chip.eq(chip + transfer.chip_stride),
                                     place.eq(chip + transfer.chip_stride)]
                        m.next = "STORE"
                        with m.If(left == 0):
                            m.next = "WRITTEN"
            with m.State("WRITTEN"), m.If(self.write_idle):
                m.next = "WAIT"

            with m.State("TABLE"):
                m.d.comb += [
                    ask.eq(1), reading.eq(1), job.kind.eq(Job.TABLE), job.descriptor.eq(self.descriptor),
                    job.first.eq(table_first),
                    read.offset.eq(conv.table), read.beats.eq(conv.table_count),
                ]
                with m.If(given):
                    m.next = "BLOCK"
            with m.State("BLOCK"):      # its number comes
                m.next = "NUMBER"
            with m.State("NUMBER"):
                m.d.sync += shift.eq(conv.block_log2)
                m.next = "SHIFT"
                with m.If(conv.one_block):
                    m.next = "PARAMS"
                with m.Else():
                    m.d.sync += block_offset.eq(loader.block)
            with m.State("SHIFT"):
                m.d.sync += [block_offset.eq(block_offset << 1), shift.eq(shift - 1)]
                with m.If(shift == 1):  # it is at least 4
                    m.next = "PLACE"
            with m.State("PLACE"):      # comes
                m.next = "PARAMS"
            with m.State("PARAMS"):
                m.d.comb += [
                    ask.eq(1), reading.eq(1), job.kind.eq(Job.PARAM), job.descriptor.eq(self.descriptor),
                    job.first.eq(param_place), job.count.eq(number),
                    read.offset.eq(block_place), read.beats.eq(checker.block_beats),
                ]
                with m.If(given):
                    m.d.sync += [number.eq(number + 1), param_place.eq(param_place + conv.outputs)]
                    m.next = "BLOCK"
                    with m.If(last_block):
                        m.next = "SAMPLES"
            with m.State("SAMPLES"):
                m.d.comb += [
                    ask.eq(1), job.kind.eq(Job.SAMPLE), job.descriptor.eq(self.descriptor),
                    job.first.eq(sample_first), job.count.eq(samples), job.one_block.eq(conv.one_block),
                ]
                with m.If(given):
                    m.next = "LAYER"
            with m.State("LAYER"):
                m.d.comb += [ask.eq(1), job.kind.eq(Job.LAYER), job.descriptor.eq(self.descriptor)]
                with m.If(given):
                    m.next = "WEIGHTS"
                    with m.If(opcode == Opcode.ELEMENTWISE):
                        m.next = "WAIT"
            with m.State("WEIGHTS"):
                m.d.comb += [
                    ask.eq(1), reading.eq(1), job.kind.eq(Job.WEIGHT), job.descriptor.eq(self.descriptor),
                    job.count.eq(conv.words), job.groups.eq(conv.groups), job.one_tap.eq(conv.one_tap),
                    read.offset.eq(conv.weights), read.beats.eq(checker.weight_beats),
                ]
                with m.If(given):
                    m.next = "WAIT"

            ended = layers_done & idle & self.write_idle
            with m.State("END"), m.If(ended):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
            with m.State("REFUSE"), m.If(ended):
                m.d.comb += self.error.eq(refused)
                m.next = "IDLE"
        with m.If(takes):
            m.d.sync += half.eq(~half)
        with m.If(loader.error):
            m.d.comb += [self.error.eq(ErrorCode.BUS_READ), self.error_descriptor.eq(loader.error_descriptor)]
        return m

    def _layer(self, m: Module, items: dict[Opcode, data.View], opcode: Signal, table_first: Signal,
               sample_first: Signal) -> None:
        """The engine's configuration word, from the copy."""
        conv, elementwise, layer = items[Opcode.CONV], items[Opcode.ELEMENTWISE], self.layer.payload
        is_conv = opcode == Opcode.CONV
        named = {field for field, _ in conv.shape()} & {field for field, _ in layer.shape()}
        m.d.comb += [layer[name].eq(conv[name]) for name in sorted(named)]
        m.d.comb += [
            layer.table_first.eq(table_first),
            layer.table_count.eq(Mux(is_conv, conv.table_count, 0)),
            layer.sample_first.eq(sample_first),
            layer.step.eq(self.time_step),
            layer.out_format.wide.eq(conv.out_wide),
            layer.out_format.signed.eq(conv.out_signed),
            layer.res_format.wide.eq(conv.res_wide),
            layer.res_format.signed.eq(conv.res_signed),
            layer.elementwise.eq(~is_conv),
            layer.x_base.eq(elementwise.in0_base),
            layer.x_channel.eq(elementwise.x_channel),
            layer.x_plane.eq(elementwise.x_plane),
            layer.x_format.wide.eq(elementwise.x_wide),
            layer.x_format.signed.eq(elementwise.x_signed),
            layer.x_strided.eq(elementwise.x_strided & ~is_conv),
        ]
