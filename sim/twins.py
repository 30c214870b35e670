"""The accelerator in the fast lane beside the functional simulator: the same programs, and all that they leave behind.

Compared are the error with its index, all of host memory, and all of the activation memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from golden.formats import Uint8Array, pack_nibbles, unpack_nibbles
from golden.program.descriptor import BYTES, ErrorCode, Opcode, OpcodeError, decode, encode
from golden.program.emit import Channel
from golden.program.execute import UndefinedResult
from golden.program.simulator import Outcome, Simulator
from hw.config import Config
from sqdm.registers import SOFT_RESET, START, STATUS_ERROR, STATUS_INTERRUPTS, STATUS_READY, WIDE, Register

from .accelerator import SimBackend
from .fast import FastSim, Hang

__all__ = ["End", "Twins"]

Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]
PAGE = 1 << 12
WATCHDOG = 5_000        # cycles; in a legal run something moves far more often, whatever the memory does
LIMIT = 2_000_000       # cycles of a run


@dataclass(frozen=True)
class End:
    """How a run of the RTL ended; `error` None: with END, and the others are 0."""

    error: ErrorCode | None
    index: int
    address: int


class Twins:
    """The RTL and the functional simulator, in front of host memory of the same content.

    Parameters
    ----------
    config : Config
    sim : FastSim
        Of the block `accelerator` with this configuration.
    size : int
        Bytes of host memory.
    latency, stall, seed
        Of host memory, see `FastSim.attach_memory`.

    Attributes
    ----------
    rtl : SimBackend
    golden : Simulator
    code, data : int
        Where the program and the data region of the last run begin in `rtl.memory`.
    """

    def __init__(self, config: Config, sim: FastSim, size: int = 1 << 18, *, latency: int = 8, stall: float = 0.0,
                 seed: int = 1) -> None:
        self.config = config
        # The highest memory that the master can name, with a page of no memory behind it.
        base = (1 << config.axi_addr_bits) - size - PAGE
        self.rtl = SimBackend(sim, base, size, latency=latency, stall=stall, seed=seed)
        self.golden = Simulator(config, b"", b"")
        self.code = self.data = 0
        rng = np.random.default_rng(seed)
        self.rtl.memory[:] = rng.integers(0, 256, size)
        self.write(Register.WATCHDOG, WATCHDOG)
        self.write(Register.IRQ_ENABLE, STATUS_INTERRUPTS)
        self.fill(rng.integers(0, 16, config.act_nibbles).astype(np.uint8))

    # Programs.

    def run(self, code: bytes, count: int, data: bytes, step: int = 0) -> Outcome | None:
        """Run a program on both, and compare all that it leaves; labels aside.

        Parameters
        ----------
        code : bytes
            The program region.
        count : int
            Register PROGRAM_COUNT.
        data : bytes
            The data region.
        step : int

        Returns
        -------
        Outcome or None
            The functional simulator's; None where it finds the result undefined. Then it is only checked that the RTL
            ends, and writes nothing that the program does not name; the twins' memories differ afterwards.

        Raises
        ------
        AssertionError
            On any difference.
        """
        golden, outcome = self.golden, None
        before = golden.memory.copy()
        golden.program, golden.data = code, bytearray(data)
        try:
            outcome = golden.run(count, step)
        except UndefinedResult:
            named_bytes, named = self._named(code, count, len(data), step)
        else:
            named_bytes, named = np.zeros(len(data), np.bool_), np.zeros(golden.memory.size, np.bool_)
            named[slice(*outcome.unspecified)] = True
            before = golden.memory
        self.place(code, count, data)
        host = self.rtl.memory.copy()
        self.start(step)
        end = self.finish()
        if outcome is not None:
            expected = (outcome.error, outcome.index if outcome.error else 0)
            assert (end.error, end.index) == expected, f"{end}; expected {expected}, {outcome.problem}"
            host[self.data:self.data + len(data)] = np.frombuffer(golden.data, np.uint8)
        assert end.error is not ErrorCode.WATCHDOG, "a hang, ended by the watchdog"
        region = slice(self.data, self.data + len(data))
        host[region] = np.where(named_bytes, self.rtl.memory[region], host[region])
        np.testing.assert_array_equal(self.rtl.memory, host, "host memory")
        held = self.activations()
        np.testing.assert_array_equal(np.where(named, before, held), before, "activation memory")
        if outcome is not None:
            golden.memory[named] = held[named]
        return outcome

    def place(self, code: bytes, count: int, data: bytes) -> None:
        """Write a program and its data into the RTL's memory, and where they are into the registers."""
        # First the program of `_move` and its data, then these, each after a page at least of something else.
        self.code = 3 * PAGE + -(-self.config.act_nibbles // 2 // PAGE) * PAGE
        self.data = self._place(self.code, code, count, data)

    def _place(self, place: int, code: bytes, count: int, data: bytes) -> int:
        """Return where the data region is."""
        base, data_place = self.rtl.memory_base, place + PAGE * (1 + -(-len(code) // PAGE))
        self.rtl.write_memory(base + place, code)
        self.rtl.write_memory(base + data_place, data)
        for register, value in ((Register.PROGRAM_BASE, base + place), (Register.PROGRAM_SIZE, len(code)),
                                (Register.PROGRAM_COUNT, count), (Register.DATA_BASE, base + data_place),
                                (Register.DATA_SIZE, len(data))):
            self.write(register, value)
        return data_place

    def start(self, step: int = 0) -> None:
        """Start the RTL."""
        self.write(Register.IRQ_STATUS, STATUS_INTERRUPTS)
        self.write(Register.TIME_STEP, step)
        self.rtl.write32(Register.CONTROL, START)

    def finish(self) -> End:
        """Wait until the RTL's run has ended.

        Raises
        ------
        AssertionError
            If it does not, or leaves bus transfers behind.
        """
        try:
            self.rtl.sim.run(LIMIT, until="irq")
        except Hang:
            raise AssertionError(f"the run does not end in {LIMIT} cycles") from None
        self.settle()
        status = self.rtl.read32(Register.STATUS)
        error = self.rtl.read32(Register.ERROR)
        assert bool(status & STATUS_ERROR) == (error != 0)
        return End(ErrorCode(error & 0xFF) if error else None, error >> 8, self.read(Register.ERROR_ADDRESS))

    def settle(self) -> None:
        """Wait until the RTL is ready."""
        for _ in range(1000):
            if self.rtl.read32(Register.STATUS) & STATUS_READY:
                break
            self.rtl.sim.step(10)
        else:
            raise AssertionError("the accelerator does not become ready")
        assert self.rtl.sim.outstanding == 0, f"ready, but {self.rtl.sim.outstanding} bursts are outstanding"

    def soft_reset(self) -> None:
        """Reset both."""
        self.rtl.write32(Register.CONTROL, SOFT_RESET)
        self.settle()
        self.golden.reset()

    # Memories.

    def activations(self) -> Uint8Array:
        """The RTL's activation memory, a nibble each, read by a program of one STORE."""
        size = self.config.act_nibbles // 2
        place = self._move(Opcode.STORE, bytes(size))
        return unpack_nibbles(self.rtl.memory[place:place + size].tobytes(), 2 * size)

    def fill(self, nibbles: Uint8Array) -> None:
        """Write both activation memories."""
        self.golden.memory[:] = nibbles
        self._move(Opcode.LOAD, pack_nibbles(nibbles).tobytes())

    def _move(self, opcode: Opcode, data: bytes) -> int:
        """Move the whole memory; return where in host memory it goes to, or comes from."""
        code = encode(opcode, runs=1, beats=8 * len(data) // self.config.bus_bits) + encode(Opcode.END)
        place = self._place(0, code, 2, data)
        self.start()
        end = self.finish()
        assert end.error is None, f"{opcode.name} of the whole memory: {end}"
        return place

    def check_labels(self, labels: Mapping[str, Sequence[Channel]]) -> None:
        """Compare labels of tensors, by name, given the index and the slot of each channel's.

        Raises
        ------
        AssertionError
            On a difference.
        """
        for name, places in labels.items():
            for index, slot in places:
                self.write(Register.LABEL_ADDRESS, index | slot << 16)
                value = self.read(Register.LABEL_DATA)
                found, expected = (bool(value & 1), bool(value & 2), value >> 2), self.golden.labels.read(index, slot)
                assert found == expected, f"label {index} of {name} in slot {slot} is {found}, expected {expected}"

    def _named(self, code: bytes, count: int, data_size: int, step: int) -> tuple[Mask, Mask]:
        """Bytes of the data region and nibbles of activation memory that a program may write."""
        host, chip = np.zeros(data_size, np.bool_), np.zeros(self.config.act_nibbles, np.bool_)
        for index in range(min(count, len(code) // BYTES)):
            try:
                item = decode(code[BYTES * index:BYTES * (index + 1)])
            except OpcodeError:
                continue
            if not item["mask"] >> step & 1:
                continue
            if item.opcode in (Opcode.CONV, Opcode.ELEMENTWISE):
                chip[item["out_base"]:item["out_end"]] = True
            elif item.opcode in (Opcode.LOAD, Opcode.STORE):
                load = item.opcode == Opcode.LOAD
                where, beat = (chip, self.config.bus_bits // 4) if load else (host, self.config.bus_bits // 8)
                first = item["chip_first"] * beat if load else item["offset"]
                stride = item["chip_stride"] * beat if load else item["stride"]
                for start in range(first, min(first + item["runs"] * stride, where.size) + 1, max(stride, 1)):
                    where[start:start + item["beats"] * beat] = True
        return host, chip

    # Registers.

    def write(self, register: Register, value: int) -> None:
        """Write a register of 32 or 64 bits of the RTL."""
        self.rtl.write32(register, value & 0xFFFF_FFFF)
        if register in WIDE:
            self.rtl.write32(register + 4, value >> 32)

    def read(self, register: Register) -> int:
        """Read a register of 32 or 64 bits of the RTL."""
        low = self.rtl.read32(register)
        return low | self.rtl.read32(register + 4) << 32 if register in WIDE else low
