"""Loader: takes the beats that were read from host memory to where its jobs say.

A job belongs to one command of the read DMA, and jobs are in the order of the commands, so the first beat that comes is
the first job's; two kinds of job read nothing. Registers lie between beats and memories; a LAYER job is done when all
before it is in the memories.

    DESCRIPTOR  into the descriptor register
    BATCH       block numbers and sample indices, into two small memories
    ACTIVATION, TABLE, PARAM    beat by beat, from an address on
    WEIGHT      k-tile by k-tile: taps of the words, then scale codes
    SAMPLE      nothing is read: for each sample the place of its parameter block
    LAYER       nothing is read: the layer has all that it needs to begin
"""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, enum, fifo, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from .checker import DESCRIPTOR_BITS
from .config import Config
from .dma_read import read_layout
from .interfaces import Space, load_layout
from .skid import Skid

__all__ = ["Job", "Loader", "job_layout"]

JOBS = 4    # that wait: as many as bursts may be outstanding by default, and small ones at that
INDEX_BITS = 24


class Job(enum.Enum, shape=3):
    """What a job's beats are."""

    DESCRIPTOR = 0
    BATCH = 1
    ACTIVATION = 2
    TABLE = 3
    PARAM = 4
    WEIGHT = 5
    SAMPLE = 6
    LAYER = 7


def job_layout(config: Config) -> data.StructLayout:
    """A job.

    Members
    -------
    kind : Job
    descriptor : 24 bits
        Index of the descriptor that asked for it.
    first : 24 bits
        ACTIVATION: first beat on chip. TABLE, PARAM, SAMPLE: first entry, word, sample.
    count : 16 bits
        BATCH: blocks. PARAM: number of the block in the batch. SAMPLE: samples. WEIGHT: words of a k-tile.
    groups : 12 bits, one_tap : 1 bit
        WEIGHT: groups of a k-tile; only centre taps come.
    one_block : 1 bit
        SAMPLE: all samples use the layer's first block.
    """
    return data.StructLayout({
        "kind": Job, "descriptor": INDEX_BITS, "first": 24, "count": 16, "groups": 12, "one_tap": 1,
        "one_block": 1})


class Loader(wiring.Component):
    """Distributes beats.

    Members
    -------
    jobs : In(stream of job_layout)
    beats : In(stream of read_layout)
    load : Out(stream of load_layout)
    descriptor : Out(1024)
        The descriptor that was read last, while `descriptor_valid`.
    descriptor_valid : Out(1)
        Set by a DESCRIPTOR job, cleared by `descriptor_take`.
    descriptor_take : In(1)
    descriptor_place : Out(bits of the beats of a descriptor), descriptor_write : Out(1)
        The beat that passes in this cycle is this one of a descriptor.
    block_index : In(16), block : Out(16)
        Block number of the batch, in the next cycle.
    layer_ready : Out(1)
        A LAYER job was done; cleared by `layer_take`.
    layer_take : In(1)
    bad_batch : Out(1)
        One cycle: the batch table had a sample index beyond its blocks.
    error : Out(1), error_descriptor : Out(24)
        The first beat of this job failed on the bus; nothing goes on until reset.
    idle : Out(1)
        There are no jobs, and nothing is under way to a memory.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "jobs": In(stream.Signature(job_layout(config))),
            "beats": In(stream.Signature(read_layout(config))),
            "load": Out(stream.Signature(load_layout(config))),
            "descriptor": Out(DESCRIPTOR_BITS),
            "descriptor_valid": Out(1),
            "descriptor_take": In(1),
            "descriptor_place": Out(range(DESCRIPTOR_BITS // config.bus_bits)),
            "descriptor_write": Out(1),
            "block_index": In(16),
            "block": Out(16),
            "layer_ready": Out(1),
            "layer_take": In(1),
            "bad_batch": Out(1),
            "error": Out(1),
            "error_descriptor": Out(INDEX_BITS),
            "idle": Out(1),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config, beats = self.config, self.beats
        m.submodules.skid = skid = Skid(load_layout(config))
        connect(m, skid.o, flipped(self.load))
        load = skid.i.payload
        half_samples = config.samples // 2

        m.submodules.queue = queue = fifo.SyncFIFO(width=job_layout(config).size, depth=JOBS)
        job = Signal(job_layout(config), reset_less=True)
        last_sample = Signal(range(half_samples), reset_less=True)
        at_work = Signal()
        number = Signal(24)     # beats of the job that passed
        passed = Signal()       # a beat passes
        done = Signal()
        # The job after it waits in a register, for it takes long enough to see that one is done.
        following = Signal(job_layout(config), reset_less=True)
        waits = Signal()
        with m.If(done | ~at_work):
            m.d.sync += [job.eq(following), last_sample.eq(following.count - 1), at_work.eq(waits), waits.eq(0)]
        with m.If(~waits):
            m.d.sync += [following.eq(queue.r_data), waits.eq(queue.r_rdy)]
        m.d.comb += [
            queue.r_en.eq(~waits),
            queue.w_data.eq(self.jobs.payload),
            queue.w_en.eq(self.jobs.valid),
            self.jobs.ready.eq(queue.w_rdy),
            self.idle.eq(~queue.r_rdy & ~waits & ~at_work & skid.empty),
            self.error.eq(at_work & beats.valid & beats.payload.error & (job.kind != Job.SAMPLE)
                          & (job.kind != Job.LAYER)),
            self.error_descriptor.eq(job.descriptor),
        ]
        beat_valid = at_work & beats.valid & ~beats.payload.error
        with m.If(done):
            m.d.sync += number.eq(0)
        with m.Elif(passed):
            m.d.sync += number.eq(number + 1)
        # A descriptor's beats pass through a register of their own, for its enable has far to go.
        moves, complete = Signal(), Signal()
        beat = Signal(config.bus_bits, reset_less=True)
        m.d.sync += [moves.eq(self.descriptor_write), complete.eq(self.descriptor_write & beats.payload.last),
                     beat.eq(beats.payload.data)]
        with m.If(moves):
            m.d.sync += self.descriptor.eq(Cat(self.descriptor[config.bus_bits:], beat))
        with m.If(self.descriptor_take):
            m.d.sync += self.descriptor_valid.eq(0)
        with m.If(complete):
            m.d.sync += self.descriptor_valid.eq(1)
        with m.If(self.layer_take):
            m.d.sync += self.layer_ready.eq(0)

        # The batch: numbers of its blocks, each sample's index among them, and where the layer's blocks begin.
        m.submodules.blocks = blocks = Memory(shape=unsigned(16), depth=half_samples, init=[])
        m.submodules.indices = indices = Memory(shape=unsigned(16), depth=half_samples, init=[])
        m.submodules.places = places = Memory(shape=range(config.param_depth), depth=half_samples, init=[])
        block_write, index_write, place_write = (memory.write_port() for memory in (blocks, indices, places))
        block_read, index_read, place_read = (memory.read_port(domain="comb") for memory in (blocks, indices, places))
        value = beats.payload.data[:16]
        of_sample = Signal(24)
        m.d.comb += [
            block_read.addr.eq(self.block_index),
            block_write.addr.eq(number),
            block_write.data.eq(value),
            of_sample.eq(number - job.count),
            index_write.addr.eq(of_sample),
            index_write.data.eq(value),
            index_read.addr.eq(number),
            place_read.addr.eq(Mux(job.one_block, 0, index_read.data)),
            place_write.addr.eq(job.count),
            place_write.data.eq(job.first),
        ]

        m.d.sync += self.block.eq(block_read.data)

        # Addresses within the spaces.
        param_bits = (config.param_beats - 1).bit_length()
        param_beat = Signal(range(max(2, config.param_beats)))
        param_word = Signal(24)
        weight, weight_end = self._weight(m, job, passed)
        to_memory = Signal()
        m.d.comb += [
            load.data.eq(beats.payload.data),
            skid.i.valid.eq(to_memory & beat_valid),
            beats.ready.eq(beat_valid & (skid.i.ready | ~to_memory)),
            passed.eq(beats.valid & beats.ready),
        ]
        with m.Switch(job.kind):
            with m.Case(Job.DESCRIPTOR):
                m.d.comb += [done.eq(passed & beats.payload.last), self.descriptor_write.eq(passed),
                             self.descriptor_place.eq(number)]
            with m.Case(Job.BATCH):
                m.d.comb += [
                    done.eq(passed & beats.payload.last),
                    block_write.en.eq(passed & (number[:16] < job.count)),
                    index_write.en.eq(passed & (number[:16] >= job.count)),
                    self.bad_batch.eq(index_write.en & (value >= job.count)),
                ]
            with m.Case(Job.ACTIVATION, Job.TABLE):
                m.d.comb += [
                    to_memory.eq(1),
                    done.eq(passed & beats.payload.last),
                    load.space.eq(Mux(job.kind == Job.TABLE, Space.TABLE, Space.ACTIVATION)),
                    load.address.eq(job.first + number),
                ]
            with m.Case(Job.PARAM):
                m.d.comb += [
                    to_memory.eq(1),
                    done.eq(passed & beats.payload.last),
                    load.space.eq(Space.PARAM),
                    load.address.eq((job.first + param_word) << param_bits | param_beat),
                    place_write.en.eq(passed),
                ]
                with m.If(passed):
                    m.d.sync += param_beat.eq(param_beat + 1)
                    with m.If(param_beat == config.param_beats - 1):
                        m.d.sync += [param_beat.eq(0), param_word.eq(Mux(done, 0, param_word + 1))]
            with m.Case(Job.WEIGHT):
                m.d.comb += [
                    to_memory.eq(1),
                    done.eq(passed & beats.payload.last),
                    load.space.eq(weight.space),
                    load.address.eq(weight.address),
                    load.commit.eq(weight_end),
                ]
            with m.Case(Job.SAMPLE):
                m.d.comb += [
                    skid.i.valid.eq(at_work),
                    beats.ready.eq(0),
                    passed.eq(skid.i.valid & skid.i.ready),
                    done.eq(passed & (number[:len(last_sample)] == last_sample)),
                    load.space.eq(Space.SAMPLE),
                    load.address.eq(job.first + number),
                    load.data.eq(place_read.data),
                ]
            with m.Case(Job.LAYER):
                m.d.comb += [beats.ready.eq(0), passed.eq(0), done.eq(at_work & skid.empty)]
                with m.If(done):
                    m.d.sync += self.layer_ready.eq(1)
        return m

    def _weight(self, m: Module, job: data.View, passed: Signal) -> tuple[data.View, Signal]:
        """Where the next beat of a WEIGHT job goes, and whether it is its k-tile's last."""
        config = self.config
        tap_bits, scale_bits = ((beats - 1).bit_length() for beats in (config.tap_beats, config.scale_beats))
        lane_bits = config.scale_bits - config.group_bits
        place = Signal(data.StructLayout({"space": Space, "address": 24}))
        codes = Signal()        # the words are done
        beat = Signal(range(max(2, config.tap_beats, config.scale_beats)))
        inner = Signal(range(max(3, config.lanes_per_scale)))   # tap, or lane
        outer = Signal(16)      # word, or group
        last_beat = beat == Mux(codes, config.scale_beats - 1, config.tap_beats - 1)
        last_inner = inner == Mux(codes, config.lanes_per_scale - 1, Mux(job.one_tap, 0, 2))
        last_outer = outer + 1 == Mux(codes, job.groups, job.count)
        tap = Mux(job.one_tap, 1, inner[:2])
        m.d.comb += [
            place.space.eq(Mux(codes, Space.SCALE, Space.WEIGHT)),
            place.address.eq(Mux(codes, (outer << lane_bits | inner) << scale_bits | beat,
                                 (outer << 2 | tap) << tap_bits | beat)),
        ]
        with m.If(passed & (job.kind == Job.WEIGHT)):
            m.d.sync += beat.eq(beat + 1)
            with m.If(last_beat):
                m.d.sync += [beat.eq(0), inner.eq(inner + 1)]
                with m.If(last_inner):
                    m.d.sync += [inner.eq(0), outer.eq(outer + 1)]
                    with m.If(last_outer):
                        m.d.sync += [outer.eq(0), codes.eq(~codes)]
        end = Signal()
        m.d.comb += end.eq(codes & last_beat & last_inner & last_outer)
        return place, end
