"""Bench of the register block: cocotbext-axi's AXI4-Lite master, with pauses, against a table of what is where."""

from typing import Any

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster

from .axi import LiteChecker, check_no_paths, generator, pauses
from .streams import reset, start_clock, vectors

__all__ = ["a_start_is_taken_when_ready", "a_wide_register_is_read_whole", "an_error_is_kept_until_the_next_start",
           "interrupts_stay_until_cleared", "labels_are_read_and_written", "outputs_depend_on_registers_only",
           "settings_cannot_change_while_busy", "words_keep_what_is_written", "writes_in_flight_keep_their_order"]

LIMIT_US = 100    # an access that gets no response would wait for ever
OKAY, SLVERR = 0, 2
CONTROL, STATUS, IRQ_ENABLE, IRQ_STATUS, ERROR, ERROR_ADDRESS = 0x40, 0x44, 0x48, 0x4C, 0x50, 0x58
LABEL_ADDRESS, LABEL_DATA, COUNTER = 0x90, 0x94, 0x400
START, SOFT_RESET, CLEAR_COUNTERS = 1, 2, 4
BUSY, DONE, FAILED, READY, LABEL_PENDING = 1, 2, 4, 8, 16
IRQ_DONE, IRQ_ERROR, IRQ_START_IGNORED = 1, 2, 4
INPUTS = ("awvalid", "awaddr", "wvalid", "wdata", "wstrb", "bready", "arvalid", "araddr", "rready")
OUTPUTS = ("awready", "wready", "bvalid", "bresp", "arready", "rvalid", "rdata", "rresp")
IDLE = ("busy", "done", "error", "error_code", "error_descriptor", "error_address", "label", "labels__ready", "counter")


class Host:
    """The master, and the design at rest."""

    def __init__(self, dut: Any, pause: float = 0.0) -> None:
        self.dut = dut
        start_clock(dut)
        for name in IDLE:
            dut[name].value = 0
        dut.ready.value = 1
        self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "axi_"), dut.clk, dut.rst)
        LiteChecker(dut)
        write, read = self.master.write_if, self.master.read_if
        write.log.setLevel("ERROR")
        read.log.setLevel("ERROR")
        if pause:
            for name, channel in (("aw", write.aw_channel), ("w", write.w_channel), ("b", write.b_channel),
                                  ("ar", read.ar_channel), ("r", read.r_channel)):
                channel.set_pause_generator(pauses(name, pause))

    async def write(self, address: int, value: int, length: int = 4) -> int:
        """Write bytes; return the response."""
        return int((await self.master.write(address, value.to_bytes(length, "little"))).resp)

    async def read(self, address: int) -> tuple[int, int]:
        """Read a word; return it and the response."""
        answer = await self.master.read(address, 4)
        return int.from_bytes(answer.data, "little"), int(answer.resp)

    async def get(self, address: int) -> int:
        """Read a word, which must succeed."""
        value, response = await self.read(address)
        assert response == OKAY, f"a read of {address:#x} failed"
        return value

    async def pulse(self, **values: int) -> None:
        """Give inputs for one cycle."""
        for name, value in values.items():
            self.dut[name].value = value
        await RisingEdge(self.dut.clk)
        for name in values:
            self.dut[name].value = 0
        await ClockCycles(self.dut.clk, 2)

    def count(self, name: str) -> list[int]:
        """A list that grows by the cycle number whenever an output is high, from now on."""
        found: list[int] = []

        async def watch() -> None:
            cycle = 0
            while True:
                await RisingEdge(self.dut.clk)
                cycle += 1
                if self.dut[name].value == 1:
                    found.append(cycle)

        cocotb.start_soon(watch())
        return found


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
@cocotb.parametrize(pause=[0.0, 0.6])
async def words_keep_what_is_written(dut: Any, pause: float) -> None:
    """Random accesses, bytes too: settings keep their bits, all else is refused, and ports show the settings."""
    host, data = Host(dut, pause), vectors()
    await reset(dut)
    for write, address, length, value, response, word in data["accesses"].tolist():
        if write:
            got = await host.write(address, value, length)
            assert got == response, f"write of {value:#x} to {address:#x}: response {got}, expected {response}"
            if response == OKAY:
                assert await host.get(address & ~3) == word, f"word {address & ~3:#x} after {value:#x} to {address:#x}"
        else:
            answer = await host.read(address)
            assert answer == (value, response), f"read of {address:#x}: {answer}, expected {(value, response)}"
    words = dict(data["words"].tolist())
    base, data_base, mask = data["pairs"].tolist()
    assert (dut.program_base.value, dut.data_base.value) == (base, data_base)
    assert (dut.program_size.value, dut.data_size.value) == (words[0x70], words[0x74])
    assert (dut.program_count.value, dut.time_step.value) == (words[0x78], words[0x7C])
    assert dut.watchdog.value == words[0x80]
    assert int(dut.policy.value) == words[0x84] & 3 | words[0x84] >> 8 << 2 | mask << 10


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def writes_in_flight_keep_their_order(dut: Any) -> None:
    """Addresses and data that wait for each other in any way make one write each."""
    host = Host(dut, pause=0.5)
    await reset(dut)
    numbers = generator("order")
    for _ in range(20):
        values = [numbers.getrandbits(32) for _ in range(6)]
        addresses = [numbers.choice([0x70, 0x74, 0x80]) for _ in values]
        events = [host.master.init_write(address, value.to_bytes(4, "little"))
                  for address, value in zip(addresses, values, strict=True)]
        for event in events:
            await event.wait()
        for address, value in dict(zip(addresses, values, strict=True)).items():
            assert await host.get(address) == value


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def a_start_is_taken_when_ready(dut: Any) -> None:
    """One cycle of start; ignored and noted while not ready, and beside a soft reset."""
    host = Host(dut)
    starts, resets, clears = (host.count(name) for name in ("start", "soft_reset", "clear_counters"))
    await reset(dut)
    assert await host.write(CONTROL, START) == OKAY
    assert (len(starts), len(resets), len(clears)) == (1, 0, 0)
    assert await host.get(CONTROL) == 0
    dut.ready.value = 0
    dut.busy.value = 1
    assert await host.get(STATUS) == BUSY
    await host.write(CONTROL, START | CLEAR_COUNTERS)
    assert (len(starts), len(resets), len(clears)) == (1, 0, 1), "started while not ready"
    assert await host.get(IRQ_STATUS) == IRQ_START_IGNORED
    await host.write(CONTROL + 1, 0xFF, 1)      # not the byte with the commands
    assert (len(starts), len(resets), len(clears)) == (1, 0, 1)
    dut.ready.value = 1
    await host.write(CONTROL, START | SOFT_RESET)
    assert (len(starts), len(resets), len(clears)) == (1, 1, 1), "started beside a soft reset"


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def interrupts_stay_until_cleared(dut: Any) -> None:
    """Each event sets its bit; the output follows the enabled ones; writing 1 clears, unless it happens again."""
    host = Host(dut)
    await reset(dut)
    await host.pulse(done=1)
    assert await host.get(IRQ_STATUS) == IRQ_DONE and dut.irq.value == 0
    assert await host.get(STATUS) == READY | DONE
    for bit, event in ((IRQ_DONE, "done"), (IRQ_ERROR, "error")):
        await host.write(IRQ_ENABLE, bit)
        await host.pulse(**{event: 1})
        assert dut.irq.value == 1, f"no interrupt for {event}"
        await host.write(IRQ_STATUS, 7 & ~bit)
        assert dut.irq.value == 1, "cleared by the other bits"
        await host.write(IRQ_STATUS, bit)
        assert dut.irq.value == 0 and await host.get(IRQ_STATUS) & bit == 0
    assert await host.get(STATUS) == READY | DONE | FAILED
    dut.done.value = 1      # for as long as the clear may take
    await host.write(IRQ_STATUS, IRQ_DONE)
    dut.done.value = 0
    assert await host.get(IRQ_STATUS) == IRQ_DONE, "an event was lost"
    await host.write(CONTROL, SOFT_RESET)
    assert await host.get(STATUS) == READY
    assert await host.get(IRQ_STATUS) == IRQ_DONE


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def an_error_is_kept_until_the_next_start(dut: Any) -> None:
    """Code, descriptor and address are those of the moment of the error."""
    host = Host(dut)
    address = (1 << int(vectors()["addr_bits"])) - 0x1234
    await reset(dut)
    await host.pulse(error=1, error_code=0xA5, error_descriptor=0x123456, error_address=address)
    await host.pulse(error_code=1, error_descriptor=2, error_address=3)
    await host.write(CONTROL, SOFT_RESET)
    assert await host.get(ERROR) == 0x123456A5
    assert await host.get(ERROR_ADDRESS) | await host.get(ERROR_ADDRESS + 4) << 32 == address
    await host.write(CONTROL, START)
    assert await host.get(ERROR) == 0 and await host.get(ERROR_ADDRESS) == 0 and await host.get(STATUS) == READY


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def settings_cannot_change_while_busy(dut: Any) -> None:
    """What describes the run is refused while it goes on, and written after it; the rest can be written at any time."""
    host, data = Host(dut), vectors()
    await reset(dut)
    locked = set(data["locked"].tolist())
    for address, mask in data["settings"].tolist():
        before = await host.get(address)
        dut.busy.value = 1
        expected = SLVERR if address in locked else OKAY
        assert await host.write(address, ~before & mask) == expected, f"write to {address:#x} while busy"
        assert await host.get(address) == (before if expected else ~before & mask)
        dut.busy.value = 0
        assert await host.write(address, ~before & mask) == OKAY
        assert await host.get(address) == ~before & mask


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def labels_are_read_and_written(dut: Any) -> None:
    """A label is written where LABEL_ADDRESS was; the next one waits for the table to take it."""
    host = Host(dut)
    index_bits, slot_bits = vectors()["label_bits"].tolist()
    numbers = generator("labels")

    async def table() -> None:
        while True:
            await RisingEdge(dut.clk)
            dut.label.value = (int(dut.label_index.value) * 5 + int(dut.label_slot.value)) % 128

    cocotb.start_soon(table())
    await reset(dut)
    for _ in range(20):
        index, slot, label = (numbers.getrandbits(bits) for bits in (index_bits, slot_bits, 7))
        assert await host.write(LABEL_ADDRESS, index | slot << 16) == OKAY
        assert await host.get(LABEL_DATA) == (index * 5 + slot) % 128
        assert await host.write(LABEL_DATA, label) == OKAY
        assert await host.get(STATUS) == READY | LABEL_PENDING
        assert await host.write(LABEL_DATA, ~label & 127) == SLVERR, "a pending label is overwritten"
        await host.write(LABEL_ADDRESS, 0)
        assert dut.labels__valid.value == 1
        assert dut.labels__payload.value == label | index << 7 | slot << 7 + index_bits
        await host.pulse(labels__ready=1)
        assert dut.labels__valid.value == 0 and await host.get(STATUS) == READY


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def a_wide_register_is_read_whole(dut: Any) -> None:
    """The low word of a counter brings its high word with it, however the counter goes on."""
    host = Host(dut, pause=0.3)
    counters = vectors()["counters"].tolist()

    async def memory() -> None:
        while True:
            await RisingEdge(dut.clk)
            index = int(dut.counter_index.value)
            dut.counter.value = counters[index]
            counters[index] = counters[index] + (1 << 31) + 1 & (1 << 64) - 1

    cocotb.start_soon(memory())
    await reset(dut)
    numbers = generator("counters")
    for index in [*range(32), *(numbers.randrange(32) for _ in range(20))]:
        before = counters[index]
        low = await host.get(COUNTER + 8 * index)
        after = counters[index]
        await host.get(numbers.choice([STATUS, 0x60, 0x64, 0x88]))
        value = low | await host.get(COUNTER + 8 * index + 4) << 32
        reached = value - before & (1 << 64) - 1
        assert reached <= after - before & (1 << 64) - 1, f"counter {index} is {value:#x}, was {before:#x}"
        assert reached % ((1 << 31) + 1) == 0, f"counter {index} was never {value:#x}"


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def outputs_depend_on_registers_only(dut: Any) -> None:
    """Whatever the master does in a cycle, the outputs of that cycle are what they are."""
    host, data = Host(dut, pause=0.2), vectors()

    async def traffic() -> None:
        for write, address, length, value, *_ in data["accesses"].tolist():
            await (host.write(address, value, length) if write else host.read(address))

    await reset(dut)
    cocotb.start_soon(traffic())
    await check_no_paths(dut, INPUTS, OUTPUTS, 500)
