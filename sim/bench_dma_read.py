"""Bench of the read DMA: against cocotbext-axi's slave, with pauses, latency, errors and flushes."""

from typing import Any

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge

from .axi import HostMemory, ReadChecker, ReadSlave, check_no_paths, generator
from .streams import StreamBench, reset, start_clock, vectors
from .words import from_words

__all__ = ["a_failed_burst_is_told", "beats_in_order", "flush_forgets_everything", "one_beat_per_cycle",
           "outputs_depend_on_registers_only", "the_longest_command_goes_on"]

INPUTS = ("arready", "rvalid", "rdata", "rresp", "rlast", "rid")
OUTPUTS = ("arvalid", "araddr", "arlen", "arsize", "arburst", "arid", "rready")
RATE = 0.98
LIMIT_US = 1000
MODEL_LATENCY = 10


def _memory(data: dict[str, Any], extent: bool = False, faults: bool = False) -> HostMemory:
    codes = dict(zip(*data["faults"].T.tolist(), strict=True)) if faults else None
    return HostMemory(int(data["base"]), data["content"].tobytes(), int(data["extent"]) if extent else None, codes)


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
@cocotb.parametrize(stall=[0.0, 0.5], pause=[0.0, 0.5])
async def beats_in_order(dut: Any, stall: float, pause: float) -> None:
    """Whoever pauses, every command becomes its beats, the last of them marked."""
    data = vectors()
    dut.flush.value = 0
    bench = StreamBench(dut, stall=stall)
    memory = _memory(data)
    ReadSlave(dut, memory, pause)
    checker = ReadChecker(dut, data["limits"])
    bench.send("commands", from_words(data["commands"]))
    bench.expect("beats", from_words(data["beats"]))
    await bench.reset()
    await bench.finish(limit=20 * len(data["beats"]))
    assert dut.idle.value == 1 and dut.error.value == 0
    assert not memory.strays, f"{memory.strays[0]:#x} was read"
    assert stall or checker.most == data["limits"][2], f"only {checker.most} bursts outstanding"


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
@cocotb.parametrize(latency=[0, 30])
async def one_beat_per_cycle(dut: Any, latency: int) -> None:
    """A slave that gives a beat per cycle is asked early enough to do so over all commands.

    Unless all that may be outstanding is less than the latency, to which the model adds some cycles.
    """
    data = vectors()
    _, burst, outstanding = data["limits"].tolist()
    least = RATE * min(1, outstanding * burst / (latency + MODEL_LATENCY))
    dut.flush.value = 0
    bench = StreamBench(dut)
    ReadSlave(dut, _memory(data), latency=latency)
    ReadChecker(dut, data["limits"])
    bench.send("commands", from_words(data["stream"]))
    bench.expect("beats", from_words(data["stream_beats"]))
    await bench.reset()
    while dut.beats__valid.value == 0:
        await RisingEdge(dut.clk)
    cycles = 0
    while dut.idle.value == 0:
        await RisingEdge(dut.clk)
        cycles += 1
    await bench.finish(limit=100)
    rate = len(data["stream_beats"]) / cycles
    dut._log.info("latency %d: %.3f beats per cycle", latency, rate)
    assert rate >= least, f"{rate:.3f} beats per cycle at a latency of {latency}"


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def a_failed_burst_is_told(dut: Any) -> None:
    """Failed beats are marked, the first burst with one is named, and reading goes on."""
    data = vectors()
    dut.flush.value = 0
    bench = StreamBench(dut, stall=0.2)
    ReadSlave(dut, _memory(data, faults=True), pause=0.2)
    checker = ReadChecker(dut, data["limits"])
    bench.send("commands", from_words(data["commands"]))
    bench.expect("beats", from_words(data["faulty_beats"]))
    width = int(data["limits"][0])
    await bench.reset()
    while not (dut.beats__valid.value == 1 and int(dut.beats__payload.value) >> width + 1):
        assert dut.error.value == 0 or dut.beats__valid.value == 1, "error without a beat"
        await RisingEdge(dut.clk)
    assert dut.error.value == 1, "a failed beat, but no error"
    failed = checker.first_with(int(address) for address, _ in data["faults"])
    assert dut.error_address.value == failed, f"error_address is {int(dut.error_address.value):#x}, not {failed:#x}"
    await bench.finish(limit=20 * len(data["beats"]))
    assert dut.error.value == 1 and dut.error_address.value == failed, "the first failed burst is forgotten"
    dut.flush.value = 1
    await ClockCycles(dut.clk, 2)
    assert dut.error.value == 0, "error outlives the flush"


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
@cocotb.parametrize(pause=[0.0, 0.5])
async def flush_forgets_everything(dut: Any, pause: float) -> None:
    """At any moment: what was under way is discarded, and the next commands are served as if nothing had been."""
    data = vectors()
    numbers = generator("flush")
    commands, expected = from_words(data["rounds"]), from_words(data["round_beats"])
    start_clock(dut)
    memory = _memory(data, extent=True)
    ReadSlave(dut, memory, pause, latency=int(20 * pause))
    ReadChecker(dut, data["limits"])
    for name in ("flush", "commands__valid", "commands__payload", "beats__ready"):
        dut[name].value = 0
    await reset(dut)
    beats: list[int] = []

    async def send(payloads: list[int]) -> None:
        for payload in payloads:
            dut.commands__valid.value = 1
            dut.commands__payload.value = payload
            await RisingEdge(dut.clk)
            while dut.commands__ready.value == 0:
                await RisingEdge(dut.clk)
        dut.commands__valid.value = 0

    async def take() -> None:
        while True:
            await RisingEdge(dut.clk)
            if dut.beats__valid.value == 1 and dut.beats__ready.value == 1:
                assert dut.flush.value == 0, "a beat during the flush"
                beats.append(int(dut.beats__payload.value))
            dut.beats__ready.value = int(numbers.random() < 0.7)

    cocotb.start_soon(take())
    first_command = first_beat = 0
    for ours, theirs in data["ends"].tolist():
        beats.clear()
        sender = cocotb.start_soon(send(commands[first_command:first_command + ours]))
        await ClockCycles(dut.clk, numbers.choice([1, 2, 3, numbers.randrange(1, 40), numbers.randrange(1, 400)]))
        dut.flush.value = 1
        await RisingEdge(dut.clk)
        sender.cancel()
        dut.commands__valid.value = 0
        for _ in range(5000):
            await RisingEdge(dut.clk)
            if dut.idle.value == 1:
                break
        else:
            raise AssertionError("a flush without end")
        dut.flush.value = 0
        assert beats == expected[first_beat:first_beat + len(beats)], "other beats than those of the commands"
        first_command, first_beat = first_command + ours, first_beat + theirs
    assert not memory.strays, f"{memory.strays[0]:#x} was read"


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def the_longest_command_goes_on(dut: Any) -> None:
    """A command of 2**24 beats is not over after the first few hundred."""
    data = vectors()
    dut.flush.value = 0
    bench = StreamBench(dut)
    ReadSlave(dut, _memory(data, extent=True))
    bench.send("commands", from_words(data["longest"]))
    dut.beats__ready.value = 1
    await bench.reset()
    received = 0
    for _ in range(300 * 8):
        await RisingEdge(dut.clk)
        if dut.beats__valid.value == 1:
            assert int(dut.beats__payload.value) >> int(data["limits"][0]) == 0, f"last or error at beat {received}"
            received += 1
    assert received >= 300, f"only {received} beats"


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def outputs_depend_on_registers_only(dut: Any) -> None:
    """Whatever the slave does in a cycle, the outputs of that cycle are what they are."""
    data = vectors()
    dut.flush.value = 0
    bench = StreamBench(dut, stall=0.2)
    ReadSlave(dut, _memory(data), pause=0.2)
    bench.send("commands", from_words(data["commands"]))
    bench.expect("beats", from_words(data["beats"]))
    await bench.reset()
    await check_no_paths(dut, INPUTS, OUTPUTS, 500)
