"""Backend for real hardware: registers and memory behind a transport that can be exchanged.

A transport reads and writes bytes at addresses, and knows nothing of the accelerator. `MappedFile` is the one for a
processor that has the accelerator in its address space; others (a debug bridge, a serial line) need two methods only::

    registers = MappedFile("/dev/uio0", size=4096)                      # or "/dev/mem", offset=0x4000_0000
    memory = MappedFile("/dev/udmabuf0", size=1 << 24)                  # what the accelerator sees at 0x7000_0000
    device = Device.open(HardwareBackend(registers, memory, memory_base=0x7000_0000, memory_size=1 << 24))
"""

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self

__all__ = ["HardwareBackend", "MappedFile", "Transport"]

WORD = 4
PAUSE = 1e-4    # seconds between two looks at STATUS


class Transport(Protocol):
    """How bytes reach the hardware."""

    def read(self, address: int, size: int) -> bytes:
        """Read `size` bytes; of registers always 4, at multiples of 4, in one access."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Write bytes; of registers always 4, at multiples of 4, in one access."""
        ...


class MappedFile:
    """A file or device in this process's address space; a `Transport`. Address 0 is its first byte.

    Parameters
    ----------
    path : path
        A device such as /dev/uio0 or /dev/mem, or a file.
    size : int
        Bytes to map.
    offset : int
        Where in the file they begin; a multiple of the page size.

    Raises
    ------
    OSError
        It cannot be opened or mapped.
    """

    def __init__(self, path: Path | str, size: int, offset: int = 0) -> None:
        handle = os.open(path, os.O_RDWR | os.O_SYNC)
        try:
            self._map = mmap.mmap(handle, size, offset=offset)
        finally:
            os.close(handle)
        self._bytes = memoryview(self._map)
        self._words = self._bytes[:size // WORD * WORD].cast("I")

    def read(self, address: int, size: int) -> bytes:
        """Read bytes; an aligned word in one access."""
        self._check(address, size)
        if size == WORD and address % WORD == 0:
            return self._words[address // WORD].to_bytes(WORD, "little")
        return bytes(self._bytes[address:address + size])

    def write(self, address: int, data: bytes) -> None:
        """Write bytes; an aligned word in one access."""
        self._check(address, len(data))
        if len(data) == WORD and address % WORD == 0:
            self._words[address // WORD] = int.from_bytes(data, "little")
        else:
            self._bytes[address:address + len(data)] = data

    def _check(self, address: int, size: int) -> None:
        if address < 0 or address + size > len(self._bytes):
            raise ValueError(f"{size} bytes from {address:#x} on are not mapped; {len(self._bytes):#x} bytes are")

    def close(self) -> None:
        """End the mapping."""
        self._words.release()
        self._bytes.release()
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class HardwareBackend:
    """Registers and memory through transports; see `sqdm.device.Backend`.

    Parameters
    ----------
    registers, memory : Transport
        Both count addresses from 0, the first register and the first byte of the memory.
    memory_base, memory_size : int
        That memory as the accelerator sees it.
    wait : callable, optional
        Lets time pass, best until the accelerator's interrupt; by default a short sleep.
    """

    def __init__(self, registers: Transport, memory: Transport, memory_base: int, memory_size: int,
                 wait: Callable[[], None] | None = None) -> None:
        self.registers, self.memory = registers, memory
        self.memory_base, self.memory_size = memory_base, memory_size
        self._wait = wait or (lambda: time.sleep(PAUSE))

    def read32(self, offset: int) -> int:
        """Read a register."""
        return int.from_bytes(self.registers.read(offset, WORD), "little")

    def write32(self, offset: int, value: int) -> None:
        """Write a register."""
        self.registers.write(offset, value.to_bytes(WORD, "little"))

    def read_memory(self, address: int, size: int) -> bytes:
        """Read memory; addresses as the accelerator has them."""
        return self.memory.read(self._place(address, size), size)

    def write_memory(self, address: int, data: bytes) -> None:
        """Write memory."""
        self.memory.write(self._place(address, len(data)), data)

    def _place(self, address: int, size: int) -> int:
        first = address - self.memory_base
        if first < 0 or first + size > self.memory_size:
            raise ValueError(f"{size} bytes from {address:#x} on are not memory, which is {self.memory_base:#x} to "
                             f"{self.memory_base + self.memory_size:#x}")
        return first

    def wait(self) -> None:
        """Let time pass."""
        self._wait()
