"""Transport over a serial line to the bridge of `boards/`; see `sqdm/serial_protocol.py` for the protocol::

    with SerialBridge.open("/dev/ttyUSB0") as bridge:
        device = Device.open(bridge.backend())
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

from .device import DeviceError
from .hardware_backend import HardwareBackend
from .serial_protocol import ANSWER, HELLO_WORDS, MAGIC, MAX_WORDS, REQUEST, Op, Status

__all__ = ["BAUD", "SerialBridge", "SerialError", "SerialPort", "Space"]

BAUD = 1_000_000
TIMEOUT = 0.5       # seconds without a byte after which there will be no answer
QUIET = 0.1         # seconds of silence before asking again: more than the bridge's gap
RETRIES = 4
PATIENCE = 4096     # bytes that are looked through for an answer
WORD = 4
CHUNK = WORD * MAX_WORDS


class SerialError(DeviceError):
    """The bridge does not answer, or refuses a request."""


class SerialPort(Protocol):
    """What is used of pyserial's `Serial`."""

    timeout: float | None

    def read(self, size: int = 1) -> bytes:
        """Read bytes; fewer if there are no more within `timeout` seconds."""
        ...

    def write(self, data: bytes, /) -> int | None:
        """Send bytes."""
        ...

    def reset_input_buffer(self) -> None:
        """Forget what came but was not read."""
        ...

    def close(self) -> None:
        """Close the port."""
        ...


@dataclass(frozen=True)
class Space:
    """Registers or memory behind the bridge; a `sqdm.hardware_backend.Transport`."""

    bridge: "SerialBridge"
    read_op: Op
    write_op: Op

    def read(self, address: int, size: int) -> bytes:
        """Read bytes."""
        first, end = address // WORD * WORD, -(-(address + size) // WORD) * WORD
        data = b"".join(self.bridge.request(self.read_op, place, words=min(CHUNK, end - place) // WORD)
                        for place in range(first, end, CHUNK))
        return data[address - first:address - first + size]

    def write(self, address: int, data: bytes) -> None:
        """Write bytes. Of words that are written in part, the rest is read before."""
        first, end = address // WORD * WORD, -(-(address + len(data)) // WORD) * WORD
        head = self.read(first, address - first)
        tail = self.read(address + len(data), end - address - len(data))
        data = head + data + tail
        for offset in range(0, len(data), CHUNK):
            self.bridge.request(self.write_op, first + offset, data[offset:offset + CHUNK])


class SerialBridge:
    """The host's end of the serial line.

    Requests that get no answer, or a damaged one, are made again; that is safe for writes too, see the protocol.

    Parameters
    ----------
    port : SerialPort
        Open, with the bridge's baud rate.
    timeout, quiet : float
        Seconds without a byte after which there will be no answer, and of silence before a request is made again.
    retries : int
        How often.

    Attributes
    ----------
    memory_base, memory_size : int
        As the accelerator sees the memory.
    retried : int
        Requests made again so far.
    registers, memory : Space
        Their transports.

    Raises
    ------
    SerialError
        Nothing answers, or something else.
    """

    def __init__(self, port: SerialPort, *, timeout: float = TIMEOUT, quiet: float = QUIET,
                 retries: int = RETRIES) -> None:
        self.port, self.timeout, self.quiet, self.retries = port, timeout, quiet, retries
        self.retried = 0
        self._sequence = 0
        self.registers = Space(self, Op.READ_REGISTER, Op.WRITE_REGISTER)
        self.memory = Space(self, Op.READ_MEMORY, Op.WRITE_MEMORY)
        magic, self.memory_base, self.memory_size, _ = self._hello()
        if magic != MAGIC:
            raise SerialError(f"the bridge speaks another protocol: its HELLO says {magic:#010x}, not {MAGIC:#010x}")

    @classmethod
    def open(cls, path: str, baud: int = BAUD) -> Self:
        """Open a serial port, and find the bridge behind it; raises as the constructor, or if it cannot be opened."""
        try:
            import serial
        except ImportError:
            raise SerialError("pyserial is not installed: run `pip install -e .[serial]` in this environment") from None
        try:
            port = serial.Serial(path, baud)
        except (serial.SerialException, ValueError) as error:
            raise SerialError(f"cannot open {path} with {baud} baud: {error}") from None
        try:
            return cls(port)
        except BaseException:
            port.close()
            raise

    def backend(self, wait: Callable[[], None] | None = None) -> HardwareBackend:
        """Return a backend for `sqdm.Device`."""
        return HardwareBackend(self.registers, self.memory, self.memory_base, self.memory_size, wait)

    @property
    def dropped(self) -> int:
        """Frames that the bridge has dropped since its reset: damaged, or begun by noise."""
        return self._hello()[3]

    def request(self, op: Op, address: int = 0, data: bytes = b"", words: int = 0) -> bytes:
        """Make a request until it is answered, and return the answer's words.

        Parameters
        ----------
        op : Op
        address : int
        data : bytes
            Of a write, at most `MAX_WORDS` words.
        words : int
            Of a read.

        Raises
        ------
        SerialError
            It is refused, or not answered.
        """
        self._sequence = (self._sequence + 1) & 0xFF
        body = bytes([op, self._sequence, words or len(data) // WORD]) + address.to_bytes(4, "little") + data
        frame = bytes([REQUEST]) + body + _crc(body)
        for attempt in range(1 + self.retries):
            if attempt:
                self.retried += 1
                self._drain()
            self.port.write(frame)
            answer = self._answer(words)
            if answer is not None:
                status, content = answer
                if status != Status.OK:
                    raise SerialError(f"the board refuses {op.name} at {address:#x}: there is nothing, or it cannot be "
                                      "written now")
                return content
        raise SerialError(f"no answer to {op.name} at {address:#x}, asked {1 + self.retries} times: check the port, "
                          "the baud rate, and that the board is configured (LED alive blinks)")

    def _hello(self) -> tuple[int, int, int, int]:
        raw = self.request(Op.HELLO, words=HELLO_WORDS)
        first, second, third, fourth = (int.from_bytes(raw[place:place + WORD], "little")
                                        for place in range(0, WORD * HELLO_WORDS, WORD))
        return first, second, third, fourth

    def _drain(self) -> None:
        """Wait until the line is silent for so long that the bridge has given up what it waits for."""
        self.port.timeout = self.quiet
        for _ in range(PATIENCE):
            if not self.port.read(1):
                break
        self.port.reset_input_buffer()

    def _answer(self, words: int) -> tuple[int, bytes] | None:
        """Find the answer in what comes; None if none does."""
        self.port.timeout = self.timeout
        heard = bytearray()
        for _ in range(PATIENCE):
            while heard:
                length = self._length(heard, words)
                if length is None:
                    del heard[0]        # no answer begins here
                elif len(heard) < length:
                    break
                elif _crc(heard[1:length - WORD]) == heard[length - WORD:length]:
                    return heard[1], bytes(heard[4:length - WORD])
                else:
                    del heard[0]
            missing = (self._length(heard, words) or 1) - len(heard) if heard else 1
            more = self.port.read(missing)
            if not more:
                return None
            heard += more
        return None

    def _length(self, heard: bytearray, words: int) -> int | None:
        """Bytes of the answer that begins here, as far as it can be told yet; None if none does."""
        count = heard[3] if len(heard) > 3 else 0
        legal = (ANSWER, None, self._sequence)
        if any(want is not None and have != want for have, want in zip(heard, legal, strict=False)):
            return None
        if len(heard) > 1 and heard[1] not in tuple(Status):
            return None
        if len(heard) > 3 and count != (words if heard[1] == Status.OK else 0):
            return None
        return 4 + WORD * count + WORD

    def close(self) -> None:
        """Close the port."""
        self.port.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _crc(body: bytes | bytearray) -> bytes:
    return zlib.crc32(body).to_bytes(4, "little")
