"""Event counters of 64 bits, most of which are in one memory."""

from collections.abc import Mapping

from amaranth.hdl import Array, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["COUNTER_BITS", "Counters"]

COUNTER_BITS = 64


class Counters(wiring.Component):
    """Counts events of several kinds.

    Each counter is a small accumulator of flip-flops, and a word of the memory. A walker goes round and adds one
    accumulator per cycle to its word; an accumulator holds what can happen in one round.

    Parameters
    ----------
    events : mapping of str to int
        Names of the counters, in the order of their numbers, and the most that each can count per cycle.
    depth : int
        Counters that can be read; those without a name read 0.

    Members
    -------
    happened : In(struct of the names)
        How often each event happened in this cycle.
    clear : In(1)
        Sets all counters to 0; what happens in the same cycle does not count.
    settled : Out(1)
        All that happened before this cycle is in the memory, and `clear` is done: a round and two cycles after the last
        event, at the latest.
    index : In(bits of depth), value : Out(64)
        The counter asked for in the last cycle, 0 while it is being cleared.

    Raises
    ------
    ValueError
        There are no events, more than `depth`, or one that never counts.
    """

    def __init__(self, events: Mapping[str, int], depth: int = 32) -> None:
        if not 1 <= len(events) <= depth:
            raise ValueError(f"{len(events)} counters are not legal: there must be from 1 to {depth}")
        for name, most in events.items():
            if most < 1:
                raise ValueError(f"{name}={most} is not legal: a counter must count at least 1 in some cycle")
        self.events = dict(events)
        self.depth = depth
        super().__init__({
            "happened": In(data.StructLayout({name: most.bit_length() for name, most in events.items()})),
            "clear": In(1),
            "settled": Out(1),
            "index": In(range(depth)),
            "value": Out(COUNTER_BITS),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        count = len(self.events)
        round_cycles = max(count, 2)    # a word can be read again two cycles later
        m.submodules.memory = memory = Memory(shape=unsigned(COUNTER_BITS), depth=self.depth, init=[])
        old = memory.read_port()
        reader = memory.read_port()
        writer = memory.write_port()

        # Accumulators. The one that is visited begins anew, with what happens now.
        place = Signal(range(round_cycles))
        m.d.sync += place.eq(Mux(place == round_cycles - 1, 0, place + 1))
        accumulators = []
        for number, (name, most) in enumerate(self.events.items()):
            accumulator = Signal(range(round_cycles * most + 1), name=f"accumulator_{name}")
            kept = Mux(place == number, 0, accumulator)
            m.d.sync += accumulator.eq(Mux(self.clear, 0, kept + self.happened[name]))
            accumulators.append(accumulator)
        # A lone counter has an idle place beside it.
        visited = Array([*accumulators, *[0] * (round_cycles - count)])[place]

        # Walker: reads a word, and adds to it a cycle later. After a clear, a round of words counts as 0; so does one
        # after reset, which leaves the memory as it is.
        left = Signal(range(round_cycles + 1), init=round_cycles)
        added = Signal(range(max(self.events.values()) * round_cycles + 1))
        added_place = Signal.like(place)
        anew = Signal()
        with m.If(self.clear):
            m.d.sync += left.eq(round_cycles)
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        m.d.comb += [
            old.addr.eq(place),
            writer.addr.eq(added_place),
            writer.data.eq(Mux(anew, 0, old.data) + added),
            writer.en.eq(anew | (added != 0)),
        ]
        m.d.sync += [added.eq(Mux(self.clear, 0, visited)), added_place.eq(place), anew.eq(left != 0)]

        masked = Signal()
        m.d.sync += masked.eq((left != 0) | anew)
        m.d.comb += [
            reader.addr.eq(self.index),
            self.value.eq(Mux(masked, 0, reader.data)),
            self.settled.eq(~Cat(accumulators).any() & (added == 0) & (left == 0) & ~anew),
        ]
        return m
