"""Cycle model of whole programs: what the accelerator's counters say after a run.

The simulator executes the program, so labels, zeros and all beats are the true ones. Time is carried along descriptor
by descriptor: the sequencer, the bus as one queue of jobs that pass a beat per cycle, the halves of the weight memory,
and each layer by `golden.cycles`.

Beats are exact. Cycles are not, for three things are left out: beats of a LOAD that wait for the post-processor's
writes, the bursts' own turns (a command counts as one, with the memory's latency before it only where the queue is
empty), and the depth of the queue of jobs.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from golden.cycles import CAUSES, Counters, predict
from golden.detector import Detection, label_cycles
from golden.formats import Int64Array
from golden.machine import Machine
from golden.program.bundle import Program
from golden.program.checks import block_offsets
from golden.program.descriptor import BYTES, Descriptor, Opcode, decode
from golden.program.labels import LabelTable
from golden.program.simulator import RunState, Simulator
from golden.scheduler import schedule
from golden.work import HANDOVER_CYCLES, LayerWork, ListWork, nonzero_planes

__all__ = ["ProgramCounters", "predict_program"]

TRANSFORMS = ("none", "upsample", "space_to_depth")
COMMAND_CYCLES = 7      # from a job's command to its first beat, beside the memory's latency
FETCH_CYCLES = 4        # from a descriptor's last beat to its check
ASK_CYCLES = 2          # of the sequencer for a job
ARRIVE_CYCLES = 2       # from a job's last beat to the memories, where a layer waits for it
START_CYCLES = 3        # from then on, or from the end of the layer before, to a layer's first cycle
CHECK_CYCLES = 4        # of the checker beside its steps and the bits of their factors
CHECK_STEPS = {Opcode.END: 31, Opcode.BATCH: 46, Opcode.LOAD: 51, Opcode.STORE: 52, Opcode.CONV: 157,
               Opcode.ELEMENTWISE: 125}     # about: the legal widths of upsampled maps take some, too
BLOCK_STEPS = 12        # for each further block of parameters
PLACE_CYCLES = 3        # of the sequencer for a block's place, beside the shift, a place per cycle, and one more
WRITE_CYCLES = 10       # from a STORE's last beat to the sequencer's going on, beside the memory's latency


@dataclass
class ProgramCounters:
    """Counters of a run, by the names of `hw.accelerator.counter_events`.

    Parameters
    ----------
    run, idle, layer, layers, read, written : int
    array : per array, its counters
        `CAUSES` and `steps`.
    """

    array: list[dict[str, int]]
    run: int = 0
    idle: int = 0
    layer: int = 0
    layers: int = 0
    read: int = 0
    written: int = 0


class _TimedLabels(LabelTable):
    """Label tables that know how long the last detection took."""

    cycles = 0

    def detect(self, first: int, slot: int, nonzeros: Int64Array, detection: Detection, refresh: bool) -> None:
        """As of LabelTable."""
        self.cycles = label_cycles(nonzeros, detection)
        super().detect(first, slot, nonzeros, detection, refresh)


class _Recorder(Simulator):
    """A simulator that notes each layer's work before it executes it."""

    def __init__(self, machine: Machine, program: bytes, data: bytes | bytearray) -> None:
        super().__init__(machine, program, data)
        self.timing = machine
        self.labels: _TimedLabels = _TimedLabels(machine.label_depth, machine.label_slots)
        self.works: list[tuple[LayerWork, int]] = []    # with the cycles of its labelling

    def _layer(self, item: Descriptor, run: RunState) -> None:
        work = self._work(item)
        self.labels.cycles = 0
        super()._layer(item, run)
        self.works.append((work, self.labels.cycles))

    def _work(self, item: Descriptor) -> LayerWork:
        machine, packing = self.machine, self.packing
        width, height = item["width"], item["height"]
        is_conv, table = item.opcode == Opcode.CONV, []
        if is_conv:
            beat = packing.beat_bytes
            table = [packing.unpack_entry(self.program[start:start + beat])
                     for start in range(item["table"], item["table"] + item["table_count"] * beat, beat)]
        labels = [self.labels.read(entry.label, entry.slot) for entry in table]
        lists = schedule(table, labels, machine, even=bool(item.get("even")))
        places = {(place.entry.base, place.entry.weight): number for number, place in enumerate(table)}
        reads = (item["res_wide"] + 1 if item["residual"] else 0) + (0 if is_conv else item["x_wide"] + 1)
        return LayerWork(
            nonzero=nonzero_planes(self.memory, [place.entry for place in table],
                                   (item["pixels"] // (height * width), height, width), bool(item.get("upsampled"))),
            taps=np.array([place.entry.taps for place in table], np.int64),
            lists=[ListWork(np.array([places[entry.base, entry.weight] for entry in share], np.int64),
                            np.array([entry.last for entry in share], bool)) for share in lists],
            outputs=item["outputs"], transform=TRANSFORMS[item["transform"]], out_planes=item["out_wide"] + 1,
            residual_planes=reads,
            ktile_beats=packing.ktile_bytes(item["words"], bool(item["one_tap"]), item["groups"])
            // packing.beat_bytes if is_conv else None)


@dataclass
class _Time:
    """Where the blocks are: first cycles in which each may go on."""

    latency: int
    sequencer: int = 0
    bus: int = 0            # the queue of jobs
    taken: int = 0          # the layer that was prepared last has begun
    done: int = 0           # and has ended
    labelled: int = 0       # and is labelled
    freed: list[int] = field(default_factory=lambda: [0, 0])       # the last two k-tiles

    def job(self, beats: int) -> int:
        """Read beats; return when they have passed."""
        self.bus = max(self.bus, self.sequencer + self.latency + COMMAND_CYCLES) + beats
        self.sequencer += ASK_CYCLES
        return self.bus


def predict_program(machine: Machine, program: Program, data: bytes | bytearray, step: int = 0,
                    latency: int = 8) -> ProgramCounters:
    """Predict the counters of a run that reaches END.

    Parameters
    ----------
    machine : Machine
    program : Program
    data : bytes
        Its data region, with inputs and batch table.
    step : int
    latency : int
        Cycles from the host memory's taking a request to its first beat, or to the answer to a write. It then moves a
        beat per cycle, and takes several requests.

    Raises
    ------
    ValueError
        If the run would end with an error.
    """
    recorder = _Recorder(machine, program.code, data)
    outcome = recorder.run(program.count, step)
    if outcome.error is not None:
        raise ValueError(f"the run ends with {outcome.error.name} at descriptor {outcome.index}: {outcome.problem}")
    packing = recorder.packing
    arrays = machine.dense + machine.sparse
    total = ProgramCounters([dict.fromkeys((*CAUSES, "steps"), 0) for _ in range(arrays)])
    total.read, total.written = (size // packing.beat_bytes for size in (outcome.traffic.read, outcome.traffic.written))
    works, time = iter(recorder.works), _Time(latency)
    blocks, samples, busy = 0, 0, 0
    ready = time.job(BYTES // packing.beat_bytes)
    for number in range(program.count):
        raw = program.code[BYTES * number:BYTES * (number + 1)]
        time.sequencer = max(time.sequencer, ready + FETCH_CYCLES)
        if raw[0] != Opcode.END and not int.from_bytes(raw[8:16], "little") >> step & 1:
            ready = time.job(BYTES // packing.beat_bytes)
            continue
        item = decode(raw)
        time.sequencer = max(time.sequencer + _check_cycles(item, recorder, blocks), time.taken) + 2
        if item.opcode == Opcode.END:
            break
        ready = time.job(BYTES // packing.beat_bytes)
        match item.opcode:
            case Opcode.BATCH:
                blocks, samples = item["blocks"], item["samples"]
                time.sequencer = max(time.sequencer, time.bus) + 1
                time.sequencer = time.job(blocks + samples) + 1
            case Opcode.LOAD:
                if item["wait"]:
                    time.sequencer = max(time.sequencer, time.done)
                for _ in range(item["runs"]):
                    time.job(item["beats"])
            case Opcode.STORE:
                time.sequencer = max(time.sequencer, time.done, time.bus) + 1
                time.sequencer += item["runs"] * (item["beats"] + 1) + WRITE_CYCLES + latency
            case _:
                found = _layer(time, item, recorder, next(works), len(block_offsets(item, [0] * blocks)), samples)
                busy += found.busy
                total.layer += found.cycles
                total.layers += 1
                for mine, its in zip(total.array, found.array, strict=True):
                    for cause in mine:
                        mine[cause] += its[cause]
    total.run = max(time.sequencer, time.done, time.bus) + 2
    total.idle = total.run - busy
    return total


def _layer(time: _Time, item: Descriptor, recorder: _Recorder, work: tuple[LayerWork, int], blocks: int,
           samples: int) -> Counters:
    """Carry time through a layer."""
    packing, (layer, label_time) = recorder.packing, work
    if item.opcode == Opcode.CONV:
        time.job(item["table_count"])
    for _ in range(blocks):
        time.sequencer += PLACE_CYCLES + (0 if item["one_block"] else item["block_log2"] + 1)
        time.job(item["outputs"] * packing.param_bytes // packing.beat_bytes)
    time.bus = max(time.bus, time.sequencer) + samples
    start = max(time.bus + ARRIVE_CYCLES, time.done) + START_CYCLES
    loaded: list[int] = []
    if layer.ktile_beats is not None:
        time.bus = max(time.bus, time.sequencer + time.latency + COMMAND_CYCLES)
        for freed in time.freed[-2:][:item["k_tiles"]]:
            time.bus = max(time.bus, freed) + layer.ktile_beats
            loaded.append(max(0, time.bus - start))
    layer = replace(layer, labelled=max(0, time.labelled - start))
    found = predict(recorder.timing, layer, loaded or (0, 0))
    if layer.ktile_beats is not None:
        time.bus = max(time.bus, start + found.loaded[-1])
        time.freed = (time.freed + [start + cycle for cycle in found.freed])[-2:]
    else:
        found = Counters(found.cycles, [dict.fromkeys(its, 0) for its in found.array], 0, [], [])
    time.taken, time.done = start, start + found.cycles
    time.labelled = time.done + START_CYCLES + label_time - HANDOVER_CYCLES if label_time else 0
    return found


def _check_cycles(item: Descriptor, recorder: _Recorder, blocks: int) -> int:
    """Cycles of the checker."""
    packing = recorder.packing
    beat = packing.beat_bytes
    param_beats = packing.param_bytes // beat
    cycles = CHECK_STEPS[item.opcode] + CHECK_CYCLES
    match item.opcode:
        case Opcode.BATCH:
            factors = [beat]
        case Opcode.LOAD | Opcode.STORE:
            factors = [1, beat, item["runs"], item["runs"]]
        case Opcode.END:
            factors = []
        case _:
            loaded = max(1, len(block_offsets(item, [0] * blocks)))
            factors = [param_beats, *[param_beats * beat] * loaded]
            cycles += BLOCK_STEPS * (loaded - 1)
            if not item["one_block"]:
                factors.append(blocks)
                cycles += loaded * (item["block_log2"] + 1)
    if item.opcode == Opcode.CONV:
        taps, codes = 1 if item["one_tap"] else 3, recorder.machine.lanes_per_scale * packing.scale_bytes // beat
        tap_beats = packing.tap_bytes // beat
        factors += [item["table_count"], beat, taps * tap_beats, codes, item["k_tiles"], beat]
    return cycles + sum(max(1, factor.bit_length()) for factor in factors)
