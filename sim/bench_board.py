"""Bench of the bring-up design: the host's driver at the other end of a serial line, every bit on the pins rx and tx.

The driver is the one that a board gets, and runs in a thread of its own: each of its calls of the port blocks until
the simulation has gone on so far. The line is cocotbext-uart.
"""

import zlib
from collections.abc import Callable
from typing import Any

import cocotb
from cocotb.task import bridge, resume
from cocotb.triggers import ClockCycles, Timer
from cocotb.utils import get_sim_time
from cocotbext.uart import UartSink, UartSource

from sqdm import selftest
from sqdm.registers import MAGIC, Register
from sqdm.serial_bridge import SerialBridge
from sqdm.serial_protocol import REQUEST, Op

from .axi import generator
from .board import BASE, DIVISOR, MEMORY_BYTES, QUIET_BITS, SMALL, TIMEOUT_BITS
from .streams import CLOCK_NS, reset, start_clock

__all__ = ["a_repeated_write_is_not_done_again", "the_line_resynchronises_behind_garbage_and_damage",
           "the_self_test_passes_through_the_pins"]

BIT_NS = DIVISOR * CLOCK_NS
TESTED_BYTES = 1000     # of the memory; all of it is tested in the fast lane
DAMAGE = 0.006          # of all bytes
LIGHT = 5000    # cycles after which the LEDs show STATUS


class UartPort:
    """What pyserial's `Serial` is, for the threads of cocotb's `bridge`; see `sqdm.serial_bridge.SerialPort`.

    Attributes
    ----------
    damage : callable
        Gets each byte, and returns what arrives: none, one or several bytes.
    """

    def __init__(self, dut: Any) -> None:
        baud = 10**9 // BIT_NS
        self.source, self.sink = UartSource(dut.rx, baud=baud), UartSink(dut.tx, baud=baud)
        for end in (self.source, self.sink):
            end.log.setLevel("WARNING")
        self.timeout: float | None = None
        self.sent = self.received = 0
        self.damage: Callable[[int], bytes] = lambda byte: bytes([byte])
        self._heard = bytearray()

    def write(self, data: bytes, /) -> int:
        """Put bytes onto the line; returns when the last one is sent."""
        resume(self._write)(data)
        return len(data)

    async def _write(self, data: bytes) -> None:
        self.sent += len(data)
        await self.source.write(b"".join(map(self.damage, data)))
        await self.source.wait()

    def read(self, size: int = 1) -> bytes:
        """Read bytes, fewer if the time is over."""
        return resume(self._read)(size)

    async def _read(self, size: int) -> bytes:
        assert self.timeout is not None
        end = get_sim_time("ns") + self.timeout * 1e9
        while len(self._heard) < size and (left := int(end - get_sim_time("ns"))) > 0:
            await self.sink.wait(left, "ns")
            heard = self.sink.read_nowait()
            self.received += len(heard)
            self._heard += b"".join(map(self.damage, heard))
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


def _link(port: UartPort, **arguments: int) -> SerialBridge:
    bit = BIT_NS * 1e-9
    return SerialBridge(port, timeout=TIMEOUT_BITS * bit, quiet=QUIET_BITS * bit, **arguments)


async def _started(dut: Any) -> UartPort:
    start_clock(dut)
    port = UartPort(dut)
    await reset(dut)
    return port


@cocotb.test()
async def the_self_test_passes_through_the_pins(dut: Any) -> None:
    """Garbage, memory, a program, an error and the program again: what a working board prints; the LEDs with it."""
    port = await _started(dut)
    lines: list[str] = []

    def drive() -> None:
        with _link(port) as link:
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


@cocotb.test()
async def the_line_resynchronises_behind_garbage_and_damage(dut: Any) -> None:
    """Behind random garbage, and with bytes lost, changed and added in both directions: nothing is done wrongly."""
    port = await _started(dut)
    numbers = generator("line")

    def damage(byte: int) -> bytes:
        if numbers.random() >= DAMAGE:
            return bytes([byte])
        return numbers.choice([b"", bytes([byte ^ 1 << numbers.randrange(8)]), bytes([byte, numbers.randrange(256)]),
                               bytes([REQUEST, byte])])

    def drive() -> None:
        link = _link(port, retries=40)
        assert (link.memory_base, link.memory_size, link.dropped, link.retried) == (BASE, MEMORY_BYTES, 0, 0)
        sound = port.damage
        expected = bytearray(link.memory.read(0, 200))
        port.damage = damage
        for _ in range(6):
            port.write(numbers.randbytes(numbers.randrange(1, 40)))
            data = numbers.randbytes(numbers.randrange(1, 100))
            begin = numbers.randrange(len(expected) - len(data))
            link.memory.write(begin, data)
            expected[begin:begin + len(data)] = data
            assert int.from_bytes(link.registers.read(Register.ID, 4), "little") == MAGIC
        assert link.memory.read(0, len(expected)) == expected
        port.damage = sound
        assert link.retried > 0 and link.dropped > 0
        cocotb.log.info(f"{link.retried} requests made again, {link.dropped} frames dropped")

    await bridge(drive)()


@cocotb.test()
async def a_repeated_write_is_not_done_again(dut: Any) -> None:
    """The bytes of a write, sent twice: the second one changes nothing, whatever it says."""
    port = await _started(dut)

    def drive() -> None:
        link = _link(port)
        link.registers.write(Register.TIME_STEP, (7).to_bytes(4, "little"))
        again = bytes([Op.WRITE_REGISTER, link._sequence, 1]) + Register.TIME_STEP.to_bytes(4, "little") + (
            9).to_bytes(4, "little")        # another value under the same number: the bridge must not look at it
        frame = bytes([REQUEST]) + again + zlib.crc32(again).to_bytes(4, "little")
        port.write(frame)
        port.wait(300)
        assert int.from_bytes(link.registers.read(Register.TIME_STEP, 4), "little") == 7
        # A read in between: the number counts no more, and the write is done.
        port.reset_input_buffer()
        port.write(frame)
        port.wait(300)
        assert int.from_bytes(link.registers.read(Register.TIME_STEP, 4), "little") == 9

    await bridge(drive)()
