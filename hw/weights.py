"""Weight memory of one array: kernel-line words and scale words of two k-tiles, one read while the other loads.

    half 0   k-tile 0 read by the array    k-tile 2 loads                k-tile 2 read
    half 1   k-tile 1 loads                k-tile 1 read by the array    k-tile 3 loads
"""

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import LINE_TAPS, Config
from .interfaces import Space, load_layout

__all__ = ["WeightMemory"]


class WeightMemory(wiring.Component):
    """Words of 3 x cols weights and of cols scale codes, in two halves.

    Members
    -------
    load : In(load_layout)
        A beat; those of other spaces are passed over.
    load_en : In(1)
        `load` is taken in this cycle; only while `load_ready`.
    load_ready : Out(1)
        The half to load is free.
    ready : Out(1)
        A loaded k-tile waits to be taken.
    take : In(1)
        The array begins the k-tile.
    release : In(1)
        The array has finished a k-tile; its half is free.
    weight_en, weight_half, weight_addr : In
        Read of a weight word; `weights` holds it two cycles later.
    weights : Out(3 x cols nibbles, signed)
    scale_en, scale_half, scale_addr : In
        Read of a scale word; `codes` holds it one cycle later.
    codes : Out(cols bytes)
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "load": In(load_layout(config)),
            "load_en": In(1),
            "load_ready": Out(1),
            "ready": Out(1),
            "take": In(1),
            "release": In(1),
            "weight_en": In(1),
            "weight_half": In(1),
            "weight_addr": In(config.weight_bits),
            "weights": Out(data.ArrayLayout(4 * config.cols, LINE_TAPS)),
            "scale_en": In(1),
            "scale_half": In(1),
            "scale_addr": In(config.group_bits),
            "codes": Out(data.ArrayLayout(8, config.cols)),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config, load = self.config, self.load

        loading = Signal()          # half that loads
        loaded = Signal(range(3))   # k-tiles that wait to be taken
        held = Signal(range(3))     # halves not free
        commit = self.load_en & load.commit
        m.d.comb += [self.load_ready.eq(held != 2), self.ready.eq(loaded != 0)]
        m.d.sync += [
            loading.eq(loading ^ commit),
            loaded.eq(loaded + commit - self.take),
            held.eq(held + commit - self.release),
        ]

        def memory(name: str, space: Space, words: int, places: list[int]) -> Memory:
            """Return a memory of 2 x `words` words; beat i of a word loads where the address ends in places[i]."""
            made = Memory(shape=unsigned(len(places) * config.bus_bits), depth=2 * words, init=[])
            m.submodules[name] = made
            port = made.write_port(granularity=config.bus_bits)
            place_bits = max(places).bit_length()
            here = self.load_en & (load.space == space)
            word = load.address[place_bits:place_bits + (words - 1).bit_length()]
            m.d.comb += [
                port.en.eq(Cat(here & (load.address[:place_bits] == place) for place in places)),
                port.addr.eq(Cat(word, loading)),
                port.data.eq(load.data.replicate(len(places))),
            ]
            return made

        beat_bits = (config.tap_beats - 1).bit_length()
        tap_places = [tap << beat_bits | beat for tap in range(LINE_TAPS) for beat in range(config.tap_beats)]
        reader = memory("weights", Space.WEIGHT, config.weight_depth, tap_places).read_port()
        tap_bits = config.tap_beats * config.bus_bits
        m.d.comb += [reader.en.eq(self.weight_en), reader.addr.eq(Cat(self.weight_addr, self.weight_half))]
        weights = Signal.like(self.weights, reset_less=True)
        m.d.sync += [weights[tap].eq(reader.data[tap * tap_bits:]) for tap in range(LINE_TAPS)]
        m.d.comb += self.weights.eq(weights)

        reader = memory("scales", Space.SCALE, config.scale_depth, list(range(config.scale_beats))).read_port()
        m.d.comb += [
            reader.en.eq(self.scale_en),
            reader.addr.eq(Cat(self.scale_addr, self.scale_half)),
            self.codes.eq(reader.data),
        ]
        return m
