"""Bench of the write DMA: against cocotbext-axi's slave, with pauses, errors and flushes."""

from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge

from .axi import HostMemory, WriteChecker, WriteSlave, check_no_paths, generator
from .streams import StreamBench, reset, start_clock, vectors
from .words import from_words

__all__ = ["a_failed_burst_is_told", "beats_land", "data_do_not_wait_for_addresses", "flush_writes_nothing_more",
           "one_beat_per_cycle", "outputs_depend_on_registers_only"]

INPUTS = ("awready", "wready", "bvalid", "bresp", "bid")
OUTPUTS = ("awvalid", "awaddr", "awlen", "awsize", "awburst", "awid", "wvalid", "wdata", "wstrb", "wlast", "bready")
RATE = 0.98
LIMIT_US = 1000
MODEL_LATENCY = 10


def _memory(data: dict[str, Any], faults: bool = False) -> HostMemory:
    codes = dict(zip(*data["faults"].T.tolist(), strict=True)) if faults else None
    return HostMemory(int(data["base"]), data["content"].tobytes(), faults=codes)


async def _until_idle(dut: Any, limit: int) -> int:
    for cycle in range(limit):
        await RisingEdge(dut.clk)
        if dut.idle.value == 1:
            return cycle
    raise AssertionError(f"not idle after {limit} cycles")


def _check(memory: HostMemory, expected: np.ndarray) -> None:
    assert not memory.strays, f"{memory.strays[0]:#x} was written"
    wrong = np.flatnonzero(np.frombuffer(memory.content, np.uint8) != expected.reshape(-1))
    assert not len(wrong), f"{len(wrong)} bytes of the region are wrong, from {memory.base + int(wrong[0]):#x} on"


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
@cocotb.parametrize(stall=[0.0, 0.5], pause=[0.0, 0.5])
async def beats_land(dut: Any, stall: float, pause: float) -> None:
    """Whoever pauses, every beat is written where its command says, and nothing else is."""
    data = vectors()
    dut.flush.value = 0
    bench = StreamBench(dut, stall=stall)
    memory = _memory(data)
    WriteSlave(dut, memory, pause)
    checker = WriteChecker(dut, data["limits"])
    bench.send("commands", from_words(data["commands"]))
    bench.send("beats", from_words(data["data"]))
    await bench.reset()
    await bench.finish(limit=20 * len(data["data"]))
    await _until_idle(dut, 3000)
    assert dut.error.value == 0
    assert checker.beats == len(data["data"])
    assert stall or checker.most == data["limits"][2], f"only {checker.most} bursts outstanding"
    _check(memory, data["after"])


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def one_beat_per_cycle(dut: Any) -> None:
    """A slave that takes a beat per cycle gets one, over all commands."""
    data = vectors()
    _, burst, outstanding = data["limits"].tolist()
    dut.flush.value = 0
    bench = StreamBench(dut)
    WriteSlave(dut, _memory(data))
    WriteChecker(dut, data["limits"])
    commands = from_words(data["stream"])
    beats = from_words(data["data"])
    beats = (beats * (64 * len(commands) // len(beats) + 1))[:64 * len(commands)]
    bench.send("commands", commands)
    bench.send("beats", beats)
    await bench.reset()
    while dut.axi__wvalid.value == 0:
        await RisingEdge(dut.clk)
    cycles = await _until_idle(dut, 100 * len(beats))
    rate = len(beats) / cycles
    dut._log.info("%.3f beats per cycle", rate)
    assert rate >= RATE * min(1, outstanding * burst / MODEL_LATENCY), f"{rate:.3f} beats per cycle"


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def a_failed_burst_is_told(dut: Any) -> None:
    """The first burst with an error is named, and writing goes on; the response comes last."""
    data = vectors()
    dut.flush.value = 0
    bench = StreamBench(dut, stall=0.2)
    memory = _memory(data, faults=True)
    WriteSlave(dut, memory, pause=0.2)
    checker = WriteChecker(dut, data["limits"])
    bench.send("commands", from_words(data["commands"]))
    bench.send("beats", from_words(data["data"]))
    await bench.reset()
    while dut.error.value == 0:
        assert dut.axi__bvalid.value == 0 or dut.axi__bready.value == 1
        await RisingEdge(dut.clk)
    failed = checker.first_with(int(address) for address, _ in data["faults"])
    assert dut.error_address.value == failed, f"error_address is {int(dut.error_address.value):#x}, not {failed:#x}"
    await bench.finish(limit=20 * len(data["data"]))
    await _until_idle(dut, 3000)
    assert dut.error.value == 1 and dut.error_address.value == failed, "the first failed burst is forgotten"
    dut.flush.value = 1
    await ClockCycles(dut.clk, 2)
    assert dut.error.value == 0, "error outlives the flush"


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
@cocotb.parametrize(pause=[0.0, 0.5])
async def flush_writes_nothing_more(dut: Any, pause: float) -> None:
    """At any moment: the beats taken before are written, announced bursts end without writing, and it goes on anew."""
    data = vectors()
    numbers = generator("flush")
    commands, places = from_words(data["rounds"]), data["round_places"]
    start_clock(dut)
    memory = _memory(data)
    expected = data["content"].reshape(-1, int(data["limits"][0]) // 8).copy()
    WriteSlave(dut, memory, pause)
    WriteChecker(dut, data["limits"])
    for name in ("flush", "commands__valid", "commands__payload", "beats__valid", "beats__payload"):
        dut[name].value = 0
    await reset(dut)
    taken: list[int] = []

    async def send(payloads: list[int]) -> None:
        for payload in payloads:
            dut.commands__valid.value = 1
            dut.commands__payload.value = payload
            await RisingEdge(dut.clk)
            while dut.commands__ready.value == 0:
                await RisingEdge(dut.clk)
        dut.commands__valid.value = 0

    async def give() -> None:
        while True:
            await RisingEdge(dut.clk)
            if dut.beats__valid.value == 1 and dut.beats__ready.value == 1:
                assert dut.flush.value == 0, "a beat is taken during the flush"
                taken.append(int(dut.beats__payload.value))
            if dut.beats__valid.value == 0 or dut.beats__ready.value == 1 or dut.flush.value == 1:
                dut.beats__valid.value = int(numbers.random() < 0.7 and dut.flush.value == 0)
                dut.beats__payload.value = numbers.getrandbits(8 * expected.shape[1])

    cocotb.start_soon(give())
    first_command = first_place = 0
    for ours, theirs in data["ends"].tolist():
        taken.clear()
        sender = cocotb.start_soon(send(commands[first_command:first_command + ours]))
        await ClockCycles(dut.clk, numbers.choice([1, 2, 3, numbers.randrange(1, 40), numbers.randrange(1, 400)]))
        dut.flush.value = 1
        await RisingEdge(dut.clk)
        sender.cancel()
        dut.commands__valid.value = 0
        await _until_idle(dut, 5000)
        dut.flush.value = 0
        for place, beat in zip(places[first_place:first_place + theirs], taken, strict=False):
            expected[place] = np.frombuffer(beat.to_bytes(expected.shape[1], "little"), np.uint8)
        _check(memory, expected)
        first_command, first_place = first_command + ours, first_place + theirs


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def data_do_not_wait_for_addresses(dut: Any) -> None:
    """A slave may want to see data before it takes an address."""
    data = vectors()
    dut.flush.value = 0
    bench = StreamBench(dut)
    slave = WriteSlave(dut, _memory(data))
    slave.aw_channel.pause = True
    bench.send("commands", from_words(data["commands"]))
    bench.send("beats", from_words(data["data"]))
    await bench.reset()
    for _ in range(40):
        await RisingEdge(dut.clk)
        if dut.axi__wvalid.value == 1:
            break
    else:
        raise AssertionError("wvalid waits for awready")
    slave.aw_channel.pause = False
    await bench.finish(limit=20 * len(data["data"]))


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def outputs_depend_on_registers_only(dut: Any) -> None:
    """Whatever the slave does in a cycle, the outputs of that cycle are what they are."""
    data = vectors()
    dut.flush.value = 0
    bench = StreamBench(dut, stall=0.2)
    WriteSlave(dut, _memory(data), pause=0.2)
    bench.send("commands", from_words(data["commands"]))
    bench.send("beats", from_words(data["data"]))
    await bench.reset()
    await check_no_paths(dut, INPUTS, OUTPUTS, 500)
