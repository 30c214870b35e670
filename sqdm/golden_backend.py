"""Backend without hardware: registers and memory in front of the golden functional simulator.

A run takes no time: it is over when the write of CONTROL.start returns. Counters, which count cycles, read 0.
"""


from golden.machine import Machine
from golden.program.simulator import Simulator

from .device import REFRESH
from .registers import (
    CONFIG_FIELDS,
    COUNTERS,
    MAGIC,
    SOFT_RESET,
    START,
    STATUS_DONE,
    STATUS_ERROR,
    STATUS_READY,
    VERSION_MAJOR,
    WIDE,
    Register,
)

__all__ = ["BusError", "GoldenBackend"]

IRQ_DONE, IRQ_ERROR = 1, 2
# Bits that can be written, by register; of wide ones all 64.
WRITABLE = {
    Register.IRQ_ENABLE: 7, Register.PROGRAM_BASE: ~0xFFF & (1 << 64) - 1, Register.DATA_BASE: ~0xFFF & (1 << 64) - 1,
    Register.PROGRAM_SIZE: 0xFFFFFFFF, Register.DATA_SIZE: 0xFFFFFFFF, Register.PROGRAM_COUNT: 0xFFFFFF,
    Register.TIME_STEP: 63, Register.WATCHDOG: 0xFFFFFFFF, Register.POLICY: 0xFF03,
    Register.POLICY_MASK: (1 << 64) - 1, Register.LABEL_ADDRESS: 0xFFFFFFFF,
}


class BusError(Exception):
    """What a bus would answer with an error: there is no such register or memory, or it cannot be written."""


class GoldenBackend:
    """The accelerator as a functional model; see `sqdm.device.Backend`.

    Parameters
    ----------
    config : Machine
    memory_base, memory_size : int
        Host memory.
    config_hash : int
        What register CONFIG_HASH reads.

    Attributes
    ----------
    simulator : Simulator
        To look into the activation memory and the last run.
    """

    def __init__(self, config: Machine, memory_base: int = 0x4000_0000, memory_size: int = 1 << 24,
                 config_hash: int = 0) -> None:
        self.memory_base, self.memory_size = memory_base, memory_size
        self.simulator = Simulator(config, b"", b"")
        self._memory = bytearray(memory_size)
        self._values: dict[Register, int] = {register: 0 for register in Register if register != Register.COUNTER}
        self._values |= {Register.ID: MAGIC, Register.VERSION: VERSION_MAJOR << 16, Register.CONFIG_HASH: config_hash,
                         Register.STATUS: STATUS_READY, Register.POLICY: 1 << 8, Register.WATCHDOG: 0x01000000}
        for name, (register, lsb, _) in CONFIG_FIELDS.items():
            value = int(getattr(config, name.removesuffix("_log2")))
            self._values[register] |= (value.bit_length() - 1 if name.endswith("_log2") else value) << lsb

    # Memory.

    def read_memory(self, address: int, size: int) -> bytes:
        """Read memory; raises BusError outside of it."""
        start = self._place(address, size)
        return bytes(self._memory[start:start + size])

    def write_memory(self, address: int, data: bytes) -> None:
        """Write memory; raises BusError outside of it."""
        start = self._place(address, len(data))
        self._memory[start:start + len(data)] = data

    def wait(self) -> None:
        """Nothing ever has to be waited for."""

    def _place(self, address: int, size: int) -> int:
        start = address - self.memory_base
        if not 0 <= start <= start + size <= self.memory_size:
            raise BusError(f"{size} bytes from {address:#x} on are not memory, which is {self.memory_base:#x} to "
                           f"{self.memory_base + self.memory_size:#x}")
        return start

    # Registers.

    def read32(self, offset: int) -> int:
        """Read a register; raises BusError if there is none."""
        if Register.COUNTER <= offset < Register.COUNTER + 8 * COUNTERS and offset % 4 == 0:
            return 0
        register, shift = self._register(offset)
        if register is Register.LABEL_DATA:
            sparse, dead, count_bin = self.simulator.labels.read(*self._label())
            return int(sparse) | int(dead) << 1 | count_bin << 2
        return self._values[register] >> shift & 0xFFFFFFFF

    def write32(self, offset: int, value: int) -> None:
        """Write a register; a start runs the program.

        Raises
        ------
        BusError
            If there is no such register, it cannot be written, or a region is not memory.
        golden.program.execute.UndefinedResult
            If a run's result is not defined.
        """
        register, shift = self._register(offset)
        if register is Register.CONTROL:
            self._command(value)
        elif register is Register.IRQ_STATUS:
            self._values[register] &= ~value
        elif register is Register.LABEL_DATA:
            self.simulator.labels.write(*self._label(), (bool(value & 1), bool(value & 2), value >> 2 & 31))
        elif register in WRITABLE:
            kept = self._values[register] & ~(0xFFFFFFFF << shift)
            self._values[register] = (kept | value << shift) & WRITABLE[register]
        else:
            raise BusError(f"register {register.name} cannot be written")

    def _register(self, offset: int) -> tuple[Register, int]:
        for register in self._values:
            if offset == register or (offset == register + 4 and register in WIDE):
                return register, 8 * (offset - register)
        raise BusError(f"there is no register at {offset:#x}")

    def _label(self) -> tuple[int, int]:
        address, machine = self._values[Register.LABEL_ADDRESS], self.simulator.machine
        return address & machine.label_depth - 1, address >> 16 & machine.label_slots - 1

    def _command(self, value: int) -> None:
        if value & SOFT_RESET:
            self.simulator.reset()
            self._values[Register.STATUS] = STATUS_READY
        elif value & START:
            self._run()

    def _run(self) -> None:
        values, simulator = self._values, self.simulator
        simulator.program = self.read_memory(values[Register.PROGRAM_BASE], values[Register.PROGRAM_SIZE])
        simulator.data = bytearray(self.read_memory(values[Register.DATA_BASE], values[Register.DATA_SIZE]))
        policy = values[Register.POLICY]
        simulator.policy.refresh = REFRESH[policy & 3]
        simulator.policy.n, simulator.policy.mask = policy >> 8, values[Register.POLICY_MASK]
        outcome = simulator.run(values[Register.PROGRAM_COUNT], values[Register.TIME_STEP])
        self.write_memory(values[Register.DATA_BASE], bytes(simulator.data))
        failed = outcome.error is not None
        values[Register.ERROR] = int(outcome.error or 0) | (outcome.index << 8 if failed else 0)
        values[Register.ERROR_ADDRESS] = 0
        values[Register.STATUS] = STATUS_READY | (STATUS_ERROR if failed else STATUS_DONE)
        values[Register.IRQ_STATUS] |= IRQ_ERROR if failed else IRQ_DONE
