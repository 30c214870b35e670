"""Post-processor: sums the arrays' accumulators, applies the layer's formula and writes the result back.

    y = clamp((acc*M + B + residual*R + (1 << (S-1))) >> S), 0 where |y| < dead_zone

A tile is cut into *segments*: the pixels of one sample (their parameters differ from sample to sample), or of one map
line where a transform moves lines apart. Per segment and output channel it makes one *step* per write:

    transform         steps of a 4-bit result, twice as many (low plane, high plane) of an 8-bit one
    none              1
    2x upsample       4: left and right half of the pixels, to two lines each (an empty half is left out)
    space-to-depth    2: even and odd columns

Every step takes the whole pipeline, so that nothing in it ever waits:

    cycle   0 lane and reads are asked for   1 accumulators, parameters come   2 nibbles come
            2 to 13 the formula, see `hw.formula`   14 write

Nibble planes are read one per cycle through one port, the last one in the cycle of issue: of the residual and, in an
element-wise layer, of the tensor x that stands for the accumulators; of each the high plane first. A strided x is
read whole lines at a time, of which every second pixel of every second line is taken: so a map's space-to-depth form is
written a whole tile at a time, as the write transform cannot.

Whatever a layer's fields say, nothing outside out_base..out_end is written: `outside` tells that it was tried.
"""

from itertools import pairwise
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, enum, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .actmem import READ_CYCLES, read_port_signature
from .config import Config
from .dense import tiles_signature
from .detector import count_layout
from .formula import Shared, number, result
from .guard import GUARD_CYCLES, WriteGuard
from .interfaces import Space, Transform, layer_layout, load_layout, write_layout
from .segments import SegmentWalker, half_rows, segment_layout

__all__ = ["PostProcessor"]

WAIT = READ_CYCLES - 2  # cycles that accumulators and parameters wait for what is read
DEPTH = 13 + WAIT       # cycles from a step's issue to that in which its results are ready to be written


class Read(enum.Enum, shape=2):
    """Nibble planes that a step reads, in order."""

    RES_HIGH = 0
    RES_LOW = 1
    X_HIGH = 2
    X_LOW = 3


class PostProcessor(wiring.Component):
    """Post-processor of one engine.

    Members
    -------
    layer : In(layer_layout)
        Stable from `start` until `idle`.
    start : In(1)
        Begin the layer; only while `idle`.
    idle : Out(1)
        The layer's last write has been made.
    tiles : In(tiles_signature) x arrays
    used : In(1) x arrays
        The array has channels in this layer. Tiles are only taken while `lists_complete`.
    lists_complete : In(1)
    load : In(load_layout)
        A beat of PARAM or SAMPLE; others are passed over.
    load_en : In(1)
    residual : Out(read_port_signature)
        Always taken: nobody comes first on this port.
    write : Out(write_layout)
        Always taken.
    count : Out(count_layout), count_en : Out(1), ktile_end : Out(1), layer_end : Out(1)
        Nonzeros written, see `hw.detector`.
    busy, extra : Out(1)
        In this cycle: a step is issued; it is a further write of the same result.
    outside : Out(1)
        Something was not written in this cycle because it lay outside the output's region.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "layer": In(layer_layout(config)),
            "start": In(1),
            "idle": Out(1),
            "tiles": In(tiles_signature(config)).array(config.arrays),
            "used": In(config.arrays),
            "lists_complete": In(1),
            "load": In(load_layout(config)),
            "load_en": In(1),
            "residual": Out(read_port_signature(config)),
            "write": Out(write_layout(config)),
            "count": Out(count_layout(config)),
            "count_en": Out(1),
            "ktile_end": Out(1),
            "layer_end": Out(1),
            "busy": Out(1),
            "extra": Out(1),
            "outside": Out(1),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config, layer = self.config, self.layer
        rows, cols, addr_bits = config.rows, config.cols, config.addr_bits

        # What a layer's fields say, registered, for they go to many places.
        upsample, to_depth, by_line = Signal(), Signal(), Signal()
        unused = Signal(config.arrays)
        any_read = Signal()
        copy_step = Signal(addr_bits, reset_less=True)      # from a write to the next copy, or the odd columns
        half_copy = Signal(addr_bits, reset_less=True)      # to the next copy of the second half
        m.d.sync += [
            upsample.eq(layer.transform == Transform.UPSAMPLE),
            to_depth.eq(layer.transform == Transform.SPACE_TO_DEPTH),
            by_line.eq((layer.transform == Transform.UPSAMPLE) | (layer.transform == Transform.SPACE_TO_DEPTH)),
            unused.eq(~self.used),
            any_read.eq(layer.residual | layer.elementwise),
            copy_step.eq(Mux(upsample, layer.width << 1, layer.out_channel >> 2)),
            half_copy.eq(copy_step + 2 * half_rows(config)),
        ]

        # Parameters, loaded beat by beat.
        beat_bits = (config.param_beats - 1).bit_length()
        m.submodules.params = params = Memory(
            shape=config.param_beats * config.bus_bits, depth=config.param_depth, init=[])
        param_write = params.write_port(granularity=config.bus_bits)
        param_read = params.read_port()
        is_param = self.load_en & (self.load.space == Space.PARAM)
        m.d.comb += [
            param_write.addr.eq(self.load.address[beat_bits:]),
            param_write.data.eq(self.load.data.replicate(config.param_beats)),
            param_write.en.eq(Cat(is_param & (self.load.address[:beat_bits] == beat)
                                  for beat in range(config.param_beats))),
        ]

        m.submodules.walker = walker = SegmentWalker(config)
        m.d.comb += [walker.layer.eq(layer), walker.start.eq(self.start), walker.load.eq(self.load),
                     walker.load_en.eq(self.load_en)]
        segment = Signal(segment_layout(config))

        # Steps of one result: half of the pixels, line copy or column parity, plane.
        lane = Signal(range(cols))
        part = Signal()         # upsample: half of the pixels
        copy = Signal()         # upsample: line copy; space-to-depth: column parity
        plane = Signal()
        first_part, last_part = segment.parts
        wide = layer.out_format.wide
        next_plane = plane ^ wide
        next_copy = copy ^ (by_line & (plane == wide))
        next_part = part | (plane == wide) & (copy == by_line)

        # Reads of a step, in order; the step is issued with the last one.
        reads = Signal(Read)
        first_x, first_read = Signal(Read), Signal(Read)
        single_read, single_x = Signal(), Signal()
        m.d.sync += [
            first_x.eq(Mux(layer.x_format.wide, Read.X_HIGH, Read.X_LOW)),
            first_read.eq(Mux(layer.residual, Mux(layer.res_format.wide, Read.RES_HIGH, Read.RES_LOW), first_x)),
            single_x.eq(~layer.x_format.wide),
            single_read.eq(Mux(layer.residual, ~layer.res_format.wide & ~layer.elementwise,
                               ~layer.elementwise | ~layer.x_format.wide)),
        ]

        # Whether this is the last of several is known in a register for each: all of them together end a segment.
        last_read, last_step, last_lane = Signal(), Signal(), Signal()
        taking, waiting, stepping = Signal(), Signal(), Signal()
        issue, step_end, segment_end = Signal(), Signal(), Signal()
        m.d.comb += [
            issue.eq(stepping & last_read),
            step_end.eq(stepping & last_read & last_step),
            segment_end.eq(stepping & last_read & last_step & last_lane),
        ]
        with m.If(issue | ~stepping):
            m.d.sync += [reads.eq(first_read), last_read.eq(single_read)]
        with m.Else(), m.Switch(reads):
            with m.Case(Read.RES_HIGH):
                m.d.sync += [reads.eq(Read.RES_LOW), last_read.eq(~layer.elementwise)]
            with m.Case(Read.RES_LOW):
                m.d.sync += [reads.eq(first_x), last_read.eq(single_x)]
            with m.Default():
                m.d.sync += [reads.eq(Read.X_LOW), last_read.eq(1)]

        running = Signal()
        take = taking & walker.valid
        ready = Cat(tiles.ready for tiles in self.tiles)
        tile_ready = self.lists_complete & ((ready | ~self.used) == (1 << config.arrays) - 1)
        first = Signal(init=1)      # the next segment begins a tile
        m.d.comb += walker.take.eq(take)
        with m.If(self.start):
            m.d.sync += [running.eq(1), taking.eq(1), first.eq(1)]
        with m.If(take):
            m.d.sync += [taking.eq(0), waiting.eq(first), stepping.eq(~first)]
        with m.If(taking):
            first_now, last_now = walker.segment.parts
            m.d.sync += [
                segment.eq(walker.segment), lane.eq(0), copy.eq(0), plane.eq(0), part.eq(first_now),
                last_step.eq(~wide & ~by_line & (first_now == last_now)), last_lane.eq(walker.segment.last_lane == 0),
            ]
        with m.If(waiting & tile_ready):
            m.d.sync += [waiting.eq(0), stepping.eq(1)]
        with m.If(issue):
            m.d.sync += [
                plane.eq(next_plane), copy.eq(next_copy), part.eq(next_part),
                last_step.eq((next_plane == wide) & (next_copy == by_line) & (next_part == last_part)),
            ]
        with m.If(step_end):
            m.d.sync += [
                lane.eq(lane + 1), last_lane.eq(lane + 1 == segment.last_lane), part.eq(first_part),
                last_step.eq(~wide & ~by_line & (first_part == last_part)),
            ]
        with m.If(segment_end):
            m.d.sync += [stepping.eq(0), taking.eq(~segment.ends_layer), first.eq(segment.ends_tile)]
            with m.If(segment.ends_layer):
                m.d.sync += running.eq(0)

        # Where the lane's channel begins, of each tensor; and from there on, what is read.
        def channel(name: str, base: Value, step: Value, pixel: Value) -> tuple[Signal, Signal]:
            ktile = Signal(addr_bits, name=f"{name}_ktile")     # of lane 0
            begin = Signal(addr_bits, name=f"{name}_begin")
            place = Signal(addr_bits, name=f"{name}_place")     # of row 0
            following = (begin + step)[:addr_bits]
            with m.If(taking | step_end):
                m.d.sync += [begin.eq(Mux(taking, ktile, following)),
                             place.eq(Mux(taking, ktile, place) + Mux(taking, pixel, step))]
            with m.If(segment_end & segment.ends_ktile):
                m.d.sync += ktile.eq(following)
            with m.If(self.start):
                m.d.sync += ktile.eq(base)
            return begin, place

        # From channel to channel of x; of a strided one, from pixel to pixel and line to line of four results.
        x_step = Signal(addr_bits, reset_less=True)
        if config.strided_widths:
            x_steps = [Signal(addr_bits, name=f"x_step{lane}", reset_less=True) for lane in range(3)]
            line_step = layer.width << 1
            m.d.sync += [x_steps[0].eq(Mux(layer.x_strided, 1, layer.x_channel)),
                         x_steps[1].eq(Mux(layer.x_strided, line_step - 1, layer.x_channel)),
                         x_steps[2].eq(Mux(layer.x_strided, layer.x_channel - line_step - 1, layer.x_channel))]
            with m.If(taking | step_end):
                m.d.sync += x_step.eq(Mux(taking | lane[0], x_steps[0], Mux(lane[1], x_steps[2], x_steps[1])))
        else:
            m.d.sync += x_step.eq(layer.x_channel)
        out_begin, _ = channel("out", layer.out_base, layer.out_channel, Const(0, 1))
        _, res_place = channel("res", layer.res_base, layer.res_channel, walker.segment.pixel)
        _, x_place = channel("x", layer.x_base, x_step, walker.segment.x_pixel)

        # Cycle 0: what is read, of the arrays and in memory.
        step = data.StructLayout({
            "valid": 1, "rows": rows, "plane": 1, "part": 1, "odd_first": 1, "counts": 1, "final": 1,
            "column": range(cols), "channel": 2, "ends_ktile": 1, "ends_layer": 1,
        })
        steps = [Signal(step, name=f"step{cycle}") for cycle in range(DEPTH + 1)]
        now_lane = Signal.like(lane)
        release = Signal(config.arrays)
        # Of the parameters, which come when the nibbles do; the first one is a cycle early.
        param_addrs = [Signal(range(config.param_depth), name=f"param_addr{age}", reset_less=True)
                       for age in range(WAIT + 2)]
        of_x = (reads == Read.X_HIGH) | (reads == Read.X_LOW)
        high_plane = Mux(reads == Read.X_HIGH, layer.x_plane, Mux(reads == Read.RES_HIGH, layer.res_plane, 0))
        m.d.sync += [
            now_lane.eq(lane),
            release.eq(Mux(segment_end & segment.ends_tile, ~unused, 0)),
            param_addrs[0].eq(segment.param + lane), *(new.eq(old) for old, new in pairwise(param_addrs)),
            self.residual.en.eq(stepping & any_read),
            self.residual.addr.eq(Mux(of_x, x_place, res_place) + high_plane),
            self.busy.eq(issue),
            self.extra.eq(issue & ((plane != 0) | (copy != 0) | (part != first_part))),
        ]
        m.d.comb += [param_read.addr.eq(param_addrs[-1]), param_read.en.eq(steps[WAIT + 1].valid)]
        for array, tiles in enumerate(self.tiles):
            m.d.comb += [tiles.release.eq(release[array]), tiles.lane.eq(now_lane)]

        # Cycles 0 to 2: where to write. An odd line's channels come by space-to-depth after those of the even ones.
        # Column w = pixel + row - that of the line's first lands at w >> 1, its channel is 4*k + 2*odd_line + parity.
        base, based, where, aside, lines = (Signal(addr_bits, name=name, reset_less=True)
                                            for name in ("base", "based", "where", "aside", "lines"))
        odd_pixel = segment.pixel[0] & ~copy & to_depth
        bases = [Signal(addr_bits, name=f"base{cycle}", reset_less=True) for cycle in range(2, DEPTH + 1)]
        m.d.sync += [
            base.eq(out_begin + Mux(plane, layer.out_plane, 0)),
            where.eq(segment.where + Mux(segment.odd_line & to_depth, layer.out_channel >> 1, 0)),
            aside.eq(Mux(copy, Mux(part, half_copy, copy_step), Mux(part, 2 * half_rows(config), odd_pixel))),
            lines.eq(where + aside),
            based.eq(base), bases[0].eq(based + lines),
        ]
        m.d.sync += [new.eq(old) for old, new in pairwise(bases)]
        m.submodules.guard = guard = WriteGuard(config)
        m.d.comb += [guard.base.eq(bases[DEPTH - GUARD_CYCLES - 2]), guard.begin.eq(layer.out_base),
                     guard.end.eq(layer.out_end)]

        last_segment = Signal()
        m.d.sync += [
            # Where even lines make channels of their own, these end with the last line but one.
            last_segment.eq((segment.behind == 0) | to_depth & (segment.behind == layer.width)),
            steps[0].valid.eq(issue),
            steps[0].rows.eq(segment.rows),
            steps[0].plane.eq(plane),
            steps[0].part.eq(part),
            steps[0].odd_first.eq(copy ^ segment.pixel[0]),
            steps[0].counts.eq(issue & (plane == 0) & ~(upsample & copy)),
            steps[0].final.eq(part == last_part),
            steps[0].column.eq(lane),
            steps[0].channel.eq(Mux(to_depth, Cat(copy, segment.odd_line), 0)),
            steps[0].ends_ktile.eq(segment_end & segment.ends_ktile),
            steps[0].ends_layer.eq(segment_end & segment.ends_layer),
        ]
        m.d.sync += [new.eq(old) for old, new in pairwise(steps)]
        m.d.sync += steps[1].final.eq(steps[0].final & last_segment)

        # Nibbles as they come, the last ones in cycle 3 + WAIT. A strided x is every second one of some lines.
        reading = [self.residual.en, *(Signal(name=f"reading{cycle}") for cycle in range(1, WAIT + 4))]
        arriving = [Signal(Read, name=f"arriving{cycle}", reset_less=True) for cycle in range(WAIT + 4)]
        m.d.sync += [arriving[0].eq(reads), *(new.eq(old) for old, new in [*pairwise(reading), *pairwise(arriving)])]
        nibbles = [Signal(4, name=f"read{place}", reset_less=True) for place in range(config.run)]
        m.d.sync += [nibble.eq(self.residual.data[place]) for place, nibble in enumerate(nibbles)]
        stride = Signal(range(max(2, len(config.strided_widths) + 1)))
        m.d.sync += stride.eq(0)
        with m.If(layer.x_strided), m.Switch(layer.width):
            for choice, width in enumerate(config.strided_widths, 1):
                with m.Case(width):
                    m.d.sync += stride.eq(choice)

        shared = Shared(m, config, layer, param_read.data, steps[DEPTH - 1].plane)
        results = []
        for row in range(rows):
            accs = [Signal(signed(config.acc_bits), name=f"acc{row}_{array}", reset_less=True)
                    for array in range(config.arrays)]
            for array, acc in enumerate(accs):
                m.d.sync += acc.eq(self.tiles[array].acc[row])
                with m.If(unused[array]):
                    m.d.sync += acc.eq(0)
            nibble = nibbles[row]
            x_nibble = Signal(4, name=f"x_nibble{row}")
            m.d.comb += x_nibble.eq(nibble)
            with m.Switch(stride):
                for choice, width in enumerate(config.strided_widths, 1):
                    with m.Case(choice):
                        m.d.comb += x_nibble.eq(nibbles[row // width * 4 * width + 2 * (row % width)])
            held = {}
            for read in (Read.RES_HIGH, Read.RES_LOW, Read.X_HIGH):
                held[read] = Signal(4, name=f"{read.name.lower()}{row}", reset_less=True)
                with m.If(reading[-1] & (arriving[-1] == read)):
                    m.d.sync += held[read].eq(x_nibble if read == Read.X_HIGH else nibble)
            x = number(x_nibble, held[Read.X_HIGH], layer.x_format)
            res = number(Mux(layer.elementwise, held[Read.RES_LOW], nibble), held[Read.RES_HIGH], layer.res_format)
            results.append(result(m, shared, row, accs, WAIT, res, x))

        # The write: order the rows as the transform wants them; which they are is known a cycle before.
        before, last = steps[DEPTH - 1:]
        places = range(len(guard.inside))
        half = half_rows(config)

        def ordered(items: list[Value], step: Any) -> list[Value]:
            """Choose among the rows' items, for each place of the write."""
            def rows_from(sources: list[int]) -> list[Value]:
                return [items[row] if row < rows else Const(0, len(items[0])) for row in sources]

            straight = rows_from(list(places))
            doubled = [rows_from([part * half + place // 2 for place in places]) for part in range(2)]
            strided = [rows_from([first + 2 * place for place in places]) for first in range(2)]
            return [Mux(upsample, Mux(step.part, doubled[1][place], doubled[0][place]),
                        Mux(to_depth, Mux(step.odd_first, strided[1][place], strided[0][place]), straight[place]))
                    for place in places]

        wanted = Signal(len(places))
        m.d.sync += [
            wanted.eq(Mux(before.valid, Cat(ordered(list(before.rows), before)), 0)),
            *(place.eq(nibble) for place, nibble in
              zip(self.write.data, ordered([result.nibble for result in results], last), strict=False)),
            self.write.mask.eq(wanted & guard.inside),
            self.write.addr.eq(bases[-1]),
            self.outside.eq((wanted & ~guard.inside).any()),
        ]

        # Each pixel is counted once.
        counting = Signal(rows)
        m.d.sync += counting.eq(Cat(
            before.rows[row] & Mux(upsample, before.part == (row >= half), ~to_depth | (before.odd_first == row % 2))
            for row in range(rows)))
        m.d.sync += [
            self.count.nonzeros.eq(sum(result.nonzero & counting[row] for row, result in enumerate(results))),
            self.count.column.eq(last.column),
            self.count.part.eq(last.channel),
            self.count.final.eq(last.final),
            self.count_en.eq(last.valid & last.counts),
            self.ktile_end.eq(last.valid & last.ends_ktile),
            self.layer_end.eq(last.valid & last.ends_layer),
        ]
        written = Signal()
        m.d.sync += written.eq(last.valid)
        m.d.comb += self.idle.eq(~(running | written | Cat(stage.valid for stage in steps).any()))
        return m
