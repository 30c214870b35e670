"""Post-processor: sums the arrays' accumulators, applies the layer's formula and writes the result back.

    y = clamp((acc*M + B + residual*R + (1 << (S-1))) >> S), 0 where |y| < dead_zone

A tile is cut into *segments*: the pixels of one sample (their parameters differ from sample to sample), or of one map
line where a transform moves lines apart. Per segment and output channel it makes one *step* per write:

    transform         steps of a 4-bit result, twice as many (low plane, high plane) of an 8-bit one
    none              1
    2x upsample       4: left and right half of the pixels, to two lines each (an empty half is left out)
    space-to-depth    2: even and odd columns

Every step takes the whole pipeline, so that nothing in it ever waits:

    cycle   0 issue           1 accumulators   2 sum of arrays   3 factors   4 x M, x R (digits)   5 x M, x R (sums)
              read residual     parameters       residual
            6 add             7 shift          8 clamp           9 write

all but cycle 0 and the accumulators `WAIT` cycles later, for the residual takes so many more.

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
from .config import MULT_BITS, Config
from .dense import tiles_signature
from .detector import count_layout
from .guard import WriteGuard
from .interfaces import Space, Transform, layer_layout, load_layout, param_layout, write_layout
from .product import CODE_BITS, correction, joined, narrowed, quads, recoded

__all__ = ["PostProcessor"]

DEPTH = 8   # cycles from issue to the cycle in which the write is presented, if it did not wait for the residual
WAIT = READ_CYCLES - 2  # cycles in which it does: accumulators and parameters come two cycles after the issue


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
    write : Out(write_layout)
        Always taken.
    count : Out(count_layout), count_en : Out(1), ktile_end : Out(1), layer_end : Out(1)
        Nonzeros written, see `hw.detector`.
    busy, extra, wait_residual : Out(1)
        In this cycle: a step is issued; it is a further write of the same result; the read port is taken.
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
            "wait_residual": Out(1),
            "outside": Out(1),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config, layer = self.config, self.layer
        rows, cols, addr_bits = config.rows, config.cols, config.addr_bits
        upsample = layer.transform == Transform.UPSAMPLE
        to_depth = layer.transform == Transform.SPACE_TO_DEPTH
        by_line = upsample | to_depth

        # Parameters and sample table, loaded beat by beat.
        beat_bits = (config.param_beats - 1).bit_length()
        m.submodules.params = params = Memory(
            shape=config.param_beats * config.bus_bits, depth=config.param_depth, init=[])
        param_write = params.write_port(granularity=config.bus_bits)
        param_read = params.read_port()
        m.submodules.samples = samples = Memory(shape=range(config.param_depth), depth=config.samples, init=[])
        sample_write = samples.write_port()
        sample_read = samples.read_port()
        is_param = self.load_en & (self.load.space == Space.PARAM)
        m.d.comb += [
            param_write.addr.eq(self.load.address[beat_bits:]),
            param_write.data.eq(self.load.data.replicate(config.param_beats)),
            param_write.en.eq(Cat(is_param & (self.load.address[:beat_bits] == beat)
                                  for beat in range(config.param_beats))),
            sample_write.addr.eq(self.load.address),
            sample_write.data.eq(self.load.data),
            sample_write.en.eq(self.load_en & (self.load.space == Space.SAMPLE)),
        ]

        # Where we are. A run is what a segment must not cross: a sample, or a map line.
        low = Signal(range(rows + 1))           # the segment's first row
        high = Signal(range(rows + 1))          # the row after its last
        e0 = Signal(addr_bits)                  # pixel of row 0
        tile = Signal(addr_bits)
        pixels_left = Signal(addr_bits + 1)     # from row 0 on
        run_left = Signal(addr_bits + 1)        # pixels of the run, from the segment's first row on
        run = Mux(by_line, layer.width, layer.sample_pixels)
        line = Signal(config.dim_bits)          # in the sample
        odd_line = line[0]
        line_pixels = Signal(addr_bits)         # pixels of all lines before this one
        line_pairs = Signal(addr_bits)          # width / 2 for each pair of lines begun before this one
        sample = Signal(range(config.samples))
        lane = Signal(range(cols))
        k_first = Signal(range(config.param_depth))     # output channel of lane 0
        k_tile = Signal.like(layer.k_tiles)
        out_base, out_ktile = Signal(addr_bits), Signal(addr_bits)  # of the lane's channel; of lane 0's
        res_base, res_ktile = Signal(addr_bits), Signal(addr_bits)
        x_base, x_ktile = Signal(addr_bits), Signal(addr_bits)

        # Steps of one result: half of the pixels, line copy or column parity, plane.
        part = Signal()         # upsample: half of the pixels
        copy = Signal()         # upsample: line copy; space-to-depth: column parity
        plane = Signal()
        half_rows = (rows + 1) // 2
        first_part = upsample & (low >= half_rows)
        last_part = upsample & (high > half_rows)
        last_step = (plane == layer.out_format.wide) & (copy == by_line) & (part == last_part)
        # Pixels behind the segment. It is a channel's last one if there are none; where even lines make channels of
        # their own, also if there is but one line.
        behind = Signal(addr_bits + 1)
        m.d.comb += behind.eq(pixels_left - high)
        last_segment = (behind == 0) | to_depth & (behind == layer.width)
        last_lane = lane == Mux(k_tile == layer.k_tiles - 1, layer.last_cols - 1, cols - 1)

        # Reads of a step, in order; the step is issued with the last one.
        reads = Signal(Read)
        read_next = Signal(Read)
        first_read = Signal(Read)
        first_x = Mux(layer.x_format.wide, Read.X_HIGH, Read.X_LOW)
        m.d.comb += first_read.eq(Mux(layer.residual, Mux(layer.res_format.wide, Read.RES_HIGH, Read.RES_LOW), first_x))
        any_read = layer.residual | layer.elementwise
        last_read = (reads == Read.X_LOW) | (reads == Read.RES_LOW) & ~layer.elementwise
        issue = Signal()
        stepping = Signal()
        with m.Switch(reads):
            with m.Case(Read.RES_HIGH):
                m.d.comb += read_next.eq(Read.RES_LOW)
            with m.Case(Read.RES_LOW):
                m.d.comb += read_next.eq(first_x)
            with m.Default():
                m.d.comb += read_next.eq(Read.X_LOW)
        of_x = (reads == Read.X_HIGH) | (reads == Read.X_LOW)
        x_e0 = Mux(layer.x_strided, e0 << 2, e0)
        high_plane = Mux(reads == Read.X_HIGH, layer.x_plane, Mux(reads == Read.RES_HIGH, layer.res_plane, 0))
        m.d.comb += [
            self.residual.en.eq(stepping & any_read),
            self.residual.addr.eq(Mux(of_x, x_base + x_e0, res_base + e0) + high_plane),
            issue.eq(stepping & (self.residual.ready & last_read | ~any_read)),
            self.busy.eq(issue),
            self.extra.eq(issue & ((plane != 0) | (copy != 0) | (part != first_part))),
            self.wait_residual.eq(self.residual.en & ~self.residual.ready),
        ]
        with m.If(issue | ~stepping):
            m.d.sync += reads.eq(first_read)
        with m.Elif(self.residual.ready):
            m.d.sync += reads.eq(read_next)

        tile_done = Signal()
        ktile_done = Signal()
        used = self.used
        ready = Cat(tiles.ready for tiles in self.tiles)
        tile_ready = self.lists_complete & ((ready | ~used) == (1 << config.arrays) - 1)
        for array, tiles in enumerate(self.tiles):
            m.d.comb += [tiles.release.eq(tile_done & used[array]), tiles.lane.eq(lane)]

        # From channel to channel of x; of a strided one, from pixel to pixel and line to line of four results.
        x_step = layer.x_channel
        if config.strided_widths:
            line_step = layer.width << 1
            x_step = Mux(layer.x_strided, Mux(lane[0], Mux(lane[1], x_step - line_step, line_step) - 1, 1), x_step)
        running = Signal()
        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [sig.eq(0) for sig in (low, e0, tile, line, line_pixels, line_pairs, k_first, k_tile)]
                m.d.sync += [
                    pixels_left.eq(layer.pixels), run_left.eq(run), sample.eq(layer.sample_first),
                    out_ktile.eq(layer.out_base), res_ktile.eq(layer.res_base), x_ktile.eq(layer.x_base), running.eq(1),
                ]
                m.next = "TILE"
            with m.State("TILE"), m.If(tile_ready):
                m.next = "SEGMENT"
            with m.State("SEGMENT"):
                rows_left = Mux(pixels_left < rows, pixels_left, rows)
                ends_here = run_left <= rows_left - low
                m.d.comb += sample_read.en.eq(1)
                m.d.sync += [
                    high.eq(Mux(ends_here, low + run_left, rows_left)),
                    lane.eq(0), copy.eq(0), plane.eq(0), out_base.eq(out_ktile), res_base.eq(res_ktile),
                    x_base.eq(x_ktile), part.eq(first_part),
                ]
                m.next = "STEP"
            with m.State("STEP"):
                m.d.comb += stepping.eq(1)
                with m.If(issue):
                    m.d.sync += plane.eq(plane ^ layer.out_format.wide)
                    with m.If(plane == layer.out_format.wide):
                        m.d.sync += copy.eq(copy ^ by_line)
                        with m.If(copy == by_line):
                            m.d.sync += part.eq(Mux(last_step, first_part, 1))
                    with m.If(last_step):
                        m.d.sync += [lane.eq(lane + 1), out_base.eq(out_base + layer.out_channel),
                                     res_base.eq(res_base + layer.res_channel),
                                     x_base.eq(x_base + x_step)]
                    with m.If(last_step & last_lane):
                        m.next = "SEGMENT"
                        ends_run = run_left == high - low
                        ends_tile = (high == rows) | (high == pixels_left)
                        # The arrays count tiles as well: whatever `pixels` says, both end together.
                        ends_ktile = ends_tile & (tile == layer.tiles - 1)
                        m.d.sync += [low.eq(high), run_left.eq(run_left - (high - low))]
                        with m.If(ends_run):
                            m.d.sync += run_left.eq(run)
                            with m.If(by_line & (line != layer.height - 1)):
                                m.d.sync += line.eq(line + 1)
                            with m.Else():
                                m.d.sync += [line.eq(0), sample.eq(sample + 1)]
                            m.d.sync += line_pixels.eq(line_pixels + layer.width)
                            with m.If(~odd_line):
                                m.d.sync += line_pairs.eq(line_pairs + (layer.width >> 1))
                        with m.If(ends_tile):
                            m.d.comb += tile_done.eq(1)
                            m.d.sync += [low.eq(0), e0.eq(e0 + rows), tile.eq(tile + 1),
                                         pixels_left.eq(pixels_left - rows_left)]
                            m.next = "TILE"
                        m.d.comb += ktile_done.eq(ends_ktile)
                        with m.If(ends_ktile):
                            m.d.sync += [
                                sig.eq(0) for sig in (e0, tile, line, line_pixels, line_pairs)
                            ]
                            m.d.sync += [
                                pixels_left.eq(layer.pixels), run_left.eq(run), sample.eq(layer.sample_first),
                                k_first.eq(k_first + cols), k_tile.eq(k_tile + 1),
                                out_ktile.eq(out_base + layer.out_channel), res_ktile.eq(res_base + layer.res_channel),
                                x_ktile.eq(x_base + x_step),
                            ]
                            with m.If(k_tile == layer.k_tiles - 1):
                                m.d.sync += running.eq(0)
                                m.next = "IDLE"

        # Cycle 0: addresses of what the step reads, and the parts of where it writes.
        param_addrs = [Signal(range(config.param_depth), name=f"param_addr{age}", reset_less=True)
                       for age in range(WAIT + 1)]
        m.d.sync += [new.eq(old) for old, new in pairwise(param_addrs)]
        m.d.comb += [
            sample_read.addr.eq(sample),
            param_addrs[0].eq(sample_read.data + k_first + lane),
            param_read.addr.eq(param_addrs[-1]),
        ]
        where = Signal(addr_bits)       # of row 0 (of the first row of the half), from the channel's plane on
        with m.If(upsample):
            m.d.comb += where.eq(((e0 + line_pixels) << 1) + Mux(part, 2 * half_rows, 0)
                                 + Mux(copy, layer.width << 1, 0))
        with m.Elif(to_depth):
            # Column w = e0 + row - line_pixels lands at w >> 1; its channel is 4*k + 2*odd_line + parity.
            m.d.comb += where.eq((e0 >> 1) + (e0[0] & ~copy) - line_pairs
                                 + Mux(odd_line, layer.out_channel >> 1, 0) + Mux(copy, layer.out_channel >> 2, 0))
        with m.Else():
            m.d.comb += where.eq(e0)
        step = data.StructLayout({
            "valid": 1, "base": addr_bits, "where": addr_bits, "rows": rows, "plane": 1, "part": 1, "odd_first": 1,
            "counts": 1, "final": 1, "column": range(cols), "channel": 2, "ends_ktile": 1, "ends_layer": 1,
        })
        steps = [Signal(step, name=f"step{cycle}") for cycle in range(WAIT + DEPTH + 1)]
        m.d.sync += [
            steps[0].valid.eq(issue),
            steps[0].base.eq(out_base + Mux(plane, layer.out_plane, 0)),
            steps[0].where.eq(where),
            steps[0].rows.eq(Cat((low <= row) & (row < high) for row in range(rows))),
            steps[0].plane.eq(plane),
            steps[0].part.eq(part),
            steps[0].odd_first.eq(copy ^ e0[0]),
            steps[0].counts.eq(issue & (plane == 0) & ~(upsample & copy)),
            steps[0].final.eq(last_segment & (part == last_part)),
            steps[0].column.eq(lane),
            steps[0].channel.eq(Mux(to_depth, Cat(copy, odd_line), 0)),
            steps[0].ends_ktile.eq(ktile_done),
            steps[0].ends_layer.eq(ktile_done & (k_tile == layer.k_tiles - 1)),
        ]
        m.d.sync += [new.eq(old) for old, new in pairwise(steps)]
        m.d.comb += param_read.en.eq(steps[WAIT - 1].valid)
        m.d.sync += steps[1].base.eq(steps[0].base + steps[0].where)
        m.submodules.guard = guard = WriteGuard(config)
        m.d.comb += [guard.base.eq(steps[WAIT + 3].base), guard.begin.eq(layer.out_base), guard.end.eq(layer.out_end)]

        # Cycle 1: sum of the arrays; 2: digits of M and R. What is read before the issue arrives before it too.
        param = Signal(param_layout(config), reset_less=True)
        m_code = Signal(CODE_BITS, reset_less=True)
        r_code = Signal(CODE_BITS, reset_less=True)
        rounding = Signal(config.bias_bits, reset_less=True)
        rounded = Signal(signed(config.bias_bits + 1), reset_less=True)
        m.d.sync += [
            param.eq(param_read.data),
            m_code.eq(recoded(param.m)),
            r_code.eq(recoded(Mux(layer.residual, param.r, 0))),
            rounding.eq((1 << layer.shift) >> 1),
            rounded.eq(param.b + rounding),
        ]
        arriving = [Signal(Read, name=f"arriving{cycle}") for cycle in range(READ_CYCLES)]
        m.d.sync += [arriving[0].eq(reads), *(new.eq(old) for old, new in pairwise(arriving))]

        def value_of(low: Value, high: Signal, fmt: Any) -> Value:
            """A number out of its planes."""
            sign = low[3] & fmt.signed
            return Mux(fmt.wide, Cat(low, high, high[3] & fmt.signed), Cat(low, sign.replicate(5))).as_signed()

        # Cycles 3 and 4: products. What is added to all rows comes with them.
        offset = Signal(signed(config.bias_bits + 1), reset_less=True)
        corrections = Signal(MULT_BITS + 1)
        m.d.comb += corrections.eq(correction(m_code) + correction(r_code))
        m.d.sync += offset.eq(rounded + corrections)

        results = []
        for row in range(rows):
            accs = [Signal(signed(config.acc_bits), name=f"acc{row}_{age}", reset_less=True) for age in range(WAIT + 1)]
            m.d.sync += accs[0].eq(sum(Mux(used[array], tiles.acc[row], 0) for array, tiles in enumerate(self.tiles)))
            m.d.sync += [new.eq(old) for old, new in pairwise(accs)]

            nibble = self.residual.data[row]
            x_nibble = Signal(4, name=f"x_nibble{row}")
            m.d.comb += x_nibble.eq(nibble)
            with m.If(layer.x_strided), m.Switch(layer.width):
                for width in config.strided_widths:
                    with m.Case(width):
                        m.d.comb += x_nibble.eq(self.residual.data[row // width * 4 * width + 2 * (row % width)])
            held = {}
            for read in (Read.RES_HIGH, Read.RES_LOW, Read.X_HIGH):
                held[read] = Signal(4, name=f"{read.name.lower()}{row}", reset_less=True)
                with m.If(self.residual.valid & (arriving[-1] == read)):
                    m.d.sync += held[read].eq(x_nibble if read == Read.X_HIGH else nibble)
            x = value_of(x_nibble, held[Read.X_HIGH], layer.x_format)
            res = Signal(signed(9), name=f"res{row}", reset_less=True)
            factor = Signal(signed(config.acc_bits), name=f"factor{row}", reset_less=True)
            m.d.sync += [
                factor.eq(Mux(layer.elementwise, x, accs[-1])),
                res.eq(value_of(Mux(layer.elementwise, held[Read.RES_LOW], nibble), held[Read.RES_HIGH],
                                layer.res_format)),
            ]
            sums = []
            for number, value in enumerate((*quads(factor, m_code), *quads(res, r_code))):
                sums.append(Signal(value.shape(), name=f"sum{number}_{row}", reset_less=True))
                m.d.sync += sums[-1].eq(value)
            product = Signal(signed(config.bias_bits), name=f"product{row}", reset_less=True)
            others = Signal(signed(config.bias_bits + 2), name=f"others{row}", reset_less=True)
            m.d.sync += [product.eq(joined(sums[0], sums[1])), others.eq(joined(sums[2], sums[3]) + offset)]

            # Cycles 5 to 7: add, shift, clamp.
            total = Signal(signed(config.bias_bits + 2), name=f"total{row}", reset_less=True)
            m.d.sync += total.eq(product + others)
            shifted, beyond = narrowed(m, f"shifted{row}", total, layer.shift, 8)
            results.append((shifted, beyond, total[-1], Signal(8, name=f"y{row}", reset_less=True)))

        # Bits that a result of the layer's format has in common with its sign.
        is_signed, wide = layer.out_format.signed, layer.out_format.wide
        fixed = Mux(is_signed, Mux(wide, 0x80, 0xf8), Mux(wide, 0, 0xf0))
        for row, (shifted, beyond, sign, y) in enumerate(results):
            low = Signal(8, name=f"low{row}", reset_less=True)
            large = Signal(name=f"large{row}", reset_less=True)
            negative = Signal(name=f"negative{row}", reset_less=True)
            m.d.sync += [low.eq(shifted), large.eq(beyond), negative.eq(sign)]
            clamped = Signal(8, name=f"clamped{row}")
            m.d.comb += clamped.eq(low)
            with m.If(negative & ~is_signed):
                m.d.comb += clamped.eq(0)
            with m.Elif(large | ((low ^ negative.replicate(8)) & fixed).any()):
                m.d.comb += clamped.eq(fixed ^ ~negative.replicate(8))
            magnitude = Mux(negative & is_signed, -clamped, clamped)[:8]
            m.d.sync += y.eq(Mux(magnitude < layer.dead_zone, 0, clamped))

        # Cycle 8: choose the plane, order the rows as the transform wants them.
        last = steps[WAIT + 7]
        lanes = [Cat(Mux(last.plane, y[4:], y[:4]), last.rows[row]) for row, (*_, y) in enumerate(results)]
        none = Const(0, 5)

        def rows_from(sources: list[int]) -> list[Signal]:
            return [lanes[row] if row < rows else none for row in sources]

        places = range(len(guard.inside))
        refused = Signal()
        straight = rows_from(list(places))
        doubled = [rows_from([part * half_rows + place // 2 for place in places]) for part in range(2)]
        strided = [rows_from([first + 2 * place for place in places]) for first in range(2)]
        for place in places:
            chosen = Mux(upsample, Mux(last.part, doubled[1][place], doubled[0][place]),
                         Mux(to_depth, Mux(last.odd_first, strided[1][place], strided[0][place]), straight[place]))
            nibble = Signal(5, name=f"place{place}")
            m.d.comb += nibble.eq(chosen)
            wanted = nibble[4] & last.valid
            m.d.sync += [self.write.data[place].eq(nibble[:4]), self.write.mask[place].eq(wanted & guard.inside[place])]
            with m.If(wanted & ~guard.inside[place]):
                m.d.comb += refused.eq(1)
        m.d.sync += [self.write.addr.eq(last.base), self.outside.eq(refused)]

        counted = []
        for row, (*_, y) in enumerate(results):
            own = Mux(upsample, last.part == (row >= half_rows), ~to_depth | (last.odd_first == row % 2))
            counted.append(y.any() & last.rows[row] & own)
        m.d.sync += [
            self.count.nonzeros.eq(sum(counted)),
            self.count.column.eq(last.column),
            self.count.part.eq(last.channel),
            self.count.final.eq(last.final),
            self.count_en.eq(last.valid & last.counts),
            self.ktile_end.eq(last.valid & last.ends_ktile),
            self.layer_end.eq(last.valid & last.ends_layer),
        ]
        m.d.comb += self.idle.eq(~running & ~Cat(stage.valid for stage in steps).any())
        return m
