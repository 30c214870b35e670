"""Segments of a layer's tiles, for the post-processor: found one ahead of it, at two cycles each.

A segment is what a tile has of one *run*: the pixels of a sample, or of one map line where a transform moves lines
apart. One cycle measures how far run and tile go on from the segment's first pixel, the next one gives the segment out
and moves on behind it. All that is compared is counted down, so that no end takes more than a look at a register.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import Config
from .interfaces import Space, Transform, layer_layout, load_layout

__all__ = ["SegmentWalker", "half_rows", "segment_layout"]


def half_rows(config: Config) -> int:
    """Rows whose pixels an upsampled write holds."""
    return (config.rows + 1) // 2


def segment_layout(config: Config) -> data.StructLayout:
    """A segment.

    Members
    -------
    rows : rows bits
        Rows of the tile that belong to it.
    parts : 2 bits
        With upsample: it has pixels in the upper half of the rows only; in both halves.
    pixel : addr_bits
        Pixel of row 0, over all samples.
    x_pixel : addr_bits
        Of x.
    where : addr_bits
        Where row 0 is written, from the start of the channel's plane on; but for what depends on the step.
    odd_line : 1 bit
        Where there are lines.
    behind : addr_bits + 1
        Pixels behind the segment.
    param : bits of param_depth
        Parameter word of the k-tile's first channel.
    last_lane : bits of cols
    ends_tile, ends_ktile, ends_layer : 1 bit
    """
    return data.StructLayout({
        "rows": config.rows, "parts": 2, "pixel": config.addr_bits, "x_pixel": config.addr_bits,
        "where": config.addr_bits, "odd_line": 1, "behind": config.addr_bits + 1, "param": range(config.param_depth),
        "last_lane": range(config.cols), "ends_tile": 1, "ends_ktile": 1, "ends_layer": 1,
    })


class SegmentWalker(wiring.Component):
    """Finds a layer's segments, in order, and holds the sample table.

    Members
    -------
    layer : In(layer_layout)
        Stable from `start` on.
    start : In(1)
        A layer begins; all segments of the one before have been taken.
    load : In(load_layout), load_en : In(1)
        A beat of SAMPLE; others are passed over.
    segment : Out(segment_layout), valid : Out(1)
    take : In(1)
        Take the segment, only while it is valid. Every second cycle there is one, until the layer's last.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "layer": In(layer_layout(config)),
            "start": In(1),
            "load": In(load_layout(config)),
            "load_en": In(1),
            "segment": Out(segment_layout(config)),
            "valid": Out(1),
            "take": In(1),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config, layer, segment = self.config, self.layer, self.segment
        rows, addr_bits = config.rows, config.addr_bits
        upsample, to_depth, by_line = Signal(), Signal(), Signal()
        m.d.sync += [
            upsample.eq(layer.transform == Transform.UPSAMPLE),
            to_depth.eq(layer.transform == Transform.SPACE_TO_DEPTH),
            by_line.eq((layer.transform == Transform.UPSAMPLE) | (layer.transform == Transform.SPACE_TO_DEPTH)),
        ]

        m.submodules.samples = samples = Memory(shape=range(config.param_depth), depth=config.samples, init=[])
        sample_write, sample_read = samples.write_port(), samples.read_port()
        m.d.comb += [
            sample_write.addr.eq(self.load.address),
            sample_write.data.eq(self.load.data),
            sample_write.en.eq(self.load_en & (self.load.space == Space.SAMPLE)),
        ]

        # Where the next segment begins.
        low = Signal(range(rows + 1))           # its first row
        tile_rows = Signal(range(rows + 1))     # rows of the tile that have pixels
        tile_left = Signal(range(rows + 1))     # those from `low` on
        after = Signal(addr_bits + 1)           # pixels behind the tile
        run_left = Signal(addr_bits + 1)        # pixels of the run
        pixel = Signal(addr_bits)               # of row 0
        sample = Signal(range(config.samples))
        odd_line = Signal()
        # Where pixel 0 would be written, if all lines before this one were as far apart as it is from the next one.
        drift = Signal(addr_bits)
        k_first = Signal(range(config.param_depth))     # output channel of lane 0
        lines, tiles, k_tiles = Signal(config.dim_bits), Signal(addr_bits), Signal.like(layer.k_tiles)  # still to do

        # Of the whole layer, and of what is behind its first tile, and behind each next one.
        run = Mux((layer.transform == Transform.UPSAMPLE) | (layer.transform == Transform.SPACE_TO_DEPTH),
                  layer.width, layer.sample_pixels)

        def beyond(pixels: Signal) -> tuple[Mux, Mux]:
            """Rows of the next tile, and pixels behind it."""
            less = pixels - rows
            return Mux(less[-1], pixels, rows), Mux(less[-1], 0, less[:-1])

        def begin() -> list[object]:
            """Go to the first pixel of a k-tile."""
            first_rows, behind = beyond(layer.pixels)
            return [
                low.eq(0), tile_rows.eq(first_rows), tile_left.eq(first_rows), after.eq(behind), run_left.eq(run),
                pixel.eq(0), sample.eq(layer.sample_first), odd_line.eq(0), drift.eq(0), lines.eq(layer.height),
                tiles.eq(layer.tiles),
            ]

        active = Signal()
        moving = Signal()       # the second of the two cycles
        move = Signal()
        m.d.comb += [
            move.eq(moving & ~self.valid),
            sample_read.addr.eq(sample),
            sample_read.en.eq(~moving),
        ]
        with m.If(self.take):
            m.d.sync += self.valid.eq(0)

        # First cycle.
        ends_run, ends_tile = Signal(), Signal()
        last_line, last_tile, last_ktile = Signal(), Signal(), Signal()
        run_end = Signal.like(low)      # row after the run's last
        rest = Signal.like(low)         # rows from there to the tile's end
        run_rest = Signal.like(run_left)    # pixels of the run behind the tile
        next_rows, next_after = Signal.like(low), Signal.like(after)
        with m.If(~moving):
            tile_after, pixels_after = beyond(after)
            m.d.sync += [
                ends_run.eq(run_left <= tile_left), ends_tile.eq(run_left >= tile_left),
                run_end.eq(low + run_left), rest.eq(tile_left - run_left), run_rest.eq(run_left - tile_left),
                next_rows.eq(tile_after), next_after.eq(pixels_after),
                last_line.eq(~by_line | (lines == 1)), last_tile.eq(tiles == 1), last_ktile.eq(k_tiles == 1),
                moving.eq(active),
            ]

        # Second cycle. The arrays count tiles as well: whatever `pixels` says, both end a k-tile together.
        high = Mux(ends_tile, tile_rows, run_end)
        half = half_rows(config)
        ends_ktile = ends_tile & last_tile
        with m.If(move):
            m.d.sync += [
                segment.rows.eq(Cat((low <= row) & (row < high) for row in range(rows))),
                segment.parts.eq(Cat(upsample & (low >= half), upsample & (high > half))),
                segment.pixel.eq(pixel),
                segment.x_pixel.eq(Mux(layer.x_strided, pixel << 2, pixel)),
                segment.where.eq(Mux(upsample, pixel << 1, Mux(to_depth, pixel >> 1, pixel)) + drift),
                segment.odd_line.eq(odd_line),
                segment.behind.eq(after + Mux(ends_tile, 0, rest)),
                segment.param.eq(sample_read.data + k_first),
                segment.last_lane.eq(Mux(last_ktile, layer.last_cols, config.cols) - 1),
                segment.ends_tile.eq(ends_tile),
                segment.ends_ktile.eq(ends_ktile),
                segment.ends_layer.eq(ends_ktile & last_ktile),
                self.valid.eq(1),
                moving.eq(0),
                low.eq(run_end), tile_left.eq(rest), run_left.eq(run_rest),
            ]
            with m.If(ends_run):
                m.d.sync += run_left.eq(run)
                with m.If(last_line):
                    m.d.sync += [lines.eq(layer.height), odd_line.eq(0), sample.eq(sample + 1)]
                with m.Else():
                    m.d.sync += [lines.eq(lines - 1), odd_line.eq(~odd_line)]
                # An upsampled line has two copies. Two lines by space-to-depth share a line of half the pixels.
                with m.If(upsample):
                    m.d.sync += drift.eq(drift + (layer.width << 1))
                with m.Elif(to_depth & ~odd_line):
                    m.d.sync += drift.eq(drift - (layer.width >> 1))
            with m.If(ends_tile):
                m.d.sync += [
                    low.eq(0), tile_rows.eq(next_rows), tile_left.eq(next_rows), after.eq(next_after),
                    pixel.eq(pixel + rows), tiles.eq(tiles - 1),
                ]
            with m.If(ends_ktile):
                m.d.sync += [*begin(), k_first.eq(k_first + config.cols), k_tiles.eq(k_tiles - 1)]
                with m.If(last_ktile):
                    m.d.sync += active.eq(0)
        with m.If(self.start):
            m.d.sync += [*begin(), k_first.eq(0), k_tiles.eq(layer.k_tiles), active.eq(1), moving.eq(0)]
        return m
