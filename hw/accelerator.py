"""Accelerator: the layer engine with everything around it that a design needs to use it.

    AXI4-Lite ──> registers ──> sequencer ──> layer engine
                     │           │     ^          │  ^
                  counters       v     │          v  │ load
    AXI4 <──────── read DMA, write DMA <─── beats ┘  │
                       └───────── loader ────────────┘

A run ends at END, with an error, or with a soft reset. In the last two cases what is under way on the bus is completed
and everything but the memories, the labels and the registers is reset. A bus that never answers is given up after as
many cycles as the watchdog allows; then it needs a reset too, for a late answer would be taken for another one's.
"""

from amaranth.hdl import Cat, ClockDomain, Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from golden.program.descriptor import ErrorCode

from .axi import axi_read_members, axi_write_members, lite_members
from .config import Config
from .counters import Counters
from .dma_read import ReadDMA
from .dma_write import WriteDMA
from .engine import CAUSES, LayerEngine
from .interfaces import Space
from .registers import COUNTERS, Registers
from .sequencer import Sequencer

__all__ = ["Accelerator", "counter_events"]

GIVE_UP = 1 << 16   # cycles that the bus has to complete what is under way, if there is no watchdog
MASTER, SLAVE = "m_axi_", "s_axi_"


def counter_events(config: Config) -> dict[str, int]:
    """The counters by their numbers, and the most that each counts in a cycle.

    run: cycles from start to end. idle: those in which no array multiplies. layer: cycles in which a layer runs.
    layers: layers begun. read, written: beats of the bus. Then for each array, dense ones first, what
    `hw.engine.counters_layout` lists.
    """
    events = {"run": 1, "idle": 1, "layer": 1, "layers": 1, "read": 1, "written": 1}
    for array in range(config.arrays):
        kind = f"dense{array}" if array < config.dense else f"sparse{array - config.dense}"
        events |= {f"{kind}_{cause}": config.rows if cause == "steps" else 1 for cause in CAUSES}
    return events


class Accelerator(wiring.Component):
    """The complete accelerator. Ports are named as AXI has them, so that tools infer the interfaces.

    Members
    -------
    aclk : In(1)
        The only clock.
    aresetn : In(1)
        Synchronous reset, active low.
    s_axi_* : AXI4-Lite slave, 32 bits: the registers of `hw/sqdm.rdl`
    m_axi_* : AXI4 master, `bus_bits` wide: host memory
    irq : Out(1)
        Interrupt, a level.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        slave = {SLAVE + name: member.flip() for name, member in lite_members().items()}
        master = {MASTER + name: member for name, member in
                  (axi_read_members(config) | axi_write_members(config)).items()}
        super().__init__({"aclk": In(1), "aresetn": In(1), **slave, **master, "irq": Out(1)})

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        config = self.config
        m.domains.sync = sync = ClockDomain()
        m.d.comb += [sync.clk.eq(self.aclk), sync.rst.eq(~self.aresetn)]

        restart = Signal()      # a cycle of reset for all that a run leaves behind
        abandon = Signal()      # and for the bus, which does not answer
        m.submodules.registers = registers = Registers(config)
        m.submodules.counters = counters = Counters(counter_events(config), COUNTERS)
        m.submodules.sequencer = ResetInserter(restart)(sequencer := Sequencer(config))
        m.submodules.engine = ResetInserter(restart)(engine := LayerEngine(config))
        m.submodules.read_dma = ResetInserter(abandon)(read_dma := ReadDMA(config))
        m.submodules.write_dma = ResetInserter(abandon)(write_dma := WriteDMA(config))

        # Ports.
        for members, port, prefix in (
            (axi_read_members(config), read_dma.axi, MASTER),
            (axi_write_members(config), write_dma.axi, MASTER),
            (lite_members(), registers.axi, SLAVE),
        ):
            for name, member in members.items():
                outside, inside = getattr(self, prefix + name), getattr(port, name)
                outwards = (member.flow is Out) == (prefix == MASTER)
                m.d.comb += outside.eq(inside) if outwards else inside.eq(outside)
        m.d.comb += self.irq.eq(registers.irq)

        # Streams. The sequencer's loads go before the labels that software writes.
        connect(m, sequencer.reads, read_dma.commands)
        connect(m, read_dma.beats, sequencer.beats)
        connect(m, sequencer.writes, write_dma.commands)
        connect(m, engine.beats, write_dma.beats)
        connect(m, sequencer.layer, engine.layer)
        connect(m, sequencer.addresses, engine.addresses)
        label = registers.labels
        load = engine.load
        m.d.comb += [
            load.valid.eq(sequencer.load.valid | label.valid),
            load.payload.eq(sequencer.load.payload),
            sequencer.load.ready.eq(load.ready),
            label.ready.eq(load.ready & ~sequencer.load.valid),
        ]
        with m.If(~sequencer.load.valid):
            m.d.comb += [
                load.payload.space.eq(Space.LABEL),
                load.payload.address.eq(Cat(label.payload.index, label.payload.slot)),
                load.payload.data.eq(label.payload.label.as_value()),
                load.payload.commit.eq(0),
            ]

        # Settings.
        for name in ("program_base", "data_base", "program_size", "data_size", "program_count", "time_step"):
            m.d.comb += getattr(sequencer, name).eq(getattr(registers, name))
        m.d.comb += [
            sequencer.start.eq(registers.start),
            sequencer.write_idle.eq(write_dma.idle),
            sequencer.layer_done.eq(engine.done),
            engine.policy.eq(registers.policy),
            engine.label_index.eq(registers.label_index),
            engine.label_slot.eq(registers.label_slot),
            registers.label.eq(engine.label),
            registers.counter.eq(counters.value),
            counters.index.eq(registers.counter_index),
            counters.clear.eq(registers.clear_counters),
        ]

        # Progress: something is computed, or moves on the bus. `expired` comes in the cycle after as many without it as
        # the bus is given; the comparison is made two cycles ahead.
        moves = [getattr(self, f"{MASTER}{channel}valid") & getattr(self, f"{MASTER}{channel}ready")
                 for channel in ("ar", "r", "aw", "w", "b")]
        flushing = Signal()
        quiet = Signal(32)      # cycles without progress, this one and the next one included
        limit = Signal(32)
        limited = Signal()
        late = Signal()
        expires, expired = Signal(), Signal()
        flushes = registers.error | registers.soft_reset
        progress = Signal()
        m.d.comb += [
            progress.eq(Cat(moves, engine.active, engine.done, registers.start, flushes).any()),
            expires.eq(late & ~progress & limited),
        ]
        m.d.sync += [
            quiet.eq(Mux(progress, 2, quiet + 1)),
            limit.eq(Mux(flushing & (registers.watchdog == 0), GIVE_UP, registers.watchdog)),
            limited.eq(flushing | (registers.watchdog != 0)),
            late.eq(Mux(progress, limit == 1, quiet >= limit)),
            expired.eq(expires),
        ]

        # The run. Errors, and its end, are told a cycle after they are found, or two.
        m.d.comb += [read_dma.flush.eq(flushing), write_dma.flush.eq(flushing)]
        error = Signal(8)
        descriptor = Signal.like(registers.error_descriptor)
        address = Signal.like(registers.error_address)
        done = Signal()
        found, found_in = Signal.like(error), Signal.like(descriptor)   # by the sequencer, which looks at a lot
        m.d.sync += [found.eq(sequencer.error), found_in.eq(sequencer.error_descriptor)]
        m.d.sync += [error.eq(0), done.eq(sequencer.done)]
        with m.If(found != 0):
            m.d.sync += [error.eq(found), descriptor.eq(found_in), address.eq(0)]
            with m.If(found == ErrorCode.BUS_READ):
                m.d.sync += address.eq(read_dma.error_address)
        with m.Elif(engine.outside):
            m.d.sync += [error.eq(ErrorCode.GUARD), descriptor.eq(sequencer.layer_descriptor), address.eq(0)]
        with m.Elif(write_dma.error):
            m.d.sync += [error.eq(ErrorCode.BUS_WRITE), descriptor.eq(sequencer.descriptor),
                         address.eq(write_dma.error_address)]
        with m.Elif(expires):
            m.d.sync += [error.eq(ErrorCode.WATCHDOG), descriptor.eq(sequencer.descriptor), address.eq(0)]
        m.d.comb += [
            registers.error_code.eq(error),
            registers.error_descriptor.eq(descriptor),
            registers.error_address.eq(address),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += registers.ready.eq(1)
                m.d.sync += error.eq(0)
                with m.If(registers.soft_reset):
                    m.next = "FLUSH"
                with m.Elif(registers.start):
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += registers.busy.eq(1)
                with m.If(registers.soft_reset):
                    m.next = "FLUSH"
                with m.Elif(error != 0):
                    m.d.comb += registers.error.eq(1)
                    m.next = "FLUSH"
                with m.Elif(done):
                    m.d.comb += registers.done.eq(1)
                    m.next = "IDLE"
            with m.State("FLUSH"):
                m.d.comb += [registers.busy.eq(1), flushing.eq(1), restart.eq(1)]
                m.d.sync += [error.eq(0), done.eq(0)]
                with m.If(read_dma.idle & write_dma.idle):
                    m.next = "IDLE"
                with m.Elif(expired):
                    m.d.comb += abandon.eq(1)
                    m.next = "IDLE"

        happened = counters.happened
        m.d.comb += [
            happened.run.eq(registers.busy),
            happened.idle.eq(registers.busy & ~Cat(item.busy for item in self._arrays(engine)).any()),
            happened.layer.eq(engine.events.running),
            happened.layers.eq(sequencer.layer.valid & sequencer.layer.ready),
            happened.read.eq(self.m_axi_rvalid & self.m_axi_rready),
            happened.written.eq(self.m_axi_wvalid & self.m_axi_wready),
        ]
        names = list(counter_events(config))[-len(CAUSES) * config.arrays:]
        counted = [item[cause] for item in self._arrays(engine) for cause in CAUSES]
        m.d.comb += [happened[name].eq(event) for name, event in zip(names, counted, strict=True)]
        return m

    def _arrays(self, engine: LayerEngine) -> list:
        return [engine.events.array[array] for array in range(self.config.arrays)]
