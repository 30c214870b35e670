"""The bring-up design in the fast lane, behind a pseudo serial port: every bit crosses the UART's pins."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boards.bringup import BringUp
from golden.report import announced
from hw.config import PRESETS, Config
from hw.gen import Emitted, convert
from sqdm.serial_bridge import SerialBridge

from .fast import FastSim

__all__ = ["DIVISOR", "GAP_BYTES", "QUIET", "QUIET_BITS", "SMALL", "TIMEOUT", "TIMEOUT_BITS", "SimulatedPort",
           "build_board", "emit_board", "simulated_bridge"]

DIVISOR = 4         # the shortest bit that the receiver takes, so that little time is spent on waiting for bits
FRAME = 10          # bits of a byte on the line
GAP_BYTES = 8       # the bridge's gap
MEMORY_BYTES = 1 << 14
TIMEOUT_BITS, QUIET_BITS = 2000, 200    # of the line: the host's patience, and more than the gap
BAUD = 1_000_000    # by which `SimulatedPort` measures time
TIMEOUT, QUIET = TIMEOUT_BITS / BAUD, QUIET_BITS / BAUD
# A configuration that compiles in little time, with all kinds of arrays.
SMALL = replace(PRESETS["tiny"], name="small", rows=2, cols=2, lanes_per_scale=2, act_nibbles=1 << 12, table_depth=128,
                list_depth=64)


class SimulatedPort:
    """What pyserial's `Serial` is, with the simulated board at the other end; see `sqdm.serial_bridge.SerialPort`.

    `timeout` is in seconds of a line with `baud` bits per second.

    Parameters
    ----------
    sim : FastSim
        Of a `BringUp`; it is reset here.
    divisor : int
        Clock cycles per bit.
    baud : int
        What time is measured by.
    mangle : callable, optional
        Gets each byte and whether the board sent it, and returns what arrives: none, one or several bytes.
    """

    def __init__(self, sim: FastSim, divisor: int = DIVISOR, baud: int = BAUD,
                 mangle: Callable[[int, bool], bytes] | None = None) -> None:
        self.sim, self.divisor, self.baud, self.mangle = sim, divisor, baud, mangle
        self.timeout: float | None = 0.01
        self._samples: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._received = bytearray()
        sim.poke("rx", 1)
        sim.reset()

    def write(self, data: bytes, /) -> int:
        """Put bytes onto the line, bit by bit."""
        for byte in data:
            for sent in (bytes([byte]) if self.mangle is None else self.mangle(byte, False)):
                self._send(sent)
        return len(data)

    def _send(self, byte: int) -> None:
        for bit in range(FRAME):
            self.sim.poke("rx", (byte << 1 | 1 << 9) >> bit & 1)
            self._listen(self.divisor)

    def read(self, size: int = 1) -> bytes:
        """Read bytes, fewer if the time is over."""
        assert self.timeout is not None
        left = int(self.timeout * self.baud)
        while len(self._received) < size and left > 0:
            self._listen(FRAME * self.divisor)
            left -= FRAME
        found = bytes(self._received[:size])
        del self._received[:size]
        return found

    def wait(self, bits: int = 100) -> None:
        """Let time pass."""
        self._listen(bits * self.divisor)

    def reset_input_buffer(self) -> None:
        """Forget what came but was not read."""
        self._received.clear()

    def close(self) -> None:
        """End the simulation."""
        self.sim.close()

    def _listen(self, cycles: int) -> None:
        """Let cycles pass, and take what the board sends."""
        self.sim.watch(["tx"], cycles)
        self.sim.step(cycles)
        self._samples = np.concatenate([self._samples, self.sim.watched()[:, 0].astype(np.uint8)])
        while True:
            (low,) = np.nonzero(self._samples == 0)
            if not len(low):
                self._samples = self._samples[:0]
                return
            frame = self._samples[low[0] + self.divisor // 2:][:FRAME * self.divisor:self.divisor]
            if len(frame) < FRAME:
                self._samples = self._samples[low[0]:]
                return
            assert frame[0] == 0 and frame[-1] == 1, "the board sent a byte without start or stop bit"
            byte = int(frame[1:9] @ (1 << np.arange(8)))
            self._received += bytes([byte]) if self.mangle is None else self.mangle(byte, True)
            self._samples = self._samples[low[0] + (FRAME - 1) * self.divisor + self.divisor // 2 + 1:]


def emit_board(config: Config, memory_bytes: int) -> Emitted:
    """Emit the bring-up design's Verilog, with short bits and a short gap."""
    blocks = {"bringup": lambda config: BringUp(config, DIVISOR * BAUD, BAUD, memory_bytes,
                                                gap=GAP_BYTES * FRAME * DIVISOR)}
    return convert("bringup", config, blocks)


def build_board(config: Config, memory_bytes: int, out: Path | str = "build/board", build: Path | str = "build",
                mangle: Callable[[int, bool], bytes] | None = None) -> SimulatedPort:
    """Emit the bring-up design's Verilog, compile it, or find it compiled, and start a simulation of it."""
    verilog = emit_board(config, memory_bytes).write(out)[0]
    return SimulatedPort(FastSim.build(verilog, verilog.stem, build), mangle=mangle)


def simulated_bridge(config: Config, memory_bytes: int = MEMORY_BYTES) -> tuple[SerialBridge, Callable[[], None]]:
    """Return the host's end of a simulated board's line, and what lets time pass."""
    with announced(f"compiling the simulation of {config.name}, unless there is one"):
        port = build_board(config, memory_bytes)
    return SerialBridge(port, timeout=TIMEOUT, quiet=QUIET), port.wait
