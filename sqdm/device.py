"""The driver: what a host does with the accelerator, by registers and memory alone.

The same code drives the functional simulator, the RTL simulation and hardware; a `Backend` says how registers and
memory are reached.
"""

import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from golden.detector import Labels, Refresh, RefreshPolicy
from golden.formats import Tensor
from golden.program.bundle import Program
from golden.program.descriptor import ErrorCode
from golden.program.pack import pack_tensor, unpack_tensor

from .registers import (
    ARRAY_COUNTERS,
    CLEAR_COUNTERS,
    CONFIG_FIELDS,
    COUNTER_NAMES,
    MAGIC,
    SOFT_RESET,
    START,
    STATUS_ERROR,
    STATUS_INTERRUPTS,
    STATUS_LABEL_PENDING,
    STATUS_READY,
    VERSION_MAJOR,
    WIDE,
    Register,
)

__all__ = ["Backend", "Device", "DeviceError", "ProgramError"]

PAGE = 4096     # regions begin at multiples of it
REFRESH: tuple[Refresh, ...] = ("every", "every_n", "mask", "frozen")


class DeviceError(Exception):
    """The accelerator is not what was expected, or does not answer."""


class ProgramError(DeviceError):
    """A run ended with an error.

    Attributes
    ----------
    code : ErrorCode
    descriptor : int
        Index of the descriptor at fault.
    address : int
        For BUS_READ and BUS_WRITE: byte address of the burst.
    """

    def __init__(self, code: ErrorCode, descriptor: int, address: int) -> None:
        where = f", address {address:#x}" if code in (ErrorCode.BUS_READ, ErrorCode.BUS_WRITE) else ""
        super().__init__(f"the run ended with error {code.name} at descriptor {descriptor}{where}")
        self.code, self.descriptor, self.address = code, descriptor, address


class Backend(Protocol):
    """How registers and memory are reached.

    `memory_base` and `memory_size` say which memory, seen from the accelerator, the driver may use.
    """

    @property
    def memory_base(self) -> int: ...
    @property
    def memory_size(self) -> int: ...

    def read32(self, offset: int) -> int:
        """Read a register, `offset` bytes from the first."""
        ...

    def write32(self, offset: int, value: int) -> None:
        """Write a register."""
        ...

    def read_memory(self, address: int, size: int) -> bytes:
        """Read memory; addresses as the accelerator has them."""
        ...

    def write_memory(self, address: int, data: bytes) -> None:
        """Write memory."""
        ...

    def wait(self) -> None:
        """Let time pass, between two looks at STATUS: until an interrupt, or a moment."""
        ...


class Device:
    """An accelerator; `Device.open` makes one.

    Parameters
    ----------
    backend : Backend

    Raises
    ------
    DeviceError
        If there is no accelerator, or one with other registers.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._program: Program | None = None
        self._data_base = 0
        identity, version = backend.read32(Register.ID), backend.read32(Register.VERSION)
        if identity != MAGIC:
            raise DeviceError(f"there is no accelerator: register ID reads {identity:#010x}, not {MAGIC:#010x}")
        if version >> 16 != VERSION_MAJOR:
            raise DeviceError(f"the accelerator's registers have version {version >> 16}.{version & 0xFFFF}, this "
                              f"driver knows {VERSION_MAJOR}")

    @classmethod
    def open(cls, backend: Backend) -> "Device":
        """Find the accelerator and reset it."""
        device = cls(backend)
        device.reset()
        return device

    @property
    def configuration(self) -> dict[str, int]:
        """The generator's parameters, as far as the hardware tells them."""
        values = {}
        for name, (register, lsb, bits) in CONFIG_FIELDS.items():
            value = self.backend.read32(register) >> lsb & (1 << bits) - 1
            values[name.removesuffix("_log2")] = 1 << value if name.endswith("_log2") else value
        return values

    def reset(self, timeout: float = 10.0) -> None:
        """End whatever runs; memories, labels and settings stay.

        Raises
        ------
        DeviceError
            If the accelerator is not ready within `timeout` seconds.
        """
        self.backend.write32(Register.CONTROL, SOFT_RESET)
        self._until(STATUS_READY, timeout, "the reset did not end")

    # Programs and data.

    def load_program(self, program: Program, config_hash: int | None = None) -> None:
        """Write a program into memory, and reserve its data region behind it.

        Parameters
        ----------
        program : Program
        config_hash : int, optional
            That of the configuration that the program was made for; compared with the hardware's.

        Raises
        ------
        DeviceError
            If memory is too small, or the program was made for another configuration.
        """
        if config_hash is not None and (found := self.backend.read32(Register.CONFIG_HASH)) != config_hash:
            raise DeviceError(f"the program is for the configuration {config_hash:#010x}, this is {found:#010x}")
        if (bus := self.configuration["bus_bits"]) != program.bus_bits:
            raise DeviceError(f"the program is for a bus of {program.bus_bits} bits, the hardware has {bus}")
        base = _page(self.backend.memory_base)
        data_base = _page(base + len(program.code))
        end = self.backend.memory_base + self.backend.memory_size
        if data_base + program.data_size > end:
            raise DeviceError(f"program and data need {data_base + program.data_size - base} bytes from {base:#x} on, "
                              f"memory ends at {end:#x}")
        self.backend.write_memory(base, program.code)
        for register, value in ((Register.PROGRAM_BASE, base), (Register.PROGRAM_SIZE, len(program.code)),
                                (Register.PROGRAM_COUNT, program.count), (Register.DATA_BASE, data_base),
                                (Register.DATA_SIZE, program.data_size)):
            self._write(register, value)
        self._program, self._data_base = program, data_base

    def write_data(self, name: str, tensor: Tensor) -> None:
        """Write an input.

        Raises
        ------
        DeviceError
            If no program is loaded.
        ValueError
            If the program has no such tensor in the data region, or of another shape or format.
        """
        place = self._loaded().tensors.get(name)
        if place is None or (place.tensor.shape, place.tensor.fmt) != (tensor.shape, tensor.fmt):
            raise ValueError(f"{name!r} is {tensor.fmt.name} {tensor.shape}; the program has "
                             f"{'no such tensor' if place is None else place.tensor}")
        self.backend.write_memory(self._data_base + place.offset, pack_tensor(tensor))

    def set_batch(self, sample_block: Sequence[int]) -> None:
        """Choose the parameter block of each sample; raises as `Program.batch_table`, or if no program is loaded."""
        self.backend.write_memory(self._data_base, self._loaded().batch_table(sample_block))

    def read_data(self, name: str) -> Tensor:
        """Read an output.

        Raises
        ------
        DeviceError
            If no program is loaded.
        KeyError
            If the program has no such tensor in the data region.
        """
        place = self._loaded().tensors[name]
        size = -(-place.tensor.nibbles // 2)
        raw = self.backend.read_memory(self._data_base + place.offset, size)
        return unpack_tensor(raw, place.tensor.fmt, place.tensor.shape)

    # Runs.

    def run_step(self, step: int = 0, timeout: float = 60.0) -> None:
        """Run the program for a time step, and wait until it is done.

        Raises
        ------
        ProgramError
            If the run ends with an error.
        DeviceError
            If no program is loaded, the accelerator is busy, or it is not done within `timeout` seconds.
        """
        self._loaded()
        if not self.backend.read32(Register.STATUS) & STATUS_READY:
            raise DeviceError("the accelerator is not ready: it runs something already, reset() ends it")
        self._write(Register.TIME_STEP, step)
        self._write(Register.IRQ_STATUS, STATUS_INTERRUPTS)     # so that the backend's wait() ends with this run
        self._write(Register.IRQ_ENABLE, STATUS_INTERRUPTS)
        self.backend.write32(Register.CONTROL, START)
        status = self._until(STATUS_READY, timeout, f"time step {step} did not end")
        if status & STATUS_ERROR:
            error = self.backend.read32(Register.ERROR)
            raise ProgramError(ErrorCode(error & 0xFF), error >> 8, self._read(Register.ERROR_ADDRESS))

    def set_policy(self, policy: RefreshPolicy) -> None:
        """Choose in which time steps labels are made anew."""
        self._write(Register.POLICY, REFRESH.index(policy.refresh) | policy.n << 8)
        self._write(Register.POLICY_MASK, policy.mask)

    def set_watchdog(self, cycles: int) -> None:
        """End runs without progress for so many cycles; 0 turns the watchdog off."""
        self._write(Register.WATCHDOG, cycles)

    def counters(self) -> dict[str, int]:
        """All event counters by their names, which docs/integration.md explains."""
        found = self.configuration
        names = list(COUNTER_NAMES)
        for kind in ("dense", "sparse"):
            names += [f"{kind}{array}_{cause}" for array in range(found[kind]) for cause in ARRAY_COUNTERS]
        return {name: self._read(Register.COUNTER + 8 * number, True) for number, name in enumerate(names)}

    def clear_counters(self) -> None:
        """Set all event counters to 0."""
        self.backend.write32(Register.CONTROL, CLEAR_COUNTERS)

    # Labels.

    def labels(self, name: str) -> Labels:
        """Labels of a tensor's channels.

        Raises
        ------
        DeviceError
            If no program is loaded.
        KeyError
            If the program does not label the tensor.
        """
        values = []
        for index, slot in self._loaded().labels[name]:
            self._write(Register.LABEL_ADDRESS, index | slot << 16)
            values.append(self.backend.read32(Register.LABEL_DATA))
        raw = np.array(values)
        return Labels((raw & 1).astype(np.bool_), (raw >> 1 & 1).astype(np.bool_), raw >> 2)

    def write_labels(self, name: str, labels: Labels, timeout: float = 10.0) -> None:
        """Write labels of a tensor's channels; raises as `labels`."""
        for (index, slot), sparse, dead, count_bin in zip(self._loaded().labels[name], labels.sparse, labels.dead,
                                                          labels.bin, strict=True):
            self._write(Register.LABEL_ADDRESS, index | slot << 16)
            self._write(Register.LABEL_DATA, int(sparse) | int(dead) << 1 | int(count_bin) << 2)
            self._until(STATUS_LABEL_PENDING, timeout, "a label was not taken", False)

    # Registers.

    def _loaded(self) -> Program:
        if self._program is None:
            raise DeviceError("no program is loaded")
        return self._program

    def _until(self, bit: int, timeout: float, problem: str, value: bool = True) -> int:
        """Wait until a bit of STATUS has a value; STATUS."""
        end = time.monotonic() + timeout
        while bool((status := self.backend.read32(Register.STATUS)) & bit) != value:
            if time.monotonic() > end:
                raise DeviceError(f"{problem} within {timeout} s, STATUS is {status:#x}")
            self.backend.wait()
        return status

    def _read(self, offset: int, wide: bool = False) -> int:
        low = self.backend.read32(offset)
        return low | self.backend.read32(offset + 4) << 32 if wide or offset in WIDE else low

    def _write(self, register: Register, value: int) -> None:
        self.backend.write32(register, value & 0xFFFFFFFF)
        if register in WIDE:
            self.backend.write32(register + 4, value >> 32)


def _page(address: int) -> int:
    """The next address at which a region may begin."""
    return -(-address // PAGE) * PAGE
