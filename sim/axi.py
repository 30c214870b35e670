"""The other side of AXI ports, for benches: cocotbext-axi's slaves on a memory with faults, and protocol checks.

The slaves are not ours, the checks are: what a master must keep to, whatever the slave does. Ports are called
``axi__arvalid`` and so on; those of the accelerator, with its own names of clock and reset, ``m_axi_arvalid``.
"""

import logging
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cocotb
from cocotb.queue import Queue
from cocotb.triggers import FallingEdge, RisingEdge, Timer
from cocotb.utils import get_sim_time
from cocotbext.axi import AxiReadBus, AxiSlaveRead, AxiSlaveWrite, AxiWriteBus

from .streams import CLOCK_NS

__all__ = ["Channel", "HostMemory", "LiteChecker", "ReadChecker", "ReadSlave", "WriteChecker", "WriteSlave",
           "check_no_paths", "generator", "pauses"]

OKAY = 0
INCR = 1
KIB_4 = 1 << 12
ADDRESS = ("id", "addr", "len", "size", "burst", "cache", "prot")


def generator(name: str) -> random.Random:
    """Random numbers that depend on cocotb's seed and a name only."""
    return random.Random(f"{cocotb.RANDOM_SEED}/{name}")


def pauses(name: str, probability: float) -> Iterator[bool]:
    """Whether a channel pauses, cycle after cycle."""
    numbers = generator(name)
    while True:
        yield numbers.random() < probability


class HostMemory:
    """Bytes from some address on; what lies elsewhere, and what is declared faulty, answers with an error.

    Parameters
    ----------
    base : int
        Address of the first byte.
    content : bytes
    extent : int, optional
        Size of the region, in which the content repeats; that of the content unless given.
    faults : mapping of int to int
        Response codes by address of a beat.

    Attributes
    ----------
    strays : list of int
        Addresses outside the region that were asked for.
    code : int
        The last error's response code.
    """

    def __init__(self, base: int, content: bytes, extent: int | None = None,
                 faults: Mapping[int, int] | None = None) -> None:
        self.base = base
        self.content = bytearray(content)
        self.extent = extent or len(content)
        self.faults = faults or {}
        self.strays: list[int] = []
        self.code = OKAY

    def _place(self, address: int, length: int) -> int:
        if code := self.faults.get(address, OKAY):
            self.code = code
            raise ValueError("faulty")
        if not self.base <= address <= self.base + self.extent - length:
            self.strays.append(address)
            self.code = 3
            raise ValueError("stray")
        return (address - self.base) % len(self.content)

    async def read(self, address: int, length: int) -> bytes:
        """Called by the slave for each beat."""
        place = self._place(address, length)
        return bytes(self.content[place:place + length])

    async def write(self, address: int, data: bytes) -> None:
        """Called by the slave for each beat, but for those without strobes."""
        place = self._place(address, len(data))
        self.content[place:place + len(data)] = data


class _Ports:
    """AXI ports of a block, or the master's of the accelerator, and their clock and reset.

    Attributes
    ----------
    clk, rst : handle
    active_high : bool
        The reset.
    prefix : str
        As cocotbext-axi wants it.
    """

    def __init__(self, dut: Any) -> None:
        self.active_high = not hasattr(dut, "aclk")
        self.clk, self.rst = (dut.clk, dut.rst) if self.active_high else (dut.aclk, dut.aresetn)
        self.prefix = "axi_" if self.active_high else "m_axi"
        self._dut = dut

    def __getitem__(self, name: str) -> Any:
        return self._dut[f"{self.prefix}_{name}"]

    @property
    def resting(self) -> bool:
        """Whether the design is in reset, or was never reset."""
        return bool(self.rst.value != (0 if self.active_high else 1))

    @property
    def clocking(self) -> dict[str, Any]:
        """Arguments of cocotbext-axi's models."""
        return {"clock": self.clk, "reset": self.rst, "reset_active_level": self.active_high}


class _Delayed:
    """A sink of addresses that hands each on some cycles later; any number may be under way."""

    def __init__(self, sink: Any, cycles: int) -> None:
        self._sink = sink
        self._delay = cycles * CLOCK_NS
        self._queue: Queue[tuple[float, Any]] = Queue()
        cocotb.start_soon(self._run())

    def clear(self) -> None:
        self._sink.clear()

    async def _run(self) -> None:
        while True:
            item = await self._sink.recv()
            self._queue.put_nowait((get_sim_time("ns") + self._delay, item))

    async def recv(self) -> Any:
        due, item = await self._queue.get()
        wait = due - get_sim_time("ns")
        if wait > 0:
            await Timer(wait, unit="ns")
        return item


def _set_up(slave: Any, source: Any, memory: HostMemory, channels: Sequence[tuple[str, Any]], pause: float) -> None:
    """Quieten a slave, let it answer with the memory's code instead of always SLVERR, and let its channels pause."""
    slave.log.setLevel(logging.ERROR)
    send = source.send

    async def send_code(item: Any) -> None:
        for name in ("rresp", "bresp"):
            if getattr(item, name, OKAY) != OKAY:
                setattr(item, name, memory.code)
        await send(item)

    source.send = send_code
    if pause:
        for name, channel in channels:
            channel.set_pause_generator(pauses(name, pause))


class ReadSlave(AxiSlaveRead):
    """cocotbext-axi's slave, reading.

    Parameters
    ----------
    dut : handle
    memory : HostMemory
    pause : float
        Probability that a channel pauses in a cycle.
    latency : int
        Cycles from an address to the beginning of its data, beyond the model's own few; bursts overlap in it.
    """

    def __init__(self, dut: Any, memory: HostMemory, pause: float = 0.0, latency: int = 0) -> None:
        ports = _Ports(dut)
        super().__init__(AxiReadBus.from_prefix(dut, ports.prefix), target=memory, **ports.clocking)
        _set_up(self, self.r_channel, memory, [("ar", self.ar_channel), ("r", self.r_channel)], pause)
        if latency:
            self.ar_channel: Any = _Delayed(self.ar_channel, latency)


class WriteSlave(AxiSlaveWrite):
    """cocotbext-axi's slave, writing; parameters as `ReadSlave`, without latency."""

    def __init__(self, dut: Any, memory: HostMemory, pause: float = 0.0) -> None:
        ports = _Ports(dut)
        super().__init__(AxiWriteBus.from_prefix(dut, ports.prefix), target=memory, **ports.clocking)
        channels = [("aw", self.aw_channel), ("w", self.w_channel), ("b", self.b_channel)]
        _set_up(self, self.b_channel, memory, channels, pause)


class Channel:
    """Watches a channel that the design drives: what is offered stays, unchanged, until it is taken.

    Parameters
    ----------
    dut : handle
    name : str
        ar, r, aw, w or b.
    payload : sequence of str
        The channel's other signals, without its name.
    """

    def __init__(self, dut: Any, name: str, payload: Sequence[str]) -> None:
        self.name = name
        ports = _Ports(dut)
        self._valid, self._ready = ports[f"{name}valid"], ports[f"{name}ready"]
        self._payload = {part: ports[f"{name}{part}"] for part in payload}
        self._held: dict[str, int] | None = None

    def reset(self) -> None:
        """Forget what was offered."""
        self._held = None

    def sample(self) -> tuple[dict[str, int] | None, dict[str, int] | None]:
        """To be called at each rising edge: what is offered anew, and what is taken."""
        if self._valid.value != 1:
            assert self._held is None, f"{self.name}valid was withdrawn"
            assert self._valid.value == 0, f"{self.name}valid is {self._valid.value}"
            return None, None
        payload = {part: int(handle.value) for part, handle in self._payload.items()}
        offered = payload if self._held is None else None
        assert self._held in (None, payload), f"{self.name} changed from {self._held} to {payload} before it was taken"
        taken = payload if self._ready.value == 1 else None
        self._held = None if taken else payload
        return offered, taken


@dataclass(frozen=True)
class Limits:
    """What bursts must keep to."""

    bus_bits: int
    burst: int
    outstanding: int


class _Checker(ABC):
    """Common to reads and writes."""

    def __init__(self, dut: Any, limits: Iterable[int]) -> None:
        self.ports = _Ports(dut)
        self._idle = dut.idle if self.ports.active_high else None    # the accelerator has no such port
        self.limits = Limits(*map(int, limits))
        self.bursts: list[tuple[int, int]] = []     # address and beats of all bursts
        self.outstanding = 0
        self.most = 0
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        while True:
            await RisingEdge(self.ports.clk)
            if not self.ports.resting:
                self._check()
                self.most = max(self.most, self.outstanding)
                if self._idle is not None and self._idle.value == 1:
                    assert self.outstanding == 0, f"idle with {self.outstanding} bursts outstanding"

    @abstractmethod
    def _check(self) -> None:
        """Look at the bus in this cycle."""

    def _announce(self, burst: dict[str, int]) -> None:
        size = self.limits.bus_bits // 8
        address, beats = burst["addr"], burst["len"] + 1
        where = f"burst of {beats} beats at {address:#x}"
        assert beats <= self.limits.burst, f"{where}: more than {self.limits.burst}"
        assert address % size == 0, f"{where}: not aligned"
        assert address % KIB_4 + beats * size <= KIB_4, f"{where}: crosses 4 KiB"
        assert 1 << burst["size"] == size and burst["burst"] == INCR, f"{where}: {burst}"
        assert burst["id"] == burst["prot"] == 0 and burst["cache"] == 3, f"{where}: {burst}"
        self.bursts.append((address, beats))
        self.outstanding += 1
        assert self.outstanding <= self.limits.outstanding, f"{where}: {self.outstanding} outstanding"

    def first_with(self, addresses: Iterable[int]) -> int:
        """Address of the first burst that covers one of the addresses."""
        size, wanted = self.limits.bus_bits // 8, list(addresses)
        return next(start for start, beats in self.bursts
                    if any(start <= address < start + beats * size for address in wanted))


class ReadChecker(_Checker):
    """Checks the read channels of a master in every cycle.

    Parameters
    ----------
    dut : handle
        A block's port `idle` must be low while bursts are outstanding.
    limits : iterable of int
        Width of the data, longest burst, most bursts outstanding.
    """

    def __init__(self, dut: Any, limits: Iterable[int]) -> None:
        self._ar = Channel(dut, "ar", ADDRESS)
        super().__init__(dut, limits)

    def _check(self) -> None:
        ports = self.ports
        offered, _ = self._ar.sample()
        if offered:
            self._announce(offered)
        if ports["rvalid"].value == 1 and ports["rready"].value == 1 and ports["rlast"].value == 1:
            self.outstanding -= 1


class WriteChecker(_Checker):
    """Checks the write channels of a master in every cycle; parameters as `ReadChecker`.

    Attributes
    ----------
    beats : int
        Beats with strobes that the slave took.
    """

    def __init__(self, dut: Any, limits: Iterable[int]) -> None:
        self._aw = Channel(dut, "aw", ADDRESS)
        self._w = Channel(dut, "w", ("data", "strb", "last"))
        self._lengths: deque[int] = deque()     # beats yet to come, of each burst that is announced
        self.beats = 0
        super().__init__(dut, limits)

    def _check(self) -> None:
        ports = self.ports
        offered, _ = self._aw.sample()
        if offered:
            self._announce(offered)
            self._lengths.append(offered["len"] + 1)
        _, beat = self._w.sample()
        if beat:
            assert self._lengths, "a beat of no burst"
            self._lengths[0] -= 1
            assert beat["last"] == (self._lengths[0] == 0), f"wlast is {beat['last']}, {self._lengths[0]} beats to come"
            if beat["last"]:
                self._lengths.popleft()
            assert beat["strb"] in (0, (1 << self.limits.bus_bits // 8) - 1), f"wstrb is {beat['strb']:#x}"
            self.beats += beat["strb"] != 0
        if ports["bvalid"].value == 1 and ports["bready"].value == 1:
            self.outstanding -= 1


async def check_no_paths(dut: Any, inputs: Sequence[str], outputs: Sequence[str], cycles: int) -> None:
    """Check that no AXI output depends on an AXI input of the same cycle, for some cycles.

    In the middle of each, all inputs are turned over for a moment, and no output may change.
    """
    ins, outs = ([dut[f"axi__{name}"] for name in names] for names in (inputs, outputs))
    for _ in range(cycles):
        await FallingEdge(dut.clk)
        before = [handle.value for handle in outs]
        values = [handle.value for handle in ins]
        for handle in ins:
            handle.value = int(handle.value) ^ ((1 << len(handle)) - 1) if handle.value.is_resolvable else 0
        await Timer(1, unit="ns")
        after = [handle.value for handle in outs]
        for handle, value in zip(ins, values, strict=True):
            handle.value = value
        for name, old, new in zip(outputs, before, after, strict=True):
            assert old == new, f"{name} changed from {old} to {new} with the inputs"


class LiteChecker:
    """Checks what an AXI4-Lite slave drives, in every cycle: responses stay until taken, and none comes unasked."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self._channels = {"r": Channel(dut, "r", ("data", "resp")), "b": Channel(dut, "b", ("resp",))}
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        dut = self.dut
        due = dict.fromkeys(("ar", "aw", "w"), 0)   # requests taken, less responses
        while True:
            await RisingEdge(dut.clk)
            if dut.rst.value != 0:
                continue
            for name, requests in (("r", ("ar",)), ("b", ("aw", "w"))):
                offered, taken = self._channels[name].sample()
                for request in requests:
                    assert not offered or due[request] > 0, f"{name}valid before {request}ready"
                    due[request] -= taken is not None
            for request in due:
                due[request] += dut[f"axi__{request}valid"].value == 1 and dut[f"axi__{request}ready"].value == 1
