"""Functional simulator: executes the bytes of a program as docs/program.md says, without time.

It sees what the hardware sees: two regions of host memory, an activation memory, label tables, and the time step. The
results, the memories and the error are the hardware's; the order in which loads overtake layers is not modelled, for
in a legal program it makes no difference.
"""

from dataclasses import dataclass, field

import numpy as np

from golden.detector import Detection, RefreshPolicy
from golden.formats import Int64Array, pack_nibbles, unpack_nibbles
from golden.machine import Machine
from golden.program.checks import Surroundings, block_offsets, describe
from golden.program.descriptor import BYTES, Descriptor, ErrorCode, Opcode, decode
from golden.program.execute import UndefinedResult, accumulate, compute, elementwise_input, weight_tiles
from golden.program.labels import LabelTable, fresh
from golden.program.pack import Packing

__all__ = ["Outcome", "Simulator", "Traffic"]

STEPS = 64


@dataclass
class Traffic:
    """Bytes that a run moved over the bus, by what they are."""

    descriptors: int = 0
    batch: int = 0
    loads: int = 0
    stores: int = 0
    tables: int = 0
    weights: int = 0
    params: int = 0

    @property
    def read(self) -> int:
        """All bytes read."""
        return self.descriptors + self.batch + self.loads + self.tables + self.weights + self.params

    @property
    def written(self) -> int:
        """All bytes written."""
        return self.stores


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Parameters
    ----------
    error : ErrorCode or None
        None: it reached END.
    index : int
        Of the descriptor that it ended at.
    problem : str
        The error in words.
    unspecified : (int, int)
        Nibbles of activation memory, first and end, that the error left undefined: the region of a layer that was
        stopped by GUARD. The simulator leaves them as they were.
    traffic : Traffic
    """

    error: ErrorCode | None
    index: int
    problem: str
    unspecified: tuple[int, int]
    traffic: Traffic


class _Stop(Exception):
    def __init__(self, error: ErrorCode, problem: str, unspecified: tuple[int, int] = (0, 0)) -> None:
        super().__init__(problem)
        self.error, self.problem, self.unspecified = error, problem, unspecified


@dataclass
class _Batch:
    blocks: list[int]
    samples: list[int]


@dataclass
class RunState:
    """What lives as long as a run."""

    count: int
    step: int
    traffic: Traffic = field(default_factory=Traffic)
    batch: _Batch | None = None


class Simulator:
    """The accelerator and its host memory.

    Parameters
    ----------
    machine : Machine
        The configuration.
    program : bytes
        The program region.
    data : bytes
        The data region; kept as a bytearray that STORE changes.

    Attributes
    ----------
    program : bytes
        May be replaced between runs.
    data : bytearray
        May be changed between runs.
    memory : uint8 [act_nibbles]
        Activation memory, a nibble each; 0 at first, kept from run to run.
    labels : LabelTable
    policy : RefreshPolicy
    """

    def __init__(self, machine: Machine, program: bytes, data: bytes | bytearray) -> None:
        self.machine = machine
        self.packing = Packing.of(machine)
        self.program = bytes(program)
        self.data = bytearray(data)
        self.memory = np.zeros(machine.act_nibbles, np.uint8)
        self.labels = LabelTable(machine.label_depth, machine.label_slots)
        self.policy = RefreshPolicy()

    def run(self, count: int, step: int = 0) -> Outcome:
        """Run the program once.

        Parameters
        ----------
        count : int
            Register PROGRAM_COUNT.
        step : int
            Register TIME_STEP, 0 to 63.

        Raises
        ------
        ValueError
            If the time step is not from 0 to 63.
        UndefinedResult
            If the result of a descriptor that passes all checks is not defined. The message names the descriptor.
        """
        if not 0 <= step < STEPS:
            raise ValueError(f"step={step} is not legal: it must be from 0 to {STEPS - 1}")
        run, index = RunState(count, step), 0
        try:
            while self._step(run, index):
                index += 1
        except _Stop as stop:
            self.reset()
            return Outcome(stop.error, index, stop.problem, stop.unspecified, run.traffic)
        except UndefinedResult as error:
            raise UndefinedResult(f"descriptor {index}: {error}") from None
        return Outcome(None, index, "", (0, 0), run.traffic)

    def reset(self) -> None:
        """Reset the engine, as after an error: memories and labels stay, the refresh policy begins anew."""
        self.policy = fresh(self.policy)

    def _step(self, run: RunState, index: int) -> bool:
        """Execute a descriptor; whether the run goes on."""
        if index >= run.count:
            raise _Stop(ErrorCode.NO_END, f"there are {run.count} descriptors and no END")
        raw = self.program[BYTES * index:BYTES * (index + 1)]
        if len(raw) < BYTES:
            raise _Stop(ErrorCode.RANGE, f"descriptor {index} lies beyond the program's {len(self.program)} bytes")
        run.traffic.descriptors += BYTES
        mask = int.from_bytes(raw[8:16], "little")
        if raw[0] != Opcode.END and not mask >> run.step & 1:
            return True
        blocks = None if run.batch is None else run.batch.blocks
        around = Surroundings(self.machine, len(self.program), len(self.data), blocks)
        if (found := describe(raw, around)) is not None:
            raise _Stop(*found)
        item = decode(raw)
        match item.opcode:
            case Opcode.END:
                return False
            case Opcode.BATCH:
                run.batch = self._batch(item, run)
            case Opcode.LOAD | Opcode.STORE:
                self._transfer(item, run)
            case Opcode.CONV | Opcode.ELEMENTWISE:
                self._layer(item, run)
        return True

    def _batch(self, item: Descriptor, run: RunState) -> _Batch:
        beat, blocks, samples = self.packing.beat_bytes, item["blocks"], item["samples"]
        numbers = [int.from_bytes(self.data[start:start + 2], "little")
                   for start in range(item["offset"], item["offset"] + (blocks + samples) * beat, beat)]
        run.traffic.batch += (blocks + samples) * beat
        batch = _Batch(numbers[:blocks], numbers[blocks:])
        for number, sample in enumerate(batch.samples):
            if sample >= blocks:
                raise _Stop(ErrorCode.BATCH, f"sample {number} names block {sample} of {blocks}")
        return batch

    def _transfer(self, item: Descriptor, run: RunState) -> None:
        packing = self.packing
        nibbles, size = item["beats"] * packing.beat_nibbles, item["beats"] * packing.beat_bytes
        for number in range(item["runs"]):
            host = item["offset"] + number * item["stride"]
            chip = (item["chip_first"] + number * item["chip_stride"]) * packing.beat_nibbles
            if item.opcode == Opcode.LOAD:
                self.memory[chip:chip + nibbles] = unpack_nibbles(bytes(self.data[host:host + size]), nibbles)
                run.traffic.loads += size
            else:
                self.data[host:host + size] = pack_nibbles(self.memory[chip:chip + nibbles]).tobytes()
                run.traffic.stores += size

    def _layer(self, item: Descriptor, run: RunState) -> None:
        assert run.batch is not None    # checked
        samples = len(run.batch.samples)
        if item.opcode == Opcode.CONV:
            acc = self._convolve(item, run, samples)
        else:
            acc = elementwise_input(self.machine, item, samples, self.memory)
        params = self._parameters(item, run, run.batch.blocks)
        sample_block = [0] * samples if item["one_block"] else run.batch.samples
        result = compute(self.machine, item, acc, params, sample_block, self.memory)
        outside = (result.addresses < item["out_base"]) | (result.addresses >= item["out_end"])
        if outside.any():
            raise _Stop(ErrorCode.GUARD, f"it writes nibble {int(result.addresses[outside][0])}, and may write "
                                         f"{item['out_base']} to {item['out_end']}",
                        (item["out_base"], item["out_end"]))
        self.memory[result.addresses] = result.nibbles
        refresh = self.policy.at(run.step)
        if item["detect"]:
            detection = Detection(bool(item["balance"]), item["label_limit"], item["dense_cost"], item["bin_shift"])
            self.labels.detect(item["label_first"], item["label_slot"], result.nonzeros, detection, refresh)

    def _convolve(self, item: Descriptor, run: RunState, samples: int) -> Int64Array:
        beat, packing = self.packing.beat_bytes, self.packing
        starts = range(item["table"], item["table"] + item["table_count"] * beat, beat)
        table = [packing.unpack_entry(self.program[start:start + beat]) for start in starts]
        run.traffic.tables += len(table) * beat
        run.traffic.weights += item["k_tiles"] * packing.ktile_bytes(item["words"], bool(item["one_tap"]),
                                                                     item["groups"])
        for entry in table:
            if entry.label >= self.machine.label_depth or entry.slot >= self.machine.label_slots:
                raise UndefinedResult(f"an entry names label {entry.label} of slot {entry.slot}")
            if entry.dense_ok and (entry.entry.exponent or not entry.entry.w_signed):
                raise UndefinedResult("an entry with unsigned weights or an exponent has dense_ok")
        dead = [self.labels.read(entry.label, entry.slot)[1] for entry in table]
        return accumulate(self.machine, item, samples, [entry.entry for entry in table], dead,
                          weight_tiles(packing, item, self.program), self.memory)

    def _parameters(self, item: Descriptor, run: RunState, blocks: list[int]) -> Int64Array:
        """M, R, B of the blocks that are loaded, [blocks, K, 3]."""
        packing, outputs = self.packing, item["outputs"]
        offsets = block_offsets(item, blocks)
        words = [packing.unpack_param(self.program[start:start + packing.param_bytes])
                 for offset in offsets
                 for start in range(offset, offset + outputs * packing.param_bytes, packing.param_bytes)]
        run.traffic.params += len(words) * packing.param_bytes
        return np.array(words, np.int64).reshape(len(offsets), outputs, 3)
