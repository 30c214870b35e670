"""Bench of the bring-up design: the host's driver at the other end of a serial line, every bit on the pins rx and tx.

The driver is the one that a board gets, and runs in a thread of its own: each of its calls of the port blocks until
the simulation has gone on so far. The line is cocotbext-uart.
"""

from typing import Any

import cocotb
from cocotb.task import bridge, resume
from cocotb.triggers import ClockCycles, Timer
from cocotb.utils import get_sim_time
from cocotbext.uart import UartSink, UartSource

from sqdm import selftest
from sqdm.serial_bridge import SerialBridge

from .board import DIVISOR, QUIET_BITS, SMALL, TIMEOUT_BITS
from .streams import CLOCK_NS, reset, start_clock

__all__ = ["the_self_test_passes_through_the_pins"]

BIT_NS = DIVISOR * CLOCK_NS
TESTED_BYTES = 1000     # of the memory; all of it is tested in the fast lane
LIGHT = 5000    # cycles after which the LEDs show STATUS


class UartPort:
    """What pyserial's `Serial` is, for the threads of cocotb's `bridge`; see `sqdm.serial_bridge.SerialPort`."""

    def __init__(self, dut: Any) -> None:
        baud = 10**9 // BIT_NS
        self.source, self.sink = UartSource(dut.rx, baud=baud), UartSink(dut.tx, baud=baud)
        for end in (self.source, self.sink):
            end.log.setLevel("WARNING")
        self.timeout: float | None = None
        self.sent = self.received = 0
        self._heard = bytearray()

    def write(self, data: bytes, /) -> int:
        """Put bytes onto the line; returns when the last one is sent."""
        resume(self._write)(data)
        return len(data)

    async def _write(self, data: bytes) -> None:
        self.sent += len(data)
        await self.source.write(data)
        await self.source.wait()

    def read(self, size: int = 1) -> bytes:
        """Read bytes, fewer if the time is over."""
        return resume(self._read)(size)

    async def _read(self, size: int) -> bytes:
        assert self.timeout is not None
        end = get_sim_time("ns") + self.timeout * 1e9
        while len(self._heard) < size and (left := int(end - get_sim_time("ns"))) > 0:
            await self.sink.wait(left, "ns")
            found = self.sink.read_nowait()
            self.received += len(found)
            self._heard += found
        found = bytes(self._heard[:size])
        del self._heard[:size]
        return found

    def wait(self, bits: int = 100) -> None:
        """Let time pass."""
        resume(self._wait)(bits)

    async def _wait(self, bits: int) -> None:
        await Timer(bits * BIT_NS, "ns")

    def reset_input_buffer(self) -> None:
        """Forget what came but was not read."""
        self.sink.clear()
        self._heard.clear()

    def close(self) -> None:
        """Nothing is to be closed."""


@cocotb.test()
async def the_self_test_passes_through_the_pins(dut: Any) -> None:
    """Garbage, memory, a program, an error and the program again: what a working board prints; the LEDs with it."""
    start_clock(dut)
    port = UartPort(dut)
    await reset(dut)
    lines: list[str] = []

    def drive() -> None:
        bit = BIT_NS * 1e-9
        with SerialBridge(port, timeout=TIMEOUT_BITS * bit, quiet=QUIET_BITS * bit) as link:
            for line in selftest.run(link, port.wait, [SMALL], TESTED_BYTES):
                lines.append(line)
                cocotb.log.info(line)
                resume(check)(line)

    async def check(line: str) -> None:
        await ClockCycles(dut.clk, LIGHT)
        assert dut.error.value == line.startswith("error"), f"LED error is {dut.error.value} after: {line}"
        assert dut.busy.value == 0, f"LED busy is on after: {line}"

    await bridge(drive)()
    assert [line.split("  ")[0] for line in lines] == [
        "link", "noise", "configuration", "refusals", "memory", "step", "error", "step again"]
    cocotb.log.info(f"{port.sent} bytes sent, {port.received} received")
