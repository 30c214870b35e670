"""Stream drivers, monitors and a scoreboard for cocotb testbenches, on top of cocotb-bus.

A stream is three ports, ``NAME__valid``, ``NAME__ready`` and ``NAME__payload``; a beat moves at a rising edge of
``clk`` where valid and ready are both high. Payloads are unsigned Python integers. A bench reads like this::

    @cocotb.test()
    async def sums_every_window(dut):
        data = vectors()
        bench = StreamBench(dut, stall=0.25)
        bench.send("windows", from_words(data["windows"]))
        bench.expect("sums", from_words(data["sums"]))
        await bench.reset()
        await bench.finish(limit=10_000)

Expected beats are computed before the simulation starts, by the golden model, never here. All randomness comes from
cocotb's seed and the stream's name, so that adding a stream does not change what the others do.
"""

import os
import random
from collections import deque
from collections.abc import Iterable
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotb_bus.drivers import BusDriver
from cocotb_bus.monitors import BusMonitor
from cocotb_bus.scoreboard import Scoreboard
from numpy.typing import NDArray

__all__ = ["CLOCK_NS", "VECTORS", "StreamBench", "StreamDriver", "StreamMonitor", "reset", "start_clock", "vectors"]

CLOCK_NS = 10
VECTORS = "SQDM_VECTORS"  # environment variable with the path of the file of vectors; the runner sets it
QUIET_CYCLES = 20  # how long `StreamBench.finish` looks out for beats that nobody expects

# Amaranth's separator is "__". Names are looked up exactly: cocotb-bus would otherwise list all of the design's
# signals for each port, which takes seconds for a large one in Icarus.
NAMING: dict[str, Any] = {"bus_separator": "__", "case_insensitive": False}
SIGNALS = ["valid", "ready", "payload"]


def vectors() -> dict[str, NDArray[Any]]:
    """The arrays that the runner was given for this run."""
    with np.load(os.environ[VECTORS]) as file:
        return dict(file)


def start_clock(dut: Any) -> None:
    """Start the clock ``clk`` of the design."""
    Clock(dut.clk, CLOCK_NS, unit="ns").start()


async def reset(dut: Any, cycles: int = 2) -> None:
    """Hold the synchronous reset ``rst`` high for some cycles."""
    dut.rst.value = 1
    await ClockCycles(dut.clk, cycles)
    dut.rst.value = 0


def _random(name: str) -> random.Random:
    return random.Random(f"{cocotb.RANDOM_SEED}/{name}")


def _resting(rst: Any) -> bool:
    """Whether the design is in reset, or was never reset (an unknown ``rst`` is not 0)."""
    return bool(rst.value != 0)


class StreamDriver(BusDriver):
    """Offers queued beats on an input stream of the design, with random pauses.

    A beat once offered stays until it is taken. Between beats the payload is random, so that a design that uses it
    without looking at valid is found out.

    Parameters
    ----------
    dut : handle
        The design; needs ports ``clk`` and ``rst``.
    name : str
        The stream's name.
    stall : float
        Probability of a pause in a cycle in which a new beat could be offered.

    Attributes
    ----------
    sent, queued : int
        Number of beats taken by the design, and of all beats given to the driver.
    """

    _signals = SIGNALS

    def __init__(self, dut: Any, name: str, stall: float = 0.0) -> None:
        super().__init__(dut, name, dut.clk, **NAMING)
        self._rst = dut.rst
        self._stall = stall
        self._random = _random(name)
        self._width = len(self.bus.payload)
        self.sent = 0
        self.queued = 0
        self._rest()

    def extend(self, beats: Iterable[int]) -> None:
        """Queue beats."""
        for beat in beats:
            self.append(beat)
            self.queued += 1

    def _rest(self) -> None:
        self.bus.valid.value = 0
        self.bus.payload.value = self._random.getrandbits(self._width)

    async def _driver_send(self, transaction: int, sync: bool = True) -> None:
        edge = RisingEdge(self.clock)
        if sync:
            await edge
        while _resting(self._rst) or self._random.random() < self._stall:
            await edge
        self.bus.valid.value = 1
        self.bus.payload.value = transaction
        await edge
        while self.bus.ready.value != 1:
            await edge
        self.sent += 1
        self._rest()


class StreamMonitor(BusMonitor):
    """Takes the beats of an output stream of the design, with random back-pressure, and checks the protocol.

    The design must hold an offered beat until it is taken, must not offer unknown bits, and valid must be known
    whenever it is out of reset. A violation fails the test.

    Parameters
    ----------
    dut : handle
        The design; needs ports ``clk`` and ``rst``.
    name : str
        The stream's name.
    stall : float
        Probability that the stream is not ready in a cycle.
    """

    _signals = SIGNALS

    def __init__(self, dut: Any, name: str, stall: float = 0.0) -> None:
        self._stall = stall
        self._random = _random(name)
        super().__init__(dut, name, dut.clk, reset=dut.rst, **NAMING)
        self.bus.ready.value = 0

    @property
    def received(self) -> int:
        """Number of beats taken so far."""
        return int(self.stats.received_transactions)

    async def _monitor_recv(self) -> None:
        edge = RisingEdge(self.clock)
        ready = False
        held: int | None = None  # the beat that was offered and not yet taken
        while True:
            await edge
            if _resting(self._reset):
                ready, held = False, None
                self.bus.ready.value = 0
                continue
            if self.bus.valid.value == 1:
                payload = self._payload()
                if held is not None and payload != held:
                    raise AssertionError(f"{self._beat()} changed from {held:#x} to {payload:#x} before it was taken")
                held = payload
                if ready:
                    held = None
                    self._recv(payload)
            elif self.bus.valid.value == 0:
                if held is not None:
                    raise AssertionError(f"{self._beat()} ({held:#x}) was withdrawn before it was taken")
            else:
                raise AssertionError(f"{self.name}__valid is {self.bus.valid.value} after reset")
            if ready != (ready := self._random.random() >= self._stall):
                self.bus.ready.value = int(ready)

    def _payload(self) -> int:
        value = self.bus.payload.value
        if not value.is_resolvable:
            raise AssertionError(f"{self._beat()} has unknown bits: {value}")
        return int(value)

    def _beat(self) -> str:
        return f"beat {self.received} of stream {self.name}"


class StreamBench:
    """Clock, drivers, monitors and scoreboard of one test.

    Parameters
    ----------
    dut : handle
        The design.
    stall : float
        Probability of a stall, for every stream and cycle. `send` and `expect` can say otherwise for a stream.
    """

    def __init__(self, dut: Any, stall: float = 0.0) -> None:
        self.dut = dut
        self.stall = stall
        self.drivers: dict[str, StreamDriver] = {}
        self.monitors: dict[str, StreamMonitor] = {}
        self.scoreboard = Scoreboard(dut)
        start_clock(dut)

    def send(self, name: str, beats: Iterable[int], stall: float | None = None) -> None:
        """Queue beats on an input stream."""
        if name not in self.drivers:
            self.drivers[name] = StreamDriver(self.dut, name, self.stall if stall is None else stall)
        self.drivers[name].extend(beats)

    def expect(self, name: str, beats: Iterable[int], stall: float | None = None) -> None:
        """Check that exactly these beats come out of an output stream, after those expected before."""
        if name not in self.monitors:
            monitor = self.monitors[name] = StreamMonitor(self.dut, name, self.stall if stall is None else stall)
            queue: deque[int] = deque()
            # The scoreboard's own comparison tells neither the stream nor the beat, so we give it ours.
            self.scoreboard.add_interface(monitor, queue, compare_fn=lambda got: self._compare(monitor, queue, got))
        self.scoreboard.expected[self.monitors[name]].extend(beats)

    @staticmethod
    def _compare(monitor: StreamMonitor, queue: deque[int], got: int) -> None:
        where = f"beat {monitor.received - 1} of stream {monitor.name}"
        if not queue:
            raise AssertionError(f"{where} is {got:#x}, but no more beats were expected")
        if got != (expected := queue.popleft()):
            raise AssertionError(f"{where} is {got:#x}, expected {expected:#x}")

    async def reset(self, cycles: int = 2) -> None:
        """Reset the design; the streams rest meanwhile."""
        await reset(self.dut, cycles)

    async def finish(self, limit: int) -> None:
        """Wait until all beats were sent and received, then watch that no others follow.

        A design that needs more than ``limit`` cycles fails the test with a message that names the stuck streams.
        """
        for _ in range(0, limit, QUIET_CYCLES):
            if not self._stuck():
                break
            await ClockCycles(self.dut.clk, QUIET_CYCLES)
        if stuck := self._stuck():
            raise AssertionError(f"hangs, or needs more than {limit} cycles: {'; '.join(stuck)}")
        await ClockCycles(self.dut.clk, QUIET_CYCLES)

    def _stuck(self) -> list[str]:
        """For each stream that has beats left, how far it got."""
        found = []
        for name, driver in self.drivers.items():
            if driver.sent < driver.queued:
                found.append(f"{name} sent {driver.sent} of {driver.queued} beats ({self._handshake(name)})")
        for name, monitor in self.monitors.items():
            if left := len(self.scoreboard.expected[monitor]):
                total = monitor.received + left
                found.append(f"{name} received {monitor.received} of {total} beats ({self._handshake(name)})")
        return found

    def _handshake(self, name: str) -> str:
        return ", ".join(f"{part}={self.dut[f'{name}__{part}'].value}" for part in ("valid", "ready"))
