"""Queue of a sparse array's row: keeps the windows in which something is not zero, and hands out their nonzeros.

A window that is kept waits as `held` until the row keeps the next one, so that the end of a vector or of a tile can
still be noted on it when the windows that follow are all zero: ends cost no cycle. Only a row in which a whole tile is
zero keeps that tile's last window, and takes one cycle for it. A window's content is written when it comes, its note,
the taps to multiply and the ends, when it is no longer held:

    cycle       0                   1                   2                   3               4
    window 0    comes, is written   held, noted, read   head, tap 1         head, tap 6
    window 1    .                   comes, is written   held                noted, read     head, tap 0
    window 2    .                   .                   all zero            comes

The contents are written to the memory before the note is, so they can be read in the cycle in which the note is made.
The read window stays in the memory's output register; so the memory has room for a full queue and the held window.
"""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import TAPS, Config

__all__ = ["RowQueue", "content_layout", "row_window_layout"]


def content_layout(config: Config) -> data.StructLayout:
    """What is known of a row's window when it comes.

    Members
    -------
    nibbles : 9 nibbles
        Those of taps that are not to be multiplied may be anything.
    others
        As `hw.interfaces.request_layout`.
    """
    return data.StructLayout({
        "nibbles": data.ArrayLayout(4, TAPS),
        "a_signed": 1,
        "w_signed": 1,
        "exponent": 2,
        "half": 1,
        "group": config.group_bits,
        "weight": config.weight_bits,
    })


def ends_layout() -> data.StructLayout:
    """What a window ends: a vector, the tile, the k-tile."""
    return data.StructLayout({"last": 1, "tile_last": 1, "ktile_last": 1})


def row_window_layout(config: Config) -> data.StructLayout:
    """A row's share of a window.

    Members
    -------
    content : content_layout
    taps : 9 bits
        Nibbles to multiply: used, inside the image, and not zero.
    ends : ends_layout
    """
    return data.StructLayout({"content": content_layout(config), "taps": TAPS, "ends": ends_layout()})


class RowQueue(wiring.Component):
    """Queue of `fifo_depth` windows, and the one that is held.

    Members
    -------
    window : In(row_window_layout)
    en : In(1)
        The window is broadcast in this cycle; only while `ready`.
    ready : Out(1)
        There is room.
    valid : Out(1)
        There is a step to make.
    step : In(1)
        It is made in this cycle.
    tap : Out(9 bits)
        The bit of the step's tap; 0 for the step of a tile that is all zero.
    window_end : Out(1)
        It is the window's last step.
    content, ends : Out
        Of the step's window.
    idle : Out(1)
        No window is here.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "window": In(row_window_layout(config)),
            "en": In(1),
            "ready": Out(1),
            "valid": Out(1),
            "step": In(1),
            "tap": Out(TAPS),
            "window_end": Out(1),
            "content": Out(content_layout(config)),
            "ends": Out(ends_layout()),
            "idle": Out(1),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        window, depth = self.window, self.config.fifo_depth
        # Where the next window kept goes, where the held one is (or, if none is, will be), and which to read next.
        slots = 1 << (depth - 1).bit_length()
        place, noted, front = (Signal(range(slots), name=name) for name in ("place", "noted", "front"))

        # Hold back the last window kept, until it is known what it ends.
        note = data.StructLayout({"taps": TAPS, "ends": ends_layout()})
        held = Signal(note, reset_less=True)
        held_valid = Signal()
        open_tile = Signal()    # the held window belongs to the tile that is being broadcast
        nonzero = window.taps.any()
        takes, push, pop = Signal(), Signal(), Signal()
        m.d.comb += [
            takes.eq(self.en & (nonzero | window.ends.tile_last & ~open_tile)),
            push.eq(held_valid & self.ready & (takes | held.ends.tile_last)),
            pop.eq(self.step & self.window_end),
        ]
        with m.If(takes):
            m.d.sync += [held.taps.eq(window.taps), held.ends.eq(window.ends), held_valid.eq(1), place.eq(place + 1)]
            with m.If(~nonzero):    # the whole tile is zero
                m.d.sync += held.ends.last.eq(1)
        with m.Elif(push):
            m.d.sync += held_valid.eq(0)
        with m.If(push):
            m.d.sync += noted.eq(place)
        with m.If(self.en):
            m.d.sync += open_tile.eq(~window.ends.tile_last & (open_tile | nonzero))
            with m.If(~takes & open_tile):
                m.d.sync += held.ends.eq(held.ends.as_value() | window.ends.as_value())

        # Windows in the queue, the head included.
        level = Signal(range(depth + 1))
        full = Signal()
        with m.If(push != pop):
            m.d.sync += [
                level.eq(level + Mux(pop, -1, 1)),
                full.eq(push & (level == depth - 1)),
                self.valid.eq(push | (level != 1)),
            ]
        m.d.comb += [self.ready.eq(~full), self.idle.eq(~self.valid & ~held_valid)]

        # The next window moves up when the head is done, or while there is none.
        contents = Memory(shape=content_layout(self.config), depth=slots, init=[],
                          attrs={"no_rw_check": 1, "ram_style": "block"})
        notes = Memory(shape=note, depth=slots, init=[])
        m.submodules.contents, m.submodules.notes = contents, notes
        content_write, content_read = contents.write_port(), contents.read_port()
        note_write, note_read = notes.write_port(), notes.read_port(domain="comb")
        advance = ~self.valid | pop
        more = level[1:].any()
        following = Mux(more, note_read.data.as_value(), held.as_value())
        head = Signal(note, reset_less=True)
        m.d.comb += [
            content_write.addr.eq(place),
            content_write.data.eq(window.content),
            content_write.en.eq(takes),
            content_read.addr.eq(front),
            content_read.en.eq(advance),
            note_write.addr.eq(noted),
            note_write.data.eq(held),
            note_write.en.eq(push),
            note_read.addr.eq(front),
            self.content.eq(content_read.data),
            self.ends.eq(head.ends),
        ]
        with m.If(advance & (more | push)):
            m.d.sync += front.eq(front + 1)

        # The head's taps, lowest first. A window without any makes one step.
        below = [head.taps[:number].any() for number in range(TAPS)]
        m.d.comb += [
            self.tap.eq(Cat(head.taps[number] & ~below[number] for number in range(TAPS))),
            self.window_end.eq(~reduce(or_, (head.taps[number] & below[number] for number in range(1, TAPS)))),
        ]
        with m.If(advance):
            m.d.sync += head.eq(following)
        with m.Elif(self.step):
            m.d.sync += head.taps.eq(Cat(head.taps[number] & below[number] for number in range(TAPS)))
        return m
