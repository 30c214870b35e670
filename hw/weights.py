"""Weights and scale codes of two k-tiles: one half is read while the other loads.

    half 0   k-tile 0 read by the array    k-tile 2 loads                k-tile 2 read
    half 1   k-tile 1 loads                k-tile 1 read by the array    k-tile 3 loads
"""

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import LINE_TAPS, Config
from .interfaces import Space, load_layout
from .pe_row import staggered

__all__ = ["LineWeights", "ScaleMemory", "TapWeights", "WeightHalves", "commits", "weight_load_signature"]

# A half that loads is not read: without this Yosys builds logic for a read that meets a write.
NO_COLLISIONS = {"no_rw_check": 1}


def weight_load_signature(config: Config) -> wiring.Signature:
    """A beat on its way into a half, from the loader's side.

    Members
    -------
    beat : Out(load_layout)
        Those of spaces other than WEIGHT and SCALE are passed over.
    en : Out(1)
        The beat is taken in this cycle.
    half : Out(1)
        Half that loads.
    """
    return wiring.Signature({"beat": Out(load_layout(config)), "en": Out(1), "half": Out(1)})


def commits(beat: data.View) -> Value:
    """Whether a beat completes a k-tile."""
    return beat.commit & ((beat.space == Space.WEIGHT) | (beat.space == Space.SCALE))


def inverted(m: Module, beat: data.View) -> data.View:
    """Return a beat with inverted data: an array keeps weights and codes so, for bits that are 0 clear registers."""
    result = Signal.like(beat, name="inverted")
    m.d.comb += [result.eq(beat), result.data.eq(~beat.data)]
    return result


class WeightHalves(wiring.Component):
    """Keeps account of the halves of one array.

    Members
    -------
    commit : In(1)
        The k-tile that loads is complete.
    free : Out(1)
        The half to load is free.
    half : Out(1)
        The half to load.
    ready : Out(1)
        A loaded k-tile waits to be taken.
    take : In(1)
        The array begins the k-tile.
    release : In(1)
        The array has finished a k-tile; its half is free.
    """

    def __init__(self) -> None:
        super().__init__({
            "commit": In(1), "free": Out(1), "half": Out(1), "ready": Out(1), "take": In(1), "release": In(1),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        loaded = Signal(range(3))   # k-tiles that wait to be taken
        held = Signal(range(3))     # halves not free
        m.d.comb += [self.free.eq(held != 2), self.ready.eq(loaded != 0)]
        m.d.sync += [
            self.half.eq(self.half ^ self.commit),
            loaded.eq(loaded + self.commit - self.take),
            held.eq(held + self.commit - self.release),
        ]
        return m


def _beat_memory(m: Module, config: Config, load: wiring.PureInterface, space: Space, depth: int, address: Value,
                 places: Sequence[int]) -> Memory:
    """Make a memory; beat i of the word at `address` loads where the load address ends in places[i]."""
    memory = Memory(shape=unsigned(len(places) * config.bus_bits), depth=depth, init=[], attrs=NO_COLLISIONS)
    m.submodules.memory = memory
    port = memory.write_port(granularity=config.bus_bits)
    here = load.en & (load.beat.space == space)
    place = load.beat.address[:max(places).bit_length()]
    m.d.comb += [
        port.en.eq(Cat(here & (place == number) for number in places)),
        port.addr.eq(address),
        port.data.eq(load.beat.data.replicate(len(places))),
    ]
    return memory


class LineWeights(wiring.Component):
    """Kernel-line words, 3 x cols weights, for a dense array; lane by lane as late as `hw.pe_row.staggered` says.

    Members
    -------
    load : In(weight_load_signature)
    en, half, addr : In
        Read; `weights` holds lane 0's part of the word two cycles later.
    select : In(3 bits)
        With dense_taps = 1, the tap that is wanted, one cycle after `en`.
    weights : Out(dense_taps x cols nibbles, signed)
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "load": In(weight_load_signature(config)),
            "en": In(1),
            "half": In(1),
            "addr": In(config.weight_bits),
            "select": In(LINE_TAPS),
            "weights": Out(data.ArrayLayout(4 * config.cols, config.dense_taps)),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config, load = self.config, self.load
        beat_bits = (config.tap_beats - 1).bit_length()
        places = [tap << beat_bits | beat for tap in range(LINE_TAPS) for beat in range(config.tap_beats)]
        word = load.beat.address[beat_bits + 2:][:config.weight_bits]
        memory = _beat_memory(m, config, load, Space.WEIGHT, 2 * config.weight_depth, Cat(word, load.half), places)
        reader = memory.read_port()
        tap_bits = config.tap_beats * config.bus_bits
        weights = Signal.like(self.weights, reset_less=True)
        words = [reader.data[tap * tap_bits:][:4 * config.cols] for tap in range(LINE_TAPS)]
        if config.dense_taps == 1:
            words = [Mux(self.select[0], words[0], Mux(self.select[1], words[1], words[2]))]
        m.d.sync += [weights[tap].eq(word) for tap, word in enumerate(words)]
        m.d.comb += [reader.en.eq(self.en), reader.addr.eq(Cat(self.addr, self.half))]
        m.d.comb += [self.weights[tap].eq(Cat(staggered(m, config, word, f"tap{tap}_")))
                     for tap, word in enumerate(weights)]
        return m


class TapWeights(wiring.Component):
    """Tap words, cols weights, for one row of a sparse array; lane by lane as late as `hw.pe_row.staggered` says.

    Taps s = 0, 1, 2 of a half lie one behind the other, each with the words' addresses: that takes no multiplication.
    A memory of its own for each pair of lanes goes into block RAMs side by side: no multiplexers between deep ones.

    Members
    -------
    load : In(weight_load_signature)
    en, half, tap, addr : In
        Read; `weights` holds lane 0's part of tap 0, 1 or 2 of a kernel-line word two cycles later.
    weights : Out(cols nibbles)
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "load": In(weight_load_signature(config)),
            "en": In(1),
            "half": In(1),
            "tap": In(range(LINE_TAPS)),
            "addr": In(config.weight_bits),
            "weights": Out(4 * config.cols),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config, load = self.config, self.load
        beat_bits = (config.tap_beats - 1).bit_length()
        loaded = load.beat.address[beat_bits:]
        address = self._address(load.half, loaded[:2], loaded[2:][:config.weight_bits])
        here = load.en & (load.beat.space == Space.WEIGHT)
        weights = Signal.like(self.weights, reset_less=True)
        for first in range(0, len(weights), 8):
            beat, bit = divmod(first, config.bus_bits)
            width = min(8, len(weights) - first)
            memory = Memory(shape=unsigned(width), depth=2 * config.tap_words, init=[], attrs=NO_COLLISIONS)
            m.submodules[f"lanes{first // 4}"] = memory
            writer, reader = memory.write_port(), memory.read_port()
            m.d.comb += [
                writer.en.eq(here & (load.beat.address[:beat_bits] == beat)),
                writer.addr.eq(address),
                writer.data.eq(load.beat.data[bit:]),
                reader.en.eq(self.en),
                reader.addr.eq(self._address(self.half, self.tap, self.addr)),
            ]
            m.d.sync += weights[first:first + width].eq(reader.data)
        m.d.comb += self.weights.eq(Cat(staggered(m, config, weights, "lane")))
        return m

    def _address(self, half: Value, tap: Value, word: Value) -> Value:
        return Cat(word, tap + Mux(half, LINE_TAPS, 0))


class ScaleMemory(wiring.Component):
    """Scale words, a code for each scale unit; a group has one word per lane of the units.

    Members
    -------
    load : In(weight_load_signature)
    en, half, addr : In
        Read; `codes` holds the word one cycle later.
    codes : Out(scale_units bytes)
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "load": In(weight_load_signature(config)),
            "en": In(1),
            "half": In(1),
            "addr": In(config.scale_bits),
            "codes": Out(data.ArrayLayout(8, config.scale_units)),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config, load = self.config, self.load
        word = load.beat.address[(config.scale_beats - 1).bit_length():][:config.scale_bits]
        memory = _beat_memory(m, config, load, Space.SCALE, 2 << config.scale_bits, Cat(word, load.half),
                              range(config.scale_beats))
        reader = memory.read_port()
        m.d.comb += [reader.en.eq(self.en), reader.addr.eq(Cat(self.addr, self.half)), self.codes.eq(reader.data)]
        return m
