"""Layer engine: runs one convolution layer from a configuration port to the written result.

    load ──┬─> weights and codes ────────────────┐
           ├─> channel list                      │
           │        │                            │
           │   address gen. ─> window fetcher ─> array ────────┐
           │                       │  (one of each per array)  │
           ├─> activation memory <─┘                           │
           │        ^      └──────────── residual ─────> post-processor
           └─> parameters ─────────────────────────────>       │
                    └──────────────────────────────────────────┘ write
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .actmem import ActivationMemory
from .addrgen import AddressGenerator
from .config import Config
from .dense import DenseArray
from .detector import SparsityDetector
from .fetcher import PortArbiter, WindowFetcher
from .interfaces import Space, label_layout, layer_layout, load_layout, policy_layout
from .ppu import PostProcessor
from .readout import Readout, address_shape
from .scheduler import Scheduler
from .sparse import SparseArray
from .weights import commits

__all__ = ["CAUSES", "LayerEngine", "counters_layout", "events_layout"]

CAUSES = ("busy", "fetch", "weights", "drain", "post", "write", "steps")


def counters_layout(config: Config) -> data.StructLayout:
    """Counters of the layer that runs or ran last, 32 bits each; complete two cycles after its last one.

    Members
    -------
    cycles :
        From the layer's start to its last write.
    array : one per array
        busy: cycles in which it multiplied (a sparse one: in any row). fetch, weights, drain, post, write: cycles in
        which it did not, because no window was there; its k-tile's weights were not there; its drain chain was busy;
        both of its accumulator banks were waiting for the post-processor; and that because each result takes several
        writes. What is left of `cycles` is the layer's beginning and end. steps: multiplications per column, that is
        the nonzeros of a sparse array (and one per row whose whole tile is zero); rows times `busy` of a dense one.
    """
    return data.StructLayout({
        "cycles": 32,
        "array": data.ArrayLayout(data.StructLayout(dict.fromkeys(CAUSES, 32)), config.arrays),
    })


def events_layout(config: Config) -> data.StructLayout:
    """What `counters_layout` counts of one cycle: a bit each, and for `steps` how many.

    Members
    -------
    running : 1 bit
        Counted by `cycles`.
    array : one per array
    """
    causes = dict.fromkeys(CAUSES, 1) | {"steps": range(config.rows + 1)}
    return data.StructLayout({
        "running": 1, "array": data.ArrayLayout(data.StructLayout(causes), config.arrays),
    })


class LayerEngine(wiring.Component):
    """Layer engine.

    Members
    -------
    load : In(stream of load_layout)
        Fills the memories. Weights of the k-tiles come in order and wait while both halves are in use.
    layer : In(stream of layer_layout)
        Taken while idle; begins the layer.
    done : Out(1)
        In the cycle after the layer's last write.
    counters : Out(counters_layout)
    events : Out(events_layout)
        What the counters count, a cycle later.
    active : Out(1)
        Something was computed or written in the last cycle.
    outside : Out(1)
        A write outside the layer's output was suppressed in this cycle.
    policy : In(policy_layout)
        When labels are made anew.
    label_index, label_slot : In, label : Out(label_layout)
        Reads the label table; the label asked for in the last cycle.
    addresses : In(stream of beat address), beats : Out(stream of bus_bits)
        Reads the activation memory.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "load": In(stream.Signature(load_layout(config))),
            "layer": In(stream.Signature(layer_layout(config))),
            "done": Out(1),
            "policy": In(policy_layout()),
            "label_index": In(config.label_bits),
            "label_slot": In(config.slot_bits),
            "label": Out(label_layout()),
            "counters": Out(counters_layout(config)),
            "events": Out(events_layout(config)),
            "active": Out(1),
            "outside": Out(1),
            "addresses": In(stream.Signature(address_shape(config))),
            "beats": Out(stream.Signature(config.bus_bits)),
        })

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config = self.config
        load = self.load.payload
        load_en = self.load.valid & self.load.ready
        # Beats go from a register to the many memories of the arrays and to those that are read later; activations, and
        # labels, go at once, for they wait for others that write.
        passed = Signal(load_layout(config), reset_less=True)
        passed_en = Signal()
        m.d.sync += [passed.eq(load), passed_en.eq(load_en)]

        m.submodules.memory = memory = ActivationMemory(config)
        m.submodules.ppu = ppu = PostProcessor(config)
        m.submodules.readout = readout = Readout(config)
        connect(m, flipped(self.addresses), readout.addresses)
        connect(m, readout.beats, flipped(self.beats))

        # The layer at work.
        layer = Signal(layer_layout(config))
        start = Signal()
        running = Signal()
        idle = Signal(init=1)
        m.d.comb += self.layer.ready.eq(~start & ~running)
        m.d.sync += start.eq(self.layer.valid & self.layer.ready)
        with m.If(self.layer.valid & self.layer.ready):
            m.d.sync += layer.eq(self.layer.payload)
        with m.If(start):
            m.d.sync += running.eq(1)
        m.d.comb += self.done.eq(running & idle)
        with m.If(self.done):
            m.d.sync += running.eq(0)
        m.d.sync += [
            self.events.running.eq(start | running & ~self.done),
            self.counters.cycles.eq(Mux(start, 0, self.counters.cycles + self.events.running)),
        ]
        pitch = Signal(range(config.window_width + 1))
        m.d.sync += pitch.eq(Mux(layer.width <= config.window_width, layer.width, 0))

        # Labels of the last layer's output, then the lists of this one.
        m.submodules.detector = detector = SparsityDetector(config)
        m.submodules.scheduler = scheduler = Scheduler(config)
        unlabelled = Signal()   # the detector has yet to take the layer
        with m.If(start):
            m.d.sync += unlabelled.eq(1)
        with m.Elif(detector.idle):
            m.d.sync += unlabelled.eq(0)
        m.d.comb += [
            detector.layer.eq(layer),
            detector.start.eq(unlabelled & detector.idle),
            detector.policy.eq(self.policy),
            detector.count.eq(ppu.count),
            detector.count_en.eq(ppu.count_en),
            detector.ktile_end.eq(ppu.ktile_end),
            detector.layer_end.eq(ppu.layer_end),
            detector.load.eq(load),
            detector.load_en.eq(load_en),
            detector.index.eq(scheduler.label_index),
            detector.slot.eq(scheduler.label_slot),
            detector.host_index.eq(self.label_index),
            detector.host_slot.eq(self.label_slot),
            self.label.eq(detector.host_label),
            scheduler.layer.eq(layer),
            scheduler.start.eq(start),
            scheduler.go.eq(~unlabelled),
            scheduler.load.eq(passed),
            scheduler.load_en.eq(passed_en),
            scheduler.label.eq(detector.label),
        ]
        # Who takes part is known when the lists are complete.
        m.d.sync += ppu.lists_complete.eq(scheduler.complete & ~start)

        # Arrays. Each has its own list, weights and fetcher; fetchers share the read ports.
        port_users: list[list[object]] = [[] for _ in range(config.read_ports)]
        port_users[-1] += [ppu.residual]
        idles = [ppu.idle]
        halves_free, working = [], [ppu.busy]
        for array in range(config.arrays):
            m.submodules[f"addrgen{array}"] = addrgen = AddressGenerator(config)
            m.submodules[f"fetcher{array}"] = fetcher = WindowFetcher(config)
            if array < config.dense:
                m.submodules[f"dense{array}"] = unit = DenseArray(config)
            else:
                m.submodules[f"sparse{array - config.dense}"] = unit = SparseArray(config)
                m.d.comb += unit.start.eq(start)
            port_users[array % config.read_ports].append(fetcher.memory)
            halves_free.append(unit.load_free)
            idles += [addrgen.idle, fetcher.idle, unit.idle]
            m.d.comb += [
                addrgen.layer.eq(layer),
                addrgen.start.eq(start & ~layer.elementwise),   # no k-tiles of weights come either
                addrgen.list_entry.eq(scheduler.entry[array]),
                addrgen.list_write.eq(scheduler.write[array]),
                addrgen.list_complete.eq(scheduler.complete),
                addrgen.ktile_ready.eq(unit.ktile_ready),
                unit.ktile_take.eq(addrgen.ktile_take),
                unit.ktile_skip.eq(addrgen.ktile_skip),
                unit.pitch.eq(pitch),
                unit.load.eq(passed),
                unit.load_en.eq(passed_en),
            ]
            m.d.sync += ppu.used[array].eq(~addrgen.list_empty & ~layer.elementwise)
            connect(m, addrgen.requests, fetcher.requests)
            connect(m, fetcher.windows, unit.windows)
            connect(m, unit.tiles, ppu.tiles[array])

            starved = ~fetcher.windows.valid & ~unit.busy & ~unit.wait_drain & ~unit.wait_bank
            happened = {
                "busy": unit.busy,
                "fetch": starved & ~addrgen.wait_weights & ~(addrgen.idle & fetcher.idle),
                "weights": starved & addrgen.wait_weights,
                "drain": unit.wait_drain,
                "post": unit.wait_bank & ~ppu.extra,
                "write": unit.wait_bank & ppu.extra,
                "steps": unit.steps,
            }
            for cause in CAUSES:
                counter, event = self.counters.array[array][cause], self.events.array[array][cause]
                m.d.sync += [event.eq(Mux(running, happened[cause], 0)), counter.eq(Mux(start, 0, counter + event))]
            working.append(unit.busy)

        # Read ports: the residual first, for everything waits for the post-processor; the host last.
        port_users[-1].append(readout.memory)
        for port, users in enumerate(port_users):
            m.submodules[f"arbiter{port}"] = arbiter = PortArbiter(config, len(users))
            connect(m, arbiter.memory, memory.read[port])
            for number, user in enumerate(users):
                connect(m, user, arbiter.user[number])

        # Loads. The post-processor's writes go first.
        writes = ppu.write.mask.any()
        beat = load.space == Space.ACTIVATION
        to_half = (load.space == Space.WEIGHT) | (load.space == Space.SCALE)
        beat_mask = (1 << config.bus_nibbles) - 1
        m.d.comb += [
            ppu.layer.eq(layer),
            ppu.start.eq(start),
            ppu.load.eq(passed),
            ppu.load_en.eq(passed_en),
            # The half that a beat in the register completes is still free.
            self.load.ready.eq(Mux(beat, ~writes, (~to_half | Cat(halves_free).all() & ~(passed_en & commits(passed)))
                                   & ((load.space != Space.LABEL) | detector.load_ready))),
            self.outside.eq(ppu.outside),
            memory.write.eq(ppu.write),
        ]
        m.d.sync += idle.eq(Cat(idles).all() & ~start)
        m.d.sync += self.active.eq(Cat(working).any())
        with m.If(~writes):
            m.d.comb += [
                memory.write.addr.eq(load.address << (config.bus_nibbles - 1).bit_length()),
                memory.write.data.as_value().eq(load.data),
                memory.write.mask.eq(Mux(load_en & beat, beat_mask, 0)),
            ]
        return m
