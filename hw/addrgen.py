"""Channel-last address generator: walks (k-tile, tile, channel list) and says what to read.

Every kernel line of a tile is one run of rows + 2 contiguous nibbles at `base + e0 - 1 + dy*W`, whatever the
map's width W; rows whose neighbour lies outside the image are masked. Up to `window_width` the three lines lie so near
that one run holds them all, and a channel costs one read; on wider maps it costs one per kernel line. No multiplier is
needed: a tile's masks are made one pixel per cycle by a walker that works one tile ahead, and addresses follow by
addition. An upsampled map is not in memory: a tile's window comes of the run of pixels that it shows twice.

Two pipelines meet in the line stage (time runs downwards, a wide map):

    list memory          entry          tile walker            request
    read entry 2         entry 0        shifts in tile 1       entry 0, line 0
    .                    entry 0        .                      entry 0, line 1
    .                    entry 0        .                      entry 0, line 2
    read entry 3         entry 1        .                      entry 1, line 0

What follows from the layer alone is kept in registers, and so is what follows from the next tile's place.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from .config import LINE_TAPS, Config
from .interfaces import entry_layout, layer_layout, mask_layout, request_layout, upsample_patterns
from .skid import Skid

__all__ = ["AddressGenerator"]


class AddressGenerator(wiring.Component):
    """Reads of one array for one layer.

    Members
    -------
    layer : In(layer_layout)
        Stable from `start` until the layer is done.
    start : In(1)
        Begin the layer; only while `idle`.
    idle : Out(1)
        Every request of the layer has left.
    list_entry, list_write : In
        The scheduler appends an entry to the channel list, from `start` on.
    list_complete : In(1)
        The list is complete.
    list_empty : Out(1)
        It has no entry so far.
    ktile_ready : In(1)
        The weights of the next k-tile are loaded.
    ktile_take : Out(1)
        The k-tile's first request is made in this cycle.
    ktile_skip : Out(1)
        The k-tile is passed over in this cycle: the array has no channels in this layer.
    wait_weights : Out(1)
        The next request waits for its k-tile's weights.
    requests : Out(stream of request_layout)
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "layer": In(layer_layout(config)),
            "start": In(1),
            "idle": Out(1),
            "list_entry": In(entry_layout(config)),
            "list_write": In(1),
            "list_complete": In(1),
            "list_empty": Out(1),
            "ktile_ready": In(1),
            "ktile_take": Out(1),
            "ktile_skip": Out(1),
            "wait_weights": Out(1),
            "requests": Out(stream.Signature(request_layout(config))),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config, layer, rows = self.config, self.layer, self.config.rows
        addr_bits = config.addr_bits

        last_x, last_y = Signal(config.dim_bits), Signal(config.dim_bits)
        final_tile, final_ktile = Signal(addr_bits), Signal.like(layer.k_tiles)
        by_window = Signal()
        m.d.sync += [
            last_x.eq(layer.width - 1), last_y.eq(layer.height - 1), final_tile.eq(layer.tiles - 1),
            final_ktile.eq(layer.k_tiles - 1), by_window.eq(layer.width <= config.window_width),
        ]

        # Tile walker: one pixel per cycle into the masks of the next tile.
        next_mask = Signal(mask_layout(config), reset_less=True)
        lane = Signal(range(rows + 1))
        x = Signal(config.dim_bits)
        y = Signal(config.dim_bits)
        pixel = Signal(addr_bits + 1)
        next_e0 = Signal(addr_bits)
        next_tile = Signal(addr_bits)
        next_valid = lane == rows
        take_tile = Signal()

        inside = pixel < layer.pixels
        right_edge = x == last_x
        bottom_edge = y == last_y
        with m.If(~next_valid):
            bits = ((next_mask.left, x != 0), (next_mask.right, ~right_edge), (next_mask.lines[0], inside & (y != 0)),
                    (next_mask.lines[1], inside), (next_mask.lines[2], inside & ~bottom_edge))
            m.d.sync += [mask.eq(Cat(mask[1:], bit)) for mask, bit in bits]
            m.d.sync += [lane.eq(lane + 1), pixel.eq(pixel + 1), x.eq(Mux(right_edge, 0, x + 1))]
            with m.If(right_edge):
                m.d.sync += y.eq(Mux(bottom_edge, 0, y + 1))
        with m.If(take_tile):
            m.d.sync += [lane.eq(0), next_e0.eq(next_e0 + rows), next_tile.eq(next_tile + 1)]
        restart = Signal()
        next_final = Signal()
        m.d.sync += next_final.eq(next_tile == final_tile)
        m.d.comb += restart.eq(self.start | take_tile & next_final)
        with m.If(restart):
            m.d.sync += [sig.eq(0) for sig in (lane, x, y, pixel, next_e0, next_tile)]

        # Where the next tile's three kernel lines begin.
        first = Signal(addr_bits)                       # pixel of memory that is shown as the tile's first one
        back = Signal(range(2 << config.dim_bits))      # from there to its neighbour on the left, a line up
        patterns = upsample_patterns(config)
        pattern, next_pattern, chosen = (Signal(range(max(2, len(patterns) + 1)), name=name)
                                         for name in ("pattern", "next_pattern", "chosen"))
        next_offsets, offsets = ([Signal(addr_bits, name=f"{name}{line}") for line in range(LINE_TAPS)]
                                 for name in ("next_offset", "offset"))
        m.d.comb += [first.eq(next_e0), back.eq(last_x + 2)]
        for width in config.upsampled_widths:
            shown = Signal(name=f"shown{width}")    # the map is upsampled, and has this width
            m.d.sync += shown.eq(layer.upsampled & (layer.width == width))
            with m.If(shown):
                # Half the column in half the line; of an odd line the one above it is the same in memory.
                place = width.bit_length() - 1
                odd = next_e0[place]
                m.d.comb += [
                    first.eq(Cat(next_e0[1:place], next_e0[place + 1:])),
                    back.eq(Mux(odd, 1, width // 2 + 1)),
                    chosen.eq(1 + patterns.index((width, 0)) + odd),
                ]
        m.d.sync += [
            next_pattern.eq(chosen),
            next_offsets[0].eq(first - back), next_offsets[1].eq(next_e0 - 1), next_offsets[2].eq(next_e0 + last_x),
        ]

        # The tile at work.
        tile_valid = Signal()
        tile_done = Signal()
        mask = Signal(mask_layout(config), reset_less=True)
        m.d.comb += take_tile.eq(next_valid & (~tile_valid | tile_done))
        with m.If(take_tile):
            m.d.sync += [mask.eq(next_mask), pattern.eq(next_pattern), tile_valid.eq(1)]
            m.d.sync += [offset.eq(value) for offset, value in zip(offsets, next_offsets, strict=True)]
        with m.Elif(tile_done):
            m.d.sync += tile_valid.eq(0)

        # List stage: read further entries while the current one is used, around and around. An entry waits in the
        # memory's register, half a cycle after which it is there, until the one before it is done.
        m.submodules.list = channel_list = Memory(shape=entry_layout(config), depth=config.list_depth, init=[])
        writer = channel_list.write_port()
        reader = channel_list.read_port()
        count = Signal(range(config.list_depth + 1))    # entries written
        m.d.sync += count.eq(count + self.list_write)
        m.d.comb += [
            writer.addr.eq(count), writer.data.eq(self.list_entry), writer.en.eq(self.list_write),
            self.list_empty.eq(count == 0),
        ]

        index = Signal(range(config.list_depth + 1))
        tiles_read = Signal(addr_bits)
        k_tiles_read = Signal.like(layer.k_tiles)
        reading = Signal()
        entry = Signal(entry_layout(config), reset_less=True)
        waits, entry_valid = Signal(), Signal()     # an entry was read; the one before it is at work
        entry_done = Signal()
        move = Signal()
        # The entry is the list's last, and its tile is the k-tile's last: of the one that waits, of the one at work.
        read_last, read_final, ends_tile, ends_ktile = (
            Signal(name=name) for name in ("read_last", "read_final", "ends_tile", "ends_ktile"))
        latest = Signal(len(count), init=(1 << len(count)) - 1)     # entry written
        last_index = index == latest
        last_tile = tiles_read == final_tile
        m.d.sync += latest.eq(latest + self.list_write)
        m.d.comb += [
            move.eq(waits & (~entry_valid | entry_done)),
            reader.addr.eq(index),
            reader.en.eq(reading & (index < count) & (~last_index | self.list_complete) & (~waits | move)),
        ]
        with m.If(reader.en):
            m.d.sync += [
                waits.eq(1),
                read_last.eq(last_index),
                read_final.eq(last_index & last_tile),
                index.eq(Mux(last_index, 0, index + 1)),
            ]
            with m.If(last_index):
                m.d.sync += tiles_read.eq(Mux(last_tile, 0, tiles_read + 1))
                with m.If(last_tile):
                    m.d.sync += k_tiles_read.eq(k_tiles_read + 1)
                    with m.If(k_tiles_read == final_ktile):
                        m.d.sync += reading.eq(0)
        with m.Elif(move):
            m.d.sync += waits.eq(0)

        # Line stage: the whole window, or its used lines in order.
        used = Cat(reader.data.taps.word_select(line, LINE_TAPS).any() for line in range(LINE_TAPS))
        left_over = Signal(LINE_TAPS)
        line = (left_over & -left_over)[:LINE_TAPS]
        last_line = by_window | (left_over & (left_over - 1) == 0)  # an entry without taps must end too
        with m.If(move):
            m.d.sync += [
                entry.eq(reader.data), entry_valid.eq(1), ends_tile.eq(read_last), ends_ktile.eq(read_final),
            ]
        with m.Elif(entry_done):
            m.d.sync += entry_valid.eq(0)

        fresh_ktile = Signal(init=1)
        half = Signal()
        m.submodules.skid = skid = Skid(request_layout(config))
        connect(m, skid.o, flipped(self.requests))
        request, room = skid.i.payload, skid.i.ready
        emit = skid.i.valid
        m.d.comb += [
            emit.eq(entry_valid & tile_valid & room & (~fresh_ktile | self.ktile_ready)),
            entry_done.eq(emit & last_line),
            tile_done.eq(entry_done & ends_tile),
            self.ktile_take.eq(emit & fresh_ktile),
            self.wait_weights.eq(entry_valid & fresh_ktile & ~self.ktile_ready),
        ]
        offset = Signal(addr_bits)
        m.d.comb += offset.eq(offsets[0])
        for number in range(1, LINE_TAPS):
            with m.If(~by_window & line[number]):
                m.d.comb += offset.eq(offsets[number])
        m.d.comb += [
            request.addr.eq(entry.base + offset),
            request.mask.eq(mask),
            request.taps.eq(entry.taps & Cat((by_window | bit).replicate(LINE_TAPS) for bit in line)),
            request.half.eq(half),
            request.last.eq((entry.last | ends_tile) & last_line),   # a tile ends its vector
            request.tile_last.eq(last_line & ends_tile),
            request.ktile_last.eq(last_line & ends_ktile),
        ]
        if patterns:
            m.d.comb += request.pattern.eq(pattern)
        m.d.comb += [request[name].eq(entry[name]) for name in ("a_signed", "w_signed", "exponent", "group", "weight")]
        with m.If(emit):
            m.d.sync += [
                left_over.eq(left_over & (left_over - 1)),
                fresh_ktile.eq(entry_done & ends_ktile),
                half.eq(half ^ (entry_done & ends_ktile)),
            ]
        with m.If(move):    # the entry before it is done
            m.d.sync += left_over.eq(used)

        # An array without channels still steps over the k-tiles.
        m.d.comb += self.ktile_skip.eq(reading & (count == 0) & self.list_complete & self.ktile_ready)
        with m.If(self.ktile_skip):
            m.d.sync += [half.eq(~half), k_tiles_read.eq(k_tiles_read + 1)]
            with m.If(k_tiles_read == final_ktile):
                m.d.sync += reading.eq(0)

        with m.If(self.start):
            m.d.sync += [
                reading.eq(1),
                tile_valid.eq(0),
                count.eq(0), latest.eq(-1),
                index.eq(0), tiles_read.eq(0), k_tiles_read.eq(0),
            ]
        m.d.comb += self.idle.eq(~reading & ~waits & ~entry_valid & skid.empty)
        return m
